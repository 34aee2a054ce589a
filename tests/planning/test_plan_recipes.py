"""Plans of recipes, and what they add up to."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from butwait.engines.settings import ModelSettings
from butwait.planning.counting import count_stages
from butwait.planning.devices import DEVICES
from butwait.planning.json_form import as_json, verdict
from butwait.planning.known import UNKNOWN_SIZE, facts, find_shape, set_facts
from butwait.planning.memory import Held, lora_weights, training_parts
from butwait.planning.plan import plan_recipe
from butwait.planning.shapes import shape_of
from butwait.planning.work import Work
from butwait.problems.presets import PRESETS
from butwait.problems.source import kind_of
from butwait.recipe.load import checked_recipe, load_recipe
from butwait.recipe.shipped import shipped_recipes
from butwait.reward_models.load import decoders
from butwait.stages.kinds import STAGES
from butwait.training.settings import LoraSettings, SftSettings

LLAMA = {
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 10,
    "tie_word_embeddings": True,
}

SPLITS = (("a", "train"), ("b", "validation"))


def recipe(**more: Any) -> Any:
    content = {
        "name": "mine",
        "model": {"name": "tiny"},
        "prompt": {"template": "{question}"},
        "problems": {"a": {"source": "arithmetic", "limit": 40}},
        "stages": {
            "s": {
                "kind": "search",
                "problems": "a",
                "concurrency": 4,
                "sampler": {
                    "kind": "independent",
                    "samples": 8,
                    "step": {"delimiters": [], "max_tokens": 64},
                },
            }
        },
    }
    return checked_recipe(content | more, STAGES, "test")


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_every_shipped_recipe_is_planned(name: str) -> None:
    planned = plan_recipe(load_recipe(name, STAGES))
    found = json.loads(json.dumps(as_json(planned), allow_nan=False))
    assert not planned.missing
    for stage in found["stages"].values():
        assert stage["refused"] is None
        assert stage["disk_gb"] >= 0
        if stage["kind"] in ("search", "evaluate", "prm", "grpo", "grpo_direct"):
            assert stage["kv_bytes_per_token"] > 0
            assert stage["gpu_gb"] > 0
            assert stage["tokens_by"]["policy"] > 0
            assert stage["flops"] > 0
            assert any(stage["hours_on"].values())
        if stage["kind"] in ("sft", "prm", "grpo", "grpo_direct"):
            assert stage["tokens_by"]["training"] > 0
            assert stage["disk_gb"] > 0


def test_tokens_are_problems_times_paths_times_lengths() -> None:
    work = count_stages(recipe(), 1024)["s"]
    assert work.drawn == 40 * 8 * 32
    assert work.drawing is not None
    assert (work.drawing.paths, work.drawing.prompts) == (32, 4)
    assert count_stages(recipe(), 1024, {"s": 0.25})["s"].drawn == 40 * 8 * 16


def test_log_probabilities_of_attempts_take_room_where_they_are_kept() -> None:
    stage = {"kind": "evaluate", "problems": ["a"], "methods": {"m": {"k": 8}}}
    with_, without = (
        plan_recipe(recipe(stages={"s": stage | {"token_logprobs": kept}})).stages["s"].disk
        for kept in (True, False)
    )
    assert with_ - without == 3 * without / 8 > 0


@pytest.mark.parametrize(
    ("stage", "looked"),
    [
        ({"kind": "sft", "from": ["data"]}, {"validation": {"patience": 2}}),
        ({"kind": "grpo", "problems": "a"}, {"selection": {"problems": "b"}}),
    ],
)
def test_the_models_of_the_best_looks_take_room(
    stage: dict[str, Any], looked: dict[str, Any]
) -> None:
    sets = {name: {"source": "arithmetic", "split": split, "limit": 8} for name, split in SPLITS}
    data = {
        "hunt": {"kind": "search", "problems": "a", "sampler": {"kind": "independent"}},
        "data": {"kind": "verified", "from": ["hunt"]},
    }

    def disk(**changes: Any) -> float:
        planned = plan_recipe(recipe(problems=sets, stages=data | {"s": stage | changes}))
        return planned.stages["s"].disk

    # Two checkpoints of weights and two moments; the best look at each of them.
    plain = disk(save_steps=1) - disk(save_steps=None)
    assert disk(**looked, save_steps=1) - disk(**looked, save_steps=None) == plain * 8 / 6 > 0


@pytest.mark.parametrize(
    ("engine", "flight"),
    [
        ({"kind": "transformers", "slots": 16}, 8),  # four paths a row
        ({"kind": "transformers", "slots": 64}, 32),
        ({"kind": "transformers", "slots": 4096}, 40),  # there are no more problems
        ({"kind": "vllm", "max_rows": 8}, 4),
        ({"kind": "openai", "base_url": ["http://a/v1", "http://b/v1"], "max_rows": 8}, 8),
    ],
)
def test_rows_that_are_kept_full_bound_the_problems_in_flight(
    engine: dict[str, Any], flight: int
) -> None:
    stage = recipe().stages["s"].model_copy(update={"concurrency": "auto"})
    asked = recipe(engine=engine).model_copy(update={"stages": {"s": stage}})
    drawing = count_stages(asked, 1024)["s"].drawing
    assert drawing is not None
    assert (drawing.prompts, drawing.paths) == (flight, 8 * flight)


def test_tokens_that_power_reads_again_are_counted() -> None:
    """At another temperature than the model's own, each is scored by the model as it is."""
    step = {"delimiters": [], "max_tokens": 64}

    def work(**settings: Any) -> Work:
        sampler = {"kind": "power", "particles": 4, "step": step, **settings}
        stage = {"kind": "search", "problems": "a", "sampler": sampler}
        return count_stages(recipe(stages={"s": stage}), 1024)["s"]

    tempered, plain = work(), work(proposal="policy")
    assert tempered.drawn == plain.drawn == 40 * 4 * 32
    assert tempered.read - plain.read == 40 * 4 * 32
    assert work(alpha=1.0).read == plain.read
    assert tempered.drawing is not None
    assert tempered.drawing.shared == 0.5  # a population's paths go on from each other
    assert tempered.scored == 0


@pytest.mark.slow
def test_facts_ship_for_all_that_shipped_recipes_and_presets_name() -> None:
    """Else their plans would guess sizes, or ask for a network."""
    models, sources = facts()["models"].keys(), facts()["sets"].keys()
    for name in shipped_recipes():
        asked = load_recipe(name, STAGES)
        judges = [getattr(stage, "reward_model", None) for stage in asked.stages.values()]
        run = [each for judge in judges if judge for each in decoders(judge, asked.model)]
        named = {asked.model.name, *(each.model.name for each in run if each.model)}
        assert named - {"tiny"} <= models, name
        assert {settings.source for settings in asked.problems.values()} <= sources, name
    generated = {name for name in ("arithmetic", "sums") if kind_of(name).generated}
    assert {*PRESETS, *generated} <= sources
    assert len(generated) == 2


def test_the_context_bounds_a_path() -> None:
    work = count_stages(recipe(), 50)["s"]
    assert work.drawing is not None
    assert work.drawing.longest == 50


def test_prompts_are_held_once() -> None:
    held = Held(shape_of(LLAMA, "l"), "bfloat16", 2.0)
    token = 2 * 2 * 2 * 2 * 2  # keys and values, layers, heads, size, bytes
    assert held.kv(prompts=3, prompt=10, rows=12, path=5) == (3 * 10 + 12 * 5) * token


def test_parts_of_a_training() -> None:
    shape = shape_of(LLAMA, "l")
    work = Work(trained=100.0, longest_example=7, steps=3)
    plain = training_parts(shape, work, SftSettings(), batch=2)
    assert plain["weights"] == plain["gradients"] == 4 * shape.parameters
    assert plain["optimizer"] == 8 * shape.parameters
    assert plain["logits"] == 2 * 7 * 10 * 12
    small = SftSettings(precision="bfloat16", optimizer="adamw_8bit", gradient_checkpointing=True)
    eight = training_parts(shape, work, small, batch=2)
    assert eight["weights"] == 2 * shape.parameters
    assert eight["optimizer"] == pytest.approx(2.06 * shape.parameters)
    assert eight["activations"] < plain["activations"] / 2
    spread = training_parts(shape, work, SftSettings(), batch=2, devices=4, split="zero2")
    assert spread["weights"] == plain["weights"]
    assert spread["optimizer"] == plain["optimizer"] / 4
    adapted = SftSettings(precision="bfloat16", lora=LoraSettings(rank=2, four_bit=True))
    lora = training_parts(shape, work, adapted, batch=2)
    adapters = 2 * 2 * (2 * 16 + 2 * (8 + 4) + 3 * (8 + 16))
    assert lora_weights(shape, 2) == adapters
    assert lora["gradients"] == 4 * adapters
    assert lora["weights"] < 2 * shape.parameters + 4 * adapters


def test_packed_weights_are_counted_where_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from butwait.planning import plan

    def planned(here: bool, total: float, **model: Any) -> tuple[float, Any]:
        """Bytes of the copy in the figure for this machine, and the plan of the laptop."""
        monkeypatch.setattr(plan, "packs_here", lambda: here)
        monkeypatch.setattr(plan, "virtual_memory", lambda: SimpleNamespace(total=total))
        given = {"name": "tiny", "dtype": "bfloat16"} | model
        (stage,) = plan_recipe(recipe(model=given)).stages.values()
        figure = as_json(plan_recipe(recipe(model=given)))["stages"]["s"]["cpu_gb"]
        assert figure * 1e9 == pytest.approx(stage.bytes_on(True) + stage.packed)
        return stage.packed, stage.fits["laptop CPU"]

    shape = find_shape(ModelSettings(name="tiny"))
    assert not isinstance(shape, str)
    linear = shape.parameters - (0 if shape.tied else shape.embedding)
    copy, laptop = planned(True, 1e12)
    assert copy == pytest.approx(2 * linear, rel=0.02)  # norms aside
    assert planned(False, 1e12) == (0.0, laptop)
    assert planned(True, 3.9 * copy) == (0.0, laptop)  # more than a quarter
    assert planned(True, 1e12, dtype="float32")[0] == 0.0


def test_four_devices_do_not_divide_ten_heads(command: Callable[..., tuple[int, str, str]]) -> None:
    engine = ["--set", "engine.tensor_parallel=4"]
    code, out, err = command("plan", "phi4_base", *engine)
    assert code == 2
    assert out.startswith("phi4 cannot run as it is written")
    told = "4 GPUs cannot share its 10 key and value heads evenly: set 1, 2, 5 or 10"
    assert f"engine.tensor_parallel: microsoft/phi-4: {told}" in err
    assert command("plan", "phi4_base", "--set", "engine.tensor_parallel=5")[0] == 0


def test_a_model_that_is_not_at_hand_is_told_and_the_rest_planned() -> None:
    planned = plan_recipe(recipe(model={"name": "nobody/nothing"}))
    assert "not at hand" in planned.missing[0]
    assert planned.stages["s"].work.drawn == 40 * 8 * 0.5 * 64
    assert as_json(planned)["stages"]["s"]["gpu_gb"] is None
    assert "cannot be planned whole" in verdict(planned)


def test_seeds_that_take_the_same_are_one_row(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    code, said, _ = command("plan", "small/limo_380", "--json", str(out))
    assert code == 0
    first = [line.split("  ")[1].strip() for line in said.splitlines() if line.startswith("  ")]
    assert first.count("sft_own_380 ×3") == 2  # a row for memory, one for work
    assert not [name for name in first if name.startswith("sft_own_380-")]
    assert {f"sft_own_380-{seed}" for seed in (1, 2, 3)} <= {*json.loads(out.read_text())["stages"]}


def test_the_command_writes_json_and_keeps_to_80_columns(
    command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "plan.json"
    code, said, _ = command("plan", "phi4_pf_limo", "--json", str(out))
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert said.startswith("phi4 runs on one")
    found = json.loads(out.read_text())
    assert found["stages"]["search"]["kv_bytes_per_token"] == 204_800
    assert {"kv_bytes_per_token", "gpu_gb", "tokens", "hours", "disk_gb"} <= {
        *found["stages"]["search"]
    }


@pytest.mark.slow
def test_a_plan_needs_no_torch_and_no_network() -> None:
    asked = (
        "import socket, sys\n"
        "def refuse(*args, **more): raise AssertionError('network')\n"
        "socket.socket.connect = refuse\n"
        "sys.argv = ['butwait', 'plan', 'seed_table']\n"
        "from butwait.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules), 'heavy'\n"
    )
    subprocess.run([sys.executable, "-c", asked], check=True, capture_output=True, timeout=60)


def planned(**more: Any) -> tuple[Any, str]:
    """The plan of stage ``s``, and the verdict."""
    plan = plan_recipe(recipe(**more))
    return plan.stages["s"], verdict(plan)


def judged(judge: dict[str, Any]) -> dict[str, Any]:
    step = {"delimiters": ["\n"], "max_tokens": 64}
    sampler = {"kind": "particle_filter", "particles": 8, "step": step}
    common = {"kind": "search", "problems": "a", "concurrency": 4}
    return {"s": common | {"sampler": sampler, "reward_model": judge}}


POOLING = {"kind": "pooling", "base_url": "http://a"}
LOCAL = {"kind": "qwen_math_prm"}


@pytest.mark.parametrize(
    ("served", "loaded"),
    [
        (POOLING, {"kind": "confidence"}),
        ({"kind": "ensemble", "members": [POOLING, LOCAL]}, LOCAL),
    ],
)
def test_a_reward_model_at_a_server_takes_no_memory_and_no_hours_here(
    served: dict[str, Any], loaded: dict[str, Any]
) -> None:
    there, told = planned(stages=judged(served))
    here, plain = planned(stages=judged(loaded))
    weights = "reward model weights"
    assert there.parts.get(weights) == here.parts.get(weights)
    assert there.fits == here.fits
    assert there.flops > here.flops + 1e13  # of 7 billion weights
    assert told == f"{plain}; not counted is what servers run: the reward model"


CERTAINTY = {"kind": "confidence", "measure": "self_certainty", "centre": 14.0}
LOGPROB = {"kind": "confidence"}


@pytest.mark.parametrize("inside", [False, True])
def test_a_copy_of_the_policy_that_judges_is_counted(inside: bool) -> None:
    """In its own dtype; in an ensemble too, of whatever depth."""
    given: dict[str, Any] = CERTAINTY
    if inside:
        given = {"kind": "ensemble", "members": [LOGPROB, LOGPROB]}
        given = {"kind": "ensemble", "members": [given, CERTAINTY]}
    model = {"name": "Qwen/Qwen2.5-7B-Instruct", "dtype": "bfloat16"}
    stage, told = planned(model=model, stages=judged(given))
    without, _ = planned(model=model, stages=judged(LOGPROB))
    assert stage.parts["policy weights"] == pytest.approx(2 * 7.62e9, rel=0.01)
    assert stage.parts["reward model weights"] == pytest.approx(4 * 7.62e9, rel=0.01)
    assert stage.parts["reward model KV"] == 2 * stage.parts["policy KV"]
    scored = stage.flops - without.flops
    assert scored == pytest.approx(2 * 7.07e9 * stage.work.scored, rel=0.01)
    assert (without.fits["A100-40"].verdict, stage.fits["A100-40"].verdict) == ("fits", "no")
    assert "cannot be planned" not in told


@pytest.mark.parametrize("inside", [False, True])
def test_what_is_assumed_of_a_judge_is_said(inside: bool) -> None:
    own = {"kind": "custom", "factory": "mine:Judge"}
    given = {"kind": "ensemble", "members": [own, LOGPROB]} if inside else own
    told = "the reward model mine:Judge runs no model (butwait cannot know)"
    assert told in plan_recipe(recipe(stages=judged(given))).assumed
    assert not any("reward" in each for each in plan_recipe(recipe(stages=judged(LOGPROB))).assumed)


def test_a_policy_at_servers_fits_every_device() -> None:
    """With a model that no laptop holds; nobody knows how long the servers take."""
    model = {"name": "microsoft/phi-4", "dtype": "bfloat16"}
    stage, told = planned(engine={"kind": "openai", "base_url": "http://a/v1"}, model=model)
    assert {fit.verdict for fit in stage.fits.values()} == {"fits"}
    assert {fit.hours for fit in stage.fits.values()} == {None}
    assert told == "mine fits on one T4; not counted is what servers run: the model"
    stage, told = planned(engine={"kind": "vllm"}, model=model)
    assert stage.fits["RTX 4090"].verdict == "no"
    assert "servers" not in told


@pytest.mark.parametrize(
    ("workers", "shared"),
    [
        ({"kind": "processes", "count": 16}, True),
        ({"kind": "ray", "count": 16}, True),
        ({"kind": "ray", "count": 16, "address": "head:6379"}, False),
    ],
)
def test_processes_of_one_machine_share_its_cpu(workers: dict[str, Any], shared: bool) -> None:
    alone, _ = planned()
    stage, _ = planned(workers=workers)
    one, many = alone.fits["laptop CPU"], stage.fits["laptop CPU"]
    assert stage.bytes_on(True) == pytest.approx(alone.bytes_on(True) * (16 if shared else 1))
    assert many.hours == pytest.approx(one.hours / (1 if shared else 16))
    assert (stage.devices, stage.cpus) == (16, 1 if shared else 16)
    assert stage.bytes_on(False) == alone.bytes_on(False)  # a card for each
    assert stage.fits["H100"].hours == pytest.approx(alone.fits["H100"].hours / 16)
    crowd = {**workers, "count": 1000}
    assert planned(workers=crowd)[0].fits["laptop CPU"].verdict == ("no" if shared else "fits")


def test_the_verdict_counts_machines_where_they_are_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    laptop = [device for device in DEVICES if device.is_cpu]
    for module in ("json_form", "plan"):
        monkeypatch.setattr(f"butwait.planning.{module}.DEVICES", laptop)
    _, told = planned(workers={"kind": "processes", "count": 16})
    assert told.startswith("mine fits on one laptop CPU (about ")
    _, told = planned(workers={"kind": "ray", "count": 16, "address": "head:6379"})
    assert told.startswith("mine fits on 16 laptop CPU (about ")


@pytest.mark.parametrize("machines", [1, 2])
def test_a_training_by_processes_of_one_machine_is_no_faster(machines: int) -> None:
    data = {"kind": "external", "problems": "a"}

    def learn(**more: Any) -> Any:
        stages = {"data": data, "s": {"kind": "sft", "from": ["data"], "max_steps": 10} | more}
        return planned(stages=stages)[0]

    one, four = learn(), learn(launch={"processes": 4, "config": "cpu", "machines": machines})
    assert four.bytes_on(True) == pytest.approx(4 // machines * one.bytes_on(True))
    hours = [stage.fits["laptop CPU"].hours / stage.work.trained for stage in (one, four)]
    assert hours[1] == pytest.approx(hours[0] / machines)
    assert (four.devices, four.cpus) == (4, machines)


@pytest.mark.parametrize(("suffix", "between"), [("csv", ","), ("tsv", "\t")])
def test_rows_of_a_file_are_counted_and_not_its_lines(
    tmp_path: Path, suffix: str, between: str
) -> None:
    file = tmp_path / f"mine.{suffix}"
    row = f'"Once.\n\nHow many, then?"{between}7\n'
    file.write_text(f"question{between}answer\n" + 100 * row)
    settings = recipe(problems={"a": {"source": str(file)}}).problems["a"]
    assert set_facts("a", settings).problems == 100
    file.write_text('question\n"never closed\n')
    assert set_facts("a", settings).problems == UNKNOWN_SIZE  # the run tells what is wrong

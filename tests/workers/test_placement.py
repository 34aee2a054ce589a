"""Which devices workers have, and what is refused before anything is computed."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from worker_runs import RECIPE, prepare

from butwait.engines.kinds.openai import OpenAISettings
from butwait.engines.kinds.scripted import ScriptedSettings
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.kinds.vllm import VllmSettings
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.workers import placement
from butwait.workers.crew import at_work
from butwait.workers.job import Job
from butwait.workers.placement import Placement, cannot_spread
from butwait.workers.ray import places
from butwait.workers.settings import WorkersSettings

Command = Callable[..., tuple[int, str, str]]

MODEL = ModelSettings(name="tiny")
JUDGE = TrainedSettings(model="judge")


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose process may use four GPUs, not the first ones."""
    monkeypatch.setattr(placement, "_devices", lambda: ["4", "5", "6", "7"])


def of(engine: Any = None, judge: Any = JUDGE, model: ModelSettings = MODEL, **given: Any) -> Any:
    settings = WorkersSettings.model_validate({"kind": "processes"} | given)
    return Placement.of(settings, engine or TransformersSettings(), model, judge)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("given", "count", "devices"),
    [
        ({}, 4, ["4", "5", "6", "7"]),
        ({"count": 2}, 2, ["4", "5"]),
        ({"gpus": 2}, 2, ["4,5", "6,7"]),
        ({"gpus": {"policy": 1, "reward_model": 1}}, 2, ["4,5", "6,7"]),
        ({"engine": VllmSettings(kind="vllm", tensor_parallel=4)}, 1, ["4,5,6,7"]),
    ],
)
def test_each_worker_has_devices_of_its_own(
    given: dict[str, Any], count: int, devices: list[str]
) -> None:
    placed = of(**given)
    assert placed.count == count
    found = [placed.environment(index) for index in range(count)]
    assert found == [{"CUDA_VISIBLE_DEVICES": own} for own in devices]


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("gpus", "policy", "judge"),
    [(1, "cuda", "cuda"), ({"policy": 2, "reward_model": 1}, "cuda", "cuda:2")],
)
def test_models_are_put_where_the_worker_sees_its_devices(
    gpus: Any, policy: str, judge: str
) -> None:
    async def nothing(opened: Any, item: Any, /) -> None: ...

    job = Job(nothing, TransformersSettings(), MODEL, PromptSettings(), JUDGE, (), (StepRule(),))
    found = of(gpus=gpus).placed(job)
    assert (found.model.device, found.reward_model.device) == (policy, judge)


@pytest.mark.parametrize(
    ("cores", "count", "gpus", "asked", "threads", "graders"),
    [
        (8, 2, 0, None, 4, 4),
        (8, 3, 0, None, 2, 2),
        (2, 4, 0, None, 1, 1),
        (8, 2, 0, 1, 1, 4),
        (64, 2, 0, None, 32, 8),
        (8, 2, 1, None, None, 4),
    ],
)
def test_cores_are_shared_out_among_workers(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    count: int,
    gpus: int,
    asked: int | None,
    threads: int | None,
    graders: int,
) -> None:
    async def nothing(opened: Any, item: Any, /) -> None: ...

    monkeypatch.setattr(placement, "_cores", lambda: cores)
    job = Job(
        nothing, TransformersSettings(), MODEL, PromptSettings(), JUDGE, (), (), threads=asked
    )
    found = Placement(count, gpus).sharing(job)
    assert (found.threads, found.graders) == (threads, graders)


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("engine", "judge"),
    [
        (ScriptedSettings(kind="scripted", script="toys:policy"), None),
        (OpenAISettings(kind="openai", base_url="http://localhost:1/v1"), None),
        (TransformersSettings(), None),
    ],
)
def test_what_needs_no_gpu_is_given_none(engine: Any, judge: Any) -> None:
    placed = of(engine, judge, ModelSettings(name="tiny", device="cpu"))
    assert (placed.count, placed.gpus, placed.environment(0)) == (1, 0, {})


@pytest.mark.usefixtures("four")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"count": 8},
            "8 workers of 1 GPU each need 8, and this machine has 4: lower workers.count or "
            "workers.gpus",
        ),
        (
            {"gpus": 5},
            "1 worker of 5 GPUs each need 5, and this machine has 4: lower workers.count or "
            "workers.gpus",
        ),
        (
            {"gpus": 2, "engine": VllmSettings(kind="vllm", tensor_parallel=4)},
            "engine.tensor_parallel: 4 GPUs of one policy are more than the 2 that workers.gpus "
            "gives it; raise one, or lower the other",
        ),
    ],
)
def test_more_than_there_is_is_refused(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        of(**given)
    assert str(refused.value) == told


@pytest.mark.parametrize(
    ("heads", "kept", "able"),
    [
        (40, 10, {1, 2, 5, 10, 20, 40}),  # Phi-4
        (28, 4, {1, 2, 4, 28}),  # Qwen2.5-7B; 28 devices share each key head by seven
        (32, 8, {1, 2, 4, 8, 16, 32}),
        (12, 2, {1, 2, 4, 6, 12}),
    ],
)
def test_a_model_is_spread_where_its_heads_can_be_shared(
    heads: int, kept: int, able: set[int]
) -> None:
    config = {"num_attention_heads": heads, "num_key_value_heads": kept}
    assert {n for n in range(1, 41) if cannot_spread(config, n) is None} == able
    assert cannot_spread({"text_config": config}, 3) is not None


def test_the_sentence_names_what_is_allowed() -> None:
    assert cannot_spread({"num_attention_heads": 40, "num_key_value_heads": 10}, 4) == (
        "4 GPUs cannot share its 10 key and value heads evenly: set 1, 2, 5 or 10"
    )
    assert cannot_spread({"model_type": "mamba"}, 4) is None


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"count": 2}, "count has no meaning for workers.kind: local, which is this process"),
        ({"gpus": 1}, "gpus has no meaning for workers.kind: local"),
        ({"kind": "processes", "address": "auto"}, "address is of a Ray cluster; set kind to ray"),
        ({"kind": "threads"}, "Input should be 'local', 'processes' or 'ray'"),
    ],
)
def test_settings_that_contradict_each_other(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        WorkersSettings.model_validate(given)
    assert told in str(refused.value)


def test_check_tells_it_before_anything_is_computed(own_folder: Path, command: Command) -> None:
    prepare(own_folder, {})
    code, _, told = command("check", "mine.yaml", "--set", "workers.count=2")
    assert code == 2
    assert "--set workers.count=2" in told
    assert "has no meaning for workers.kind: local" in told
    assert len(told.splitlines()) == 1


class Fleet:
    """In place of ``RayHost``: a cluster that has room for three workers."""

    count = 3

    def __init__(self, *given: Any) -> None: ...

    async def start(self, index: int) -> Any:
        await asyncio.Future()


@pytest.mark.parametrize(
    ("gpus", "each", "count"),
    [
        ([8, 8], 1, 16),
        ([8, 4], 3, 3),  # two and one: a worker is on one node
        ([1, 1], 2, 1),  # none, until another node comes
        ([], 1, 1),
    ],
)
def test_a_cluster_says_how_many_workers_there_are(gpus: list[int], each: int, count: int) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "GPU": float(n)}} for n in gpus]
    lost = {"Alive": False, "Resources": {"GPU": 8.0}}
    assert places([*nodes, lost, {"Alive": True, "Resources": {}}], each) == count


def test_a_crew_has_as_many_as_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("butwait.workers.ray.RayHost", Fleet)

    async def nothing(opened: Any, item: Any, /) -> None: ...

    async def size() -> int:
        script = ScriptedSettings(kind="scripted", script="toys:policy")
        job = Job(nothing, script, MODEL, PromptSettings(), None, (), (), concurrency=2)
        monkeypatch.setattr(Job, "packed", lambda job: b"")
        async with at_work(job, WorkersSettings(kind="ray")) as crew:
            return crew.size

    assert asyncio.run(size()) == 3 * 2


def test_a_trained_reward_model_is_placed_before_it_is_trained(
    own_folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy needs no GPU, and the reward model that a stage before it trains does."""
    monkeypatch.setattr(placement, "_devices", lambda: ["0"])
    search = RECIPE["stages"]["search"] | {"from": ["judge"], "reward_model": None}
    prepare(own_folder, {}, judge={"kind": "prm", "problems": "train"}, search=search)
    engine = "engine={kind: openai, base_url: 'http://127.0.0.1:9/v1'}"
    words = (engine, "model.name=tiny", "workers.kind=processes", "workers.count=8")
    code, _, told = command("check", "mine.yaml", *(w for s in words for w in ("--set", s)))
    assert code == 2
    assert "8 workers of 1 GPU each need 8, and this machine has 1" in told

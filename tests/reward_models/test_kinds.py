"""What every kind of reward model has in common: its record, and what it leaves behind."""

import asyncio
import gc
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path as Folder
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from test_classifier import save  # noqa: F401
from test_pooling import Server, server  # noqa: F401
from test_qwen_prm import save_checkpoint
from transformers import LlamaForTokenClassification

from butwait.engines.flops import flops_of
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.reward_models.kinds.trained import write_note
from butwait.reward_models.load import (
    Policy,
    decoders,
    is_own,
    load_reward_model,
    reward_model_flops,
)
from butwait.reward_models.plugin import PluginRewardModel
from butwait.reward_models.reward_model import Path, RewardModel, RewardModelError, Score, Step
from butwait.reward_models.score_head import add_score_head
from butwait.reward_models.settings import RewardModelSettings

PROBLEM = Problem("q", "Calculate 3 + 5.", "8")
TINY = ModelSettings(name="tiny", device="cpu")
POLICY = Policy(TINY, PromptSettings())


class Bare:
    """A reward model from before ``close`` was part of the contract."""

    clipped = 0

    async def score(self, problem: Problem, paths: list[Path]) -> list[Score]:
        return [Score(1.0, None, 0) for _ in paths]

    def release(self, handles: list[Any]) -> None:
        """Holds nothing."""


def settings(**given: Any) -> Any:
    return TypeAdapter(RewardModelSettings).validate_python(given)


@pytest.fixture
def loaded(tokenizer: Any, tmp_path: Folder, save: Any) -> Callable[..., RewardModel]:  # noqa: F811
    """A small reward model of a kind."""

    def load(
        kind: str,
        more: Any = None,
        theirs: Any = tokenizer,
        policy: Policy = POLICY,
        member: bool = False,
    ) -> RewardModel:
        folder, given = str(tmp_path), dict[str, Any](kind=kind)
        if kind == "trained":
            add_score_head(TINY, 0.5).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_note(tmp_path, tokenizer, PromptSettings())
            given |= {"model": folder, "device": "cpu"}
        elif kind == "qwen_math_prm":
            save_checkpoint(tmp_path, hidden_size=16)
            given |= {"name": folder, "device": "cpu"}
        elif kind == "classifier":
            folder = save(LlamaForTokenClassification, num_labels=2)
            given |= {"name": folder, "device": "cpu"}
        elif kind == "ensemble":
            certainty = {"kind": "confidence", "measure": "self_certainty", "centre": 3.0}
            given["members"] = [{"kind": "confidence"}, certainty | {"device": "cpu"}]
        else:
            given |= {"measure": "self_certainty", "centre": 3.0, "device": "cpu"}
        given |= more or {}
        if member:
            given = {"kind": "ensemble", "members": [{"kind": "confidence"}, given]}
        return load_reward_model(settings(**given), theirs, policy)

    return load


def tensors() -> list[torch.Tensor]:
    gc.collect()
    return [x for x in gc.get_objects() if issubclass(type(x), torch.Tensor)]


@pytest.mark.parametrize(
    "kind", ["trained", "qwen_math_prm", "classifier", "confidence", "ensemble"]
)
def test_after_close_no_tensor_of_a_model_can_be_reached(
    kind: str, loaded: Callable[[str], RewardModel], tokenizer: Any
) -> None:
    """The model itself, its handles and scores are still held."""
    gc.collect()
    gc.freeze()  # what is there already is looked at no more
    before = set(map(id, tensors()))
    model = loaded(kind)
    ids = np.array(tokenizer("3 + 5 = 8\n", add_special_tokens=False)["input_ids"], np.int32)
    path = Path((Step(ids, "3 + 5 = 8\n", np.zeros(len(ids), np.float32)),))

    async def use() -> list[Score]:
        scores = await model.score(PROBLEM, [path, path])
        await model.close()
        await model.close()
        model.release([score.handle for score in scores])
        with pytest.raises(RewardModelError, match="was closed"):
            await model.score(PROBLEM, [path])
        return scores

    weights = [weakref.ref(x) for x in tensors() if id(x) not in before]
    assert len(weights) > 10
    scores = asyncio.run(use())
    # A thread of the library's that loaded weights may hold one until it has a turn again.
    for _ in range(100):
        gc.collect()
        if all(ref() is None for ref in weights):
            break
        time.sleep(0.1)
    assert [ref for ref in weights if ref() is not None] == []
    left = [x for x in tensors() if id(x) not in before]
    # Nor is the cache: the handles hold outputs, a number or two a step.
    assert sum(x.numel() for x in left) <= 8 * len(scores)


def test_pooling_closes_its_connections(server: Server) -> None:  # noqa: F811
    from test_pooling import model, path

    pooling = model(server)

    async def use() -> None:
        server.replies = []
        await pooling.score(PROBLEM, [path("")])
        await pooling.close()
        await pooling.close()

    asyncio.run(use())
    assert pooling._server._made is None


def test_a_reward_model_without_close_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "made", Bare, raising=False)
    model = load_reward_model(settings(kind="custom", factory=f"{__name__}:made"), None)
    assert isinstance(model, RewardModel)
    assert asyncio.run(model.score(PROBLEM, [Path(())]))[0].logit == 1.0
    asyncio.run(model.close())


@pytest.mark.parametrize("given", [30.0, -12.5, 11.5, -np.inf, torch.tensor(13.0).bfloat16()])
def test_logits_of_ones_own_are_clipped_and_counted(given: Any) -> None:
    """But for minus infinity, which makes a path impossible."""

    class Sure(Bare):
        clipped = 3

        async def score(self, problem: Problem, paths: list[Path]) -> list[Score]:
            return [Score(given, None, 0) for _ in paths]

    model = PluginRewardModel("sure", Sure())
    expected = given if given == -np.inf else min(max(float(given), -12.0), 12.0)
    found = [score.logit for score in asyncio.run(model.score(PROBLEM, [Path(())] * 2))]
    assert found == [expected] * 2
    assert model.clipped == 3 + 2 * (expected != given)


def test_the_policy_itself_is_the_judge_in_confidence_alone() -> None:
    own, public = {"kind": "confidence"}, {"kind": "qwen_math_prm"}
    assert is_own(own)
    assert not is_own(public)
    assert is_own({"kind": "ensemble", "members": [own, own]})
    assert not is_own(settings(kind="ensemble", members=[own, public]))


def test_what_is_run_for_a_score() -> None:
    def runs(**given: Any) -> Any:
        chosen = settings(**given)
        return [
            run.model and (run.model.name, run.model.revision, run.model.dtype, run.head)
            for run in decoders(chosen, ModelSettings(name="p", revision="r"))
        ]

    half = {"dtype": "bfloat16"}
    assert runs(kind="trained", model="a") == [("a", None, "float32", False)]
    assert runs(kind="qwen_math_prm", name="a", revision="b", **half) == [
        ("a", "b", "bfloat16", False)
    ]
    assert runs(kind="pooling", base_url="http://x", name="a")[0][::3] == ("a", False)
    assert runs(kind="classifier", name="a")[0][::3] == ("a", False)
    assert runs(kind="classifier", name="a", head="tokens")[0][::3] == ("a", True)
    assert runs(kind="confidence") == []
    certain = {"kind": "confidence", "measure": "self_certainty", "centre": 3.0, **half}
    assert runs(**certain) == [("p", "r", "bfloat16", True)]
    custom = {"kind": "custom", "factory": "a:b"}
    assert runs(**custom) == [None]
    inner = {"kind": "ensemble", "members": [certain, {"kind": "confidence"}]}
    both = {"kind": "ensemble", "members": [inner, custom]}
    assert runs(**both) == [("p", "r", "bfloat16", True), None]


def test_operations_of_what_is_run_for_a_score() -> None:
    certain = {"kind": "confidence", "measure": "self_certainty", "centre": 3.0}
    alone = reward_model_flops(settings(**certain), TINY)
    assert alone == flops_of(TINY)
    free = {"kind": "confidence"}
    both, none = [certain, certain], [free, free]
    for members, known in (([certain, free], alone), (both, None), (none, None)):
        assert reward_model_flops(settings(kind="ensemble", members=members), TINY) == known


@pytest.mark.parametrize("member", [False, True])
def test_a_trained_model_has_room_for_the_policys_tokens(
    member: bool,
    loaded: Callable[..., RewardModel],
    tokenizer: Any,
) -> None:
    """Unless it is told another length, or reads other tokens than the policy wrote."""

    def capacity(tokens: int, policys: Any = tokenizer, **given: Any) -> int:
        policy = Policy(TINY, PromptSettings(), tokens=tokens)
        model: Any = loaded("trained", given, policys, policy, member)
        return (model._members[1] if member else model)._scorer._model.capacity

    assert capacity(90) == 90
    assert capacity(90, capacity=50) == 50
    assert capacity(90, capacity=70, deterministic=True) == 70
    assert capacity(90, None) == 1024
    assert capacity(90, None, deterministic=True) == 90
    assert capacity(90, None, capacity=50) == 50


def test_kinds_are_read_without_torch() -> None:
    script = (
        "import sys; from butwait.reward_models.load import REWARD_MODELS; print(*REWARD_MODELS); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert said.split() == [
        "classifier", "confidence", "custom", "ensemble", "pooling", "qwen_math_prm", "trained",
    ]  # fmt: skip

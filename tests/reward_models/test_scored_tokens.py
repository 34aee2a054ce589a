"""What a filter of 8 particles and 32 steps costs a reward model: new tokens, not whole paths."""

import asyncio

import numpy as np
import pytest
import torch
from test_qwen_prm import PROBLEM, checkpoint, load  # noqa: F401

from butwait.engines.slots import SlotModel
from butwait.problems.settings import PromptSettings
from butwait.records import Key
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.reward_model import Path

PARTICLES = 8
STEPS = 32


@pytest.fixture(params=["trained", "qwen_math_prm model", "qwen_math_prm prod"])
def make_model(request, scorer, tokenizer, load):  # noqa: F811
    def make():
        if request.param == "trained":
            slots = SlotModel(scorer, slots=4 * PARTICLES, capacity=1024)
            return TrainedRewardModel(slots, tokenizer, PromptSettings(), same_tokens=True)
        return load(request.param.split()[1], slots=4 * PARTICLES)

    return make


async def search(model, make_steps):
    """Final paths, their logits, and the tokens that every path of every step has together."""
    paths, handles, counted = [()] * PARTICLES, [None] * PARTICLES, 0
    for t in range(STEPS):
        drawn = Key.of(0).at(step=t).generator()
        ancestors = drawn.integers(PARTICLES, size=PARTICLES)
        new = [make_steps(f"{d} + {t % 9} = 7\n") for d in drawn.integers(9, size=PARTICLES)]
        paths = [paths[a] + step for a, step in zip(ancestors, new, strict=True)]
        scores = await model.score(
            PROBLEM, [Path(p, handles[a]) for p, a in zip(paths, ancestors, strict=True)]
        )
        model.release([handle for handle in handles if handle is not None])
        handles = [score.handle for score in scores]
        counted += sum(score.tokens for score in scores)
    return paths, [score.logit for score in scores], counted


async def from_the_start(model, paths):
    """Logits of whole paths, and the tokens that this runs, each path on its own."""
    logits = [(await model.score(PROBLEM, [Path(path)]))[0] for path in paths]
    return [s.logit for s in logits], [s.tokens for s in logits]


def test_a_fifth_of_the_tokens_at_most(make_model, make_steps):
    torch.manual_seed(0)
    model = make_model()
    paths, logits, counted = asyncio.run(search(model, make_steps))
    assert model.run_tokens == counted

    expected, _ = asyncio.run(from_the_start(make_model(), paths))
    assert logits == pytest.approx(expected, abs=1e-3)

    async def all_prefixes():
        lengths = [
            (await from_the_start(make_model(), [paths[0][:t]]))[1] for t in range(1, STEPS + 1, 8)
        ]
        return np.mean(lengths) * STEPS * PARTICLES

    # Every eighth step, and its share of the sum: the earlier ones are the shorter ones. A step has
    # as many tokens on every path.
    whole = asyncio.run(all_prefixes())
    assert model.run_tokens * 5 < whole

"""Small models with random weights, and paths to score."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
import torch

from butwait.engines.models import load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.records import Problem
from butwait.reward_models.reward_model import Path, RewardModel, Score, Step
from butwait.reward_models.score_head import add_score_head, score_head

TINY = ModelSettings(name="tiny", device="cpu")


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(TINY)


@pytest.fixture(scope="session")
def scorer():
    """The tiny model with a random head: its logits differ from token to token."""
    model = add_score_head(TINY, 0.0).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(score_head(model).weight, std=0.2)
    return model


@pytest.fixture(scope="session")
def problems():
    return [Problem(f"p{i}", f"Calculate {i} + 5.", str(i + 5)) for i in range(4)]


@pytest.fixture(scope="session")
def make_steps(tokenizer):
    """Steps from texts, tokenised as a policy would have drawn them."""

    def steps(*texts: str) -> tuple[Step, ...]:
        ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        return tuple(Step(np.array(i, np.int32), t) for i, t in zip(ids, texts, strict=True))

    return steps


async def score_growing(
    model: RewardModel, problem: Problem, steps: Sequence[Step], release: bool = False
) -> list[Score]:
    """The scores of a path's prefixes, each from the handle of the one before."""
    scores: list[Score] = []
    for n in range(1, len(steps) + 1):
        handle = scores[-1].handle if scores else None
        scores += await model.score(problem, [Path(tuple(steps[:n]), handle)])
        if release and handle is not None:
            model.release([handle])
        await asyncio.sleep(0)
    return scores


@pytest.fixture(scope="session")
def grow():
    return score_growing

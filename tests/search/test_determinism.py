"""A tree is a function of its seed and its problem: 64 searches, 1, 4 or 64 at a time, and stopped
and taken up again, leave the same bytes on disk."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from search_toys import RULE, toy_engine, toy_reward

from butwait.engines.engine import Engine
from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.load import load_engine
from butwait.engines.settings import ModelSettings, StepRule
from butwait.engines.slots import SlotModel
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.kinds.trained import TrainedRewardModel
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.score_head import add_score_head, score_head
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.shards import ShardFormat, map_shards
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.particle_gibbs import ParticleGibbsSettings
from butwait.search.settings import SamplerSettings
from butwait.search.storage import read_shard, write_shard

PROBLEMS = [Problem(f"p{i}", f"Calculate {i} + 5 - 3 + {i % 7}.", None) for i in range(64)]
TINY = ModelSettings(name="tiny", device="cpu")
PROMPT = PromptSettings(template="{question}")
STEPS = StepRule(delimiters=("\n",), max_step_tokens=6, max_tokens=12)
SLOTS = 8
"""Of 64 x 2 particles, so that caches are lost where many search at a time."""

Parts = Callable[[], tuple[Engine, RewardModel]]


def scripted() -> tuple[Engine, RewardModel]:
    return toy_engine(), ScriptedRewardModel(toy_reward)


def transformers() -> tuple[Engine, RewardModel]:
    """The tiny model, and a reward model of its size with a random head, in deterministic mode."""
    settings = TransformersSettings(slots=SLOTS, prefill_chunk=8, deterministic=True)
    engine, tokenizer, capacity = load_engine(settings, TINY, PROMPT, PROBLEMS, [STEPS])
    scorer = add_score_head(TINY, 0.0).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(score_head(scorer).weight, std=0.2)
    slots = SlotModel(scorer, SLOTS, capacity, deterministic=True, prefill_chunk=8)
    return engine, TrainedRewardModel(slots, tokenizer, PROMPT, same_tokens=True)


CASES = [
    pytest.param(scripted, ParticleFilterSettings(particles=8, step=RULE), id="scripted, filter"),
    pytest.param(
        scripted,
        ParticleGibbsSettings(particles=4, step=RULE, ancestor_sampling=True, ess_threshold=1.01),
        id="scripted, Gibbs",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        transformers,
        ParticleFilterSettings(particles=2, step=STEPS, ess_threshold=1.01),
        id="transformers, filter",
        marks=pytest.mark.slow,
    ),
]


def searched(
    folder: Path,
    parts: Parts,
    settings: SamplerSettings,
    concurrency: int,
    stop_after: int | None = None,
) -> tuple[str, int, Engine]:
    """Searches all problems as a stage does, what is on disk left out, in a process that knows
    nothing of earlier ones. Returns the hash of all trees' files, the problems that were begun,
    and the engine. ``stop_after`` so many finished problems the next one fails."""
    engine, model = parts()
    begun = finished = 0

    async def one(problem: Problem) -> SearchTree:
        nonlocal begun, finished
        begun += 1
        tree = await run_sampler(problem, engine, model, settings, Key.of(0, "stage", problem.id))
        if finished == stop_after:
            raise InterruptedError
        finished += 1
        return tree

    shards = asyncio.run(
        map_shards(
            PROBLEMS,
            one,
            ShardFormat(write_shard, read_shard),
            folder,
            shard_size=16,
            concurrency=concurrency,
        )
    )
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in shards)).hexdigest()
    return digest, begun, engine


@pytest.mark.parametrize(("parts", "settings"), CASES)
def test_trees_do_not_depend_on_how_many_are_searched_at_a_time_nor_on_a_resume(
    parts: Parts, settings: SamplerSettings, tmp_path: Path
) -> None:
    alone, begun, _ = searched(tmp_path / "1", parts, settings, concurrency=1)
    assert begun == 64
    crowd, _, engine = searched(tmp_path / "64", parts, settings, concurrency=64)
    assert crowd == alone
    if parts is transformers:
        assert engine.lost_handles > 0, "the crowd was no crowd"

    with pytest.raises(InterruptedError):
        searched(tmp_path / "4", parts, settings, concurrency=4, stop_after=20)
    resumed, begun, _ = searched(tmp_path / "4", parts, settings, concurrency=4)
    assert resumed == alone
    assert begun == 44, "20 problems were finished and are not searched again"

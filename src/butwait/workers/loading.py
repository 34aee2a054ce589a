"""An engine and a reward model, loaded for as long as they are used."""

import gc
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from butwait.engines.engine import Engine
from butwait.engines.load import EngineSettings, load_engine
from butwait.engines.load import watched as watched_engine
from butwait.engines.settings import ModelSettings, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.reward_models.load import Policy, load_reward_model
from butwait.reward_models.plugin import watched as watched_reward_model
from butwait.reward_models.reward_model import RewardModel


def watched(engine: Engine, reward_model: RewardModel | None) -> tuple[Engine, RewardModel | None]:
    """Both as a search uses them: what those of a program's own raise, and what is no answer, is a
    UserError."""
    judge = None if reward_model is None else watched_reward_model(reward_model)
    return watched_engine(engine), judge


@asynccontextmanager
async def loaded(
    engine: EngineSettings | Engine,
    model: ModelSettings,
    prompt: PromptSettings,
    reward_model: Any,
    problems: Sequence[Problem],
    rules: Iterable[StepRule],
    paths: int | None = None,
) -> AsyncIterator[tuple[Engine, RewardModel | None]]:
    """An engine and a reward model with room for these problems' prompts and for paths by these
    rules. What is loaded here is freed when the block ends.

    Args:
        engine: its settings, or one that runs and stays open.
        model: the policy, where the engine runs one.
        prompt: how questions are put to it.
        reward_model: its settings; one that is loaded and stays open; or None.
        problems: whose prompts must fit.
        rules: whose longest path must fit.
        paths: that are in flight at a time (``search.settings.in_flight``); None: nobody knows.

    Raises UserError for a model that cannot be found or read, or a server that does not answer.
    """
    running, tokenizer, capacity = None, None, None
    policy: Any = engine
    if not isinstance(engine, Engine):
        policy, tokenizer, capacity = load_engine(engine, model, prompt, problems, rules)
        running = policy
    judge, judging = reward_model, None
    try:
        if reward_model is not None and not isinstance(reward_model, RewardModel):
            known = Policy(model, prompt, paths, capacity)
            judge = judging = load_reward_model(reward_model, tokenizer, known)
        # A search makes many small objects, and the collector would look at all of the libraries'
        # objects again and again.
        gc.collect()
        frozen = gc.get_freeze_count() > 0  # by the program around, or for a search beside this one
        if not frozen:
            gc.freeze()
        try:
            yield watched(policy, judge)
        finally:
            if not frozen:
                gc.unfreeze()
    finally:
        try:
            if running is not None:
                await running.close()
        finally:
            if judging is not None:
                await judging.close()

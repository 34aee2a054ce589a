"""The sampler contract.

A sampler is a function of (problem, engine, reward model, settings, key) that returns a
``SearchTree``. It knows weights, ancestors and a key; it does not know vLLM, gold answers or
chat templates.
"""

from typing import Any, Protocol

from butwait.engines.engine import Engine
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel


class Sampler(Protocol):
    async def __call__(
        self,
        problem: Problem,
        engine: Engine,
        reward_model: RewardModel | None,
        settings: Any,
        key: Key,
    ) -> SearchTree: ...

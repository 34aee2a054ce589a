"""The open end of a growing tree: what can still be extended, and the caches that this needs."""

from collections.abc import Iterable
from types import TracebackType
from typing import Any

import numpy as np

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.records import OPEN, Key, Problem
from butwait.reward_models.reward_model import Path, RewardModel, Step
from butwait.search.builder import ROOT, TreeBuilder


class Frontier:
    """Extends and scores the open paths of one tree, and frees handles as soon as no path needs
    them. As a context manager it frees all of them, whatever happens.

    Args:
        problem: what is searched.
        engine: the policy.
        reward_model: scores every new step; None: rewards stay NaN.
        step_rule: where a step ends.
        sampling: how tokens are drawn.
        key: particle i draws the tokens of step t at ``key.derive("tokens").at(step=t,
            particle=i)``.
        sampler: the sampler's name, for the tree.
    """

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        reward_model: RewardModel | None,
        step_rule: StepRule,
        sampling: Sampling,
        key: Key,
        sampler: str,
    ) -> None:
        self._problem = problem
        self._engine = engine
        self._reward_model = reward_model
        self._step_rule = step_rule
        self._sampling = sampling
        self._key = key.derive("tokens")
        start = engine.start(problem)
        self._prefixes: dict[int, Prefix] = {ROOT: start}
        self._steps: dict[int, tuple[Step, ...]] = {ROOT: ()}
        self._reward_handles: dict[int, Any] = {}
        self.tree = TreeBuilder(problem.id, sampler, start.token_ids)

    def __enter__(self) -> "Frontier":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.keep(())

    def is_open(self, nodes: np.ndarray) -> np.ndarray:
        """bool (N,): whether the paths that end in these nodes can go on."""
        return np.array([self.tree.nodes[node].finish in OPEN for node in nodes.tolist()], bool)

    async def extend(self, nodes: np.ndarray, live: np.ndarray, step: int) -> np.ndarray:
        """One step for every live particle.

        Particles on one node are extended from the same prefix by different keys.

        Args:
            nodes: int32 (N,), where the particles stand. Only these nodes, where live, can be
                extended from now on: the caches of all others are freed.
            live: bool (N,), which of them to extend. The others stay and cost nothing.
            step: number of this step, from 1.

        Returns:
            int32 (N,): where they stand now.
        """
        slots = np.flatnonzero(live).tolist()
        parents = nodes[live].tolist()
        self.keep(parents)
        if not slots:
            return nodes
        continuations = await self._engine.extend(
            [self._prefixes[parent] for parent in parents],
            self._step_rule,
            self._sampling,
            [self._key.at(step=step, particle=slot) for slot in slots],
        )
        children = [
            self._add(parent, continuation)
            for parent, continuation in zip(parents, continuations, strict=True)
        ]
        self._keep_prefixes(self._open(children))
        if self._reward_model is not None:
            await self._score(self._reward_model, parents, children)
        self.keep(self._open(children))
        extended = nodes.copy()
        extended[slots] = children
        return extended

    def keep(self, nodes: Iterable[int]) -> None:
        """Frees the caches of every node but these."""
        wanted = set(nodes)
        self._keep_prefixes(wanted)
        dropped = [node for node in self._steps if node not in wanted]
        for node in dropped:
            del self._steps[node]
        if self._reward_model is not None and dropped:
            handles = [self._reward_handles.pop(node, None) for node in dropped]
            self._reward_model.release([handle for handle in handles if handle is not None])

    def _keep_prefixes(self, nodes: set[int]) -> None:
        dropped = [node for node in self._prefixes if node not in nodes]
        if dropped:
            self._engine.release([self._prefixes.pop(node) for node in dropped])

    def _open(self, nodes: Iterable[int]) -> set[int]:
        return {node for node in nodes if self.tree.nodes[node].finish in OPEN}

    def _add(self, parent: int, continuation: Continuation) -> int:
        child = self.tree.add(parent, continuation)
        self._prefixes[child] = continuation.prefix
        step = Step(continuation.token_ids, continuation.text)
        self._steps[child] = (*self._steps[parent], step)
        return child

    async def _score(
        self, reward_model: RewardModel, parents: list[int], children: list[int]
    ) -> None:
        paths = [
            Path(self._steps[child], self._reward_handles.get(parent))
            for parent, child in zip(parents, children, strict=True)
        ]
        scores = await reward_model.score(self._problem, paths)
        for child, score in zip(children, scores, strict=True):
            self.tree.set_reward(child, score.logit)
            self.tree.count_reward_tokens(score.tokens)
            self._reward_handles[child] = score.handle

"""The open end of a growing tree: what can still be extended, and the caches that this needs."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.records import OPEN, Key, Problem
from butwait.reward_models.reward_model import Path, RewardModel, Score, Step, scores
from butwait.search.builder import ROOT, TreeBuilder
from butwait.search.looking import look
from butwait.search.settings import SamplerSettings


@dataclass(frozen=True, slots=True, eq=False)
class Followed:
    """Steps of one path after the end of another, a node.

    Attributes:
        node: where they would follow.
        steps: with the log-probabilities that they have there.
        logits: float64 (steps,), rewards of the paths up to each of them; -inf where the policy
            cannot take the steps there, and no reward was asked for.
        fits: whether the reward model's limit ends the path where it ended with these steps.
    """

    node: int
    steps: tuple[Step, ...]
    logits: np.ndarray
    fits: bool = True

    @property
    def log_probability(self) -> float:
        """Of all the steps, in nats; -inf where the path would end elsewhere."""
        return log_probability(self.steps) if self.fits else -math.inf


def log_probability(steps: Iterable[Step]) -> float:
    """The sum of the steps' log-probabilities, which are known, in nats."""
    known = [step.logprobs for step in steps if step.logprobs is not None]
    return float(np.sum(np.concatenate(known), dtype=np.float64))


def release_handles(reward_model: RewardModel, handles: Iterable[Any]) -> None:
    """Frees a reward model's handles where there are any; scores may come without (None)."""
    reward_model.release([handle for handle in handles if handle is not None])


async def score_nodes(
    problem: Problem,
    reward_model: RewardModel,
    tree: TreeBuilder,
    nodes: Sequence[int],
    paths: Sequence[Path],
) -> list[Score]:
    """The scores of the paths that end in these nodes, which the tree takes note of, with tokens
    and seconds; not of rewards of paths that are too long."""
    asked = time.monotonic()
    found = await scores(reward_model, problem, paths)
    tree.time_scoring(nodes, time.monotonic() - asked)
    for node, score in zip(nodes, found, strict=True):
        if not score.too_long:
            tree.set_reward(node, score.logit)
        tree.count_reward_tokens(node, score.tokens)
    return found


class Frontier:
    """Extends and scores the open paths of one tree, and frees handles as soon as no path needs
    them. As a context manager it frees all of them, whatever happens.

    Args:
        problem: what is searched.
        engine: the policy.
        reward_model: scores every new step; None: rewards stay NaN.
        settings: where a step ends, how tokens are drawn, and the sampler's name, for the tree.
        key: particle i draws the tokens of step t at ``key.derive("tokens").at(step=t,
            particle=i)``, and at the ``iteration`` where there are several.
    """

    def __init__(
        self,
        problem: Problem,
        engine: Engine,
        reward_model: RewardModel | None,
        settings: SamplerSettings,
        key: Key,
    ) -> None:
        self._problem = problem
        self._engine = engine
        self._reward_model = reward_model
        self._settings = settings
        self._key = key.derive("tokens")
        start = engine.start(problem)
        self._prefixes: dict[int, Prefix] = {ROOT: start}
        self._steps: dict[int, tuple[Step, ...]] = {ROOT: ()}
        self._reward_handles: dict[int, Any] = {}
        self.tree = TreeBuilder(problem.id, settings.kind, start.token_ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.keep(())

    def is_open(self, nodes: np.ndarray) -> np.ndarray:
        """bool (N,): whether the paths that end in these nodes can go on."""
        return np.array([self.tree.nodes[node].finish in OPEN for node in nodes.tolist()], bool)

    async def extend(
        self, nodes: np.ndarray, live: np.ndarray, step: int, iteration: int = 0
    ) -> np.ndarray:
        """One step for every live particle.

        Particles on one node are extended from the same prefix by different keys. A node whose
        cache is gone is extended all the same, at the cost of a prefill.

        Args:
            nodes: int32 (N,), where the particles stand. Only these nodes, where live, can be
                extended from now on: the caches of all others are freed.
            live: bool (N,), which of them to extend. The others stay and cost nothing.
            step: number of this step, from 1.
            iteration: number of this sweep from the root, from 0.

        Returns:
            int32 (N,): where they stand now.
        """
        slots = np.flatnonzero(live).tolist()
        parents = nodes[live].tolist()
        self.keep(parents)
        look(self.tree, nodes, False)
        if not slots:
            return nodes
        self._reopen(parents)
        asked = time.monotonic()
        keys = [self._key.at(iteration=iteration, step=step, particle=slot) for slot in slots]
        continuations = await self._sample(parents, keys)
        children = [
            self._add(parent, continuation)
            for parent, continuation in zip(parents, continuations, strict=True)
        ]
        self.tree.time_generation(children, time.monotonic() - asked)
        self._keep_prefixes(self._open(children))
        if self._reward_model is not None:
            await self._score(self._reward_model, parents, children)
        self.keep(self._open(children))
        extended = nodes.copy()
        extended[slots] = children
        look(self.tree, extended, True)
        return extended

    async def _sample(self, parents: list[int], keys: list[Key]) -> list[Continuation]:
        """One step of the policy after each of these nodes."""
        prefixes = [self._prefixes[parent] for parent in parents]
        rule, sampling = self._settings.step, self._settings.sampling
        return await self._engine.extend(prefixes, rule, sampling, keys)

    def insert(self, node: int, token_ids: np.ndarray, text: str) -> int:
        """Opens a path again after any node, by text that is not sampled.

        The new node can be extended by the next call of ``extend``, at the cost of a prefill.
        For searches without rewards.
        """
        child = self.tree.insert(node, token_ids, text)
        self._prefixes[child] = self.tree.prefix(node).extended(token_ids, text)
        self._steps[child] = tuple(map(self.tree.step, self.tree.path(child)))
        return child

    def split(self, node: int, tokens: int, text: str) -> int:
        """``TreeBuilder.split``; the new node stands where ``node`` did, with its cache. For
        searches without rewards."""
        end = self.tree.split(node, tokens, text)
        if node in self._prefixes:
            self._prefixes[end] = self._prefixes.pop(node)
            self._steps[end] = tuple(map(self.tree.step, self.tree.path(end)))
            del self._steps[node]
        return end

    def keep(self, nodes: Iterable[int]) -> None:
        """Frees the caches of every node but these."""
        wanted = set(nodes)
        self._keep_prefixes(wanted)
        dropped = [node for node in self._steps if node not in wanted]
        for node in dropped:
            del self._steps[node]
        if self._reward_model is not None and dropped:
            handles = [self._reward_handles.pop(node, None) for node in dropped]
            release_handles(self._reward_model, handles)

    async def follow(self, nodes: Sequence[int], steps: Sequence[int]) -> list[Followed]:
        """What the policy and the reward model say of given steps after other nodes.

        Nothing is added to the tree but what this costs, at the first of the steps.

        Args:
            nodes: open nodes of the last extension, where the steps are to follow.
            steps: nodes of consecutive steps.
        """
        given = [self.tree.step(step) for step in steps]
        token_ids = np.concatenate([step.token_ids for step in given])
        ends = np.cumsum([len(step.token_ids) for step in given])[:-1]
        prefixes = [self._prefixes[node] for node in nodes]
        logprobs = await self._engine.score(prefixes, [token_ids] * len(nodes))
        self.tree.count_prefilled_tokens(steps[0], len(nodes) * len(token_ids))
        followed = []
        for node, scored in zip(nodes, logprobs, strict=True):
            split = np.split(scored, ends)
            there = [replace(s, logprobs=lp) for s, lp in zip(given, split, strict=True)]
            followed.append(Followed(node, tuple(there), np.full(len(steps), -np.inf)))
        possible = [row for row in followed if row.log_probability > -np.inf]
        if self._reward_model is not None and possible:
            cut = self.tree.nodes[steps[-1]].too_long
            tokens, misfits = await self._score_along(self._reward_model, possible, cut)
            self.tree.count_reward_tokens(steps[0], tokens)
            followed = [replace(row, fits=row.node not in misfits) for row in followed]
        return followed

    def graft(self, followed: Followed, steps: Sequence[int]) -> list[int]:
        """Adds steps of one path after another one, as ``follow`` found them there; returns their
        new nodes."""
        end, grafted = followed.node, []
        for node, step, logit in zip(steps, followed.steps, followed.logits, strict=True):
            assert step.logprobs is not None, "follow scored them"
            end = self.tree.graft(end, node, step.logprobs)
            self.tree.set_reward(end, float(logit))
            grafted.append(end)
        return grafted

    def _reopen(self, nodes: Iterable[int]) -> None:
        """Prefixes without a handle for those of the nodes that have none."""
        for node in nodes:
            if node not in self._prefixes:
                self._prefixes[node] = self.tree.prefix(node)
                self._steps[node] = tuple(map(self.tree.step, self.tree.path(node)))

    def _keep_prefixes(self, nodes: set[int]) -> None:
        dropped = [node for node in self._prefixes if node not in nodes]
        if dropped:
            self._engine.release([self._prefixes.pop(node) for node in dropped])

    def _open(self, nodes: Iterable[int]) -> set[int]:
        return {node for node in nodes if self.tree.nodes[node].finish in OPEN}

    def _add(self, parent: int, continuation: Continuation) -> int:
        child = self.tree.add(parent, continuation)
        self._prefixes[child] = continuation.prefix
        step = Step(continuation.token_ids, continuation.text, continuation.logprobs)
        self._steps[child] = (*self._steps[parent], step)
        return child

    async def _score(
        self, reward_model: RewardModel, parents: list[int], children: list[int]
    ) -> None:
        paths = [
            Path(self._steps[child], self._reward_handles.get(parent))
            for parent, child in zip(parents, children, strict=True)
        ]
        found = await score_nodes(self._problem, reward_model, self.tree, children, paths)
        before = self.tree.rewards(np.array(parents)).tolist()
        for child, score, logit in zip(children, found, before, strict=True):
            self._reward_handles[child] = score.handle
            if score.too_long:
                self.tree.truncate(child, logit)

    async def _score_along(
        self, reward_model: RewardModel, rows: Sequence[Followed], cut: bool
    ) -> tuple[int, set[int]]:
        """Fills in the logits of all rows, a step at a time. Each score goes on from the one
        before, so that only the steps themselves are run.

        ``cut``: whether the steps ended as they did because the path was too long. Returns the
        tokens it took, and the nodes after which the reward model's limit ends a path elsewhere.
        """
        tokens, misfits, last = 0, set[int](), len(rows[0].steps) - 1
        known = self.tree.rewards(np.array([row.node for row in rows])).tolist()
        read = [
            (row, self._reward_handles.get(row.node), logit)
            for row, logit in zip(rows, known, strict=True)
        ]
        for depth in range(last + 1):
            paths = [
                Path((*self._steps[row.node], *row.steps[: depth + 1]), handle)
                for row, handle, _ in read
            ]
            try:
                found = await scores(reward_model, self._problem, paths)
            finally:
                if depth > 0:
                    release_handles(reward_model, [handle for _, handle, _ in read])
            after = []
            for (row, _, before), score in zip(read, found, strict=True):
                tokens += score.tokens
                row.logits[depth] = before if score.too_long else score.logit
                if score.too_long == (cut and depth == last):
                    after.append((row, score.handle, row.logits[depth]))
                else:
                    misfits.add(row.node)
                    release_handles(reward_model, [score.handle])
            read = after
            if not read:
                break
        release_handles(reward_model, [handle for _, handle, _ in read])
        return tokens, misfits

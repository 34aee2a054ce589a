r"""Forced second thoughts: where a path would end, a phrase is put in and it goes on.

After the budget forcing of Muennighoff et al. (2025, "s1: Simple test-time scaling", arXiv
2501.19393, section 3.1), which replaces the end of thinking by "Wait". Departures: the number of
rounds is not fixed, a path may stop when its answer has settled; and every round is thought to its
end, so that each has an answer.

Where the next thought starts:

- before ``</think>``, where the thought closed one on tokens of its own, as thinking models do: it
  goes on inside of the thinking;
- else before EOS, where the thought ended with it;
- else after the ``\boxed{...}`` that ended it.

The phrase is a node of finish ``inserted``, whose tokens have no log-probability. What the next
thought leaves out (the closing tag and all after it, or EOS) stays in the tree, as a branch of
its own with that round's answer.
"""

from itertools import count
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from butwait.engines.engine import Engine
from butwait.engines.settings import StepRule
from butwait.problems.answers import read_answer
from butwait.problems.equality.notation import canonical
from butwait.records import COMPLETE, Key, Population, Problem, SearchTree
from butwait.records.settings import Result
from butwait.reward_models.reward_model import RewardModel
from butwait.search.builder import ROOT
from butwait.search.frontier import Frontier
from butwait.search.settings import CommonSettings, Count, Sampler, Unrewarded

THINK_END = "</think>"


class ButWaitSettings(CommonSettings):
    """Samples that are made to think again (cf. budget forcing, Muennighoff et al. 2025, arXiv
    2501.19393)."""

    kind: Literal["but_wait"] = "but_wait"
    samples: Result[Count] = 1
    """Independent paths."""
    rounds: Result[Count] = 4
    """Thoughts of a path at most, the first one included."""
    stable: Result[Annotated[int, Field(ge=2)] | None] = 2
    """Thoughts in a row with the same answer that end a path early; None: never."""
    phrase: Result[Annotated[str, Field(min_length=1)]] = "\n\nBut wait,"
    """What is inserted where a thought would end."""
    step: Result[StepRule] = StepRule(delimiters=())
    """Where a thought ends; ``max_tokens`` bounds all thoughts of a path together."""
    selection: Result[Unrewarded] = "vote"
    """How the samples become one answer; all have the same weight."""


async def but_wait(
    problem: Problem,
    engine: Engine,
    reward_model: RewardModel | None,
    settings: ButWaitSettings,
    key: Key,
) -> SearchTree:
    """Draws ``samples`` paths of equal weight and makes each think again until its answer has
    been the same ``stable`` times in a row, or its rounds or tokens are spent. The reward model
    is not asked, and no gold answer is read.

    A path that is cut off in a later thought falls back to the end of the last whole one: a
    truncated second thought does not lose the first answer.
    """
    slots = np.arange(settings.samples, dtype=np.int32)
    nodes = np.full(settings.samples, ROOT, np.int32)
    even = np.zeros(settings.samples)
    rule = settings.step.model_copy(update={"delimiters": (*settings.step.delimiters, THINK_END)})
    tagged = settings.model_copy(update={"step": rule})
    with Frontier(problem, engine, None, tagged, key) as frontier:
        thinkers = [_Thinker(problem, engine, frontier, settings) for _ in slots]
        live = frontier.is_open(nodes)
        for t in count(1):
            reached = await frontier.extend(nodes, live, t)
            for slot in np.flatnonzero(live).tolist():
                reached[slot] = thinkers[slot].arrive(int(reached[slot]))
            frontier.tree.add_population(Population(reached, slots, even, False))
            nodes = reached.copy()
            for slot in np.flatnonzero(live).tolist():
                nodes[slot] = thinkers[slot].go_on(int(reached[slot]))
            live = frontier.is_open(nodes)
            if not live.any():
                break
        return frontier.tree.build(even, None)


class _Thinker:
    """One path of thoughts."""

    def __init__(
        self, problem: Problem, engine: Engine, frontier: Frontier, settings: ButWaitSettings
    ) -> None:
        self._problem = problem
        self._frontier = frontier
        self._tree = frontier.tree
        self._settings = settings
        self._phrase = engine.encode(settings.phrase)
        self._tag = engine.encode(THINK_END)
        self._answers: list[str | None] = []
        self._thought: int | None = None  # where the next phrase goes, once this round has one
        self._end: int | None = None  # of the last round that is whole
        self._spent = False

    def arrive(self, node: int) -> int:
        """Takes note of a new step and returns the node where the path stands after it."""
        at = self._tree.nodes[node]
        if at.finish == "length":
            self._spent = True
            return node if self._end is None else self._end
        if at.finish == "eos":
            end = self._frontier.split(node, 1, "")
        elif at.finish == "step" and self._thought is None and self._ends_with_tag(node):
            end = self._frontier.split(node, len(self._tag), THINK_END)
        else:
            end = node
        if end != node or at.finish == "box":
            self._thought = node if self._thought is None else self._thought
        if at.finish in COMPLETE:
            self._end = end
            answer = read_answer(self._tree.prefix(end).text, self._problem)
            self._answers.append(None if answer is None else canonical(answer))
            self._spent = len(self._answers) == self._settings.rounds or self._settled()
        return end

    def go_on(self, node: int) -> int:
        """Begins the next thought where one ended, if there is to be one; returns the node to go
        on from."""
        if self._spent or self._thought is None or node != self._end:
            return node
        length = self._tree.prefix(self._thought).completion_length + len(self._phrase)
        if length >= self._settings.step.max_tokens:
            return node
        again = self._frontier.insert(self._thought, self._phrase, self._settings.phrase)
        self._thought = None
        return again

    def _settled(self) -> bool:
        stable = self._settings.stable
        last = self._answers[-stable:] if stable else []
        return len(last) == stable and last[0] is not None and len(set(last)) == 1

    def _ends_with_tag(self, node: int) -> bool:
        token_ids = self._tree.nodes[node].token_ids[-len(self._tag) :]
        return np.array_equal(token_ids, self._tag)


BUT_WAIT = Sampler(ButWaitSettings, but_wait, needs_reward_model=False, second_thoughts=True)

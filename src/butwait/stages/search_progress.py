"""What the progress of a search or an evaluation shows: tokens a second, ESS, share solved."""

import time
from collections import Counter

from butwait.engines.engine import EngineCounters
from butwait.records import Attempt, SearchTree
from butwait.running.progress import Task
from butwait.search.weights import ess_share


class _Throughput:
    """Policy tokens a second since it was made, of this session alone."""

    def __init__(self, counters: EngineCounters) -> None:
        self._counters = counters
        self._before = counters.policy_tokens
        self._started = time.monotonic()

    def __str__(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        return f"{(self._counters.policy_tokens - self._before) / seconds:,.0f}"


class SearchProgress:
    """Counts finished trees, those of an earlier session included.

    Args:
        task: what shows the figures.
        counters: of the engine.
    """

    def __init__(self, task: Task, counters: EngineCounters) -> None:
        self._task = task
        self._throughput = _Throughput(counters)
        self._trees = self._solved = 0
        self._ess = 0.0

    def advance(self, tree: SearchTree) -> None:
        """One more. ``ESS`` is the mean of the last populations' effective sample sizes, as a share
        of their sizes; an extinct one counts as 0."""
        self._trees += 1
        self._solved += any(grade.correct for grade in tree.grades.values())
        if tree.outcome == "complete":
            self._ess += ess_share(tree.log_weights)
        self._task.advance(
            1,
            **{
                "tokens/s": str(self._throughput),
                "ESS": f"{self._ess / self._trees:.0%}",
                "solved": f"{self._solved / self._trees:.1%}",
            },
        )


class AttemptProgress:
    """Counts graded attempts. Takes what ``SearchProgress`` takes."""

    def __init__(self, task: Task, counters: EngineCounters) -> None:
        self._task = task
        self._throughput = _Throughput(counters)
        self._statuses: Counter[str] = Counter()

    def advance(self, attempts: list[Attempt]) -> None:
        """All attempts at one more problem."""
        self._statuses.update(attempt.status for attempt in attempts)
        correct = self._statuses["correct"] / max(self._statuses.total(), 1)
        self._task.advance(1, **{"tokens/s": str(self._throughput), "correct": f"{correct:.1%}"})

"""What the progress of a search or an evaluation shows: tokens a second, ESS, share solved."""

import time
from collections import Counter

from butwait.records import Attempt, SearchTree
from butwait.running.progress import Task
from butwait.search.weights import ess_share
from butwait.workers.crew import Crew


class _Progress:
    """Shows figures, and policy tokens a second since it was made, of this session alone.

    Args:
        task: what shows the figures.
        crew: who does the work.
    """

    def __init__(self, task: Task, crew: Crew) -> None:
        self._task, self._crew = task, crew
        self._before = crew.policy_tokens
        self._started = time.monotonic()

    def _show(self, **figures: str) -> None:
        """One more is done."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._crew.policy_tokens - self._before) / seconds
        shown = {"tokens/s": f"{rate:,.0f}"} | figures
        if self._crew.health is not None:
            shown["workers"] = str(self._crew.health)
        self._task.advance(1, **shown)


class SearchProgress(_Progress):
    """Counts finished trees, those of an earlier session included."""

    _trees = _solved = _too_long = 0
    _ess = 0.0

    def advance(self, tree: SearchTree) -> None:
        """One more. ``ESS`` is the mean of the last populations' effective sample sizes, as a share
        of their sizes; an extinct one counts as 0. ``too long``: paths that the reward model's
        context cut, where there are any."""
        self._trees += 1
        self._solved += any(grade.correct for grade in tree.grades.values())
        self._ess += ess_share(tree.log_weights)
        ess, solved = self._ess / self._trees, self._solved / self._trees
        self._too_long += tree.too_long
        cut = {"too long": str(self._too_long)} if self._too_long else {}
        self._show(ESS=f"{ess:.0%}", solved=f"{solved:.1%}", **cut)


class AttemptProgress(_Progress):
    """Counts graded attempts."""

    def __init__(self, task: Task, crew: Crew) -> None:
        super().__init__(task, crew)
        self._statuses: Counter[str] = Counter()

    def advance(self, attempts: list[Attempt]) -> None:
        """All attempts at one more problem."""
        self._statuses.update(attempt.status for attempt in attempts)
        correct = self._statuses["correct"] / max(self._statuses.total(), 1)
        self._show(correct=f"{correct:.1%}")

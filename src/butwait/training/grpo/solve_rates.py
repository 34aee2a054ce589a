"""How often does the policy solve each question, lately and by itself?"""

from collections import deque
from collections.abc import Iterable
from typing import Any


class SolveRates:
    """Correct and graded fresh samples of every question over its latest generations.

    Args:
        memory: generations of a question that count.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._counts: dict[str, deque[tuple[int, int]]] = {}

    def add(self, counts: Iterable[tuple[str, int, int]]) -> None:
        """Adds (problem id, correct, graded) of one generation."""
        for problem_id, correct, graded in counts:
            rows = self._counts.setdefault(problem_id, deque(maxlen=self._memory))
            rows.append((correct, graded))

    def rate(self, problem_id: str) -> float | None:
        """Share of correct samples; None where none was graded."""
        return _share(self._counts.get(problem_id, ()))

    def rate_with(self, problem_id: str, correct: int, graded: int) -> float:
        """The same, with ``graded`` > 0 further samples as the latest generation."""
        rows = [*self._counts.get(problem_id, ()), (correct, graded)][-self._memory :]
        share = _share(rows)
        assert share is not None
        return share

    def state(self) -> dict[str, Any]:
        """For a checkpoint: plain values."""
        return {name: [list(row) for row in rows] for name, rows in self._counts.items()}

    def restore(self, state: dict[str, Any]) -> None:
        """What ``state`` gave."""
        self._counts = {
            name: deque(((row[0], row[1]) for row in rows), maxlen=self._memory)
            for name, rows in state.items()
        }


def _share(rows: Iterable[tuple[int, int]]) -> float | None:
    counts = list(rows)
    graded = sum(row[1] for row in counts)
    return sum(row[0] for row in counts) / graded if graded else None

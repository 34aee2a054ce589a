"""What a stored log holds, whichever package wrote it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from butwait.records import UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoggedAttempt:
    """Attributes:
    text: the completion; None where the log keeps none, as for a sample that failed.
    cut: whether a token limit ended it, as far as the log tells.
    tokens: of the completion; None where the log does not tell.
    """

    text: str | None
    cut: bool = False
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class LoggedQuestion:
    """Attributes:
    id: the log's own.
    question: its text; the whole prompt where the log keeps nothing else.
    golds: accepted answers.
    attempts: in the order of the samples.
    """

    id: str
    question: str
    golds: tuple[str, ...]
    attempts: tuple[LoggedAttempt, ...]


@dataclass(frozen=True)
class Log:
    """Attributes:
    path: the file.
    package: that wrote it.
    task, model: as it names them.
    questions: in order, each with the same number of attempts.
    scores: scorer -> question's id -> what it gave: a number an attempt, or one number for all of
        them together; None where it gave none.
    prompts: whether ``question`` is the whole prompt.
    """

    path: Path
    package: str
    task: str
    model: str
    questions: tuple[LoggedQuestion, ...]
    scores: Mapping[str, Mapping[str, tuple[float | None, ...]]]
    prompts: bool = False

    def __post_init__(self) -> None:
        if not self.questions:
            raise UserError(f"{self.path} holds no question: the evaluation was empty or stopped")
        times = Counter(question.id for question in self.questions)
        if twice := next((name for name, count in times.items() if count > 1), None):
            raise UserError(f"{self.path} holds the question {twice!r} twice")
        k = self.k
        for question in self.questions:
            if len(question.attempts) != k:
                raise UserError(
                    f"{self.path} holds {len(question.attempts)} attempts at the question "
                    f"{question.id!r} and {k} at others: it is not whole; run the evaluation to "
                    "its end"
                )

    @property
    def k(self) -> int:
        """Attempts a question."""
        return max(len(question.attempts) for question in self.questions)

    def attempt_scores(self, scorer: str) -> dict[str, tuple[float | None, ...]] | None:
        """Question's id -> a scorer's number of every attempt, None of one that it did not score,
        as of a failed sample; no table where it has one number for all of them together."""
        found = self.scores[scorer]
        if any(len(values) != self.k for values in found.values()):
            return None
        return {q.id: found.get(q.id, (None,) * self.k) for q in self.questions}


def held(row: Mapping[str, Any], name: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    """The value of a field. Raises UserError where it is missing or of another kind."""
    value = row.get(name)
    if not isinstance(value, kind):
        what = "has no field" if name not in row else "has another kind of value in its field"
        raise UserError(f"{where} {what} {name!r}, so it is no log of a version that is read here")
    return value


def as_text(value: Any, where: str) -> str:
    """A value that a log writes as text or as a number. Raises UserError for any other."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{where} holds {type(value).__name__} where a text is expected")
    # Halves of a surrogate pair, which no file takes.
    return str(value).encode("utf-8", "replace").decode()


def number(value: Any) -> float | None:
    """A score as a number: C, P, I and N of inspect are 1, 0.5, 0 and 0; None for what is none."""
    if isinstance(value, str):
        return {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}.get(value)
    if not isinstance(value, bool | int | float) or value != value:
        return None
    return float(value)


def listed(names: Sequence[object]) -> str:
    """At most five names, for a sentence."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(str(name) for name in names[:5]) + more

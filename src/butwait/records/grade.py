"""The verdict on one answer."""

from dataclasses import dataclass
from typing import Literal

Status = Literal["correct", "wrong", "no_answer", "truncated", "ungradable"]
"""``no_answer``: the text ends without an answer; ``truncated``: it was cut by a token limit
before one; ``ungradable``: the gold answer is missing or unreadable, or grading broke a limit."""


@dataclass(frozen=True, slots=True)
class Grade:
    """Attributes:
    answer: the answer read from the text, None where there is none.
    status: the verdict. Only ``correct`` counts as correct; ``ungradable`` is never counted as
        either and is reported beside every rate.
    score: what a verifier of one's own gave, in [0, 1]; None where answers are compared.
    """

    answer: str | None
    status: Status
    score: float | None = None

    @property
    def correct(self) -> bool:
        return self.status == "correct"

"""A question and how its answer is judged."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

AnswerKind = Literal["integer", "math", "text"]
"""``integer``: compared as integers, no algebra; ``math``: a LaTeX or text expression."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One question.

    Attributes:
        id: stable across runs and machines; unique within a problem set.
        question: the text, without any prompt around it.
        answer: the gold answer as text; None where the source has none.
        answer_kind: how the answer is judged.
        solution: a reference solution, where the source has one.
        source: the problem set it came from (a name, a file, a hub id).
        metadata: other columns of the source that were asked for (level, subject, ...).
        also: further gold answers; an answer that equals any of them, or ``answer``, is right.
        verifier: ``module:function``, or ``gym:TASK``, that judges answers; None: they are
            compared.
        before: turns of a conversation that the question goes on, each {"role", "content"}. A
            reward model that is put questions by a template of its own reads the question alone.
        plain: whether the question is the whole prompt, which is continued as it stands.
    """

    id: str
    question: str
    answer: str | None
    answer_kind: AnswerKind = "math"
    solution: str | None = None
    source: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    also: tuple[str, ...] = ()
    verifier: str | None = None
    before: tuple[dict[str, str], ...] = ()
    plain: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "also", tuple(self.also))  # a list where it was read from a file

    @property
    def golds(self) -> tuple[str, ...]:
        """All accepted answers."""
        return self.also if self.answer is None else (self.answer, *self.also)

    @property
    def judged(self) -> bool:
        """Whether an answer to it can be judged."""
        return self.answer is not None or self.verifier is not None

    def row(self) -> dict[str, Any]:
        """Its fields by name, as a file keeps them; the later ones where they say something."""
        fields = asdict(self)
        for name in ("also", "verifier", "before", "plain"):
            if not fields[name]:
                del fields[name]
        return fields

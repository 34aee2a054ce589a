"""One answer to one problem in an evaluation."""

from dataclasses import dataclass

from butwait.records.grade import Status


@dataclass(frozen=True, slots=True)
class Attempt:
    """Attributes:
    problem_id: the problem.
    sample: index of the sample (0..k-1).
    text: the full completion.
    finish: why it ended (see ``records.tree.Finish``).
    answer: the answer that was graded.
    status: the verdict.
    tokens: policy tokens generated for this attempt (for a search: by all its particles).
    reward_tokens: reward-model tokens run for it.
    length: tokens of ``text`` itself.
    answer_class: answers of one problem that are equal have the same number, and 0 is the correct
        answer's; None where there is no answer, or one that could not be graded.
    score: what a verifier gave, in [0, 1]; None where answers are compared.
    """

    problem_id: str
    sample: int
    text: str
    finish: str
    answer: str | None
    status: Status
    tokens: int
    reward_tokens: int
    length: int
    answer_class: int | None = None
    score: float | None = None

"""One answer to one problem in an evaluation."""

from dataclasses import dataclass

import numpy as np

from butwait.records.grade import Status


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AttemptTokens:
    """The tokens of an attempt's text, in order; n of them.

    Attributes:
        characters: int32 (n,), how many characters of the text each token adds: cut there, the
            text is that of its tokens. A character of several tokens is its last one's, and the
            others have 0, as EOS has.
        logprobs: float16 (n,), nats under the sampled policy; NaN for inserted tokens.
    """

    characters: np.ndarray
    logprobs: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, AttemptTokens)
            and np.array_equal(self.characters, other.characters)
            and np.array_equal(self.logprobs, other.logprobs, equal_nan=True)
        )

    def __hash__(self) -> int:
        return hash(self.characters.tobytes())

    def __repr__(self) -> str:
        return f"AttemptTokens({len(self.characters)})"


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
    by_token: the tokens of ``text`` with their log-probabilities; None where they were not kept,
        are not known, or were not read.
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
    by_token: AttemptTokens | None = None

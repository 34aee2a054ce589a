"""What a builder takes and gives, whichever builder it is."""

from collections.abc import Callable
from dataclasses import dataclass, field

from butwait.records import Example, Problem, SearchTree


@dataclass(frozen=True, slots=True)
class StoredTree:
    """A search tree and where it is kept.

    Attributes:
        tree: the tree, with its grades.
        stage: name of the search stage.
        shard: file name of the shard.
        row: the tree's place in the shard.
    """

    tree: SearchTree
    stage: str
    shard: str
    row: int


@dataclass(frozen=True, slots=True)
class Prompting:
    """How the model that searched was prompted, and how its completions end.

    Attributes:
        messages: the chat messages of a problem.
        eos_token_id: the token that ends a completion.
        tokenizer_fingerprint: of its tokenizer.
    """

    messages: Callable[[Problem], list[dict[str, str]]]
    eos_token_id: int
    tokenizer_fingerprint: str


@dataclass(slots=True)
class BuildCounts:
    """What went into a data set and what was left out.

    Attributes:
        trees: trees read.
        questions_searched: distinct questions among them.
        correct: finished paths that were graded correct.
        duplicates_dropped: of those, repeats of another of the same question.
        candidate_lengths: tokens, EOS included, of each unique correct solution: what the
            choice rule chose from, so that its effect on length can be seen.
    """

    trees: int = 0
    questions_searched: int = 0
    correct: int = 0
    duplicates_dropped: int = 0
    candidate_lengths: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Built:
    """A builder's examples, in the order they are stored, and its counts."""

    examples: list[Example]
    counts: BuildCounts

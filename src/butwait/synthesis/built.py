"""What a builder takes and gives, whichever builder it is."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

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
    """How the model was prompted, and what its tokenizer does.

    Attributes:
        messages: the chat messages of a problem.
        eos_token_id: the token that ends a completion.
        tokenizer_fingerprint: of its tokenizer.
        prompt_ids: int32 (p,), the prompt of a problem.
        encode: int32 (n,), a text alone, without special tokens around it.
        decode: the text of a completion's tokens, without special tokens.
    """

    messages: Callable[[Problem], list[dict[str, str]]]
    eos_token_id: int
    tokenizer_fingerprint: str
    prompt_ids: Callable[[Problem], np.ndarray]
    encode: Callable[[str], np.ndarray]
    decode: Callable[[Sequence[int]], str]


@dataclass(slots=True)
class BuildCounts:
    """What went into a data set and what was left out.

    Attributes:
        trees: trees read.
        questions_searched: distinct questions that trees were given for; of an external source,
            all its questions, with a solution or without.
        correct: finished paths that were graded correct, or solutions given.
        duplicates_dropped: of those, repeats of another of the same question.
        outside_subset: questions left out by the subset's rules.
        candidate_lengths: tokens, EOS included, of each unique correct solution: what the
            choice rule chose from, so that its effect on length can be seen.
        facts: further counts of the builder, by name, for the card.
    """

    trees: int = 0
    questions_searched: int = 0
    correct: int = 0
    duplicates_dropped: int = 0
    outside_subset: int = 0
    candidate_lengths: list[int] = field(default_factory=list)
    facts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class Built:
    """A builder's examples, in the order they are stored, and its counts."""

    examples: list[Example]
    counts: BuildCounts

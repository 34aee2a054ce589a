"""What a builder of training data is: its record, what it takes and what it gives."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np

from butwait.engines.engine import Engine
from butwait.engines.settings import Sampling, StepRule
from butwait.records import Example, Key, Problem, SearchTree
from butwait.records.settings import Unfit
from butwait.running.kinds import Kinds
from butwait.synthesis.settings import DataSettings
from butwait.workers.job import Work

if TYPE_CHECKING:
    from butwait.problems.grading import Grader

S = TypeVar("S", bound=DataSettings)


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


@dataclass(frozen=True, slots=True)
class Material(Generic[S]):
    """What a builder builds from.

    Attributes:
        trees: graded trees; those of one question follow each other, and are pooled. Empty for a
            builder that takes from no search.
        problems: at least the problems of these trees.
        prompting: of the policy whose tokens these are.
        settings: the builder's.
        key: randomness of the choice and of the order.
        allowed: problem ids of the subset (``allowed_questions``); None: all.
        grader: judges answers; None where nothing is left to be judged.
        prepared: what the record's ``prepare`` found out; None where it had nothing to do.
    """

    trees: Iterable[StoredTree]
    problems: Sequence[Problem]
    prompting: Prompting
    settings: S
    key: Key
    allowed: Iterable[str] | None = None
    grader: "Grader | None" = None
    prepared: Any = None


@dataclass(frozen=True, slots=True)
class Searcher:
    """The policy that searched, for a builder that asks it once more.

    Attributes:
        engine: the policy; None where others ask it (``do``).
        rule, sampling: of the search.
        folder: where a builder keeps what is finished, so that a killed one goes on there.
        shard_size, concurrency: of the search, in questions.
        stages: the search stages whose model it is; None: all of them.
        do: has workers do the builder's ``work`` with an item; None: the engine is here.
        instead: as of ``map_shards``.
        shown: figures of who does it, for a line of progress.
    """

    engine: Engine | None
    rule: StepRule
    sampling: Sampling
    folder: Path
    shard_size: int
    concurrency: int
    stages: frozenset[str] | None = None
    do: Callable[[Any], Awaitable[Any]] | None = None
    instead: Callable[[Any], Any] | None = None
    shown: Callable[[], dict[str, str]] = dict


Prepare = Callable[[Material[Any], Searcher], Awaitable[tuple[Any, dict[str, int]]]]
"""What a builder asks the policy before it builds: gives ``Material.prepared`` and its cost in
tokens. Where several models searched, each is asked, and what they give are mappings that are
joined."""


@dataclass(frozen=True)
class Builder(Generic[S]):
    """A kind of builder.

    Attributes:
        settings: what it takes in a recipe.
        build: makes the examples; a pure function.
        label: what a model learned from, after "SFT on".
        supervision: what the builder itself adds to where the signal came from.
        needs_trees: whether it cannot do without a search. Otherwise the stage names a problem set
            (``problems``).
        check: of a ``Recipe``, a stage's name and its settings: gives all that does not fit between
            that stage and the others, the subset's rules aside; or raises ValueError for one thing.
        prepare: for settings that need the policy once more, what is asked of it; else None.
        work: of settings, and of the search's rule and sampling: what workers do with what
            ``prepare`` gives to ``Searcher.do``; None: it asks the policy in this process.
    """

    settings: type[S]
    build: Callable[[Material[S]], Built]
    label: str
    supervision: Literal["self", "external traces"] = "self"
    needs_trees: bool = True
    check: Callable[[Any, str, S], Iterable[Unfit] | None] = lambda recipe, name, settings: ()
    prepare: Callable[[S], Prepare | None] = lambda settings: None
    work: Callable[[S, StepRule, Sampling], Work] | None = None


BUILDERS: Kinds[Builder[Any]] = Kinds("data builder", "butwait.synthesis.builders", Builder)

"""What all builders share: question by question, in rounds, within limits.

A builder proper is a function from one question's trees to its examples. Trees come question by
question and are let go with it, so memory is that of one question and of the examples taken.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice, zip_longest

import numpy as np

from butwait.records import Example, Key, Problem, UserError
from butwait.synthesis.builder import BuildCounts, Built, Material, S, StoredTree
from butwait.synthesis.settings import DataSettings


@dataclass(frozen=True, slots=True)
class Question:
    """One question of the material.

    Attributes:
        problem: the question.
        trees: all of its trees.
        key: its own randomness.
        counts: of the whole data set, to be added to.
    """

    problem: Problem
    trees: Sequence[StoredTree]
    key: Key
    counts: BuildCounts


def by_question(
    material: Material[S], examples_of: Callable[[Material[S], Question], list[Example]]
) -> Built:
    """Runs a builder over all questions.

    The examples come in rounds, one of each question a round, in random order of the questions,
    so every beginning of the list is spread over them. What is taken of a question depends on
    its trees and the key alone, not on the order of the questions.

    Args:
        material: what the builder was given.
        examples_of: the builder proper: a question's examples, the preferred ones first.

    Raises:
        UserError: a tree without a problem; too few tokens for ``loss_tokens``.
    """
    by_id = {problem.id: problem for problem in material.problems}
    kept_ids = None if material.allowed is None else set(material.allowed)
    counts = BuildCounts()
    found: dict[str, list[Example]] = {}
    for problem_id, group in groupby(material.trees, key=lambda stored: stored.tree.problem_id):
        trees = list(group)
        if problem_id not in by_id:
            raise UserError(
                f"stage {trees[0].stage} searched the problem {problem_id!r}, which is not in "
                "the problem set given for it; give the set that was searched"
            )
        if problem_id in found:
            raise ValueError(f"the trees of {problem_id!r} do not follow each other")
        counts.trees += len(trees)
        counts.questions_searched += 1
        found[problem_id] = []
        if kept_ids is None or problem_id in kept_ids:
            key = material.key.derive("question", problem_id)
            question = Question(by_id[problem_id], trees, key, counts)
            found[problem_id] = examples_of(material, question)
        else:
            counts.outside_subset += 1
    return Built(select(found, material.settings, material.key), counts)


def select(found: dict[str, list[Example]], settings: DataSettings, key: Key) -> list[Example]:
    """The examples of all questions within the subset's lengths, in rounds, within the limits."""
    fitting = _of_length(found, settings.subset.length)
    rounds = islice(_in_rounds(fitting, key), settings.limit)
    return list(rounds if settings.loss_tokens is None else _up_to(rounds, settings.loss_tokens))


def _of_length(
    found: dict[str, list[Example]], quantiles: tuple[float, float] | None
) -> dict[str, list[Example]]:
    lengths = [len(example.completion_ids) for row in found.values() for example in row]
    if quantiles is None or not lengths:
        return found
    low, high = np.quantile(lengths, quantiles)
    return {
        problem_id: [example for example in row if low <= len(example.completion_ids) <= high]
        for problem_id, row in found.items()
    }


def _in_rounds(found: dict[str, list[Example]], key: Key) -> Iterator[Example]:
    """One example of every question, then a second one, ...; questions in random order."""
    order = sorted(found, key=lambda problem_id: key.derive("order", problem_id).words)
    for row in zip_longest(*(found[problem_id] for problem_id in order)):
        yield from (example for example in row if example is not None)


def _up_to(examples: Iterable[Example], wanted: int) -> Iterator[Example]:
    """The first examples whose tokens with loss sum up as near to ``wanted`` as whole examples
    come. UserError where all of them are fewer: comparisons would not be at equal tokens."""
    total = 0
    for example in examples:
        tokens = int(example.loss_mask.sum())
        if total + tokens >= wanted:
            if total + tokens - wanted <= wanted - total:
                yield example
            return
        total += tokens
        yield example
    raise UserError(
        f"loss_tokens: {wanted} are asked for and the data has {total}; lower loss_tokens in all "
        "stages that are compared, raise per_question, or search more"
    )

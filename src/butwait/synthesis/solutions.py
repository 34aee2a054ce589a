"""The finished paths of a question's trees: verdicts, correct solutions and their choice, wrong
attempts."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from butwait.records import (
    COMPLETE,
    Example,
    Grade,
    Key,
    Problem,
    SearchTree,
    Status,
    UserError,
)
from butwait.synthesis.builder import BuildCounts, Material, Prompting, StoredTree
from butwait.synthesis.pieces import UNBOXED, Piece, assemble, thinking
from butwait.synthesis.settings import Format, SolutionsSettings

if TYPE_CHECKING:
    from butwait.problems.grading import Grader

DIVERSITY_WORDS = 4
"""Words of the phrases by which two solutions are compared."""


async def grade_path(tree: SearchTree, node: int, problem: Problem, grader: "Grader") -> Grade:
    """The verdict on the path to a node. One that the reward model's context cut is truncated,
    though there be a box: nobody scored it."""
    if tree.nodes[node].too_long:
        return Grade(None, "truncated")
    return await grader.agrade(tree.path_text(node), problem, tree.nodes[node].finish)


async def grade_paths(tree: SearchTree, problem: Problem, grader: "Grader") -> dict[int, Grade]:
    """Node -> verdict for every finished path, those of dead particles included. A sampler never
    sees them."""
    finished = [i for i, node in enumerate(tree.nodes) if node.finish in COMPLETE]
    grades = await asyncio.gather(*(grade_path(tree, i, problem, grader) for i in finished))
    return dict(zip(finished, grades, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """A finished path and its place.

    Attributes:
        source: its tree.
        leaf: the node it ends in.
        token_ids: int32 (n,), ends in EOS.
        text: theirs.
    """

    source: StoredTree
    leaf: int
    token_ids: np.ndarray
    text: str

    @property
    def nodes(self) -> list[int]:
        return list(self.source.tree.path(self.leaf))

    @property
    def reward(self) -> float:
        return self.source.tree.nodes[self.leaf].reward_logit

    @property
    def grade(self) -> Grade:
        return self.source.tree.grades[self.leaf]


def correct_solutions(
    trees: Sequence[StoredTree],
    prompting: Prompting,
    counts: BuildCounts,
    format: Format = "plain",
) -> list[Solution]:
    """The unique correct solutions of one question, counted.

    A finished particle that resampling killed counts; a path cut by a token limit never does.
    Solutions are unique by their token ids and by their text with runs of white space taken as
    one space. For the format ``think`` those are left out, and counted, that a verifier of one's
    own called correct though no answer can be read in them: nothing would stand in the box.
    """
    found = [s for stored in trees for s in _graded(stored, "correct", prompting.eos_token_id)]
    kept = _unique(found)
    counts.correct += len(found)
    counts.duplicates_dropped += len(found) - len(kept)
    if format == "think" and (unboxed := sum(not s.grade.answer for s in kept)):
        counts.facts[UNBOXED] += unboxed
        kept = [solution for solution in kept if solution.grade.answer]
    counts.candidate_lengths += [len(solution.token_ids) for solution in kept]
    return kept


def choose(pool: Sequence[Solution], settings: SolutionsSettings, key: Key) -> list[Solution]:
    """At most ``per_question`` solutions in the order of preference of the rule ``choose``; ties in
    random order. With ``balance``, one of each search in turn, in that order within a search.

    Raises UserError for ``reward`` where the search asked no reward model.
    """
    shuffled = [pool[i] for i in key.generator().permutation(len(pool))]
    if not settings.balance:
        return _preferred(shuffled, settings)
    searches = dict.fromkeys(solution.source.stage for solution in pool)
    rows = [
        _preferred([s for s in shuffled if s.source.stage == own], settings) for own in searches
    ]
    in_turn = (s for turn in zip_longest(*rows) for s in turn if s is not None)
    return list(islice(in_turn, settings.per_question))


def _preferred(shuffled: list[Solution], settings: SolutionsSettings) -> list[Solution]:
    """The first ``per_question`` by the rule, which keeps the order of ties."""
    match settings.choose:
        case "random":
            ordered = shuffled
        case "shortest":
            ordered = sorted(shuffled, key=lambda s: len(s.token_ids))
        case "longest":
            ordered = sorted(shuffled, key=lambda s: -len(s.token_ids))
        case "median":
            middle = np.median([len(s.token_ids) for s in shuffled]) if shuffled else 0
            ordered = sorted(shuffled, key=lambda s: abs(len(s.token_ids) - middle))
        case "reward":
            if any(np.isnan(s.reward) for s in shuffled):
                raise UserError(
                    "choose: reward needs the rewards of a search with a reward model; choose "
                    "random, shortest, median, longest or diverse for this one"
                )
            ordered = sorted(shuffled, key=lambda s: -s.reward)
        case "diverse":
            ordered = _spread(shuffled, settings.per_question)
    return ordered[: settings.per_question]


def solved_example(
    material: Material[Any],
    problem: Problem,
    solution: Solution,
    pieces: Sequence[Piece],
    key: Key,
    **known: Any,
) -> Example:
    """The example that ends in a verified solution.

    Args:
        material: whose format is followed.
        problem: what is solved.
        solution: the path that it ends in; its prompt is that of the path's tree.
        pieces: the completion, in order.
        key: what its draws came from, for the provenance.
        known: more for the provenance, which names the builder and the path's place.

    Raises UserError for the format ``think`` where the path has no answer to box.
    """
    stored = solution.source
    if material.settings.format == "think":
        pieces = thinking(pieces, solution.grade.answer, material.prompting)
    provenance = {
        "builder": material.settings.kind,
        "problem": problem.id,
        "stage": stored.stage,
        "shard": stored.shard,
        "row": stored.row,
        "sampler": stored.tree.sampler,
        "leaf": solution.leaf,
        "finish": stored.tree.nodes[solution.leaf].finish,
        "key": list(key.words),
        **known,
    }
    return assemble(pieces, problem, stored.tree.prompt_ids, material.prompting, provenance)


def wrong_attempts(trees: Sequence[StoredTree], prompting: Prompting) -> list[Solution]:
    """The unique finished paths of one question whose answer was wrong, without those in which
    the search inserted text."""
    found = (s for stored in trees for s in _graded(stored, "wrong", prompting.eos_token_id))
    return [s for s in _unique(found) if s.source.tree.path_sampled(s.leaf).all()]


def _graded(stored: StoredTree, status: Status, eos_token_id: int) -> Iterator[Solution]:
    """The finished paths of a tree with this verdict, by node."""
    tree = stored.tree
    finished = (int(leaf) for leaf in tree.leaves if tree.nodes[leaf].finish in COMPLETE)
    if any(leaf not in tree.grades for leaf in finished):
        raise UserError(
            f"the tree of problem {tree.problem_id!r} in {stored.stage}/{stored.shard} has "
            "finished paths without a grade; run its search stage again"
        )
    for leaf, grade in sorted(tree.grades.items()):
        finish = tree.nodes[leaf].finish
        if grade.status != status or finish not in COMPLETE:
            continue
        ids = tree.path_tokens(leaf)
        if finish == "box":  # The search stopped at the box; what comes next must be learned too.
            ids = np.append(ids, np.int32(eos_token_id))
        yield Solution(stored, leaf, ids, tree.path_text(leaf))


def _unique(pool: Iterable[Solution]) -> list[Solution]:
    """The first of each set of equal solutions."""
    seen: set[bytes | str] = set()
    kept = []
    for solution in pool:
        names: set[bytes | str] = {solution.token_ids.tobytes(), " ".join(solution.text.split())}
        if names.isdisjoint(seen):
            kept.append(solution)
        seen |= names
    return kept


def _spread(pool: list[Solution], count: int) -> list[Solution]:
    """Greedy max-min (Gonzalez 1985): the first, then each time the one whose nearest chosen
    solution is the farthest. Distance is 1 minus the Jaccard index of the sets of phrases of four
    words."""
    phrases = [_phrases(solution.text) for solution in pool]
    nearest = np.full(len(pool), np.inf)
    chosen: list[int] = []
    for _ in range(min(count, len(pool))):
        chosen.append(int(np.argmax(nearest)))
        newest = phrases[chosen[-1]]
        nearest = np.minimum(nearest, [_distance(newest, other) for other in phrases])
        nearest[chosen] = -1.0
    return [pool[i] for i in chosen]


def _phrases(text: str) -> frozenset[tuple[str, ...]]:
    words = text.split()
    last = max(1, len(words) - DIVERSITY_WORDS + 1)
    return frozenset(tuple(words[i : i + DIVERSITY_WORDS]) for i in range(last))


def _distance(a: frozenset[tuple[str, ...]], b: frozenset[tuple[str, ...]]) -> float:
    shared = len(a & b)
    return 1.0 - shared / (len(a) + len(b) - shared)

"""The finished paths of a question's trees: correct solutions and wrong attempts."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from butwait.records import COMPLETE, Grade, Status, UserError
from butwait.synthesis.built import BuildCounts, Prompting, StoredTree


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
    trees: Sequence[StoredTree], prompting: Prompting, counts: BuildCounts
) -> list[Solution]:
    """The unique correct solutions of one question, counted.

    A finished particle that resampling killed counts; a path cut by a token limit never does.
    Solutions are unique by their token ids and by their text with runs of white space taken as
    one space.
    """
    found = [s for stored in trees for s in _graded(stored, "correct", prompting.eos_token_id)]
    kept = _unique(found)
    counts.correct += len(found)
    counts.duplicates_dropped += len(found) - len(kept)
    counts.candidate_lengths += [len(solution.token_ids) for solution in kept]
    return kept


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

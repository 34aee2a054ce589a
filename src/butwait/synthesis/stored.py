"""The trees of search stages, question by question, and the questions that a subset keeps."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from butwait.records import Status
from butwait.search.storage import problem_ids, read_tree
from butwait.synthesis.builder import StoredTree
from butwait.synthesis.settings import SubsetSettings

Place = tuple[str, str, int]
"""Where a tree is kept: stage, file name of the shard, row."""
PathPlace = tuple[str, str, int, int]
"""A path of it: its last node besides."""


class SearchedTrees:
    """Trees on disk, pooled by question: iterating gives all trees of the first question of the
    first stage, then of its second, ... One question is in memory at a time.

    Args:
        folders: the folder of shards of each search stage, by the stage's name.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders
        self._places: dict[str, list[tuple[str, Path, int]]] = {}
        for stage, folder in folders.items():
            rows: dict[Path, int] = {}
            for problem_id, shard in problem_ids(folder).items():
                row = rows.get(shard, 0)
                rows[shard] = row + 1
                self._places.setdefault(problem_id, []).append((stage, shard, row))

    @property
    def stages(self) -> list[str]:
        """Names of the search stages."""
        return list(self._folders)

    @property
    def questions(self) -> list[str]:
        """Problem ids, in order."""
        return list(self._places)

    def of(self, problem_id: str) -> list[StoredTree]:
        """All trees of one question."""
        return [
            StoredTree(read_tree(shard, problem_id), stage, shard.name, row)
            for stage, shard, row in self._places[problem_id]
        ]

    def at(self, stage: str, shard: str, row: int) -> StoredTree:
        """The tree that an example's provenance names."""
        place = (stage, self._folders[stage] / shard, row)
        problem_id = next(i for i, places in self._places.items() if place in places)
        return StoredTree(read_tree(place[1], problem_id), stage, shard, row)

    def __iter__(self) -> Iterator[StoredTree]:
        for problem_id in self._places:
            yield from self.of(problem_id)

    def solved_by(self, stage: str) -> set[str]:
        """Problem ids with a verified path in the trees of one stage."""
        return {
            problem_id
            for problem_id, places in self._places.items()
            for of_stage, shard, _ in places
            if of_stage == stage and read_tree(shard, problem_id).solved
        }

    def rates(self) -> dict[str, float]:
        """The share of correct paths among the graded ones of each question with any."""
        found = {}
        for problem_id in self._places:
            grades = [g for stored in self.of(problem_id) for g in stored.tree.grades.values()]
            judged = [grade.correct for grade in grades if grade.status != "ungradable"]
            if judged:
                found[problem_id] = sum(judged) / len(judged)
        return found


class JudgedTrees(SearchedTrees):
    """Trees whose correct paths a verifier has judged once more. Those that it does not call
    correct are neither right nor wrong here: their answer is right.

    Args:
        folders: as above.
        verdicts: of every path that it judged.

    Attributes:
        refused, unjudged: paths that the search calls correct and the verifier does not, and those
            for which it has no verdict.
    """

    def __init__(self, folders: Mapping[str, Path], verdicts: Mapping[PathPlace, Status]) -> None:
        super().__init__(folders)
        others = {place: status for place, status in verdicts.items() if status != "correct"}
        self.unjudged = sum(status == "ungradable" for status in others.values())
        self.refused = len(others) - self.unjudged
        self._others: dict[Place, list[int]] = {}
        for stage, shard, row, leaf in others:
            self._others.setdefault((stage, shard, row), []).append(leaf)

    def of(self, problem_id: str) -> list[StoredTree]:
        return [self._judged(stored) for stored in super().of(problem_id)]

    def _judged(self, stored: StoredTree) -> StoredTree:
        grades = stored.tree.grades
        changed = {
            leaf: replace(grades[leaf], status="ungradable")
            for leaf in self._others.get(place_of(stored), ())
        }
        return replace(stored, tree=replace(stored.tree, grades=grades | changed))


def place_of(stored: StoredTree) -> Place:
    """Where a tree is kept."""
    return stored.stage, stored.shard, stored.row


def allowed_questions(
    subset: SubsetSettings, trees: SearchedTrees, data: Mapping[str, Path]
) -> set[str] | None:
    """Problem ids that the subset's rules leave; None where they leave out none.

    Args:
        subset: the rules, which fit the stage (``SubsetSettings.check``).
        trees: of the search stages that the stage takes from.
        data: the folders of the data stages it takes from, by name.
    """
    rules: list[set[str]] = []
    if subset.solved_by is not None:
        rules.append(trees.solved_by(subset.solved_by))
    if subset.solve_rate is not None:
        low, high = subset.solve_rate
        rules.append({i for i, rate in trees.rates().items() if low <= rate <= high})
    if subset.same_questions_as is not None:
        from butwait.synthesis.dataset import load_examples

        examples = load_examples(data[subset.same_questions_as] / "dataset")
        rules.append({example.problem_id for example in examples})
    return set.intersection(*rules) if rules else None

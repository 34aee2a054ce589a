"""The trees of search stages, question by question, and the questions that a subset keeps."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from butwait.problems.grading import Grader
from butwait.records import Grade, Problem, SearchTree
from butwait.search.storage import problem_ids, read_tree
from butwait.synthesis.builder import StoredTree
from butwait.synthesis.settings import SubsetSettings


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
        problems: theirs, by id.
        verifier: ``module:function``.
        grader: asks it.

    Attributes:
        refused, unjudged: paths that the search calls correct and the verifier does not, and those
            for which it has no verdict.
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        problems: Mapping[str, Problem],
        verifier: str,
        grader: Grader,
    ) -> None:
        super().__init__(folders)
        self._verdicts: dict[tuple[str, str, int], dict[int, Grade]] = {}
        self.refused = self.unjudged = 0

        def judged(tree: SearchTree, leaf: int) -> Grade:
            problem = replace(problems[tree.problem_id], verifier=verifier)
            return grader.grade(tree.path_text(leaf), problem, tree.nodes[leaf].finish)

        with ThreadPoolExecutor(grader.workers) as threads:
            for stored in self:
                tree = stored.tree
                right = [leaf for leaf, grade in tree.grades.items() if grade.correct]
                grades = zip(right, threads.map(partial(judged, tree), right), strict=True)
                others = {leaf: grade for leaf, grade in grades if not grade.correct}
                failed = sum(grade.status == "ungradable" for grade in others.values())
                self.unjudged += failed
                self.refused += len(others) - failed
                self._verdicts[_place(stored)] = {
                    leaf: replace(tree.grades[leaf], status="ungradable") for leaf in others
                }

    def of(self, problem_id: str) -> list[StoredTree]:
        return [
            replace(each, tree=replace(each.tree, grades=each.tree.grades | verdicts))
            for each in super().of(problem_id)
            for verdicts in [self._verdicts.get(_place(each), {})]
        ]


def _place(stored: StoredTree) -> tuple[str, str, int]:
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

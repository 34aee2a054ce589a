"""What lies on disk, and answers, for a look by hand."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from butwait.api.objects import Verifier, text_of, verifier_place
from butwait.problems.answers import answer_kind, read_gold
from butwait.problems.grading import Grader
from butwait.records import AnswerKind, Grade, Problem, SearchTree
from butwait.search.node_table import NODE_TABLE, node_table
from butwait.search.storage import problem_ids, read_tree, read_trees


class Trees:
    """The trees of a search stage, read one at a time.

    Args:
        path: RUN/STAGE, or a shard.
    """

    def __init__(self, path: str | Path) -> None:
        stage = Path(path) / "trees"
        self.path = stage if stage.is_dir() else Path(path)
        self._shards = problem_ids(self.path)

    def __len__(self) -> int:
        return len(self._shards)

    def __iter__(self) -> Iterator[SearchTree]:
        return read_trees(self.path)

    def __getitem__(self, problem_id: str) -> SearchTree:
        return read_tree(self.path, problem_id)

    @property
    def problem_ids(self) -> list[str]:
        return list(self._shards)

    def nodes(self) -> pa.Table:
        """A row a node, the roots left out; ``.to_pandas()`` makes a data frame of it. Its columns
        stand in docs/trees.md (``butwait trees --parquet`` writes them)."""
        return pa.concat_tables([NODE_TABLE.empty_table(), *map(node_table, self)])


def load_trees(path: str | Path) -> Trees:
    """The trees of a search stage: ``for tree in load_trees("runs/mine/hunt")``.

    Raises UserError where there are none, or a file cannot be read.
    """
    return Trees(path)


def grade(
    response: str | float,
    gold: str | float | None,
    *,
    question: str = "",
    verifier: Verifier | None = None,
) -> Grade:
    """Whether a response (a whole solution, or an answer alone) has the gold answer:
    ``grade(r"so it is \\boxed{1/2}", "0.5").correct``. docs/grading.md has the rules.

    Args:
        response: what is judged; a number counts as its text.
        gold: the right answer, or a whole solution that ends in it (``#### 18``, a box); None where
            the ``verifier`` needs none.
        question: for the ``verifier``.
        verifier: judges in place of the rules (docs/how_to/verifier.md): ``module:function``, or a
            function, of a notebook too. Where it fails, the verdict is ``ungradable``, and a
            warning says why.

    Raises UserError where either is neither a text nor a number.
    """
    response = text_of(response, "grade: response")
    gold = None if gold is None else text_of(gold, "grade: gold")
    found = gold if gold is None or verifier is not None else read_gold(gold)
    kind: AnswerKind = "math" if found is None else answer_kind(found)
    name = None if verifier is None else verifier_place(verifier, stored=False)
    held = {str(name): verifier} if callable(verifier) else {}
    with Grader(verifiers=held) as grader:
        return grader.grade(response, Problem("", question, found, kind, verifier=name))

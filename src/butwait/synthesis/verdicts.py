"""What a data stage's verifier says of the correct paths of its searches. It is kept question by
question, so that what was judged before a kill is not asked again."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from butwait.records import Problem, Status, UserError
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.synthesis.stored import PathPlace, SearchedTrees, place_of

if TYPE_CHECKING:
    from butwait.problems.grading import Grader

Verdicts = dict[PathPlace, Status]


async def judged_again(
    trees: SearchedTrees,
    problems: Sequence[Problem],
    verifier: str,
    grader: "Grader",
    folder: Path,
    shard_size: int,
) -> Verdicts:
    """Asks a verifier about every correct path of some questions, several questions at a time, and
    once for paths of the same text.

    Args:
        trees: of searches.
        problems: the questions whose paths are judged.
        verifier: ``module:function``.
        grader: asks it.
        folder: where the verdicts are kept, and those of a killed run are found.
        shard_size: questions in one file.

    Raises UserError where there is no such function, or it was changed meanwhile.
    """
    found: Verdicts = {}

    async def one(problem: Problem) -> Verdicts:
        asked = replace(problem, verifier=verifier)
        texts = {
            (*place_of(stored), leaf): (stored.tree.path_text(leaf), stored.tree.nodes[leaf].finish)
            for stored in trees.of(problem.id)
            for leaf, grade in stored.tree.grades.items()
            if grade.correct
        }
        cases = list(dict.fromkeys(texts.values()))
        grades = await asyncio.gather(*(grader.agrade(t, asked, finish) for t, finish in cases))
        said = {case: grade.status for case, grade in zip(cases, grades, strict=True)}
        return {path: said[case] for path, case in texts.items()}

    with task("judging once more", len(problems)) as progress:

        def advance(verdicts: Verdicts) -> None:
            found.update(verdicts)
            right = sum(status == "correct" for status in found.values())
            progress.advance(1, right=f"{right} of {len(found)}")

        await map_shards(
            problems,
            one,
            ShardFormat(write_verdicts, read_verdicts, suffix=".jsonl"),
            folder,
            shard_size=shard_size,
            concurrency=grader.workers,
            on_result=advance,
        )
    return found


def write_verdicts(path: Path, found: Sequence[Mapping[PathPlace, Status]]) -> None:
    """One line a question: its paths and what was said of them."""
    rows = ([[*place, status] for place, status in question.items()] for question in found)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_verdicts(path: Path) -> list[Verdicts]:
    """What ``write_verdicts`` wrote. UserError where the file is damaged."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [
            {(stage, shard, row, leaf): said for stage, shard, row, leaf, said in json.loads(line)}
            for line in lines
        ]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; remove it and run the stage again") from error

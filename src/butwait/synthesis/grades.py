"""The verdicts on a search's finished paths, which a sampler never sees."""

import asyncio

from butwait.problems.grading import Grader
from butwait.records import COMPLETE, Grade, Problem, SearchTree


async def grade_paths(tree: SearchTree, problem: Problem, grader: Grader) -> dict[int, Grade]:
    """Node -> verdict for every finished path, those of dead particles included."""
    finished = [i for i, node in enumerate(tree.nodes) if node.finish in COMPLETE]
    grades = await asyncio.gather(
        *(grader.agrade(tree.path_text(i), problem, tree.nodes[i].finish) for i in finished)
    )
    return dict(zip(finished, grades, strict=True))

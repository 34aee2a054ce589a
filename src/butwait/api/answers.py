"""What the search of one question says."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from butwait.problems.answers import read_answer
from butwait.problems.grading import Grader
from butwait.records import Key, Problem, SearchTree
from butwait.search.selection import answer_classes, leaf_answers, select
from butwait.search.settings import SelectionMethod


@dataclass(frozen=True)
class Usage:
    """What a search cost, all of its particles together, the dead ones too.

    Attributes:
        policy_tokens: tokens that the policy sampled.
        prefilled_tokens: tokens that it ran without sampling them (the prompt).
        reward_tokens: tokens that the reward model ran.
        seconds: of wall time, without loading the models.
    """

    policy_tokens: int
    prefilled_tokens: int
    reward_tokens: int
    seconds: float


@dataclass(frozen=True)
class Solved:
    """What a search says to a question.

    Attributes:
        answer: the one that the search's final weights chose (``selection``); None where no path
            ended with an answer.
        weight: the share in [0, 1] of the final weights that stands behind it.
        text: the solution that speaks for it: the heaviest path with this answer.
        answers: every answer with its share, the heaviest first. Paths without an answer have the
            rest.
        correct: whether the answer is right, where a gold answer or a verifier was given that
            could judge it.
        tree: the whole search.
        usage: what it cost.
        recipe: the recipe whose stage ``search`` grows the same tree, as YAML: with ``question``
            in a file ``question.jsonl``. What was given as an object (an engine, a reward model, a
            function of a notebook) is not in it.
        node: of the tree, where the solution ends.
    """

    answer: str | None
    weight: float
    text: str
    answers: tuple[tuple[str, float], ...]
    correct: bool | None
    tree: SearchTree
    usage: Usage
    recipe: str
    node: int = 0

    def row(self) -> dict[str, Any]:
        """What ``butwait solve --json`` prints."""
        return {
            "answer": self.answer,
            "weight": self.weight,
            "usage": asdict(self.usage),
            "answers": [list(pair) for pair in self.answers],
            "correct": self.correct,
            "text": self.text,
        }


async def solved_of(
    tree: SearchTree,
    problem: Problem,
    selection: SelectionMethod,
    key: Key,
    grader: Grader,
    seconds: float,
    recipe: str,
    part: Callable[[str], str] = str,
) -> Solved:
    """What a finished search says.

    Args:
        tree: of the problem, graded.
        problem: the question.
        selection: how the particles become one answer.
        key: of the problem's search.
        grader: says which answers are equal.
        seconds: that it took.
        recipe: as YAML.
        part: of a path's text, that which its answer is read from.
    """
    kind = problem.answer_kind

    def extract(text: str) -> str | None:
        return read_answer(part(text), problem)

    async def equal(a: str, b: str) -> bool:
        return await grader.aequal(a, b, kind)

    chosen = await select(tree, selection, extract, equal, key)
    weights = np.exp(tree.log_weights)
    shares = {
        group.answer: (float(weights[group.leaves].sum()), group.leaves)
        for group in await answer_classes(leaf_answers(tree, extract), equal)
    }
    behind = [share for share, leaves in shares.values() if chosen.leaf in leaves]
    answers = sorted(((a, share) for a, (share, _) in shares.items()), key=lambda pair: -pair[1])
    grade = tree.grades.get(chosen.node)
    judged = grade is not None and grade.status != "ungradable"
    return Solved(
        answer=chosen.answer,
        weight=behind[0] if behind and chosen.answer is not None else 0.0,
        text=tree.path_text(chosen.node),
        answers=tuple(answers),
        correct=grade.correct if grade is not None and judged else None,
        tree=tree,
        usage=Usage(
            tree.counts.policy_tokens,
            tree.counts.prefilled_tokens,
            tree.counts.reward_tokens,
            seconds,
        ),
        recipe=recipe,
        node=chosen.node,
    )

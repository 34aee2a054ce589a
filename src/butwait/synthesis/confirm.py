"""Completes dead branches to see whether they are wrong.

A branch is completed K times by the policy that searched. If none of K completions verifies, the
share that would is at most 1 - 0.05^(1/K) with 95 % confidence (the exact bound of Clopper and
Pearson 1934 for no success; about 3/K).
"""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np

from butwait.engines.engine import Engine, Prefix
from butwait.engines.settings import Sampling, StepRule
from butwait.problems.grading import Grader
from butwait.records import COMPLETE, Key, Problem, UserError
from butwait.synthesis.built import StoredTree
from butwait.synthesis.detours import Branch, Confirmation
from butwait.synthesis.settings import ConfirmSettings


def possible_share(completions: int) -> float:
    """The largest share of verified completions that none of so many leaves possible (95 %)."""
    return 1 - 0.05 ** (1 / completions)


async def confirm(
    problem: Problem,
    branches: Iterable[tuple[StoredTree, int]],
    engine: Engine,
    grader: Grader,
    settings: ConfirmSettings,
    rule: StepRule,
    sampling: Sampling,
    key: Key,
) -> dict[Branch, Confirmation]:
    """Completes every branch ``settings.completions`` times.

    A completion that a token limit cuts counts as not verified: the search could not have used it
    either. An ungradable one is left out of both numbers.

    Args:
        problem: whose answer decides.
        branches: tree and last node.
        engine: the policy that searched.
        grader: judges the completions.
        settings: how many.
        rule: of the search; completions run to their end.
        sampling: of the search.
        key: the tokens of completion i of a branch are drawn at its own key, particle i.
    """
    to_the_end = rule.model_copy(update={"delimiters": (), "max_step_tokens": None})
    listed = list(branches)
    found = await asyncio.gather(
        *(
            _completed(problem, *branch, engine, grader, settings, to_the_end, sampling, key)
            for branch in listed
        )
    )
    places = [(stored.stage, problem.id, node) for stored, node in listed]
    return dict(zip(places, found, strict=True))


async def _completed(
    problem: Problem,
    stored: StoredTree,
    node: int,
    engine: Engine,
    grader: Grader,
    settings: ConfirmSettings,
    rule: StepRule,
    sampling: Sampling,
    key: Key,
) -> Confirmation:
    tree, count = stored.tree, settings.completions
    text = tree.path_text(node)
    ids = np.concatenate([tree.prompt_ids, tree.path_tokens(node)])
    prefix = Prefix(ids, len(tree.prompt_ids), text)
    own = key.derive("confirm", stored.stage, node)
    keys = [own.at(particle=i) for i in range(count)]
    ends = await engine.extend([prefix] * count, rule, sampling, keys)
    engine.release([end.prefix for end in ends])
    grades = [await grader.agrade(text + end.text, problem, end.finish) for end in ends]
    gradable = [
        (grade.correct and end.finish in COMPLETE)
        for grade, end in zip(grades, ends, strict=True)
        if grade.status != "ungradable"
    ]
    return Confirmation(
        len(gradable),
        sum(gradable),
        sum(len(end.token_ids) + end.overshoot_tokens for end in ends),
        sum(end.prefilled_tokens for end in ends),
    )


Answer = dict[Branch, Confirmation]


def write_confirmations(path: Path, found: Sequence[Answer]) -> None:
    """One line a question: its branches and what their completion gave."""
    with path.open("w", encoding="utf-8") as file:
        for question in found:
            rows = [[*branch, *astuple(got)] for branch, got in question.items()]
            file.write(json.dumps(rows) + "\n")


def read_confirmations(path: Path) -> list[Answer]:
    """What ``write_confirmations`` wrote. UserError where the file is damaged."""
    try:
        lines: list[list[list[Any]]] = [
            json.loads(row) for row in path.read_text(encoding="utf-8").splitlines()
        ]
        return [
            {
                (stage, problem_id, node): Confirmation(*numbers)
                for stage, problem_id, node, *numbers in rows
            }
            for rows in lines
        ]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged; remove it and run the stage again") from error

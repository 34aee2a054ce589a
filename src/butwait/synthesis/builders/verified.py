"""Correct solutions of a search as training examples: rejection sampling from search trees.

The rows are what the policy itself wrote (STaR, Zelikman et al. 2022, arXiv:2203.14465; RAFT,
Dong et al. 2023, arXiv:2304.06767), drawn by a search instead of independently.
"""

from typing import Literal

from butwait.records import Example
from butwait.synthesis.builder import Builder, Built, Material
from butwait.synthesis.pieces import path_pieces
from butwait.synthesis.questions import Question, by_question
from butwait.synthesis.settings import SolutionsSettings
from butwait.synthesis.solutions import choose, correct_solutions, solved_example


class VerifiedSettings(SolutionsSettings):
    """Correct solutions of a search, and nothing else."""

    kind: Literal["verified"] = "verified"


def build_verified(material: Material[VerifiedSettings]) -> Built:
    """The unique correct solutions of each question, at most ``per_question`` of them.

    Text that the search inserted (forced second thoughts) carries no loss: the policy did not
    draw it. Errors are those of ``by_question``; ``choose: reward`` is a UserError where the
    search asked no reward model, and trees without grades are one.
    """
    return by_question(material, _examples)


def _examples(material: Material[VerifiedSettings], question: Question) -> list[Example]:
    pool = correct_solutions(
        question.trees, material.prompting, question.counts, material.settings.format
    )
    examples = []
    for solution in choose(pool, material.settings, question.key.derive("choose")):
        pieces = path_pieces("solution", solution.source, solution.nodes, train_phrases=False)
        examples.append(solved_example(material, question.problem, solution, pieces, question.key))
    return examples


VERIFIED = Builder(VerifiedSettings, build_verified, label="its own verified search")

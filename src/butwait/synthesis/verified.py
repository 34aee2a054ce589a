"""Correct solutions of a search as training examples: rejection sampling from search trees.

The rows are what the policy itself wrote (STaR, Zelikman et al. 2022, arXiv:2203.14465; RAFT,
Dong et al. 2023, arXiv:2304.06767), drawn by a search instead of independently.
"""

from collections.abc import Iterable, Sequence

from butwait.records import Example, Key, Problem
from butwait.synthesis.build import build
from butwait.synthesis.built import BuildCounts, Built, Prompting, StoredTree
from butwait.synthesis.choose import choose
from butwait.synthesis.pieces import assemble, origin, path_pieces, thinking
from butwait.synthesis.settings import VerifiedSettings
from butwait.synthesis.solutions import correct_solutions


def build_verified(
    trees: Iterable[StoredTree],
    problems: Sequence[Problem],
    prompting: Prompting,
    settings: VerifiedSettings,
    key: Key,
    allowed: Iterable[str] | None = None,
) -> Built:
    """The unique correct solutions of each question, at most ``per_question`` of them.

    Text that the search inserted (forced second thoughts) carries no loss: the policy did not
    draw it. Arguments and errors are those of ``build``; ``choose: reward`` is a UserError where
    the search asked no reward model, and trees without grades are one.
    """

    def examples_of(
        problem: Problem, trees: Sequence[StoredTree], counts: BuildCounts, key: Key
    ) -> list[Example]:
        pool = correct_solutions(trees, prompting, counts)
        examples = []
        for solution in choose(pool, settings.choose, settings.per_question, key.derive("choose")):
            source = solution.source
            pieces = path_pieces("solution", source, solution.nodes, train_phrases=False)
            if settings.format == "think":
                pieces = thinking(pieces, solution.grade.answer or "", prompting)
            known = origin("verified", problem, source, solution.leaf, key)
            examples.append(assemble(pieces, problem, source.tree.prompt_ids, prompting, known))
        return examples

    return build(trees, problems, settings, key, examples_of, allowed)

"""Correct paths with detours: into a dead branch, a doubt, and back to where it left.

Cf. "Stream of Search" (Gandhi et al. 2024, arXiv:2404.03683), which writes down a symbolic search.
Here the branches are the policy's own, from the tree in which the correct path was found.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from butwait.records import Example, Key, Problem
from butwait.synthesis.build import build
from butwait.synthesis.built import BuildCounts, Built, Prompting, StoredTree
from butwait.synthesis.choose import choose
from butwait.synthesis.detours import (
    Branch,
    Confirmation,
    DeadBranches,
    Detour,
    evidence,
)
from butwait.synthesis.phrases import Phrases
from butwait.synthesis.pieces import (
    Piece,
    assemble,
    origin,
    path_pieces,
    phrase_piece,
    thinking,
    tree_piece,
)
from butwait.synthesis.settings import BacktrackSettings
from butwait.synthesis.solutions import Solution, correct_solutions


@dataclass(frozen=True, slots=True)
class Plan:
    """A solution and the detours that were drawn for it."""

    solution: Solution
    detours: list[Detour]

    def branch(self, detour: Detour) -> Branch:
        source = self.solution.source
        return source.stage, source.tree.problem_id, detour.end


def plan(
    trees: Sequence[StoredTree],
    prompting: Prompting,
    settings: BacktrackSettings,
    counts: BuildCounts,
    key: Key,
) -> list[Plan]:
    """At most ``per_question`` solutions of one question, with detours into their own trees.
    Solutions that no dead branch leaves are passed over."""
    pool = correct_solutions(trees, prompting, counts)
    dead = {id(s.source): DeadBranches(s.source) for s in _one_a_tree(pool)}
    left = [s for s in pool if dead[id(s.source)].forks(s.leaf)]
    chosen = choose(left, settings.choose, settings.per_question, key.derive("choose"))
    return [
        Plan(
            solution,
            dead[id(solution.source)].detours(
                solution.leaf, settings, key.derive("detours", i).generator()
            ),
        )
        for i, solution in enumerate(chosen)
    ]


def unconfirmed(plans: Iterable[Plan]) -> Iterator[tuple[StoredTree, int]]:
    """The branches of these plans that are not known to be wrong, each once: tree and last
    node."""
    seen: set[Branch] = set()
    for drawn in plans:
        for detour in drawn.detours:
            branch = drawn.branch(detour)
            if not detour.answered_wrong and branch not in seen:
                seen.add(branch)
                yield drawn.solution.source, detour.end


def build_backtrack(
    trees: Iterable[StoredTree],
    problems: Sequence[Problem],
    prompting: Prompting,
    settings: BacktrackSettings,
    phrases: Phrases,
    key: Key,
    confirmations: Mapping[Branch, Confirmation] | None = None,
    allowed: Iterable[str] | None = None,
) -> Built:
    """Examples with detours, at most ``per_question`` of a question.

    Args:
        confirmations: what completing the branches gave (``confirm``); None: they were not
            completed. Branches of which more than ``confirm.at_most`` verified are not used, and
            an example whose detours are all refuted is left out.

    The other arguments and the errors are those of ``build``.
    """
    known = confirmations or {}

    def examples_of(
        problem: Problem, trees: Sequence[StoredTree], counts: BuildCounts, key: Key
    ) -> list[Example]:
        examples = []
        for i, drawn in enumerate(plan(trees, prompting, settings, counts, key)):
            kept = [d for d in drawn.detours if not _refuted(known.get(drawn.branch(d)), settings)]
            counts.facts["branches refuted by completions"] += len(drawn.detours) - len(kept)
            if kept:
                drawn = Plan(drawn.solution, kept)
                own = key.derive("example", i)
                examples.append(_example(problem, drawn, prompting, settings, phrases, known, own))
        return examples

    return build(trees, problems, settings, key, examples_of, allowed)


def _one_a_tree(pool: Iterable[Solution]) -> Iterable[Solution]:
    return {id(solution.source): solution for solution in pool}.values()


def _refuted(found: Confirmation | None, settings: BacktrackSettings) -> bool:
    if found is None or not found.completions or settings.confirm is None:
        return False
    return found.verified / found.completions > settings.confirm.at_most


def _example(
    problem: Problem,
    drawn: Plan,
    prompting: Prompting,
    settings: BacktrackSettings,
    phrases: Phrases,
    confirmations: Mapping[Branch, Confirmation],
    key: Key,
) -> Example:
    solution, source = drawn.solution, drawn.solution.source
    path = solution.nodes

    def stretch(role: str, nodes: Sequence[int]) -> list[Piece]:
        return path_pieces(role, source, nodes, train_phrases=settings.train_phrases)

    pieces: list[Piece] = []
    at = 0
    for i, detour in enumerate(drawn.detours):
        # Before the first detour stands the beginning of a solution, after it a recovery.
        pieces += stretch("recovery" if i else "solution", path[at : detour.fork])
        mistake = tree_piece("mistake", source, detour.nodes, not settings.mask_mistakes)
        phrase = phrases.draw(settings.phrase, key.derive("phrase", i))
        doubt = phrase_piece(
            phrase, mistake.text, settings.separator, prompting, settings.train_phrases
        )
        pieces += [mistake, doubt]
        at = detour.fork
        if settings.repeat_step and at:
            pieces += stretch("recovery", path[at - 1 : at])
    pieces += stretch("recovery", path[at:])
    if settings.format == "think":
        pieces = thinking(pieces, solution.grade.answer or "", prompting)
    known = origin("backtrack", problem, source, solution.leaf, key) | {
        "detours": [
            {
                "fork": detour.fork,
                "depth": len(detour.nodes),
                **evidence(detour, drawn.branch(detour), confirmations),
            }
            for detour in drawn.detours
        ]
    }
    return assemble(pieces, problem, source.tree.prompt_ids, prompting, known)

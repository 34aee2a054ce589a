"""Correct paths with detours: into a dead branch, a doubt, and back to where it left.

Cf. "Stream of Search" (Gandhi et al. 2024, arXiv:2404.03683), which writes down a symbolic search.
Here the branches are the policy's own, from the tree in which the correct path was found.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from butwait.engines.settings import Sampling, StepRule
from butwait.records import Example, Key
from butwait.records.settings import Result, Unfit
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.synthesis.branches import (
    Branch,
    Completing,
    Confirmation,
    Confirmations,
    ConfirmSettings,
    DeadBranches,
    Detour,
    DetourSettings,
    confirm,
    read_confirmations,
    write_confirmations,
)
from butwait.synthesis.builder import (
    BuildCounts,
    Builder,
    Built,
    Material,
    Prepare,
    Searcher,
    StoredTree,
)
from butwait.synthesis.phrases import PhraseKind, Phrases, load_phrases
from butwait.synthesis.pieces import Piece, path_pieces, phrase_piece, tree_piece
from butwait.synthesis.questions import Question, by_question
from butwait.synthesis.searches import no_branches, unfit
from butwait.synthesis.solutions import (
    Solution,
    choose,
    correct_solutions,
    solved_example,
)
from butwait.workers.job import Work

if TYPE_CHECKING:
    from butwait.synthesis.stored import SearchedTrees


class BacktrackSettings(DetourSettings):
    """Detours into dead branches of the tree, a doubt, and the way back to a correct path."""

    kind: Literal["backtrack"] = "backtrack"
    repeat_step: Result[bool] = False
    """Write the step before the fork again after the doubt; else go on after it."""
    phrase: Result[PhraseKind] = "return"
    """Which phrases stand between a branch and the way back."""
    confirm: Result[ConfirmSettings | None] = None
    """How branches are confirmed to be wrong; None: they are not, and are labelled so."""


class Plan(NamedTuple):
    """A solution and the detours that were drawn for it."""

    solution: Solution
    detours: list[Detour]


def plan(material: Material[BacktrackSettings], question: Question) -> list[Plan]:
    """At most ``per_question`` solutions of one question, with detours into their own trees.
    Solutions that no dead branch leaves are passed over."""
    settings, key = material.settings, question.key
    pool = correct_solutions(question.trees, material.prompting, question.counts, settings.format)
    solved = {id(solution.source): solution.source for solution in pool}
    dead = {place: DeadBranches(stored) for place, stored in solved.items()}
    left = [s for s in pool if dead[id(s.source)].forks(s.leaf)]
    plans = []
    for i, solution in enumerate(choose(left, settings, key.derive("choose"))):
        branches, generator = dead[id(solution.source)], key.derive("detours", i).generator()
        plans.append(Plan(solution, branches.detours(solution.leaf, settings, generator)))
    return plans


def unconfirmed(plans: Iterable[Plan]) -> dict[Branch, StoredTree]:
    """The branches of these plans that are not known to be wrong, and their trees."""
    return {
        detour.branch: solution.source
        for solution, detours in plans
        for detour in detours
        if not detour.answered_wrong
    }


async def confirm_branches(
    material: Material[BacktrackSettings], searcher: Searcher
) -> tuple[Confirmations, dict[str, int]]:
    """Completes the branches that the builder will use. What a killed run finished is kept.

    Returns:
        what completing each branch gave, and what that cost in tokens.
    """
    settings, grader = material.settings, material.grader
    assert settings.confirm is not None
    assert grader is not None, "completions are to be judged"
    completions, trees = settings.confirm.completions, cast("SearchedTrees", material.trees)
    by_id = {problem.id: problem for problem in material.problems}
    asked = [i for i in trees.questions if material.allowed is None or i in material.allowed]
    found: dict[Branch, Confirmation] = {}

    async def one(problem_id: str) -> dict[Branch, Confirmation]:
        own = material.key.derive("question", problem_id)  # as in ``by_question``
        question = Question(by_id[problem_id], trees.of(problem_id), own, BuildCounts())
        branches = {
            branch: stored
            for branch, stored in unconfirmed(plan(material, question)).items()
            if searcher.stages is None or stored.stage in searcher.stages
        }
        return await confirm(question.problem, branches, searcher, grader, completions, own)

    with task("confirming branches", len(asked)) as progress:

        def advance(answer: dict[Branch, Confirmation]) -> None:
            found.update(answer)
            progress.advance(1, branches=len(found), **searcher.shown())

        await map_shards(
            asked,
            one,
            ShardFormat(write_confirmations, read_confirmations, suffix=".jsonl"),
            searcher.folder,
            shard_size=searcher.shard_size,
            concurrency=searcher.concurrency,
            on_result=advance,
            instead=searcher.instead,
        )
    return found, {
        "policy_tokens": sum(got.policy_tokens for got in found.values()),
        "prefilled_tokens": sum(got.prefilled_tokens for got in found.values()),
    }


def build_backtrack(material: Material[BacktrackSettings]) -> Built:
    """Examples with detours, at most ``per_question`` of a question.

    ``material.prepared`` is what completing the branches gave (``confirm_branches``); None: they
    were not completed. Branches of which more than ``confirm.at_most`` verified are not used, and
    an example whose detours are all refuted is left out. Errors are those of ``by_question``.
    """
    phrases = load_phrases(material.settings.phrases)
    return by_question(material, lambda material, question: _examples(material, question, phrases))


def _examples(
    material: Material[BacktrackSettings], question: Question, phrases: Phrases
) -> list[Example]:
    settings, facts = material.settings, question.counts.facts
    known: Confirmations = material.prepared or {}
    examples = []
    for i, (solution, detours) in enumerate(plan(material, question)):
        kept = [
            detour
            for detour in detours
            if not (settings.confirm and settings.confirm.refutes(known.get(detour.branch)))
        ]
        facts["branches refuted by completions"] += len(detours) - len(kept)
        if kept:
            own = question.key.derive("example", i)
            pieces = _pieces(solution, kept, material, phrases, own)
            told = [
                {"fork": detour.fork, "depth": len(detour.nodes), **detour.evidence(known)}
                for detour in kept
            ]
            examples.append(
                solved_example(material, question.problem, solution, pieces, own, detours=told)
            )
    return examples


def _pieces(
    solution: Solution,
    detours: Sequence[Detour],
    material: Material[BacktrackSettings],
    phrases: Phrases,
    key: Key,
) -> list[Piece]:
    settings, source, path = material.settings, solution.source, solution.nodes

    def stretch(role: str, nodes: Sequence[int]) -> list[Piece]:
        return path_pieces(role, source, nodes, train_phrases=settings.train_phrases)

    pieces: list[Piece] = []
    at = 0
    for i, detour in enumerate(detours):
        # Before the first detour stands the beginning of a solution, after it a recovery.
        pieces += stretch("recovery" if i else "solution", path[at : detour.fork])
        mistake = tree_piece("mistake", source, detour.nodes, not settings.mask_mistakes)
        phrase = phrases.draw(settings.phrase, key.derive("phrase", i))
        pieces += [mistake, phrase_piece(phrase, mistake.text, settings, material.prompting)]
        at = detour.fork
        if settings.repeat_step and at:
            pieces += stretch("recovery", path[at - 1 : at])
    return pieces + stretch("recovery", path[at:])


def _work(settings: BacktrackSettings, rule: StepRule, sampling: Sampling) -> Work:
    assert settings.confirm is not None
    return Completing(rule, sampling, settings.confirm.completions)


def _check(recipe: Any, name: str, settings: BacktrackSettings) -> Iterator[Unfit]:
    yield from unfit(recipe, name, settings, no_branches)


def _prepare(settings: BacktrackSettings) -> Prepare | None:
    return confirm_branches if settings.confirm else None


BACKTRACK = Builder(
    BacktrackSettings,
    build_backtrack,
    label="backtracking traces of its own search",
    check=_check,
    prepare=_prepare,
    work=_work,
)

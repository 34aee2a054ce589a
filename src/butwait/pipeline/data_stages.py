"""Stages that make training data: ``dataset/``, ``card.md``, ``statistics.json``."""

import asyncio
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from butwait.pipeline.context import StageRun
from butwait.problems.presets import with_preset
from butwait.recipe.stages import (
    BacktrackStage,
    ButWaitStage,
    ExternalStage,
    SearchStage,
    StitchStage,
    VerifiedStage,
)
from butwait.records import Problem, UserError
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.synthesis.backtrack import build_backtrack, plan, unconfirmed
from butwait.synthesis.built import BuildCounts, Built, Prompting
from butwait.synthesis.card import Origin, Supervision, write_card
from butwait.synthesis.confirm import Answer, confirm, read_confirmations, write_confirmations
from butwait.synthesis.external import build_external
from butwait.synthesis.phrases import load_phrases
from butwait.synthesis.second_thoughts import build_second_thoughts
from butwait.synthesis.settings import DataSettings
from butwait.synthesis.stitch import build_stitch
from butwait.synthesis.stored import SearchedTrees
from butwait.synthesis.verified import build_verified

Outcome = tuple[dict[str, Any], dict[str, int]]


def verified(run: StageRun) -> Outcome:
    """Correct solutions of the search."""
    settings = run.settings
    assert isinstance(settings, VerifiedStage)
    trees, problems, prompting, allowed = _material(run, settings)
    built = build_verified(trees, problems, prompting, settings, run.key, allowed)
    return _written(run, built, prompting), {}


def stitch(run: StageRun) -> Outcome:
    """Wrong attempts, a doubt, a correct solution."""
    settings = run.settings
    assert isinstance(settings, StitchStage)
    trees, problems, prompting, allowed = _material(run, settings)
    phrases = load_phrases(settings.phrases)
    built = build_stitch(trees, problems, prompting, settings, phrases, run.key, allowed)
    return _written(run, built, prompting), {}


def but_wait(run: StageRun) -> Outcome:
    """Verified paths of forced second thoughts."""
    settings = run.settings
    assert isinstance(settings, ButWaitStage)
    trees, problems, prompting, allowed = _material(run, settings)
    built = build_second_thoughts(trees, problems, prompting, settings, run.key, allowed)
    return _written(run, built, prompting), {}


def backtrack(run: StageRun) -> Outcome:
    """Detours into dead branches; ``confirmations/`` where they are completed."""
    settings = run.settings
    assert isinstance(settings, BacktrackStage)
    trees, problems, prompting, allowed = _material(run, settings)
    phrases = load_phrases(settings.phrases)
    confirmations: Answer | None = None
    cost: dict[str, int] = {}
    if settings.confirm is not None:
        asked = [i for i in trees.questions if allowed is None or i in allowed]
        confirming = _confirm(run, settings, trees, problems, prompting, asked)
        confirmations, cost = asyncio.run(confirming)
    built = build_backtrack(
        trees, problems, prompting, settings, phrases, run.key, confirmations, allowed
    )
    return _written(run, built, prompting), cost


async def _confirm(
    run: StageRun,
    settings: BacktrackStage,
    trees: SearchedTrees,
    problems: list[Problem],
    prompting: Prompting,
    questions: list[str],
) -> tuple[Answer, dict[str, int]]:
    """Completes the branches that the builder will use, by the policy that searched. What a
    killed run finished is kept."""
    searches = [stage.path.name for stage in run.inputs("trees")]
    if len({run.model_of(search) for search in searches}) > 1:
        raise UserError(
            f"confirm: the searches {', '.join(searches)} used several models; make a backtrack "
            "stage for each"
        )
    search = run.recipe.stages[searches[0]]
    assert isinstance(search, SearchStage)
    assert settings.confirm is not None
    asked, by_id = settings.confirm, {problem.id: problem for problem in problems}
    rule, sampling = search.sampler.step, search.sampler.sampling
    found: Answer = {}
    searcher = replace(run, name=searches[0])
    async with searcher.searching(problems, [rule], rewards=False) as (engine, _):

        async def one(problem_id: str) -> Answer:
            own = run.key.derive("question", problem_id)  # as in ``build``
            plans = plan(trees.of(problem_id), prompting, settings, BuildCounts(), own)
            problem, branches = by_id[problem_id], unconfirmed(plans)
            return await confirm(problem, branches, engine, run.grader, asked, rule, sampling, own)

        with task("confirming branches", len(questions)) as progress:

            def advance(answer: Answer) -> None:
                found.update(answer)
                progress.advance(branches=len(found))

            await map_shards(
                questions,
                one,
                ShardFormat(write_confirmations, read_confirmations, suffix=".jsonl"),
                run.folder / "confirmations",
                shard_size=search.shard_size,
                concurrency=search.concurrency,
                on_result=advance,
            )
    return found, {
        "policy_tokens": sum(got.policy_tokens for got in found.values()),
        "prefilled_tokens": sum(got.prefilled_tokens for got in found.values()),
    }


def external(run: StageRun) -> Outcome:
    """Solutions that others wrote."""
    settings = run.settings
    assert isinstance(settings, ExternalStage)
    searched = _searched(run) if run.inputs("trees") else None
    allowed = _allowed(run, settings, searched)
    prompting = run.prompting(run.name)
    built = build_external(
        run.problems(settings.problems), prompting, run.grader, settings, run.key, allowed
    )
    return _written(run, built, prompting), {}


def _searched(run: StageRun) -> SearchedTrees:
    return SearchedTrees({s.path.name: s.path / "trees" for s in run.inputs("trees")})


def _allowed(run: StageRun, settings: DataSettings, trees: SearchedTrees | None) -> set[str] | None:
    from butwait.synthesis.subset import allowed_questions

    data = {stage.path.name: stage.path for stage in run.inputs("data")}
    return allowed_questions(settings.subset, trees, data)


def _material(
    run: StageRun, settings: DataSettings
) -> tuple[SearchedTrees, list[Problem], Prompting, set[str] | None]:
    """Trees, the problems searched, how they were prompted, and the questions of the subset."""
    trees = _searched(run)
    problems = [problem for name in _sets(run) for problem in run.problems(name)]
    return trees, problems, run.prompting(trees.stages[0]), _allowed(run, settings, trees)


def _sets(run: StageRun) -> list[str]:
    """The problem sets whose questions the data holds, each once."""
    own = run.settings.problem_sets
    stages = (run.recipe.stages[s.path.name] for s in run.inputs("trees"))
    return list(dict.fromkeys(own or [name for stage in stages for name in stage.problem_sets]))


def _written(run: StageRun, built: Built, prompting: Prompting) -> dict[str, Any]:
    from butwait.synthesis.dataset import save_examples

    settings, sets = run.settings, _sets(run)
    searches = [stage.path.name for stage in run.inputs("trees")]
    external_data = isinstance(settings, ExternalStage)
    policy = run.name if external_data else searches[0]
    described = Origin(
        stage=run.name,
        builder=settings.kind,
        settings=settings.model_dump(mode="json", exclude={"kind", "from_"}, exclude_defaults=True),
        sources=sets,
        model=run.model_of(policy).name,
        recipe=run.recipe.name,
        seed=run.recipe.seed,
        tokenizer_fingerprint=prompting.tokenizer_fingerprint,
        supervision="external traces" if external_data else _supervision(run, searches),
        licences=_licences(run, sets),
        overlap=sum((run.problem_sets[name].dropped for name in sets), Counter()),
    )
    numbers = write_card(run.folder, built, described)
    save_examples(run.folder / "dataset", built.examples)
    return numbers


def _supervision(run: StageRun, searches: Iterable[str]) -> Supervision:
    """A public reward model is external; one of the recipe's own rollouts, the policy's own
    confidence, or none, is not."""
    for search in searches:
        public = getattr(run.recipe.stages[search], "reward_model", None)
        own = public is None or public.kind == "confidence"
        if not own and not run.recipe.inputs(search, "reward model"):
            return "external reward"
    return "self"


def _licences(run: StageRun, sets: Iterable[str]) -> dict[str, str]:
    given = {name: with_preset(run.recipe.problems[name]).licence for name in sets}
    return {name: licence for name, licence in given.items() if licence is not None}

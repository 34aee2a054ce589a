"""Stages that make training data: ``dataset/``, ``card.md``, ``statistics.json``."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

from butwait.problems.presets import with_preset
from butwait.recipe.stages import Metrics, OneSetStage, Outcome, StageKind, StageSettings
from butwait.records import Problem, UserError
from butwait.reward_models.load import is_own
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.search.settings import SAMPLERS
from butwait.stages.context import StageRun
from butwait.synthesis.backtrack import build_backtrack, plan, unconfirmed
from butwait.synthesis.built import BuildCounts, Built, Prompting
from butwait.synthesis.card import Origin, Supervision, write_card
from butwait.synthesis.confirm import Answer, confirm, read_confirmations, write_confirmations
from butwait.synthesis.external import build_external
from butwait.synthesis.phrases import load_phrases
from butwait.synthesis.second_thoughts import build_second_thoughts
from butwait.synthesis.settings import (
    BacktrackSettings,
    DataSettings,
    ExternalSettings,
    SecondThoughtsSettings,
    StitchSettings,
    SubsetSettings,
    VerifiedSettings,
)
from butwait.synthesis.stitch import build_stitch
from butwait.synthesis.stored import SearchedTrees
from butwait.synthesis.verified import build_verified


class VerifiedStage(StageSettings, VerifiedSettings):
    """Data: unique correct solutions from search trees."""

    kind: Literal["verified"]


class StitchStage(StageSettings, StitchSettings):
    """Data: wrong attempts, a doubt, a correct solution of the same question."""

    kind: Literal["stitch"]


class BacktrackStage(StageSettings, BacktrackSettings):
    """Data: correct paths with detours into dead branches of their trees."""

    kind: Literal["backtrack"]


class ButWaitStage(StageSettings, SecondThoughtsSettings):
    """Data: verified paths of a ``but_wait`` search."""

    kind: Literal["but_wait"]


class ExternalStage(OneSetStage, ExternalSettings):
    """Data: solutions that others wrote."""

    kind: Literal["external"]
    problems: str
    """The problem set whose solutions are taken (``columns.solution``)."""


def verified(run: StageRun) -> Outcome:
    """Correct solutions of the search."""
    settings = run.settings
    assert isinstance(settings, VerifiedStage)
    trees, problems, prompting, left = _material(run, settings)
    built = build_verified(trees, problems, prompting, settings, run.key, left)
    return _written(run, built, prompting), {}


def stitch(run: StageRun) -> Outcome:
    """Wrong attempts, a doubt, a correct solution."""
    settings = run.settings
    assert isinstance(settings, StitchStage)
    trees, problems, prompting, left = _material(run, settings)
    phrases = load_phrases(settings.phrases)
    built = build_stitch(trees, problems, prompting, settings, phrases, run.key, left)
    return _written(run, built, prompting), {}


def but_wait(run: StageRun) -> Outcome:
    """Verified paths of forced second thoughts."""
    settings = run.settings
    assert isinstance(settings, ButWaitStage)
    trees, problems, prompting, left = _material(run, settings)
    built = build_second_thoughts(trees, problems, prompting, settings, run.key, left)
    return _written(run, built, prompting), {}


def backtrack(run: StageRun) -> Outcome:
    """Detours into dead branches; ``confirmations/`` where they are completed."""
    settings = run.settings
    assert isinstance(settings, BacktrackStage)
    trees, problems, prompting, left = _material(run, settings)
    phrases = load_phrases(settings.phrases)
    confirmations: Answer | None = None
    cost: dict[str, int] = {}
    if settings.confirm is not None:
        asked = [i for i in trees.questions if left is None or i in left]
        confirming = _confirm(run, settings, trees, problems, prompting, asked)
        confirmations, cost = asyncio.run(confirming)
    built = build_backtrack(
        trees, problems, prompting, settings, phrases, run.key, confirmations, left
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
    search: Any = run.recipe.stages[searches[0]]
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
    left = allowed(run, settings.subset)
    prompting = run.prompting(run.name)
    built = build_external(
        run.problems(settings.problems), prompting, run.grader, settings, run.key, left
    )
    return _written(run, built, prompting), {}


def allowed(run: StageRun, subset: SubsetSettings) -> set[str] | None:
    """Ids of the problems that a subset's rules leave; None where they leave out none."""
    from butwait.synthesis.subset import allowed_questions

    data = {stage.path.name: stage.path for stage in run.inputs("data")}
    return allowed_questions(subset, _searched(run), data)


def _searched(run: StageRun) -> SearchedTrees | None:
    folders = {stage.path.name: stage.path / "trees" for stage in run.inputs("trees")}
    return SearchedTrees(folders) if folders else None


def _material(
    run: StageRun, settings: DataSettings
) -> tuple[SearchedTrees, list[Problem], Prompting, set[str] | None]:
    """Trees, the problems searched, how they were prompted, and the questions of the subset."""
    trees = _searched(run)
    assert trees is not None
    problems = [problem for name in _sets(run) for problem in run.problems(name)]
    return trees, problems, run.prompting(trees.stages[0]), allowed(run, settings.subset)


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
        own = public is None or is_own(public)
        if not own and not run.recipe.inputs(search, "reward model"):
            return "external reward"
    return "self"


def _licences(run: StageRun, sets: Iterable[str]) -> dict[str, str]:
    given = {name: with_preset(run.recipe.problems[name]).licence for name in sets}
    return {name: licence for name, licence in given.items() if licence is not None}


def _headline(metrics: Metrics) -> Iterator[str]:
    yield (
        f"{metrics['examples']} examples from {metrics['questions']} questions, "
        f"{metrics['loss_tokens']} tokens with loss"
        f" ({metrics['duplicates_dropped']} duplicates dropped)"
    )


def check_subset(recipe: Any, name: str, subset: SubsetSettings) -> None:
    """Raises ValueError where a rule names a stage that ``name`` does not take from."""
    trees, data = recipe.inputs(name, "trees"), recipe.inputs(name, "data")
    for rule, wanted, there in (
        ("solved_by", subset.solved_by, trees),
        ("same_questions_as", subset.same_questions_as, data),
    ):
        if wanted is not None and wanted not in there:
            what = "search" if there is trees else "data"
            raise ValueError(
                f"stage {name!r}: subset.{rule} names {wanted!r}, which is no {what} stage in "
                "its `from`"
            )
    if subset.solve_rate is not None and not trees:
        raise ValueError(f"stage {name!r}: subset.solve_rate needs a search stage in `from`")


def _check(recipe: Any, name: str) -> None:
    check_subset(recipe, name, recipe.stages[name].subset)


def _check_second_thoughts(recipe: Any, name: str) -> None:
    _check(recipe, name)
    for search in recipe.inputs(name, "trees"):
        sampler = recipe.stages[search].sampler
        if not SAMPLERS.of(sampler).second_thoughts:
            forcing = " | ".join(kind for kind in SAMPLERS if SAMPLERS[kind].second_thoughts)
            raise ValueError(
                f"stage {name!r} (but_wait) takes from {search!r}, whose sampler is "
                f"{sampler.kind}; it needs a search with sampler.kind: {forcing}"
            )


def _kind(settings: type[StageSettings], run: Any, label: str) -> StageKind:
    return StageKind(
        settings=settings,
        gives="data",
        takes=frozenset({"trees", "data"}),
        needs="trees",
        check=_check,
        run=run,
        headline=_headline,
        label=label,
    )


KINDS = (
    _kind(VerifiedStage, verified, "its own verified search"),
    _kind(StitchStage, stitch, "stitched attempts of its own search"),
    _kind(BacktrackStage, backtrack, "backtracking traces of its own search"),
    replace(
        _kind(ButWaitStage, but_wait, "second thoughts forced into its own search"),
        check=_check_second_thoughts,
    ),
    replace(
        _kind(ExternalStage, external, "solutions that others wrote"),
        takes=frozenset({"model", "trees", "data"}),
        needs=None,
        sets="training",
        supervision="external traces",
    ),
)

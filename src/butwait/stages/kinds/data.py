"""Stages that make training data, one for every builder: ``dataset/``, ``card.md``,
``statistics.json``."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from butwait.engines.scheduling.rows import FIXED
from butwait.problems.presets import with_preset
from butwait.recipe.stages import Metrics, OneSetStage, Outcome, StageKind, StageSettings
from butwait.records import UserError
from butwait.records.settings import Result, Unfit
from butwait.report.lineage import supervision_of
from butwait.running.files import remove
from butwait.running.plugins import wrong
from butwait.stages.context import VERDICTS, StageRun
from butwait.synthesis.builder import (
    BUILDERS,
    Builder,
    Material,
    Prepare,
    Searcher,
)
from butwait.synthesis.given import checked_build, checked_preparation
from butwait.synthesis.searches import no_rewards, unfit
from butwait.synthesis.settings import SubsetSettings

if TYPE_CHECKING:
    from butwait.synthesis.stored import SearchedTrees
    from butwait.synthesis.verdicts import Verdicts

PROVED = 4
"""Examples that are made again from their provenance before a data set is written."""


def data_stage(builder: Builder[Any]) -> StageKind:
    """The kind of stage that runs a builder, of butwait or of one's own."""
    own, fields = builder.settings, {}
    if not builder.needs_trees:
        told = "The problem set whose questions or solutions (``columns.solution``) are taken."
        fields = {"problems": (Result[str], Field(description=told))}
    base = StageSettings if builder.needs_trees else OneSetStage
    settings: Any = create_model(  # type: ignore[call-overload]
        own.__name__.replace("Settings", "Stage"),
        __base__=(own, base),
        __doc__=f"Data. {own.__doc__}",
        __module__=own.__module__,
        **fields,
    )
    return StageKind(
        settings=settings,
        gives="data",
        takes=frozenset({"trees", "data"} if builder.needs_trees else {"model", "trees", "data"}),
        needs="trees" if builder.needs_trees else None,
        sets="none" if builder.needs_trees else "training",
        check=partial(_check, builder),
        run=partial(build_data, builder),
        headline=_headline,
        label=builder.label,
        supervision=builder.supervision,
        asks=lambda settings: builder.prepare(settings) is not None,
    )


def build_data(builder: Builder[Any], run: StageRun) -> Outcome:
    """Runs a builder over the trees of the stage's searches, or over its problem set.

    What the builder asks of the policy that searched is kept in ``confirmations/``, what its
    verifier says of paths in ``verdicts/``.
    """
    from butwait.synthesis.card import Origin, write_card
    from butwait.synthesis.dataset import save_examples
    from butwait.synthesis.pieces import is_rebuilt
    from butwait.synthesis.stored import JudgedTrees, SearchedTrees

    settings: Any = run.settings
    searches = {stage.path.name: stage.path / "trees" for stage in run.inputs("trees")}
    policies = list(searches) if builder.needs_trees else [run.name]
    trees, sets = SearchedTrees(searches), _sets(run, searches)
    material = Material(
        trees=trees,
        problems=[problem for name in sets for problem in run.problems(name)],
        prompting=run.prompting(policies[0]),
        settings=settings,
        key=run.key,
        allowed=allowed(run, settings.subset),
        grader=run.grader,
    )
    by_id = {problem.id: problem for problem in material.problems}
    judged = None
    if searches and (verifier := getattr(settings, "verifier", None)):
        judged = JudgedTrees(searches, _verdicts(run, trees, material, verifier))
        material = replace(material, trees=judged)
    cost: dict[str, int] = {}
    if prepare := builder.prepare(settings):
        prepared, cost = asyncio.run(_prepared(run, builder, prepare, material, list(searches)))
        material = replace(material, prepared=prepared)
    built = checked_build(settings.kind, builder.build(material), by_id)
    if judged is not None:
        built.counts.facts["right answers that the verifier refuses"] = judged.refused
        built.counts.facts["right answers that it could not judge"] = judged.unjudged
    for example in built.examples[:PROVED]:
        problem = by_id[example.problem_id]
        if not is_rebuilt(example, problem, trees.at, material.prompting):
            raise UserError(
                f"the builder {settings.kind} gives the example of {problem.id!r} a provenance "
                "that does not make it again; mend the builder"
            )
    records = {name: stage.record for name, stage in run.done.items()}
    records[run.name] = run.stage.record
    origin = Origin(
        stage=run.name,
        builder=settings.kind,
        settings=settings.model_dump(mode="json", exclude={"kind", "from_"}, exclude_defaults=True),
        sources=sets,
        model=", ".join(dict.fromkeys(run.model_of(search).name for search in policies)),
        recipe=run.recipe.name,
        seed=run.recipe.seed,
        tokenizer_fingerprint=material.prompting.tokenizer_fingerprint,
        supervision=supervision_of(run.name, records, run.recipe.kinds()),
        licences=_licences(run, sets),
        overlap=sum((run.problem_sets[name].dropped for name in sets), Counter()),
    )
    numbers = write_card(run.folder, built, origin)
    save_examples(run.folder / "dataset", built.examples)
    return numbers | run.without(*_confirmations(run, list(searches)).values()), cost


def allowed(run: StageRun, subset: SubsetSettings) -> set[str] | None:
    """Ids of the problems that a subset's rules leave; None where they leave out none."""
    from butwait.synthesis.stored import SearchedTrees, allowed_questions

    trees = SearchedTrees({stage.path.name: stage.path / "trees" for stage in run.inputs("trees")})
    data = {stage.path.name: stage.path for stage in run.inputs("data")}
    return allowed_questions(subset, trees, data)


def _verdicts(
    run: StageRun, trees: "SearchedTrees", material: Material[Any], verifier: str
) -> "Verdicts":
    """What the stage's verifier says of the paths of its questions. UserError where it has no
    verdict on any of them, of which nothing is kept."""
    from butwait.synthesis.verdicts import judged_again

    by_id, folder = {problem.id: problem for problem in material.problems}, run.folder / VERDICTS
    asked = [by_id[i] for i in trees.questions if i in by_id]
    if material.allowed is not None:
        asked = [problem for problem in asked if problem.id in material.allowed]
    search: Any = run.recipe.stages[trees.stages[0]]
    given = (verifier, run.grader, folder, search.shard_size)
    found = asyncio.run(judged_again(trees, asked, *given))
    if found and set(found.values()) == {"ungradable"}:
        remove(folder)  # or nobody would ask again
        told = f"{verifier} could judge none of the {len(found)} right answers"
        raise UserError("; ".join([told, *run.grader.untold()]))
    return found


async def _prepared(
    run: StageRun,
    builder: Builder[Any],
    prepare: Prepare,
    material: Material[Any],
    searches: list[str],
) -> tuple[Any, dict[str, int]]:
    """What the builder asks of the policies that searched, and its cost. Each model is asked about
    its own searches, by the rules of the first of them."""
    kind, folders = material.settings.kind, _confirmations(run, searches)
    answers: list[Any] = []
    cost = Counter[str]()
    for own, folder in folders.items():
        search: Any = run.recipe.stages[own[0]]
        rule, sampling = search.sampler.step, search.sampler.sampling
        asking = replace(run, name=own[0])
        searcher = Searcher(
            None,
            rule,
            sampling,
            folder,
            search.shard_size,
            FIXED if search.concurrency == "auto" else search.concurrency,
            frozenset(own),
            instead=run.instead(lambda problem_id: {}),
        )
        if builder.work is None:
            async with asking.searching(material.problems, [rule], rewards=False) as (engine, _):
                found = await prepare(material, replace(searcher, engine=engine))
        else:
            given = (builder.work(material.settings, rule, sampling), material.problems, [rule])
            async with asking.crew(*given, search.concurrency, rewards=False) as crew:
                held = replace(searcher, concurrency=crew.size, do=crew.do, shown=crew.shown)
                found = await prepare(material, held)
        answer, spent = checked_preparation(kind, found)
        if len(folders) > 1 and not isinstance(answer, dict):
            raise wrong(kind, "its prepare", answer, "a mapping, where several models searched")
        answers.append(answer)
        cost.update(spent)
    joined = answers[0] if len(answers) == 1 else {k: v for a in answers for k, v in a.items()}
    return joined, dict(cost)


def _confirmations(run: StageRun, searches: list[str]) -> dict[tuple[str, ...], Path]:
    """The searches of each model, and where what it is asked about them is kept."""
    of_model = defaultdict[Any, list[str]](list)
    for name in searches:
        of_model[run.model_of(name)].append(name)
    folder, several = run.folder / "confirmations", len(of_model) > 1
    return {tuple(own): folder / own[0] if several else folder for own in of_model.values()}


def _sets(run: StageRun, searches: Iterable[str]) -> list[str]:
    """The problem sets whose questions the data holds, each once."""
    own = run.settings.problem_sets
    stages = (run.recipe.stages[search] for search in searches)
    return list(dict.fromkeys(own or [name for stage in stages for name in stage.problem_sets]))


def _licences(run: StageRun, sets: Iterable[str]) -> dict[str, str]:
    given = {name: with_preset(run.recipe.problems[name]).licence for name in sets}
    return {name: licence for name, licence in given.items() if licence is not None}


def _headline(metrics: Metrics) -> Iterator[str]:
    yield (
        f"{metrics['examples']} examples from {metrics['questions']} questions, "
        f"{metrics['loss_tokens']} tokens with loss"
        f" ({metrics['duplicates_dropped']} duplicates dropped)"
    )
    if names := metrics.get("set_aside"):
        told = "stay unconfirmed: completing them ended two workers"
        yield f"branches of {', '.join(names)} {told}"


def _check(builder: Builder[Any], recipe: Any, name: str) -> Iterator[Unfit]:
    settings = recipe.stages[name]
    yield from settings.subset.check(recipe, name)
    if getattr(settings, "choose", None) == "reward":
        yield from unfit(recipe, name, settings, no_rewards, "choose")
    yield from builder.check(recipe, name, settings) or ()


KINDS = tuple(data_stage(BUILDERS[kind]) for kind in BUILDERS)

"""What a stage of each kind does: it reads folders, calls one layer, and writes a folder.

Every function returns (metrics, cost) for stage.json. Metrics are rates and counts; cost is in
tokens. A function may be called again after a kill: what it finds on disk it does not repeat.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, product
from typing import Any

from butwait.engines.engine import Engine
from butwait.evaluation.attempts import run_attempts
from butwait.evaluation.compare import compare, with_holm
from butwait.evaluation.metrics import summarise
from butwait.evaluation.storage import read_attempts
from butwait.pipeline.context import StageRun
from butwait.pipeline.search_metrics import search_metrics
from butwait.recipe.recipe import EvaluateStage, PrmStage, SearchStage, SftStage, VerifiedStage
from butwait.records import COMPLETE, Attempt, Grade, Problem, SearchTree
from butwait.reward_models.reward_model import RewardModel
from butwait.running.progress import task
from butwait.running.shards import ShardFormat, map_shards
from butwait.running.stages import Stage
from butwait.search.run import run_sampler
from butwait.search.storage import read_shard, read_trees, shard_paths, write_shard
from butwait.synthesis.built import StoredTree

Outcome = tuple[dict[str, Any], dict[str, int]]


def evaluate(run: StageRun) -> Outcome:
    """Attempts at every problem set by every method: ``attempts/<set>/<method>/``."""
    settings = run.settings
    assert isinstance(settings, EvaluateStage)
    return asyncio.run(_evaluate(run, settings))


async def _evaluate(run: StageRun, settings: EvaluateStage) -> Outcome:
    metrics, cost = {}, {"policy_tokens": 0, "reward_tokens": 0}
    everything = [p for name in settings.problems for p in run.problems(name)]
    rules = [method.sampler.step for method in settings.methods.values()]
    async with run.searching(everything, rules) as policy:
        for problem_set, method in product(settings.problems, settings.methods):
            attempts = await _attempts(run, settings, problem_set, method, *policy)
            metrics[f"{problem_set}/{method}"] = summarise(attempts)
            cost["policy_tokens"] += sum(attempt.tokens for attempt in attempts)
            cost["reward_tokens"] += sum(attempt.reward_tokens for attempt in attempts)
    return metrics, cost


async def _attempts(
    run: StageRun,
    settings: EvaluateStage,
    problem_set: str,
    method: str,
    engine: Engine,
    reward_model: RewardModel | None,
) -> list[Attempt]:
    """All attempts at one problem set by one method."""
    problems = run.problems(problem_set)
    with task(f"{problem_set}, {method}", len(problems)) as progress:
        statuses: Counter[str] = Counter()

        def advance(attempts: list[Attempt]) -> None:
            statuses.update(attempt.status for attempt in attempts)
            progress.advance(correct=f"{statuses['correct'] / statuses.total():.1%}")

        return await run_attempts(
            problems,
            engine,
            reward_model,
            run.grader,
            settings.methods[method],
            run.key.derive(problem_set, method),
            run.folder / "attempts" / problem_set / method,
            shard_size=settings.shard_size,
            concurrency=settings.concurrency,
            on_problem=advance,
        )


def prm(run: StageRun) -> Outcome:
    """A reward model from rollouts: ``rollouts/``, ``model/``, ``audit.json``."""
    settings = run.settings
    assert isinstance(settings, PrmStage)
    from butwait.training.prm import train_prm
    from butwait.training.rollouts import collect_rollouts

    async def collect() -> list[Any]:
        rule = settings.rollouts.steps
        problems = run.problems(settings.problems)
        async with run.searching(problems, [rule], rewards=False) as (engine, _):
            return await collect_rollouts(
                engine, problems, run.grader, settings.rollouts, run.key, run.folder / "rollouts"
            )

    rollouts = asyncio.run(collect())
    result = train_prm(run.model, rollouts, settings, run.recipe.prompt, run.folder, run.key)
    sampled = result.metrics["sampled_tokens"]
    return result.metrics, {
        "policy_tokens": sampled,
        "trained_tokens": result.metrics["trained_tokens"],
    }


def search(run: StageRun) -> Outcome:
    """Graded search trees: ``trees/``."""
    settings = run.settings
    assert isinstance(settings, SearchStage)
    problems = run.problems(settings.problems)
    asyncio.run(_search(run, settings, problems))
    return search_metrics(read_trees(run.folder / "trees"))


async def _search(run: StageRun, settings: SearchStage, problems: list[Problem]) -> None:
    async with run.searching(problems, [settings.sampler.step]) as (engine, reward_model):

        async def one(problem: Problem) -> SearchTree:
            key = run.key.derive(problem.id)
            tree = await run_sampler(problem, engine, reward_model, settings.sampler, key)
            tree.grades.update(await _grades(tree, problem, run))
            return tree

        with task("searching", len(problems)) as progress:
            solved = 0

            def advance(tree: SearchTree) -> None:
                nonlocal solved
                solved += any(grade.correct for grade in tree.grades.values())
                progress.advance(solved=solved)

            await map_shards(
                problems,
                one,
                ShardFormat(write_shard, read_shard),
                run.folder / "trees",
                shard_size=settings.shard_size,
                concurrency=settings.concurrency,
                on_result=advance,
            )


async def _grades(tree: SearchTree, problem: Problem, run: StageRun) -> dict[int, Grade]:
    """The verdict on every finished path, those of dead particles included."""
    finished = [i for i, node in enumerate(tree.nodes) if node.finish in COMPLETE]
    grades = await asyncio.gather(
        *(run.grader.agrade(tree.path_text(i), problem, tree.nodes[i].finish) for i in finished)
    )
    return dict(zip(finished, grades, strict=True))


def verified(run: StageRun) -> Outcome:
    """Correct solutions of the search: ``dataset/``, ``card.md``, ``statistics.json``."""
    settings = run.settings
    assert isinstance(settings, VerifiedStage)
    from butwait.synthesis.card import Origin, write_card
    from butwait.synthesis.dataset import save_examples
    from butwait.synthesis.verified import build_verified

    searches = run.inputs("trees")
    sets = [name for s in searches for name in run.recipe.stages[s.path.name].problem_sets]
    problems = [problem for name in sets for problem in run.problems(name)]
    prompting = run.prompting(searches[0].path.name)
    built = build_verified(_stored(searches), problems, prompting, settings, run.key)
    save_examples(run.folder / "dataset", built.examples)
    own = [run.recipe.inputs(s.path.name, "reward model") for s in searches]
    origin = Origin(
        stage=run.name,
        builder="verified",
        settings=settings.model_dump(mode="json", exclude={"kind", "from_"}),
        sources=sets,
        model=run.model_of(searches[0].path.name).name,
        recipe=run.recipe.name,
        seed=run.recipe.seed,
        tokenizer_fingerprint=prompting.tokenizer_fingerprint,
        supervision="self" if all(own) else "external reward",
    )
    return write_card(run.folder, built, origin), {}


def _stored(searches: list[Stage]) -> Iterator[StoredTree]:
    for stage in searches:
        for shard in shard_paths(stage.path / "trees"):
            for row, tree in enumerate(read_shard(shard)):
                yield StoredTree(tree, stage.path.name, shard.name, row)


def sft(run: StageRun) -> Outcome:
    """A fine-tuned model: ``model/``, ``log.jsonl``."""
    settings = run.settings
    assert isinstance(settings, SftStage)
    from butwait.synthesis.dataset import load_examples
    from butwait.training.sft import train_sft

    examples = [e for data in run.inputs("data") for e in load_examples(data.path / "dataset")]
    seed = run.key.derive("train").seed32()
    metrics = train_sft(run.model, examples, settings, run.folder, seed, run.recipe.prompt)
    return metrics, {"trained_tokens": metrics["trained_tokens"]}


def report(run: StageRun) -> Outcome:
    """``report.html`` and ``summary.json`` in the run's folder."""
    from butwait.report.page import write_report

    sources = run.recipe.sources(run.name)
    records = [run.done[name].record for name in run.recipe.order() if name in sources]
    own = run.stage.record | {"status": "complete"}
    started = time.monotonic()
    comparisons = with_holm(list(_comparisons(run)))
    own["seconds"] = round(time.monotonic() - started, 3)
    summary = write_report(run.folder.parent, [*records, own], run.recipe.name, comparisons)
    return {"verdict": summary["verdict"]}, {}


def _comparisons(run: StageRun) -> Iterator[dict[str, Any]]:
    """Any two evaluations on the same set that share the method or the model: two models by one
    method, or two methods of one model. The earlier one is the baseline."""
    rows = [
        (stage, *name.split("/", 1))
        for stage in run.inputs("evaluation")
        for name in stage.record["metrics"]
    ]
    for (a, set_a, method_a), (b, set_b, method_b) in combinations(rows, 2):
        same_model = run.model_of(a.path.name) == run.model_of(b.path.name)
        if set_a == set_b and (method_a == method_b) != same_model:
            yield _compared(a, b, set_a, method_a, method_b)


def _compared(a: Stage, b: Stage, problem_set: str, method_a: str, method_b: str) -> dict[str, Any]:
    sides: list[Any] = []
    for stage, method in ((a, method_a), (b, method_b)):
        folder = stage.path / "attempts" / problem_set / method
        sides += [f"{stage.path.name}/{problem_set}/{method}", read_attempts(folder, texts=False)]
    return compare(*sides)


STAGES: dict[str, Callable[[StageRun], Outcome]] = {
    "evaluate": evaluate,
    "prm": prm,
    "search": search,
    "verified": verified,
    "sft": sft,
    "report": report,
}

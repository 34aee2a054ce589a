"""Stages of reinforcement learning: ``model/``, ``log.jsonl``, ``samples.jsonl``,
``looks.jsonl``."""

from typing import Any

from butwait.engines.engine import Engine
from butwait.engines.settings import Sampling
from butwait.evaluation.attempts import run_attempts
from butwait.evaluation.metrics import summarise
from butwait.evaluation.settings import MethodSettings
from butwait.pipeline.context import StageRun
from butwait.profile.patterns import shipped_patterns
from butwait.recipe.stages import GrpoDirectStage, GrpoStage
from butwait.records import Attempt, Problem, UserError
from butwait.search.settings import IndependentSettings
from butwait.synthesis.stored import SearchedTrees
from butwait.synthesis.subset import allowed_questions

Outcome = tuple[dict[str, Any], dict[str, int]]


def grpo(run: StageRun) -> Outcome:
    """A policy trained by GRPO, or by GRPO-Direct (whose trees are in ``searches/``)."""
    settings = run.settings
    assert isinstance(settings, GrpoStage | GrpoDirectStage)
    from butwait.training.grpo.looks import Evaluate, LookResult
    from butwait.training.grpo.train import Material, train_grpo

    selection = settings.selection
    looked_at = [] if selection is None else run.problems(selection.problems)

    async def look(engine: Engine, step: int) -> LookResult:
        assert selection is not None
        method = MethodSettings(
            k=selection.samples,
            sampler=IndependentSettings(
                step=settings.step, sampling=Sampling(temperature=selection.temperature)
            ),
        )
        folder = run.folder / "looks" / f"{step:08d}"
        key = run.key.derive("look")  # the same draws at every look: less noise between them
        attempts = await run_attempts(looked_at, engine, None, run.grader, method, key, folder)
        return _seen(attempts, looked_at, selection.texts)

    evaluate: Evaluate | None = None if selection is None else look
    material = Material(
        model=run.model,
        prompt=run.recipe.prompt,
        prompting=run.prompting(run.name),
        problems=_questions(run, settings),
        grader=run.grader,
        habits=shipped_patterns(),
        reward_model=run.reward_model,
        evaluate=evaluate,
        looked_at=looked_at,
        key=run.key,
    )
    metrics = train_grpo(material, settings, run.folder)
    names = ("policy_tokens", "prefilled_tokens", "reward_tokens", "trained_tokens")
    cost = {name: metrics[name] for name in names}
    cost["policy_tokens"] += metrics["look_tokens"]
    return metrics, cost


def _seen(attempts: list[Attempt], problems: list[Problem], texts: int) -> Any:
    from butwait.training.grpo.looks import LookResult

    figures = summarise(attempts)
    questions = {problem.id: problem.question for problem in problems}
    first = [row for row in attempts if row.sample == 0][:texts]
    return LookResult(
        accuracy=figures["pass_at_1"],
        interval=tuple(figures["interval"]),
        n=figures["n"],
        k=figures["k"],
        length=figures["length"]["mean"],
        policy_tokens=sum(row.tokens for row in attempts),
        texts=[
            {
                "problem_id": row.problem_id,
                "question": questions[row.problem_id],
                "text": row.text,
                "status": row.status,
            }
            for row in first
        ],
    )


def _questions(run: StageRun, settings: GrpoStage | GrpoDirectStage) -> list[Problem]:
    """The problems that the stage's ``subset`` leaves, without those that cannot be graded."""
    folders = {stage.path.name: stage.path / "trees" for stage in run.inputs("trees")}
    allowed = allowed_questions(settings.subset, SearchedTrees(folders) if folders else None, {})
    problems = run.problems(settings.problems)
    gold = [problem for problem in problems if problem.answer is not None]
    if not gold:
        raise UserError(
            f"no problem of {settings.problems!r} has an answer, so nothing could be rewarded; "
            "name the column under columns.answer"
        )
    return [problem for problem in gold if allowed is None or problem.id in allowed]

"""Reinforcement learning: ``model/``, ``log.jsonl``, ``samples.jsonl``, ``looks.jsonl``, and the
trees of GRPO-Direct in ``searches/``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from butwait.engines.engine import Engine
from butwait.engines.settings import Sampling
from butwait.evaluation.settings import MethodSettings
from butwait.recipe.stages import Metrics, OneSetStage, Outcome, StageKind
from butwait.records import Attempt, Problem, UserError
from butwait.records.settings import Result, Unfit
from butwait.report.sections import REINFORCEMENT
from butwait.reward_models.settings import RewardModelSettings
from butwait.search.samplers.samples import IndependentSettings
from butwait.stages.context import StageRun
from butwait.stages.kinds.data import allowed
from butwait.synthesis.searches import no_branches, no_rewards
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings


class _ReinforcementStage(OneSetStage, GrpoSettings):
    """What the stages of reinforcement learning have in common."""

    problems: Result[str]
    """The problem set that is trained on."""

    @property
    def selection_sets(self) -> tuple[str, ...]:
        return () if self.selection is None else (self.selection.problems,)


class GrpoStage(_ReinforcementStage):
    """Reinforcement learning on questions whose answers can be checked."""

    kind: Literal["grpo"]


class GrpoDirectStage(_ReinforcementStage, GrpoDirectSettings):
    """Reinforcement learning with data from its own searches, in the same loop."""

    kind: Literal["grpo_direct"]
    reward_model: Result[RewardModelSettings | None] = None
    """A public reward model; a ``prm`` stage in ``from`` gives the recipe's own."""


def grpo(run: StageRun) -> Outcome:
    """A policy trained by GRPO, or by GRPO-Direct (whose trees are in ``searches/``)."""
    settings = run.settings
    assert isinstance(settings, _ReinforcementStage)
    from butwait.evaluation.attempts import run_attempts
    from butwait.profile.patterns import shipped_patterns
    from butwait.training.grpo.looks import Evaluate, LookResult
    from butwait.training.grpo.train import GrpoMaterial, train_grpo

    selection = settings.selection
    looked_at = [] if selection is None else run.problems(selection.problems)

    async def look(engine: Engine, name: str) -> LookResult:
        assert selection is not None
        method = MethodSettings(
            k=selection.samples,
            sampler=IndependentSettings(
                step=settings.step, sampling=Sampling(temperature=selection.temperature)
            ),
        )
        folder = run.folder / "looks" / name
        key = run.key.derive("look")  # the same draws at every look: less noise between them
        attempts = await run_attempts(looked_at, engine, None, run.grader, method, key, folder)
        return _seen(attempts, looked_at, selection.texts)

    evaluate: Evaluate | None = None if selection is None else look
    material = GrpoMaterial(
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
    from butwait.evaluation.metrics import attempt_figures
    from butwait.training.grpo.looks import LookResult

    figures = attempt_figures(attempts)
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


def _questions(run: StageRun, settings: _ReinforcementStage) -> list[Problem]:
    """The problems that the stage's ``subset`` leaves, without those that cannot be graded."""
    left = allowed(run, settings.subset)
    problems = run.problems(settings.problems)
    judged = [problem for problem in problems if problem.judged]
    if not judged:
        raise UserError(
            f"no problem of {settings.problems!r} has an answer, so nothing could be rewarded; "
            "name the column under columns.answer"
        )
    return [problem for problem in judged if left is None or problem.id in left]


def _headline(metrics: Metrics) -> Iterator[str]:
    first, last = metrics["reward_first"], metrics["reward_last"]
    reward = f", reward {_reward(first)} to {_reward(last)}" if metrics["steps"] else ""
    yield f"{metrics['steps']} steps, {metrics['policy_tokens']} tokens sampled{reward}"
    if metrics["stopped"]:
        yield f"stopped: {metrics['stopped']}"
    if metrics["searched"]:
        yield (
            f"{metrics['searched']} searches, {metrics['solved']} solved, "
            f"{metrics['search_tokens']} of the tokens"
        )
    if metrics["poor"]:
        yield (
            f"{metrics['poor']} of {metrics['searched']} searches were poor: few particles carried "
            "the weight, or few first steps were left (floors)"
        )
    if cut := metrics.get("too_long"):
        yield f"{cut} paths of searches were longer than the reward model takes: truncated"
    if metrics["best_step"] is not None:
        yield (
            f"held out: {metrics['first_accuracy']:.1%} before, {metrics['best_accuracy']:.1%} at "
            f"step {metrics['best_step']}, which is kept"
        )


def _reward(mean: float | None) -> str:
    return "unknown (no answer could be graded)" if mean is None else f"{mean:.3f}"


def _check(recipe: Any, name: str) -> Iterator[Unfit]:
    yield from recipe.stages[name].subset.check(recipe, name)


def _too_few(settings: Any, problems: Mapping[str, Sequence[Problem]]) -> Iterator[Unfit]:
    """A generation that asks more questions than there are; what ``subset`` leaves of them is known
    later."""
    asked = problems.get(settings.problems)
    found = sum(p.judged for p in asked or ())
    if asked and found < settings.questions:
        yield (
            ("questions",),
            f"a generation asks {settings.questions} questions and {settings.problems!r} has "
            f"{found} with an answer: lower `questions`, or give more problems",
        )


_OF_DATA_STAGES = ("verifier", "subset", "limit", "loss_tokens")
"""Settings of ``backtrack`` that have no meaning in the loop, tree by tree."""


def _check_direct(recipe: Any, name: str) -> Iterator[Unfit]:
    """As ``_check``, and the detours that its searches are to give."""
    yield from _check(recipe, name)
    stage = recipe.stages[name]
    if stage.backtrack is None:
        return
    told = f"stage {name!r}: backtrack"
    if (why := no_branches(stage.sampler)) is not None:
        yield ("backtrack",), f"{told} learns from its own searches, whose {why}"
    if stage.backtrack.choose == "reward" and (why := no_rewards(stage.sampler)) is not None:
        yield ("backtrack", "choose"), f"{told} chooses from its own searches, whose {why}"
    for key in _OF_DATA_STAGES:
        default = type(stage.backtrack).model_fields[key].get_default(call_default_factory=True)
        if getattr(stage.backtrack, key) != default:
            yield ("backtrack", key), f"{told}.{key} is for data stages; leave it out in the loop"


GRPO = StageKind(
    settings=GrpoStage,
    gives="model",
    takes=frozenset({"model", "trees"}),
    sets="training",
    check=_check,
    lacks=_too_few,
    run=grpo,
    headline=_headline,
    label="GRPO",
    asks=lambda settings: False,  # it draws by `generation`
    section=REINFORCEMENT,
)
GRPO_DIRECT = StageKind(
    settings=GrpoDirectStage,
    gives="model",
    takes=frozenset({"model", "trees", "reward model"}),
    sets="training",
    check=_check_direct,
    lacks=_too_few,
    run=grpo,
    headline=_headline,
    label="GRPO-Direct",
    asks=lambda settings: False,
    section=REINFORCEMENT,
)

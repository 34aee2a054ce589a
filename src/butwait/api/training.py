"""Data and trainings as stages of a run (``api.growing``)."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from butwait.api.calls import RunDir, arguments, call_of, handles_in, model_meant, type_of
from butwait.api.finished import (
    DataSet,
    Finished,
    Searched,
    TrainedModel,
    TrainedRewardModel,
)
from butwait.api.growing import Call, made
from butwait.api.grown import Grown, stored
from butwait.api.loops import one_run
from butwait.api.objects import Verifier, place_of
from butwait.api.problems import ProblemSets
from butwait.api.question import (
    METHOD,
    Given,
    Judge,
    Model,
    sampler_content,
    suited_to,
    written,
)
from butwait.engines.engine import Engine
from butwait.recipe.stages import StageKind
from butwait.records import SearchTree, UserError
from butwait.running.expected import meant
from butwait.stages.kinds import STAGES
from butwait.synthesis.builder import BUILDERS


def build(
    source: Searched | list[SearchTree] | ProblemSets | Sequence[Searched | DataSet],
    builder: str | Given | StageKind = "verified",
    *,
    model: Model | None = None,
    run_dir: RunDir | None = None,
    name: str | None = None,
    seed: int | None = None,
    engine: str | Given | Engine | None = None,
    prompt: Given | None = None,
    verifier: Verifier | None = None,
    **settings: Any,
) -> DataSet:
    """Training examples, as a stage of a run: ``build(hunt, "verified", per_question=2)``.

    Args:
        source: what ``search`` gave, which becomes a stage of the run where it is in memory;
            several stages of a run; data too, where ``subset`` names it; or, for a builder that
            takes solutions (``external``), a problem
            set, as of ``evaluate``.
        builder: its name (docs/synthesis.md), its settings with ``kind``, or the record of one's
            own (docs/how_to/index.md).
        model, seed, engine, prompt, verifier: of a problem set, as of ``evaluate``. Searches have
            their own.
        run_dir, name: as of ``evaluate``.
        **settings: of the builder. Handles may stand for the stages that they name:
            ``subset={"solved_by": hunt}``.

    Raises:
        UserError: a mistake in what was given, in one sentence; no example could be made.
    """
    own: dict[str, Any] = {}
    if isinstance(builder, StageKind):
        kind = place_of(builder, "builder", stored=True)
    elif isinstance(builder, str):
        kind = builder
    else:
        own = dict(written(builder, "builder", stored=True))
        kind = str(own.pop("kind", None))
    if kind not in BUILDERS:
        known = ", ".join(BUILDERS)
        raise UserError(
            f"builder: there is no {kind!r}{meant(kind, list(BUILDERS))} (there are: {known}, and "
            "module:NAME of your own)"
        )
    if isinstance(source, Grown):
        grown = source
        source = one_run(lambda: stored(grown, run_dir))
    handles = handles_in(source)
    if (
        handles is None
        and isinstance(source, list)
        and source
        and isinstance(source[0], SearchTree)
    ):
        raise UserError(
            "build: these trees do not say what grew them; give the whole list that search returned"
        )
    call = call_of(
        "build",
        kind,
        model,
        run_dir,
        seed,
        prompt,
        engine,
        inputs=handles or [],
        problems=None if handles is not None else cast(ProblemSets, source),
        verifier=verifier,
        settings=own | settings,
        name=name,
        arguments=arguments(build),
    )
    return cast(DataSet, one_run(lambda: made(call)))


def train_sft(
    data: DataSet | Sequence[DataSet],
    *,
    model: TrainedModel | None = None,
    name: str | None = None,
    **settings: Any,
) -> TrainedModel:
    """Supervised fine-tuning, as a stage of the data's run: ``train_sft(data, epochs=2)``.

    Args:
        data: what ``build`` gave; several are trained on together.
        model: a trained model of the same run to go on from; None: the run's model.
        name: of the stage; None: ``sft``, with a number where that is taken. Its seed follows from
            it, so that other names are other seeds.
        **settings: of an ``sft`` stage (docs/sft.md).

    Raises:
        UserError: a mistake in what was given, in one sentence.
    """
    handles = handles_in(data)
    if not handles:
        raise UserError(f"train_sft: data is what build gave, and this is {type_of(data)}")
    if model is not None and not isinstance(model, TrainedModel):
        raise UserError(
            "train_sft: model is what a training of the same run gave; the run's own model, which "
            "searched, is taken without it"
        )
    call = Call(
        function="train_sft",
        kind="sft",
        inputs=[*([] if model is None else [model]), *handles],
        settings=settings,
        name=name,
        arguments=arguments(train_sft),
    )
    return cast(TrainedModel, one_run(lambda: made(call)))


def train_grpo(
    problems: ProblemSets,
    *,
    kind: str = "grpo",
    model: Model | None = None,
    trees: Searched | Sequence[Searched] = (),
    reward_model: Judge | None = None,
    run_dir: RunDir | None = None,
    name: str | None = None,
    seed: int | None = None,
    engine: str | Given | Engine | None = None,
    prompt: Given | None = None,
    verifier: Verifier | None = None,
    **settings: Any,
) -> TrainedModel:
    """Reinforcement learning, as a stage of a run: ``train_grpo(train, model=sft, steps=20)``.

    Args:
        problems: the questions that are trained on, as of ``evaluate``.
        kind: ``grpo``; or ``grpo_direct``, with data from its own searches in the same loop.
        model, run_dir, seed, engine, prompt, verifier: as of ``evaluate``.
        trees: searches whose outcomes ``subset`` chooses questions by.
        reward_model: of ``grpo_direct``, as of ``solve``.
        name: of the stage; None: the kind, with a number where that is taken.
        **settings: of the stage (docs/grpo.md). ``step`` and the sampler's have the model's own
            defaults; ``selection.problems`` is any problem set.

    Raises:
        UserError: a mistake in what was given, in one sentence.
    """
    if kind not in STAGES or not hasattr(STAGES[kind].settings, "completions"):
        ours = [each for each in STAGES if hasattr(STAGES[each].settings, "completions")]
        raise UserError(f"train_grpo: kind: there is no {kind!r} (there are: {', '.join(ours)})")
    suited = suited_to(model_meant(model, run_dir)).get("step")
    if suited and "step" not in settings:
        settings["step"] = dict(suited) | {"delimiters": []}
    samplers = []
    if "sampler" in STAGES[kind].settings.model_fields:
        given = settings.get("sampler", METHOD)
        sampler = sampler_content(given, suited_to(model_meant(model, run_dir)), stored=True)
        settings["sampler"] = sampler
        samplers = [sampler]
    elif reward_model is not None:
        raise UserError(f"train_grpo: {kind} asks no reward_model; grpo_direct does")
    call = call_of(
        "train_grpo",
        kind,
        model,
        run_dir,
        seed,
        prompt,
        engine,
        inputs=[trees] if isinstance(trees, Finished) else list(trees),
        problems=problems,
        verifier=verifier,
        reward_model=reward_model,
        samplers=samplers,
        settings=settings,
        name=name,
        arguments=arguments(train_grpo),
    )
    return cast(TrainedModel, one_run(lambda: made(call)))


def train_prm(
    problems: ProblemSets,
    *,
    model: Model | None = None,
    run_dir: RunDir | None = None,
    name: str | None = None,
    seed: int | None = None,
    engine: str | Given | Engine | None = None,
    prompt: Given | None = None,
    verifier: Verifier | None = None,
    **settings: Any,
) -> TrainedRewardModel:
    """A process reward model from the policy's own rollouts, as a stage of a run; for
    ``reward_model`` of ``solve``, ``search`` and ``evaluate``.

    Arguments are as of ``train_grpo``; settings of a ``prm`` stage (docs/reward_models.md).
    """
    suited = suited_to(model_meant(model, run_dir)).get("step")
    rollouts = settings.get("rollouts", {})
    if suited and isinstance(rollouts, Mapping):
        settings["rollouts"] = {"steps": dict(suited)} | dict(rollouts)
    call = call_of(
        "train_prm",
        "prm",
        model,
        run_dir,
        seed,
        prompt,
        engine,
        problems=problems,
        verifier=verifier,
        settings=settings,
        name=name,
        arguments=arguments(train_prm),
    )
    return cast(TrainedRewardModel, one_run(lambda: made(call)))

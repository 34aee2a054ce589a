"""The parts of the loop as functions: evaluations, searches on disk, data, trainings. Each adds a
stage to the recipe of its inputs and runs it (``api.growing``)."""

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from butwait.api.finished import (
    DataSet,
    Evaluation,
    Finished,
    Searched,
    TrainedModel,
    TrainedRewardModel,
)
from butwait.api.growing import Call, in_run, made, run_of
from butwait.api.loops import one_run
from butwait.api.objects import Verifier, place_of
from butwait.api.problems import ProblemSets
from butwait.api.question import (
    METHOD,
    MODEL,
    Given,
    Judge,
    Method,
    Model,
    SearchOptions,
    judge_content,
    sampler_content,
    search_words,
    shared_content,
    suited_to,
    with_rules,
    written,
)
from butwait.engines.engine import Engine
from butwait.recipe.stages import StageKind
from butwait.records import SearchTree, UserError
from butwait.running.expected import meant
from butwait.search.settings import SAMPLERS
from butwait.stages.kinds import STAGES
from butwait.synthesis.builder import BUILDERS

RunDir = str | Path | Finished
"""A run's folder, or a handle whose run and recipe are gone on with."""
PLAIN = next(kind for kind in SAMPLERS if SAMPLERS[kind].as_attempts)
"""Plain samples of the policy."""


def evaluate(
    problems: ProblemSets,
    *,
    model: Model | None = None,
    k: int | None = None,
    method: Method | None = None,
    particles: int | None = None,
    methods: Mapping[str, Method] | None = None,
    reward_model: Judge | None = None,
    run_dir: RunDir | None = None,
    name: str | None = None,
    seed: int | None = None,
    engine: str | Given | Engine | None = None,
    prompt: Given | None = None,
    step: Given | None = None,
    sampling: Given | None = None,
    verifier: Verifier | None = None,
    **settings: Any,
) -> Evaluation:
    """Attempts at questions, graded, as a stage of a run: ``evaluate(test, model="tiny", k=4)``.

    Args:
        problems: a source (``gsm8k``, ``mine.csv``), a problem set of a recipe, questions (texts,
            ``Problem``s with gold answers), or several of these by name.
        model: as of ``solve``; None: that of the run, else ``tiny``. A trained model in its own
            run is that stage; in another run it is its folder.
        k: attempts at every question; None: 1.
        method: a sampler by which an attempt is made, as of ``solve``; None: plain samples.
        particles: of ``method``.
        methods: several by name, each as a recipe has it (``{"sampler": ..., "k": 4}``) or as
            ``method``; in place of ``method`` and ``particles``.
        reward_model, engine, prompt, step, sampling, verifier: as of ``solve``. A stage on disk
            takes what a recipe can name, so no objects that stand in no module.
        run_dir: the run's folder, or a handle of the run, whose recipe is gone on with; None: the
            model's run, else ``runs/python``.
        name: of the stage; None: ``evaluate``, with a number where that is taken by other
            settings. The same call finds the same stage.
        seed: of the run; None: 0, or that of what it goes on with.
        **settings: others of an ``evaluate`` stage: clusters, checkpoint, concurrency, shard_size.

    Raises:
        UserError: a mistake in what was given, in one sentence that names the argument.
    """
    suited = suited_to(_model(model, run_dir))
    given, words = _methods(method, particles, methods, k, suited)
    for each in given.values():
        each["sampler"] = with_rules(each["sampler"], suited, step, sampling)
    call = _call(
        "evaluate",
        "evaluate",
        model,
        run_dir,
        seed,
        prompt,
        engine,
        several=True,
        problems=problems,
        verifier=verifier,
        reward_model=reward_model,
        samplers=[each["sampler"] for each in given.values()],
        settings={"methods": given} | settings,
        name=name,
        words=words,
    )
    return cast(Evaluation, one_run(lambda: made(call)))


async def aevaluate(problems: ProblemSets, **options: Any) -> Evaluation:
    """``evaluate`` as a coroutine. It runs in a thread, which goes on where the coroutine is
    cancelled; several in one process run one after another."""
    return await asyncio.to_thread(lambda: evaluate(problems, **options))


def stored_search(
    problems: ProblemSets,
    run_dir: RunDir,
    name: str | None,
    concurrency: int,
    on_tree: Callable[[SearchTree], None],
    options: SearchOptions,
) -> Searched:
    """``butwait.search`` as a stage of a run."""
    model = options.get("model")
    method, step, sampling = map(options.get, ("method", "step", "sampling"))
    suited = suited_to(_model(model, run_dir))
    sampler = sampler_content(
        METHOD if method is None else cast(Method, method),
        suited,
        particles=options.get("particles"),
        stored=True,
    )
    sampler = with_rules(sampler, suited, cast(Any, step), cast(Any, sampling))
    call = _call(
        "search",
        "search",
        model,
        run_dir,
        options.get("seed"),
        options.get("prompt"),
        options.get("engine"),
        problems=problems,
        verifier=options.get("verifier"),
        reward_model=options.get("reward_model"),
        samplers=[sampler],
        settings={"sampler": sampler, "concurrency": concurrency},
        name=name,
        words=search_words(sampler),
    )
    found = cast(Searched, one_run(lambda: made(call)))
    for tree in found:
        on_tree(tree)
    return found


def build(
    source: Searched | ProblemSets | Sequence[Searched | DataSet],
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
        source: what ``search`` gave with a ``run_dir``; several of these; data too, where
            ``subset`` names it; or, for a builder that takes solutions (``external``), a problem
            set, as of ``evaluate``.
        builder: its name (docs/synthesis.md), its settings with ``kind``, or the record of one's
            own (docs/extending.md).
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
    handles = _handles(source)
    if handles is None and isinstance(source, list) and source and _is_tree(source[0]):
        raise UserError(
            "build: these trees are in memory, and examples name where theirs are kept; search "
            "with run_dir, and give what that returns"
        )
    call = _call(
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
    handles = _handles(data)
    if not handles:
        raise UserError(f"train_sft: data is what build gave, and this is {_type(data)}")
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
        arguments=_arguments(train_sft),
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
    suited = suited_to(_model(model, run_dir)).get("step")
    if suited and "step" not in settings:
        settings["step"] = dict(suited) | {"delimiters": []}
    samplers = []
    if "sampler" in STAGES[kind].settings.model_fields:
        given = settings.get("sampler", METHOD)
        sampler = sampler_content(given, suited_to(_model(model, run_dir)), stored=True)
        settings["sampler"] = sampler
        samplers = [sampler]
    elif reward_model is not None:
        raise UserError(f"train_grpo: {kind} asks no reward_model; grpo_direct does")
    call = _call(
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
    suited = suited_to(_model(model, run_dir)).get("step")
    rollouts = settings.get("rollouts", {})
    if suited and isinstance(rollouts, Mapping):
        settings["rollouts"] = {"steps": dict(suited)} | dict(rollouts)
    call = _call(
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
    )
    return cast(TrainedRewardModel, one_run(lambda: made(call)))


def _call(
    function: str,
    kind: str,
    model: Model | None,
    run_dir: RunDir | None,
    seed: int | None,
    prompt: Given | None,
    engine: str | Given | Engine | None,
    *,
    inputs: Sequence[Finished] = (),
    reward_model: Judge | None = None,
    samplers: Sequence[dict[str, Any]] = (),
    settings: Mapping[str, Any],
    **more: Any,
) -> Call:
    """A call whose model is one of the run, or begins it."""
    if isinstance(engine, Engine):
        raise UserError(
            f"{function}: engine: an object cannot be written into a recipe, which a stage on disk "
            "needs; give its settings, {'kind': 'module:NAME'} of your own (docs/extending.md)"
        )
    sources = list(inputs)
    trained = [handle for handle in (model, reward_model) if isinstance(handle, Finished)]
    run = run_of(run_dir, [*trained, *sources])
    first: list[Finished] = []
    for handle in trained:
        if in_run(handle, run):
            first.append(handle)
    if isinstance(reward_model, Finished) and in_run(reward_model, run):
        reward_model = None
    elif judge := judge_content(reward_model, list(samplers), stored=True):
        settings = dict(settings) | {"reward_model": judge}
    whose = run_dir if isinstance(run_dir, Finished) else next(iter([*first, *sources]), None)
    begun = shared_content(
        MODEL if model is None else model, seed or 0, prompt, engine, stored=True
    )
    own = model is not None and not any(handle is model for handle in first)
    named = {"model": own, "seed": seed is not None, "prompt": prompt is not None}
    named["engine"] = engine is not None
    shared = {key: begun[key] for key, given in named.items() if given and key in begun}
    return Call(
        function=function,
        kind=kind,
        inputs=[*first, *sources],
        settings=settings,
        shared=shared if whose is not None else {},
        begun=begun,
        run_dir=run if run_dir is None else run_dir,
        arguments=_arguments(globals().get(function, stored_search)),
        **more,
    )


def _arguments(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]


def _model(model: Model | None, run_dir: RunDir | None) -> Model:
    """The model whose prompt and step are meant."""
    if model is None and isinstance(run_dir, Finished):
        own: Given = run_dir.content["model"]
        return own
    return MODEL if model is None else model


def _methods(
    method: Method | None,
    particles: int | None,
    methods: Mapping[str, Method] | None,
    k: int | None,
    suited: Mapping[str, Any],
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """An evaluation's methods as a recipe writes them, and ``told_by``'s words of them."""
    attempts = {} if k is None else {"k": k}
    if methods is None:
        sampler = sampler_content(
            PLAIN if method is None else method, suited, particles=particles, stored=True
        )
        name = "plain" if method is None else sampler["kind"].replace(":", "-")
        below = f"methods.{name}"
        words = search_words(sampler, f"{below}.") | {f"{below}.k": "k", below: "method"}
        return {name: {"sampler": sampler} | attempts}, words
    if not isinstance(methods, Mapping) or not methods:
        raise UserError("evaluate: methods are a mapping: name -> a method")
    for argument, given in (("method", method), ("particles", particles)):
        if given is not None:
            raise UserError(f"evaluate: {argument} has no meaning beside methods; leave one out")
    found = {}
    for name, each in methods.items():
        whole = isinstance(each, Mapping) and "kind" not in each
        content: dict[str, Any] = (
            dict(cast(Mapping[str, Any], each)) if whole else {"sampler": each}
        )
        argument = f"methods.{name}"
        sampler = sampler_content(
            content.get("sampler", PLAIN), suited, argument=argument, stored=True
        )
        found[name] = attempts | content | {"sampler": sampler}
    return found, {}


def _handles(source: Any) -> list[Finished] | None:
    """The handles, where these are what was given."""
    if isinstance(source, Finished):
        return [source]
    several = isinstance(source, list | tuple) and bool(source)
    return list(source) if several and all(isinstance(s, Finished) for s in source) else None


def _is_tree(value: Any) -> bool:
    return isinstance(value, SearchTree)


def _type(value: Any) -> str:
    return f"a {type(value).__name__}"

"""Evaluations and searches as stages of a run (``api.growing``)."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, cast

from butwait.api.calls import RunDir, arguments, call_of, model_meant
from butwait.api.finished import Evaluation, Searched
from butwait.api.growing import made
from butwait.api.loops import one_run
from butwait.api.objects import Verifier
from butwait.api.problems import ProblemSets
from butwait.api.question import (
    METHOD,
    Given,
    Judge,
    Method,
    Model,
    SearchOptions,
    sampler_content,
    search_words,
    suited_to,
    with_rules,
)
from butwait.engines.engine import Engine
from butwait.engines.scheduling.rows import Concurrency
from butwait.records import SearchTree, UserError
from butwait.search.settings import SAMPLERS

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
    workers: Given | None = None,
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
        workers: as of ``search``.
        **settings: others of an ``evaluate`` stage: clusters, checkpoint, concurrency, shard_size,
            token_logprobs.

    Raises:
        UserError: a mistake in what was given, in one sentence that names the argument.
    """
    suited = suited_to(model_meant(model, run_dir))
    given, words = _methods(method, particles, methods, k, suited)
    for each in given.values():
        each["sampler"] = with_rules(each["sampler"], suited, step, sampling)
    call = call_of(
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
        workers=workers,
        words=words,
        arguments=arguments(evaluate),
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
    concurrency: Concurrency,
    workers: Given | None,
    on_tree: Callable[[SearchTree], None],
    options: SearchOptions,
) -> Searched:
    """``butwait.search`` as a stage of a run."""
    model = options.get("model")
    method, step, sampling = map(options.get, ("method", "step", "sampling"))
    suited = suited_to(model_meant(model, run_dir))
    sampler = sampler_content(
        METHOD if method is None else cast(Method, method),
        suited,
        particles=options.get("particles"),
        stored=True,
    )
    sampler = with_rules(sampler, suited, cast(Any, step), cast(Any, sampling))
    call = call_of(
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
        workers=workers,
        words=search_words(sampler),
    )
    found = cast(Searched, one_run(lambda: made(call)))
    for tree in found:
        on_tree(tree)
    return found


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

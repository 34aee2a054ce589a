"""What a run looks at before it computes anything: what its stages name outside of the recipe, and
whether their paths fit the models. ``docs/check.md`` tells users of it."""

import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from butwait.engines.checkpoints.folders import lacking_weights, local_folder
from butwait.engines.load import ENGINES
from butwait.engines.settings import ServerSettings, StepRule
from butwait.pipeline.identity import stage_header
from butwait.problems.source import kind_of
from butwait.recipe.recipe import Recipe
from butwait.recipe.stages import StageSettings
from butwait.records import Problem, UserError
from butwait.running.devices import missing_device, missing_memory
from butwait.running.files import expanded
from butwait.running.mistakes import one_line
from butwait.running.stages import Stage, read_stage
from butwait.running.world import Lack, Place, World, context_limit, settings_in
from butwait.search.settings import SAMPLERS, CommonSettings
from butwait.stages.problem_sets import LoadedSet
from butwait.workers.placement import Placement, cannot_spread
from butwait.workers.ray_cluster import look

Problems = Mapping[str, Sequence[Problem]]
"""By the name of their set."""
MEASURED = 20
"""The questions of a stage, those of most characters, whose prompts are measured."""
TEMPLATE = 200
"""Bytes that a chat template may put around a prompt before it is measured."""
Where = Callable[[Place], str]
"""The line, or the ``--set`` word, of a place in a recipe."""


def nowhere(place: Place) -> str:
    """Of a recipe that stands in no file."""
    return ""


@dataclass(frozen=True)
class Found:
    """What was found: sentences, each with its place."""

    mistakes: list[str]
    warnings: list[str]


def look_around(
    recipe: Recipe, stages: Iterable[str], problems: Problems, where: Where = nowhere
) -> Found:
    """Whether all is there that these stages name: files, packages, functions, models, servers; and
    whether their prompts and paths fit the models, where these are here.

    What cannot be known now (a hub that does not answer) is a warning, and so is a path that will
    be cut. ``problems``: by set; those that are not known are left out.
    """
    world, names = World(stages=recipe.stages), list(stages)
    if any(_needs_model(recipe, name) for name in names):
        world.look(recipe.model, ("model",), _nothing)
        if any(_needs_weights(recipe, name) for name in names):
            world.lacks += _without_weights(recipe, world)
    if any(recipe.kind(name).asks(recipe.stages[name]) for name in names):
        world.look(recipe.engine, ("engine",), _nothing)
    for wrong in filter(None, (_wrong_device(recipe, name) for name in names)):
        world.lacks.append(Lack(("model", "device"), wrong))
    for name in names:
        place = ("stages", name)
        # The reward model of a `prm` stage in `from` goes before the stage's own.
        unused = (*place, "reward_model") if recipe.inputs(name, "reward model") else ()
        world.look(recipe.stages[name], place, partial(operator.eq, unused))
        world.lacks += [*_unrewarded(recipe, name), *_too_long(recipe, name, world, problems)]
        unfit = recipe.kind(name).lacks(recipe.stages[name], problems)
        world.lacks += [Lack((*place, *key), told) for key, told in unfit]
    world.lacks += _unplaceable(recipe, names, world)
    told: dict[bool, dict[str, None]] = {False: {}, True: {}}
    for lack in world.lacks:
        key = f"`{'.'.join(map(str, _shown(recipe, lack.place)))}`"
        told[lack.warning][sentence(where(lack.place), f"{key}: {lack.told}")] = None
    return Found(list(told[False]), list(told[True]))


def sentence(origin: str, told: str) -> str:
    """A sentence with its place, where there is one."""
    return one_line(f"{origin}: {told}" if origin else told)


def finished_stages(
    recipe: Recipe, run: Path, problems: dict[str, LoadedSet], versions: dict[str, str]
) -> dict[str, Stage]:
    """The stages that this recipe finds finished, also those that were put aside and would come
    back. Only what the others need must be there."""
    done: dict[str, Stage] = {}
    for name in recipe.order():
        if not all(source in done for source in recipe.sources(name)):
            continue
        header = stage_header(recipe, name, problems, done, versions)
        kept = run / ".superseded" / f"{name}-{header['fingerprint']}"
        for folder in (run / name, kept):
            stage = read_stage(folder)
            same = stage and stage.record["fingerprint"] == header["fingerprint"]
            if stage and same and stage.complete and not stage.lost():
                done[name] = stage
                break
    return done


def lost_models(recipe: Recipe, done: Mapping[str, Stage]) -> list[str]:
    """What is wrong with the trained models that stages which are not finished (``done``) take from
    finished ones."""
    told: dict[str, None] = {}
    for name in recipe.order():
        kind = recipe.kind(name)
        if name in done or kind.takes_all:
            continue
        trains = kind.gives in ("model", "reward model")
        runs = trains or ENGINES.of(recipe.engine).runs_model
        taken = [(s, recipe.trained_folder(name)) for s in recipe.inputs(name, "model") if runs]
        taken += [(source, "model") for source in recipe.inputs(name, "reward model")]
        for source, folder in taken:
            if source not in done:
                continue
            stage = done[source].path
            if (lacking := lacking_weights(stage / folder)) is not None:
                why = lacking.rpartition(": ")[0]
                sentence = f"the trained model of the finished stage {source!r} is gone or damaged "
                sentence += f"({why}); remove the folder {stage} and run the same command again"
                told[sentence] = None
    return list(told)


def check_sets(recipe: Recipe, where: Where = nowhere) -> tuple[Found, Problems]:
    """Reads the problem sets that stages use; those of the hub are only asked for."""
    from butwait.problems.presets import with_preset
    from butwait.problems.sources import load_problems

    world, mistakes, warnings = World(), list[str](), list[str]()
    loaded: dict[str, Sequence[Problem]] = {}
    for name in dict.fromkeys(s for stage in recipe.stages.values() for s in stage.problem_sets):
        settings = with_preset(recipe.problems[name])
        place = ("problems", name, "source")
        on_disk = os.path.isdir(expanded(settings.source))
        if kind_of(settings.source).remote and not on_disk:
            world.look(settings, ("problems", name), _nothing)
            world.dataset(settings.source, settings.revision, place)
            continue
        try:
            loaded[name] = load_problems(recipe.problems[name])
        except UserError as error:
            mistakes.append(sentence(where(place), str(error)))
    for lack in world.lacks:
        told = sentence(where(lack.place), lack.told)
        (warnings if lack.warning else mistakes).append(told)
    return Found(mistakes, warnings), loaded


def all_that_is_wrong(recipe: Recipe, error: UserError, where: Where) -> str:
    """What to say where problem sets cannot be loaded: of each what is wrong with it, and what the
    stages lack besides."""
    sets, problems = check_sets(recipe, where)
    mistakes = [*sets.mistakes, *look_around(recipe, recipe.order(), problems, where).mistakes]
    told = any(one_line(str(error)) in line for line in mistakes)
    return "\n".join(mistakes if told else [str(error), *mistakes])


def _nothing(place: Place) -> bool:
    return False


def _needs_model(recipe: Recipe, name: str) -> bool:
    """Whether a stage reads the recipe's own model, or its tokenizer."""
    kind = recipe.kind(name)
    trains = kind.gives in ("model", "reward model")
    runs = trains or ENGINES.of(recipe.engine).runs_model
    return runs and not kind.takes_all and not recipe.inputs(name, "model")


def _needs_weights(recipe: Recipe, name: str) -> bool:
    """Whether a stage runs the recipe's own model in this process."""
    if not _needs_model(recipe, name):
        return False
    served = isinstance(recipe.engine, ServerSettings)
    trains = recipe.kind(name).gives in ("model", "reward model")
    return trains or (recipe.kind(name).asks(recipe.stages[name]) and not served)


def _without_weights(recipe: Recipe, world: World) -> Iterator[Lack]:
    model, folder = recipe.model, local_folder(recipe.model.name)
    if folder is None or world.peek(model.name, model.revision) is None:
        return  # told already
    if (told := lacking_weights(folder)) is not None:
        yield Lack(("model", "name"), told)


def _wrong_device(recipe: Recipe, name: str) -> str | None:
    """What is wrong with ``model.device`` where a stage runs weights there: its policy's, or its
    trained reward model's."""
    kind, device = recipe.kind(name), recipe.model.device
    if kind.gives in ("model", "reward model") or recipe.inputs(name, "reward model"):
        told = missing_device(device)
        if told is not None:
            return told
    launch = getattr(recipe.stages[name], "launch", None)
    if launch is not None and (told := launch.wrong_device(device)) is not None:
        return str(told)
    if not kind.asks(recipe.stages[name]):
        return None
    return ENGINES.of(recipe.engine).wrong_device(recipe.engine, device)


def _unplaceable(recipe: Recipe, names: Iterable[str], world: World) -> Iterator[Lack]:
    """Models that cannot be spread over so many devices, workers that there are no devices for, and
    more of the memory than this machine has."""
    engine, model = recipe.engine, recipe.model
    asking = [name for name in names if recipe.kind(name).asks(recipe.stages[name])]
    config = world.peek(model.name, model.revision) if asking else None
    spread = getattr(engine, "tensor_parallel", 1)
    if config is not None and (told := cannot_spread(config, spread)):
        yield Lack(("engine", "tensor_parallel"), told)
    host = getattr(engine, "host_gb", None)  # of workers on Ray it is that of their machines
    here = asking and recipe.workers.kind != "ray"
    if here and host is not None and (told := missing_memory(host)) is not None:
        yield Lack(("engine", "host_gb"), told)
    for name in asking if recipe.workers.kind != "local" else ():
        judge = getattr(recipe.stages[name], "reward_model", None)
        if recipe.inputs(name, "reward model"):
            judge = model  # a trained one is where the recipe's models are
        try:
            Placement.of(recipe.workers, engine, model, judge)
        except UserError as error:
            yield Lack(("workers",), str(error))
    if asking and recipe.workers.kind == "ray":
        try:
            look(recipe.workers.address)
        except UserError as error:
            yield Lack(("workers", "address"), str(error).removeprefix("workers.address: "))


def _unrewarded(recipe: Recipe, name: str) -> Iterator[Lack]:
    """Samplers that need a reward model, of a stage that could have one and has none."""
    stage = recipe.stages[name]
    given = recipe.inputs(name, "reward model") or getattr(stage, "reward_model", True) is not None
    if given:
        return
    for _, held in settings_in(stage, (), _nothing):
        if isinstance(held, CommonSettings) and SAMPLERS.of(held).needs_reward_model:
            told = f"the sampler {held.kind} needs a reward model: name a prm stage in `from`, "
            told += "or set reward_model (kind: confidence needs no training)"
            yield Lack(("stages", name, "reward_model"), told)


def _too_long(recipe: Recipe, name: str, world: World, problems: Problems) -> Iterator[Lack]:
    """Limits of a stage's paths, as they are written, that no path could reach; prompts that leave
    no room, or less than the limit."""
    stage = recipe.stages[name]
    judges, policy = list(_judges(recipe, name, world)), list(_policy(recipe, world))
    judged: set[Place] = set()  # rules of paths that a reward model reads
    for place, held in settings_in(stage, ("stages", name), _nothing):
        if isinstance(held, CommonSettings) and SAMPLERS.of(held).needs_reward_model:
            judged.add((*place, "step"))
        if not isinstance(held, StepRule):
            continue
        # A limit that is not written is cut at the context, as long as one token fits.
        wanted = held.max_tokens if "max_tokens" in held.model_fields_set else 1
        where = (*place, "max_tokens")
        for whose, limit in [*policy, *(judges if place in judged else [])]:
            if wanted > limit:
                told = f"paths of {wanted} tokens do not fit the context of {whose}, {limit} tokens"
                yield Lack(where, f"{told} with the prompt: lower it")
            elif (prompt := _longest_prompt(recipe, stage, problems, limit - wanted)) is not None:
                told = f"{prompt} tokens of the longest prompt and {wanted} of a path are more than"
                lost = "leaves no room: lower it" if prompt >= limit else "cuts the path"
                if wanted == 1:
                    lost = "leaves no room: leave that question out"
                told = f"{told} the context of {whose}, {limit} tokens, which {lost}"
                # A reward model's limit ends paths, and no search.
                yield Lack(where, told, warning=prompt < limit or (whose, limit) in judges)


def _longest_prompt(
    recipe: Recipe, stage: StageSettings, problems: Problems, room: int
) -> int | None:
    """Tokens of a stage's longest prompt, by the policy's tokenizer; None where they surely fit the
    room, or the tokenizer is not here."""
    prompt = recipe.prompt
    asked = [p for name in stage.problem_sets for p in problems.get(name, ())]
    longest = sorted(asked, key=lambda p: len(p.question))[-MEASURED:]
    around = len(f"{prompt.template}{prompt.system}".encode()) + TEMPLATE
    # No token is shorter than a byte.
    if all(len(p.question.encode(errors="replace")) + around <= room for p in longest):
        return None
    from butwait.engines.models import load_tokenizer
    from butwait.problems.prompts import encode, messages

    try:
        tokenizer = load_tokenizer(recipe.model)
        tokens = max(len(encode(tokenizer, messages(p, prompt), prompt)) for p in longest)
    except UserError:  # told where it is loaded
        return None
    return tokens if tokens > room else None


def _policy(recipe: Recipe, world: World) -> Iterator[tuple[str, int]]:
    """The policy and the tokens of its context, where its configuration is here."""
    if ENGINES.of(recipe.engine).runs_model:
        model = recipe.model
        limit = context_limit(world.peek(model.name, model.revision))
        if limit is not None:
            yield f"the model {model.name!r}", limit


def _judges(recipe: Recipe, stage_name: str, world: World) -> Iterator[tuple[str, int]]:
    """A stage's reward models and the tokens that each takes, where it is known."""
    stage = recipe.stages[stage_name]
    if recipe.inputs(stage_name, "reward model"):
        return
    for _, held in settings_in(getattr(stage, "reward_model", None), (), _nothing):
        name = str(getattr(held, "name", getattr(held, "kind", "")))
        limit = context_limit(world.peek(name, getattr(held, "revision", None)))
        known = [n for n in (limit, getattr(held, "capacity", None)) if n is not None]
        if known:
            yield f"the reward model {name!r}", min(known)


def _shown(recipe: Recipe, place: Place) -> Place:
    """A place with a stage's name in place of that of its copy."""
    if place[0] == "stages" and (arm := recipe.stages[str(place[1])].arm):
        return ("stages", arm, *place[2:])
    return place

"""A recipe that grows by a stage with every call, and the run that follows it.

A handle holds the recipe that its stage is the last of. A call joins the recipes of its inputs,
adds its stage, and runs the whole in the run's folder, where what is finished is found finished.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from butwait.api.finished import HANDLES, Finished
from butwait.api.objects import Verifier, plain
from butwait.api.problems import Problems, ProblemSets, by_name, set_content, set_name
from butwait.api.question import Words, check_words, told_by, written
from butwait.pipeline.run import run_recipe
from butwait.problems.settings import ProblemSetSettings
from butwait.recipe.load import checked_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.records.settings import Mark, Settings
from butwait.running.files import write_json
from butwait.running.identity import fingerprint, marks
from butwait.stages.kinds import STAGES

DEFAULT_RUN = Path("runs") / "python"
NAMES = ".names.json"
"""In a run's folder: what the names of its stages and problem sets stand for."""
SHARED = ("model", "engine", "prompt", "seed")
"""What a recipe has once, for all of its stages."""
_OWN = ("kind", "from", "from_", "arm", "seeds")


@dataclass(frozen=True)
class Call:
    """What a function was asked for.

    Attributes:
        function: its name, for sentences.
        kind: of the stage.
        inputs: handles that the stage takes from.
        settings: of the stage, as given; handles in them count as inputs, by their names.
        several: whether the stage takes several problem sets.
        problems: its problem sets; None: it takes none.
        verifier: of these.
        shared: what of ``SHARED`` was named.
        begun: all of ``SHARED``, for a run that begins here.
        run_dir: a folder, or a handle whose run and recipe are gone on with.
        workers: who does it; None: those of what it goes on with, else this process.
        name: of the stage; None: after its kind.
        words: see ``told_by``.
        arguments: all that the function has, beside the settings of the stage.
        prepare: of the recipe, the run and the stage's name: called before they are run.
    """

    function: str
    kind: str
    inputs: Sequence[Finished] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    several: bool = False
    problems: ProblemSets | None = None
    verifier: Verifier | None = None
    shared: Mapping[str, Any] = field(default_factory=dict)
    begun: Mapping[str, Any] = field(default_factory=dict)
    run_dir: str | Path | Finished | None = None
    workers: Mapping[str, Any] | Settings | None = None
    name: str | None = None
    words: Words = field(default_factory=dict)
    arguments: Sequence[str] = ()
    prepare: Callable[[Recipe, Path, str], None] | None = None


def made(call: Call) -> Finished:
    """The stage of a call, computed or found. One call at a time: it takes names.

    Raises UserError for a mistake in what was given, before anything is computed, and where an
    input would have to be computed anew.
    """
    _check_words(call)
    run = run_of(call.run_dir, call.inputs)
    settings, named = _without_handles(call.settings)
    settings = plain(settings, "", stored=True)
    inputs = _once([*call.inputs, *named])
    bases = _once([*inputs, *([call.run_dir] if isinstance(call.run_dir, Finished) else [])])
    _same_run(call.function, run, bases)
    content = _joined(call, bases) or {"name": _run_name(run)} | dict(call.begun)
    content = content | {part: content.get(part, {}) for part in ("problems", "stages")}
    if call.workers is not None:
        content["workers"] = written(call.workers, "workers", stored=True)
    names = _Names(run)
    if call.problems is not None:
        sets = _add_sets(content, by_name(call.problems), run, names, call.verifier)
        if len(sets) > 1 and not call.several:
            raise UserError(f"{call.function}: problems: it takes one problem set, not {len(sets)}")
        settings["problems"] = sets if call.several else sets[0]
    selection = settings.get("selection")
    if isinstance(selection, dict) and "problems" in selection:
        looked_at: Any = call.settings["selection"]["problems"]
        (held_out, *_) = _add_sets(content, by_name(looked_at), run, names, call.verifier)
        settings["selection"] = selection | {"problems": held_out}
    stage: dict[str, Any] = {"kind": call.kind} | settings
    if inputs:
        stage["from"] = [source.name for source in inputs]
    name, recipe, content = _named(call, content, stage, names)
    names.save()
    with told_by(call.function, name, call.words):
        if call.prepare is not None:
            call.prepare(recipe, run, name)
        others = [other for other in recipe.stages if other != name]
        records = run_recipe(recipe, run, lambda place: call.function, finished=others)
    return HANDLES.get(recipe.kind(name).gives, Finished)(run, name, records[name], content)


def _check_words(call: Call) -> None:
    """Raises UserError for a keyword that is no setting of the kind of stage, and for a name that
    is none."""
    known = {key for key in STAGES[call.kind].settings.model_fields if key not in _OWN}
    others = sorted(known - set(call.arguments))
    check_words(call.function, call.settings, [*call.arguments, *others])
    if call.name is not None and not isinstance(call.name, str):
        raise UserError(f"{call.function}: name is a text, and this is {call.name!r:.60}")


def run_of(run_dir: str | Path | Finished | None, inputs: Iterable[Finished]) -> Path:
    """The run that a call belongs to: that which is named, else that of its inputs."""
    if isinstance(run_dir, Finished):
        return run_dir.run
    if run_dir is not None and not isinstance(run_dir, str | Path):
        raise UserError(f"run_dir is a folder or a handle, and this is {run_dir!r:.60}")
    if run_dir is not None:
        return Path(run_dir)
    return next((source.run for source in inputs), DEFAULT_RUN)


def in_run(handle: Finished, run: Path) -> bool:
    """Whether a stage belongs to a run."""
    return handle.run.resolve() == run.resolve()


def _without_handles(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[Finished]]:
    """The settings with the names of stages in place of handles; and these."""
    found: list[Finished] = []

    def named(value: Any) -> Any:
        if isinstance(value, Finished):
            found.append(value)
            return value.name
        if isinstance(value, Mapping):
            return {key: named(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [named(inner) for inner in value]
        return value

    written: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "selection" and isinstance(value, Mapping) and "problems" in value:
            value = dict(value) | {"problems": ""}  # any form of a problem set; told apart
        written[key] = named(value)
    return written, found


def _once(handles: Iterable[Finished]) -> list[Finished]:
    return list({(handle.run.resolve(), handle.name): handle for handle in handles}.values())


def _same_run(function: str, run: Path, bases: Sequence[Finished]) -> None:
    for base in bases:
        if not in_run(base, run):
            raise UserError(
                f"{function}: {base.name!r} is a stage of the run {base.run}, and this one is made "
                f"in {run}; a stage takes from its own run (a trained model goes anywhere as model)"
            )
        base.path  # noqa: B018 (it must be there still)


def _joined(call: Call, bases: Sequence[Finished]) -> dict[str, Any]:
    """The recipes of the inputs as one; empty where there are none."""
    content: dict[str, Any] = {}
    for base in bases:
        for key in SHARED if content else ():
            if not _same(content, base.content, key):
                raise UserError(
                    f"{call.function}: {bases[0].name!r} and {base.name!r} were made with another "
                    f"{key} each, and a run has one; make both with the same"
                )
        own: Mapping[str, Any] = base.content
        for part in ("problems", "stages"):
            for name, held in own[part].items():
                if content and content[part].get(name, held) != held:
                    raise UserError(
                        f"{call.function}: {bases[0].name!r} and {base.name!r} mean different "
                        f"{part} by {name!r}; give them names of their own"
                    )
        content = dict(own) | {
            part: content.get(part, {}) | own[part] for part in ("problems", "stages")
        }
    for key in call.shared if content else ():
        if not _same(content, call.shared, key):
            raise UserError(
                f"{call.function}: {key} is another one than that of {bases[0].name!r}, and a run "
                "has one; leave it out, or give another run_dir (a trained model can be its model)"
            )
    return content


def _same(one: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    """Whether two recipes say the same of a key, or have it by default."""
    bare = {"name": "any", "model": {"name": "any"}, "problems": {}, "stages": {}}
    try:
        mine, theirs = (
            Recipe.model_validate(bare | ({key: held[key]} if key in held else {}), context=STAGES)
            for held in (one, other)
        )
    except ValueError:
        return False  # what it is instead is told where the whole is checked
    return bool(getattr(mine, key) == getattr(theirs, key))


def _add_sets(
    content: dict[str, Any],
    sets: Mapping[str | None, Problems],
    run: Path,
    names: "_Names",
    verifier: Verifier | None,
) -> list[str]:
    """Adds problem sets to a recipe; their names. The same set again keeps its name."""
    added = []
    for wanted, given in sets.items():
        one = set_content(given, run, verifier)
        known = [name for name, held in content["problems"].items() if held == one]
        if wanted is None and known:
            added.append(known[0])
            continue
        if wanted is not None and content["problems"].get(wanted, one) != one:
            raise UserError(f"problems: {wanted!r} is another set of this run; take another name")
        name = wanted or names.free("problems", set_name(one), one, content["problems"])
        names.take("problems", name, one)
        content["problems"] = content["problems"] | {name: one}
        added.append(name)
    return added


def _named(
    call: Call, content: dict[str, Any], stage: dict[str, Any], names: "_Names"
) -> tuple[str, Recipe, dict[str, Any]]:
    """The stage's name, and the recipe with it, checked."""
    wanted = call.name or re.sub(r"[^\w-]+", "-", call.kind.rpartition(":")[2])
    if call.name is not None and content["stages"].get(call.name, stage) != stage:
        raise UserError(f"{call.function}: name: {call.name!r} is a stage that this one builds on")
    others = content["stages"]
    tried = (f"{wanted}-{number}" if number > 1 else wanted for number in count(1))
    name = next(each for each in tried if others.get(each, stage) == stage)
    whole = content | {"stages": others | {name: stage}}
    with told_by(call.function, name, call.words):
        recipe = checked_recipe(whole, STAGES, call.function)
    asked = _asked([recipe.stages[name], recipe.model, recipe.engine, recipe.prompt, recipe.seed])
    final = call.name or names.free("stages", wanted, asked, others)
    names.take("stages", final, asked)
    if final != name:
        whole = content | {"stages": others | {final: stage}}
        recipe = checked_recipe(whole, STAGES, call.function)
    return final, recipe, whole


def _asked(value: Any) -> Any:
    """What settings say that a result depends on, by their words: a file by its name."""
    if isinstance(value, Settings):
        kept = {
            name: getattr(value, name)
            for name, mark in marks(type(value)).items()
            if mark not in (Mark.RESOURCE, Mark.SHAPE)
        }
        return {name: _asked(inner) for name, inner in kept.items()}
    if isinstance(value, Mapping):
        return {str(key): _asked(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_asked(inner) for inner in value]
    return value if isinstance(value, str | int | float | None) else str(value)


class _Names:
    """What names of a run stand for, so that the same is called the same, in another session too.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._run, file = run, run / NAMES
        self._known: dict[str, dict[str, str]] = {"problems": {}, "stages": {}}
        if file.exists():
            try:
                self._known |= json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, TypeError) as error:
                raise UserError(f"{file} is damaged ({type(error).__name__}); remove it") from error

    def free(self, part: str, wanted: str, asked: Any, taken: Iterable[str]) -> str:
        """``wanted``, or that with a number: what stands for this already, else the first that
        stands for nothing that was computed."""
        mark, ours = _mark(part, asked), re.compile(rf"{re.escape(wanted)}(-\d+)?")
        for name, known in self._known[part].items():
            if known == mark and ours.fullmatch(name):
                return name
        tried = (f"{wanted}-{number}" if number > 1 else wanted for number in count(1))
        return next(n for n in tried if n not in taken and not self._on_disk(part, n))

    def take(self, part: str, name: str, asked: Any) -> None:
        """From now on the name stands for this."""
        self._known[part][name] = _mark(part, asked)

    def save(self) -> None:
        try:
            self._run.mkdir(parents=True, exist_ok=True)
            write_json(self._run / NAMES, self._known)
        except OSError as error:
            raise UserError(f"run_dir: {self._run} cannot be written ({error.strerror})") from error

    def _on_disk(self, part: str, name: str) -> bool:
        """Whether the run has something of this name."""
        places = {"problems": f"problems/{name}.jsonl", "stages": name}
        return (self._run / places[part]).exists()


def _mark(part: str, asked: Any) -> str:
    if part == "problems":
        with suppress(ValueError):  # what is wrong is told where the whole is checked
            asked = ProblemSetSettings.model_validate(asked).model_dump(mode="json")
    return fingerprint(json.dumps(asked, sort_keys=True))


def _run_name(run: Path) -> str:
    return run.resolve().name.lstrip(".") or "run"

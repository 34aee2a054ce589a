"""A user's own function, named ``module:function`` in a recipe, and what may go wrong in it."""

import importlib
import logging
import os
import re
import sys
import sysconfig
import threading
import time
from asyncio import CancelledError, current_task
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from traceback import walk_tb
from types import FrameType
from typing import Any

from butwait.records import UserError
from butwait.running.log import note
from butwait.running.shards import first_of

PLUGIN = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")
"""``module:function``."""
TIMEOUT = "BUTWAIT_PLUGIN_TIMEOUT"
"""Names the environment variable with the seconds that a plugin may take to come back; 0: as long
as it likes."""
DEFAULT_TIMEOUT = 600.0
TOLD_AFTER = 60.0
"""Seconds after which a line says what is waited for, and again whenever they have doubled."""

_LONGEST = 300  # characters of a user's own words in a sentence
_OURS = str(Path(__file__).parents[1])
_NOT_USERS = tuple(
    f"{folder}{os.sep}"
    for folder in (_OURS, *(sysconfig.get_path(p) for p in ("stdlib", "purelib", "platlib")))
)
_loaded: dict[str, str] = {}  # module -> the plugin of it that was loaded last
_places: list[str] = []  # folders beside the current one
_states: dict[str, tuple[int, int] | None] = {}  # files of modules, as they were imported


def load_plugin(name: str, what: str) -> Any:
    """The object that ``module:function`` names; modules in the current folder and beside the
    recipe are found too.

    Args:
        name: such as ``my_rewards:strict``.
        what: what it is for, for the error's sentence.

    Raises:
        UserError: no such module or function, or one that cannot be imported.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name.strip(".") or module_name[0] == "." or not attribute:
        raise UserError(f"{what}: {name!r} is not of the form module:function")
    find_modules_first(folders())
    _loaded[module_name] = name
    try:
        with _watched(name, "its import"):
            module = importlib.import_module(module_name)
        _note_states(module_name.partition(".")[0])
    except (UserError, KeyboardInterrupt):
        raise
    except ImportError as error:
        there = [file.stem for place in folders() for file in Path(place).glob("*.py")]
        near = get_close_matches(module_name, there, n=1)
        meant = f"; did you mean {near[0]}?" if near and near[0] != module_name else ""
        raise UserError(
            f"{what}: {name!r} cannot be imported ({_text(error)}); it must be installed, or a "
            f"file beside the recipe or in the current folder{meant}"
        ) from error
    except BaseException as error:  # whatever a user's module raises, SystemExit too
        raise UserError(
            f"{what}: {name!r} cannot be imported: the module {module_name!r} ends in "
            f"{_described(error)}; mend it"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        near = get_close_matches(attribute, dir(module), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        told = f"{what}: the module {module_name!r} has no {attribute!r}{meant}"
        raise UserError(told) from error


def load_function(name: str, what: str) -> Any:
    """``load_plugin`` of something that is called."""
    found = load_plugin(name, what)
    if not callable(found):
        raise UserError(f"{what}: {name!r} is a {type(found).__name__} and no function")
    return found


@contextmanager
def calling(name: str, call: str, *, awaited: bool = False) -> Iterator[None]:
    """A block that calls a plugin.

    What the plugin raises, SystemExit included, becomes a UserError that tells the place in the
    user's own file. A UserError, Ctrl-C and a cancellation that butwait asked for pass. Where no
    call of the plugin comes back for the seconds of ``TIMEOUT``, the process ends with a sentence
    and exit code 2: a function in this process cannot be stopped alone, and what is finished is on
    disk.

    Args:
        name: of the plugin, as in the recipe.
        call: what is called, for the sentence: ``score``.
        awaited: whether the block awaits it, so that other work may go on meanwhile.
    """
    try:
        with _watched(name, call, awaited):
            yield
    except (UserError, KeyboardInterrupt, GeneratorExit):
        raise
    except CancelledError as error:
        task = current_task()
        if task is not None and task.cancelling():
            raise
        raise UserError(_failed(name, call, error)) from error
    except BaseException as error:
        first = first_of(error)
        if isinstance(first, UserError):
            raise first from error
        raise UserError(_failed(name, call, first)) from error


def wrong(name: str, call: str, given: Any, meant: str) -> UserError:
    """The error for a plugin that gives something else.

    Args:
        name: of the plugin, as in the recipe.
        call: what was called.
        given: what it gave.
        meant: what it should have given: "a list of dicts (column: value)".
    """
    try:
        shown = _one_line(repr(given))
    except Exception:  # whatever a user's class raises
        shown = "..."
    what = shown if given is None else f"{shown} ({type(given).__name__})"
    return UserError(f"the plugin {name!r} gives {what} in {call}; it must return {meant}")


def own_class(thing: Any, scripted: type) -> str | None:
    """What an object that a program made is called in sentences: its class. None for one that ships
    with butwait, unless it runs a function of the program (``scripted``)."""
    kind = type(thing)
    ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return None if ours and not isinstance(thing, scripted) else kind.__qualname__


def failed_plugin(error: BaseException) -> str | None:
    """The sentence for an error that came through the code of a plugin; None for another."""
    first = first_of(error)
    files = {
        os.path.abspath(file): name
        for module, name in _loaded.items()
        if (file := getattr(sys.modules.get(module), "__file__", None))
    }
    for frame, _ in reversed([*walk_tb(first.__traceback__)]):
        if name := files.get(os.path.abspath(frame.f_code.co_filename)):
            return _failed(name, frame.f_code.co_name, first)
    return None


def loaded_plugins() -> list[str]:
    """As the recipe names them."""
    return list(_loaded.values())


def tell_loaded(names: Iterable[str]) -> None:
    """Another process has loaded these plugins, and this one imports their modules otherwise."""
    _loaded.update({name.partition(":")[0]: name for name in names})


def source_file(name: str) -> Path | None:
    """The file of the module in ``module:function``; None where there is none."""
    find_modules_first(folders())
    try:
        spec = find_spec(name.partition(":")[0])
    except (Exception, SystemExit):  # of the package around it; told where it is loaded
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def find_modules_in(places: Sequence[Path]) -> None:
    """A recipe begins: modules are found in the current folder, in these, and where they are
    installed. A module that an earlier recipe of this process loaded is loaded again where its file
    has changed since, or another file has its name now."""
    _places[:] = [str(place.resolve()) for place in places]
    find_modules_first(folders())
    importlib.invalidate_caches()
    for top in {module.partition(".")[0] for module in _loaded}:
        parts = [name for name in sys.modules if name == top or name.startswith(f"{top}.")]
        files = [getattr(sys.modules[name], "__file__", None) for name in parts]
        spec = PathFinder.find_spec(top)
        moved = top in sys.modules and spec is not None and spec.origin != files[parts.index(top)]
        if moved or any(_state(file) != _states.get(file) for file in files if file in _states):
            for name in parts:
                del sys.modules[name]
            for file in filter(None, files):
                _states.pop(file, None)


def _state(file: str) -> tuple[int, int] | None:
    """What tells two versions of a file apart; None where it is gone."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _note_states(top: str) -> None:
    """Remembers the files of a module, and of its parts, as they are now."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and (name == top or name.startswith(f"{top}.")):
            _states.setdefault(file, _state(file))


def folders() -> list[str]:
    """Where a user's own modules are looked for, the first first."""
    return list(dict.fromkeys([str(Path.cwd()), *_places]))


def beside_recipe(name: str) -> str:
    """The end of the sentence about a path that leads nowhere: what to write where it was meant
    from the recipe's folder; "" where nothing is there either."""
    there = (os.path.join(place, name) for place in _places if not name.startswith(("~", os.sep)))
    found = next(filter(os.path.exists, there), None)
    if found is None or not name or os.path.exists(name):
        return ""
    return f"; a path is taken from the current folder: write {os.path.relpath(found)!r}"


def find_modules_first(places: list[str]) -> None:
    """Modules are looked for in these folders before all others, in this order."""
    sys.path[:] = [*places, *(place for place in sys.path if place not in places)]


# What a user's own code raised.


def _failed(name: str, call: str, error: BaseException) -> str:
    return (
        f"the plugin {name!r} failed in {call}: {_described(error)}; mend it "
        "(BUTWAIT_TRACEBACK=1 shows the whole traceback)"
    )


def _described(error: BaseException) -> str:
    """``ZeroDivisionError (division by zero) at my_rm.py, line 7``."""
    text = _text(error)
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    lines = [line for _, line in walk_tb(error.__traceback__)]
    places = [_place(f, line) for f, line in zip(frames, lines, strict=True) if _is_users(f)]
    where = f" at {places[-1]}" if places and not isinstance(error, SyntaxError) else ""
    return type(error).__name__ + (f" ({text})" if text else "") + where


def _is_users(frame: FrameType) -> bool:
    file = frame.f_code.co_filename
    return not file.startswith(("<", *_NOT_USERS)) or frame.f_globals.get("__name__") in _loaded


def _place(frame: FrameType, line: int) -> str:
    path = Path(frame.f_code.co_filename)
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}, line {line}"


def _text(error: BaseException) -> str:
    try:
        return _one_line(str(error))
    except Exception:  # whatever a user's class raises
        return ""


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 3]}..."


# Calls that do not come back.

WAITING = "butwait: waiting for "
"""Begins a line of a process that waits for a plugin."""
_OVERDUE = re.compile("butwait: (the plugin .* has not come back from .*)")


@dataclass
class _Waited:
    """Calls of one plugin that have not come back.

    Attributes:
        calls: what was called, and whether it is awaited.
        seconds: how long nothing else has gone on, since one of them came back.
        told: seconds after which a line says so.
    """

    calls: list[tuple[str, bool]] = field(default_factory=list)
    seconds: float = 0.0
    told: float = TOLD_AFTER


_waited: dict[str, _Waited] = {}
_looking: threading.Thread | None = None


@contextmanager
def _watched(name: str, call: str, awaited: bool = False) -> Iterator[None]:
    global _looking
    time_limit()
    waited, entry = _waited.setdefault(name, _Waited()), (call, awaited)
    waited.calls.append(entry)
    if _looking is None or not _looking.is_alive():  # none yet, or this is a fork
        _looking = threading.Thread(target=_look, daemon=True)
        _looking.start()
    try:
        yield
    finally:
        waited.calls.remove(entry)
        waited.seconds, waited.told = 0.0, TOLD_AFTER


def time_limit(default: float = DEFAULT_TIMEOUT) -> float:
    """Seconds of ``TIMEOUT``; infinite for 0. Raises UserError for what is no number."""
    given = os.environ.get(TIMEOUT, str(default))
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1
    if not seconds >= 0:
        raise UserError(f"{TIMEOUT}={given!r} is no number of seconds; 0 means no limit")
    return seconds or float("inf")


def _look() -> None:
    limit = time_limit()
    tick = min(1.0, limit / 4)
    while True:
        time.sleep(tick)
        frame = _users_frame()
        where = f" (at {_place(frame, frame.f_lineno)})" if frame else ""
        for name in _kept_waiting_by(frame):
            waited = _waited[name]
            waited.seconds += tick
            call = waited.calls[-1][0] if waited.calls else ""
            if waited.seconds >= limit and call:
                _say(
                    f"the plugin {name!r} has not come back from {call} for {limit:g} s{where}; "
                    f"mend it, or give it longer ({TIMEOUT}=SECONDS, 0 for no limit) and run the "
                    "same command again (finished work is kept)"
                )
                os._exit(2)
            if waited.seconds >= waited.told and call:
                waited.told *= 2
                _say(f"waiting for {call} of the plugin {name!r}, {waited.seconds:.0f} s{where}")


def _kept_waiting_by(frame: FrameType | None) -> list[str]:
    """The plugins that the process waits for: one whose call cannot be awaited, else one whose code
    runs, else, where nothing at all runs, those that are awaited. What butwait itself takes
    meanwhile is not held against them."""
    waited = {name: [*w.calls] for name, w in list(_waited.items()) if w.calls}
    for name, calls in waited.items():
        if not all(awaited for _, awaited in calls):
            return [name]
    if frame is not None:
        module = frame.f_globals.get("__name__")
        return [name for name in waited if name.partition(":")[0] == module] or list(waited)
    main = sys._current_frames().get(threading.main_thread().ident or 0)
    idle = main is not None and main.f_code.co_name == "select"  # of the event loop
    return list(waited) if idle else []


def _users_frame() -> FrameType | None:
    """Where the main thread stands in a user's code; None where it does not."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame is not None and not _is_users(frame):
        frame = frame.f_back
    return frame


def overdue(said: Iterable[str]) -> str | None:
    """The sentence of a process that a plugin's time limit ended, if these lines of it have one."""
    return next((found[1] for line in said if (found := _OVERDUE.fullmatch(line))), None)


def _say(sentence: str) -> None:
    print(f"butwait: {sentence}", file=sys.stderr, flush=True)
    note(sentence, logging.WARNING)

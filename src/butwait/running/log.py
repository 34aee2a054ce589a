"""What butwait says of its work: on the terminal, as loud as one likes, and in the run's own log.

``RUN/log.txt`` holds every line with its time, and more than the terminal shows. It is a help and
never a hindrance: what cannot be written is not written, and the run goes on.
"""

import logging
import os
import platform
import re
import shlex
import stat
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from butwait.records.errors import UserError
from butwait.running.terminal import heard, visible

NAME = "log.txt"
LONGEST, SHOWN = 8 << 20, 16 << 10
"""Bytes of a log, after which only errors are added, and characters of one entry."""
REPORT = "https://github.com/butwait/butwait/issues"
"""Where a fault of butwait is reported."""
LIBRARIES = ("accelerate", "datasets", "huggingface_hub", "transformers", "vllm")
"""Loggers that may keep what they are told to themselves."""
RESULT = logging.WARNING + 5
"""The level of what a command was called for."""

logging.addLevelName(RESULT, "RESULT")

_HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(
    r"(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIAL|AUTH|COOKIE)S?(?:_|$)", re.IGNORECASE
)
_SECRETS = [
    (re.compile(r"(?<=://)[^\s/@]+(?=@)"), _HIDDEN),
    (re.compile(r"(?i)(\b(?:bearer|basic)\s+)[^\s'\",;]{6,}"), rf"\1{_HIDDEN}"),
    (
        re.compile(
            r"(?i)((?<![a-z0-9_])(?:[a-z0-9_-]*(?:api_?-?key|secret|password|passwd)|"
            r"(?!(?:eos|bos|pad|unk|mask|stop|step)_)[a-z0-9_]*_token|"
            r"authorization|token|sig|signature|key)['\"]?\s*[=:]\s*['\"]?)"
            r"(?!\[hidden)[^\s'\"&,;})\]]+"
        ),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"\b(?:sk|hf|ghp|xox[a-z])[-_][A-Za-z0-9_-]{12,}"), _HIDDEN),
]
_concealed: set[str] = set()


def conceal(secret: str) -> None:
    """This text stands in no log of this process."""
    _concealed.add(secret)


def say(line: str, level: int = logging.INFO) -> None:
    """A line on the terminal, where it is loud enough for it, and in the log. Figures of the work
    (``logging.DEBUG``) go to standard error, so that they are in nobody's results."""
    if heard(level):
        figures = level <= logging.DEBUG
        told, stream = without_secrets(line) if figures else line, sys.stderr if figures else None
        print(visible(told), file=stream, flush=True)
    note(line, level)


def note(text: str, level: int = logging.DEBUG) -> None:
    """In the log alone."""
    if _open is not None:
        _open.add(level, text)


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """The text without what opens a door: values of the environment's variables with such a name,
    names and passwords in addresses, keys in settings and headers."""
    named = [value.strip() for name, value in environment.items() if _SECRET_NAME.search(name)]
    values = {*_concealed, *(value for value in named if not os.path.exists(value))}
    # Longer ones first: a shorter one may stand in them. Such a short text as "none" is no secret.
    for value in sorted(filter(lambda value: len(value) >= 6, values), key=len, reverse=True):
        for written in (value, quote(value, safe="")):
            text = text.replace(written, _HIDDEN)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


@contextmanager
def logged(run: Path, *about: str, begins: bool = True) -> Iterator[None]:
    """Adds what is said in the block to the log of a run, and how the block ends.

    Args:
        run: its folder.
        about: lines of this process, after its time and its command line.
        begins: no other process is writing; a long log is put aside, as ``log.old.txt``.
    """
    global _open
    if begins:
        _put_aside(run / NAME)
    before, _open = _open, _RunLog(run / NAME)
    root, log = logging.getLogger(), _open
    # A root without handlers prints warnings by itself, and is not to stop doing so.
    added: list[tuple[logging.Logger, logging.Handler]] = [(root, log)]
    if not root.handlers and logging.lastResort is not None:
        added.append((root, logging.lastResort))
    added += [(logging.getLogger(name), log) for name in LIBRARIES]
    for logger, handler in added:
        logger.addHandler(handler)
    note(f"{shlex.join(sys.argv)}, in {os.getcwd()}")
    for line in (f"Python {platform.python_version()}, {platform.platform()}", *about):
        note(line)
    try:
        yield
        note("done")
    except BaseException as error:
        log.ended(error)
        raise
    finally:
        for logger, handler in added:
            logger.removeHandler(handler)
        log.close()
        _open = before


def told_in(error: BaseException) -> Path | None:
    """The log that holds the traceback of an error, if one does."""
    return getattr(error, "butwait_log", None)


class _RunLog(logging.Handler):
    """A log that several processes add to: each entry is one write at the file's end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._file = path, -1
        with suppress(OSError):
            # A pipe without a reader is not waited for.
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
            self._file = os.open(path, flags, 0o666)
            if not stat.S_ISREG(os.fstat(self._file).st_mode):
                self.close()

    def emit(self, record: logging.LogRecord) -> None:
        """An entry of a library's, or of a module that logs by itself."""
        if not hasattr(record, "in_butwaits_log"):  # it may come by a library's logger and the root
            record.in_butwaits_log = True
            with suppress(Exception):
                self.add(record.levelno, f"{record.name}: {self.format(record)}")

    def ended(self, error: BaseException) -> None:
        """How the block ended; with a traceback where that may be a fault of butwait's."""
        if isinstance(error, UserError):
            self.add(logging.ERROR, str(error))
        elif not isinstance(error, Exception):
            self.add(logging.WARNING, f"ended by {type(error).__name__}")
        elif self.add(logging.ERROR, "".join(traceback.format_exception(error))):
            with suppress(AttributeError):  # an error that takes no attribute
                error.butwait_log = self._path  # type: ignore[attr-defined]

    def add(self, level: int, text: str) -> bool:
        """Writes an entry, its further lines indented; whether it was written."""
        if self._file < 0:
            return False
        try:
            if os.fstat(self._file).st_size > LONGEST * (2 if level >= logging.ERROR else 1):
                return False
            entry = f"{_head(level)}{_bounded(text)}\n"
            return os.write(self._file, entry.encode("utf-8", "backslashreplace")) > 0
        except OSError:
            return False

    def close(self) -> None:
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1
        super().close()


def _put_aside(path: Path) -> None:
    with suppress(OSError):
        if path.is_file() and path.stat().st_size > LONGEST // 2:
            os.replace(path, path.with_name("log.old.txt"))


def _head(level: int) -> str:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
    return f"{now}Z {os.getpid()} {logging.getLevelName(level).lower()}: "


def _bounded(text: str) -> str:
    """The text without secrets, in indented lines. Of a long one both ends are kept: an error
    stands at the end of its traceback."""
    text = without_secrets(text.strip())
    if len(text) > SHOWN:
        half = SHOWN // 2
        text = f"{text[:half]}\n[{len(text) - SHOWN} characters left out]\n{text[-half:]}"
    return "\n    ".join(visible(line) for line in text.splitlines())


_open: _RunLog | None = None

"""Texts of users, models and servers on a terminal: nothing in them is obeyed.

Rich reads ``[bold]`` as markup and ``:warning:`` as an emoji, and a terminal obeys escape
sequences. All that is printed goes through here.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Control characters, line separators, marks that turn the direction of writing, and halves of
# surrogate pairs, which no stream takes.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """The text in one line, with control characters as ``\\x1b``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def plain(text: object) -> str:
    """The text, to stand in Rich's markup as it is."""
    from rich.markup import escape  # not for commands that print a line or two

    return escape(visible(text))


def console(**options: Any) -> "Console":
    """Rich's console; words between colons are no emoji."""
    from rich.console import Console

    return Console(emoji=False, **options)


_from = logging.INFO
_VERBOSITY = ("DATASETS_VERBOSITY", "TRANSFORMERS_VERBOSITY")  # read when they are imported


def loudness() -> int:
    """The lowest level that is shown."""
    return _from


def heard(level: int) -> bool:
    """Whether lines of a level of ``logging`` are shown on the terminal."""
    return level >= _from


@contextmanager
def loud_from(level: int) -> Iterator[None]:
    """Shows lines of this level and above in the block: ``INFO`` is the usual, with ``WARNING``
    libraries say nothing but errors, and with ``DEBUG`` what they like."""
    global _from
    before, _from = _from, level
    try:
        if level <= logging.DEBUG:
            with _libraries_told():
                yield
        elif level >= logging.WARNING:
            with _libraries_silent():
                yield
        else:
            yield
    finally:
        _from = before


@contextmanager
def _libraries_told() -> Iterator[None]:
    root, handler = logging.getLogger(), logging.StreamHandler()
    level = root.level
    handler.setFormatter(logging.Formatter("  %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


@contextmanager
def _libraries_silent() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("butwait")
    levels = root.level, own.level
    root.setLevel(logging.ERROR)
    own.setLevel(logging.WARNING)
    added = {name for name in _VERBOSITY if name not in os.environ}
    os.environ |= dict.fromkeys(added, "error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        root.setLevel(levels[0])
        own.setLevel(levels[1])


def forgive_streams() -> None:
    """What an output's encoding does not have is written as an escape, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

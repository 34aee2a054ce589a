"""Texts of users, models and servers on a terminal: nothing in them is obeyed.

Rich reads ``[bold]`` as markup and ``:warning:`` as an emoji, and a terminal obeys escape
sequences. All that is printed goes through here.
"""

import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

# Control characters, line separators, marks that turn the direction of writing, and halves of
# surrogate pairs, which no stream takes.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: object) -> str:
    """The text in one line, with control characters as ``\\x1b``."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def plain(text: object) -> str:
    """The text, to stand in Rich's markup as it is."""
    return escape(visible(text))


def console(**options: Any) -> Console:
    """Rich's console; words between colons are no emoji."""
    return Console(emoji=False, **options)


_from = logging.INFO


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
    root, handler = logging.getLogger(), logging.StreamHandler()
    threshold = root.level
    if level <= logging.DEBUG:
        handler.setFormatter(logging.Formatter("  %(name)s: %(message)s"))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
    elif level >= logging.WARNING:
        root.setLevel(logging.ERROR)
        logging.getLogger("butwait").setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(threshold)
        logging.getLogger("butwait").setLevel(logging.NOTSET)
        _from = before


def forgive_streams() -> None:
    """What an output's encoding does not have is written as an escape, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

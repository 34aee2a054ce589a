"""Texts of users, models and servers on a terminal: nothing in them is obeyed.

Rich reads ``[bold]`` as markup and ``:warning:`` as an emoji, and a terminal obeys escape
sequences. All that is printed goes through here.
"""

import re
import sys
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


def forgive_streams() -> None:
    """What an output's encoding does not have is written as an escape, and is no error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

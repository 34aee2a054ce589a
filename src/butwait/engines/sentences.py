"""Where a sentence of mathematical prose ends, decided without looking ahead.

A step must end with the sentence's own last token, before it is known what follows. So a mark ends
a sentence only where it can hardly be anything else; what is missed makes a step longer, never
shorter.
"""

import re

MARKS = ".!?"
CLOSERS = "\"'”’)]*"
"""What may stand between the mark and the end of the sentence's last token."""

_END = re.compile(rf"(\S*?)([{MARKS}])[{re.escape(CLOSERS)}]*$")
_ABBREVIATIONS = frozenset(
    (
        *("approx", "cf", "dr", "e.g", "eq", "eqs", "etc", "fig", "i.e", "mr", "mrs", "ms"),
        *("no", "p", "pp", "prof", "resp", "st", "thm", "vs", "w.l.o.g"),
    )
)
_NUMBER_OR_LETTER = re.compile(r"(.*\W)?(\d+|[^\W\d_])$")
"""A number may go on behind a point, and be a factorial; a single letter is an initial, a part of
an abbreviation, or a variable's factorial."""


def ends_sentence(text: str) -> bool:
    """Whether ``text`` ends with a sentence: with a ``.``, ``!`` or ``?`` (quotes and brackets may
    close behind it) that belongs to no number, single letter or abbreviation, outside of ``$...$``
    and of open braces."""
    end = _END.search(text)
    if end is None or text.count("$") % 2 or text.count("{") > text.count("}"):
        return False
    word, mark = end[1], end[2]
    if mark == "?":
        return True
    bare = word.lstrip("([\"'“‘*").lower()
    unfinished = not bare or bare.endswith(".")  # an ellipsis
    return not (unfinished or bare in _ABBREVIATIONS or _NUMBER_OR_LETTER.match(bare))

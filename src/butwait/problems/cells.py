"""What a cell of a table says: where it is found, and its value as text.

Texts, whole numbers, decimals and fractions have one reading as text. What has none (a mapping, a
list, bytes, true, a date, infinity) is an error: its ``repr`` would be taken for an answer.
"""

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Rational, Real
from typing import Any

from butwait.records import UserError
from butwait.running.terminal import visible

_HALF = re.compile(r"[\ud800-\udfff]")
NOTHING = object()
"""What ``cell`` gives where a row has no such column."""

_SHOWN = 60


def cell(row: Any, path: str) -> Any:
    """The value in a column, or at a path in nested ones: ``reward_model.ground_truth``,
    ``messages.1.content`` (items of a list from 0). A name that the row has goes before a path.
    ``NOTHING`` where there is neither."""
    if isinstance(row, dict):
        if path in row:
            return row[path]
        # The longest name first: names may hold dots at any depth.
        for cut in reversed([dot.start() for dot in re.finditer(r"\.", path)]):
            inside = cell(row[path[:cut]], path[cut + 1 :]) if path[:cut] in row else NOTHING
            if inside is not NOTHING:
                return inside
    elif isinstance(row, list | tuple):
        index, _, rest = path.partition(".")
        if index.isascii() and index.isdigit() and len(index) < 10 and int(index) < len(row):
            return cell(row[int(index)], rest) if rest else row[int(index)]
    return NOTHING


def text_of(value: Any, place: str, column: str) -> str | None:
    """The value as stripped text; None for nothing, NaN and blanks. 27.0 is "27", 0.1 "0.1".

    Halves of surrogate pairs become U+FFFD.

    Args:
        value: of a cell.
        place, column: the cell's, for the sentence.

    Raises UserError for a value that has no reading as text.
    """
    if value is None or value is NOTHING:
        return None
    if isinstance(value, str):
        return whole(value).strip() or None
    number = number_text(value)
    if number is not None:
        return number or None
    raise UserError(f"{place}, column {column!r} holds {_what(value, column)}")


def whole(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which no tokenizer takes."""
    return text if text.isascii() else _HALF.sub("\ufffd", text)


def number_text(value: Any) -> str | None:
    """A number as text, of any size and without loss; "" for NaN, None for anything else."""
    if isinstance(value, bool):
        return None
    if type(value) is int and -(10**18) < value < 10**18:
        return str(value)
    if isinstance(value, Integral):
        return str(Decimal(int(value)))  # str of an int refuses 4,301 digits
    if isinstance(value, Rational):
        below = "" if value.denominator == 1 else f"/{Decimal(int(value.denominator))}"
        return f"{Decimal(int(value.numerator))}{below}"
    if isinstance(value, Real | Decimal):
        if math.isnan(value):
            return ""
        if math.isinf(value):
            return None
        # The shortest decimal that is this number: 1e23 is no 99999999999999991611392.
        exact = value if isinstance(value, Decimal) else Decimal(str(value))
        whole = exact == exact.to_integral_value()
        return str(Decimal(int(exact))) if whole else str(value)
    return None


def _what(value: Any, column: str) -> str:
    """What a value is, and how to mend it."""
    if isinstance(value, Mapping):
        parts = [visible(key)[:_SHOWN] for key in value][:8]
        if not parts:
            return "an empty mapping"
        return f"a mapping ({', '.join(parts)}); name a part of it ({column}.{parts[0]})"
    if isinstance(value, bytes | bytearray | memoryview):
        return "bytes; store text"
    if isinstance(value, bool):
        return f"{str(value).lower()}; write it as text"
    if isinstance(value, Sequence):
        return f"a list of {len(value)}; name an item of it ({column}.0)"
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta):
        return f"a date or time ({value}); store text"
    if isinstance(value, float):
        return f"{value}, which is no number; write it as text"
    return f"a {type(value).__name__} ({visible(value)[:_SHOWN]}); store text or a number"

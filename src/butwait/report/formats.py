"""Numbers as a reader wants them: percent, points, tokens, seconds, p-values."""

import math
import re
from collections.abc import Sequence

MISSING = "–"
"""Stands where a number does not exist, so that an empty cell never reads as zero."""


def percent(share: float | None, digits: int = 1) -> str:
    """A fraction as percent: 0.681 -> "68.1 %"."""
    return MISSING if share is None else f"{100 * share:.{digits}f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of fractions, in percent: (0.65, 0.71) -> "[65.0, 71.0]"."""
    if not bounds or any(bound is None for bound in bounds):
        return ""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def points(delta: float | None) -> str:
    """A difference of fractions, signed, in percentage points: 0.307 -> "+30.7 points"."""
    return MISSING if delta is None else f"{100 * delta:+.1f} points"


def p_value(p: float | None) -> str:
    """ "p < 0.001", or two significant digits: "p = 0.032", "p = 1.0"."""
    if p is None:
        return "p unknown"
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.2g}"


def count(n: float | None) -> str:
    """A whole number with commas: 1234567 -> "1,234,567"."""
    return MISSING if n is None else f"{round(n):,}"


def compact(n: float | None) -> str:
    """A number of tokens in three digits: 950 -> "950", 12_340 -> "12.3 k", 4.1e6 -> "4.10 M"."""
    if n is None:
        return MISSING
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= 0.9995 * size:
            value = n / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{suffix}"
    return f"{n:.0f}"


def flops(parts: Sequence[float | None]) -> str:
    """The sum of floating-point operations in two digits, 1.24e15 -> "1.2e15"; missing where a part
    is unknown."""
    total = sum(part for part in parts if part is not None)
    if None in parts or not total:
        return MISSING
    return f"{total:.1e}".replace("e+", "e")


def duration(seconds: float | None) -> str:
    """0.42 -> "0.4 s", 75 -> "1 min 15 s", 4000 -> "1 h 07 min"."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int = 2) -> str:
    """A plain decimal: 0.7612 -> "0.76"."""
    return MISSING if value is None else f"{value:.{digits}f}"


def finite(value: object) -> float | None:
    """``value`` as a float, None where it is no finite number (bool is no number here)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def clip(text: str, limit: int) -> str:
    """``text`` cut at ``limit`` characters; the cut says how much is left out."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def typeset(text: str) -> str:
    """Text of ours for the page: no break before "%", units or inside an interval; a true minus.

    Never apply it to text of a model or a data set: it would change what they wrote.
    """
    text = re.sub(r"(?<=\d) (?=(%|points|tokens|k|M|G|s|min|h)(?!\w))", "\u202f", text)
    text = re.sub(r"\[([^\[\]\s]+), ([^\[\]\s]+)\]", "[\\1,\u00a0\\2]", text)
    return re.sub(r"(?<![\w.])-(?=\d)", "\u2212", text)

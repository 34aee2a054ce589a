"""Numbers as a reader wants them: percent, points, tokens, seconds, p-values.

The templates use them as filters (``FILTERS``). What is no finite number reads as ``MISSING``.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

MISSING = "–"
"""Stands where a number does not exist, so that an empty cell never reads as zero."""

MOST_CHARACTERS = 1600
"""Of one text on the page; the rest is on disk."""


def finite(value: object) -> float | None:
    """``value`` as a float, None where it is no finite number (bool is no number here)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def percent(share: object, digits: int = 1) -> str:
    """A fraction as percent: 0.681 -> "68.1 %"."""
    known = finite(share)
    return MISSING if known is None else f"{100 * known:.{digits}f} %"


def interval(bounds: Sequence[float] | None) -> str:
    """An interval of fractions, in percent: (0.65, 0.71) -> "[65.0, 71.0]"."""
    if not bounds or any(bound is None for bound in bounds):
        return ""
    return f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def points(delta: object) -> str:
    """A difference of fractions, signed, in percentage points: 0.307 -> "+30.7 points"."""
    known = finite(delta)
    return MISSING if known is None else f"{100 * known:+.1f} points"


def p_value(p: object) -> str:
    """ "p < 0.001", or two significant digits: "p = 0.032", "p = 1.0"."""
    known = finite(p)
    if known is None:
        return "p unknown"
    if known < 0.001:
        return "p < 0.001"
    return f"p = {known:.2f}" if known >= 0.1 else f"p = {known:.2g}"


def count(n: object) -> str:
    """A whole number with commas: 1234567 -> "1,234,567"."""
    known = finite(n)
    return MISSING if known is None else f"{round(known):,}"


def compact(n: object) -> str:
    """A number of tokens in three digits: 950 -> "950", 12_340 -> "12.3 k", 4.1e6 -> "4.10 M"."""
    known = finite(n)
    if known is None:
        return MISSING
    for size, suffix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if known >= 0.9995 * size:
            value = known / size
            return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{suffix}"
    return f"{known:.0f}"


def flops(parts: Sequence[object]) -> str:
    """The sum of floating-point operations in two digits, 1.24e15 -> "1.2e15"; missing where a part
    is unknown."""
    known = [finite(part) for part in parts]
    total = sum(part for part in known if part is not None)
    if None in known or not total:
        return MISSING
    return f"{total:.1e}".replace("e+", "e")


def duration(seconds: object) -> str:
    """0.42 -> "0.4 s", 75 -> "1 min 15 s", 4000 -> "1 h 07 min"."""
    known = finite(seconds)
    if known is None:
        return MISSING
    if known < 59.95:
        return f"{known:.1f} s"
    whole = round(known)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(known / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: object, digits: int = 2) -> str:
    """A plain decimal: 0.7612 -> "0.76"."""
    known = finite(value)
    return MISSING if known is None else f"{known:.{digits}f}"


def scalars(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The plain numbers, texts and truth values among a stage's metrics."""
    return {
        name: value
        for name, value in metrics.items()
        if isinstance(value, (bool, str)) or finite(value) is not None
    }


def scalar(value: object) -> str:
    """One of ``scalars``: "yes", a text as it is, a whole number with commas, four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    known = finite(value)
    if known is None:
        return str(value)
    return count(known) if known == round(known) else f"{known:.4g}"


def published_rates(figure: Mapping[str, Any]) -> str:
    """Rates of others with the digits that were published: "19.17 %, @8 43.33 %"."""
    first = figure.get("pass_at_1")
    parts = [] if first is None else [f"{100 * first:.4g} %"]
    several = sorted((figure.get("pass_at_k") or {}).items(), key=lambda entry: int(entry[0]))
    return ", ".join(parts + [f"@{k} {100 * share:.4g} %" for k, share in several])


def clip(text: str, limit: int = MOST_CHARACTERS) -> str:
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


def _typeset(shown: Callable[..., str]) -> Callable[..., str]:
    return lambda *arguments: typeset(shown(*arguments))


_NUMBERS = (percent, interval, points, p_value, count, compact, flops, duration, number)

FILTERS: dict[str, Callable[..., Any]] = {
    **{shown.__name__: _typeset(shown) for shown in _NUMBERS},
    "published_rates": _typeset(published_rates),
    "scalar": scalar,
    "clip": clip,
    "typeset": typeset,
    "pretty_json": lambda value: json.dumps(value, indent=2, default=str),
}
"""For the templates: numbers come typeset."""

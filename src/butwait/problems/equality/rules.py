"""Rules for values that are no plain numbers: bases, ratios, clock times, congruences, rounding.

Each rule gives a verdict, or None where it does not apply.
"""

import re
from fractions import Fraction

from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.brackets import split

APPROXIMATION_DIGITS = 6
"""A decimal of at least so many decimal places and digits may stand for the number it rounds."""
FLOAT_DIGITS = 15
"""A decimal of at least so many digits may be a binary number's writing: 0.30000000000000004."""
_FLOAT_NOISE = Fraction(1, 10**14)
"""Relative error of a binary number after a few operations."""

_DECIMAL = re.compile(r"-?(?P<whole>\d*)\.(?P<places>\d+)")
_BASED = re.compile(
    r"\(?(?:\\text ?\{)?(?P<digits>[0-9A-Za-z]+(?: [0-9]+)*)\}?\)?"
    r" ?_ ?\{?(?:\\text ?\{)? ?(?P<base>\d+) ?\}*"
)
_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<rest>\d{2}(?::\d{2})?))? ?"
    r"(?:\\text ?\{)? ?(?P<half>[aApP](?:\. ?)?[mM])?\.? ?\}?"
)
_CODE = re.compile(r"\d{4}-\d\d-\d\d|\d{1,2}/\d{1,2}/\d{4}|\d{3}-\d{4}")
_MOLECULE = re.compile(r"[A-Z(](?:[A-Z]|(?<=[A-Z])[a-z]|(?<=[A-Za-z)])\d+|[()])*")
_MODULUS = re.compile(
    r"^(?P<value>.*?)\s*(?:\\pmod|\\bmod|\\mod|\(? ?(?:\\text ?\{ ?mod ?\}|mod(?![a-z])))"
    r"\s*\{?\s*(?P<modulus>[^{}()]+?)\s*\}?\s*\)?$"
)


def approximates(gold: str, g: Fraction, answer: str, a: Fraction) -> bool:
    """Whether one side is a long decimal that rounds (or cuts) the other, no integer."""
    if _digits(gold) >= FLOAT_DIGITS and abs(g - a) <= _FLOAT_NOISE * abs(g):
        return True
    if g.denominator == 1 or a.denominator == 1:
        return False
    places = [p for p in (decimal_places(gold), decimal_places(answer)) if p is not None]
    return bool(places) and abs(g - a) < Fraction(1, 10 ** min(places))


def decimal_places(text: str) -> int | None:
    """Decimal places of a plain decimal long enough to be an approximation, else None."""
    match = _DECIMAL.fullmatch(text.strip())
    if match is None:
        return None
    places = len(match["places"])
    return places if min(places, _digits(text)) >= APPROXIMATION_DIGITS else None


def _digits(text: str) -> int:
    """Significant digits of a plain decimal, 0 for anything else."""
    match = _DECIMAL.fullmatch(text.strip())
    return len((match["whole"] + match["places"]).lstrip("0")) if match else 0


def same_based(gold: str, answer: str) -> bool | None:
    """Numbers in a base: 101_2 is 5_{10}; the base may be left out, as a unit may."""
    g, a = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if g is None or not (g["digits"][0].isdigit() or len(g["digits"]) > 1):
        return None
    if a is None:
        return key_digits(answer) == key_digits(g["digits"])
    bases = int(g["base"]), int(a["base"])
    g_digits, a_digits = key_digits(g["digits"]), key_digits(a["digits"])
    if bases[0] == bases[1] and g_digits.lstrip("0") == a_digits.lstrip("0"):
        return True
    values = [_in_base(d, b) for d, b in zip((g_digits, a_digits), bases, strict=True)]
    return values[0] is not None and values[0] == values[1]


def key_digits(text: str) -> str:
    """The digits of a number in any base, without spaces and brackets, in capitals."""
    return text.replace(" ", "").strip("()").upper()


def _in_base(digits: str, base: int) -> int | None:
    """The value; None where a digit is none of the base's."""
    try:
        return int(digits, base) if 2 <= base <= 36 else None
    except ValueError:
        return None


def same_ratio(gold: str, answer: str) -> bool | None:
    """a:b by proportion."""
    if ":" not in gold or ":" not in answer:
        return None
    g, a = ([evaluate(part) for part in text.split(":")] for text in (gold, answer))
    if None in g or None in a:
        return None
    if len(g) != len(a):
        return False
    if g == a or 0 in g or 0 in a:  # 0:5 and 0:7 are no proportions but scores
        return g == a
    return all(x * a[0] == y * g[0] for x, y in zip(g, a, strict=True))  # type: ignore[operator]


def same_time(gold: str, answer: str) -> bool | None:
    """Clock times: 3:45 is 03:45 and 3:45 p.m., which is not 3:45 a.m.; 3 p.m. is 3:00 p.m."""
    clocks = [c for c in (_CLOCK.fullmatch(gold), _CLOCK.fullmatch(answer)) if c]
    if len(clocks) < 2 or not (all(c["rest"] for c in clocks) or any(c["half"] for c in clocks)):
        return None
    halves = [re.sub(r"[^ap]", "", (c["half"] or "").lower()) for c in clocks]
    times = [(int(c["hour"]), c["rest"] or "00") for c in clocks]
    return times[0] == times[1] and (halves[0] == halves[1] or "" in halves)


def is_code(text: str) -> bool:
    """Whether ``text`` is a date or a telephone number, which is no sum: 2024-01-05, 1/2/2024."""
    return _CODE.fullmatch(text) is not None


def molecule(latex: str) -> str | None:
    """A chemical formula without indices, H2O for ``H_2O``; None for anything else."""
    plain = re.sub(r"\\text|[{}_ ]", "", latex)
    return plain if _MOLECULE.fullmatch(plain) and not plain.isalpha() else None


def same_congruence(gold: str, answer: str) -> bool | None:
    """3 mod 7, x \\equiv 3 (mod 7) and 10 mod 7 are the same; the modulus must be."""
    g, a = _residue(gold), _residue(answer)
    if g is None or a is None:
        if g is not None and "\\equiv" in gold:  # x = 3 (mod 7) answered by 3
            value = evaluate(answer)
            return value is not None and (value - g[0]) % g[1] == 0
        return None
    return g[1] == a[1] and (g[0] - a[0]) % g[1] == 0


def _residue(text: str) -> tuple[Fraction, Fraction] | None:
    match = _MODULUS.match(text)
    if match is None:
        return None
    value = evaluate(split(match["value"].rstrip("( "), frozenset({"\\equiv", "="}))[-1])
    modulus = evaluate(match["modulus"])
    return (value, modulus) if value is not None and modulus else None

"""A static gate before algebra: what would cost more than any answer is worth.

It reads the text only, in time linear in its length. What it lets through is still run under a
time and a memory limit (``equality.pool``).
"""

import re

from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.brackets import depth_of, matching_brace

MAX_LENGTH = 1_000
"""Characters of an answer in canonical notation."""
MAX_DEPTH = 60
"""Brackets within brackets."""
MAX_DIGITS = 1_000
"""Digits of one number."""
MAX_EXPONENT = 10**15
"""A power with a larger exponent cannot be had even as a floating-point number."""
MAX_TOWER = 3
"""Exponents within exponents."""
MAX_FACTORIAL = 10**4
"""The n of n! and of binomials, which the reader of formulas multiplies out."""
MAX_TERMS = 100
"""Operators + and - in one answer."""

_LARGE_NUMBER = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_FACTORIAL = re.compile(r"(\d+)\s*[)}]*\s*!")
_REPEATED_FACTORIAL = re.compile(r"!\s*[)}]*\s*!")
_MULTIPLIED_OUT = re.compile(r"\\(?:binom|prod|sum)(?![a-zA-Z])")
_TOWER = re.compile(rf"\^\s*\{{(?:[^{{}}]*\^\s*\{{){{{MAX_TOWER}}}")
_HUGE = re.compile(r"\d{5}|10\s*\^")


def too_costly(text: str) -> str | None:
    """Why canonical ``text`` is not given to algebra; None where it may be."""
    if len(text) > MAX_LENGTH:
        return f"longer than {MAX_LENGTH} characters"
    if depth_of(text) > MAX_DEPTH:
        return f"nested deeper than {MAX_DEPTH} brackets"
    if text.count("+") + text.count("-") > MAX_TERMS:
        return f"more than {MAX_TERMS} terms"
    if _LARGE_NUMBER.search(text):
        return f"a number of more than {MAX_DIGITS} digits"
    if any(int(n) > MAX_FACTORIAL for n in _FACTORIAL.findall(text)) or _REPEATED_FACTORIAL.search(
        text
    ):
        return f"a factorial beyond {MAX_FACTORIAL}!"
    if _MULTIPLIED_OUT.search(text) and _HUGE.search(text):
        return "a binomial, sum or product over a large number"
    if _TOWER.search(text):
        return f"a power tower higher than {MAX_TOWER}"
    if any(_costly_exponent(exponent) for exponent in _exponents(text)):
        return f"an exponent beyond {MAX_EXPONENT:.0e}"
    return None


def _exponents(text: str) -> list[str]:
    found = []
    for match in re.finditer(r"\^\s*\{", text):
        end = matching_brace(text, match.end() - 1)
        if end is not None:
            found.append(text[match.end() : end])
    return found


def _costly_exponent(exponent: str) -> bool:
    value = evaluate(exponent)
    if value is not None:
        return abs(value) > MAX_EXPONENT
    # An exponent that is itself a tower of numbers, too large to evaluate.
    return re.search(r"\d\s*[)}]*\s*\^\s*\{[^{}]*\d", exponent) is not None

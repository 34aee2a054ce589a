"""Answers that leave the calculation to the grader. A model that is rewarded for answers finds that
``3 + 1 + 9``, copied from the question, equals 13."""

import re
from collections import Counter

from butwait.problems.equality.brackets import split
from butwait.problems.equality.notation import canonical

_LONGEST_ANSWER, _LONGEST_QUESTION = 2_000, 20_000  # characters
_MORE_THAN_A_NUMBER = re.compile(r"[^\w\s.,$]|plus|minus|times", re.IGNORECASE)
_TENS = re.compile(r"(?:\d+(?:\.\d+)?\s*\\cdot\s*)?10\^\{-?\d+\}")
"""Powers of ten, with a factor or without: a notation of numbers."""
_OPERATION = re.compile(
    r"[\d)}!]\s*(?:[-+*/^!]|\\cdot\b)"
    r"|\\(?:frac|sqrt|binom|lfloor|lceil|log|ln|lg|exp|sin|cos|tan|gcd|lcm|sum|prod|int|lim)"
    r"(?![a-zA-Z])|\|"
)
_FRACTION = re.compile(r"\\frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_UNIT = re.compile(r"\\text\s*\{[^{}]*\}|(?<=[\d\s})])[a-zA-Z]+\s*$")
_ARITHMETIC = re.compile(r"[\d.+\-*/()\s]+")
_QUOTIENT = re.compile(r"\(?[\d.]+\)?\s*/\s*\(?[\d.]+\)?")
_SUM = re.compile(r"[\d)]\s*[+-]")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def is_unfinished(gold: str, answer: str, question: str, *, integer: bool) -> bool:
    """Whether an answer is a calculation where its value is asked for: the gold answer is a number
    and no formula, and the answer

    - is a formula that stands in the question,
    - has nothing but the question's own numbers, added, subtracted, multiplied or divided in any
      order, or
    - is a sum or difference, where an ``integer`` is asked for, and half of its numbers or more are
      the question's.

    A lone fraction is a value, but where the gold answer is an integer; powers of ten are values.
    The rule is butwait's own: math-verify 0.9.0 credits such answers.

    Args:
        gold: the gold answer, as it is written.
        answer: what was read from the completion.
        question: its last 20,000 characters are looked at.
        integer: whether the problem's answer kind is ``integer``.
    """
    if not _MORE_THAN_A_NUMBER.search(answer):
        return False
    formula = _formula(answer)
    if formula is None or not re.search(r"\d", gold) or _formula(gold) is not None:
        return False
    plain = re.sub(r"\\cdot\b", "*", _FRACTION.sub(r"(\1)/(\2)", _UNIT.sub("", formula))).strip()
    if _QUOTIENT.fullmatch(plain) and not re.fullmatch(r"-?[\d,]+", gold.strip()):
        return False
    asked = canonical(question[-_LONGEST_QUESTION:])
    if _ARITHMETIC.fullmatch(plain) and len(numbers := _NUMBER.findall(plain)) > 1:
        new = (Counter(numbers) - Counter(_NUMBER.findall(asked))).total()
        return 2 * new <= len(numbers) if integer and _SUM.search(plain) else new == 0
    here = re.escape(re.sub(r"\s", "", formula))
    return re.search(rf"(?<![\d.]){here}(?![\d.])", re.sub(r"\s", "", asked)) is not None


def _formula(answer: str) -> str | None:
    """What is to be calculated, without labels; None where a number is written, too."""
    if len(answer) > _LONGEST_ANSWER:
        return None
    parts = split(_TENS.sub("1", canonical(answer)), frozenset({"="}))
    numbers = [part for part in parts if re.search(r"\d", part)]
    return numbers[-1] if numbers and all(_OPERATION.search(part) for part in numbers) else None

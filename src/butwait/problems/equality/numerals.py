"""Numbers in words, brought to digits: ``twenty-one``, ``two thirds``, ``3 squared``, ``5 dozen``.

A word beside a number may change it ("half of 12"), only count it ("12 apples"), or turn it into
something that is no number ("at least 12", "not 12"). The first kind is calculated here, the second
is ``units``', and ``hedges`` tells the third.
"""

import re

_ONES_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
)
_ONES = _ONES_WORDS.split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: n for n, word in enumerate(_ONES)} | {
    word: 10 * n for n, word in enumerate(_TENS, start=2)
}
_SCALES = {
    "hundred": 100,
    "thousand": 10**3,
    "lakh": 10**5,
    "million": 10**6,
    "crore": 10**7,
    "billion": 10**9,
    "trillion": 10**12,
}
_COUNTS = _SCALES | {"dozen": 12, "score": 20, "gross": 144}
BASES = {word: base for base, word in enumerate(_ONES) if 2 <= base <= 16}
"""Bases of numbers, as they are written in words."""
_ORDINALS_WORDS = (
    "third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth"
)
_ORDINALS = _ORDINALS_WORDS.split()
_PARTS = (
    {"half": 2, "halve": 2, "quarter": 4, "twentieth": 20, "thirtieth": 30, "fortieth": 40}
    | {"fiftieth": 50, "sixtieth": 60, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
    | {word: n for n, word in enumerate(_ORDINALS, start=3)}
)
_AFTER = {"squared": "({})^{{2}}", "cubed": "({})^{{3}}", "factorial": "({})!"} | {
    "doubled": "2 \\cdot ({})",
    "tripled": "3 \\cdot ({})",
    "halved": "\\frac{{1}}{{2}} \\cdot ({})",
}
_BEFORE = {
    "minus": "-({})",
    "negative": "-({})",
    "twice": "2 \\cdot ({})",
    "double": "2 \\cdot ({})",
    "thrice": "3 \\cdot ({})",
    "triple": "3 \\cdot ({})",
    "square root of": "\\sqrt{{{}}}",
    "cube root of": "\\sqrt[3]{{{}}}",
    "half of": "\\frac{{1}}{{2}} \\cdot ({})",
    "half": "\\frac{{1}}{{2}} \\cdot ({})",
    "third of": "\\frac{{1}}{{3}} \\cdot ({})",
    "quarter of": "\\frac{{1}}{{4}} \\cdot ({})",
}
_HEDGES_WORDS = (
    "not least most less fewer than over under below above between almost nearly except without "
    "never neither nor either to times divided multiplied minus plus twice double triple thrice "
    "half root squared cubed factorial reciprocal inverse opposite wrong incorrect unlikely "
    "negative unknown from power log doubled tripled halved fold multiple multiples"
)
_HEDGES = frozenset(_HEDGES_WORDS.split())
_OPEN_ENDED = re.compile(
    r"\\lor\s*(?:\\text ?\{)? ?(?:more|less|fewer|greater|higher|larger|smaller|lower|so)(?![a-z])"
)
_GROUP = re.compile(r"\\text ?\{([^{}]*)\}")
_WORD = re.compile(r"[a-zA-Z]+")
_NUMBER = re.compile(r"[-+]?(?:\d[\d.,]*|\\frac ?\{ ?\d+ ?\} ?\{ ?\d+ ?\}|\\sqrt ?\{? ?\d+ ?\}?)+")
_HAS_WORD = re.compile(r"[a-zA-Z]{3}")
_ORDINAL_DIGITS = re.compile(
    r"(\d)(?:\^\{? ?)?(?:\\text ?\{ ?)?(?:st|nd|rd|th)(?![a-zA-Z])(?: ?\})*"
)
_MULTIPLIER = re.compile(
    r"(?<=[\d}])\s*(\\text\s*\{\s*)?(" + "|".join(_SCALES) + r")s?(?![a-zA-Z])(?(1)([^{}]*)\})"
)
MAX_LENGTH = 200
"""Characters of an answer that is read as words."""


def in_digits(latex: str) -> str:
    """``latex`` with its numbers in words as LaTeX; the words after them stay, as a unit.

    ``latex`` is canonical but for this step. A text that is not wholly such a number is unchanged.
    """
    latex = _MULTIPLIER.sub(_multiplied, _ORDINAL_DIGITS.sub(_ordinal, latex))
    if len(latex) > MAX_LENGTH or not _HAS_WORD.search(latex):
        return latex
    plain = _GROUP.sub(r" \1 ", latex).replace("~", " ")
    plain = re.sub(r"(?<=[a-zA-Z])-(?=[a-zA-Z])", " ", plain).strip(" .")
    plain = re.sub(r"\\land |\\lor ", " and ", plain) if "\\lor" not in plain else plain
    return _number(plain.split()) or latex


def changes_number(word: str) -> bool:
    """Whether ``word`` beside a number makes it another one, or none."""
    return word in _HEDGES or word == "percent" or _changed("1", word) is not None


def hedges(latex: str) -> bool:
    """Whether words of canonical ``latex`` make its number another one, or none: "at least 5"."""
    if not _HAS_WORD.search(latex):
        return False
    if _OPEN_ENDED.search(latex):
        return True
    groups = " ".join(_GROUP.findall(latex))
    plain = re.sub(r"\\[a-zA-Z]+", " ", _GROUP.sub(" ", latex))
    words = [word.lower() for word in _WORD.findall(f"{groups} {plain}")]
    return not _HEDGES.isdisjoint(words)


def _ordinal(match: re.Match[str]) -> str:
    """5th and 5^{\\text{th}}; whatever braces the suffix opened are closed with it."""
    tail = match[0][len(match[1]) :]
    surplus = tail.count("}") - tail.count("{")
    return match[1] + "}" * max(0, surplus)


def _multiplied(match: re.Match[str]) -> str:
    rest = f"\\text{{{match[3]}}}" if match[1] and match[3].strip() else ""
    return f"\\cdot {_SCALES[match[2]]} {rest}"


def _number(words: list[str]) -> str | None:
    """LaTeX for a number that is written in ``words``, None where they are no such number."""
    words = words[1:] if words and words[0].lower() in ("the", "exactly") else words
    for phrase, form in _BEFORE.items():
        parts = phrase.split()
        if [w.lower() for w in words[: len(parts)]] == parts and len(words) > len(parts):
            inside = words[len(parts) :]
            value = _number(inside) or (inside[0] if _NUMBER.fullmatch(inside[0]) else None)
            if value is None or (inside[0] == value and len(inside) > 1):
                return None
            return form.format(value)
    value, used, spelled = _start(words)
    if value is None:
        return None
    rest = [word.strip(",") for word in words[used:]]
    while rest and (changed := _changed(value, rest[0].lower())):
        value, rest, spelled = changed, rest[1:], True
    if rest[:2] == ["and", "a"] or rest[:1] == ["and"]:
        part = _part(rest[-1].lower())
        if part is None or len(rest) > 3:
            return None
        numerator = _VALUES.get(rest[1].lower(), 1) if len(rest) == 3 else 1
        value, rest, spelled = f"{value} + \\frac{{{numerator}}}{{{part}}}", [], True
    if not spelled:
        return None
    if rest and not all(_WORD.fullmatch(word) for word in rest):
        return None
    return f"{value} \\text{{{' '.join(rest)}}}" if rest else value


def _start(words: list[str]) -> tuple[str | None, int, bool]:
    """(number at the start, words used, whether it was spelled out)."""
    if not words:
        return None, 0, False
    first = words[0].lower()
    if _NUMBER.fullmatch(words[0]):
        return words[0], 1, False
    following = words[1].lower() if len(words) > 1 else ""
    if first in ("a", "an"):
        if following in _COUNTS or _part(following):
            return "1", 1, True
        return None, 0, False
    if first == "half" and len(words) == 1:
        return "\\frac{1}{2}", 1, True
    total = group = used = 0
    for at, raw in enumerate(words):
        word = raw.lower()
        if word in _VALUES:
            group += _VALUES[word]
        elif word == "hundred" and used:
            group = max(group, 1) * 100
        elif word in _SCALES and used:
            total, group = total + max(group, 1) * _SCALES[word], 0
        elif word == "and" and used and at + 1 < len(words) and words[at + 1].lower() in _VALUES:
            continue  # one hundred and one; "three and four" adds up to no number below
        else:
            break
        used = at + 1
    if not used or not _one_number(words[:used]):
        return None, 0, False
    return str(total + group), used, True


def _one_number(words: list[str]) -> bool:
    """Whether spelled words are one number: not "three four", not "three and four"."""
    before = 0
    for word in (raw.lower() for raw in words):
        if word == "and":
            if before < 100:
                return False
            continue
        value = _VALUES.get(word, 0) or _SCALES.get(word, 0)
        if (
            word in _VALUES
            and before
            and not (before >= 100 or (20 <= before < 100 and 0 < value < 10))
        ):
            return False
        before = value
    return True


def _part(word: str) -> int | None:
    return _PARTS.get(word) or _PARTS.get(word.removesuffix("s"))


def _changed(value: str, word: str) -> str | None:
    """``value`` as the next word makes it: squared, dozen, tenths; None for any other word."""
    if word in _AFTER:
        return _AFTER[word].format(value)
    if count := _COUNTS.get(word) or _COUNTS.get(word.removesuffix("s")):
        return f"{value} \\cdot {count}"
    if part := _part(word):
        return f"\\frac{{{value}}}{{{part}}}"
    return None

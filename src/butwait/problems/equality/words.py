"""Answers in words: names, yes or no, choice letters; and the units behind a number."""

import re

_WRAPPER = re.compile(r"\\(?:text\w*|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:begin|end|math[a-z]+)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WORD = re.compile(r"[a-zA-Z]{3,}|(?<![a-zA-Z])[nN]o(?![a-zA-Z])")
_CONNECTIVES = frozenset({"and", "or"})
_ARTICLES = frozenset({"a", "an", "the"})
_CHOICE = re.compile(r"(?:\\text\w*\s*\{\s*)?\(?\s*([A-Z])\s*\)?[.:]?\s*\}?")
_CHOICE_WITH_TEXT = re.compile(r"(?:\\text\w*\s*\{\s*)?(?:\(([A-Z])\)|([A-Z])[.):])\s*\}?(?=\W)")

# Units are compared only within what this table knows; any other word is no reason to refuse.
_UNITS = (
    "mm millimeter|cm centimeter|m meter|km kilometer|in inch inches|ft foot feet|yd yard|mi mile|"
    "s sec second|min minute|h hr hour|day|week|month|year yr|"
    "g gram|kg kilogram|lb pound|oz ounce|ton tonne|ml milliliter|l liter|gallon gal|cup|"
    "dollar usd|cent|euro eur|yuan rmb|yen|rupee|gbp"
)
_SYNONYMS = {word: group.split()[0] for group in _UNITS.split("|") for word in group.split()}
_AREA = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}
_NOT_UNITS = (
    "and|or|not|mod|over|times|plus|minus|else|than|of|none|undefined|infinite|infinitely|"
    "sqrt|pi|sin|cos|tan|cot|sec|csc|log|ln|exp|max|min|gcd|lcm|dozen|hundred|thousand|million|"
    "half|third|quarter"
)
_NO_UNIT = frozenset(_NOT_UNITS.split("|"))
_UNIT_GROUP = re.compile(
    r"^(?P<value>.*?\S)\s*\\text\s*\{\s*(?P<unit>[a-zA-Z][a-zA-Z .\-/]*?)\s*\.?\}"
    r"(?P<power>\s*\^\s*\{?\d\}?)?$",
    re.DOTALL,
)
_PLAIN_UNIT = re.compile(
    r"^(?P<value>.*(?:[\d})!]|\\pi))(?P<gap>\s*)(?P<unit>[a-zA-Z][a-zA-Z]+(?:[ \-/]+[a-zA-Z]+)*)\.?"
    r"(?P<power>\s*\^\s*\{?\d\}?)?$",
    re.DOTALL,
)
_DEGREES = re.compile(
    r"^(?P<value>.*[\d})])\s*\^\\circ\s*(?:\\text\s*\{\s*)?[CF]?\s*\}?$", re.DOTALL
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")


def split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of canonical ``text``; the unit is "" where there is none.

    Known units come in one spelling (``square feet`` and ``ft^2`` are both ``ft^2``).
    """
    if (match := _DEGREES.match(text)) and not _TRIGONOMETRY.search(text):
        return match["value"].strip(), "degree"
    match = _UNIT_GROUP.match(text)
    if match is None:
        match = _PLAIN_UNIT.match(text)
        if match is None or not _is_plain_unit(match["unit"], spaced=bool(match["gap"])):
            return text, ""
    words = re.split(r"[\s.\-/]+", match["unit"].lower())
    if _NO_UNIT.intersection(words):
        return text, ""
    return match["value"].strip(), _unit_name(words, re.sub(r"\D", "", match["power"] or ""))


def units_differ(first: str, second: str) -> bool:
    """Whether both units are known and of another kind or size: cm and m, but not cm and ""."""
    known = set(_SYNONYMS.values())
    return first != second and all(unit.split("^")[0] in known for unit in (first, second))


def as_words(text: str) -> str | None:
    """The words of an answer in words, folded for comparison; None for a formula.

    ``text`` is as it was written: canonical notation would read "or" and "in" as mathematics.
    """
    plain = _WRAPPER.sub(r" \1 ", text.replace("$", " "))
    words = [word.lower() for word in _WORD.findall(_COMMAND.sub(" ", plain))]
    if not any(word not in _NO_UNIT and word not in _CONNECTIVES for word in words):
        return None
    parts = re.findall(r"[a-z0-9]+|[^\sa-z0-9.,;:!?'\"(){}\\]", plain.lower())
    return " ".join(part for part in parts if part not in _ARTICLES)


def choice_letter(text: str, *, with_text: bool = False) -> str | None:
    """The letter of a multiple-choice answer: ``(C)``, ``\\text{C}``, ``C.``.

    with_text: accept the option's text after a marked letter, as in ``(C) 12``.
    """
    text = text.replace("$", "").strip()
    if match := _CHOICE.fullmatch(text):
        return match[1]
    if with_text and (match := _CHOICE_WITH_TEXT.match(text)):
        return match[1] or match[2]
    return None


def _is_plain_unit(unit: str, *, spaced: bool) -> bool:
    """A bare word is a unit where no formula would hold it: ``64 feet``, ``5cm``, not ``2ab``."""
    words = re.split(r"[\s\-/]+", unit)
    known = all(_singular(word.lower()) in _SYNONYMS for word in words)
    return known or (spaced and all(len(word) > 2 or word.lower() in _SYNONYMS for word in words))


def _unit_name(words: list[str], power: str) -> str:
    for word in words:
        power = power or _AREA.get(word, "")
    words = [_singular(word) for word in words if word and word not in _AREA]
    name = " ".join(_SYNONYMS.get(word, word) for word in words)
    return f"{name}^{power}" if power and power != "1" else name


def _singular(word: str) -> str:
    if word in _SYNONYMS:
        return word
    word = word.replace("metre", "meter").replace("litre", "liter")
    return word[:-1] if word.endswith("s") and len(word) > 2 else word

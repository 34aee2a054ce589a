"""Answers in words: names, yes or no, no solution, choice letters."""

import re

from butwait.problems.equality.characters import FOREIGN, LATIN

_WRAPPER = re.compile(r"\\(?:text\w*|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\(?:begin|end|math[a-z]+)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_WORD = re.compile(rf"[{LATIN}]{{3,}}|{FOREIGN}+|(?<![a-zA-Z])[nN]o(?![a-zA-Z])")
_PART = re.compile(
    rf"(?:[{LATIN}0-9]|{FOREIGN})+|[^\s.,;:!?'\"(){{}}\\\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f\u060c\u061f«»“”]"
)
_ARTICLES = frozenset({"a", "an", "the"})
_FUNCTIONS_WORDS = (
    "and or not mod over times plus minus else than sqrt pi sin cos tan cot sec csc log ln exp "
    "max min gcd lcm dozen hundred thousand million half third quarter"
)
_FUNCTIONS = frozenset(_FUNCTIONS_WORDS.split())
_CHOICE = re.compile(
    r"(?:\\text\w*\s*\{\s*)?(?:(?:[oO]ption|[cC]hoice|[aA]nswer|[pP]art)\s*:?\s*)?\(?\s*([A-Z])\s*\)?"
    r"[.:]?\s*\}?"
)
_CHOICE_WITH_TEXT = re.compile(
    r"(?:\\text\w*\s*\{\s*)?(?:(?:[oO]ption|[cC]hoice)\s+)?(?:\(([A-Z])\)|([A-Z])[.):])\s*\}?(?=\W)"
)
_SECOND_CHOICE = re.compile(
    r"\(\s*[A-Z]\s*\)|(?<![a-zA-Z\\])(?:not|nor|either|both|maybe|wrong|incorrect)(?![a-zA-Z])"
    r"|(?:^[\s,/&;\\]+|(?<![a-zA-Z])(?:or|and)[\s}{]+|\\text\{)[A-Z](?![a-zA-Z])"
)
_OPTION = re.compile(
    r"(?:(?:[oO]ption|[cC]hoice)\s+)?(?:\(([A-Z])\)|([A-Z])[.):])[\s~]+"
    r"((?:\w|[£€]|-\d|\\(?:[dt]?frac|sqrt|pi|\$|[ ,;(])).*)",
    re.DOTALL,
)
_OTHER_OPTION = re.compile(
    r"\(\s*[A-Z]\s*\)|(?<![a-zA-Z])(?:[A-Z]\s*[).:=]|(?:or|and|[&,;])\s+[A-Z](?![a-zA-Z]))"
    r"|^[A-Z]\s*(?:$|[,;&]|(?:or|and)(?![a-zA-Z]))"
)
_SYNONYMS = (
    (
        r"^(?:there (?:is|are) )?no(?: real| valid| such| possible| integer)*"
        r" (?:solutions?|numbers?|values?|integers?|x)(?: exists?| is possible)?$"
        r"|^(?:does|do) not exist$|^dne$|^none$",
        "no solution",
    ),
    (
        r"^(?:there are )?(?:infinitely many|(?:an )?infinite number of|infinite(?= s))"
        r"(?: solutions?| values?| numbers?)?$",
        "infinitely many",
    ),
    (r"^(?:is |it is )?(?:undefined|not defined|indeterminate)$", "undefined"),
    (r"^(?:all|every|any)(?: the)? real(?: numbers?| values?)?(?: x)?$", "all real numbers"),
    (r"^infinity$", "infinite"),
    (r"^(?:it )?is ", ""),
)
_SYNONYM_RULES = tuple((re.compile(pattern), word) for pattern, word in _SYNONYMS)


def as_words(text: str) -> str | None:
    """The words of an answer in words, folded for comparison; None for a formula.

    ``text`` is as it was written: canonical notation would read "or" and "in" as mathematics.
    """
    plain = _WRAPPER.sub(r" \1 ", text.replace("$", " "))
    words = [word.lower() for word in _WORD.findall(_COMMAND.sub(" ", plain))]
    if all(word in _FUNCTIONS for word in words):
        return None
    parts = _PART.findall(plain.lower())
    folded = " ".join(part for part in parts if part not in _ARTICLES)
    for pattern, word in _SYNONYM_RULES:
        folded = pattern.sub(word, folded)
    return folded


def same_words(gold: str, answer: str | None) -> bool:
    """Whether folded words say the same; what "and" joins has no order."""
    if answer is None:
        return False
    joined = re.compile(r" and | & ")
    return gold == answer or sorted(joined.split(gold)) == sorted(joined.split(answer))


def choice_letter(text: str, *, with_text: bool = False) -> str | None:
    """The letter of a multiple-choice answer: ``(C)``, ``\\text{C}``, ``C.``, ``Option C``.

    with_text: accept the option's text after a marked letter, as in ``(C) 12``, unless it names
    another letter or takes the first back: ``(C) or (D)`` chooses nothing.
    """
    text = text.replace("$", "").strip()
    if match := _CHOICE.fullmatch(text):
        return match[1]
    if with_text and (match := _CHOICE_WITH_TEXT.match(text)):
        hedged = _SECOND_CHOICE.search(text[match.end() :])
        return None if hedged else match[1] or match[2]
    return None


def option(text: str) -> tuple[str, str] | None:
    """(letter, text) of an option as it is printed, ``B. Paris``; None where it is none, or names
    another letter."""
    match = _OPTION.fullmatch(_WRAPPER.sub(r" \1 ", text.replace("$", " ")).strip())
    if match is None or _OTHER_OPTION.search(match[3]):
        return None
    return match[1] or match[2], match[3]

"""One notation for what people and models write: plain text, Unicode or LaTeX in, LaTeX out.

Nothing here decides whether two answers are equal; it only removes differences that carry no
meaning (spacing, sizing, fonts, delimiters, ``\\dfrac``, ``14{,}916``, ``sqrt(2)``, ``74°``).
"""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from butwait.problems.equality.brackets import depth_of, matching_brace, pairs, tokens

_UNICODE = {
    **dict.fromkeys("−–—‐‑﹣", "-"),
    **dict.fromkeys("·⋅∙•", "\\cdot "),
    **dict.fromkeys("°˚º", "^\\circ "),
    **dict.fromkeys("…⋯", "\\ldots "),
    "×": "\\cdot ",
    "÷": "/",
    "≤": "\\leq ",
    "≥": "\\geq ",
    "⩽": "\\leq ",
    "⩾": "\\geq ",
    "≠": "\\neq ",
    "≈": "\\approx ",
    "∞": "\\infty ",
    "±": "\\pm ",
    "∓": "\\mp ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∖": "\\setminus ",
    "∅": "\\emptyset ",
    "∈": "\\in ",
    "∧": "\\land ",
    "∨": "\\lor ",
    "⟨": "\\langle ",
    "⟩": "\\rangle ",
    "π": "\\pi ",
    "θ": "\\theta ",
    "α": "\\alpha ",
    "β": "\\beta ",
    "γ": "\\gamma ",
    "λ": "\\lambda ",
    "μ": "\\mu ",
    "φ": "\\phi ",
    "ω": "\\omega ",
    "∠": "\\angle ",
    "ℝ": "\\mathbb{R}",
    "½": "\\frac{1}{2}",
    "⅓": "\\frac{1}{3}",
    "⅔": "\\frac{2}{3}",
    "¼": "\\frac{1}{4}",
    "¾": "\\frac{3}{4}",
}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
END = r"(?![a-zA-Z])"


def _rules(*pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def _short_text(match: re.Match[str]) -> str:
    """One letter or number in a text font is a symbol, but a letter behind a number is a unit."""
    before = match.string[: match.start()].rstrip(" ~\\,;")
    unit = match[1].isalpha() and before[-1:].isdigit()
    return match[0] if unit else f"{{{match[1]}}}"


_CHARACTERS = _rules(
    ("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}"),
    ("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(_SUBSCRIPTS) + "}"),
    (r"√\s*(\d+(?:\.\d+)?|[a-zA-Z])", r"\\sqrt{\1}"),
    (r"√", r"\\sqrt"),
    (f"[{''.join(_UNICODE)}]", lambda m: _UNICODE[m[0]]),
)
_LAYOUT = _rules(
    (r"(?<=\d)(?:\{,\}|,\\!)\s*(?=\d{3}(?!\d))", ""),  # thousands: 14{,}916 and 15,\!000
    (r"\\!\s*", ""),
    (r"(?<!\\)\\[()\[\]]", " "),
    (r"\\\$|[$€£¥]", " "),
    (r"\\(?:boxed|fbox)(?=\s*\{)", ""),
    (r"\\m?(?:left|right)(?![a-zA-Z])\s*\.?", ""),
    (r"\\(?:[bB]igg?[lrm]?|(?:display|text|script)style|limits)(?![a-zA-Z])", " "),
    (r"\\(?:[hv]space\*?|h?phantom)\s*\{[^{}]*\}", " "),
    (r"(?<!\\)\\(?:[,;:> \n]|quad|qquad|thinspace|enspace)(?![a-zA-Z])|~", " "),
    (
        r"\\(?:mathrm|textrm|textbf|textit|textnormal|texttt|textsf|mbox|hbox|emph|rm)" + END,
        r"\\text",
    ),
    (r"\\(?:mathbf|boldsymbol|bm|mathit|mathsf|mathcal|mathnormal|bf|it)" + END, ""),
    (r"\\text\s*\{\s*([a-zA-Z]|[\d.,()+\- ]+)\s*\}", lambda m: _short_text(m)),
    (r"^\\text\s*\{[^{}]*\}\s*[:~]?\s*(?=-?[\d.]+$)", ""),  # \text{(A) } 12
    (r"\\text\s*\{\s*([\d.,]+)\s+([a-zA-Z][a-zA-Z ]*)\}", r"\1 \\text{\2}"),
    (r"\s+", " "),
)
_COMMANDS = _rules(
    (r"\\(?:d|t|c)frac" + END, r"\\frac"),
    (r"\\(?:d|t)binom" + END, r"\\binom"),
    (r"\\(?:le|leqslant|leqq)" + END, r"\\leq"),
    (r"\\(?:ge|geqslant|geqq)" + END, r"\\geq"),
    (r"\\ne" + END, r"\\neq"),
    (r"\\lt" + END, "<"),
    (r"\\gt" + END, ">"),
    (r"\\(?:times|ast)" + END, r"\\cdot "),
    (r"\\div" + END, "/"),
    (r"\\varnothing" + END, r"\\emptyset"),
    (r"\\(?:dots|cdots|dotsc|dotsb)" + END + r"|\.\.\.+", r"\\ldots "),
    (r"\\lbrace" + END, r"\\{"),
    (r"\\rbrace" + END, r"\\}"),
    (r"\\\{\s*\\\}", r"\\emptyset"),
    (r"\\[lr]brack" + END, lambda m: "[" if m[0][1] == "l" else "]"),
    (r"\\[lr]?vert" + END, "|"),
    (r"\\colon" + END, ":"),
    (r"\\infin" + END, r"\\infty"),
    (r"\\(?:approxeq|simeq)" + END, r"\\approx"),
    (r"\\degree" + END, r"^\\circ"),
    (r"\^\s*\{?\s*\\circ\s*\}?", r"^\\circ "),
)
_WORDS = _rules(
    (r"\\text\s*\{\s*,?\s*and\s*\}|(?<![\\a-zA-Z])and(?![a-zA-Z])", r"\\land "),
    (r"\\text\s*\{\s*,?\s*or\s*\}|(?<![\\a-zA-Z])or(?![a-zA-Z])", r"\\lor "),
    (r"[,;]\s*(\\land |\\lor )", r"\1"),
    (r"\\text\s*\{\s*(?:percent|per cent|\\?%)\s*\}|(?<![\\a-zA-Z])percent(?:age)?" + END, r"\\%"),
    (r"(?<!\\)%", r"\\%"),
    (r"\\text\s*\{\s*degrees?\s*\}|(?<![\\a-zA-Z])degrees?" + END, r"^\\circ "),
)
_MULTIPLES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MULTIPLE = re.compile(
    r"(?<=[\d}])\s*(\\text\s*\{\s*)?(" + "|".join(_MULTIPLES) + r")" + END + r"(?(1)([^{}]*)\})"
)
_NAMES = (
    "sqrt|pi|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|infty|theta|"
    "alpha|beta|gamma|delta|lambda|mu|phi|omega|min|max|gcd"
)
_PLAIN_NAME = re.compile(rf"(?<![\\a-zA-Z])({_NAMES}){END}")
_PLAIN = _rules(
    (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)" + END, r"\\infty "),
    (r"\*\*", "^"),
    (r"\*", r"\\cdot "),
    (r"<=", r"\\leq "),
    (r">=", r"\\geq "),
    (r"!=", r"\\neq "),
    (r"\^\s*(-?\d+)", r"^{\1}"),  # TeX reads 10^12 as 10^1 2; its writers mean 10^{12}
)
_MAX_DEPTH = 80
"""Deeper formulas keep their arguments as they are: they are too deep to be compared anyway."""
_TEXT_GROUP = re.compile(r"(\\(?:text|operatorname)\s*\{[^{}]*\})")
_ARGUMENTS = {"\\frac": 2, "\\sqrt": 1, "\\binom": 2}
_COMMA_GROUPS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_SPACE_GROUPS = re.compile(r"(?<![\d.,/}] )(?<![\d.,/])[1-9]\d{0,2}(?: \d{3})+(?!\d|\s*[/\\])")


@lru_cache(maxsize=20_000)
def canonical(text: str) -> str:
    """``text`` in one notation: LaTeX, without what carries no meaning."""
    text = unicodedata.normalize("NFKC", _apply(_CHARACTERS, text))
    text = _apply(_COMMANDS, _apply(_LAYOUT, text))
    text = _MULTIPLE.sub(_multiple, _apply(_WORDS, text))
    text = "".join(
        part if _TEXT_GROUP.fullmatch(part) else _plain(part) for part in _TEXT_GROUP.split(text)
    )
    text = bare(text)
    if depth_of(text) <= _MAX_DEPTH:
        text = _braced_arguments(text)
    text = _SPACE_GROUPS.sub(lambda m: m[0].replace(" ", ""), text)
    return bare(re.sub(r"\s+", " ", _join_thousands(text)))


def key(text: str) -> str:
    """A string that is equal for answers whose canonical forms differ only in spaces."""
    return re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(r"\{(\w)\}", r"\1", text))


def bare(text: str) -> str:
    """``text`` without closing punctuation and brackets that hold it whole and list nothing."""
    partner = dict(pairs(text))
    start, end = _trimmed(text, 0, len(text))
    outer = (start, end)
    while start < end and partner.get(start) == end - 1:
        outer = (start, end)
        start, end = _trimmed(text, start + 1, end - 1)
    if _lists(text[start:end]):
        start, end = outer
    return text[start:end]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without spaces, closing punctuation and a leading ``=``."""
    while start < end and text[end - 1] in " .,;:":
        end -= 1
    while start < end and text[start] in " =:":
        start += 1
    return start, end


def _lists(inside: str) -> bool:
    return any(depth == 0 and token in (",", ";") for _, depth, token in tokens(inside))


def _apply(rules: tuple[Rule, ...], text: str) -> str:
    for pattern, replacement in rules:
        text = pattern.sub(replacement, text)
    return text


def _multiple(match: re.Match[str]) -> str:
    rest = f"\\text{{{match[3]}}}" if match[1] and match[3].strip() else ""
    return f"\\cdot 10^{{{_MULTIPLES[match[2]]}}} {rest}"


def _plain(text: str) -> str:
    return _apply(_PLAIN, _PLAIN_NAME.sub(r"\\\1 ", text))


def _braced_arguments(text: str) -> str:
    """``\\frac12``, ``\\sqrt3``, ``\\sqrt(2)`` and ``x^(y)`` with braces around each argument."""
    done, at = [], 0
    pattern = re.compile(r"(\\(?:frac|sqrt|binom))(?![a-zA-Z])|\^")
    while match := pattern.search(text, at):
        done.append(text[at : match.end()])
        at = match.end()
        if match[0] == "^":
            at = _bracketed_power(text, at, done)
            continue
        for _ in range(_ARGUMENTS[match[1]]):
            at = _argument(text, at, done)
    return "".join([*done, text[at:]])


def _bracketed_power(text: str, at: int, done: list[str]) -> int:
    if text[at : at + 1] != "(":
        return at
    end = _closing_round(text, at)
    if end is None:
        return at
    done.append("{" + _braced_arguments(text[at + 1 : end]) + "}")
    return end + 1


def _argument(text: str, at: int, done: list[str]) -> int:
    """Appends the next argument to ``done`` in braces; returns the index after it."""
    while text[at : at + 1] == " ":
        at += 1
    start = text[at : at + 1]
    if start == "[" and done[-1].endswith("\\sqrt") and "]" in text[at:]:
        degree_end = text.index("]", at) + 1
        done.append(text[at:degree_end])
        return _argument(text, degree_end, done)
    if start == "{":
        end = matching_brace(text, at)
    elif start == "(":
        end = _closing_round(text, at)
    elif start == "\\":
        command = re.compile(r"\\[a-zA-Z]+").match(text, at)
        if command is None or command[0] in _ARGUMENTS:
            return at
        done.append("{" + command[0] + "}")
        return command.end()
    elif start.isalnum():
        done.append("{" + start + "}")
        return at + 1
    else:
        return at
    if end is None:
        return at
    done.append("{" + _braced_arguments(text[at + 1 : end]) + "}")
    return end + 1


def _closing_round(text: str, opening: int) -> int | None:
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return None


def _join_thousands(text: str) -> str:
    """``1,234`` as 1234, but not inside brackets, where a comma separates coordinates."""
    if not _COMMA_GROUPS.search(text):
        return text
    outside = {at for at, depth, _ in tokens(text) if depth == 0}
    return _COMMA_GROUPS.sub(
        lambda m: m[0].replace(",", "") if m.start() in outside else m[0], text
    )

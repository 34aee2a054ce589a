"""One notation for what people and models write: plain text, Unicode or LaTeX in, LaTeX out.

Nothing here decides whether two answers are equal; it only removes differences that carry no
meaning (spacing, sizing, colours, fonts, ``\\dfrac``, ``14{,}916``, ``sqrt(2)``, ``74°``).
"""

import re
from collections.abc import Callable
from functools import lru_cache

from butwait.problems.equality.brackets import (
    closing_round,
    depth_of,
    groups,
    matching_brace,
    pairs,
    tokens,
)
from butwait.problems.equality.characters import to_latex
from butwait.problems.equality.numerals import BASES, in_digits

Rule = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
END = r"(?![a-zA-Z])"


def _rules(*pairs: tuple[str, str | Callable[[re.Match[str]], str]]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern), replacement) for pattern, replacement in pairs)


def _short_text(match: re.Match[str]) -> str:
    """One letter or number in a text font is a symbol, but a letter after a number is a unit."""
    before = match.string[: match.start()].rstrip(" ~\\,;{/")
    unit = match[1].isalpha() and before[-1:].isdigit()
    return match[0] if unit else f"{{{match[1]}}}"


def _currency(match: re.Match[str]) -> str:
    name = _CURRENCIES.get(match["sign"].lstrip("\\"), "")
    return f"{match['number']} \\text{{{name}}}" if name else f" {match['number']}"


def _lines(match: re.Match[str]) -> str:
    """The lines of an alignment: a line that begins with a relation goes on with the one before."""
    body = match[2].replace("&", " ")
    lines = [line.strip() for line in re.split(r"\\\\(?:\s*\[[^\]]*\])?", body) if line.strip()]
    return re.sub(r",\s*(?==|<|>|\\[lg]eq?|\\approx|\\Rightarrow|\\implies)", " ", ", ".join(lines))


_CURRENCIES = {"$": "dollar", "€": "euro", "£": "pound", "₹": "rupee", "₩": "won", "₽": "ruble"}
_CURRENCIES["¢"] = "cent"
_ALIGNMENTS = "aligned|align|alignat|alignedat|split|gathered|gather|equation|eqnarray|multline"
_LAYOUT = _rules(
    (r"\s+", " "),
    (r"\\text ?\{ ?([,.:;]) ?\}", r"{\1}"),
    (r"(?<=\d)(?:\{,\}|,\\!|\\!,(?:\\!)?)\s*(?=\d{3}(?!\d))", ""),  # thousands: 14{,}916, 15,\!000
    (r"(?<!\\)\\[!/-]\s*", ""),
    (r"\b(?:US|CA|AU|NZ|HK) ?(?=\\?\$)|(?<![a-zA-Z])(?:Rs\.?|USD|EUR|GBP|INR|RMB) ?(?=\d)", ""),
    (r"(?<!\\)\\[()\[\]]", " "),
    (
        r"(?P<sign>\\\$|[€£₹₩₽])\s*(?P<number>[+-]?\d[\d,.]*)(?=[\s.}]*$)",
        _currency,
    ),
    (r"(?P<number>\d)\s*(?P<sign>[€£₹₩₽¢])(?=[\s.}]*$)", _currency),
    (r"\\\$|[$€£¥₹₩₽]|\\(?:pounds|euro)" + END, " "),
    (r"\\begin\{(" + _ALIGNMENTS + r")\*?\}((?:(?!\\begin|\\end).)*+)\\end\{\1\*?\}", _lines),
    (r"\\begin\{(d?cases)\}((?:(?!\\begin|\\end|&).)*+)\\end\{\1\}", _lines),
    (r"\\begin\{array\} ?\{[^{}]*\}((?:(?!\\begin|\\end|\\\\|&).)*+)\\end\{array\}", r"\1"),
    (r"\\(?:page)?color\s*(?:\[[^\[\]{}]*\])?\s*\{[^{}]*\}", " "),
    (r"\\fcolorbox ?\{[^{}]*\} ?(?=\{)", r"\\colorbox"),
    (r"\\(?:textcolor|colorbox)\s*(?:\[[^\[\]{}]*\])?\s*\{[^{}]*\}\s*(?=\{)", ""),
    (r"\\(?:tag\*?|label|hspace\*?|vspace\*?|[hv]?phantom)\s*\{[^{}]*\}", " "),
    (r"\\(?:hskip|kern|mskip|mkern)\s*-?[\d.]+\s*(?:mm|cm|in|em|ex|pt|mu)", " "),
    (
        r"\\(?:boxed|fbox|framebox|underline|uline|uuline|uwave|ensuremath|smash|mathop|mathrel"
        r"|mathbin|mathord|mathinner|mathopen|mathclose|pmb)(?=\s*\{)",
        "",
    ),
    (r"\\m?(?:left|right|middle)(?![a-zA-Z])\s*\.?", ""),
    (r"\\(?:checkmark|square|blacksquare|Box|qed|qedsymbol|bigstar|dag|ddag)" + END, " "),
    (r"\\mathbb ?\{ ?(\d+) ?\}", r"\1"),
    (r"[\^_] ?\{ ?\}|\\\\ ?$", ""),
    (r"\{ ?([\^_]) ?(\w+) ?\}", r"\1{\2}"),
    (r"^\^ ?\{? ?(\d+) ?\}? ?/ ?_ ?\{? ?(\d+) ?\}?$", r"\\frac{\1}{\2}"),
    (r"^[\"'] ?([^\"']*) ?[\"']$", r"\1"),
    (
        r"\\(?:[bB]igg?[lrm]?|(?:display|text|script|scriptscript)style|(?:no)?limits|tiny"
        r"|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|nonumber|notag"
        r"|mathstrut|strut|hfill|centering|relax|bfseries|itshape)" + END,
        " ",
    ),
    (
        r"(?<!\\)\\(?:[,;:> ]|(?:quad|qquad|thinspace|enspace|medspace|space|enskip)"
        + END
        + r")|~",
        " ",
    ),
    (
        r"\\(?:mathrm|textrm|textbf|textit|textnormal|texttt|textsf|textup|textsc|textsl|textmd"
        r"|mbox|hbox|emph|rm|textstyle)" + END,
        r"\\text",
    ),
    (
        r"\\(?:mathbf|boldsymbol|bold|bm|mathit|mathsf|mathcal|mathscr|mathfrak|mathtt"
        r"|mathnormal|bf|it|tt|sf)" + END,
        "",
    ),
    (r"\\text(?= ?\{ ?\\(?:[dt]?frac|sqrt|pi)(?![a-zA-Z]))", ""),
    (r"\\text ?\{ ?\\text ?\{([^{}]*)\} ?\}", r"\\text{\1}"),
    (r"\{\s*([:;=<>+\-])\s*\}", r"\1"),
    (r"\s+", " "),
    (r"\\text ?\{ ?([a-zA-Z]|[\d.,()+\- ]+) ?\}", _short_text),
    (r"^\\text ?\{ ?\(?[A-Z]\)?[.:]? ?\} ?[:~]? ?(?=-?[\d.]+$)", ""),  # \text{(A) } 12
    (
        r"^\\text ?\{[^{}]*(?::|=|(?<![a-zA-Z])(?:is|are|equals)) ?\} ?(?=.)",
        "",
    ),  # \text{Total: } 12
    (
        r"_ ?\{? ?(?:\\text ?\{)? ?(" + "|".join(BASES) + r")" + END + r" ?\}*",
        lambda m: f"_{{{BASES[m[1]]}}}",
    ),
    (r"\\text ?\{ ?([\d.,]+) ([a-zA-Z][a-zA-Z ]*)\}", r"\1 \\text{\2}"),
    (r"\s+", " "),
)
_COMMANDS = _rules(
    (r"\\(?:d|t|c|nice|s|x|flat)frac" + END, r"\\frac"),
    (r"\\(?:d|t)binom" + END, r"\\binom"),
    (r"\\(?:le|leqslant|leqq)" + END, r"\\leq"),
    (r"\\(?:ge|geqslant|geqq)" + END, r"\\geq"),
    (r"\\not\s*=|\\ne" + END, r"\\neq"),
    (r"\\lt" + END, "<"),
    (r"\\gt" + END, ">"),
    (r"\\(?:times|ast|cdotp)" + END, r"\\cdot "),
    (r"\\div" + END, "/"),
    (r"\\varnothing" + END, r"\\emptyset"),
    (r"\\(?:dots|cdots|dotsc|dotsb|dotsm)" + END + r"|\.\.\.+", r"\\ldots "),
    (r"\\lbrace" + END, r"\\{"),
    (r"\\rbrace" + END, r"\\}"),
    (r"\\\{\s*\\\}", r"\\emptyset"),
    (r"\\[lr]brack" + END, lambda m: "[" if m[0][1] == "l" else "]"),
    (r"\\[lr]?vert" + END + r"|\\mid(?=\s*$)", "|"),
    (r"\\colon" + END, ":"),
    (r"^(?:[a-zA-Z] ?: ?)?[a-zA-Z] ?\\(?:long)?mapsto" + END, ""),
    (r"\\equiv(?![a-zA-Z])(?!.*mod)", "="),
    (r"\\overline ?\{ ?([A-Z]{2,3}) ?\}", r"\1"),
    (r"\\infin" + END, r"\\infty"),
    (r"\\(?:approxeq|simeq)" + END, r"\\approx"),
    (r"\\(?:implies|Longrightarrow|therefore)" + END, r"\\Rightarrow "),
    (r"\\(?:backslash|smallsetminus)" + END, r"\\setminus"),
    (r"\\(?:R|reals|Reals)" + END + r"|\\mathbb R", r"\\mathbb{R}"),
    (r"\\degree" + END, r"^\\circ"),
    (r"\^ ?(?:\{ ?\\circ ?\}|\\circ" + END + r")", r"^\\circ "),
    (
        r"(\d*\.\d*)\\dot ?\{? ?(\d) ?\}?(?:(\d*)\\dot ?\{? ?(\d) ?\}?)?(?!\d)",
        lambda m: f"{m[1]}\\overline{{{m[2]}{m[3] or ''}{m[4] or ''}}}",
    ),
    (r"(?<![\d.])(\d+\.|0\.\d+)\((\d+)\)$", r"\1\\overline{\2}"),  # 0.1(6)
    (r"(?<![\d.])(\d*\.\d{0,9}?)(\d{1,6}?)\2{2,}\s*\\ldots", r"\1\\overline{\2}"),  # 0.333...
    # ]0,1[ is (0,1)
    (r"\]([^\[\]()]*[,;][^\[\]()]*)([\[\]])", lambda m: f"({m[1]}" + (")" if m[2] == "[" else "]")),
    (r"\[([^\[\]()]*[,;][^\[\]()]*)\[", r"[\1)"),
)
_WORDS = _rules(
    (r"\\text\s*\{\s*,?\s*and\s*\}|(?<![\\a-zA-Z])and(?![a-zA-Z])", r"\\land "),
    (r"\\text\s*\{\s*,?\s*or\s*\}|(?<![\\a-zA-Z])or(?![a-zA-Z])", r"\\lor "),
    (r"\\text ?\{ ?(\\land |\\lor )", r"\1\\text{"),
    (r"\\text ?\{([^{}]*?) ?(\\land |\\lor ) *\}", r"\\text{\1} \2"),
    (r"[,;]\s*(\\land |\\lor )", r"\1"),
    (r"^(\d+) ?' ?(\d+(?:\.\d+)?) ?(?:\"|'')$", r"\1 \\text{feet} \2 \\text{inches}"),
    (r"\\text\s*\{\s*(?:percent|per cent|\\?%)\s*\}|(?<![\\a-zA-Z])percent(?:age)?" + END, r"\\%"),
    (r"(?<!\\)%", r"\\%"),
    (
        r"(\d) ?(?:\\text ?\{ ?)?degrees? (Celsius|Fahrenheit|C|F)(?![a-zA-Z])(?: ?\})?",
        lambda m: f"{m[1]}^\\circ \\text{{{m[2][0]}}}",
    ),
    (r"(?<=[\w}]) ?(?:\\text ?\{ ?to ?\}|\bto\b) ?(?=\d)", ":"),
    (r"(?<=[\w})]) ?(?:\\text ?\{ ?minus ?\}|\bminus\b) ?(?=[\w\\(])", "-"),
    (r"(?<=[\w})]) ?(?:\\text ?\{ ?plus ?\}|\bplus\b) ?(?=[\w\\(])", "+"),
    (r"(?<=[\w})]) ?(?:\\text ?\{ ?times ?\}|\btimes\b) ?(?=[\w\\(])", r"\\cdot "),
    (r"(?<=[\w})]) ?\\text ?\{ ?(?:divided by|over) ?\} ?(?=[\w\\(])", "/"),
    (r"\\text\s*\{\s*degrees?\s*\}|(?<![\\a-zA-Z])degrees?" + END, r"^\\circ "),
    (r"\\operatorname ?\{ ?(gcd|max|min|exp|log|ln|sin|cos|tan|det|deg) ?\}", r"\\\1 "),
)
_NAMES = (
    "sqrt|pi|sin|cos|tan|cot|csc|arcsin|arccos|arctan|sinh|cosh|tanh|log|ln|exp|infty|theta|"
    "alpha|beta|gamma|delta|lambda|mu|phi|omega|gcd|(?:min|max|sec)(?=\\s*[({\\\\\\d_^])"
)
PLAIN_NAME = re.compile(rf"(?<![\\a-zA-Z])({_NAMES}){END}")
_PLAIN = _rules(
    (r"(?<![\\a-zA-Z])(?:infinity|inf|oo)" + END, r"\\infty "),
    (r"\*\*", "^"),
    (r"\*", r"\\cdot "),
    (r"<=", r"\\leq "),
    (r">=", r"\\geq "),
    (r"!=", r"\\neq "),
    (r"=>|->", r"\\Rightarrow "),
    (r"\+ ?/ ?-", r"\\pm "),
    (r"(?<=\d) ?[xX] ?(?=10 ?\^)", r" \\cdot "),  # 1.5 x 10^3
    (r"(?<=[)\]]) ?U ?(?=[(\[])", r" \\cup "),  # (0,1) U (2,3)
    (r"\^\s*(-?\d+(?:\.\d+)?)", r"^{\1}"),  # TeX reads 10^12 as 10^1 2; its writers mean 10^{12}
)
_MAX_DEPTH = 80
"""Deeper formulas keep their arguments as they are: they are too deep to be compared anyway."""
_MAX_INFIX = 20
_INFIX = re.compile(r"\\(over|choose)(?![a-zA-Z])")
_TEXT_GROUP = re.compile(r"(\\(?:text|operatorname)\s*\{[^{}]*\})")
_ARGUMENTS = {"\\frac": 2, "\\sqrt": 1, "\\binom": 2}
_COMMA_GROUPS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_SPACE_GROUPS = re.compile(r"(?<![\d.,/}] )(?<![\d.,/])[1-9]\d{0,2}(?: \d{3})+(?!\d|\s*[/\\])")


@lru_cache(maxsize=20_000)
def canonical(text: str) -> str:
    """``text`` in one notation: LaTeX, without what carries no meaning."""
    text = _apply(_COMMANDS, _apply(_LAYOUT, to_latex(text)))
    text = in_digits(_apply(_WORDS, text))
    text = "".join(
        part if _TEXT_GROUP.fullmatch(part) else _plain(part) for part in _TEXT_GROUP.split(text)
    )
    if "&" in text and "\\begin" not in text:
        text = re.sub(r" ?\\?& ?", r" \\land ", text)
    text = bare(_prefixed(text))
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


def _plain(text: str) -> str:
    return _apply(_PLAIN, PLAIN_NAME.sub(r"\\\1 ", text))


def _prefixed(text: str) -> str:
    """``{5 \\choose 2}`` and ``{1 \\over 2}`` as ``\\binom{5}{2}`` and ``\\frac{1}{2}``."""
    for _ in range(_MAX_INFIX):
        infix = _INFIX.search(text)
        if infix is None:
            break
        around = [g for g in groups(text) if g[0] < infix.start() < g[1]]
        start, end = max(around, default=(-1, len(text)))
        name = "\\frac" if infix[1] == "over" else "\\binom"
        arguments = f"{{{text[start + 1 : infix.start()]}}}{{{text[infix.end() : end]}}}"
        text = text[: max(start, 0)] + name + arguments + text[end + 1 :]
    return text


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
    end = closing_round(text, at)
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
        end = closing_round(text, at)
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


def _join_thousands(text: str) -> str:
    """``1,234`` as 1234, but not inside brackets, where a comma separates coordinates."""
    if not _COMMA_GROUPS.search(text):
        return text
    outside = {at for at, depth, _ in tokens(text) if depth == 0}
    return _COMMA_GROUPS.sub(
        lambda m: m[0].replace(",", "") if m.start() in outside else m[0], text
    )

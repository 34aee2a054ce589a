"""The shape of an answer: a value, a list, a set, a tuple or interval, a union, a matrix.

Shapes are read from canonical notation (``equality.notation``). Order counts in tuples, intervals
and matrices; it does not in lists, sets and unions.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal

from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.brackets import split, tokens, wrapped

Shape = Literal["value", "list", "set", "bracket", "union", "matrix"]
MAX_ITEMS = 60
_SEPARATORS = frozenset({",", ";", "\\land", "\\lor"})
_EQUALS = frozenset({"="})
_RELATIONS = {"<": "<", ">": ">", "\\leq": "<=", "\\geq": ">="}
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_VARIABLE = re.compile(
    r"(?:[a-zA-Z]|\\(?:theta|alpha|beta|gamma|lambda|mu|phi|omega))(?:_\{?\w+\}?)?"
)
_NAME = re.compile(
    _VARIABLE.pattern
    + r"|[a-zA-Z](?:\^\{-1\}|')?\s*\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\)"
    + r"|\(\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\)|\\text\s*\{[^{}]*\}|[a-zA-Z]_?\w*:[a-zA-Z]_?\w*"
)
_LABEL = re.compile(
    r"(?:\\text\s*\{[^{}]*\}|\\[a-zA-Z]++|[a-zA-Z]\(\s*-?\d+\s*\)|_\{?\w++\}?|[a-zA-Z]"
    r"|[+|(){}' ])++"  # possessive: a hostile text must not make it try every way to split
)
_MEMBER = re.compile(_VARIABLE.pattern + r"\s*\\in(?![a-zA-Z])\s*")
_MATRIX = re.compile(
    r"^(?P<factor>(?:-|[\w\s+*/^().-]|\\(?:frac|sqrt|cdot|pi)(?![a-zA-Z])|[{}])*?)\s*(?:\\cdot)?\s*"
    r"[\[(]?\s*\\begin\{(?P<name>[pbB]?(?:small)?matrix|array)\}(?:\{[^{}]*\})?"
    r"(?P<body>(?:(?!\\begin).)*)\\end\{(?P=name)\}\s*[\])]?$",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Answer:
    """Attributes:
    shape: see the module.
    text: the canonical text of the whole, its label left out.
    items: the parts, in order; a matrix is stored by rows.
    ends: the brackets of a bracket ("(]"), the number of columns of a matrix, else "".
    label: what stands left of "=" or is confined by an inequality: ``x`` in ``x = 5``; else "".
    """

    shape: Shape
    text: str
    items: tuple["Answer", ...] = ()
    ends: str = ""
    label: str = ""


def read(text: str) -> Answer:
    """The shape of canonical ``text``."""
    parts = split(text, _SEPARATORS)
    if len(parts) > 1 and all(parts):
        return _listed(text, parts)
    if member := _MEMBER.match(text):
        variable = member[0].split("\\in")[0].strip()
        return replace(read(text[member.end() :]), label=variable)
    sides = split(text, _EQUALS)
    if len(sides) > 1 and all(sides):
        return _assigned(text, sides)
    return _unlabelled(text)


def is_name(text: str) -> bool:
    """Whether ``text`` only names what it stands for: ``x``, ``f(x)``, ``S_1:S_2``."""
    return _NAME.fullmatch(text) is not None


def is_variable(text: str) -> bool:
    """Whether ``text`` is one variable: ``x``, ``x_1``, ``\\theta``."""
    return _VARIABLE.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether ``text = 5`` gives a value rather than an equation: ``m+n``, ``|AB|``, ``2+3``.

    A side with powers, coefficients or minus signs belongs to an equation.
    """
    return is_name(text) or _LABEL.fullmatch(text) is not None or evaluate(text) is not None


def _assigned(text: str, sides: list[str]) -> Answer:
    if is_name(sides[-1]) and not is_name(sides[0]) and len(sides) == 2:
        sides = sides[::-1]
    return replace(_unlabelled(sides[-1]), label=sides[0])


def _unlabelled(text: str) -> Answer:
    if bounds := _interval(text):
        return bounds
    parts = split(text, frozenset({"\\cup"}))
    if len(parts) > 1 and all(parts):
        return _union(text, [read(part) for part in parts])
    matrix = _MATRIX.match(text) if "\\begin" in text else None
    if matrix and len(split(matrix["factor"], frozenset({"+"}))) == 1:
        return _matrix(text, matrix["body"], matrix["factor"].strip())
    if (outer := wrapped(text)) and (answer := _wrapped(text, *outer)):
        return answer
    if any(token in ("\\pm", "\\mp") for _, _, token in tokens(text)):
        return Answer("list", text, _both_signs(text))
    return Answer("value", text)


def _listed(text: str, parts: list[str]) -> Answer:
    items = tuple(item for part in parts for item in _flat(read(part)))
    alternatives = split(text, _SEPARATORS - {"\\lor"}) == [text]
    if alternatives and all(item.shape == "bracket" for item in items):
        return _union(text, list(items))
    return Answer("list", text, items)


def _flat(item: Answer) -> tuple[Answer, ...]:
    return item.items if item.shape == "list" and not item.label else (item,)


def _union(text: str, parts: list[Answer]) -> Answer:
    if all(part.shape == "set" for part in parts):
        return Answer("set", text, tuple(item for part in parts for item in part.items))
    return Answer("union", text, tuple(parts))


def _wrapped(text: str, opening: str, inside: str, closing: str) -> Answer | None:
    parts = [part for part in split(inside, frozenset({",", ";"})) if part]
    items = tuple(item for part in parts for item in _flat(read(part)))
    if opening in ("\\{", "{"):
        built = split(inside, frozenset({"|", "\\mid", ":"}))
        if len(built) > 1:  # {x | x > 2} is the interval; other conditions are left to algebra
            condition = read(built[1])
            member = _MEMBER.sub(lambda m: m[0].split("\\in")[0], built[0]).split("\\mathbb")[0]
            return (
                condition if is_variable(member.strip()) and condition.shape == "bracket" else None
            )
        return Answer("set", text, items)
    if len(parts) < 2:
        return None
    ends = "()" if opening == "\\langle" else opening + closing
    return Answer("bracket", text, items, ends)


def _matrix(text: str, body: str, factor: str) -> Answer:
    """A matrix; a number or a variable before it multiplies each of its entries."""
    rows = [row for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", body) if row.strip()]
    times = f"({factor}) \\cdot " if factor not in ("", "-") else factor
    cells = [
        [
            read(f"{times}({cell})" if times else cell)
            for cell in split(row.strip(), frozenset({"&"}))
        ]
        for row in rows
    ]
    columns = str(len(cells[0])) if cells else ""
    return Answer("matrix", text, tuple(cell for row in cells for cell in row), columns)


def _both_signs(text: str) -> tuple[Answer, ...]:
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return tuple(Answer("value", re.sub(r"^\+\s*", "", t.strip())) for t in (upper, lower))


def _interval(text: str) -> Answer | None:
    """``-2 \\leq x < 7`` as [-2, 7) and ``x < 3`` as (-\\infty, 3), labelled with the variable."""
    marks = [token for _, depth, token in tokens(text) if depth == 0 and token in _RELATIONS]
    relations = [_RELATIONS[token] for token in marks]
    sides = split(text, frozenset(_RELATIONS))
    if not all(sides):
        return None
    if len(relations) == 1:
        return _half_line(text, sides[0], sides[1], relations[0])
    if len(relations) != 2 or relations[0][0] != relations[1][0] or not is_variable(sides[1]):
        return None
    low, variable, high = sides
    if relations[0][0] == ">":
        low, high, relations = high, low, [_FLIPPED[r] for r in relations[::-1]]
    return _bracket(text, low, high, relations[0], relations[1], variable)


def _half_line(text: str, left: str, right: str, relation: str) -> Answer | None:
    if is_variable(right):
        left, right, relation = right, left, _FLIPPED[relation]
    if not is_variable(left) or is_variable(right) or _occurs(left, right):
        return None
    if relation[0] == "<":
        return _bracket(text, "-\\infty", right, "<", relation, left)
    return _bracket(text, right, "\\infty", _FLIPPED[relation], "<", left)


def _occurs(variable: str, formula: str) -> bool:
    return re.search(rf"(?<![\\a-zA-Z]){re.escape(variable)}(?![a-zA-Z])", formula) is not None


def _bracket(text: str, low: str, high: str, left: str, right: str, label: str) -> Answer:
    ends = ("[" if left == "<=" else "(") + ("]" if right == "<=" else ")")
    return Answer("bracket", text, (Answer("value", low), Answer("value", high)), ends, label)

"""Which bracket closes which, and splitting a formula at its top level."""

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"(?P<open>\\begin\{[^{}]*\}|\\\{|\\langle|[(\[{])|(?P<close>\\end\{[^{}]*\}|\\\}|\\rangle|[)\]}])"
    r"|\\[a-zA-Z]+|\\.|.",
    re.DOTALL,
)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def matching_brace(text: str, opening: int) -> int | None:
    """Index of the ``}`` that closes the ``{`` at ``opening``; None where it stays open.

    Escaped braces (``\\{``) are printed characters, not groups.
    """
    depth = 0
    for mark in _BRACE.finditer(text, opening):
        if mark[0] == "{":
            depth += 1
        elif mark[0] == "}":
            depth -= 1
            if depth == 0:
                return mark.start()
    return None


def closing_round(text: str, opening: int) -> int | None:
    """Index of the ``)`` that closes the ``(`` at ``opening``; None where it stays open."""
    depth = 0
    for at in range(opening, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return None


def groups(text: str) -> Iterator[tuple[int, int]]:
    """(opening, closing) indices of every closed group ``{...}``, in one pass."""
    open_braces = []
    for mark in _BRACE.finditer(text):
        if mark[0] == "{":
            open_braces.append(mark.start())
        elif mark[0] == "}" and open_braces:
            yield open_braces.pop(), mark.start()


def pairs(text: str) -> Iterator[tuple[int, int]]:
    """(opening, closing) indices of every matched ``(...)`` and ``{...}``, in one pass."""
    opened = []
    for mark in re.finditer(r"\\.|[(){}]", text, re.DOTALL):
        if mark[0] in ("(", "{"):
            opened.append(mark)
        elif mark[0] in (")", "}") and opened:
            opening = opened.pop()
            if opening[0] + mark[0] in ("()", "{}"):
                yield opening.start(), mark.start()


def balanced(text: str) -> bool:
    """Whether every group ``{...}`` of ``text`` is closed and none is closed twice."""
    depth = 0
    for mark in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(mark[0], 0)
        if depth < 0:
            return False
    return depth == 0


def depth_of(text: str) -> int:
    """The deepest nesting of brackets of any kind."""
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def tokens(text: str) -> Iterator[tuple[int, int, str]]:
    """(index, depth, token) of every command and character.

    Intervals mix brackets, ``(0, 1]``, so any closing bracket ends any opening one. A bracket
    has the depth of what stands around it.
    """
    depth = 0
    for mark in _TOKEN.finditer(text):
        if mark["close"]:
            depth = max(0, depth - 1)
        yield mark.start(), depth, mark[0]
        if mark["open"]:
            depth += 1


def split(text: str, separators: frozenset[str]) -> list[str]:
    """``text`` cut at the top-level ``separators`` (characters or commands), parts stripped."""
    parts, start = [], 0
    for at, depth, token in tokens(text):
        if depth == 0 and token in separators:
            parts.append(text[start:at].strip())
            start = at + len(token)
    return [*parts, text[start:].strip()]


def wrapped(text: str) -> tuple[str, str, str] | None:
    """(opening, inside, closing) where one pair of brackets holds the whole text."""
    outer = [(at, token) for at, depth, token in tokens(text) if depth == 0]
    if len(outer) != 2 or outer[0][0] != 0:
        return None
    (_, opening), (at, closing) = outer
    if opening not in ("(", "[", "{", "\\{", "\\langle") or at + len(closing) != len(text):
        return None
    return opening, text[len(opening) : at].strip(), closing

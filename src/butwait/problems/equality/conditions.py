"""What is said beside an answer: "for all x", "where k is an integer", "k in Z", "(n >= 1)"."""

import re

from butwait.problems.equality.brackets import split, wrapped

_INTRODUCED = re.compile(
    r"(?<=\S)[\s,;.(]*(?:\\text ?\{[\s,;.(]*(?:for|where|with|as|since|because|whenever|provided|"
    r"assuming|given|valid|which|that)(?![a-zA-Z])[^{}]*\}|\\forall(?![a-zA-Z])"
    r"|\\text ?\{ ?if ?\} ?[a-zA-Z] ?\\text ?\{ ?is (?:an? |any )?"
    r"(?:real|integer|whole|natural|constant)"
    r"|(?<![a-zA-Z\\])"
    r"(?:for (?:all|any|every|each|some)|where|since|because|provided)(?![a-zA-Z])).*$",
    re.DOTALL,
)
_VARIABLES = r"[a-zA-Z](?:_\{?\w\}?)?(?: ?, ?[a-zA-Z](?:_\{?\w\}?)?)*"
_MEMBERSHIP = re.compile(
    r"(?<=\S)\s*(?:[,;:(]\s*|\s)\(?\s*(?P<variable>[a-zA-Z](?:_\{?\w\}?)?) ?"
    r"\\in(?![a-zA-Z])\s*\{?\s*\\mathbb(?P<set>.*)$",
    re.DOTALL,
)
_VARIABLE_BEFORE = re.compile(r"(?<=\S)\s*[,;]\s*(?P<variable>[a-zA-Z])$")
_BOUND = re.compile(
    rf"{_VARIABLES} ?(?:\\[lg]eq?|[<>]|\\neq|= ?\d+ ?, ?\d+ ?, ?(?:\d+ ?, ?)?\\ldots).*", re.DOTALL
)
_RELATION = re.compile(r"[<>]|\\(?:leq|geq|neq|cup|infty)(?![a-zA-Z])")
_EXPLAINED = re.compile(r"(?<=[\w}!%]) ?\(\s*\\text ?\{[^{}]*\}\s*\)$")


def asides_removed(latex: str) -> str:
    """Canonical ``latex`` without what only says for which values it holds.

    A condition beside a relation or an interval is part of the answer and stays.
    """
    short = _INTRODUCED.sub("", _EXPLAINED.sub("", latex), count=1)
    member = _MEMBERSHIP.search(short)
    if member and (not _RELATION.search(short) or member["set"].strip() in ("{R}", "R")):
        short = short[: member.start()]
        while (other := _VARIABLE_BEFORE.search(short)) and other["variable"] in short[
            : other.start()
        ]:
            short = short[: other.start()]
    short = _without_bounds(short).rstrip(" ,;.:")
    return short or latex


def _without_bounds(latex: str) -> str:
    """``n^2 (n >= 1)`` and ``n^2, n >= 1`` without the bound, where the rest is no bound itself."""
    if latex.endswith(")"):
        head, opening, inside = latex[:-1].rpartition("(")
        bound = opening and _BOUND.fullmatch(inside.strip()) and not _RELATION.search(head)
        if bound and head.strip() and head.strip()[-1] not in "_^+-=/({,;":
            return head
    parts = split(latex, frozenset({",", ";"}))
    if len(parts) != 2 or _RELATION.search(parts[0]) or wrapped(parts[1]):
        return latex
    bounded = _BOUND.fullmatch(parts[1]) and re.search(r"[a-zA-Z]", parts[0])
    return parts[0] if bounded else latex

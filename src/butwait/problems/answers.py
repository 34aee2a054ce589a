"""Reads the final answer out of a completion, and integers out of answers.

Where the answer stands, first match wins:

1. Thinking is no answer: what stands in ``<think>...</think>``, or after a ``<think>`` that is
   never closed, is not read.
2. What stands in the last ``<answer>...</answer>``, where no box follows it.
3. The last box. Cut off or empty, it is no answer; an earlier box is never credited instead.
4. The last announcement: ``#### 18``, ``the answer is 18``, ``18 is the answer``.
5. The last line, where it ends in a value.

An answer that is text, or that a verifier judges, is what stands in 2 or 3 character for character.
"""

import re
from dataclasses import replace
from decimal import Decimal

from butwait.problems.cells import number_text
from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.brackets import groups, matching_brace, split
from butwait.problems.equality.notation import canonical
from butwait.problems.equality.rules import is_code
from butwait.problems.equality.structure import is_label, is_name
from butwait.problems.equality.units import counted, split_letter, split_unit
from butwait.problems.sentences import (
    MAX_VALUE,
    announced_value,
    cleaned,
    closing_value,
    math_spans,
)
from butwait.records import AnswerKind, Problem

MAX_UNBOXED = 100_000
"""Characters from the end of a completion that are searched for an announcement."""
MAX_BOX = 20_000
"""Characters of a box's content; a longer box is no answer."""
MAX_BOXES = 60
"""Boxes that are joined at most."""
MAX_LINK = 80
"""Characters between two joined boxes at most."""

_TAG_ENDS = ("nswer>", "nswer]", "NSWER>", "NSWER]")
_TAG = re.compile(r"(?i)[<\[](/?)(?:final[_ ]?)?answer[>\]]")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*")
_BARE_BOX = re.compile(r"[^\s${}\\.,;]+(?:[.,]\d+)*|\\[^\s$]+")
_LINK = re.compile(
    r"(?:\s|[$,;.&]|\\[,;: ()\[\]]|\\q?quad|\\text\s*\{\s*(?:and|or)\s*\}|and|or"
    r"|[a-zA-Z](?:_\{?\w+\}?)?\s*=)*+"
)
_OR = re.compile(r"(?<![a-zA-Z])or(?![a-zA-Z])")
_HASHES = re.compile(r"^####[ \t]*(.+)$", re.MULTILINE)
_CALCULATION = re.compile(r"<<[^<>]*>>")  # GSM8K's calculator marks
_PLAIN_INTEGER = re.compile(r"\s*([+-]?)0*(\d{1,1000})\s*")
_INTEGER = re.compile(r"[+-]?\d+")
_BEHIND = re.compile(r"[\s$.,;!*\\)\]]*")
_UNSEEN = re.compile(r"[\s\u200b-\u200f\u2060\ufeff]")
_NUMBER = re.compile(r"[+-]?(?:0|[1-9]\d*)(?:\.\d+)?")
_CALCULATED = re.compile(
    r"\\(?:log|ln|lg|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|sum|prod|int|lim|sqrt"
    r"|exp|Gamma|begin)(?![a-zA-Z])|(?<![a-zA-Z\\])[ei] ?[\^|)+*/-]|(?<![a-zA-Z\\])i(?![a-zA-Z])"
)
"""Functions of which algebra finds the value, where exact arithmetic does not."""
_BOUND = re.compile(r"_ ?\{[^{}]*\}")
_NO_VALUE = re.compile(r"\\(?:approx|lor|land|pm|mp|leq|geq|neq|equiv|ldots)(?![a-zA-Z])|[<>;=]")


def extract_answer(text: str, kind: AnswerKind) -> str | None:
    """The final answer as it is written in ``text``, None where there is none.

    kind: for ``integer``, the last line counts only where its value reads as an integer.
    """
    text = answer_part(text)
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    if any(mark in text for mark in _TAG_ENDS):
        tags = list(_TAG.finditer(text))
        opened = next((tag.end() for tag in reversed(tags) if not tag[1]), None)
        closed = next((tag.start() for tag in reversed(tags) if tag[1]), len(text))
        if opened is not None and last < max(opened, closed):
            inside = text[opened : closed if closed > opened else len(text)]
            return extract_answer(inside, kind) or _line(inside)
    if last >= 0 and (box := _BOX.match(text, last)):
        return _boxed(text, last, box.end())
    text = text[-MAX_UNBOXED:]
    if "####" in text and (hashes := _HASHES.findall(text)):
        return cleaned(hashes[-1]) or None
    said, answer = announced_value(text)
    return answer if said else _last_line(text, kind)


def read_answer(text: str, problem: Problem) -> str | None:
    """The final answer to a problem, by its ``answer_kind``; for a verifier as it is written."""
    kind = problem.answer_kind
    written = kind == "text" or problem.verifier is not None
    return written_answer(text, kind) if written else extract_answer(text, kind)


def written_answer(text: str, kind: AnswerKind = "text") -> str | None:
    """The final answer character for character, white space at its ends aside: what stands in the
    last box, or in the last ``<answer>...</answer>`` where no box follows it and none is in it.

    A brace in an answer may have no partner: a box that ends the text goes to the text's last
    brace. Where there is neither box nor tag, the answer is that of ``extract_answer``.
    """
    text = answer_part(text)
    last = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    tags = list(_TAG.finditer(text)) if any(mark in text for mark in _TAG_ENDS) else []
    opened = next((tag.end() for tag in reversed(tags) if not tag[1]), None)
    if opened is not None and last < opened:
        closed = next((tag.start() for tag in tags if tag[1] and tag.start() >= opened), len(text))
        return text[opened:closed].strip() or None
    if last >= 0 and (box := _BOX.match(text, last)):
        end = next((tag.start() for tag in tags if tag.start() > last), len(text))
        return _written(text[:end], last, box.end())
    return extract_answer(text, kind)


def same_text(a: str, b: str) -> bool:
    """Whether two answers are written the same, white space aside, or are one number (3 and
    3.0)."""
    if a.split() == b.split():
        return True
    if not (_NUMBER.fullmatch(a.strip()) and _NUMBER.fullmatch(b.strip())):
        return False
    return Decimal(a.strip()) == Decimal(b.strip())


def joined_boxes(text: str) -> str | None:
    """The last boxes as one answer, where several follow each other as a list; else None.

    Only separators may stand between them (commas, "and", "or", a label such as ``x =``). This is
    for gold answers of several values; a single value is in the last box alone.
    """
    text = answer_part(text)
    contents: list[str] = []
    following: int | None = None
    for box in reversed(list(_BOX.finditer(text))):
        content, end = _content(text, box.end())
        linked = following is None or _linked(text, end, following)
        if not content or not linked or len(contents) == MAX_BOXES:
            break
        if content not in contents:
            contents.insert(0, content)
        following = box.start()
    return ", ".join(contents) if len(contents) > 1 else None


def box_closed(text: str) -> bool:
    """Whether a complete ``\\boxed{...}`` stands in ``text`` outside an open ``<think>``."""
    if "box" not in text:  # asked at every step of every path, and rarely true
        return False
    text = answer_part(text)
    openings = {box.end() for box in _BOX.finditer(text)}
    return bool(openings) and any(opening in openings for opening, _ in groups(text))


def count_boxes(text: str) -> int:
    """How many ``\\boxed`` or ``\\fbox`` a text has, finished or not."""
    return len(_BOX.findall(text))


def answer_part(text: str) -> str:
    """What follows the last ``</think>``, up to a ``<think>`` that is never closed."""
    text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0]


def read_integer(text: str) -> int | None:
    """The integer that ``text`` writes: ``073``, ``1{,}234``, ``x = 10^6``, ``64 \\text{ cm}``.

    Exact arithmetic is done (``\\frac{10}{2}``); units, labels and thousands separators are
    dropped. None for anything else, lists, tuples and approximations among it.
    """
    if plain := _PLAIN_INTEGER.fullmatch(text):
        return -int(plain[2]) if plain[1] == "-" else int(plain[2])
    if (count := counted(text)) is not None:
        return count
    if len(text) > 2_000:
        return None
    alternatives = {_integer(part) for part in split(canonical(text), frozenset({"\\lor"}))}
    return alternatives.pop() if len(alternatives) == 1 else None


def _integer(latex: str) -> int | None:
    if len(split(latex, frozenset({",", ";", "\\land"}))) > 1:
        return None
    *labels, value_text = split(latex, frozenset({"="}))
    if is_name(value_text) and len(labels) == 1:  # 12 = x
        labels, value_text = [value_text], labels[0]
    if not all(is_label(label) for label in labels):
        return None
    if is_code(value_text):
        return None
    value_text, unit = split_unit(value_text)
    value = evaluate(value_text if unit else split_letter(value_text, "0", "")[0])
    return int(value) if value is not None and value.denominator == 1 else None


def needs_calculation(text: str) -> bool:
    """Whether ``text`` is one formula with functions, whose value might be an integer."""
    if len(text) > 2_000:
        return False
    latex = canonical(text)
    free = _BOUND.sub("", latex)
    return _CALCULATED.search(latex) is not None and _NO_VALUE.search(free) is None


def read_gold(gold: str | float | Decimal, *, several: bool = True) -> str:
    """The answer in a gold answer, which may be a whole solution: its last boxes, or what follows
    its last ``####`` (GSM8K). Any other text, or number, is the answer.

    several: whether boxes that follow each other are one answer of several values; else the last
        one counts, with what "or" joins to it.
    """
    text = (gold_text(gold) or "").strip()
    if "####" not in text and not count_boxes(text):
        return text
    return (several and joined_boxes(text)) or extract_answer(text, "math") or text


def says_nothing(gold: str, kind: AnswerKind) -> bool:
    """Whether a gold answer is blank: no character that is seen; where the rules of equality judge,
    also ``$$``, and a box or a ``####`` with nothing behind it."""
    if gold.isalnum():
        return False
    seen = _UNSEEN.sub("", gold)
    if kind == "text":
        return not seen
    if not seen.strip("$"):
        return True
    marked = "####" in gold or count_boxes(gold) > 0
    return marked and extract_answer(gold, "math") in (None, "", gold.strip())


def without_blanks(problem: Problem) -> Problem:
    """The problem without gold answers that are blank; as it is where a verifier judges."""
    if problem.verifier is not None:
        return problem
    golds = tuple(gold for gold in problem.golds if not says_nothing(gold, problem.answer_kind))
    if golds == problem.golds:
        return problem
    return replace(problem, answer=golds[0] if golds else None, also=golds[1:])


def gold_text(gold: str | float | Decimal | None) -> str | None:
    """A gold answer as text; numbers are taken as well: 2.0 is "2", and NaN is none."""
    return gold if gold is None or isinstance(gold, str) else number_text(gold) or None


def answer_kind(gold: str | float | Decimal | None) -> AnswerKind:
    """``integer`` for a gold answer that is written as one (073, 1,234, -5), else ``math``."""
    gold = gold_text(gold)
    written = gold is not None and len(gold) < 1_000 and _INTEGER.fullmatch(canonical(gold))
    return "integer" if written else "math"


def _boxed(text: str, start: int, inside: int) -> str | None:
    """The content of the box that starts at ``start``; boxes joined by "or" are one answer."""
    if text[inside : inside + 1] != "{":
        bare = _BARE_BOX.match(text, inside)
        return bare[0] if bare else None
    if _OR.search(text, max(0, start - 20), start) and (hedged := joined_boxes(text)):
        return hedged.replace(", ", " or ")
    return _content(text, inside)[0] or None


def _written(text: str, start: int, inside: int) -> str | None:
    """``_boxed``, where braces in the box may have no partner."""
    rest = text[inside : inside + MAX_BOX]
    end = matching_brace(rest, 0) if rest.startswith("{") else None
    after = rest if end is None else rest[end + 1 :]
    if rest.startswith("{") and (end is None or after.count("}") > after.count("{")):
        content, brace, behind = rest[1:].rpartition("}")
        if brace and _BEHIND.fullmatch(behind):
            return content.strip() or None
    return _boxed(text, start, inside)


def _content(text: str, inside: int) -> tuple[str, int]:
    """(content, index after the box); the content of a box that is cut off is ""."""
    braced = text[inside : inside + 1] == "{"
    end = matching_brace(text[inside : inside + MAX_BOX], 0) if braced else None
    if end is None:
        return "", len(text)
    return text[inside + 1 : inside + end].strip(), inside + end + 1


def _linked(text: str, end: int, following: int) -> bool:
    return (
        following - end <= MAX_LINK and _LINK.fullmatch(text, end, max(end, following)) is not None
    )


def _line(inside: str) -> str | None:
    """What one line says, whatever it is."""
    text = cleaned(inside.strip())
    return text if text and "\n" not in text else None


def _last_line(text: str, kind: AnswerKind) -> str | None:
    end = text[-MAX_VALUE:].rstrip()
    if end.endswith(("\\]", "$$")):
        spans = math_spans(end)
        if spans and spans[-1][1] == len(end):
            return spans[-1][2]
    lines = [line for line in text.strip().split("\n") if any(c.isalnum() for c in line)]
    if not lines:
        return None
    value = closing_value(_CALCULATION.sub("", lines[-1]).strip())
    if value is not None and kind == "integer" and read_integer(value) is None:
        return None
    return value

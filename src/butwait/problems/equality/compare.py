"""Whether an answer equals a gold answer: words, shapes and numbers here, formulas by algebra.

``equal`` decides everything that needs no algebra itself, at microseconds a case. Two formulas go
to the function it is given: ``algebra.same_formula`` inside a worker process, or ``refuse``,
which raises ``NeedsAlgebraError`` so that the caller can send the whole case to a worker.
"""

import re
from collections.abc import Callable

from butwait.problems.equality.arithmetic import evaluate
from butwait.problems.equality.brackets import balanced, depth_of, split
from butwait.problems.equality.conditions import asides_removed
from butwait.problems.equality.cost import MAX_DEPTH, too_costly
from butwait.problems.equality.notation import canonical, key
from butwait.problems.equality.numerals import hedges
from butwait.problems.equality.rules import (
    approximates,
    is_code,
    molecule,
    same_based,
    same_congruence,
    same_ratio,
    same_time,
)
from butwait.problems.equality.structure import (
    MAX_ITEMS,
    Answer,
    is_label,
    is_name,
    is_variable,
    read,
)
from butwait.problems.equality.units import conversion, split_letter, split_unit, summed
from butwait.problems.equality.words import as_words, choice_letter, option, same_words

Algebra = Callable[[str, str], bool]
"""(gold, answer) in canonical LaTeX -> whether they are equal; raises ``UnreadableGoldError``."""

MAX_TEXT = 2_000
"""An answer of more characters is no closed form of anything: equal to the same text only."""

_OTHER_SEPARATORS = frozenset({",", ";", "\\land", "\\pm", "\\mp"})
_SET_NOTATION = re.compile(
    r"[<>]|\\(?:leq|geq|neq|mathbb|setminus|emptyset|cap|cup|land|lor)(?![a-zA-Z])"
)
_RADIANS = re.compile(r"\\pi(?![a-zA-Z])|\\arc|\\(?:sin|cos|tan)\s*\^\s*\{\s*-1")
_WRITTEN_LIST = re.compile(r"\[\s*(?:(?:'[^']*'|\"[^\"]*\")\s*,?\s*)+\]")
_SAID = {
    key("\\emptyset"): "no solution",
    key("\\mathbb{R}"): "all real numbers",
    key("(-\\infty,\\infty)"): "all real numbers",
    key("(-\\infty,+\\infty)"): "all real numbers",
    key("\\infty"): "infinite",
}


class NeedsAlgebraError(Exception):
    """Two formulas must be compared, and the caller brought no algebra."""


class UnreadableGoldError(ValueError):
    """The gold answer cannot be read, so that nothing can be said about any answer."""


def refuse(gold: str, answer: str) -> bool:
    """The algebra of a process that has none."""
    raise NeedsAlgebraError


def equal(gold: str, answer: str, algebra: Algebra = refuse) -> bool:
    """Whether ``answer`` equals ``gold``, both as they were written.

    Raises:
        UnreadableGoldError: the gold answer is no readable formula and no words.
        NeedsAlgebraError: from ``refuse``.
    """
    if not is_readable(gold):
        raise UnreadableGoldError(gold[:100])
    if gold.split() == answer.split():
        return True
    if len(gold) > MAX_TEXT:
        raise UnreadableGoldError(gold[:100])
    if len(answer) > MAX_TEXT or not balanced(answer):
        return False
    letter = choice_letter(gold)
    if letter is not None and choice_letter(answer, with_text=True) == letter:
        return True
    gold_latex, answer_latex = (_plain(text) for text in (gold, answer))
    if key(gold_latex) == key(answer_latex):
        return True
    said = as_words(gold)
    if said is not None and same_words(said, as_words(answer)):
        return True
    if (printed := option(gold)) is not None:
        return _same_option(printed, answer, algebra)
    if is_code(gold_latex) or is_code(answer_latex):
        return False
    if "_" in gold_latex + answer_latex:
        formula = molecule(gold_latex)
        if formula is not None and formula == molecule(answer_latex):
            return True
    gold_words = _words(gold, gold_latex)
    if gold_words is not None:
        return _said(answer_latex) == gold_words
    if not answer_latex or _words(answer, answer_latex) is not None or hedges(answer_latex):
        said = _said(gold_latex)
        return said is not None and said == as_words(answer)
    try:
        return _Comparison(algebra).texts(gold_latex, _conclusion(answer_latex, gold_latex))
    except UnreadableGoldError:
        if "\\" in gold or too_costly(gold_latex):
            raise
        return False  # no formula but a text, which the answer is not


def _same_option(gold: tuple[str, str], answer: str, algebra: Algebra) -> bool:
    """Whether an answer has a printed option's letter, its text, or both."""
    letter, text = gold
    if (said := choice_letter(answer)) is not None:
        return said == letter
    other = option(answer) or (letter, answer)
    return other[0] == letter and equal(text, other[1], algebra)


def is_readable(gold: str | None) -> bool:
    """Whether a gold answer is there and its braces are balanced."""
    return gold is not None and bool(gold.strip()) and balanced(gold)


def is_collection(gold: str) -> bool:
    """Whether a gold answer consists of several values: a list, a set, a tuple."""
    if len(gold) > MAX_TEXT or depth_of(canonical(gold)) > MAX_DEPTH:
        return False
    return read(canonical(_listed(gold))).shape in ("list", "set", "bracket", "union")


def _listed(text: str) -> str:
    """A list as Python writes it, ``['12', '18']``, without its quotation marks."""
    if not _WRITTEN_LIST.fullmatch(text.strip()):
        return text
    return ", ".join(a or b for a, b in re.findall(r"'([^']*)'|\"([^\"]*)\"", text))


def _plain(text: str) -> str:
    """Canonical notation, without remarks; 2 hours 30 minutes in minutes."""
    return summed(asides_removed(canonical(_listed(text))))


def _words(text: str, latex: str) -> str | None:
    """``text`` as words, unless its words are only a unit, a number or a label of a formula."""
    words = as_words(text)
    if words is None:
        return None
    values = (_unlabelled(part) for part in re.split(r",|;|\\land|\\lor", latex))
    formula = " ".join(split_unit(value)[0] for value in values if not is_name(value))
    return words if as_words(formula) is not None or not formula else None


def _said(latex: str) -> str | None:
    """What a set is in words, where it has a name."""
    return _SAID.get(key(re.sub(r"^[a-zA-Z] ?\\in(?![a-zA-Z])", "", latex)))


def _unlabelled(part: str) -> str:
    """What stands right of the last "=", where what stands left only names or calculates it."""
    *labels, value = (side.strip() for side in part.split("="))
    return value if all(is_label(label) for label in labels) else part.strip()


def _conclusion(answer: str, gold: str) -> str:
    """What an answer ends in: no approximation after an exact value, the last of implications."""
    if "\\Rightarrow" in answer and "\\Rightarrow" not in gold:
        answer = answer.rpartition("\\Rightarrow")[2].strip()
    exact = answer.split("\\approx")[0].strip()
    return exact if exact and not is_name(exact) else answer


class _Comparison:
    """The recursion over shapes; ``algebra`` is what its leaves may use."""

    def __init__(self, algebra: Algebra) -> None:
        self._algebra = algebra

    def texts(self, gold: str, answer: str) -> bool:
        if depth_of(answer) > MAX_DEPTH:
            return False
        if depth_of(gold) > MAX_DEPTH:
            raise UnreadableGoldError(gold[:100])
        return self.answers(read(gold), read(answer))

    def answers(self, gold: Answer, answer: Answer) -> bool:
        if gold.label and answer.label and key(gold.label) != key(answer.label):
            return self._equations(gold, answer)
        if gold.label and not answer.label and not is_name(gold.label):
            return False  # an equation is no value
        if answer.label and not gold.label and not is_label(answer.label):
            return False
        if gold.label and answer.label and not is_name(gold.label):
            return self._shapes(gold, answer) or self._equations(gold, answer)
        return self._shapes(gold, answer)

    def _shapes(self, gold: Answer, answer: Answer) -> bool:
        gold, answer = _alone(gold), _alone(answer)
        shapes = (gold.shape, answer.shape)
        if shapes == ("value", "value"):
            return self._values(gold.text, answer.text)
        if shapes in (("list", "list"), ("set", "set"), ("list", "set"), ("set", "list")):
            return self._unordered(gold.items, answer.items) or self._sets(gold, answer)
        vectors = _is_vector(gold) and _is_vector(answer)
        if shapes in (("bracket", "bracket"), ("matrix", "matrix")):
            same_ends = gold.ends == answer.ends or (vectors and gold.shape == "bracket")
            return same_ends and self._ordered(gold.items, answer.items)
        if vectors and self._ordered(gold.items, _by_label(gold, answer)):
            return True
        if set(shapes) <= {"union", "list"} and self._unordered(gold.items, answer.items):
            return True
        if shapes == ("value", "list") and split(answer.text, _OTHER_SEPARATORS) == [answer.text]:
            return all(self.answers(gold, item) for item in answer.items)  # 0.5 or 1/2
        return self._sets(gold, answer) or self._matrices(gold, answer)

    def _sets(self, gold: Answer, answer: Answer) -> bool:
        """Intervals, inequalities and sets of numbers that are written with different shapes."""
        if all(
            _SET_NOTATION.search(side.text) or side.shape == "bracket" for side in (gold, answer)
        ):
            return self._formulas(gold.text, answer.text)
        return False

    def _matrices(self, gold: Answer, answer: Answer) -> bool:
        """A matrix and a product or sum that gives one."""
        if "matrix" in (gold.shape, answer.shape) and all(
            "\\begin" in side.text for side in (gold, answer)
        ):
            return self._formulas(gold.text, answer.text)
        return False

    def _ordered(self, gold: tuple[Answer, ...], answer: tuple[Answer, ...]) -> bool:
        if len(gold) != len(answer) or len(gold) > MAX_ITEMS:
            return False
        return all(self.answers(g, a) for g, a in zip(gold, answer, strict=True))

    def _unordered(self, gold: tuple[Answer, ...], answer: tuple[Answer, ...]) -> bool:
        """Equality is an equivalence, so that a greedy match finds a match where there is one."""
        if any(item.text.startswith("\\ldots") for item in (*gold, *answer)):
            return self._ordered(gold, answer)
        if len(answer) > MAX_ITEMS or len(gold) > MAX_ITEMS:
            return False
        left = list(answer)
        for item in gold:
            found = next((i for i, other in enumerate(left) if self.answers(item, other)), None)
            if found is None:
                return False
            matched = left.pop(found)
            left = [other for other in left if key(other.text) != key(matched.text)]
        return not left

    def _values(self, gold: str, answer: str) -> bool:
        if (verdict := same_time(gold, answer)) is not None:
            return verdict
        gold, gold_unit = split_unit(gold)
        answer, answer_unit = split_unit(answer)
        if not gold_unit:
            gold, gold_unit = split_letter(gold, answer, answer_unit)
        if not answer_unit:
            answer, answer_unit = split_letter(answer, gold, gold_unit)
        ratio = conversion(gold_unit, answer_unit)
        if ratio is None:
            return False
        if ratio != 1:
            answer = f"({answer}) \\cdot \\frac{{{ratio.numerator}}}{{{ratio.denominator}}}"
        if gold.endswith("\\%") and "\\%" not in answer:
            # 50\% may be answered by 50 and by 0.5, but 50 not by 50\%.
            bare_gold = gold.removesuffix("\\%").strip()
            return self._values(bare_gold, answer) or self._values(f"({bare_gold})/100", answer)
        if key(gold) == key(answer):
            return True
        g, a = evaluate(gold), evaluate(answer)
        if g is not None and a is not None:
            return g == a or approximates(gold, g, answer, a)
        if is_variable(gold) and is_variable(answer):
            return False  # A is not a; math-verify folds case
        for rule in (same_based, same_ratio, same_congruence):
            if (verdict := rule(gold, answer)) is not None:
                return verdict
        if answer_unit == "degree" and not gold_unit and _RADIANS.search(gold):
            answer = f"({answer}) \\cdot \\frac{{\\pi}}{{180}}"
        if gold_unit == "degree" and not answer_unit and _RADIANS.search(answer):
            gold = f"({gold}) \\cdot \\frac{{\\pi}}{{180}}"
        return self._formulas(gold, answer)

    def _equations(self, gold: Answer, answer: Answer) -> bool:
        """Two equations, unless both only name a value: x = 5 is not y = 5."""
        both_name = is_name(gold.label) and is_name(answer.label)
        if both_name and all(evaluate(side.text) is not None for side in (gold, answer)):
            return False
        if gold.shape != "value" or answer.shape != "value":
            return False
        return self._formulas(f"{gold.label} = {gold.text}", f"{answer.label} = {answer.text}")

    def _formulas(self, gold: str, answer: str) -> bool:
        if too_costly(answer) or (as_words(answer) is not None and as_words(gold) is None):
            return False
        if too_costly(gold):
            raise UnreadableGoldError(gold[:100])
        return self._algebra(gold, answer)


def _alone(answer: Answer) -> Answer:
    """A set or list of one is its element."""
    single = answer.shape in ("set", "list", "matrix") and len(answer.items) == 1
    return answer.items[0] if single else answer


def _by_label(gold: Answer, answer: Answer) -> tuple[Answer, ...]:
    """The parts of ``y=-1, x=3`` in the order of (x, y), where the gold answer has no labels."""
    if all(is_name(item.label) for item in answer.items) and not any(i.label for i in gold.items):
        return tuple(sorted(answer.items, key=lambda item: item.label))
    return answer.items


def _is_vector(answer: Answer) -> bool:
    """A tuple, however it is written: in brackets, without them, as a row or a column."""
    if answer.shape == "matrix":
        return answer.ends in ("1", str(len(answer.items)))
    listed = answer.ends == "[]" and len(answer.items) > 2  # two ends are an interval
    return answer.shape == "list" or (answer.shape == "bracket" and (answer.ends == "()" or listed))

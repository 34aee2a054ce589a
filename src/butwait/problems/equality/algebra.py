"""Whether two formulas are equal, by math-verify, SymPy's sets, and evaluation at 50 digits.

Runs only in a worker process (``equality.worker``): sympy can hang, and nothing here limits it.

math-verify reads LaTeX and compares relations and whatever cannot be evaluated. Where both sides
can be evaluated, evaluation decides: it neither takes 1/2004! and 1/2006! for 0 nor runs
``simplify`` into the wall.
"""

import re
from dataclasses import replace
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify
from sympy import (
    Basic,
    Eq,
    Expr,
    Float,
    Ge,
    Gt,
    I,
    Integral,
    Le,
    Limit,
    Lt,
    MatrixBase,
    MatrixExpr,
    Ne,
    Product,
    Rational,
    Sum,
    Symbol,
    solve,
    sympify,
)

from butwait.problems.equality.brackets import split, tokens
from butwait.problems.equality.compare import UnreadableGoldError
from butwait.problems.equality.rules import decimal_places
from butwait.problems.equality.sampling import agreement, proportional
from butwait.problems.equality.sets import same_set

_DEFAULTS = LatexExtractionConfig(boxed_match_priority=-1)
# math-verify's units are letters as well: it would read 5m, 3t and 2ab as 5, 3 and 2.
_READER = [
    replace(_DEFAULTS, normalization_config=replace(_DEFAULTS.normalization_config, units=False))
]
_REMARK = re.compile(r"(?<=.)\\text ?\{(?:[^{}]|\{[^{}]*\})*\}(?: ?\^ ?(?:\d|\{ ?\d ?\}))?$")
_SETS = re.compile(r"[<>\[]|\\(?:leq|geq|neq|mathbb|setminus|emptyset|cap|cup|infty)(?![a-zA-Z])")
_DEGREES = re.compile(
    r"(?P<number>(?<![\d.])\d+(?:\.\d+)?|\\frac ?\{[^{}]*\} ?\{[^{}]*\}|\([^()]*\)|[a-zA-Z])"
    r"\s*\^\\circ"
)
_RELATIONS = {"<": Lt, ">": Gt, "\\leq": Le, "\\geq": Ge, "\\neq": Ne}
_DEFINITE = (Sum, Product, Integral, Limit)
_MAX_SUMMED = 2_000
"""Terms of a finite sum or product that are added up one by one."""


def same_formula(gold: str, answer: str) -> bool:
    """Whether canonical ``answer`` equals canonical ``gold``.

    Raises:
        UnreadableGoldError: math-verify cannot read ``gold``. An answer that it cannot read is
            not equal.
    """
    if _SETS.search(gold + answer):
        verdict = same_set(gold, answer, _formula)
        if verdict is not None:
            return verdict
    gold_formula = _formula(gold)
    if gold_formula is None:
        raise UnreadableGoldError(gold[:100])
    answer_formula = _formula(answer)
    if answer_formula is None:
        return False
    places = [p for p in (decimal_places(gold), decimal_places(answer)) if p is not None]
    verdict = _evaluated(gold_formula, answer_formula, min(places, default=None))
    if verdict is not None:
        return verdict
    return verify(
        gold_formula,
        answer_formula,
        allow_set_relation_comp=True,
        timeout_seconds=None,
        raise_on_error=False,
    )


def _formula(latex: str) -> Basic | None:
    """What math-verify reads, degrees in radians; None where it reads nothing."""
    for mark, relation in _RELATIONS.items():
        sides = split(latex, frozenset({mark}))
        if len(sides) == 2 and not any(set(_RELATIONS) & _tokens(side) for side in sides):
            left, right = (_formula(side) for side in sides)
            if isinstance(left, Expr) and isinstance(right, Expr):
                return relation(left, right)
    latex = _REMARK.sub("", latex).strip()
    latex = _DEGREES.sub(r"(\\frac{\\pi \\cdot (\g<number>)}{180})", latex)
    latex = re.sub(r"\\lcm(?![a-zA-Z])", r"\\operatorname{lcm}", latex)
    try:
        found: list[Any] = parse(
            f"${latex}$",
            extraction_config=_READER,
            fallback_mode="no_fallback",
            parsing_timeout=None,
            raise_on_error=True,
        )
    except MemoryError:
        raise
    except Exception:  # the reader's own errors are of many kinds
        return None
    return _exact(found[0]) if found and isinstance(found[0], Basic) else next(iter(found), None)


def _tokens(latex: str) -> set[str]:
    return {token for _, _, token in tokens(latex)}


def _evaluated(gold: Basic, answer: Basic, places: int | None) -> bool | None:
    """The verdict of evaluation, None where it has none.

    Expressions are equal where they agree at every sampled point at which both are real (points
    of both signs and all sizes, so that |x| is not x); equations, where their sides' differences
    are proportional; inequalities, where they are so with a positive factor.
    """
    if isinstance(gold, Eq) and isinstance(answer, Eq):
        verdict = proportional(gold.lhs - gold.rhs, answer.lhs - answer.rhs)
        return verdict or _solved_for(gold, answer) or _solved_for(answer, gold) or verdict
    if isinstance(gold, (Ge, Gt, Le, Lt)) and isinstance(answer, (Ge, Gt, Le, Lt)):
        if isinstance(gold, (Ge, Le)) != isinstance(answer, (Ge, Le)):
            return False
        return proportional(gold.gts - gold.lts, answer.gts - answer.lts, positive=True)
    if all(isinstance(side, (MatrixBase, MatrixExpr)) for side in (gold, answer)):
        return _same_matrix(gold, answer, places)
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return None
    return agreement(gold, answer, places)


def _solved_for(equation: Eq, explicit: Eq) -> bool:
    """Whether ``explicit`` (y = 6/x) is the one solution of ``equation`` (xy = 6)."""
    name, value = explicit.lhs, explicit.rhs
    if not isinstance(name, Symbol) or name in value.free_symbols or not value.free_symbols:
        return False
    if (equation.lhs - equation.rhs).as_poly(name) is None:
        return False
    if (equation.lhs - equation.rhs).as_poly(name).degree() != 1:
        return False
    found = solve(equation, name)
    return len(found) == 1 and bool(agreement(found[0], value, None))


def _same_matrix(gold: Basic, answer: Basic, places: int | None) -> bool | None:
    g, a = (side.doit() for side in (gold, answer))
    if not all(isinstance(side, MatrixBase) for side in (g, a)):
        return None
    if g.shape != a.shape:
        return False
    verdicts = [agreement(sympify(x), sympify(y), places) for x, y in zip(g, a, strict=True)]
    return None if None in verdicts else all(verdicts)


def _exact(formula: Basic) -> Basic:
    """Decimals as fractions, i as the imaginary unit, finite sums added up; not evaluated else."""
    if not hasattr(formula, "xreplace"):
        return formula
    exact = {number: Rational(str(number)) for number in formula.atoms(Float)}
    units = {s: I for s in formula.free_symbols if s.name == "i"}
    formula = formula.xreplace(exact | units)
    return formula.xreplace({part: _definite(part) for part in formula.atoms(*_DEFINITE)})


def _definite(part: Expr) -> Expr:
    """A sum, product, integral or limit as its value, where SymPy finds one."""
    if isinstance(part, (Sum, Product)) and len(part.limits) == 1:
        _, low, high = part.limits[0]
        terms = (high - low).doit()
        if terms.is_number and terms.is_finite and terms.is_integer and terms > _MAX_SUMMED:
            return part
    value = part.doit()
    return value if not value.has(*_DEFINITE) else part

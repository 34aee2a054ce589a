"""Sets of real numbers, read into SymPy: intervals, inequalities, unions, differences.

``|x| > 2``, ``x < -2 \\lor x > 2`` and ``(-\\infty,-2)\\cup(2,\\infty)`` are one set. Runs only in
a worker process, as all of SymPy does.
"""

import re
from collections.abc import Callable

from sympy import (
    And,
    Basic,
    Complement,
    EmptySet,
    Expr,
    FiniteSet,
    Intersection,
    Interval,
    Ne,
    Or,
    S,
    Set,
    Symbol,
    Union,
    solve_univariate_inequality,
)
from sympy.core.relational import Relational

from butwait.problems.equality.brackets import split, wrapped
from butwait.problems.equality.structure import Answer, read

Reader = Callable[[str], Basic | None]
_NAMED = {"\\mathbb{R}": S.Reals, "\\emptyset": S.EmptySet}
_BUILT = re.compile(r"^\\\{?\s*[a-zA-Z]\s*(?:\\in\s*\\mathbb\{R\}\s*)?(?:\\mid|\||:)\s*")


def same_set(gold: str, answer: str, formula: Reader) -> bool | None:
    """Whether canonical ``gold`` and ``answer`` are one set of real numbers.

    None where one of them is no set that can be read. ``formula`` reads a part into SymPy.
    """
    first = _as_set(gold, formula)
    second = _as_set(answer, formula) if first is not None else None
    if first is None or second is None:
        return None
    if first == second:
        return True
    difference = Union(Complement(first, second), Complement(second, first))
    return None if isinstance(difference, Complement) else difference is EmptySet or not difference


def _as_set(text: str, formula: Reader) -> Set | None:
    text = text.strip()
    if text in _NAMED:
        return _NAMED[text]
    for separators, combine in (
        ({"\\lor", "\\cup"}, Union),
        ({",", ";", "\\land", "\\cap"}, Intersection),
        ({"\\setminus"}, Complement),
    ):
        parts = split(text, frozenset(separators))
        if len(parts) > 1:
            sets = [_as_set(part, formula) for part in parts]
            if any(part is None for part in sets) or (combine is Complement and len(sets) != 2):
                return None
            return combine(*sets)
    return _bounded(read(text), formula) or _listed(text, formula) or _solved(text, formula)


def _bounded(shape: Answer, formula: Reader) -> Set | None:
    if shape.shape != "bracket" or len(shape.items) != 2:
        return None
    low, high = (formula(item.text) for item in shape.items)
    if not all(isinstance(end, Expr) and end.is_extended_real for end in (low, high)):
        return None
    return Interval(low, high, shape.ends[0] == "(", shape.ends[1] == ")")


def _listed(text: str, formula: Reader) -> Set | None:
    outer = wrapped(text)
    if outer is None or outer[0] != "\\{":
        return None
    built = split(outer[1], frozenset({"|", "\\mid", ":"}))
    if len(built) == 2:
        return _as_set(built[1], formula)
    numbers = [formula(part) for part in split(outer[1], frozenset({",", ";"}))]
    if not all(isinstance(n, Expr) and n.is_extended_real for n in numbers):
        return None
    return FiniteSet(*numbers)


def _solved(text: str, formula: Reader) -> Set | None:
    relation = formula(text)
    if isinstance(relation, (And, Or)):
        parts = [_solution(part) for part in relation.args]
        if any(part is None for part in parts):
            return None
        return (Intersection if isinstance(relation, And) else Union)(*parts)
    return _solution(relation)


def _solution(relation: Basic | None) -> Set | None:
    if not isinstance(relation, Relational) or len(relation.free_symbols) != 1:
        return None
    (symbol,) = relation.free_symbols
    real = Symbol(str(symbol), real=True)
    relation = relation.subs(symbol, real)
    if isinstance(relation, Ne):
        equation = (relation.lhs - relation.rhs).as_poly(real)
        if equation is None:
            return None
        return Complement(S.Reals, FiniteSet(*equation.real_roots()))
    if not isinstance(relation, Relational):
        return None
    try:
        return solve_univariate_inequality(relation, real, relational=False)
    except NotImplementedError:
        return None

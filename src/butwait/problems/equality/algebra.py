"""Whether two formulas are equal, by math-verify and by evaluation at 50 digits.

Runs only in a worker process (``equality.worker``): sympy can hang, and nothing here limits it.

math-verify reads LaTeX and compares sets, relations and whatever cannot be evaluated. Where both
sides can be evaluated, evaluation decides: it neither takes 1/2004! and 1/2006! for 0 nor runs
``simplify`` into the wall.
"""

from fractions import Fraction

from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Eq, Expr, Float, I, Rational, Symbol

from butwait.problems.equality.compare import UnreadableGoldError, decimal_places

DIGITS = 50
_SAME = Float("1e-30")
_ZERO = Float("1e-40")
_GOLDEN = Fraction(6180339887, 10**10)
_POINTS = 12
_ENOUGH = 3
_READER = [LatexExtractionConfig(boxed_match_priority=-1)]


def same_formula(gold: str, answer: str) -> bool:
    """Whether canonical ``answer`` equals canonical ``gold``.

    Raises:
        UnreadableGoldError: math-verify cannot read ``gold``. An answer that it cannot read is
            not equal.
    """
    gold_formula = _read(gold)
    if gold_formula is None:
        raise UnreadableGoldError(gold[:100])
    answer_formula = _read(answer)
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


def _read(latex: str) -> Basic | None:
    try:
        found = parse(
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
    return found[0] if found else None


def _evaluated(gold: Basic, answer: Basic, places: int | None) -> bool | None:
    """The verdict of evaluation, None where it has none.

    Expressions are equal where they agree at every sampled point at which both are real (points
    of both signs, so that |x| is not x); equations, where their sides' differences are
    proportional.
    """
    if isinstance(gold, Eq) and isinstance(answer, Eq):
        return _proportional(gold.lhs - gold.rhs, answer.lhs - answer.rhs)
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return None
    gold, answer = _exact(gold), _exact(answer)
    agree = [_close(g, a, places) for g, a in _sampled(gold, answer)]
    if not agree:
        return None
    if not all(agree):
        return False
    return True if len(agree) >= _ENOUGH or not _symbols(gold, answer) else None


def _proportional(gold: Expr, answer: Expr) -> bool | None:
    gold, answer = _exact(gold), _exact(answer)
    pairs = _sampled(gold, answer)
    if len(pairs) < _ENOUGH:
        return None
    g0, a0 = pairs[0]
    if abs(g0) < _ZERO or abs(a0) < _ZERO:
        return None
    return all(_close(g * a0, a * g0, None) for g, a in pairs)


def _exact(formula: Expr) -> Expr:
    """Decimals as fractions and i as the imaginary unit, in a copy that is not evaluated."""
    return formula.xreplace(
        {number: Rational(str(number)) for number in formula.atoms(Float)}
        | {s: I for s in formula.free_symbols if s.name == "i"}
    )


def _symbols(*formulas: Expr) -> list[Symbol]:
    return sorted(set().union(*(f.free_symbols for f in formulas)), key=lambda s: s.name)


def _sampled(gold: Expr, answer: Expr) -> list[tuple[Expr, Expr]]:
    """Values of both at the same points: the real ones, or the complex ones where none is real."""
    symbols = _symbols(gold, answer)
    values = []
    for point in _points(len(symbols)) if symbols else [()]:
        at = dict(zip(symbols, point, strict=True))
        g, a = _value(gold, at), _value(answer, at)
        if g is not None and a is not None:
            values.append((g, a))
    real = [pair for pair in values if all(value.is_real for value in pair)]
    if symbols and len(real) >= _ENOUGH:
        return real
    return values


def _points(dimensions: int) -> list[tuple[Rational, ...]]:
    """Fixed irregular rationals in (-3, 3), every third point positive: the same on every run."""
    return [tuple(_coordinate(p, d) for d in range(dimensions)) for p in range(_POINTS)]


def _coordinate(point: int, dimension: int) -> Rational:
    unit = ((7 * point + 3 * dimension + 1) * _GOLDEN + Fraction(dimension, 101)) % 1
    value = 6 * unit - 3 if point % 3 else 3 * unit
    return Rational(value.numerator, value.denominator)


def _value(formula: Expr, at: dict[Symbol, Rational]) -> Expr | None:
    try:
        value = formula.evalf(DIGITS, subs=at) if at else formula.evalf(DIGITS)
    except (ArithmeticError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    if not value.is_number or not value.is_finite:
        return None
    parts = value.as_real_imag()
    return value if all(part.is_Float or part.is_Rational for part in parts) else None


def _close(gold: Expr, answer: Expr, places: int | None) -> bool:
    difference = abs(gold - answer)
    size = max(abs(gold), abs(answer))
    if difference <= _SAME * size:
        return True
    if places is not None and not (gold.is_integer or answer.is_integer):
        return difference < Rational(1, 10**places)
    return bool(_vanishes(gold) and _vanishes(answer))


def _vanishes(value: Expr) -> bool:
    """0, or the rounding noise that is left of it (sympy marks its precision as lost)."""
    return value == 0 or (value.is_Float and value._prec == 1 and abs(value) < _ZERO)

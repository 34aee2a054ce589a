"""Evaluation of two formulas at the same points, at 50 digits.

Agreement at points is no proof. The points are irregular rationals of both signs and of sizes from
0.1 to 10^9, so that formulas that part only far out (``|x+4|`` and ``x+4``, ``\\min(n, 50)`` and
``n``, ``\\lfloor n/1000\\rfloor`` and 0) are told apart, as are any two without such parts.
"""

from collections.abc import Iterator
from fractions import Fraction

from sympy import (
    Abs,
    Expr,
    Integer,
    Max,
    Min,
    Pow,
    Rational,
    Symbol,
    ceiling,
    exp,
    factorial,
    floor,
    gamma,
    sign,
)

DIGITS = 50
_SAME = Rational(1, 10**30)
_ZERO = Rational(1, 10**40)
_GOLDEN = Fraction(6180339887, 10**10)
_NEAR, _FAR = 12, 24
_ENOUGH = 3
_SIZES = (1, 3, 9, 30, 70, 140, 1_100, 25_000, 2 * 10**6, 10**9)
_WHOLE = (17, 24, 39, 58, 77, 101, 250)
_KINKED = (Abs, Max, Min, floor, ceiling, sign)
_MAX_GROWING = 40
"""The largest point at which formulas that grow like powers 2^n are evaluated."""

Point = tuple[Rational, ...]


def agreement(gold: Expr, answer: Expr, places: int | None) -> bool | None:
    """Whether two expressions agree wherever both are real; None where too few points say so.

    places: the decimal places to which a long decimal must agree.
    """
    count = 0
    for g, a in _sampled(gold, answer):
        count += 1
        if not close(g, a, places):
            return False
    if not count:
        return None
    return True if count >= _ENOUGH or not _symbols(gold, answer) else None


def proportional(gold: Expr, answer: Expr, *, positive: bool = False) -> bool | None:
    """Whether one expression is a constant multiple of the other; None where points fail.

    positive: the constant must be positive, as between two inequalities.
    """
    pairs = list(_sampled(gold, answer))
    if len(pairs) < _ENOUGH:
        return None
    g0, a0 = next(((g, a) for g, a in pairs if abs(g) > _ZERO and abs(a) > _ZERO), pairs[0])
    if abs(g0) < _ZERO or abs(a0) < _ZERO:
        return None
    if positive and not bool(g0 * a0 > 0):
        return False
    return all(close(g * a0, a * g0, None) for g, a in pairs)


def close(gold: Expr, answer: Expr, places: int | None) -> bool:
    """Whether two numbers agree to 30 digits, or to ``places`` decimals."""
    difference = abs(gold - answer)
    size = max(abs(gold), abs(answer))
    if difference <= _SAME * size:
        return True
    if places is not None and not (gold.is_integer or answer.is_integer):
        return bool(difference < Rational(1, 10**places))
    return bool(_vanishes(gold) and _vanishes(answer))


def _vanishes(value: Expr) -> bool:
    """0, or the rounding noise that is left of it (sympy marks its precision as lost)."""
    return value == 0 or (value.is_Float and value._prec == 1 and abs(value) < _ZERO)


def _symbols(*formulas: Expr) -> list[Symbol]:
    return sorted(set().union(*(f.free_symbols for f in formulas)), key=lambda s: s.name)


def _sampled(gold: Expr, answer: Expr) -> Iterator[tuple[Expr, Expr]]:
    """Values of both at the same points: the real ones, or the complex ones where none is real."""
    symbols = _symbols(gold, answer)
    if not symbols:
        pair = _value(gold, {}), _value(answer, {})
        if pair[0] is not None and pair[1] is not None:
            yield pair
        return
    real, others = 0, []
    for point in _points(len(symbols), gold, answer):
        at = dict(zip(symbols, point, strict=True))
        g, a = _value(gold, at), _value(answer, at)
        if g is None or a is None:
            continue
        if all(value.is_real for value in (g, a)):
            real += 1
            yield g, a
        else:
            others.append((g, a))
    if real < _ENOUGH:
        yield from others


def _points(dimensions: int, *formulas: Expr) -> Iterator[Point]:
    """Fixed points, the same on every run: near zero first, then far out."""
    if any(_steps(formula) for formula in formulas):
        for p in range(_NEAR):
            yield tuple(Integer((5 * p + 7 * d) % 13 + 1) for d in range(dimensions))
        for p, far in enumerate(_WHOLE):
            yield tuple(Integer(_WHOLE[p - d] if d else far) for d in range(dimensions))
        return
    yield from (tuple(_near(p, d) for d in range(dimensions)) for p in range(_NEAR))
    growing = any(_grows(formula) for formula in formulas)
    largest = _MAX_GROWING if growing else _SIZES[-1]
    sizes = [size for size in _SIZES if size <= largest]
    kinked = any(formula.has(*_KINKED) or _has_root(formula) for formula in formulas)
    for p in range(_FAR if kinked or dimensions == 1 else _NEAR):
        yield tuple(_far(p, d, sizes) for d in range(dimensions))


def _near(point: int, dimension: int) -> Rational:
    """In (-3, 3), every third point positive."""
    unit = ((7 * point + 3 * dimension + 1) * _GOLDEN + Fraction(dimension, 101)) % 1
    value = 6 * unit - 3 if point % 3 else 3 * unit
    return Rational(value.numerator, value.denominator)


def _far(point: int, dimension: int, sizes: list[int]) -> Rational:
    """Of all sizes and both signs, neither in step between dimensions."""
    unit = ((11 * point + 5 * dimension + 3) * _GOLDEN) % 1
    size = sizes[(point + 3 * dimension * (point + 1)) % len(sizes)]
    negative = (point // len(sizes) + point // (dimension + 1)) % 2
    value = size * (1 + unit) * (-1 if negative else 1)
    return Rational(value.numerator, value.denominator)


def _grows(formula: Expr) -> bool:
    """Whether a variable stands in an exponent, a factorial or the like."""
    if formula.has(exp, factorial, gamma):
        return True
    return any(power.exp.free_symbols for power in formula.atoms(Pow))


def _steps(formula: Expr) -> bool:
    """Whether a formula is meant for whole numbers: (-1)^n, n!."""
    powers = formula.atoms(Pow)
    alternates = any(p.exp.free_symbols and p.base.is_negative for p in powers)
    return alternates or formula.has(factorial)


def _has_root(formula: Expr) -> bool:
    return any(power.exp.is_Rational and not power.exp.is_Integer for power in formula.atoms(Pow))


def _value(formula: Expr, at: dict[Symbol, Rational]) -> Expr | None:
    try:
        value = formula.evalf(DIGITS, subs=at) if at else formula.evalf(DIGITS)
    except (ArithmeticError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None
    if not value.is_number or not value.is_finite:
        return None
    parts = value.as_real_imag()
    return value if all(part.is_Float or part.is_Rational for part in parts) else None

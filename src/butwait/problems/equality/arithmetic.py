"""Exact arithmetic on a number written in LaTeX or plain text, without algebra and without eval.

A recursive-descent reader for + - * / ^ ! %, fractions, roots, binomials, mixed numbers,
brackets, absolute values, floors and ceilings, gcd, lcm, max and min. The value is a ``Fraction``;
a number beyond ``MAX_BITS``, an irrational value or any other symbol is refused. Every operation
is bounded before it is done, so a hostile text costs microseconds.
"""

import math
import re
from collections.abc import Callable
from fractions import Fraction

MAX_BITS = 100_000
MAX_LENGTH = 1_000
_MAX_FACTORIAL = 2_000
_MAX_BINOMIAL_BITS = 20_000
_MAX_DEPTH = 80
_TOKEN = re.compile(
    r"\s*(?:(?P<repeating>\d*\.\d*\\(?:overline|bar)\s*\{\d+\})|"
    r"(?P<number>\d+(?:\.\d+)?[eE][+-]?\d{1,4}(?![\d.])|\d+\.?\d*|\.\d+)"
    r"|(?P<operator>\\operatorname\s*\{\s*(?:lcm|floor|ceil)\s*\})"
    r"|(?P<word>\\[a-zA-Z]+)|(?P<sign>\\%|[-+*/^!%(){}\[\]|,]))"
)
_CLOSING = {"(": ")", "{": "}", "[": "]"}
_ROUNDED = {"\\lfloor": ("\\rfloor", math.floor), "\\lceil": ("\\rceil", math.ceil)}
_OF_SEVERAL: dict[str, Callable[..., int | Fraction]] = {
    "\\gcd": math.gcd,
    "\\lcm": math.lcm,
    "\\max": lambda *values: max(values),
    "\\min": lambda *values: min(values),
    "\\floor": math.floor,
    "\\ceil": math.ceil,
}
_PRODUCTS = frozenset({"*", "\\cdot", "\\times"})
_QUOTIENTS = frozenset({"/", "\\div"})
_PERCENT = frozenset({"%", "\\%"})


class NotRationalError(ValueError):
    """The text is no rational number that can be had at a bounded cost."""


def evaluate(text: str) -> Fraction | None:
    """The exact value of ``text``, or None where it is no rational number at a bounded cost."""
    if len(text) > MAX_LENGTH:
        return None
    try:
        return _Reader(_tokens(text)).whole()
    except (NotRationalError, ZeroDivisionError):
        return None


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise NotRationalError(text)
        tokens.append(match[match.lastgroup or 0])
        position = match.end()
    return tokens


class _Reader:
    """One pass over the tokens; each method reads one rule of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Fraction:
        value = self._sum()
        if self._at != len(self._tokens):
            raise NotRationalError
        return value

    def _peek(self, ahead: int = 0) -> str:
        at = self._at + ahead
        return self._tokens[at] if at < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _sum(self) -> Fraction:
        value = self._product()
        while self._peek() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            value = _bounded(value + sign * self._product())
        return value

    def _product(self) -> Fraction:
        value = self._signed()
        while token := self._peek():
            if token in _PRODUCTS:
                self._take()
                value = _bounded(value * self._signed())
            elif token in _QUOTIENTS:
                self._take()
                value = _bounded(value / self._signed())
            elif token in _CLOSING or token in (
                "\\frac",
                "\\sqrt",
                "\\binom",
                "\\lfloor",
                "\\lceil",
            ):
                value = _bounded(value * self._power())  # 2(3) and 2\sqrt{4} are products
            else:
                break
        return value

    def _signed(self) -> Fraction:
        sign = 1
        while self._peek() in ("+", "-"):
            sign = sign if self._take() == "+" else -sign
        return sign * self._power()

    def _power(self) -> Fraction:
        base = self._postfix()
        if self._peek() != "^":
            return base
        self._take()
        self._deeper()
        exponent = self._signed()  # right to left: 2^3^2 is 2^9
        self._depth -= 1
        return _power(base, exponent)

    def _postfix(self) -> Fraction:
        value = self._primary()
        while (token := self._peek()) == "!" or token in _PERCENT:
            value = _factorial(value) if self._take() == "!" else value / 100
        return value

    def _primary(self) -> Fraction:
        token = self._take()
        if token in _CLOSING:
            return self._group(token)
        if token == "\\frac":
            return _bounded(self._argument() / self._argument())
        if token == "\\binom":
            return _binomial(self._argument(), self._argument())
        if token == "\\sqrt":
            degree = self._argument() if self._peek() == "[" else Fraction(2)
            return _power(self._argument(), 1 / degree)
        if token in _ROUNDED:
            closing, rounded = _ROUNDED[token]
            return Fraction(rounded(self._inside(closing)))
        if token == "|":
            return abs(self._inside("|"))
        name = re.sub(r"operatorname\s*\{\s*|\s*\}", "", token)
        if name in _OF_SEVERAL:
            return self._of_several(name)
        if not token or not (token[0].isdigit() or token[0] == "."):
            raise NotRationalError
        return self._mixed(_number(token)) if token.isdigit() else _number(token)

    def _mixed(self, whole: Fraction) -> Fraction:
        """``2\\frac{1}{2}`` and ``2 1/2`` are two and a half, where the fraction is proper."""
        if self._peek() == "\\frac":
            parts = [self._peek(i) for i in range(1, 7)]
            if parts[0::3] == ["{", "{"] and parts[2::3] == ["}", "}"]:
                top, bottom, size = parts[1], parts[4], 7
            else:
                return whole
        elif self._peek(1) == "/":
            top, bottom, size = self._peek(), self._peek(2), 3
        else:
            return whole
        if not (top.isdigit() and bottom.isdigit() and 0 < int(top) < int(bottom)):
            return whole
        self._at += size
        return whole + Fraction(int(top), int(bottom))

    def _argument(self) -> Fraction:
        opening = self._take()
        if opening not in ("{", "["):
            raise NotRationalError
        return self._group(opening)

    def _group(self, opening: str) -> Fraction:
        return self._inside(_CLOSING[opening])

    def _inside(self, closing: str) -> Fraction:
        self._deeper()
        value = self._sum()
        if self._take() != closing:
            raise NotRationalError
        self._depth -= 1
        return value

    def _of_several(self, name: str) -> Fraction:
        """gcd(12, 18) and the like; whole numbers only where divisors are meant."""
        opening = self._take()
        if opening not in _CLOSING:
            raise NotRationalError
        self._deeper()
        values = [self._sum()]
        while self._peek() == ",":
            self._take()
            values.append(self._sum())
        if self._take() != _CLOSING[opening]:
            raise NotRationalError
        self._depth -= 1
        if name in ("\\gcd", "\\lcm"):
            if any(value.denominator != 1 for value in values):
                raise NotRationalError
            return _bounded(Fraction(_OF_SEVERAL[name](*(int(value) for value in values))))
        if name in ("\\floor", "\\ceil") and len(values) != 1:
            raise NotRationalError
        return Fraction(_OF_SEVERAL[name](*values))

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise NotRationalError


def _number(token: str) -> Fraction:
    if "\\" not in token:
        return _bounded(Fraction(token.rstrip(".")))
    written, _, repeated = token.rstrip("}").partition("\\")
    whole, _, places = written.partition(".")
    period = repeated.partition("{")[2]
    tail = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(places))
    return _bounded(Fraction(int(whole + places or "0"), 10 ** len(places)) + tail)


def _bounded(value: Fraction) -> Fraction:
    if value.numerator.bit_length() + value.denominator.bit_length() > MAX_BITS:
        raise NotRationalError
    return value


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    degree = exponent.denominator
    if degree > 1:
        base = _root(base, degree)
    times = exponent.numerator
    bits = base.numerator.bit_length() + base.denominator.bit_length()
    if abs(times) * bits > MAX_BITS and base not in (-1, 0, 1):
        raise NotRationalError
    if base in (-1, 1):
        times %= 2
    return Fraction(base**times)


def _root(value: Fraction, degree: int) -> Fraction:
    """The real root where it is rational."""
    if value < 0 or degree > 100:
        raise NotRationalError
    return Fraction(
        _integer_root(value.numerator, degree), _integer_root(value.denominator, degree)
    )


def _integer_root(value: int, degree: int) -> int:
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**degree < value:
            low = middle + 1
        else:
            high = middle
    if low**degree != value:
        raise NotRationalError
    return low


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= _MAX_FACTORIAL:
        raise NotRationalError
    return Fraction(math.factorial(int(value)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
        raise NotRationalError
    if min(k, n - k) * n.numerator.bit_length() > _MAX_BINOMIAL_BITS:
        raise NotRationalError
    return Fraction(math.comb(int(n), int(k)))

"""The units after a number: what they measure, and how much of it.

Units are compared only within what this table knows; any other word ("apples") is no reason to
refuse an answer, and an answer may leave its unit out.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

from butwait.problems.equality.notation import PLAIN_NAME
from butwait.problems.equality.numerals import changes_number

_TABLE = {
    "length": "m meter; 1/1000 mm millimeter; 1/100 cm centimeter; 1/10 dm decimeter;"
    " 1000 km kilometer; 0.0254 inch in inches; 0.3048 foot ft feet; 0.9144 yard yd;"
    " 1609.344 mile mi",
    "time": "s sec second; 1/1000 ms millisecond; 60 min minute; 3600 h hr hour; 86400 day;"
    " 604800 week wk",
    "month": "month; 12 year yr; 120 decade; 1200 century centuries",
    "mass": "kg kilogram; 1/1000 g gram; 1/1000000 mg milligram; 1000 tonne;"
    " 0.45359237 lb pound lbs; 0.028349523125 oz ounce; 907.18474 ton",
    "volume": "l L liter; 1/1000 ml milliliter; 3.785411784 gallon gal; 0.946352946 quart qt;"
    " 0.473176473 pint pt; 0.2365882365 cup",
    "dollar": "dollar usd buck; 1/100 cent; 1/20 nickel; 1/10 dime",
    "euro": "euro eur",
    "yuan": "yuan rmb 元",
    "yen": "yen 円",
    "rupee": "rupee rs",
    "gbp": "gbp; 1/100 pence",
    "ruble": "ruble",
    "won": "won",
    "force": "newton N; 1000 kN",
    "energy": "joule J; 1000 kJ; 4.184 cal calorie; 1.602176634e-19 eV",
    "power": "watt W; 1000 kW kilowatt",
    "pressure": "pascal Pa; 1000 kPa",
    "frequency": "hertz Hz; 1000 kHz",
    "potential": "volt V",
    "current": "ampere amp A",
    "charge": "coulomb C",
    "capacitance": "farad F",
    "temperature": "kelvin K",
    "amount": "mole mol",
    "angle": "degree deg; 1/60 arcminute",
    "radian": "radian rad",
}
_SPEEDS = {"mph": "mile/hour", "kph": "km/hour", "kmph": "km/hour", "kmh": "km/hour"}
_SCALES = {"C": "celsius", "F": "fahrenheit"}
_SQUARE = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
_NOT_UNITS_WORDS = (
    "and or not mod over plus minus else than none undefined infinite infinitely sqrt pi sin "
    "cos tan cot csc log ln exp max gcd lcm dozen hundred thousand million billion half third "
    "quarter squared cubed factorial k fold times if where for when with base to from"
)
_NOT_UNITS = frozenset(_NOT_UNITS_WORDS.split())
_FOREIGN = r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]"
_LETTERS = rf"(?:[a-zA-Z]|{_FOREIGN})"
_POWER = r"(?:\^ ?(?:\{ ?-? ?\d ?\}|\d))"
_GROUP = r"\\text ?\{(?:[^{}]|\{[^{}]*\})*\}"  # \text{km h^{-1}} as well
_TAIL = re.compile(
    rf"(?<=[^\s{{^_=+*/-])\s*(?P<unit>(?:\\cdot )?{_GROUP}(?:{_POWER}|\s|/|\\cdot |{_GROUP})*)$"
)
_QUOTIENT = re.compile(
    rf"(?<=\d)\s*\\frac ?\{{ ?(?:{_GROUP}|\{{?[a-zA-Z]+\}}?) ?\}} ?"
    rf"\{{ ?(?:{_GROUP}|\{{?[a-zA-Z]+\}}?) ?{_POWER}? ?\}}$"
)
_PLAIN = re.compile(
    rf"(?:(?<=[\d}})!|])|(?<=\\pi))(?P<gap>\s*)"
    rf"(?P<unit>{_LETTERS}+(?: ?[-/. ] ?{_LETTERS}+{_POWER}?)*{_POWER}?)\.?$"
)
_MAGNITUDE = r"-? ?(?:[\d./^ ]|\{ ?-?|\}|\\(?:frac|sqrt|cdot|pi)(?![a-zA-Z]))+"
_ONE_LETTER = re.compile(
    rf"(?P<value>{_MAGNITUDE}?)(?:(?<=[\d}}])|(?<=pi))(?P<gap> ?)(?P<unit>[a-zA-Z]{_POWER}?)"
)
_NUMBER = re.compile(_MAGNITUDE)
_FOREIGN_NUMBER = re.compile(
    r"[十百万萬亿億兆십백천만억]|千(?![克米瓦卡])|以[上下内內]|左右|未[満满滿]|이상|이하|미만|초과"
)
_AREA = re.compile(rf"(?P<unit>\\text ?\{{[^{{}}]*\}}){_POWER}?$")
_DEGREES = re.compile(
    r"^(?P<value>.*[\d})])\s*\^\\circ\s*(?:(?:\\text ?)?\{\s*)?(?P<scale>[CF]?)\s*\}?$", re.DOTALL
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_COUNTED = re.compile(r"(\d{1,100}) (?:\\text ?\{ ?)?([a-z]{4,20})(?: ?\})?\.?")
_MEASURE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?(?:\\text ?\{ ?([a-zA-Z]+)\.? ?\}|([a-zA-Z]+))")
_COMPOUND = re.compile(rf"(?:{_MEASURE.pattern} ?(?:,|\\land)? ?){{2,4}}")
_PIECE = re.compile(rf"/|\bper\b|(?P<name>{_LETTERS}+)|\^ ?\{{? ?(?P<power>-? ?\d) ?\}}?")


@dataclass(frozen=True)
class Unit:
    """What a unit measures: powers of kinds, and the size in each kind's first unit.

    Attributes:
        kinds: (kind, power) for all known parts above and below the bar.
        size: in the kinds' base units.
        counts: whether something unknown (apples) stands above the bar.
        divides: whether something unknown stands below it.
    """

    kinds: frozenset[tuple[str, int]] = frozenset()
    size: Fraction = Fraction(1)
    counts: bool = False
    divides: bool = False


def _known() -> dict[str, tuple[str, Fraction]]:
    known = {}
    for kind, group in _TABLE.items():
        for entry in group.split(";"):
            words = entry.split()
            size = Fraction(words.pop(0)) if words[0][0].isdigit() else Fraction(1)
            known.update(dict.fromkeys(words, (kind, size)))
    return known


_KNOWN = _known()


def counted(text: str) -> int | None:
    """The number of "12 apples": a whole number and one word that leaves it as it is.

    A short cut for what most answers in prose are; None says nothing.
    """
    match = _COUNTED.fullmatch(text)
    if match is None or match[2] in _NOT_UNITS or changes_number(match[2]):
        return None
    return None if PLAIN_NAME.fullmatch(match[2]) else int(match[1])


def split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of canonical ``text``; the unit is "" where there is none."""
    if (match := _DEGREES.match(text)) and not _TRIGONOMETRY.search(text):
        return match["value"].strip(), _SCALES.get(match["scale"], "degree")
    if match := _TAIL.search(text):
        unit = match["unit"]
    elif match := _QUOTIENT.search(text):
        unit = match[0]
        if not _all_known(unit):
            return text, ""
    else:
        match = _PLAIN.search(text)
        if match is None or not _is_plain(match["unit"], spaced=bool(match["gap"])):
            return text, ""
        unit = match["unit"]
    words = re.findall(rf"{_LETTERS}+", unit.replace("\\text", " ").lower())
    value = text[: match.start()].strip()
    if not value or not words or not _NOT_UNITS.isdisjoint(words):
        return text, ""
    if _FOREIGN_NUMBER.match(words[0]):
        return text, ""  # 5万 is 50,000
    return value, unit.strip()


def split_letter(text: str, other: str, other_unit: str) -> tuple[str, str]:
    """(number, unit) of ``5 m`` and ``100 m^{2}``, else (``text``, "").

    A number and a letter may be a product. They are no product where the ``other`` side, without
    its unit, is a number and they stand apart, or where it has a unit.
    """
    match = _ONE_LETTER.fullmatch(text)
    if match is None or match["unit"][0] not in _KNOWN:
        return text, ""
    known = other_unit in _SCALES.values() or bool(_parse(other_unit).kinds)
    if known or (match["gap"] and _NUMBER.fullmatch(other)):
        return match["value"].strip(), match["unit"]
    return text, ""


def summed(text: str) -> str:
    """``2 \\text{ hours } 30 \\text{ minutes}`` in the last of its units; other text as it is."""
    if not _COMPOUND.fullmatch(text):
        return text
    parts = [(Fraction(m[1]), m[2] or m[3]) for m in _MEASURE.finditer(text)]
    known = [_lookup(name) for _, name in parts]
    kinds = {entry[0] for entry in known if entry}
    if None in known or len(kinds) != 1:
        return text
    sizes = [entry[1] for entry in known if entry]
    total = sum((n * size for (n, _), size in zip(parts, sizes, strict=True)), Fraction(0))
    value = total / sizes[-1]
    number = (
        str(value)
        if value.denominator == 1
        else f"\\frac{{{value.numerator}}}{{{value.denominator}}}"
    )
    return f"{number} \\text{{{parts[-1][1]}}}"


def conversion(first: str, second: str) -> Fraction | None:
    """How many of unit ``first`` one ``second`` is: 1/100 for m and cm, 1 where either is unknown.

    None where they do not measure the same: m and kg, km/h and km.
    """
    if not first or not second or first == second:
        return Fraction(1)
    for scale, other in ((first, second), (second, first)):
        if scale in _SCALES.values():
            letter = re.sub(r"\\text|[{} ]", "", other)
            return Fraction(1) if other == "degree" or _SCALES.get(letter) == scale else None
    a, b = _parse(first), _parse(second)
    if a == Unit(counts=True) or b == Unit(counts=True):
        return Fraction(1)
    if a.counts or b.counts:  # apples per hour: what is below the bar can differ
        below_a, below_b = (_below(unit.kinds) for unit in (a, b))
        if a.divides or b.divides or not (below_a and below_b):
            return Fraction(1)
        return b.size / a.size if below_a == below_b else None
    if a.divides or b.divides:
        return Fraction(1) if _above(a.kinds) == _above(b.kinds) else None
    return b.size / a.size if a.kinds == b.kinds else None


def _above(kinds: frozenset[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    return frozenset(pair for pair in kinds if pair[1] > 0)


def _below(kinds: frozenset[tuple[str, int]]) -> frozenset[tuple[str, int]]:
    return frozenset(pair for pair in kinds if pair[1] < 0)


def _parse(unit: str) -> Unit:
    unit = unit.replace("\\text", " ").replace("\\cdot", " ")
    if unit.lstrip().startswith("\\frac"):
        unit = unit.replace("\\frac", " ").replace("}", "} / ", 1)
    powers: dict[str, int] = {}
    size, sign, area = Fraction(1), 1, 0
    counts = divides = False
    last: tuple[str, Fraction, int] | None = None
    pieces = list(_PIECE.finditer(_spelled_out(unit)))
    for at, piece in enumerate(pieces):
        name = piece["name"]
        if piece["power"]:
            if last is not None:
                kind, part, power = last
                extra = power * int(piece["power"].replace(" ", "")) - power
                powers[kind] += extra
                size *= part**extra
            continue
        if name is None or name == "per":
            sign, last = -1, None
            continue
        if name.lower() in _SQUARE:
            squared = name.lower().endswith("ed")
            if squared and last is not None:
                extra = last[2] * (_SQUARE[name.lower()] - 1)
                powers[last[0]] += extra
                size *= last[1] ** extra
            area = 0 if squared else _SQUARE[name.lower()]
            continue
        found = _lookup(name)
        if found is None:
            last = None
            counts, divides = counts or sign > 0, divides or sign < 0
            continue
        power = sign * (area or 1)
        area = 0
        powers[found[0]] = powers.get(found[0], 0) + power
        size *= found[1] ** power
        last = (*found, power)
        following = pieces[at + 1] if at + 1 < len(pieces) else None
        if sign < 0 and (following is None or not following["power"]):
            continue
    return _volumes(Unit(frozenset((k, p) for k, p in powers.items() if p), size, counts, divides))


def _volumes(unit: Unit) -> Unit:
    """Cubic metres and litres measure the same."""
    kinds = dict(unit.kinds)
    if kinds.get("length") == 3 and len(kinds) == 1:
        return Unit(frozenset({("volume", 1)}), unit.size * 1000, unit.counts, unit.divides)
    return unit


def _spelled_out(unit: str) -> str:
    return re.sub(r"[a-z]+", lambda m: _SPEEDS.get(m[0], m[0]), unit)


def _lookup(name: str) -> tuple[str, Fraction] | None:
    """The kind and size of a unit's name; capitals count only where they tell two units apart."""
    for form in (name, name.lower()):
        for word in (
            form,
            form.removesuffix("s"),
            form.replace("metre", "meter").removesuffix("s"),
        ):
            if len(form) > 1 and word != form and len(word) < 2:
                continue
            if word in _KNOWN:
                return _KNOWN[word]
    litre = name.lower().replace("litre", "liter").removesuffix("s")
    return _KNOWN.get(litre)


def _all_known(unit: str) -> bool:
    names = re.findall(r"[a-zA-Z]+", unit.replace("\\text", " ").replace("\\frac", " "))
    return bool(names) and all(_lookup(name) for name in names)


def _is_plain(unit: str, *, spaced: bool) -> bool:
    """A bare word is a unit where no formula would hold it: ``64 feet``, ``5cm``, not ``2ab``."""
    if re.match(_FOREIGN, unit):
        return True
    words = re.findall(rf"{_LETTERS}+", unit)
    known = [
        word.lower() in _SPEEDS or word.lower() in _SQUARE or _lookup(word) is not None
        for word in words
    ]
    if all(known):
        return len(words[0]) > 1 or (spaced and len(words) > 1 and "/" in unit)
    return spaced and all(
        len(w) > 2 or k or w in ("a", "of") for w, k in zip(words, known, strict=True)
    )

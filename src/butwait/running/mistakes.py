"""From what the settings refuse to sentences that say where, what, and how to mend it."""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ValidationError

from butwait.records.settings import SeveralError
from butwait.running.expected import choices, describe, keys_of, meant, nearest, types_at
from butwait.running.kinds import Kinds

Place = tuple[Hashable, ...]

_SHOWN, _LISTED = 60, 14


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake of a recipe's text.

    Attributes:
        place: the keys that lead to it, as they were written.
        what: what is wrong, after the place's name.
        before: what stands before that name; None: the name is not told.
    """

    place: Place
    what: str
    before: str | None = ""

    @property
    def sentence(self) -> str:
        if self.before is None or not self.place:
            return f"{self.before or ''}{self.what}".strip(": ")
        return f"{self.before}`{'.'.join(map(str, self.place))}`{self.what}"


def refused(
    settings: type[BaseModel],
    content: Any,
    error: ValidationError,
    stages: Kinds[Any] | None = None,
    text_at: Callable[[Place], str] = lambda place: "",
) -> list[Mistake]:
    """The mistakes behind a validation's errors.

    Args:
        settings: the class that was validated.
        content: what it was validated with.
        error: all errors.
        stages: the kinds of stage, for a recipe.
        text_at: the characters that stand at a place of it.
    """
    reader = _Errors(settings, content, text_at, stages)
    places = [(reader.place(each), each) for each in error.errors(include_url=False)]
    # One member of a union says more than that the others are of another type.
    more = {place[:n] for place, _ in places for n in range(len(place))}
    more |= {place for place, each in places if not _is_of_another_type(each)}
    found: dict[Mistake, None] = {}
    for place, each in places:
        if place in more and _is_of_another_type(each):
            continue
        found |= dict.fromkeys(reader.mistakes(place, each))
    # A misspelt key is not missing too.
    return [mistake for mistake in found if mistake not in reader.explained]


def _is_of_another_type(error: Mapping[str, Any]) -> bool:
    kind: str = error["type"]
    return kind == "literal_error" or kind.endswith(("_type", "_parsing"))


def told(settings: type[BaseModel], content: Any, error: ValidationError) -> str:
    """The mistakes in settings that stand in no recipe, in a sentence."""
    found = refused(settings, content, error)
    return one_line("; ".join(mistake.sentence for mistake in found))


def misread(
    settings: type[BaseModel], content: Any, stages: Kinds[Any] | None
) -> Iterator[Mistake]:
    """Places where ``true`` or ``false`` stands for a number: 1 and 0 would be taken for them.

    Arguments are as those of ``refused``.
    """
    for place, value in _leaves(content, ()):
        if isinstance(value, bool):
            wanted = describe(types_at(settings, place, content, stages), stages)
            if wanted in ("a whole number", "a number"):
                yield Mistake(place, f" must be {wanted}, not {shown(value)}")


def _leaves(held: Any, place: Place) -> Iterator[tuple[Place, Any]]:
    pairs: Any = ()
    if isinstance(held, dict):
        pairs = held.items()
    elif isinstance(held, list):
        pairs = enumerate(held)
    else:
        yield place, held
    for key, value in pairs:
        yield from _leaves(value, (*place, key))


@dataclass
class _Errors:
    settings: type[BaseModel]
    content: Any
    text_at: Callable[[Place], str]
    stages: Kinds[Any] | None
    explained: set[Mistake] = field(default_factory=set)

    def place(self, error: Mapping[str, Any]) -> Place:
        """The keys that lead to a mistake, without the tags that stand for members of unions."""
        inside, kept = self.content, []
        for i, part in enumerate(error["loc"]):
            last = i == len(error["loc"]) - 1
            if _holds(inside, part):
                inside = inside[part]
            elif not (last and error["type"] == "missing"):
                continue
            kept.append(part)
        return tuple(kept)

    def mistakes(self, place: Place, error: Mapping[str, Any]) -> Iterator[Mistake]:
        cause = error.get("ctx", {}).get("error")
        if isinstance(found := getattr(cause, "found", None), tuple):  # told with their places
            for each in found:
                yield Mistake(each.place, str(each), None)
        elif isinstance(cause, SeveralError):
            for sentence in cause.sentences:
                yield Mistake(place, f": {sentence}")
        elif "[key]" in error["loc"] or error["type"] == "invalid_key":
            yield self.key(place, error)
        elif error["type"] == "extra_forbidden":
            yield self.unknown(place)
        else:
            yield Mistake(place, self.told(place, error))

    def unknown(self, place: Place) -> Mistake:
        types = types_at(self.settings, place[:-1], self.content, self.stages)
        known = keys_of(types, self.value(place[:-1]), self.stages)
        known += [] if len(place) > 1 else ["extends"]
        near = nearest(place[-1], known)
        if near is not None:
            self.explained.add(Mistake((*place[:-1], near), _TOLD["missing"]))
            return Mistake(place, f"; did you mean {near}?", "unknown key ")
        listed = 0 < len(known) <= _LISTED
        hint = f"there are: {', '.join(known)}" if listed else "remove it or mend its spelling"
        return Mistake(place, f"; {hint}", "unknown key ")

    def key(self, place: Place, error: Mapping[str, Any]) -> Mistake:
        """A key that YAML reads as something else than text, or that has a forbidden shape."""
        key = error["input"]
        if isinstance(key, str):
            if error["type"] != "string_pattern_mismatch":
                return Mistake(place, ": this name cannot be had here")
            told = "holds characters that a name cannot have (letters, digits, _ . - and a letter "
            return Mistake(place, f": this name {told}or digit first)")
        around = ".".join(map(str, place[:-1]))
        told = f"`{around}`: the key {shown(key)} must be text: put it in quotes"
        return Mistake(place, told, None)

    def told(self, place: Place, error: Mapping[str, Any]) -> str:
        kind, ctx = error["type"], error.get("ctx", {})
        value = self.value(place)
        if kind in _TOLD:
            bounds = {k: f"{v:g}" if isinstance(v, float) else v for k, v in ctx.items()}
            return _TOLD[kind].format(**bounds, value=shown(value))
        if kind in ("value_error", "assertion_error", "kind"):
            return f": {ctx.get('told') or ctx.get('error')}"
        types = types_at(self.settings, place, self.content, self.stages)
        words = choices(types)
        if kind == "literal_error" and words and isinstance(value, str):
            wanted = describe(types, self.stages)
            return f" must be {wanted}, not {shown(value)}{meant(value, words)}"
        if kind.startswith("union_tag"):
            return f" needs a `kind`: {ctx.get('expected_tags') or describe(types, self.stages)}"
        if kind in ("too_short", "string_too_short"):
            least = ctx["min_length"]
            return " must not be empty" if least == 1 else f" must have at least {least} values"
        if kind in ("too_long", "string_too_long"):
            return f" must have at most {ctx['max_length']} values"
        wanted = describe(types, self.stages) if types else "another value"
        near = meant(value, words) if isinstance(value, str) else ""
        return f" must be {wanted}, {self.but_is(place, value, wanted)}{near}"

    def but_is(self, place: Place, value: Any, wanted: str) -> str:
        """What stands there instead, and why YAML took it for that."""
        text = self.text_at(place)
        wants_text = "text" in wanted
        if value is None:
            return "and it is empty"
        if wants_text and isinstance(value, dict) and None in value.values() and len(value) == 1:
            return "not a mapping: put a text that begins with { in quotes"
        if wants_text and text and not isinstance(value, str | dict | list):
            return f"and YAML reads {text} as {_name(value)}: put it in quotes"
        if wanted.startswith("a list") and not isinstance(value, dict | list):
            return f"not {shown(value)}: put it in [ ]"
        return f"not {shown(value)}"

    def value(self, place: Place) -> Any:
        inside = self.content
        for key in place:
            try:
                inside = inside[key]
            except (KeyError, IndexError, TypeError):
                return None
        return inside


def _holds(inside: Any, part: Any) -> bool:
    if isinstance(inside, list):
        return isinstance(part, int) and part < len(inside)
    return isinstance(inside, dict) and part in inside


_TOLD = {
    "missing": " is missing",
    "greater_than": " must be greater than {gt}, not {value}",
    "greater_than_equal": " must be at least {ge}, not {value}",
    "less_than": " must be less than {lt}, not {value}",
    "less_than_equal": " must be at most {le}, not {value}",
    "multiple_of": " must be a multiple of {multiple_of}, not {value}",
    "finite_number": " must be a finite number, not {value}",
    "string_pattern_mismatch": " has a form that is not allowed: {value}",
    "recursion_loop": " holds itself",
}
"""Type of a validation error -> what is wrong. All others are told by the type that is wanted."""


def shown(value: Any) -> str:
    """A value in a sentence: short, and as YAML has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "nothing"
    if isinstance(value, int) and value.bit_length() > 200:
        return "a number of so many digits"
    text = repr(value) if isinstance(value, str | bytes) else str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return {int: "a number", float: "a number"}.get(type(value), "a date")


def in_order(origins: Sequence[tuple[str, str]]) -> list[str]:
    """Sentences with their origins, each once: by file and line, those of ``--set`` last."""

    def order(item: tuple[str, str]) -> tuple[bool, str, int]:
        file, _, line = item[0].rpartition(":")
        return item[0].startswith("--set"), file, int(line) if line.isdecimal() else 0

    lines = (f"{origin}: {told}" for origin, told in sorted(origins, key=order))
    return list(dict.fromkeys(map(one_line, lines)))


def one_line(text: str) -> str:
    """The text with control characters written out."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)

"""A recipe as it was written: its YAML with the line of every value, so that a mistake can be
blamed on the line, or the ``--set`` word, that it came from."""

import re
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from butwait.records import UserError
from butwait.running.expected import meant

MOST_VALUES = 100_000
"""A recipe that anchors make larger than this is refused: it would be read for minutes."""
DEEPEST = 50
"""The most [ and { inside of each other."""

_TOO_DEEP = "values are nested too deeply; write them flatter"
_MERGE = "tag:yaml.org,2002:merge"
_COLLECTIONS = ("map", "seq")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_ESCAPED = re.compile(r"([\x00-\x08\x0b\x0c\x0e-\x1f\x7f])([a-zA-Z]+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_ESCAPES = {"\b": "\\b", "\f": "\\f", "\v": "\\v", "\a": "\\a", "\x1b": "\\e", "\0": "\\0"}


@dataclass(frozen=True, slots=True)
class Written:
    """A value and where it was written.

    Attributes:
        value: a mapping of keys to ``Written``, a list of them, or a plain value.
        origin: "mine.yaml:12", or "--set a.b=c".
        text: of a plain value, the characters that stand there.
        refused: whether a mistake was told of it already.
    """

    value: Any
    origin: str
    text: str = ""
    refused: bool = False

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: held.plain() for key, held in self.value.items()}
        if isinstance(self.value, list):
            return [held.plain() for held in self.value]
        return self.value

    def at(self, place: Sequence[Hashable]) -> "Written":
        """What stands at a place; where nothing does, the nearest thing around it."""
        found = self
        for key in place:
            held: Any = found.value
            if isinstance(held, str | bytes):
                break
            try:
                found = held[key]
            except (KeyError, IndexError, TypeError):
                break
        return found

    def on_top_of(self, below: "Written | None") -> "Written":
        """Mappings joined key by key; everything else replaces what is below."""
        if below is None or not (isinstance(self.value, dict) and isinstance(below.value, dict)):
            return self
        joined = {k: held.on_top_of(below.value.get(k)) for k, held in self.value.items()}
        return Written(below.value | joined, self.origin)


class YamlError(UserError):
    """Text that is no YAML; the message begins with its place."""


Wrong = list[tuple[str, str]]
"""Mistakes that let the rest be read: (origin, sentence)."""


def read_written(path: Path, wrong: Wrong) -> Written:
    """The content of a file (``parse_written``). Raises UserError where it cannot be read."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise YamlError(f"{path}:{line}: this is no UTF-8 text; save the file as UTF-8") from error
    return parse_written(text, str(path), wrong)


def parse_written(text: str, name: str, wrong: Wrong, *, lines: bool = True) -> Written:
    """The value that YAML stands for.

    Args:
        text: one YAML document; an empty one is None.
        name: of the file, or of whatever else holds it.
        wrong: takes mistakes that let the rest be read: a key that stands twice, a number that YAML
            reads as another one.
        lines: whether places are lines of it; else all are ``name`` itself.

    Raises YamlError for text that is no YAML.
    """
    reader = _Reader(name, lines, wrong)
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return Written(None, name) if node is None else reader.read(loader, node)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        told = f"holds a character that YAML does not take (U+{int(error.character):04X})"
        raise YamlError(f"{reader.origin(line)}: this line {told}") from error
    except yaml.MarkedYAMLError as error:
        line, told = explain(error, text)
        raise YamlError(f"{reader.origin(line)}: {told}") from error
    except RecursionError as error:
        raise YamlError(f"{name}: {_TOO_DEEP}") from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which takes time that grows by the square of how deep [ and { go."""

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= DEEPEST:
            raise yaml.MarkedYAMLError(problem=_TOO_DEEP, problem_mark=self.get_mark())
        super().fetch_flow_collection_start(token)


@dataclass
class _Reader:
    """Reads the nodes of a document."""

    name: str
    lines: bool
    mistakes: Wrong
    count: int = 0
    inside: list[int] = field(default_factory=list)
    merged: dict[int, int] = field(default_factory=dict)
    refused: set[int] = field(default_factory=set)

    def origin(self, line: int) -> str:
        return f"{self.name}:{line}" if self.lines else self.name

    def wrong(self, node: yaml.Node, told: str) -> None:
        self.refused.add(id(node))
        mistake = (self.origin(_line(node)), told)
        if mistake not in self.mistakes:
            self.mistakes.append(mistake)

    def read(self, loader: Any, node: yaml.Node, origin: str = "") -> Written:
        """The value of a node. ``origin``: of the key before it."""
        self.count += 1
        origin = origin or self.origin(_line(node))
        if self.count > MOST_VALUES:
            if self.count == MOST_VALUES + 1:
                self.wrong(node, f"anchors make more than {MOST_VALUES:,} values of this recipe")
            return Written(None, origin, refused=True)
        if id(node) in self.inside:
            self.wrong(node, "an anchor's value holds itself; name another one")
            return Written(None, origin, refused=True)
        tag = node.tag.rpartition(":")[2]
        if isinstance(node, yaml.CollectionNode) and tag not in _COLLECTIONS:
            self.wrong(node, f"recipes have no values with the tag {_tag(node)}; leave it out")
            return Written(None, origin, refused=True)
        self.inside.append(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return Written(dict(self.pairs(loader, node)), origin)
            if isinstance(node, yaml.SequenceNode):
                return Written([self.read(loader, item) for item in node.value], origin)
            value, text = self.scalar(loader, node), node.value if _style(node) is None else ""
            return Written(value, origin, text, id(node) in self.refused)
        finally:
            self.inside.pop()

    def pairs(self, loader: Any, node: yaml.MappingNode) -> Iterator[tuple[Hashable, Written]]:
        if id(node) not in self.merged:
            own = self.own_keys(loader, node)
            loader.flatten_mapping(node)  # `<<` puts what it names in front
            self.merged[id(node)] = len(node.value) - own
        for number, (key_node, value_node) in enumerate(node.value):
            if isinstance(key_node, yaml.ScalarNode):
                place = value_node if number < self.merged[id(node)] else key_node
                key = self.scalar(loader, key_node)
                yield key, self.read(loader, value_node, self.origin(_line(place)))
            else:
                self.wrong(key_node, "a key must be a single word or text")

    def own_keys(self, loader: Any, node: yaml.MappingNode) -> int:
        """How many keys stand in a mapping itself; each may stand there once."""
        own = [key for key, _ in node.value if key.tag != _MERGE]
        seen: dict[Hashable, int] = {}
        for key_node in own:
            if not isinstance(key_node, yaml.ScalarNode):
                continue
            key = self.scalar(loader, key_node)
            if key in seen:
                told = f"the key `{key}` stands twice, first in line {seen[key]}; keep one"
                self.wrong(key_node, told)
            seen.setdefault(key, _line(key_node))
        return len(own)

    def scalar(self, loader: Any, node: yaml.Node) -> Any:
        text = node.value
        kind = node.tag.rpartition(":")[2]
        if kind == "int" and _OCTAL.fullmatch(text):
            number = int(text.replace("_", ""), 8)
            self.wrong(
                node,
                f"YAML reads {text} as the octal number {number}: write it without the zero at its "
                "beginning, or in quotes if it is a name",
            )
        elif kind in ("int", "float") and _BASE_60.fullmatch(text):
            self.wrong(node, f"YAML reads {text} as a number to the base 60: put it in quotes")
        elif kind == "str" and _SURROGATE.search(text):
            self.wrong(node, "this text holds half a character (\\ud800 to \\udfff)")
        elif kind == "str" and _style(node) == '"' and (found := _ESCAPED.search(text)):
            escape = _ESCAPES.get(found[1], f"\\x{ord(found[1]):02x}")
            self.wrong(
                node,
                f"in double quotes {escape} is a control character, so {escape}{found[2]} is not "
                "what it seems: double the backslash, or take single quotes",
            )
        elif kind == "float" and text.lower().strip("+-") == ".nan":
            self.wrong(node, f"{text} is no number that a setting could have")
        try:
            return loader.construct_object(node, deep=True)
        except ValueError:
            what = {"timestamp": "a date", "int": "a whole number"}.get(kind, "a number")
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            self.wrong(
                node, f"{shown} looks like {what} and cannot be one: mend it, or put it in quotes"
            )
            return None


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _tag(node: yaml.Node) -> str:
    return str(node.tag).replace("tag:yaml.org,2002:", "!!")


def _style(node: yaml.Node) -> str | None:
    """How a text is quoted; None: not at all."""
    return getattr(node, "style", None)


_UNCLOSED = "is not closed, or a comma is missing after one of its values"
_EXPLAINED = (
    ("found character '\\t'", "a tab stands where YAML takes only spaces; put spaces there"),
    ("found unexpected end of stream", "the quote that begins here is not closed"),
    ("found unexpected document separator", "the quote that begins here is not closed"),
    ("expected ',' or '}'", f"the {{ that opens here {_UNCLOSED}"),
    ("expected ',' or ']'", f"the [ that opens here {_UNCLOSED}"),
    ("could not find expected ':'", "this line is neither a key with `: ` nor part of a value"),
    ("sequence entries are not allowed", "a list with - must begin on a line of its own"),
    (
        "mapping values are not allowed",
        "a `: ` stands where no key can be: put a value that holds "
        "one in quotes, and begin keys of one mapping in the same column",
    ),
    ("found another document", "a second document begins with ---; a file holds one recipe"),
    ("found unhashable key", "a key must be a single word or text"),
    ("merging, but found", "<< takes a mapping that an anchor names (<<: *name)"),
    ("tag:yaml.org,2002:merge", "<< is a key of YAML's own (<<: *name); put it in quotes"),
    (
        "found unknown escape character",
        "in double quotes \\{0} means nothing: double the backslash, or take single quotes",
    ),
    ("that cannot start any token", "a value cannot begin with {0}: put it in quotes"),
    ("expected the node content", "a value is missing here, or begins with {0}: put it in quotes"),
    (
        "could not determine a constructor",
        "recipes have no values with the tag {0}; leave it out, or put the value in quotes",
    ),
    (
        "expected <block end>",
        "this does not go on what stands above: mend the indentation, or the "
        "quotes (a quote inside of quotes is written twice)",
    ),
    ("expected '<document start>'", "this line begins in another column than the first key"),
)
"""What the parser says, and what that means to whoever wrote it."""
_OPENERS = ("expected ',' or", "found unexpected", "found another")
"""Problems that are mended where they began."""


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line of a mistake in YAML's own grammar, from 1 on, and a sentence about it."""
    problem, context = str(error.problem or ""), str(error.context or "")
    begun = error.context_mark is not None and problem.startswith(_OPENERS)
    mark = error.context_mark if begun else error.problem_mark or error.context_mark
    line = 1 if mark is None else int(mark.line) + 1
    if "found undefined alias" in problem:
        name = problem.split("'")[1]
        anchors = re.findall(r"(?<=[\s\[{,:])&([\w-]+)", text)
        return line, f"*{name} names no anchor above it{meant(name, anchors)}"
    if "duplicate anchor" in context:
        return line, f"the anchor &{context.split(chr(39))[1]} stands twice; name one otherwise"
    word = re.search(r"'(.[^']*|')'", problem.partition("but found")[2] or problem)
    for part, told in (*_EXPLAINED, (_TOO_DEEP, _TOO_DEEP)):
        if part in problem:
            return line, told.replace("{0}", word[1] if word else "that")
    return line, f"this cannot be read as YAML ({problem or context})"

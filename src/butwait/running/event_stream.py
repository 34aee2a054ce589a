"""Server-sent events from bytes as they arrive (WHATWG HTML, section 9.2)."""

import re

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")  # a CR at the very end may be half of a CR LF
_FIELDS = frozenset({"", "data", "event", "id", "retry"})
"""What a line of a stream begins with, up to its colon; a comment with nothing."""


class EventStream:
    """A stream of events, each one's data in the form of OpenAI's protocol: JSON, at last [DONE].

    Lines end at CR LF, LF or CR and nowhere else (other line breaks are text). A body that is no
    stream is one event: a server may answer with a whole reply, or a page, where a stream was asked
    for.

    Attributes:
        done: whether all of it is there.
    """

    def __init__(self) -> None:
        self.done = False
        self._parts: list[bytes] = []
        self._data: list[str] = []
        self._kind = ""
        self._whole: list[bytes] | None = []

    def feed(self, chunk: bytes) -> list[tuple[str, str]]:
        """(kind, data) of the events that are whole with ``chunk``. Bytes that are no UTF-8 become
        lone surrogates."""
        if self._whole is not None:
            self._whole.append(chunk)
        self._parts.append(chunk)
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        *lines, rest = _LINE_END.split(b"".join(self._parts))
        self._parts = [rest]
        return self._read(lines)

    def end(self) -> list[tuple[str, str]]:
        """What is left when nothing more comes; the last event may lack its empty line."""
        events = self._read([*_LINE_END.split(b"".join(self._parts).rstrip(b"\r")), b""])
        if self._whole is None:
            return events
        body = _text(b"".join(self._whole)).strip()
        self.done = bool(body)
        return [("", body)] if body else []

    def _read(self, lines: list[bytes]) -> list[tuple[str, str]]:
        events: list[tuple[str, str]] = []
        for line in map(_text, lines):
            name, _, value = line.partition(":")
            if line and name in _FIELDS:
                self._whole = None
            if not line:
                events += self._dispatched()
            elif name == "data":
                self._data.append(value.removeprefix(" "))
            elif name == "event":
                self._kind = value.strip()
        return events

    def _dispatched(self) -> list[tuple[str, str]]:
        data, kind, self._data, self._kind = self._data, self._kind, [], ""
        # Some servers leave out the empty line between two events.
        several = all(line.startswith(("{", "[DONE]")) for line in data)
        events = []
        for text in data if several else ["\n".join(data)]:
            if text.strip() == "[DONE]":
                self.done = True
            elif text.strip() and not self.done:
                events.append((kind, text))
        return events


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", errors="surrogateescape")

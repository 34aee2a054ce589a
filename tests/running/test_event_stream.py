"""Server-sent events: where lines and events end, however the bytes are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butwait.running.event_stream import EventStream


def read(body: bytes, piece: int = 10**6) -> tuple[list[tuple[str, str]], bool]:
    stream = EventStream()
    events = [
        event for i in range(0, len(body), piece) for event in stream.feed(body[i : i + piece])
    ]
    return events + stream.end(), stream.done


TWO = [("", '{"a": 1}'), ("", '{"b": 2}')]


@pytest.mark.parametrize("piece", [1, 3, 10**6])
@pytest.mark.parametrize(
    "body",
    [
        b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\n',
        b'data: {"a": 1}\r\n\r\ndata: {"b": 2}\r\n\r\ndata: [DONE]\r\n\r\n',
        b'data: {"a": 1}\r\rdata: {"b": 2}\r\rdata: [DONE]\r\r',
        b'\xef\xbb\xbfdata:{"a": 1}\n\n\n\ndata:{"b": 2}\n\ndata:[DONE]',
        b': hi\n\nid: 7\ndata: {"a": 1}\n\nretry: 9\n\ndata: {"b": 2}\n: hi\n\ndata: [DONE]\n',
        b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n',
        b'data: {"a": 1}\n\ndata: {"b": 2}\n\ndata: [DONE]\n\ndata: {"c": 3}\n\n',
    ],
)
def test_the_same_events_in_every_notation(body: bytes, piece: int) -> None:
    assert read(body, piece) == (TWO, True)


def test_data_of_several_lines_is_joined() -> None:
    assert read(b'data: {\ndata:  "a": 1\ndata: }\n\n') == ([("", '{\n "a": 1\n}')], False)


def test_kinds_are_told() -> None:
    body = b"event: error\ndata: busy\n\nevent: ping\n\ndata: {}\n\n"
    assert read(body) == ([("error", "busy"), ("", "{}")], False)


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\xa0"])
def test_other_line_breaks_are_text(character: str) -> None:
    body = f'data: {{"a": "x{character}y"}}\n\n'.encode()
    for piece in (1, 2, 99):
        assert read(body, piece)[0] == [("", f'{{"a": "x{character}y"}}')]


@pytest.mark.parametrize("body", ['{"a": 1}', '{\n  "a": [\n1]\n}\n', "<html>\n\n</html>", "no"])
def test_a_body_that_is_no_stream_is_one_event(body: str) -> None:
    assert read(body.encode(), 2) == ([("", body.strip())], True)


@pytest.mark.parametrize("body", [b"", b"\n\n", b": alive\n\n", b": alive", b"event: x\n\n"])
def test_nothing_is_no_event(body: bytes) -> None:
    assert read(body) == ([], False)


def test_bytes_that_are_no_text_become_lone_surrogates() -> None:
    assert read(b'data: {"a": "\xff"}\n\n')[0] == [("", '{"a": "\udcff"}')]


@given(st.binary(max_size=200), st.integers(1, 20))
def test_events_do_not_depend_on_where_bytes_are_cut(body: bytes, piece: int) -> None:
    lines = body.replace(b"d", b"data: ").replace(b"e", b"\r\n").replace(b"f", b"\n")
    assert read(lines, piece) == read(lines)

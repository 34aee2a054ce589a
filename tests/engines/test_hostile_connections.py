"""Connections that break, stay silent or stay open, and bytes that are no HTTP."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import reduce
from typing import Any

import pytest
from hostile_replies import NO_HTTP, A, B, sse
from test_openai_engine import Run

from butwait.engines.kinds.openai import OpenAISettings
from butwait.engines.servers import openai_protocol, remote_server
from butwait.engines.servers.openai_protocol import Reply, replies
from butwait.engines.servers.remote_server import RemoteServer

pytestmark = pytest.mark.usefixtures("short_pauses")


@asynccontextmanager
async def listening(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    scheme: str = "http",
    **chosen: Any,
) -> AsyncIterator[RemoteServer]:
    """A server that says what it likes over bare connections, which are closed in the end."""
    writers = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await talk(reader, writer)

    async with await asyncio.start_server(connected, "127.0.0.1", 0) as made:
        url = f"{scheme}://127.0.0.1:{made.sockets[0].getsockname()[1]}"
        how = OpenAISettings(kind="openai", base_url=url, **chosen)
        server = RemoteServer(how, url, 1, "engine.base_url")
        try:
            yield server
        finally:
            await server.close()
            for writer in writers:
                writer.close()


def test_signs_of_life_are_no_answer(run: Run) -> None:
    """Comments keep a connection alive for ever; the time without an answer is bounded."""

    async def go() -> None:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
            while not writer.is_closing():
                writer.write(b": alive\n\n")
                await asyncio.sleep(0.01)

        async with listening(talk, timeout_s=0.1) as server:
            for ask in (lambda: anext(server.events("/x", {})), lambda: server.json("/x")):
                with pytest.raises(remote_server.LostError, match=r"signs of life for 0\.1 s"):
                    await asyncio.wait_for(ask(), 20)

    run(go())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_is_no_http_is_a_lost_reply(scheme: str, run: Run) -> None:
    async def go() -> None:
        replies: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10**6)
            writer.write(replies[-1])
            writer.close()

        async with listening(talk, scheme) as server:
            for reply in NO_HTTP if scheme == "http" else NO_HTTP[:3]:
                replies.append(reply)
                for ask in (lambda: anext(server.events("/x", {})), lambda: server.json("/x")):
                    with pytest.raises(remote_server.LostError):
                        await asyncio.wait_for(ask(), 20)

    run(go())


def test_a_stream_that_stays_open_behind_its_end_is_closed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_server, "LEFTOVERS_S", 0.05)

    async def go() -> list[Any]:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + sse(A, B))

        async with listening(talk) as server:
            return [event async for event in server.events("/x", {})]

    assert run(asyncio.wait_for(go(), 30)) == [A, B]


COUNTED = {"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 3}}
USAGE = sse({"choices": [], "usage": COUNTED}, done="")
OPEN = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
BEGUN = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SAID = sse(A, done="")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


BROKEN = {
    "closed": OPEN + SAID,
    "closed within an event": OPEN + SAID + SAID[:30],
    "no last chunk": BEGUN + chunk(SAID),
    "half a chunk": BEGUN + chunk(SAID) + chunk(sse(B))[:20],
    "a length that is none": BEGUN + chunk(SAID) + b"zz\r\n",
    "shorter than said": OPEN.replace(b"\r\n\r\n", b"\r\nContent-Length: 999\r\n\r\n") + SAID,
}
"""What is heard of a server that goes away when it has given some tokens."""


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_connection_that_breaks_after_tokens_is_a_lost_reply(
    name: str, reset: bool, run: Run
) -> None:
    heard: list[str] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(BROKEN[name])
        await writer.drain()
        if reset:
            writer.transport.abort()
        writer.close()

    async def go() -> None:
        async with listening(talk) as server:
            async for piece in replies(server, "/x", {}):
                heard.append(piece.text)

    with pytest.raises(remote_server.LostError):
        run(asyncio.wait_for(go(), 30))
    assert reset or heard == ["It is"]


@pytest.mark.parametrize(
    ("behind", "cached"),
    [
        ([], 0),
        ([USAGE], 3),
        ([USAGE, b": alive\n\n"], 3),
        ([b": alive\n\n"], 0),
        ([sse(B, done="")], 0),
    ],
    ids=["nothing", "usage", "usage and signs of life", "signs of life", "pieces"],
)
def test_a_reply_is_whole_with_its_reason_to_end(
    behind: list[bytes], cached: int, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing says [DONE], the connection stays open and what is ``behind`` the reason goes
    on for ever. The usage is waited for a short time; the connection is closed in the end."""
    monkeypatch.setattr(openai_protocol, "USAGE_S", 60 if cached else 0.05)
    monkeypatch.setattr(openai_protocol, "LEFTOVERS_S", 0.05)

    async def go() -> None:
        closed = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OPEN + sse(A, B, done=""))
            with suppress(ConnectionError):
                while not reader.at_eof():
                    for said in behind:
                        writer.write(said)
                    await writer.drain()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(10**6), 0.01)
            closed.set()

        async with listening(talk, timeout_s=1000) as server:
            pieces = [piece async for piece in replies(server, "/x", {})]
            await closed.wait()
        said = reduce(Reply.then, pieces)
        assert "".join(piece.text for piece in pieces[:2]) == "It is 7"
        assert (said.finish, said.cached_tokens) == ("stop", cached)

    run(asyncio.wait_for(go(), 30))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        *(("1.5", 1.5), ("-5", None), ("", None), ("²", None), ("9" * 400, math.inf)),
        ("Wed, 21 Oct 99999 07:28:00 GMT", None),
        ("Wed, 99 Oct 2015 99:28:00 +9999", None),
    ],
)
def test_a_time_to_wait_that_is_none_is_not_waited_for(header: str, seconds: Any) -> None:
    assert remote_server._retry_after(header) == seconds

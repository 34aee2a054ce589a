"""Requests to a model's server, and what may go wrong with them.

A reply that is lost (no connection, a time-out, a busy server, half a reply) is asked for again;
one that the server refuses is not. Either way the end is one sentence.
"""

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import httpx2

from butwait.engines.settings import ServerSettings
from butwait.records import UserError

T = TypeVar("T")

BUSY = frozenset({408, 425, 429})
"""Statuses, beside 5xx, after which asking again may help."""
LONGEST_PAUSE_S = 30.0
"""Between two attempts, where the server names no time itself."""
LONGEST_OBEYED_S = 600.0
"""The longest ``Retry-After`` that is waited for."""
CONNECT_S = 30.0
"""The longest that a connection may take to be made."""


class RefusedError(UserError):
    """The server will not do what it is asked for, however often.

    Attributes:
        status: of HTTP, or 400 for an error in the midst of a stream.
    """

    def __init__(self, sentence: str, status: int) -> None:
        super().__init__(sentence)
        self.status = status


class LostError(Exception):
    """A reply that did not come, or not whole.

    Attributes:
        retry_after: seconds that the server asks to wait; None: it does not say.
    """

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


class RemoteServer:
    """A server of models. Its secret is read from the environment and goes into a header, nowhere
    else.

    Args:
        settings: how it is asked.
        url: where its paths begin.
        connections: requests in flight at a time.
        key: the recipe's key of the address, for errors.
    """

    def __init__(self, settings: ServerSettings, url: str, connections: int, key: str) -> None:
        self.url = url.rstrip("/")
        self._settings = settings
        self._connections = connections
        self._key = key
        self._made: tuple[asyncio.AbstractEventLoop, httpx2.AsyncClient] | None = None

    async def again(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What ``ask`` gives; it is called anew, after a pause, as long as its reply is lost.

        Raises UserError after ``retries`` further attempts.
        """
        for attempt in range(self._settings.retries + 1):
            try:
                return await ask()
            except LostError as lost:
                failure = lost
            if attempt < self._settings.retries:
                await asyncio.sleep(_pause(attempt, failure.retry_after))
        raise UserError(
            f"the server at {self.url} does not answer ({failure}; {self._settings.retries + 1} "
            f"attempts): start it, or mend {self._key}; what is finished stays"
        )

    async def json(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The reply to a POST of ``body``, or to a GET. Raises LostError and RefusedError."""
        async with self._response(path, body) as response:
            return _parsed(await response.aread())

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream. Closing the generator before its end closes the connection,
        which aborts the request. Raises LostError and RefusedError."""
        done = False
        async with self._response(path, body) as response:
            # To its very end, so that the connection can be used again.
            async for line in response.aiter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if data == "[DONE]":
                    done = True
                elif data and not done:
                    event = _parsed(data)
                    self._check(event)
                    yield event
        if not done:
            raise LostError("a reply broke off")

    async def close(self) -> None:
        if self._made is not None:
            await self._made[1].aclose()
            self._made = None

    @asynccontextmanager
    async def _response(
        self, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[httpx2.Response]:
        method = "GET" if body is None else "POST"
        try:
            async with self._client().stream(method, self.url + path, json=body) as response:
                await self._check_status(response)
                yield response
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            raise UserError(f"{self._key}: {self.url!r} is no address ({error})") from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise LostError(str(error) or type(error).__name__) from error

    def _client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        # Connections belong to the event loop in which they were made.
        if self._made is None or self._made[0] is not loop:
            settings = self._settings
            key = os.environ.get(settings.api_key_env)
            client = httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {key}"} if key else {},
                timeout=httpx2.Timeout(
                    settings.timeout_s, connect=min(CONNECT_S, settings.timeout_s), pool=None
                ),
                limits=httpx2.Limits(
                    max_connections=self._connections, max_keepalive_connections=self._connections
                ),
            )
            self._made = loop, client
        return self._made[1]

    async def _check_status(self, response: httpx2.Response) -> None:
        status = response.status_code
        if status < 400:
            return
        message = f"status {status}: {_message(await response.aread())}"
        if status in BUSY or status >= 500:
            raise LostError(message, _retry_after(response.headers.get("Retry-After")))
        hint = f"; the key is read from {self._settings.api_key_env}" if status == 401 else ""
        raise RefusedError(f"{self.url} refused a request with {message}{hint}", status)

    def _check(self, event: dict[str, Any]) -> None:
        """A server that fails in the midst of a stream says so in an event."""
        error = event.get("error")
        if not error:
            return
        code = error.get("code") if isinstance(error, dict) else None
        message = _message(json.dumps(event).encode())
        if isinstance(code, int) and 400 <= code < 500 and code not in BUSY:
            raise RefusedError(f"{self.url} refused a request: {message}", code)
        raise LostError(message)


def _pause(attempt: int, retry_after: float | None) -> float:
    """Seconds: exponential, and different for requests that failed together. The jitter is no
    part of a result."""
    if retry_after is not None:
        return min(LONGEST_OBEYED_S, retry_after) + random.uniform(0.0, 0.5)
    return min(LONGEST_PAUSE_S, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(header: str | None) -> float | None:
    """Seconds from now; the header gives seconds or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _parsed(data: bytes | str) -> dict[str, Any]:
    try:
        reply = json.loads(data)
    except ValueError as error:
        raise LostError(f"a reply is no JSON ({error})") from error
    if not isinstance(reply, dict):
        raise LostError("a reply is no JSON object")
    return reply


def _message(data: bytes) -> str:
    """What the server says, on one line."""
    text = data.decode(errors="replace")
    try:
        reply = json.loads(text)
    except ValueError:
        reply = None
    if isinstance(reply, dict):
        error = reply.get("error", reply.get("detail", text))
        text = str(error.get("message", error) if isinstance(error, dict) else error)
    return " ".join(text.split())[:300]

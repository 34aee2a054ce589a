"""Requests to a model's server, and what may go wrong with them.

A reply that is lost (no connection, a time-out, a busy server, half a reply) is asked for again;
one that the server refuses is not. Either way the end is one sentence, and the key is in none.
"""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.request import proxy_bypass

import httpx2

from butwait.engines.settings import ServerSettings, without_login
from butwait.records import UserError
from butwait.running.event_stream import EventStream
from butwait.running.log import conceal

T = TypeVar("T")

BUSY = frozenset({408, 425, 429})
"""Statuses, beside 5xx, after which asking again may help."""
AWAY = frozenset({*BUSY, *range(502, 600)} - {505})
"""Statuses that say nothing of the request itself: another one would fail as well."""
LONGEST_PAUSE_S = 30.0
"""Between two attempts, where the server names no time itself."""
LONGEST_OBEYED_S = 600.0
"""The longest ``Retry-After`` that is waited for."""
CONNECT_S = 30.0
"""The longest that a connection may take to be made."""
LEFTOVERS_S = 0.2
"""The longest that the end of a stream is waited for when all of it that counts is there."""
SESSION = "X-Session-ID"
"""The header that names what shares a prefix: routers in front of several engines send all of it to
the one that has that in its cache."""
session: ContextVar[str] = ContextVar("session", default="")
"""What the requests of this task share a prefix with; "": nothing."""


class RefusedError(UserError):
    """The server will not do what it is asked for, however often.

    Attributes:
        status: of HTTP, or the code of an error that a reply holds.
        said: the server's own words; "" for a redirect.
    """

    def __init__(self, sentence: str, status: int, said: str = "") -> None:
        super().__init__(sentence)
        self.status = status
        self.said = said


class UnansweredError(UserError):
    """A reply stayed lost, however often it was asked for.

    Attributes:
        unable: whether there were replies, but none of the right kind. A server that is away or
            busy gives none.
        reason: what became of the last one.
    """

    def __init__(self, sentence: str, unable: bool, reason: str = "") -> None:
        super().__init__(sentence)
        self.unable = unable
        self.reason = reason


class LostError(Exception):
    """A reply that did not come, or not whole, or not in its form.

    Attributes:
        status: of HTTP; None: no reply came.
        retry_after: seconds that the server asks to wait; None: it does not say.
        gone: whether nobody took the connection.
    """

    def __init__(
        self, reason: str, status: int | None = 200, after: float | None = None, gone: bool = False
    ) -> None:
        super().__init__(reason)
        self.status, self.retry_after, self.gone = status, after, gone

    @property
    def unable(self) -> bool:
        """See ``UnansweredError``."""
        return self.status is not None and self.status not in AWAY


class RemoteServer:
    """A server of models. Its secret is read from the environment and goes into a header, nowhere
    else.

    Args:
        settings: how it is asked.
        url: where its paths begin.
        connections: requests in flight at a time.
        key: the recipe's key of the address, for errors.

    Raises UserError for an address that is none.
    """

    def __init__(self, settings: ServerSettings, url: str, connections: int, key: str) -> None:
        self.url, self._login = _address(url, key)
        self._settings, self._connections, self._key = settings, connections, key
        self._secret = ""
        self._made: tuple[asyncio.AbstractEventLoop, httpx2.AsyncClient] | None = None

    async def again(self, ask: Callable[[], Awaitable[T]], *, probing: bool = False) -> T:
        """What ``ask`` gives; it is called anew, after a pause, as long as its reply is lost.

        Raises UnansweredError after ``retries`` further attempts; where it is only to be seen what
        the server can do (``probing``), after one if its replies are of the wrong kind.
        """
        for attempt in range(self._settings.retries + 1):
            try:
                return await ask()
            except LostError as lost:
                failure = lost
            if probing and failure.unable and attempt:
                break
            if attempt < self._settings.retries:
                await asyncio.sleep(pause(attempt, failure.retry_after))
        reason = self.shown(str(failure))
        raise UnansweredError(
            f"the server at {self.url} does not answer ({reason}; {attempt + 1} attempts): start "
            f"it, or mend {self._key}; what is finished stays",
            failure.unable,
            reason,
        )

    async def json(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The reply to a POST of ``body``, or to a GET. Raises LostError and RefusedError."""
        async with self._response(path, body) as response:
            return _parsed(await self._whole(response))

    async def events(self, path: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream. Closing the generator before its end closes the connection,
        which aborts the request. Raises LostError and RefusedError."""
        stream = EventStream()
        async with self._response(path, body) as response:
            chunks = response.aiter_bytes()
            since = time.monotonic()
            while not stream.done:
                chunk = await anext(chunks, None)
                for kind, data in stream.end() if chunk is None else stream.feed(chunk):
                    event = self._event(kind, data)
                    if event is not None:
                        yield event
                        since = time.monotonic()
                if chunk is None:
                    break
                self._check_patience(since)
            # To its very end, so that the connection can be used again.
            with suppress(TimeoutError, httpx2.HTTPError):
                async with asyncio.timeout(LEFTOVERS_S):
                    async for _ in chunks:
                        pass
        if not stream.done:
            raise LostError("a reply broke off", None)

    def failure(self, reply: Any) -> str | None:
        """What a reply says that is an error for all its good status; None for another one."""
        if not isinstance(reply, dict) or not (
            reply.get("error") or reply.get("object") == "error"
        ):
            return None
        return self.shown(_message(json.dumps(reply).encode()))

    def check(self, reply: Any) -> None:
        """Raises RefusedError or LostError where a reply is an error (``failure``)."""
        said = self.failure(reply)
        if said is None:
            return
        code = error_code(reply)
        if code is not None and 400 <= code < 500 and code not in BUSY:
            raise RefusedError(f"{self.url} refused a request: {said}", code, said)
        raise LostError(said, code or 200)

    async def close(self) -> None:
        if self._made is not None:
            await self._made[1].aclose()
            self._made = None

    @asynccontextmanager
    async def _response(
        self, path: str, body: dict[str, Any] | None
    ) -> AsyncIterator[httpx2.Response]:
        client = self._client()
        method, name = "GET" if body is None else "POST", session.get()
        headers = {SESSION: name} if name else {}
        request = client.build_request(method, self.url + path, json=body, headers=headers)
        try:
            try:
                response = await client.send(request, stream=True)
            except (ValueError, OverflowError, ExceptionGroup, httpx2.InvalidURL) as error:
                # Of what its headers say, or of a proxy's address.
                raise LostError(f"no reply can be read: {error}", None) from error
            try:
                await self._check_status(response, path)
                yield response
            finally:
                await response.aclose()
        except httpx2.RequestError as error:
            gone = isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
            raise LostError(str(error) or type(error).__name__, None, gone=gone) from error

    async def _whole(self, response: httpx2.Response) -> bytes:
        since, parts = time.monotonic(), []
        async for part in response.aiter_bytes():
            parts.append(part)
            self._check_patience(since)
        return b"".join(parts)

    def _check_patience(self, since: float) -> None:
        """Bytes that say nothing (comments that keep a connection alive) are no answer."""
        if time.monotonic() - since > self._settings.timeout_s:
            raise LostError(f"nothing but signs of life for {self._settings.timeout_s:g} s", None)

    def _client(self) -> httpx2.AsyncClient:
        loop = asyncio.get_running_loop()
        # Connections belong to the event loop in which they were made.
        if self._made is None or self._made[0] is not loop:
            self._secret = _secret(self._settings.api_key_env)
            self._made = loop, self._connected()
        return self._made[1]

    def _connected(self) -> httpx2.AsyncClient:
        patience, most = self._settings.timeout_s, self._connections

        def client(trust_env: bool) -> httpx2.AsyncClient:
            return httpx2.AsyncClient(
                headers={"Authorization": f"Bearer {self._secret}"} if self._secret else {},
                auth=self._login,
                timeout=httpx2.Timeout(patience, connect=min(CONNECT_S, patience), pool=None),
                limits=httpx2.Limits(max_connections=most, max_keepalive_connections=most),
                trust_env=trust_env,
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept
            )

        try:
            return client(trust_env=True)
        except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
            if proxy_bypass(httpx2.URL(self.url).netloc.decode()):
                return client(trust_env=False)
            proxies = sorted(name for name in os.environ if name.lower() in _PROXIES)
            raise UserError(
                f"no connection to {self.url} can be made with this environment "
                f"({type(error).__name__}): look at {', '.join([*proxies, 'SSL_CERT_FILE'])} "
                "(socks5:// needs the package socksio), or name the host in NO_PROXY"
            ) from error

    async def _check_status(self, response: httpx2.Response, path: str) -> None:
        status = response.status_code
        if status < 300:
            return
        if status < 400:
            place = self.shown(response.headers.get("Location", "")).removesuffix(path)
            to = f": set {self._key} to {place}" if place else " without a place"
            raise RefusedError(f"{self.url} sends on (status {status}){to}", status)
        message = f"status {status}: {_message(await self._whole(response))}"
        if status in BUSY or status >= 500:
            after = _retry_after(response.headers.get("Retry-After"))
            raise LostError(message, status, after)
        hint = ""
        if status in (401, 403):
            empty = "" if self._secret else ", which is empty"
            hint = f"; the key is read from {self._settings.api_key_env}{empty}"
        said = self.shown(message)
        raise RefusedError(f"{self.url} refused a request with {said}{hint}", status, said)

    def _event(self, kind: str, data: str) -> dict[str, Any] | None:
        """What an event says; None for one of another kind, which is not for us."""
        if kind in ("", "message"):
            event = _parsed(data)
            if not isinstance(event, dict):
                raise LostError("a reply is no JSON object")
        else:
            event = _loaded(data)
            if kind == "error":
                raw = event.get("error", event) if isinstance(event, dict) else data
                event = {"error": raw}
            elif not isinstance(event, dict) or "choices" not in event:
                return None
        self.check(event)
        return event

    def shown(self, text: str) -> str:
        """What somebody else says, on one line, without the key and without what a terminal would
        obey."""
        for secret in (self._secret, self._login[1] if self._login else ""):
            if len(secret) > 3:
                text = text.replace(secret, "***")
        text = "".join(c if c.isprintable() else " " for c in text)
        return " ".join(text.split())[:300]


_PROXIES = frozenset({"all_proxy", "http_proxy", "https_proxy"})


def _address(url: str, key: str) -> tuple[str, tuple[str, str] | None]:
    """An address as it may be shown, and the name and password that it holds. Raises UserError for
    one that is none."""
    text = url.strip().rstrip("/")
    shown = without_login(text)
    reason = "it begins with http:// or https:// and names a host"
    try:
        parsed = httpx2.URL(text)
        fits = parsed.scheme in ("http", "https") and (parsed.port or 1) < 2**16
        if fits and parsed.host.encode("idna"):
            login = (parsed.username, parsed.password) if parsed.userinfo else None
            return shown, login
    except (ValueError, httpx2.InvalidURL) as error:
        reason = without_login(str(error))
    raise UserError(f"{key}: {shown!r} is no address ({reason})")


def _secret(name: str) -> str:
    """The key in an environment variable; "" where there is none. Raises UserError for one that no
    header can hold."""
    secret = os.environ.get(name, "").strip()
    if not (secret.isascii() and secret.isprintable()):
        raise UserError(
            f"the key in {name} holds a line break or a character outside of ASCII: set {name} to "
            "the key alone"
        )
    conceal(secret)
    return secret


def error_code(reply: Any) -> int | None:
    """The status of HTTP that an error in a reply would have had; None where it has none."""
    if not isinstance(reply, dict):
        return None
    error = reply.get("error")
    where = error if isinstance(error, dict) else reply
    codes = [str(where.get(name)) for name in ("code", "status", "status_code", "http_status")]
    return next((int(code) for code in codes if re.fullmatch(r"[1-9]\d\d", code)), None)


def pause(attempt: int, retry_after: float | None) -> float:
    """Seconds: exponential, and different for requests that failed together. The jitter is no
    part of a result."""
    if retry_after is not None:
        return min(LONGEST_OBEYED_S, retry_after) + random.uniform(0.0, 0.5)
    return min(LONGEST_PAUSE_S, 0.5 * 2.0**attempt) * random.uniform(0.5, 1.0)


def _retry_after(header: str | None) -> float | None:
    """Seconds from now; the header gives seconds or a date (RFC 9110, 10.2.3), and some servers
    give parts of a second."""
    if header is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", header.strip(), re.ASCII):
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _loaded(data: bytes | str) -> Any:
    """What JSON says; None where it is none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _parsed(data: bytes | str) -> Any:
    reply = _loaded(data)
    if reply is None:
        text = data if isinstance(data, str) else data.decode(errors="replace")
        raise LostError(f"a reply is no JSON but {text.strip()[:80]!r}")
    return reply


def _message(data: bytes) -> str:
    """What the server says."""
    text = data.decode(errors="replace")
    reply = _loaded(text)
    if isinstance(reply, dict):
        error = reply.get("error") or reply.get("detail") or reply
        where = error if isinstance(error, dict) else reply
        text = str(where.get("message") or error)
    return text

"""Servers of one model, asked as one: requests go where ``router`` says, and what one of them loses
goes to another."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from butwait.engines.servers.openai_protocol import about_the_model
from butwait.engines.servers.remote_server import (
    BUSY,
    LONGEST_OBEYED_S,
    LostError,
    RefusedError,
    RemoteServer,
    UnansweredError,
    pause,
    session,
)
from butwait.engines.servers.router import FIRST_PROBE_S, Router
from butwait.engines.settings import ServerSettings
from butwait.records import UserError

logger = logging.getLogger(__name__)
T = TypeVar("T")

GRACE_S = 10.0
"""How long other servers are waited for at the start when one has answered."""

Proof = Mapping[str, Any]
"""What a server says of its model, by names that a sentence can hold."""


def session_of(prompt: np.ndarray) -> str:
    """The name of what shares a prompt, int32 (p,): a problem."""
    return hashlib.blake2b(prompt.tobytes(), digest_size=8).hexdigest()


class Fleet:
    """One server, or several that serve the same model. They belong to one event loop.

    A single server is asked again as ``RemoteServer.again`` does. Of several, each living one is
    asked once before any is asked again: ``retries`` counts such rounds.

    Args:
        settings: how they are asked.
        connections: requests in flight at a time, to each.
        key: the recipe's key of the addresses, for errors.
        ends: what of an address is left out (``/v1``).

    Attributes:
        first: the server that is named where something is true of all.

    Raises UserError for an address that is none.
    """

    def __init__(
        self, settings: ServerSettings, connections: int, key: str, ends: str = ""
    ) -> None:
        self._retries, self._key = settings.retries, key
        urls = [url.strip().rstrip("/").removesuffix(ends) for url in settings.urls]
        if len(urls) > 1:  # the others are asked meanwhile
            settings = settings.model_copy(update={"retries": min(settings.retries, 1)})
        made = [RemoteServer(settings, url, connections, key) for url in urls]
        self._servers = {server.url: server for server in made}
        if len(self._servers) < len(made):
            raise UserError(f"{key}: a server stands there twice; name each once")
        self.first = made[0]
        self.router = Router(list(self._servers))
        self._prove: Callable[[RemoteServer], Awaitable[Proof]] | None = None
        self._common: tuple[str, Proof] | None = None
        self._strangers: dict[str, UserError] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}

    @property
    def several(self) -> bool:
        return len(self._servers) > 1

    async def proof(self, prove: Callable[[RemoteServer], Awaitable[Proof]]) -> Proof:
        """What the servers say of their model, which is the same for all; asked once.

        Args:
            prove: asks a server. It is called again for one that died, before that is used again.

        Raises UserError where one serves another model, or none answers.
        """
        if not self.several:
            return await prove(self.first)
        self._prove = prove
        for attempt in range(self._retries + 1):
            await self._look_around()
            for stranger in self._strangers.values():
                raise stranger
            if self._common is not None:
                return self._common[1]
            if attempt < self._retries:
                await asyncio.sleep(pause(attempt, None))
        raise self._unanswered(attempt + 1)

    async def again(self, of: str, ask: Callable[[RemoteServer], Awaitable[T]]) -> T:
        """What ``ask`` gives of a session's server, or of another one where that loses it.

        Args:
            of: the session (``session_of``), which servers are told too.
            ask: makes the request, as often as it is called.

        Raises UnansweredError where all lose it, as often as ``retries`` says.
        """
        before = session.set(of)
        try:
            if not self.several:
                return await self.first.again(lambda: self._counted(self.first, ask))
            return await self._around(of, ask)
        finally:
            session.reset(before)

    async def _around(self, of: str, ask: Callable[[RemoteServer], Awaitable[T]]) -> T:
        for attempt in range(self._retries + 1):
            pauses, left, refused = [], set[str](), list[RefusedError]()
            while (server := await self._next(of, left)) is not None:
                left.add(server.url)
                try:
                    return await self._counted(server, ask)
                except LostError as lost:
                    pauses.append(pause(attempt, lost.retry_after))
                    if isinstance(lost.__cause__, RefusedError):
                        refused.append(lost.__cause__)
            if len(refused) == len(self.router.members):
                raise refused[0]  # it is no fault of theirs
            if attempt < self._retries:
                await asyncio.sleep(min(pauses, default=pause(attempt, None)))
        raise self._unanswered(attempt + 1)

    def used(self, server: RemoteServer, tokens: int) -> None:
        """So many tokens came from there, and are used."""
        self.router.members[server.url].tokens += tokens

    def figures(self) -> dict[str, dict[str, int]]:
        """What each server did (``router.Member.figures``)."""
        return self.router.figures()

    async def close(self) -> None:
        looks = list(self._looks.values())
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)
        for server in self._servers.values():
            await server.close()

    async def _counted(
        self, server: RemoteServer, ask: Callable[[RemoteServer], Awaitable[T]]
    ) -> T:
        router, url = self.router, server.url
        router.began(url)
        try:
            result = await ask(server)
        except LostError as lost:
            self._lost(server, lost)
            raise
        except RefusedError as error:
            if not (self.several and _of_the_server(error)):
                router.answered(url)
                raise
            gone = LostError(str(error), error.status, gone=True)
            self._lost(server, gone)
            raise gone from error
        except UserError:
            router.answered(url)
            raise
        except BaseException:
            router.left(url)
            raise
        router.answered(url)
        return result

    def _lost(self, server: RemoteServer, lost: LostError) -> None:
        member, reason = self.router.members[server.url], server.shown(str(lost))
        drains = lost.status == 503 and (lost.retry_after is not None or "drain" in reason.lower())
        before = member.health
        busy = drains or lost.status in BUSY
        self.router.lost(server.url, reason, busy=busy, gone=lost.gone)
        if drains and self.several:
            seconds = min(LONGEST_OBEYED_S, lost.retry_after or FIRST_PROBE_S)
            self.router.drain(server.url, seconds, reason)
        if before != member.health == "dead":
            logger.warning("the server at %s is lost (%s): others go on for it", server.url, reason)

    async def _next(self, of: str, left: set[str]) -> RemoteServer | None:
        """The server to ask, unless the request was lost there; None where there is none. If all
        are dead, whichever comes back."""
        for due in self.router.due():
            self._look(due)
        url = self.router.choose(of, left)
        if url is None and all(m.health == "dead" for m in self.router.members.values()):
            looks = {self._look(url) for url in self._servers if url not in left}
            while looks and url is None:
                # Unlike gather, this leaves them to others where one who waits is cancelled.
                _, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
                url = self.router.choose(of, left)
        return None if url is None else self._servers[url]

    async def _look_around(self) -> None:
        """Looks at all servers; when one has answered, the others have some seconds more."""
        looks = {self._look(url) for url in self._servers}
        while looks and self._common is None:
            _, looks = await asyncio.wait(looks, return_when=asyncio.FIRST_COMPLETED)
        if looks:
            await asyncio.wait(looks, timeout=GRACE_S)
        for url, look in self._looks.items():
            if not look.done():
                self.router.died(url, f"no answer in {GRACE_S:g} s")

    def _look(self, url: str) -> asyncio.Task[None]:
        """Whether a server serves the same model as the others, seen by all who wait for it."""
        if url not in self._looks:
            self._looks[url] = asyncio.create_task(self._shows(self._servers[url]))
            self._looks[url].add_done_callback(lambda look: self._looks.pop(url, None))
        return self._looks[url]

    async def _shows(self, server: RemoteServer) -> None:
        url, begun = server.url, self._common is not None
        assert self._prove is not None
        session.set("")  # of this task alone: whichever request made it begin
        try:
            shown = await self._prove(server)
            if self._common is None:
                self._common = url, shown
            self._check(server, shown)
        except (UnansweredError, LostError) as lost:
            self.router.died(url, getattr(lost, "reason", "") or server.shown(str(lost)))
        except UserError as error:
            self.router.died(url, str(error))
            if begun and str(error) != str(self._strangers.get(url)):
                logger.warning("%s (it is not used)", error)
            self._strangers[url] = error
        else:
            if self.router.members[url].health == "dead":
                logger.warning("the server at %s is there again", url)
            self._strangers.pop(url, None)
            self.router.proved(url)

    def _check(self, server: RemoteServer, shown: Proof) -> None:
        """Raises UserError where a server serves another model than the first that was seen."""
        assert self._common is not None
        other, theirs = self._common
        differ = [
            f"{name}: {shown.get(name)}, not {theirs.get(name)}"
            for name in {**theirs, **shown}
            if shown.get(name) != theirs.get(name)
        ]
        if differ:
            raise UserError(
                f"the server at {server.url} serves another model than the one at {other}, or "
                f"in another way ({'; '.join(differ)}): serve the same one at every address of "
                f"{self._key}"
            )

    def _unanswered(self, attempts: int) -> UnansweredError:
        members = self.router.members.values()
        reasons = "; ".join(f"{m.url}: {m.reason or m.last or 'no reply'}" for m in members)
        return UnansweredError(
            f"no server of {self._key} answers ({reasons}; {attempts} attempts): start one, or "
            f"mend {self._key}; what is finished stays",
            False,
            reasons,
        )


def _of_the_server(error: RefusedError) -> bool:
    """Whether a refusal says nothing of the request: the key, the place, the model."""
    return error.status < 400 or error.status in (401, 403, 404, 410) or about_the_model(error)

"""Which of several servers of one model gets a request: no network, and a clock that is given.

What has run there is in a server's prefix cache, so all requests of a session (a problem) go to one
server as long as it lives; a session that begins goes to the server with the least to do.
"""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

Health = Literal["healthy", "suspect", "dead"]

DEAD_AFTER = 3
"""Requests lost one after another, after which a server counts as dead."""
FIRST_PROBE_S = 1.0
LONGEST_PROBE_S = 60.0
"""Seconds until a dead server is looked at again: they double from the first to the longest."""


@dataclass
class Member:
    """One of the servers.

    Attributes:
        url: its address, as it may be shown.
        health: ``suspect`` where the last request was lost, and it still serves; a ``dead`` one
            gets none until it was shown to serve the same model.
        reason: why it is not healthy, or begins nothing; "" where it is and does.
        last: why it was lost the last time, be it healthy again; "" where it never was.
        in_flight: requests that it has not answered.
        lost_in_a_row: since its last answer.
        draining_until: no session begins there before that time, and until it was shown again to
            serve the same model; 0: it is not draining.
        requests, failures, tokens: what it was asked, what of that was lost, and the tokens
            (sampled, or scored) of the answers that were used.
        moved: sessions that went on elsewhere, where their prefixes had to be run again.
    """

    url: str
    health: Health = "healthy"
    reason: str = ""
    last: str = ""
    in_flight: int = 0
    lost_in_a_row: int = 0
    draining_until: float = 0.0
    requests: int = 0
    failures: int = 0
    tokens: int = 0
    moved: int = 0
    sessions: int = field(default=0, repr=False)
    _probes: int = field(default=0, repr=False)
    _probe_at: float = field(default=0.0, repr=False)

    def figures(self) -> dict[str, int]:
        """What it did."""
        names = ("requests", "failures", "tokens", "moved")
        return {name: getattr(self, name) for name in names}


class Router:
    """Sticky by session, else the least loaded.

    Args:
        urls: of the servers, at least one, no two the same. A single one never dies: there is no
            other to ask.
        clock: seconds that only grow.

    Attributes:
        members: the servers, in the order in which they were given.
    """

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.members = {url: Member(url) for url in urls}
        self._clock = clock
        self._sessions: dict[str, str] = {}

    def choose(self, session: str, leave: Collection[str] = ()) -> str | None:
        """The server for a session's next request; None where every one is dead or to be left.

        Args:
            session: a name for what shares prefixes; "": none is kept.
            leave: servers that this request has been lost at.
        """
        bound = self.members.get(self._sessions.get(session, ""))
        if bound is not None and bound.health != "dead" and bound.url not in leave:
            return bound.url
        living = [m for m in self.members.values() if m.health != "dead" and m.url not in leave]
        if not living:
            return None
        best = min(
            living,
            key=lambda m: (m.draining_until > 0, m.health != "healthy", m.in_flight, m.sessions),
        )
        # A request that was lost once is asked elsewhere, and its session stays where it was; a
        # server that died, or takes nothing more, has lost it.
        if bound is None or bound.health == "dead" or bound.draining_until > 0:
            self._bind(session, best, bound)
        return best.url

    def _bind(self, session: str, member: Member, before: Member | None) -> None:
        if not session:
            return
        if before is not None:
            before.sessions -= 1
            before.moved += 1
        member.sessions += 1
        self._sessions[session] = member.url

    def began(self, url: str) -> None:
        """A request was sent there. Exactly one of ``answered``, ``lost`` and ``left`` follows."""
        member = self.members[url]
        member.requests += 1
        member.in_flight += 1

    def answered(self, url: str) -> None:
        """It said something of use, be it a refusal."""
        member = self.members[url]
        member.in_flight -= 1
        member.lost_in_a_row = 0
        if member.health == "suspect":
            member.health, member.reason = "healthy", ""

    def left(self, url: str) -> None:
        """Nobody waits for its answer any more."""
        self.members[url].in_flight -= 1

    def lost(self, url: str, reason: str, *, busy: bool = False, gone: bool = False) -> None:
        """A request was lost there. ``busy``: it has too much to do, and is well. ``gone``: it is
        not there any more, or not as it was; the next one need not be lost to see it."""
        member = self.members[url]
        member.in_flight -= 1
        member.failures += 1
        member.last = reason
        if busy and member.health == "healthy":
            return  # a server that says so is well, whatever it said
        member.reason = reason
        if busy or member.health == "dead":
            return
        if member.health == "healthy":
            member.health, member._probe_at = "suspect", self._clock() + FIRST_PROBE_S
        member.lost_in_a_row += 1
        if (gone or member.lost_in_a_row >= DEAD_AFTER) and len(self.members) > 1:
            self.died(url, reason)

    def drain(self, url: str, seconds: float, reason: str = "it is draining") -> None:
        """No session begins there for so long; those that it has may finish, unless it sends them
        away."""
        member = self.members[url]
        member.draining_until = max(member.draining_until, self._clock() + seconds)
        member.reason = reason

    def died(self, url: str, reason: str) -> None:
        """It gets nothing until ``proved``. Each time in a row it is left alone for longer."""
        member = self.members[url]
        pause = min(LONGEST_PROBE_S, FIRST_PROBE_S * 2.0**member._probes)
        member.health, member.reason, member.draining_until = "dead", reason, 0.0
        member.last = reason
        member._probes = min(member._probes + 1, 16)
        member._probe_at = self._clock() + pause

    def proved(self, url: str) -> None:
        """It serves the model that it should."""
        member = self.members[url]
        member.health, member.reason, member.lost_in_a_row = "healthy", "", 0
        member.draining_until, member._probes = 0.0, 0

    def due(self) -> list[str]:
        """Servers that it is time to look at: dead ones, those that drained, and suspects, which
        might get no request that shows them well."""
        now = self._clock()

        def is_due(member: Member) -> bool:
            unwell = member.health != "healthy" and member._probe_at <= now
            return unwell or 0 < member.draining_until <= now

        return [member.url for member in self.members.values() if is_due(member)]

    def figures(self) -> dict[str, dict[str, int]]:
        """What each server did, by its address."""
        return {url: member.figures() for url, member in self.members.items()}

"""A card that computes nothing, on a clock that waits for nothing.

``VirtualLoop`` is an event loop whose time jumps to the next thing that is due. ``Card`` is one
device: it decodes in the gaps between pieces of work that need it whole, and keeps account of its
seconds.
"""

import asyncio
import math
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from butwait.records import UserError

T = TypeVar("T")
TABLE = "Rates in benchmarks/virtual_card.py"
MOST, MOST_ROWS = 1e6, 10_000
"""Of what the table says. With more between two numbers a clock of floats would stand still, or
tick, a day at a time, for hours."""


class _Selector(selectors.SelectSelector):
    """Waits for files as ever, and for nothing else."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        events = super().select(0)
        if not events and timeout != 0:
            if timeout is None:
                raise RuntimeError("everybody waits for somebody else")
            self.loop.now += timeout
        # asyncio runs what is due within this; less than the clock can show, and nothing ever is.
        self.loop._clock_resolution = max(1e-9, 2 * math.ulp(self.loop.now))
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps. What charges seconds outside of ``aside`` holds it up.

    Attributes:
        now: seconds.
        held_up, longest_hold: seconds in which it was held up, and the longest stretch.
    """

    def __init__(self) -> None:
        selector = _Selector()
        selector.loop = self
        self.now = 0.0
        self.held_up = self.longest_hold = 0.0
        self._aside: list[float] = []
        super().__init__(selector)

    def time(self) -> float:
        return self.now

    def charge(self, until: float) -> None:
        """What calls this is done at ``until``."""
        if self._aside:
            self._aside[-1] = max(self._aside[-1], until)
            return
        held = max(0.0, until - self.now)
        self.held_up += held
        self.longest_hold = max(self.longest_hold, held)
        self.now = max(self.now, until)

    def aside(self, work: Callable[[], None]) -> Future[None]:
        """Does work as a thread would: it is done when the seconds that it charged have passed."""
        self._aside.append(self.now)
        done: Future[None] = Future()
        try:
            work()
        finally:
            until = self._aside.pop()
        self.call_at(until, lambda: done.set_result(None))
        return done


class VirtualThread:
    """Stands in for the executor of one thread."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def submit(self, work: Callable[[], None]) -> Future[None]:
        return self._loop.aside(work)

    def shutdown(self) -> None: ...


def run_virtually(work: Callable[["VirtualLoop"], Coroutine[Any, Any, T]]) -> T:
    """The result of a coroutine on a loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work(loop))
    finally:
        loop.close()


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a card does: the one table that one edits. Raises UserError for numbers with which no
    card could run.

    Attributes:
        decode: tokens a second of the policy with ``full_rows`` rows or more, in proportion below.
        full_rows: rows.
        prefill, reward: tokens a second that the policy prefills, that the reward model reads.
        memory, policy_weights, reward_weights, other: GB of the card; ``other`` is what passes
            and graphs need.
        policy_kv, reward_kv: kB a token.
        host: GB/s between the card and its host's memory.
        host_memory: GB of it for keys and values.
        block: tokens of a block of the policy's cache.
    """

    decode: float = 5000.0
    full_rows: int = 64
    prefill: float = 13_000.0
    reward: float = 14_500.0
    memory: float = 80.0
    policy_weights: float = 29.0
    reward_weights: float = 15.0
    other: float = 4.0
    policy_kv: float = 205.0
    reward_kv: float = 57.0
    host: float = 50.0
    host_memory: float = 100.0
    block: int = 16

    def __post_init__(self) -> None:
        for name in ("decode", "prefill", "reward"):
            self._check(name, 1)
        for name in ("memory", "policy_kv", "reward_kv", "host"):
            self._check(name, 0.001)
        for name in ("policy_weights", "reward_weights", "other", "host_memory"):
            self._check(name, 0.0)
        for name in ("full_rows", "block"):
            self._check(name, 1)
        if not self.kv > 0:
            raise UserError(
                f"{TABLE}: of {self.memory:g} GB of memory, weights ({self.policy_weights:g} and "
                f"{self.reward_weights:g}) and other ({self.other:g}) leave {self.kv:g} GB for "
                "keys and values; give the card more memory, or less to hold"
            )

    def _check(self, name: str, least: float) -> None:
        value, most = getattr(self, name, None), MOST_ROWS if name == "full_rows" else MOST
        kind = (int,) if name in ("full_rows", "block") else (int, float)
        if type(value) not in kind or not math.isfinite(value) or not least <= value <= most:
            what = "a whole number" if kind == (int,) else "a number"
            raise UserError(
                f"{TABLE}: {name} is {value!r}; write {what} from {least:g} to {most:,.0f}"
            )

    @property
    def kv(self) -> float:
        """GB of the card for keys and values of both models."""
        return self.memory - self.policy_weights - self.reward_weights - self.other


class Card:
    """One device. Work that needs it whole is done in the order of asking; decoding fills the gaps.

    Attributes:
        seconds: cause -> seconds so far.
    """

    def __init__(self, loop: VirtualLoop, rates: Rates) -> None:
        self.loop, self.rates = loop, rates
        self.seconds: Counter[str] = Counter()
        self.served = 0.0
        """Tokens that each running row was given since the beginning."""
        self.rows = self.fetching = 0
        """Rows that decode, and rows whose blocks are on their way from the host."""
        self.moving = 0.0
        """Seconds of the way between the card and its host, which is used beside all else."""
        self._busy_until = self._way_until = 0.0
        self._settled = 0.0

    @property
    def row_rate(self) -> float:
        """Tokens a second of one row."""
        return self.rates.decode / max(self.rows, self.rates.full_rows)

    def settle(self) -> None:
        """Brings the account to this moment."""
        now = self.loop.now
        free = max(0.0, now - max(self._settled, self._busy_until))
        if free:
            full = min(1.0, self.rows / self.rates.full_rows)
            self.seconds["decode"] += full * free
            missing = "empty rows" if self.rows else "transfer" if self.fetching else "idle"
            self.seconds[missing] += (1 - full) * free
            self.served += free * self.row_rate if self.rows else 0.0
        self._settled = now

    def occupy(self, cause: str, seconds: float) -> float:
        """Does this next; returns when it will be done."""
        self.settle()
        self.seconds[cause] += seconds
        self._busy_until = max(self._busy_until, self.loop.now) + seconds
        return self._busy_until

    def move(self, seconds: float) -> float:
        """Moves blocks to the host or back, beside all else; returns when that will be done."""
        self.moving += seconds
        self._way_until = max(self._way_until, self.loop.now) + seconds
        return self._way_until

    def when(self, served: float) -> float:
        """The moment at which running rows will have been given so many tokens, if nothing comes
        between."""
        return max(self._busy_until, self.loop.now) + (served - self.served) / self.row_rate

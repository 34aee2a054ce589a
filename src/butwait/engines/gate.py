"""A bound on the tokens that an engine holds for running requests, whatever asks for them.

Between two steps a path is parked: its cache may be given up, which costs a prefill and nothing
else. While it is extended its cache must be there. The gate bounds the tokens of all paths that
are being extended: what they hold, what they have in common once, and what their next steps may
take. It lets older searches go first: they finish and free their caches, while newer ones fill what
is left. No search waits for another one's step.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np

from butwait.engines.engine import Continuation, Engine, Prefix, token_characters
from butwait.engines.scheduling.charges import Blocks, Charges, StepLengths, blocks_by_tokens
from butwait.engines.scheduling.governor import TRIMMED, Governor, Sample
from butwait.engines.scheduling.loads import TellsLoad
from butwait.engines.scheduling.rows import Rows
from butwait.engines.servers.figures import Figures, server_figures
from butwait.engines.settings import Sampling, StepRule
from butwait.records import Key, Problem
from butwait.running.log import say

TELLS_NOTHING = "tells nothing of its cache, so live_tokens: auto bounds nothing; a number would"
EVERY_S = 1.0
"""Seconds between two looks at an engine's load."""
SILENT_S = 60.0
"""Seconds until an engine that told nothing is asked again."""
KEPT = 1000
"""Changes of a cap that are kept; of more, every other one is forgotten."""


class TokenGate:
    """Lets requests pass while their tokens fit under a bound; the others wait, the lowest rank
    first. One that is larger than the bound passes alone. One that has passed goes on, also where
    the bound is lowered.

    Args:
        bound: tokens; None: no bound.
    """

    def __init__(self, bound: float | None) -> None:
        self.bound = float("inf") if bound is None else bound
        self.lengths = StepLengths()
        self.turned = 0
        """Tokens that have passed and left."""
        self.most = 0
        """Tokens that were live at a time, at most."""
        self._recent = 0
        self._held_back = False
        self._charges = Charges()
        self._waiting: list[tuple[int, int, Blocks, int, asyncio.Future[None]]] = []
        self._arrivals = count()

    @property
    def live(self) -> int:
        """Tokens that have passed and not left."""
        return self._charges.tokens

    def recent(self) -> int:
        """The most tokens that were live at a time since this was asked last."""
        recent, self._recent = self._recent, self.live
        return recent

    def held_back(self) -> bool:
        """Whether something waited here since this was asked last."""
        held_back, self._held_back = self._held_back, bool(self._waiting)
        return held_back

    def fits(self, blocks: Blocks, room: int) -> bool:
        """Whether so much would pass at once."""
        return not self._waiting and self.live + self._charges.cost(blocks, room) <= self.bound

    async def enter(self, rank: int, blocks: Blocks, room: int) -> None:
        """Returns when a path, or several, with these blocks and that much to take, fit."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), blocks, room, future))
        self.admit()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(blocks, room)
            else:
                self.admit()  # those behind it may fit
            raise

    def leave(self, blocks: Blocks, room: int) -> None:
        """Gives back what ``enter`` took."""
        before = self.live
        self._charges.remove(blocks, room)
        self.turned += before - self.live
        self.admit()

    def admit(self) -> None:
        """Lets pass what fits by now."""
        while self._waiting:
            _, _, blocks, room, future = self._waiting[0]
            if not future.done():
                tokens = self._charges.cost(blocks, room)
                if self.live and self.live + tokens > self.bound:
                    self._held_back = True
                    return
                self._charges.add(blocks, room)
                self.most, self._recent = max(self.most, self.live), max(self._recent, self.live)
                future.set_result(None)
            heapq.heappop(self._waiting)


class Watch:
    """Sets a gate's bound by what a governor makes of the engine's load.

    Args:
        gate: whose bound it is.
        engine: that is looked at.
        longest: tokens of the longest path.
        where: what the engine is, for the sentence where it tells nothing.
        every: seconds between two looks.
        clock: in seconds.
    """

    def __init__(
        self,
        gate: TokenGate,
        engine: TellsLoad,
        longest: int,
        where: str,
        every: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._gate, self._engine, self._longest, self._where = gate, engine, longest, where
        self._every, self._clock = every, clock
        self._governor: Governor | None = None
        self._begun, self._looked = clock(), -float("inf")
        self._task: asyncio.Task[None] | None = None
        self._told = True
        self.rows: Rows | None = None
        """Of the engine: they are told whether there is room for another problem."""
        self.caps: list[tuple[float, int]] = []
        """Seconds since the beginning, and the cap from then on."""

    async def ready(self) -> None:
        """Returns when there was a first look."""
        if self._governor is None and self._told:
            self.poke()
            if self._task is not None:
                await asyncio.wait([self._task])
                if self._task is not None and self._task.done() and not self._task.cancelled():
                    self._task.result()

    def poke(self) -> None:
        """Looks again, beside what is running, if it is time."""
        idle = self._task is None or self._task.done()
        if idle and self._clock() - self._looked >= self._every:
            self._looked = self._clock()
            self._task = asyncio.get_running_loop().create_task(self._look())

    def stop(self) -> None:
        """Looks no more."""
        if self._task is not None and not self._task.get_loop().is_closed():
            self._task.cancel()
        self._task = None

    def figures(self) -> dict[str, Any]:
        """``caps``: [seconds, tokens] of each change; ``preemptions``: paths that the engine gave
        up while they ran."""
        seen = 0 if self._governor is None else self._governor.preemptions
        return {"caps": [list(change) for change in self.caps], "preemptions": seen}

    async def _look(self) -> None:
        try:
            load = await self._engine.load()
        except Exception:
            if self._governor is None:
                raise
            load = None
        if load is None:
            if self._governor is None:
                if self._told:
                    say(f"  {self._where} {TELLS_NOTHING}", logging.WARNING)
                self._told = False  # it is not waited for again
                self._looked += SILENT_S
            return
        if self._governor is None:
            self._governor = Governor(load.capacity, self._longest, load.preemptions)
        gate, governor = self._gate, self._governor
        queued = load.waiting / max(load.running, 1)
        charged = gate.recent(), gate.turned
        sample = Sample(*charged, load.kv_use, load.preemptions, queued, gate.held_back())
        gate.bound = governor.observe(sample)
        if governor.trimming:
            self._engine.trim(TRIMMED)
        if self.rows is not None:
            self.rows.full = governor.trimming
            self.rows.wake()
        if not self.caps or self.caps[-1][1] != int(governor.cap):
            self.caps.append((round(self._clock() - self._begun, 1), int(governor.cap)))
            if len(self.caps) > KEPT:
                del self.caps[1:-1:2]
            say(f"  live_tokens: {int(governor.cap):,}", logging.DEBUG)
        gate.admit()


class GatedEngine(Engine):
    """An ``Engine`` behind a ``TokenGate``. Results are those of the engine; only their order in
    time changes.

    Args:
        engine: whose paths are counted.
        gate: shared by all searches.
        rank: of the search that asks; see ``turn``.
        watch: what sets the gate's bound; None: it stays.
    """

    def __init__(
        self, engine: Engine, gate: TokenGate, rank: int = 0, watch: Watch | None = None
    ) -> None:
        self.counters = engine.counters
        self._engine, self._gate, self._rank, self._watch = engine, gate, rank, watch
        self._ranks = count(rank + 1)
        rows = getattr(engine, "rows", None)
        self.rows = rows if isinstance(rows, Rows) else None
        if watch is not None:
            watch.rows = self.rows
        self._shares = not getattr(engine, "counts_what_ran", False)

    def turn(self) -> "GatedEngine":
        """The engine for the next search: searches that began earlier go first."""
        return GatedEngine(self._engine, self._gate, next(self._ranks), self._watch)

    def start(self, problem: Problem) -> Prefix:
        return self._engine.start(problem)

    def encode(self, text: str) -> np.ndarray:
        return self._engine.encode(text)

    def token_characters(self, token_ids: np.ndarray, text: str) -> np.ndarray | None:
        """As the engine tells it."""
        return token_characters(self._engine, token_ids, text)

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        """One step for every prefix, all at once where they fit under the bound, else each as soon
        as it fits. Rows on the same tokens go together, so that the engine runs what they share
        once."""
        if self._watch is not None:
            await self._watch.ready()
        gate, lengths = self._gate, self._gate.lengths
        blocks = [blocks_by_tokens(prefix.token_ids) for prefix in prefixes]
        rooms = [lengths.room(rule, prefix) for prefix in prefixes]
        results: list[Continuation | None] = [None] * len(prefixes)

        async def run(rows: list[int]) -> None:
            held = {name: n for row in rows for name, n in blocks[row].items()}
            room = sum(rooms[row] for row in rows)
            await self._enter(held, room, len(rows))
            try:
                paths, theirs = [prefixes[row] for row in rows], [keys[row] for row in rows]
                made = await self._engine.extend(paths, rule, sampling, theirs)
            finally:
                self._leave(held, room)
            lengths.note(rule, (len(step.token_ids) for step in made))
            for row, continuation in zip(rows, made, strict=True):
                results[row] = continuation

        everything = {name: n for each in blocks for name, n in each.items()}
        if gate.fits(everything, sum(rooms)):
            groups = [list(range(len(prefixes)))]
        else:
            groups = _together(prefixes, rooms, gate.bound)
        tasks = [asyncio.create_task(run(rows)) for rows in groups]
        try:
            # Not a TaskGroup, which would hide the engine's own error in a group.
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)  # all have left the gate
            if made := [result.prefix for result in results if result is not None]:
                self._engine.release(made)
            raise
        if len(groups) > 1 and self._shares:
            _count_once(prefixes, groups, results)
        return [result for result in results if result is not None]

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        return await self._engine.score(prefixes, continuations)

    def release(self, prefixes: Sequence[Prefix]) -> None:
        self._engine.release(prefixes)

    async def close(self) -> None:
        if self._watch is not None:
            self._watch.stop()
        await self._engine.close()

    def server_figures(self) -> Figures:
        """Of the engine's servers."""
        return server_figures(self._engine)

    def figures(self) -> dict[str, Any]:
        """What the gate did: the most tokens that were ``live``, and what its watch says."""
        watched = {} if self._watch is None else self._watch.figures()
        return {"live": self._gate.most} | watched

    def shown(self) -> dict[str, str]:
        """Tokens that are live, of those that may be."""
        bound = self._gate.bound
        return {"live": f"{self._gate.live:,}/{bound:,.0f}"} if bound < float("inf") else {}

    async def _enter(self, blocks: Blocks, room: int, paths: int) -> None:
        if self.rows is not None:
            self.rows.held_back += paths
        try:
            await self._gate.enter(self._rank, blocks, room)
        finally:
            if self.rows is not None:
                self.rows.held_back -= paths

    def _leave(self, blocks: Blocks, room: int) -> None:
        self._gate.leave(blocks, room)
        if self._watch is not None:
            self._watch.poke()


def _count_once(
    prefixes: Sequence[Prefix], groups: list[list[int]], results: list[Continuation | None]
) -> None:
    """A start that the rows of a call have in common is counted once, however they were parted."""
    seen: set[bytes] = set()
    for rows in groups:
        start = prefixes[rows[0]].token_ids.tobytes()
        for row in rows if start in seen else ():
            made = results[row]
            if made is not None and made.prefilled_tokens == len(prefixes[row].token_ids):
                results[row] = replace(made, prefilled_tokens=0)
        seen.add(start)


def _together(prefixes: Sequence[Prefix], rooms: Sequence[int], bound: float) -> list[list[int]]:
    """Rows in groups that are extended together: those on the same tokens, which count once, as
    far as they fit under the bound."""
    groups: list[list[int]] = []
    open_groups: dict[bytes, tuple[list[int], float]] = {}
    for row, prefix in enumerate(prefixes):
        tokens = prefix.token_ids.tobytes()
        rows, held = open_groups.get(tokens, ([], float("inf")))
        if held + rooms[row] > bound:
            rows, held = [], len(prefix.token_ids)
            groups.append(rows)
        rows.append(row)
        open_groups[tokens] = (rows, held + rooms[row])
    return groups

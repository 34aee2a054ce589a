"""A bound on the tokens that an engine holds for running requests, whatever asks for them.

Between two steps a path is parked: its cache may be given up, which costs a prefill and nothing
else. While it is extended its cache must be there. The gate bounds the tokens of all paths that
are being extended, at the length they may reach, and lets older searches go first: they finish
and free their caches, while newer ones fill what is left. No search waits for another one's step.
"""

import asyncio
import heapq
from collections.abc import Sequence
from itertools import count

import numpy as np

from butwait.engines.engine import Continuation, Engine, Prefix
from butwait.engines.servers.figures import Figures, server_figures
from butwait.engines.settings import Sampling, StepRule
from butwait.records import Key, Problem


class TokenGate:
    """Lets requests pass while their tokens fit under a bound; the others wait, the lowest rank
    first. One that is larger than the bound passes alone.

    Args:
        bound: tokens.
    """

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._waiting: list[tuple[int, int, int, asyncio.Future[None]]] = []
        self._arrivals = count()
        self.live = 0
        """Tokens that have passed and not left."""

    async def enter(self, rank: int, tokens: int) -> None:
        """Returns when ``tokens`` fit."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._arrivals), tokens, future))
        self._admit()
        try:
            await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.leave(tokens)
            raise

    def leave(self, tokens: int) -> None:
        """Gives back what ``enter`` took."""
        self.live -= tokens
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            _, _, tokens, future = self._waiting[0]
            if not future.cancelled():
                if self.live and self.live + tokens > self.bound:
                    return
                self.live += tokens
                future.set_result(None)
            heapq.heappop(self._waiting)


class GatedEngine(Engine):
    """An ``Engine`` behind a ``TokenGate``. Results are those of the engine; only their order in
    time changes.

    Args:
        engine: whose paths are counted.
        gate: shared by all searches.
        rank: of the search that asks; see ``turn``.
    """

    def __init__(self, engine: Engine, gate: TokenGate, rank: int = 0) -> None:
        self.counters = engine.counters
        self._engine, self._gate, self._rank = engine, gate, rank
        self._ranks = count(rank + 1)

    def turn(self) -> "GatedEngine":
        """The engine for the next search: searches that began earlier go first."""
        return GatedEngine(self._engine, self._gate, next(self._ranks))

    def start(self, problem: Problem) -> Prefix:
        return self._engine.start(problem)

    def encode(self, text: str) -> np.ndarray:
        return self._engine.encode(text)

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        """One step for every prefix, each as soon as it fits under the bound. Rows on the same
        tokens go together, so that the engine runs what they share once."""
        reach = [len(path.token_ids) + rule.room(path.completion_length) for path in prefixes]
        results: list[Continuation | None] = [None] * len(prefixes)

        async def run(rows: list[int]) -> None:
            tokens = sum(reach[row] for row in rows)
            paths, theirs = [prefixes[row] for row in rows], [keys[row] for row in rows]
            await self._gate.enter(self._rank, tokens)
            try:
                made = await self._engine.extend(paths, rule, sampling, theirs)
            finally:
                self._gate.leave(tokens)
            for row, continuation in zip(rows, made, strict=True):
                results[row] = continuation

        tasks = [asyncio.create_task(run(r)) for r in _together(prefixes, reach, self._gate.bound)]
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
        return [result for result in results if result is not None]

    async def score(
        self, prefixes: Sequence[Prefix], continuations: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        return await self._engine.score(prefixes, continuations)

    def release(self, prefixes: Sequence[Prefix]) -> None:
        self._engine.release(prefixes)

    async def close(self) -> None:
        await self._engine.close()

    def server_figures(self) -> Figures:
        """Of the engine's servers."""
        return server_figures(self._engine)


def _together(prefixes: Sequence[Prefix], reach: Sequence[int], bound: int) -> list[list[int]]:
    """Rows in groups that are extended together: those on the same tokens, as far as they fit
    under the bound."""
    groups: list[list[int]] = []
    open_groups: dict[bytes, tuple[list[int], int]] = {}
    for row, prefix in enumerate(prefixes):
        tokens = prefix.token_ids.tobytes()
        rows, held = open_groups.get(tokens, ([], bound))
        if held + reach[row] > bound:
            rows, held = [], 0
            groups.append(rows)
        rows.append(row)
        open_groups[tokens] = (rows, held + reach[row])
    return groups

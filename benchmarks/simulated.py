"""A policy and a reward model that compute nothing, on a card of ``virtual_card``: they hold keys
and values in blocks and in slots, take the time that their rates say, and draw steps from recorded
trees.
"""

import asyncio
import heapq
import json
import pathlib
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from virtual_card import Card, Rates, VirtualThread

from butwait.engines.engine import Continuation, Engine, EngineCounters, Prefix
from butwait.engines.kv.blocks import BlockTable
from butwait.engines.settings import Sampling, StepRule
from butwait.engines.slots import Run, SlotModel, _ends
from butwait.records import Key, Problem
from butwait.reward_models.incremental import IncrementalScorer, Request
from butwait.reward_models.reward_model import Path, RewardModel, Score

TEXTS = [f"step {i}\n\n" for i in range(1000)]
TOKENS = np.arange(8192, dtype=np.int32)
LOGPROBS = [np.full(n, -0.3, np.float32) for n in range(2048)]
PEEK = TOKENS[:1]


def prompt_of(problem: Problem) -> np.ndarray:
    """int32 (tokens,), unlike the prompt of every other problem."""
    tokens = TOKENS[: int(problem.metadata["tokens"])].copy()
    tokens[0] = -1 - int(problem.id)
    return tokens


@dataclass(slots=True, eq=False)
class Span:
    """The keys and values of a step.

    Attributes:
        parent: of the steps before it.
        start, end: tokens of the path before it, and up to its end.
        blocks: whole ones that it fills up; what is over belongs to each row.
        place: where they are.
        users: rows that run on it, and spans on the card that come after it.
    """

    parent: "Span | None"
    start: int
    end: int
    blocks: int
    place: Literal["card", "host", "nowhere"] = "nowhere"
    users: int = 0


class BlockCache:
    """What the policy's cache holds, by steps: those unused longest leave it, the ends of paths
    first, to the host's memory where ``offload``."""

    def __init__(self, rates: Rates, gigabytes: float, offload: bool) -> None:
        block = rates.block * rates.policy_kv / 1e6
        self.size, self.capacity, self.offload = rates.block, int(gigabytes / block), offload
        self.host_capacity = int(rates.host_memory / block) if offload else 0
        self.held = self.in_host = self.peak = self.host_peak = self.moved = 0
        self._unused: OrderedDict[Span, None] = OrderedDict()
        self._parked: OrderedDict[Span, None] = OrderedDict()

    def after(self, parent: Span | None, tokens: int) -> Span:
        """So many tokens more."""
        start = 0 if parent is None else parent.end
        end = start + tokens
        return Span(parent, start, end, end // self.size - start // self.size)

    def use(self, span: Span) -> None:
        if span.users == 0:
            self._unused.pop(span, None)
        span.users += 1

    def leave(self, span: Span) -> None:
        span.users -= 1
        if span.users == 0 and span.place == "card":
            self._unused[span] = None

    def take(self, blocks: int) -> bool:
        """Room for so many blocks; False where there is none."""
        while self.held + blocks > self.capacity:
            if not self._unused:
                return False
            self._evict(self._unused.popitem(last=False)[0])
        self.held += blocks
        self.peak = max(self.peak, self.held)
        return True

    def put(self, span: Span) -> None:
        """Its blocks, which were taken, hold it now."""
        if span.place == "host":
            self._parked.pop(span, None)
            self.in_host -= span.blocks
            self.moved += span.blocks
        span.place = "card"
        if span.parent is not None:
            self.use(span.parent)
        if span.users == 0:
            self._unused[span] = None

    def _evict(self, span: Span) -> None:
        blocks = span.blocks
        self.held -= blocks
        span.place = "nowhere"
        if self.offload and blocks:
            span.place = "host"
            self._parked[span] = None
            self.in_host += blocks
            self.host_peak = max(self.host_peak, self.in_host)
            self.moved += blocks
            while self.in_host > self.host_capacity:
                gone = self._parked.popitem(last=False)[0]
                gone.place = "nowhere"
                self.in_host -= gone.blocks
        if span.parent is not None:
            self.leave(span.parent)


@dataclass(frozen=True)
class Steps:
    """Steps as recorded.

    Attributes:
        lengths: int64 (n,), tokens, scaled to the mean that is wanted.
        gains: float64 (m,), what a step adds to the reward model's logit.
        least, hazard: steps of a path before it may end, and its chance to end at each later one.
    """

    lengths: np.ndarray
    gains: np.ndarray
    least: int
    hazard: float


@cache
def recorded(step_tokens: float) -> Steps:
    """Steps of so many tokens on average."""
    told = json.loads((pathlib.Path(__file__).parent / "recorded_steps.json").read_text())
    lengths = np.array(told["lengths"], float)
    scaled = np.maximum(1, np.rint(lengths * step_tokens / lengths.mean())).astype(np.int64)
    return Steps(scaled, np.array(told["gains"]), least=9, hazard=0.18)


@dataclass(slots=True, eq=False)
class _Row:
    call: "_Call"
    at: int
    tokens: int
    reach: int
    before: Span
    own: int = 0


@dataclass(slots=True, eq=False)
class _Call:
    future: asyncio.Future[None]
    left: int
    spans: list[Span | None]
    prefilled: list[int]


class SimulatedEngine(Engine):
    """A policy that is run as vLLM runs one: continuous batches, a prefix cache in blocks.

    Rows are admitted in the order of asking, while their blocks fit, those of the step that they
    will take among them. What a step is depends on its key alone.

    Args:
        full_reach: tokens; rows are admitted while what they may reach, prompts and all, is less.
    """

    def __init__(
        self,
        card: Card,
        cache: BlockCache,
        steps: Steps,
        max_rows: int,
        full_reach: int | None = None,
    ) -> None:
        self.counters = EngineCounters()
        self.cache = cache
        self._card, self._steps, self._max_rows = card, steps, max_rows
        self._full_reach, self._reach = full_reach, 0
        self._waiting: deque[_Row] = deque()
        self._running: list[tuple[float, int, _Row]] = []
        self._joined = count()
        self._timer: asyncio.TimerHandle | None = None

    def start(self, problem: Problem) -> Prefix:
        tokens = prompt_of(problem)
        length = len(tokens)
        return Prefix(tokens, length, "", (self.cache.after(None, length), 0))

    def encode(self, text: str) -> np.ndarray:
        return TOKENS[:1]

    async def extend(
        self, prefixes: Sequence[Prefix], rule: StepRule, sampling: Sampling, keys: Sequence[Key]
    ) -> list[Continuation]:
        n, generator = len(prefixes), keys[0].generator()
        lengths = generator.choice(self._steps.lengths, n).tolist()
        ends = (generator.random(n) < self._steps.hazard).tolist()
        call = _Call(self._card.loop.create_future(), n, [None] * n, [0] * n)
        for at, prefix in enumerate(prefixes):
            span, _ = prefix.handle
            reach = span.end + rule.room(span.end - prefix.prompt_length)
            self._waiting.append(_Row(call, at, lengths[at], reach, span))
        self._admit()
        try:
            await call.future
        except asyncio.CancelledError:
            self._waiting = deque(row for row in self._waiting if row.call is not call)
            raise
        made = []
        for at, prefix in enumerate(prefixes):
            length = lengths[at]
            # An array of its own: the reward model's queue takes one for the same step elsewhere.
            tokens, text = TOKENS[:length], TEXTS[length % 1000]
            depth = prefix.handle[1] + 1
            finish: Any = "box" if depth >= self._steps.least and ends[at] else "step"
            longer = prefix.extended(tokens, text, (call.spans[at], depth))
            logprobs = LOGPROBS[length]
            made.append(Continuation(tokens, text, logprobs, finish, longer, call.prefilled[at]))
        self.counters.count(made)
        return made

    async def score(self, prefixes: Any, continuations: Any) -> list[np.ndarray]:
        raise NotImplementedError

    def release(self, prefixes: Sequence[Prefix]) -> None:
        """Nobody tells vLLM."""

    async def close(self) -> None: ...

    def _admit(self) -> None:
        card, cache = self._card, self.cache
        card.settle()
        while self._waiting and card.rows + card.fetching < self._max_rows:
            row = self._waiting[0]
            if self._full_reach and self._reach and self._reach + row.reach > self._full_reach:
                break
            ready = self._begin(row)
            if ready is None:
                break
            self._waiting.popleft()
            self._reach += row.reach
            if ready > card.loop.now:
                card.fetching += 1
                card.loop.call_at(ready, self._fetched, row)
            else:
                self._join(row)
        if self._waiting and not self._running and not card.fetching:
            raise RuntimeError(f"a path does not fit into {cache.capacity} blocks")
        self._wake()

    def _fetched(self, row: _Row) -> None:
        self._card.settle()
        self._card.fetching -= 1
        self._join(row)
        self._wake()

    def _join(self, row: _Row) -> None:
        until = self._card.served + row.tokens
        heapq.heappush(self._running, (until, next(self._joined), row))
        self._card.rows += 1

    def _begin(self, row: _Row) -> float | None:
        """Fetches or runs what the cache lacks of the row's path, and takes room for its step.
        Returns when it is there; None where there is no room."""
        cache, size, before = self.cache, self.cache.size, row.before
        row.own = -(-(before.end + row.tokens) // size) - before.end // size
        if before.place == "card":  # mostly
            cache.use(before)
            if cache.take(row.own):
                return self._bring(row, [])
            cache.leave(before)
            return None
        missing: list[Span] = []
        held: Span | None = before
        while held is not None and held.place != "card":
            missing.append(held)
            held = held.parent
        if held is not None:
            cache.use(held)  # nothing of the path leaves while room is made
        ready = None
        if cache.take(sum(span.blocks for span in missing) + row.own):
            ready = self._bring(row, missing)
            cache.use(before)
        if held is not None:
            cache.leave(held)
        return ready

    def _bring(self, row: _Row, missing: list[Span]) -> float:
        card, cache, rates = self._card, self.cache, self._card.rates
        fetched = again = 0
        new = 0
        reachable = True  # spans in the host's memory count as long as all before them are there
        for span in reversed(missing):
            reachable = reachable and span.place == "host"
            if reachable:
                fetched += span.blocks
            elif span.parent is None and row.before is span:
                new += span.end - span.start
            else:
                again += span.blocks * cache.size
            cache.put(span)
        # What lies after the last whole block is run again, the last token at least.
        tail = row.before.end % rates.block or rates.block
        row.call.prefilled[row.at] = new + again
        if new:
            card.occupy("prefill", new / rates.prefill)
        else:
            again += tail
        if again:
            card.occupy("re-prefill", again / rates.prefill)
        if not cache.moved:
            return card.loop.now
        moved = cache.moved * cache.size * rates.policy_kv / 1e6
        cache.moved = 0
        there = card.move(moved / rates.host)
        return there if fetched else card.loop.now

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._running:
            when = self._card.when(self._running[0][0])
            self._timer = self._card.loop.call_at(when, self._finish)

    def _finish(self) -> None:
        card, cache = self._card, self.cache
        self._timer = None
        card.settle()
        while self._running:
            until = self._running[0][0]
            # What is left may be less than the clock can show.
            if until > card.served + 1e-6 and card.when(until) > card.loop.now:
                break
            _, _, row = heapq.heappop(self._running)
            card.rows -= 1
            self._reach -= row.reach
            span = cache.after(row.before, row.tokens)
            cache.held -= row.own - span.blocks
            cache.put(span)
            cache.leave(row.before)
            row.call.spans[row.at] = span
            row.call.left -= 1
            if row.call.left == 0 and not row.call.future.done():
                row.call.future.set_result(None)
        self._admit()


class _Outputs:
    def __init__(self, rows: int) -> None:
        self._rows = rows

    def cpu(self) -> "_Outputs":
        return self

    def numpy(self) -> np.ndarray:
        return np.zeros((self._rows, 1), np.float32)


class SimulatedSlots(SlotModel):
    """A ``SlotModel`` that runs nothing: its blocks and slots are the product's own."""

    def __init__(self, card: Card, slots: int, capacity: int, most_tokens: int | None) -> None:
        self.model = SimpleNamespace(device="card")
        self.slots, self.capacity, self.most_tokens = slots, capacity, most_tokens
        self.deterministic = False
        self.lengths = np.zeros(slots, np.int64)
        self.peak = 0
        """The most tokens that it held."""
        self._card = card
        self._blocks = BlockTable(slots)
        self._free = list(reversed(range(slots)))
        self._taken = set[int]()

    def run(self, rows: Sequence[Run], want: str) -> _Outputs:
        slots, starts, counts = _ends(rows)
        self._blocks.make_room(slots, starts, counts)
        self.lengths[slots] = starts + counts
        self.peak = max(self.peak, self.held_tokens)
        tokens = int(counts.sum())
        self._card.loop.charge(self._card.occupy("reward model", tokens / self._card.rates.reward))
        return _Outputs(len(rows))

    def close(self) -> None: ...


class CopyingSlots(SimulatedSlots):
    """In which a path that branches copies the keys and values before."""

    def fork(self, slot: int, length: int) -> int:
        copy = self.acquire()
        self._blocks.make_room(np.array([copy]), np.array([0]), np.array([length]))
        self.lengths[copy] = length
        self.peak = max(self.peak, self.held_tokens)
        return copy


@dataclass(slots=True, eq=False)
class _Judged:
    held: Any
    logit: float
    segments: tuple[np.ndarray, ...] = field(default=())


class _Unordered(IncrementalScorer):
    """In which living paths do not go first: whoever asked first does."""

    def _run_batch(self, batch: Sequence[Any]) -> None:
        lost = [job for job in batch if not self.pool.alive(job.handle)]
        self._find_relatives(lost)
        self._make_roots(lost)
        self._run_all(batch)


class SimulatedScorer(RewardModel):
    """butwait's own queue in front of a reward model that draws a step's gain.

    Args:
        ordered: whether living paths go first.
    """

    clipped = 0

    def __init__(
        self, model: SimulatedSlots, steps: Steps, seed: int, ordered: bool = True
    ) -> None:
        self.scorer = (IncrementalScorer if ordered else _Unordered)(model)
        self.scorer._thread.shutdown()
        self.scorer._thread = VirtualThread(model._card.loop)  # type: ignore[assignment]
        self.tokens = 0
        """What its scores say that they cost."""
        self._steps, self._key = steps, Key.of(seed, "gains")

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        prompt = (prompt_of(problem),)
        requests = []
        for path in paths:
            known = prompt if path.handle is None else path.handle.segments
            segments = (*known, *[step.token_ids for step in path.steps[len(known) - 1 :]])
            requests.append(Request(segments, path.handle and path.handle.held, PEEK))
        results = await self.scorer.run(requests)
        key = self._key.derive(problem.id).at(step=len(paths[0].steps))
        gains = key.generator().choice(self._steps.gains, len(paths)).tolist()
        scores = []
        for path, request, result, gain in zip(paths, requests, results, gains, strict=True):
            logit = (0.0 if path.handle is None else path.handle.logit) + gain
            self.tokens += result.tokens
            handle = _Judged(result.handle, logit, request.segments)
            scores.append(Score(logit, handle, result.tokens))
        return scores

    def release(self, handles: Sequence[Any]) -> None:
        self.scorer.release([handle.held for handle in handles])

    async def close(self) -> None: ...

"""Scoring paths that grow: only what is new of a path is run, for all that wait at once.

A path is a prompt and segments of token ids, one per step. The keys and values of its prefix lie
in a slot (``engines.batching``); a path that goes on from the tip of its slot is
extended in place, another one forks it, and a path whose slot was given up is run again.

Segments are run one by one, also when a path is run again, so that in the deterministic mode of
``SlotModel`` a path's numbers do not depend on the history of its slot.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from operator import is_
from typing import Literal

import numpy as np

from butwait.engines.batching import Batcher, Handle, Job, let_others_run, turn_on
from butwait.engines.kv.blocks import BLOCK
from butwait.engines.slots import Run, SlotModel
from butwait.reward_models.reward_model import PathTooLongError

PATIENCE = 16
"""Turns of the event loop without a new request after which a batch is run. While the policy's
engine has work, a turn is about one of its forward passes, so that problems which end a step at
about the same time are scored together; while it has none, turns take no time."""

Segments = tuple[np.ndarray, ...]
"""The prompt, then one int32 array per step (which may be empty; the prompt may not)."""

_Held = tuple[Handle, int]
"""What there is of a path: a handle, and how many of its segments are the path's too."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A path to be run.

    Attributes:
        segments: the whole path.
        handle: of an earlier part of it, or None.
        peek: int32, tokens to run after the path and to take back; may be empty.
    """

    segments: Segments
    handle: Handle | None
    peek: np.ndarray

    @property
    def prompt(self) -> bytes:
        """The prompt as a key."""
        return self.segments[0].tobytes()


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """Attributes:
    handle: of the whole path.
    output: float32 (V,), at the last token of the peek, or else of the path.
    tokens: of what is new of the path; without a handle, all of it (the prompt is counted once a
        call). What was run again is not in it, so that it does not depend on the company:
        ``IncrementalScorer.run_tokens`` counts everything.
    """

    handle: Handle
    output: np.ndarray
    tokens: int


@dataclass(slots=True, eq=False, kw_only=True)
class _Reading(Job):
    """A path that is read segment by segment; its slot holds ``length`` tokens of it.

    Attributes:
        request: what is wanted.
        outputs: of the segments that are run.
        output: the result.
    """

    request: Request
    outputs: list[np.ndarray] = field(default_factory=list)
    length: int = 0
    output: np.ndarray = field(init=False)


class IncrementalScorer(Batcher[_Reading]):
    """Runs requests through a ``SlotModel``.

    Args:
        model: the model in its slots.
        outputs: what is kept of a segment: the output at its ``last`` token, or the ``sum`` over
            its tokens (for a segment without tokens: the last one's output again, or 0).
    """

    def __init__(self, model: SlotModel, outputs: Literal["last", "sum"] = "last") -> None:
        super().__init__(model)
        self._outputs = outputs
        self.run_tokens = 0
        """Tokens run so far, repetitions included."""
        self._not_a_number = False  # among the last outputs
        # The prompts that are held, for paths that have no handle of their own.
        self._roots: dict[bytes, Handle] = {}
        # Who holds beginnings of lost paths, by their number of segments and the last one's array:
        # paths that branched share the arrays.
        self._relatives: dict[tuple[int, int], Handle] = {}
        # Batches run beside the event loop, which has servers and other models to serve. The
        # slots are the thread's while one runs: what is released meanwhile is noted.
        self._thread = ThreadPoolExecutor(1, "reward-model")
        self._under_way: Future[None] | None = None
        self._released: list[Handle | None] = []

    async def run(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises PathTooLongError where one does not fit."""
        if too_long := [request for request in requests if not self.fits(request)]:
            raise PathTooLongError(
                f"a path of {_tokens(too_long[0])} tokens is longer than the reward model takes "
                f"({self._model.capacity})"
            )
        jobs = [_Reading(handle=request.handle, request=request) for request in requests]
        await self.run_jobs(jobs)
        try:
            # A turn for the policy's batch: which rows share its passes, and so their last bits,
            # hangs on when they ask again.
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.release(job.new_handle for job in jobs)
            raise
        return [
            Result(job.new_handle, job.output, tokens)
            for job, tokens in zip(jobs, _new_tokens(requests), strict=True)
            if job.new_handle is not None
        ]

    def fits(self, request: Request) -> bool:
        """Whether the model takes a path so long."""
        return _tokens(request) <= self._model.capacity

    def release(self, handles: Iterable[Handle | None]) -> None:
        if self._under_way is None:
            super().release(handles)
        else:
            self._released += handles

    def stop(self, error: Exception | None = None) -> None:
        self._wait()
        super().stop(error)

    def close(self, why: str) -> None:
        super().close(why)
        self._thread.shutdown()

    async def _turn(self) -> None:
        await self._let_others_join()
        async with turn_on(self._model.model.device):
            batch = list(self._waiting)
            self._waiting.clear()
            await self._beside(lambda: self._run_batch(batch))
            # Whether the others came far meanwhile must not hang on how long it took.
            await let_others_run(PATIENCE)
        for job in batch:
            if job.call.future.cancelled():
                self.release([job.new_handle])
            job.call.finish_one()

    async def _beside(self, work: Callable[[], None]) -> None:
        """Runs a batch beside the event loop. One that is cancelled comes to its end first."""
        self._under_way = self._thread.submit(work)
        try:
            await asyncio.wrap_future(self._under_way)
        finally:
            self._wait()

    def _wait(self) -> None:
        if self._under_way is not None:
            wait([self._under_way])
            self._under_way = None
            released, self._released = self._released, []
            self.release(released)

    async def _let_others_join(self) -> None:
        waiting, quiet = 0, 0
        while quiet < PATIENCE and len(self._waiting) < self._model.slots:
            quiet = quiet + 1 if len(self._waiting) == waiting else 0
            waiting = len(self._waiting)
            await asyncio.sleep(0)

    def _run_batch(self, batch: Sequence[_Reading]) -> None:
        """Living paths go first where not all have a slot: a new one takes that of a path which is
        wanted in the same batch, and so on, until each is run from its start."""
        living, lost = list[_Reading](), list[_Reading]()
        for job in batch:
            (living if self.pool.alive(job.handle) else lost).append(job)
        # Of the paths in one slot the first goes on in place, and the others need one of their own.
        in_place = {job.handle.tenant: job for job in reversed(living) if job.handle is not None}
        self._find_relatives(lost)
        there = [(job, self._held(job)) for job in batch]
        prompts = {job.request.prompt for job, held in there if held is None}
        slots = len(batch) - len(in_place) + len(prompts)
        tokens = sum(_room(job, held) for job, held in there)
        if slots <= self._model.free and not self._model.crowded(tokens):
            self._make_roots(lost)
            self._run_all(batch)
            return
        firsts = set(map(id, in_place.values()))
        self._run_all(sorted(living, key=lambda job: id(job) not in firsts))
        self._find_relatives(lost)
        self._make_roots(lost)
        self._run_all(lost)

    def _find_relatives(self, lost: Sequence[_Reading]) -> None:
        """Looks where beginnings of lost paths are held by others: they need not be run again."""
        self._relatives = {}
        prompts = {job.request.prompt for job in lost}
        for handle in self.pool.handles() if lost else ():
            if handle.segments and handle.segments[0].tobytes() in prompts:
                self._note_relative(handle)

    def _note_relative(self, handle: Handle) -> None:
        for count, segment in enumerate(handle.segments[1:], start=2):
            self._relatives[count, id(segment)] = handle

    def _make_roots(self, jobs: Sequence[_Reading]) -> None:
        """Runs the prompts that are needed and not held, each once."""
        self._roots = {p: root for p, root in self._roots.items() if self.pool.alive(root)}
        missing = {
            job.request.prompt: Request(job.request.segments[:1], None, np.zeros(0, np.int32))
            for job in jobs
            if self._held(job) is None
        }
        roots = [_Reading(handle=None, request=root) for root in missing.values()]
        self._run_all(roots)
        self._roots |= {j.request.prompt: j.new_handle for j in roots if j.new_handle is not None}

    def _run_all(self, jobs: Sequence[_Reading]) -> None:
        """As many jobs at a time as there are slots for. What lost paths have in common is run for
        one of them, and the others go on from there."""
        left = list(jobs)
        while left:
            if self._not_a_number:
                self._not_a_number = False
                self.forget()
            wanted = [job.handle for job in left if job.handle is not None]
            begun, later, tokens = list[_Reading](), list[_Reading](), 0
            under_way = set[tuple[int, int]]()
            for place, job in enumerate(left):
                held = self._held(job)
                new = None if self.pool.alive(job.handle) else _first_new(job, held)
                if new in under_way:
                    later.append(job)
                    continue
                tokens += _room(job, held)
                if not self._take_slot(job, held, wanted, bool(begun), tokens):
                    later += left[place:]
                    break
                if new is not None:
                    under_way.add(new)
                begun.append(job)
            self._read(begun)
            for job in begun if later else ():
                if job.new_handle is not None:
                    self._note_relative(job.new_handle)
            left = later

    def _held(self, job: _Reading) -> _Held | None:
        """What there is of the path."""
        if job.handle is not None and self.pool.alive(job.handle):
            return job.handle, len(job.handle.segments)
        segments = job.request.segments
        for count in range(len(segments) if self._relatives else 0, 1, -1):
            handle = self._relatives.get((count, id(segments[count - 1])))
            # A step without tokens may be the same array in every path.
            if (
                handle is not None
                and self.pool.alive(handle)
                and _equal(handle.segments[0], segments[0])
                and all(map(is_, handle.segments[1:count], segments[1:count]))
            ):
                return handle, count
        root = self._roots.get(job.request.prompt)
        return (root, 1) if root is not None and self.pool.alive(root) else None

    def _take_slot(
        self,
        job: _Reading,
        held: _Held | None,
        wanted: Sequence[Handle],
        spare: bool,
        tokens: int,
    ) -> bool:
        """Begins with as much of the path as is held; False while all slots are being run, or,
        to ``spare`` them, are wanted, or where ``tokens`` would crowd the model."""
        if held is None:
            outputs, length = list[np.ndarray](), 0
            tenant = self.pool.take(None, keep=wanted, spare=spare, tokens=tokens)
        else:
            handle, count = held
            outputs, length = list(handle.outputs[:count]), _length(handle, count)
            part = handle if length == handle.length else None
            source = part or self.pool.share(handle.tenant, length)
            tenant = self.pool.take(source, keep=wanted, spare=spare, tokens=tokens)
            if part is None:
                self.pool.release(source)
        if tenant is None:
            return False
        job.tenant, job.outputs, job.length = tenant, outputs, length
        return True

    def _read(self, jobs: Sequence[_Reading]) -> None:
        while todo := [job for job in jobs if len(job.outputs) < len(job.request.segments)]:
            segments = [job.request.segments[len(job.outputs)] for job in todo]
            outputs = self._forward(todo, segments)
            for job, segment, output in zip(todo, segments, outputs, strict=True):
                job.outputs.append(output)
                job.length += len(segment)
        peeked = self._forward(jobs, [job.request.peek for job in jobs])
        for job, output in zip(jobs, peeked, strict=True):
            read = job.request.segments, tuple(job.outputs)
            job.output, job.new_handle = output, self.pool.share(job.tenant, job.length, *read)
            self.pool.leave(job.tenant)

    def _forward(self, jobs: Sequence[_Reading], tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The output of each job's tokens."""
        outputs = [self._output_of_nothing(job) for job in jobs]
        busy = [i for i, new in enumerate(tokens) if len(new)]
        if busy:
            rows = [(jobs[i].tenant.slot, jobs[i].length, tokens[i]) for i in busy]
            for i, output in zip(busy, self._run(rows), strict=True):
                outputs[i] = output
                self._not_a_number |= bool(np.isnan(output).any())
            self.run_tokens += sum(len(tokens[i]) for i in busy)
        return outputs

    def _output_of_nothing(self, job: _Reading) -> np.ndarray:
        last = job.outputs[-1] if job.outputs else np.zeros(0, np.float32)
        return last if self._outputs == "last" else np.zeros_like(last)

    def _run(self, rows: Sequence[Run]) -> list[np.ndarray]:
        if self._outputs == "last":
            return list(self._model.run(rows, want="last").cpu().numpy())
        return [every.sum(0).cpu().numpy() for every in self._model.run(rows, want="all")]


def _first_new(job: _Reading, held: _Held | None) -> tuple[int, int] | None:
    """The first segment that is not held, by its place and its array; None: all are."""
    segments, count = job.request.segments, 0 if held is None else held[1]
    return (count, id(segments[count])) if count < len(segments) else None


def _room(job: _Reading, held: _Held | None) -> int:
    """Tokens that the path takes in the cache beside what is held of it: whole blocks, the one at
    the end of what is held copied."""
    there = 0 if held is None else _length(*held)
    return _tokens(job.request) - there + 2 * BLOCK


def _equal(first: np.ndarray, second: np.ndarray) -> bool:
    return first is second or np.array_equal(first, second)


def _length(handle: Handle, count: int) -> int:
    """Tokens of its first segments."""
    if count == len(handle.segments):
        return handle.length
    return sum(map(len, handle.segments[:count]))


def _tokens(request: Request) -> int:
    """Of the path and the peek; those that the handle stands for are not counted again."""
    handle, known, length = request.handle, 0, 0
    if handle is not None:
        known, length = len(handle.segments), handle.length
    return length + sum(map(len, request.segments[known:])) + len(request.peek)


def _new_tokens(requests: Sequence[Request]) -> list[int]:
    counts, seen = [], set()
    for request in requests:
        known = 0 if request.handle is None else len(request.handle.segments)
        if known == 0 and request.prompt in seen:
            known = 1
        seen.add(request.prompt)
        counts.append(sum(map(len, request.segments[known:])) + len(request.peek))
    return counts

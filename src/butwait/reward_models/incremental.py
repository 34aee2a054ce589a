"""Scoring paths that grow: only what is new of a path is run, for all that wait at once.

A path is a prompt and segments of token ids, one per step. The keys and values of its prefix lie
in a slot (``engines.slots``, ``engines.pool``); a path that goes on from the tip of its slot is
extended in place, another one forks it, and a path whose slot was given up is run again.

Segments are run one by one, also when a path is run again, so that in the deterministic mode of
``SlotModel`` a path's numbers do not depend on the history of its slot.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from butwait.engines import pool
from butwait.engines.pool import SlotPool, Tenant
from butwait.engines.slots import Run, SlotModel
from butwait.records import UserError

PATIENCE = 16
"""Turns of the event loop without a new request after which a batch is run. While the policy's
engine has work, a turn is about one of its forward passes, so that problems which end a step at
about the same time are scored together; while it has none, turns take no time."""

Segments = tuple[np.ndarray, ...]
"""The prompt, then one int32 array per step (which may be empty; the prompt may not)."""


class PathTooLongError(UserError):
    """A path has more tokens than the reward model takes."""


@dataclass(frozen=True, slots=True, eq=False)
class Handle:
    """A path that was run.

    Attributes:
        segments: its tokens.
        outputs: float32 (V,) for each segment: the model's output at its last token (or the sum
            over its tokens).
        cached: its keys and values, while the pool has them.
    """

    segments: Segments
    outputs: tuple[np.ndarray, ...]
    cached: pool.Handle


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


@dataclass(slots=True, eq=False)
class _Job:
    """A request that has a slot, and the outputs of those segments that are run."""

    request: Request
    tenant: Tenant
    outputs: list[np.ndarray]
    length: int


_Ran = tuple[Handle, np.ndarray]
"""A path's handle and its output."""


class IncrementalScorer:
    """Runs requests through a ``SlotModel``.

    Args:
        model: the model in its slots.
        outputs: what is kept of a segment: the output at its ``last`` token, or the ``sum`` over
            its tokens (for a segment without tokens: the last one's output again, or 0).
    """

    def __init__(self, model: SlotModel, outputs: Literal["last", "sum"] = "last") -> None:
        self._outputs = outputs
        self.run_tokens = 0
        """Tokens run so far, repetitions included."""
        self._model = model
        self._pool = SlotPool(model)
        # The prompts that are held, for paths that have no handle of their own.
        self._roots: dict[bytes, Handle] = {}
        self._waiting: list[tuple[Request, asyncio.Future[_Ran]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def run(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order. Raises PathTooLongError."""
        for request in requests:
            self._check_length(request)
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[_Ran]] = [loop.create_future() for _ in requests]
        self._waiting.extend(zip(requests, futures, strict=True))
        if self._worker is None or self._worker.done():
            self._worker = loop.create_task(self._work())
        ran = await asyncio.gather(*futures)
        return [
            Result(handle, output, tokens)
            for (handle, output), tokens in zip(ran, _new_tokens(requests), strict=True)
        ]

    def release(self, handles: Sequence[Handle]) -> None:
        """Frees handles; releasing twice is harmless."""
        for handle in handles:
            self._pool.release(handle.cached)

    async def _work(self) -> None:
        while self._waiting:
            await self._let_others_join()
            batch, self._waiting = self._waiting, []
            try:
                requests = [request for request, _ in batch]
                self._make_roots(requests)
                results = self._run_all(requests)
            except Exception as error:
                self._pool.clear()
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    self.release([result[0]])
                else:
                    future.set_result(result)

    async def _let_others_join(self) -> None:
        waiting, quiet = 0, 0
        while quiet < PATIENCE and len(self._waiting) < self._model.slots:
            quiet = quiet + 1 if len(self._waiting) == waiting else 0
            waiting = len(self._waiting)
            await asyncio.sleep(0)

    def _make_roots(self, requests: Sequence[Request]) -> None:
        """Runs the prompts that are needed and not held, each once."""
        self._roots = {p: root for p, root in self._roots.items() if self._alive(root)}
        missing = {
            request.prompt: Request(request.segments[:1], None, np.zeros(0, np.int32))
            for request in requests
            if not self._alive(request.handle) and request.prompt not in self._roots
        }
        roots = self._run_all(list(missing.values()))
        self._roots |= {p: root for p, (root, _) in zip(missing, roots, strict=True)}

    def _run_all(self, requests: Sequence[Request]) -> list[_Ran]:
        """As many requests at a time as there are slots for."""
        ran: list[_Ran] = []
        while len(ran) < len(requests):
            jobs: list[_Job] = []
            for request in requests[len(ran) :]:
                job = self._begin(request)
                if job is None:
                    break
                jobs.append(job)
            ran.extend(self._run_jobs(jobs))
        return ran

    def _begin(self, request: Request) -> _Job | None:
        """A slot with as much of the path as is held; None while all slots are being run."""
        held = next(
            (h for h in (request.handle, self._roots.get(request.prompt)) if self._alive(h)), None
        )
        tenant = self._pool.take(held.cached if held else None)
        if tenant is None:
            return None
        if held is None:
            return _Job(request, tenant, [], 0)
        return _Job(request, tenant, list(held.outputs), held.cached.length)

    def _run_jobs(self, jobs: Sequence[_Job]) -> list[_Ran]:
        while todo := [job for job in jobs if len(job.outputs) < len(job.request.segments)]:
            segments = [job.request.segments[len(job.outputs)] for job in todo]
            for job, segment, output in zip(
                todo, segments, self._forward(todo, segments), strict=True
            ):
                job.outputs.append(output)
                job.length += len(segment)
        peeked = self._forward(jobs, [job.request.peek for job in jobs])
        return [self._end(job, output) for job, output in zip(jobs, peeked, strict=True)]

    def _forward(self, jobs: Sequence[_Job], tokens: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The output of each job's tokens."""
        outputs = [self._output_of_nothing(job) for job in jobs]
        busy = [i for i, new in enumerate(tokens) if len(new)]
        if busy:
            rows = [(jobs[i].tenant.slot, jobs[i].length, tokens[i]) for i in busy]
            for i, output in zip(busy, self._run(rows), strict=True):
                outputs[i] = output
            self.run_tokens += sum(len(tokens[i]) for i in busy)
        return outputs

    def _output_of_nothing(self, job: _Job) -> np.ndarray:
        last = job.outputs[-1] if job.outputs else np.zeros(0, np.float32)
        return last if self._outputs == "last" else np.zeros_like(last)

    def _run(self, rows: Sequence[Run]) -> list[np.ndarray]:
        if self._outputs == "last":
            return list(self._model.run(rows, want="last").cpu().numpy())
        return [every.sum(0).cpu().numpy() for every in self._model.run(rows, want="all")]

    def _end(self, job: _Job, output: np.ndarray) -> _Ran:
        cached = self._pool.share(job.tenant, job.length)
        self._pool.leave(job.tenant)
        return Handle(job.request.segments, tuple(job.outputs), cached), output

    def _alive(self, handle: Handle | None) -> bool:
        return handle is not None and self._pool.alive(handle.cached)

    def _check_length(self, request: Request) -> None:
        length = sum(map(len, request.segments)) + len(request.peek)
        if length > self._model.capacity:
            raise PathTooLongError(
                f"a path of {length} tokens is longer than the reward model takes "
                f"({self._model.capacity}); raise reward_model.capacity, if its context allows, "
                "or lower the search's max_tokens"
            )


def _new_tokens(requests: Sequence[Request]) -> list[int]:
    counts, seen = [], set()
    for request in requests:
        known = 0 if request.handle is None else len(request.handle.segments)
        if known == 0 and request.prompt in seen:
            known = 1
        seen.add(request.prompt)
        counts.append(sum(map(len, request.segments[known:])) + len(request.peek))
    return counts

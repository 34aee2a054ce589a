"""Continuous batching: whatever waits, of any problem, is run together.

Requests wait in a queue; they begin as slots come free, and leave the batch the moment they are
done. One asyncio task runs forward passes while there is work, and lets other tasks run between
them, so that who got an answer can ask again before the next pass.
"""

import asyncio
from collections import deque
from collections.abc import Sequence

from butwait.engines.live import LiveRows
from butwait.engines.pool import Handle, SlotPool, Tenant
from butwait.engines.prefill import Begun, prefill, score
from butwait.engines.requests import Call, Request, ScoreRequest, StepRequest, share_starts
from butwait.engines.slots import SlotModel
from butwait.records import OPEN

TURNS_AFTER_RESULT = 8
"""Turns that other tasks get after a call was answered: a search wants to score its particles and
ask for the next step, and should find its place in the next forward pass."""
TURNS_BEFORE_EVICTION = 64
"""Turns that other tasks get before parked caches are given up: their owners may be about to use
or release them."""
SLOTS_PER_PREFILL = 16
"""Fresh requests wait until one slot in so many is free: a forward pass for every single prompt
costs more than those slots would have made."""


class Batcher:
    """Runs requests through a model with slots.

    Args:
        model: runs tokens.
        pool: its slots; handles of requests are of this pool.
    """

    def __init__(self, model: SlotModel, pool: SlotPool) -> None:
        self._model = model
        self._pool = pool
        # Requests whose tokens are in the cache go first: the others may need their slots.
        self._continuing: deque[Request] = deque()
        self._fresh: deque[Request] = deque()
        self._live = LiveRows(model.slots, model.model.device)
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self, requests: Sequence[Request]) -> None:
        """Fills in the results of all these requests.

        Raises what a forward pass raised; every call that waits then gets it. A call that is
        cancelled leaves the batch.
        """
        if not requests:
            return
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self.stop()
            self._loop = loop
        call = Call(loop.create_future(), len(requests))
        self._calls.add(call)
        share_starts(requests)
        for request in requests:
            request.call = call
            alive = self._pool.alive(request.handle)
            (self._continuing if alive else self._fresh).append(request)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        try:
            await call.future
        except asyncio.CancelledError:
            self._drop(call)
            raise
        finally:
            self._calls.discard(call)

    def stop(self, error: Exception | None = None) -> None:
        """Drops all work. Calls that wait get the error; without one there may be none left (or
        their event loop is gone)."""
        self._task = None
        if self._calls or len(self._live):
            self._pool.clear()
        self._continuing.clear()
        self._fresh.clear()
        self._live = LiveRows(self._model.slots, self._model.model.device)
        for call in self._calls:
            if error is not None and not call.future.done():
                call.future.set_exception(error)
        self._calls.clear()

    async def _work(self) -> None:
        try:
            while self._continuing or self._fresh or len(self._live):
                if not self._admit(evict=False) and not len(self._live):
                    await _let_others_run(TURNS_BEFORE_EVICTION)
                    self._admit(evict=True)
                answered = self._decode()
                await _let_others_run(TURNS_AFTER_RESULT if answered else 1)
        except Exception as error:
            self.stop(error)

    def _admit(self, *, evict: bool) -> bool:
        """Begins what waits while there are slots. Returns whether anything began."""
        admitted = False
        while begun := self._take_slots(evict):
            admitted = True
            fresh = [(request, tenant) for request, tenant in begun if request.run_tokens]
            prefill(self._model, fresh)
            for request, tenant in fresh:
                if request.start.waiting:
                    length = len(request.token_ids) - 1
                    request.start.handle = self._pool.share(tenant, length)
            score(self._model, [(r, t) for r, t in begun if isinstance(r, ScoreRequest)])
            self._live.add([(r, t) for r, t in begun if isinstance(r, StepRequest)])
            for request, tenant in begun:
                if isinstance(request, ScoreRequest):
                    self._pool.leave(tenant)
                    request.call.finish_one()
        return admitted

    def _take_slots(self, evict: bool) -> list[Begun]:
        """Slots for requests that can begin now; the others go on waiting, in order."""
        keep = [r.handle for r in self._continuing if r.handle is not None] if evict else []
        begun: list[Begun] = []
        for queue in (self._continuing, self._fresh):
            if queue is self._fresh and self._too_few_slots():
                break
            waiting: deque[Request] = deque()
            while queue:
                request = queue.popleft()
                tenant = self._take_slot(request, evict, keep)
                if tenant is not None:
                    begun.append((request, tenant))
                    continue
                waiting.append(request)
                if queue is self._fresh and self._model.free == 0:
                    break
            queue.extendleft(reversed(waiting))
        return begun

    def _too_few_slots(self) -> bool:
        """Whether fresh requests should wait until more of them can be prefilled at once."""
        enough = min(len(self._fresh), self._model.slots // SLOTS_PER_PREFILL)
        return len(self._live) > 0 and self._model.free < enough

    def _take_slot(self, request: Request, evict: bool, keep: list[Handle]) -> Tenant | None:
        start = request.start
        if start.begun and start.handle is None:
            return None  # another request is about to run the very same tokens
        handles = (request.handle, start.handle)
        source = next((h for h in handles if h is not None and self._pool.alive(h)), None)
        tenant = self._pool.take(source, evict=evict, keep=keep)
        if tenant is not None:
            request.run_tokens = 0 if source is not None else len(request.token_ids)
            if source is None:
                start.begun, start.handle = True, None
            self._leave_start(request)
        return tenant

    def _leave_start(self, request: Request) -> None:
        start = request.start
        start.waiting -= 1
        if start.waiting == 0 and start.handle is not None:
            self._pool.release(start.handle)

    def _decode(self) -> bool:
        """One token for every live row. Returns whether a call may have been answered."""
        if not len(self._live):
            return True
        self._live.draw(self._model.decode(*self._live.inputs))
        finished = self._live.pop_finished()
        for request, tenant in finished:
            if request.finish in OPEN:
                length = len(request.token_ids) + len(request.tokens) - 1
                request.new_handle = self._pool.share(tenant, length)
            self._pool.leave(tenant)
            request.call.finish_one()
        return bool(finished)

    def _drop(self, call: Call) -> None:
        for queue in (self._continuing, self._fresh):
            for request in [r for r in queue if r.call is call]:
                queue.remove(request)
                self._leave_start(request)
        rows = [i for i, request in enumerate(self._live.requests) if request.call is call]
        for _, tenant in self._live.remove(rows):
            self._pool.leave(tenant)


async def _let_others_run(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)

"""One batch for many callers: who holds which slot of a model's cache, and what waits for one.

A policy and a reward model batch alike: calls put jobs in a queue, one asyncio task gives them
slots and runs them, and a call is answered when its last job is done. They differ in what a job is
and in when a batch begins (``decoding`` samples steps, ``reward_models.incremental`` reads scores).
"""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np

from butwait.engines.slots import NoFreeSlotError, SlotModel
from butwait.records import UserError


@dataclass(slots=True, eq=False)
class Tenant:
    """A taken slot. While it is busy somebody writes after its parked handles."""

    slot: int
    handles: "set[Handle]" = field(default_factory=set)
    busy: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Handle:
    """The first ``length`` tokens of a cached sequence.

    It never changes: whoever extends the sequence writes after it, or in a copy. It may be lost
    when its slot is needed (``SlotPool.alive``); then its tokens have to be run again.

    Attributes:
        tenant: the slot.
        length: tokens.
        segments: a path that was read in segments: int32 each, the tokens.
        outputs: its outputs, float32 (V,) for each segment.
    """

    tenant: Tenant
    length: int
    segments: tuple[np.ndarray, ...] = ()
    outputs: tuple[np.ndarray, ...] = ()


class SlotPool:
    """Hands out the slots of a ``SlotModel`` and remembers what they hold."""

    def __init__(self, model: SlotModel) -> None:
        self._model = model
        self._tenants: dict[Tenant, None] = {}  # those that were left longest ago first
        self.lost = 0
        """Handles that were lost so far because their slot was needed."""

    def alive(self, handle: Handle | None) -> bool:
        """Whether the handle's tokens are still in the cache and it was not released."""
        return handle is not None and handle in handle.tenant.handles

    def take(
        self,
        source: Handle | None,
        *,
        evict: bool = True,
        keep: Collection[Handle] = (),
        spare: bool = False,
        tokens: int = 0,
    ) -> Tenant | None:
        """A busy tenant that starts with the tokens of ``source`` (none: empty).

        The sequence of ``source`` itself is taken over where nobody needs what lies after it,
        else it is copied.

        Args:
            source: a handle that is alive, or None. It stays alive.
            evict: whether parked sequences may be given up for it: the one longest unused goes,
                one of ``keep`` only if there is no other.
            keep: handles that will be wanted soon.
            spare: whether those of ``keep`` are not to be given up at all.
            tokens: that will be written before another slot is given up. Parked sequences go where
                the model would be crowded.

        Returns:
            None where no slot is to be had now.
        """
        while evict and self._model.crowded(tokens):
            if not self._evict(keep, source, spare):
                if spare:
                    return None
                break
        if source is not None and self._is_tip(source):
            source.tenant.busy = True
            return source.tenant
        if self._model.free == 0 and evict:
            self._evict(keep, source, spare)
        try:
            slot = (
                self._model.acquire()
                if source is None
                else self._model.fork(source.tenant.slot, source.length)
            )
        except NoFreeSlotError:
            return self._cut_back(source) if evict and not spare else None
        tenant = Tenant(slot)
        self._tenants[tenant] = None
        return tenant

    def share(
        self,
        tenant: Tenant,
        length: int,
        segments: tuple[np.ndarray, ...] = (),
        outputs: tuple[np.ndarray, ...] = (),
    ) -> Handle:
        """A handle to the first ``length`` tokens of a tenant, busy or not."""
        handle = Handle(tenant, length, segments, outputs)
        tenant.handles.add(handle)
        return handle

    def leave(self, tenant: Tenant) -> None:
        """Ends a tenant's work. It stays parked while there are handles to it."""
        tenant.busy = False
        if tenant in self._tenants:
            del self._tenants[tenant]
            self._tenants[tenant] = None
        self._free_what_is_unused(tenant)

    def handles(self) -> list[Handle]:
        """All that are alive."""
        return [handle for tenant in self._tenants for handle in tenant.handles]

    def release(self, handle: Handle) -> None:
        """Gives a handle up; a second time does nothing."""
        handle.tenant.handles.discard(handle)
        self._free_what_is_unused(handle.tenant)

    def trim(self, tokens: int, keep: Collection[Handle] = ()) -> None:
        """Gives up parked sequences, the one longest unused first and those of ``keep`` last, until
        no more than so many tokens are held."""
        while self._model.held_tokens > tokens and self._evict(keep, None, False):
            pass

    def clear(self) -> None:
        """Frees every slot; all handles are lost."""
        for tenant in list(self._tenants):
            tenant.handles.clear()
            self.leave(tenant)

    def _is_tip(self, handle: Handle) -> bool:
        tenant = handle.tenant
        return not tenant.busy and all(other.length <= handle.length for other in tenant.handles)

    def _evict(self, keep: Collection[Handle], source: Handle | None, spare: bool) -> bool:
        """Gives up a parked sequence; False where there is none."""
        wanted = {handle.tenant for handle in keep}
        parked = (
            tenant
            for tenant in self._tenants
            if not tenant.busy and (source is None or tenant is not source.tenant)
        )
        oldest = None
        for tenant in parked:
            if tenant not in wanted:
                oldest = tenant
                break
            if oldest is None and not spare:
                oldest = tenant
        if oldest is None:
            return False
        self.lost += len(oldest.handles)
        oldest.handles.clear()
        self._free_what_is_unused(oldest)
        return True

    def _cut_back(self, source: Handle | None) -> Tenant | None:
        """The source's own slot, at the price of the longer handles to it: there is no other."""
        if source is None or source.tenant.busy:
            return None
        longer = {other for other in source.tenant.handles if other.length > source.length}
        self.lost += len(longer)
        source.tenant.handles -= longer
        source.tenant.busy = True
        return source.tenant

    def _free_what_is_unused(self, tenant: Tenant) -> None:
        """A tenant's slot, or what it holds after its longest handle."""
        if tenant.busy or tenant not in self._tenants:
            return
        if tenant.handles:
            self._model.cut(tenant.slot, max(handle.length for handle in tenant.handles))
        else:
            del self._tenants[tenant]
            self._model.release(tenant.slot)


@dataclass(slots=True, eq=False)
class Call:
    """The jobs of one call; its future is done when all of them are."""

    future: asyncio.Future[None]
    unfinished: int

    def finish_one(self) -> None:
        self.unfinished -= 1
        if self.unfinished == 0 and not self.future.done():
            self.future.set_result(None)


@dataclass(slots=True, eq=False, kw_only=True)
class Job:
    """What waits for a slot, or is run in one.

    Attributes:
        handle: to what the cache may hold of its path.
        call: what it is part of; set when it is put in the queue.
        tenant: its slot, once it has begun.
        new_handle: to the path as it leaves it; None where nothing is left.
    """

    handle: Handle | None
    call: Call = field(init=False)
    tenant: Tenant = field(init=False)
    new_handle: Handle | None = None


J = TypeVar("J", bound=Job)


_TURNS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Lock]] = WeakKeyDictionary()


def turn_on(device: object) -> asyncio.Lock:
    """Whose turn it is on a device: what runs beside the event loop holds it, and models of the
    same device wait, as they would on the loop. So it is not chance which rows share a pass."""
    turns = _TURNS.setdefault(asyncio.get_running_loop(), {})
    return turns.setdefault(str(device), asyncio.Lock())


class Batcher(ABC, Generic[J]):
    """Runs jobs through a model with slots, in a task that lives while there is work.

    Args:
        model: runs tokens.

    Attributes:
        pool: its slots; the handles of jobs are of this pool.
    """

    def __init__(self, model: SlotModel) -> None:
        self._model = model
        self.pool = SlotPool(model)
        self._waiting: deque[J] = deque()
        self._calls: set[Call] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._claim = threading.Lock()
        self._task: asyncio.Task[None] | None = None

    async def run_jobs(self, jobs: Sequence[J]) -> None:
        """Fills in the results of all these jobs.

        Raises what a forward pass raised; every call that waits then gets it. A call that is
        cancelled leaves the batch. Raises UserError while another event loop's calls are run.
        """
        if not jobs:
            return
        loop = asyncio.get_running_loop()
        call = Call(loop.create_future(), len(jobs))
        with self._claim:
            self._move_to(loop)
            self._calls.add(call)
        for job in jobs:
            job.call = call
            self._put(job)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._work())
        try:
            await call.future
        except asyncio.CancelledError:
            self._drop(call)
            self.release(job.new_handle for job in jobs)
            raise
        finally:
            self._calls.discard(call)

    def release(self, handles: Iterable[Handle | None]) -> None:
        """Frees handles; releasing twice is harmless."""
        for handle in handles:
            if handle is not None:
                self.pool.release(handle)

    def stop(self, error: Exception | None = None) -> None:
        """Drops all work. Calls that wait get the error; without one there may be none left (or
        their event loop is gone)."""
        self._task = None
        if error is not None:
            self.forget()
        elif self._calls or self._busy:
            self.pool.clear()
        self._clear()
        for call in self._calls:
            if error is not None and not call.future.done():
                call.future.set_exception(error)
        self._calls.clear()

    def forget(self) -> None:
        """Gives up all that is held: it may be no numbers (NaN). Whoever read it would get the
        same, also behind a mask, as 0 x NaN is NaN."""
        self.pool.clear()
        self._model.forget()

    def close(self, why: str) -> None:
        """Frees the slots and their memory. Calls that wait get a RuntimeError."""
        self.stop(RuntimeError(why))
        self.pool.clear()
        self._model.close()

    def _put(self, job: J) -> None:
        self._waiting.append(job)

    def _clear(self) -> None:
        self._waiting.clear()

    def _drop(self, call: Call) -> None:
        """Takes out what a cancelled call has in the queue or in the batch."""
        self._waiting = deque(job for job in self._waiting if job.call is not call)

    @property
    def _busy(self) -> bool:
        """Whether there is work."""
        return len(self._waiting) > 0

    def _move_to(self, loop: asyncio.AbstractEventLoop) -> None:
        """Takes calls of this event loop from now on: one that ended has left none behind."""
        if self._loop is loop:
            return
        if self._calls and self._loop is not None and self._loop.is_running():
            raise UserError(
                "this engine or reward model is at work in another thread's event loop: use it in "
                "one thread at a time, or load one for each"
            )
        self.stop()
        self._loop = loop

    async def _work(self) -> None:
        try:
            while self._busy and self._task is asyncio.current_task():
                await self._turn()
        except Exception as error:
            self.stop(error)

    @abstractmethod
    async def _turn(self) -> None:
        """Gives jobs their slots, runs them for a while, and answers calls."""


async def let_others_run(turns: int) -> None:
    """Gives other tasks so many turns."""
    for _ in range(turns):
        await asyncio.sleep(0)

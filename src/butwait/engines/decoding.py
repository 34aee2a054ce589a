"""Continuous batching of a policy: whatever waits, of any problem, is run together.

Jobs begin as slots come free, and leave the batch the moment they are done. Forward passes are run
while there is work, and other tasks between them, so that who got an answer can ask again before
the next pass.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from butwait.engines.batching import Batcher, Call, Handle, let_others_run, turn_on
from butwait.engines.kv.prefixes import SharedPrefixes
from butwait.engines.sampling import LiveRows, PathJob, SharedStart, StepJob
from butwait.engines.slots import SlotModel
from butwait.records import OPEN

TURNS_AFTER_RESULT = 8
"""Turns that other tasks get after a call was answered: a search wants to score its particles and
ask for the next step, and should find its place in the next forward pass."""
TURNS_BEFORE_EVICTION = 64
"""Turns that other tasks get before parked caches are given up: their owners may be about to use
or release them."""
SLOTS_PER_PREFILL = 16
"""Fresh jobs wait until one slot in so many is free: a forward pass for every single prompt costs
more than those slots would have made."""


@dataclass(slots=True, eq=False, kw_only=True)
class ScoreJob(PathJob):
    """Given tokens whose log-probabilities are wanted.

    Attributes:
        continuation: int32 (m,), m > 0.
    """

    continuation: np.ndarray


class PolicyBatcher(Batcher[PathJob]):
    """Samples steps and scores continuations.

    Args:
        model: runs tokens.
        at_work: told how many jobs are run or wait, whenever that changes.

    Attributes:
        prefixes: what prompts have in common; its tokens are run once.
    """

    def __init__(
        self, model: SlotModel, at_work: Callable[[int], None] = lambda jobs: None
    ) -> None:
        super().__init__(model)
        self._at_work = at_work
        self.prefixes = SharedPrefixes(model)
        # Jobs whose tokens are in the cache go first: the others may need their slots.
        self._continuing: deque[PathJob] = deque()
        self._device = model.model.device
        self._live = LiveRows(model.slots, self._device)

    async def run_jobs(self, jobs: Sequence[PathJob]) -> None:
        # Those that begin with the very same tokens share a start.
        starts: dict[bytes, SharedStart] = {}
        for job in jobs:
            job.start = starts.setdefault(job.prefix.token_ids.tobytes(), job.start)
            job.start.waiting += 1
        await super().run_jobs(jobs)

    def _put(self, job: PathJob) -> None:
        (self._continuing if self.pool.alive(job.handle) else self._waiting).append(job)
        self._tell()

    @property
    def starting(self) -> int:
        """Jobs that will want a slot of their own."""
        return len(self._waiting)

    @property
    def wanted(self) -> list[Handle]:
        """Handles that jobs go on from next."""
        return [job.handle for job in self._continuing if job.handle is not None]

    def _tell(self) -> None:
        self._at_work(len(self._continuing) + len(self._waiting) + len(self._live))

    def close(self, why: str) -> None:
        self.prefixes.clear()
        super().close(why)

    def _clear(self) -> None:
        super()._clear()
        self.prefixes.clear()
        self._continuing.clear()
        self._live = LiveRows(self._model.slots, self._device)
        self._tell()

    def _drop(self, call: Call) -> None:
        for queue in (self._continuing, self._waiting):
            for job in [job for job in queue if job.call is call]:
                queue.remove(job)
                self._leave_start(job)
        rows = [i for i, job in enumerate(self._live.jobs) if job.call is call]
        for job in self._live.remove(rows):
            self.pool.leave(job.tenant)
        self._tell()

    @property
    def _busy(self) -> bool:
        return len(self._continuing) + len(self._waiting) + len(self._live) > 0

    async def _turn(self) -> None:
        await self._device_is_free()
        if not self._admit(evict=False) and not len(self._live):
            await let_others_run(TURNS_BEFORE_EVICTION)
            await self._device_is_free()
            self._admit(evict=True)
        answered = self._decode()
        if answered:
            self._tell()
        await let_others_run(TURNS_AFTER_RESULT if answered else 1)

    async def _device_is_free(self) -> None:
        async with turn_on(self._device):
            pass

    def _admit(self, *, evict: bool) -> bool:
        """Begins what waits while there are slots. Returns whether anything began."""
        admitted = False
        while begun := self._take_slots(evict):
            admitted = True
            fresh = [job for job in begun if job.run_tokens]
            self._prefill(fresh)
            for job in fresh:
                if job.start.waiting:
                    job.start.handle = self.pool.share(job.tenant, len(job.prefix.token_ids) - 1)
            scored = [job for job in begun if isinstance(job, ScoreJob)]
            self._score(scored)
            self._live.add([job for job in begun if isinstance(job, StepJob)])
            for job in scored:
                self.pool.leave(job.tenant)
                job.call.finish_one()
            if scored:
                self._tell()
        return admitted

    def _take_slots(self, evict: bool) -> list[PathJob]:
        """Jobs that can begin now, each with its slot; the others go on waiting, in order."""
        keep = self.wanted if evict else []
        begun: list[PathJob] = []
        for queue in (self._continuing, self._waiting):
            if queue is self._waiting and self._too_few_slots():
                break
            left: deque[PathJob] = deque()
            while queue:
                job = queue.popleft()
                if self._take_slot(job, evict, keep):
                    begun.append(job)
                    continue
                left.append(job)
                if queue is self._waiting and self._model.free == 0:
                    break
            queue.extendleft(reversed(left))
        return begun

    def _too_few_slots(self) -> bool:
        """Whether fresh jobs should wait until more of them can be prefilled at once."""
        enough = min(len(self._waiting), self._model.slots // SLOTS_PER_PREFILL)
        return len(self._live) > 0 and self._model.free < enough

    def _take_slot(self, job: PathJob, evict: bool, keep: list[Handle]) -> bool:
        start = job.start
        if start.begun and start.handle is None:
            return False  # another job is about to run the very same tokens
        handles = (job.handle, start.handle)
        source = next((h for h in handles if h is not None and self.pool.alive(h)), None)
        tenant = self.pool.take(source, evict=evict, keep=keep)
        if tenant is None:
            return False
        job.tenant = tenant
        job.run_tokens = 0 if source is not None else len(job.prefix.token_ids)
        if source is None:
            start.begun, start.handle = True, None
        self._leave_start(job)
        return True

    def _leave_start(self, job: PathJob) -> None:
        start = job.start
        start.waiting -= 1
        if start.waiting == 0 and start.handle is not None:
            self.pool.release(start.handle)

    def _decode(self) -> bool:
        """One token for every live row. Returns whether a call may have been answered."""
        if not len(self._live):
            return True
        self._live.draw(self._model.decode(*self._live.inputs, wide=False))
        finished = self._live.pop_finished()
        for job in finished:
            if job.finish in OPEN:
                length = len(job.prefix.token_ids) + len(job.tokens) - 1
                job.new_handle = self.pool.share(job.tenant, length)
            self.pool.leave(job.tenant)
            job.call.finish_one()
        return bool(finished)

    def _prefill(self, jobs: Sequence[PathJob]) -> None:
        """Runs all tokens of each job but the last.

        In deterministic mode tokens of a completion are run one at a time: that is how they were
        run when they were sampled, so a path whose cache was lost gets back the very same bits.
        """
        model, singly = self._model, self._model.deterministic
        paths = [job.prefix.token_ids for job in jobs]
        slots = np.array([job.tenant.slot for job in jobs], np.int64)
        ends_of_prompts = [job.prefix.prompt_length if singly else None for job in jobs]
        self.prefixes.prefill(
            slots.tolist(),
            [path[:end][:-1] for path, end in zip(paths, ends_of_prompts, strict=True)],
        )
        ends = np.array([len(path) - 1 for path in paths], np.int64)
        while (live := np.flatnonzero(model.lengths[slots] < ends)).size:
            at = model.lengths[slots[live]]
            tokens = [paths[i][p] for i, p in zip(live.tolist(), at.tolist(), strict=True)]
            model.decode(slots[live], at, np.array(tokens, np.int64))

    @torch.inference_mode()
    def _score(self, jobs: Sequence[ScoreJob]) -> None:
        """Fills in the log-probabilities of continuations whose prefixes but the last token are
        in the cache."""
        runs = []
        for job in jobs:
            tokens = np.concatenate([job.prefix.token_ids[-1:], job.continuation[:-1]])
            runs.append((job.tenant.slot, len(job.prefix.token_ids) - 1, tokens))
            job.logprobs = np.empty(len(job.continuation), np.float32)
        # A vocabulary is wide: one chunk's logits at a time.
        for live, done, counts, logits in self._model.chunks(runs):
            chosen, places = (
                [],
                list(zip(live.tolist(), done.tolist(), counts.tolist(), strict=True)),
            )
            for i, (row, start, count) in enumerate(places):
                given = jobs[row].continuation[start : start + count].astype(np.int64)
                ids = torch.from_numpy(given).to(logits.device)[:, None]
                chosen.append(logits[i, :count].log_softmax(-1).gather(-1, ids)[:, 0])
            together = torch.cat(chosen).cpu().numpy()  # one copy from the device a pass
            parts = np.split(together, np.cumsum(counts)[:-1])
            for (row, start, count), part in zip(places, parts, strict=True):
                jobs[row].logprobs[start : start + count] = part

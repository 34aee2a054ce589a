"""Workers as the actors (``ray_actor.py``) of a Ray cluster (``ray_cluster.py``), one each.

Ray places them and tells when one is gone; it restarts and repeats nothing, and holds no state that
is worth saving: what becomes of a lost worker's items is the pool's to decide (``pool.py``).
"""

import asyncio
import logging
import os
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from butwait.records import UserError
from butwait.running.log import note, say
from butwait.running.plugins import WAITING, overdue
from butwait.workers.host import Reply, WorkerLostError
from butwait.workers.placement import Placement
from butwait.workers.ray_actor import Actor, ActorJob, Place, installed_version
from butwait.workers.ray_cluster import connect
from butwait.workers.settings import WorkersSettings

PATIENCE_S = 600.0
"""Seconds that a worker waits for a place in the cluster, where none of its run has one."""
TOLD_S = 20.0
"""Seconds after which a line says what it waits for."""

_PARTING_S = 10.0
_AGAIN_S = 0.1
"""Seconds until a cancel is repeated, at first; then twice as many each time."""
_LAST_WORDS_S = 1.5
_LAST_LINES = 20
_PASSED = ("BUTWAIT_", "HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_OFFLINE")
"""What the environment's names begin with that workers are told; keys and tokens are not sent."""


class RayHost:
    """Starts workers as actors. The cluster is joined, or started, when this is made.

    Args:
        packed: the job (``Job.packed``).
        settings: of the workers: the cluster's address.
        placement: how many they are, and the GPUs of each. One actor has them all, so they are of
            one node.
        run: the folder of the run, which no other may take while a worker lives; None: there is
            none.

    Attributes:
        count: workers that are to be started: where nobody says how many, one for every GPU of the
            cluster, or every ``placement.gpus`` of them.

    Raises UserError as ``connect`` does.
    """

    def __init__(
        self,
        packed: bytes,
        settings: WorkersSettings,
        placement: Placement,
        run: Path | None = None,
    ) -> None:
        own = connect(settings.address, placement.count, _hear)
        import ray

        # Nodes of a cluster that others use too are filled by their cores; ours is for us.
        self._needs: dict[str, float] = {"CPU": 0 if own else 1, "GPU": placement.gpus}
        self._actors: Any = ray.remote(Actor).options(
            num_cpus=self._needs["CPU"],
            num_gpus=self._needs["GPU"],
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )
        environment = {k: value for k, value in os.environ.items() if k.startswith(_PASSED)}
        self._job = ActorJob(
            packed, os.getcwd(), str(run.resolve()) if run else None, _seen(packed), environment
        )
        self.count = placement.count
        if settings.count is None and placement.gpus:
            self.count = places(ray.nodes(), placement.gpus)
        self._alive: set[RayHandle] = set()
        self._waiting, self._tell_again = 0, 0.0

    async def start(self, index: int) -> "RayHandle":
        """See ``Host.start``.

        Raises UserError, besides, where the cluster has no place for the worker and none else has
        one, and for a node without butwait or with another version.
        """
        handle = RayHandle(index, self._actors.remote(), self._alive)
        try:
            await self._settled(handle)
            if refused := await handle.asked(handle.actor.open.remote(self._job)):
                raise UserError(refused)
        except BaseException:
            handle.end()
            raise
        return handle

    async def _settled(self, handle: "RayHandle") -> None:
        """Waits until the actor has a place."""
        began = time.monotonic()
        settled = asyncio.ensure_future(handle.asked(handle.actor.place.remote()))
        self._waiting += 1
        try:
            while not (await asyncio.wait([settled], timeout=min(TOLD_S, PATIENCE_S)))[0]:
                self._tell(time.monotonic() - began)
        finally:
            self._waiting -= 1
            settled.cancel()
        place = settled.result()
        if place.butwait != installed_version():
            raise UserError(
                f"the node {place.node} of the Ray cluster has butwait {place.butwait}, and this "
                f"process {installed_version()}; install the same version on every node"
            )
        handle.place = place
        self._alive.add(handle)
        _heard[place.node, place.pid] = handle

    def _tell(self, waited: float) -> None:
        """Says what workers wait for, in one line for all of them."""
        waits = f"{waited:.0f} s; each wants {_wanted(self._needs)}"
        if waited >= PATIENCE_S and not self._alive:
            raise UserError(
                f"no worker has found a place in {waits}; lower workers.count or workers.gpus, or "
                "add nodes to it"
            )
        now = time.monotonic()
        if now >= self._tell_again:
            self._tell_again = now + max(waited, TOLD_S)
            say(f"  {self._waiting} of the workers wait, for {waits}", logging.WARNING)


class RayHandle:
    """One actor.

    Args:
        index: of the worker.
        actor: Ray's handle of it.
        alive: workers of the same host that have a place, whether or not their models are loaded:
            this leaves them when it is lost or ended.
    """

    def __init__(self, index: int, actor: Any, alive: set["RayHandle"]) -> None:
        self.index, self.actor, self._alive = index, actor, alive
        self.place: Place | None = None
        self.said: deque[str] = deque(maxlen=_LAST_LINES)

    async def call(self, item: Any) -> Reply:
        """See ``Handle.call``."""
        if self not in self._alive:
            raise WorkerLostError("its process ended", begun=False)
        asked = self.actor.do.remote(item)
        try:
            reply, refused = await self.asked(asked)
        except asyncio.CancelledError:
            _give_up(asked)
            raise
        if refused is not None:
            raise UserError(refused)
        assert isinstance(reply, Reply)
        return reply

    async def close(self) -> None:
        """See ``Handle.close``."""
        lost = self not in self._alive
        self._alive.discard(self)
        if not lost:
            with suppress(Exception):
                await asyncio.wait_for(_future(self.actor.close.remote()), _PARTING_S)
        self.end()

    def end(self) -> None:
        """Ends the actor at once."""
        import ray

        self._alive.discard(self)
        with suppress(Exception):  # it is gone, or the cluster is
            ray.kill(self.actor)
        if self.place is not None:
            _heard.pop((self.place.node, self.place.pid), None)

    async def asked(self, reply: Any) -> Any:
        """A reply of the actor. Raises WorkerLostError where it is gone."""
        import ray

        try:
            return await _future(reply)
        except ray.exceptions.RayError as error:
            self._alive.discard(self)
            if "No module named 'butwait" in str(error):
                raise UserError(
                    "butwait is not installed on a node of the Ray cluster, or not in the Python "
                    "that Ray runs there; install the same version on every node"
                ) from error
            how = _how(error)
            begun = how not in (NODE_LOST, UNREACHABLE)
            words = await self._last_words(how)
            if told := overdue(self.said):  # it does not come back to another worker either
                raise UserError(told) from error
            raise WorkerLostError(words, begun=begun) from error

    async def _last_words(self, how: str) -> str:
        """Why it ended: on which node, how, and what it said last."""
        for _ in range(10):  # what it printed comes by another way
            if self.said and not self.said[-1].startswith(WAITING):
                break
            await asyncio.sleep(_LAST_WORDS_S / 10)
        where = f" on node {self.place.node}" if self.place else ""
        return f"{how}{where}" + (f" ({self.said[-1]})" if self.said else "")


def _future(reply: Any) -> "asyncio.Future[Any]":
    return asyncio.wrap_future(reply.future())


def _give_up(asked: Any) -> None:
    """Cancels what an actor was asked and nobody waits for any more.

    Of cancels that arrive while a coroutine is about to begin, Ray repeats some after two seconds
    and loses a few. So they are repeated here until the call has ended; a coroutine that was
    cancelled is not cancelled again, and a call that has ended is left alone.
    """
    import ray

    ended = asked.future()
    loop = asyncio.get_running_loop()

    def cancel(pause: float) -> None:
        if ended.done():
            return
        with suppress(Exception):  # the cluster is gone
            ray.cancel(asked, recursive=False)  # what an engine asked of other actors is its own
            loop.call_later(pause, cancel, 2 * pause)

    cancel(_AGAIN_S)


NODE_LOST, UNREACHABLE = "its node was lost", "neither it nor its node can be reached"
"""Ends that no problem is to blame for."""


def _how(error: Exception) -> str:
    """How an actor ended, in a few words."""
    import ray

    told = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "memory monitor" in told:
        return "its process was ended, as the node ran out of memory"
    if "node" in told and ("has died" in told or "died" in told) and "worker process" not in told:
        return NODE_LOST
    if isinstance(error, ray.exceptions.RayTaskError):
        return f"its reply cannot be had ({' '.join(str(error.cause or error).split())[:200]})"
    if isinstance(error, ray.exceptions.ActorUnavailableError):
        return UNREACHABLE
    return "its process ended"


def _wanted(needs: Mapping[str, float]) -> str:
    """What a worker waits for, and what there is."""
    import ray

    def told(found: Mapping[str, float]) -> str:
        return " and ".join(
            f"{found.get(name, 0):g} {name}{'s' * (found.get(name, 0) != 1)}" for name in kinds
        )

    kinds = [name for name, count in needs.items() if count]
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(all(node.get(name, 0) >= needs[name] for name in kinds) for node in there):
        free = told(ray.available_resources())
        return f"{told(needs) or 'a process'} on one node of the Ray cluster, which has {free} free"
    most = {name: max((node.get(name, 0) for node in there), default=0) for name in kinds}
    return f"{told(needs)} on one node of the Ray cluster, whose nodes have at most {told(most)}"


def places(nodes: Sequence[Mapping[str, Any]], gpus: int) -> int:
    """Workers of so many GPUs, each on one node, that a cluster (``ray.nodes()``) has room for; one
    where it has none, which may come."""
    there = [node["Resources"].get("GPU", 0) for node in nodes if node["Alive"]]
    return max(1, sum(int(found // gpus) for found in there))


def _seen(packed: bytes) -> tuple[str, ...]:
    """Absolute paths of the files and folders that a job names and this machine has."""
    from butwait.workers.job import unpacked

    job = unpacked(packed)
    found: dict[str, None] = {}

    def look(value: Any) -> None:
        if isinstance(value, BaseModel):
            for name in type(value).model_fields:
                look(getattr(value, name))
        elif isinstance(value, (str, Path)) and (os.sep in str(value) or os.path.isdir(value)):
            with suppress(OSError, ValueError):  # a text that is no path at all
                if os.path.exists(value):
                    found[os.path.abspath(value)] = None

    for settings in (job.engine, job.model, job.reward_model):
        look(settings)
    return tuple(found)


# What processes of the cluster print, by a thread of Ray's.

_heard: dict[tuple[str, int], RayHandle] = {}
"""Workers by their nodes' addresses and their process numbers, which nodes may have in common."""


def _hear(data: Mapping[str, Any]) -> None:
    """Into the run's log goes what workers say."""
    pid = str(data.get("pid", ""))
    handle = _heard.get((str(data.get("ip")), int(pid))) if pid.isdigit() else None
    for line in data.get("lines", ()):
        if handle is not None and line.strip():
            handle.said.append(line.strip())
            note(f"worker {handle.index}: {line.rstrip()}", logging.INFO)

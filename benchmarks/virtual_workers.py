"""Cards as workers of ``butwait.workers``, on the clock of ``virtual_card``: one that runs every
step, and one that goes at a pace that was measured."""

import dataclasses
import heapq
from asyncio import Future, TimerHandle
from collections.abc import Callable
from itertools import count
from typing import Any

from simulated import (
    BlockCache,
    CopyingSlots,
    SimulatedEngine,
    SimulatedScorer,
    SimulatedSlots,
    Steps,
)
from virtual_card import TABLE, Card, Rates, VirtualLoop

from butwait.engines.settings import StepRule
from butwait.records import Key, Problem, UserError
from butwait.search.run import run_sampler
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.workers.host import Reply

SEED, PARTICLES, LONGEST_PROMPT = 0, 512, 400
SETTINGS = ParticleFilterSettings(
    particles=PARTICLES, max_steps=40, step=StepRule(max_tokens=4096, max_step_tokens=1024)
)


@dataclasses.dataclass(frozen=True)
class Setup:
    """How the card is used.

    Attributes:
        concurrency: questions in flight.
        max_rows: paths that the policy decodes at a time.
        reward_share: of what the card has for keys and values, that of the reward model.
        policy_gb, reward_gb: of keys and values on the card; None: by ``reward_share``.
        slots: of the reward model; None: one a path and prompt in flight.
        copies: whether branches of the reward model copy what they have in common.
        host: whether the policy's blocks go to the host's memory.
        ordered: whether living paths of the reward model go first.
        full_reach: whether paths are let in by all they may reach.
    """

    concurrency: int = 6
    max_rows: int = 256
    reward_share: float = 0.25
    policy_gb: float | None = None
    reward_gb: float | None = None
    slots: int | None = None
    copies: bool = False
    host: bool = True
    ordered: bool = True
    full_reach: bool = False

    def memory(self, rates: Rates) -> tuple[float, float]:
        """GB of keys and values of the policy and of the reward model. Raises UserError where a
        path of the policy does not fit."""
        policy, reward = self.policy_gb, self.reward_gb
        if policy is None:
            policy = (1 - self.reward_share) * rates.kv
        if reward is None:
            reward = self.reward_share * rates.kv
        longest = LONGEST_PROMPT + SETTINGS.step.max_tokens
        block = rates.block * rates.policy_kv / 1e6
        if int(policy / block) < -(-longest // rates.block):
            raise UserError(
                f"{TABLE}: the policy's {policy:.3g} GB of keys and values do not hold one path of "
                f"{longest:,} tokens; give the card more memory, or less to hold"
            )
        return policy, reward


class Places:
    """How the places of a card are used.

    Attributes:
        longest, thin, done: seconds: of the longest question, with some places free, and at the end
            of the last question.
    """

    def __init__(self, loop: VirtualLoop, places: int) -> None:
        self.loop = loop
        self.longest = self.thin = self.done = self._changed = 0.0
        self.taken, self._places = 0, places

    def take(self) -> float:
        """The time."""
        return self._change(1)

    def leave(self, began: float) -> None:
        """Of a question that took its place at ``began``."""
        self.done = self._change(-1)
        self.longest = max(self.longest, self.done - began)

    def _change(self, taken: int) -> float:
        now = self.loop.now
        if 0 < self.taken < self._places:
            self.thin += now - self._changed
        self.taken, self._changed = self.taken + taken, now
        return now


class VirtualWorker(Places):
    """A card with both models on it, which runs every step."""

    def __init__(self, loop: VirtualLoop, steps: Steps, setup: Setup, rates: Rates) -> None:
        super().__init__(loop, setup.concurrency)
        policy_gb, reward_gb = setup.memory(rates)
        self.card = Card(loop, rates)
        self.cache = BlockCache(rates, policy_gb, setup.host)
        bound = int(policy_gb * 1e6 / rates.policy_kv) if setup.full_reach else None
        self.engine = SimulatedEngine(self.card, self.cache, steps, setup.max_rows, bound)
        slots = setup.slots or setup.concurrency * (PARTICLES + 1)
        most_tokens = int(reward_gb * 1e6 / rates.reward_kv)
        made = CopyingSlots if setup.copies else SimulatedSlots
        self.model = made(self.card, slots, 4096, most_tokens)
        self.judge = SimulatedScorer(self.model, steps, SEED, setup.ordered)

    async def call(self, problem: Problem) -> Reply:
        """Its nodes."""
        began = self.take()
        key = Key.of(SEED, problem.id)
        tree = await run_sampler(problem, self.engine, self.judge, SETTINGS, key)
        self.leave(began)
        return Reply(len(tree.nodes) - 1)

    async def close(self) -> None: ...


class PacedWorker(Places):
    """A card whose questions share it evenly.

    Args:
        pace: seconds that a question of size 1 takes in company of so many, itself among them.
    """

    def __init__(self, loop: VirtualLoop, pace: dict[int, float]) -> None:
        super().__init__(loop, max(pace))
        self._pace, self._served, self._settled = pace, 0.0, 0.0
        self._under_way: list[tuple[float, int, float, Future[None]]] = []
        self._arrivals = count()
        self._timer: TimerHandle | None = None

    async def call(self, size: float) -> Reply:
        """A question's size."""
        self._settle()
        began, done = self.take(), self.loop.create_future()
        heapq.heappush(self._under_way, (self._served + size, next(self._arrivals), began, done))
        self._wake()
        await done
        return Reply(None)

    async def close(self) -> None: ...

    def _settle(self) -> None:
        if self.taken:
            self._served += (self.loop.now - self._settled) / self._pace[self.taken]
        self._settled = self.loop.now

    def _wake(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._under_way:
            left = self._under_way[0][0] - self._served
            self._timer = self.loop.call_later(left * self._pace[self.taken], self._finish)

    def _finish(self) -> None:
        self._settle()
        while self._under_way and self._under_way[0][0] <= self._served + 1e-9:
            _, _, began, done = heapq.heappop(self._under_way)
            self.leave(began)
            done.set_result(None)
        self._wake()


class VirtualHost:
    """Makes cards."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.workers: list[Any] = []

    async def start(self, index: int) -> Any:
        self.workers.append(self._make())
        return self.workers[-1]

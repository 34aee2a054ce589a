"""How many tokens may be in flight, by what the engine says of its cache.

A pure state machine, in the manner of prime-rl's (PrimeIntellect, 2026: ``orchestrator/
concurrency.py``): it is fed with samples and says a cap; it reads no clock, and asks nobody.

Its unit is the token and not the episode: a path is charged anew at every step, for what it holds
then. So the first cap is what as many of the longest paths hold as the cache takes, and the cap
binds where something waits for room in it, however much is free. And nothing that was generated is
thrown away: to trim is to begin no new search and to give parked paths up first, whose caches cost
a prefill to get back; what is in flight goes on, and the cap comes true as it leaves. Until it has,
nothing is cut again.
"""

from dataclasses import dataclass

GROWTH = 1.25
"""Of the cap, at most once a turnover, ..."""
BINDS = 0.9
"""... where more than this share of it is in flight, or something waits for room in it, ..."""
CLEAR = 0.6
"""... and less than this share of the cache in use."""
FULL, TOO_FULL, TRIMMED = 0.8, 0.9, 0.7
"""Use of the cache above which the cap is trimmed gently, or hard; and where trimming ends."""
GENTLY = 0.95
"""Of the cap, at a sample of a full cache."""
PREEMPTED = 0.8
"""Of the cap, where the engine gave up a path that it was running."""
QUEUED, QUEUE, POLLS = 0.9, 0.5, 3
"""Of the cap, where so many samples in a row had so many paths waiting for one that runs."""
ESCALATED = 0.5
"""Of the cap, where a preemption or a queue outlives the cut that was made for it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What is known of an engine at a moment.

    Attributes:
        in_flight: tokens that were charged at a time since the last sample, at most.
        turned: tokens that were charged and have left, since the beginning.
        kv_use: share of the cache that is in use, in [0, 1].
        preemptions: paths that were given up while they ran, since the beginning.
        queued: paths that wait at the engine, for one that runs there.
        held_back: whether something waited for room under the cap since the last sample. Where
            charges are large, much of the cap may be free and too little for the next one.
    """

    in_flight: float
    turned: float
    kv_use: float
    preemptions: int = 0
    queued: float = 0.0
    held_back: bool = False


class Governor:
    """Says the cap.

    Args:
        capacity: tokens that the cache holds.
        longest: tokens of the longest path.
        preemptions: that the engine counts before anything was asked of it.

    Attributes:
        cap: tokens that may be in flight.
        trimming: whether no new search should begin.
        preemptions: that were seen since.
    """

    def __init__(self, capacity: int, longest: int, preemptions: int = 0) -> None:
        self._floor = float(longest)
        self.cap = float(max(1, capacity // longest) * longest)
        self.trimming = False
        self.preemptions = 0
        self._counted = preemptions
        self._turned = 0.0
        self._polls = 0
        self._factor: float | None = None
        self._draining = False

    def observe(self, sample: Sample) -> float:
        """The cap after one more sample."""
        preempted = sample.preemptions > self._counted
        self.preemptions += max(0, sample.preemptions - self._counted)
        self._counted = sample.preemptions  # of a server that was started anew it is less
        self._polls = self._polls + 1 if sample.queued >= QUEUE else 0
        self.trimming = sample.kv_use > (TRIMMED if self.trimming else FULL)
        self._draining = self._draining and sample.in_flight > self.cap
        if self._draining:
            return self.cap
        if preempted or self._polls >= POLLS:
            self._cut(self._factor or (PREEMPTED if preempted else QUEUED))
            self._factor, self._polls = ESCALATED, 0
        elif sample.kv_use > TOO_FULL:
            self._cut(min(1.0, sample.in_flight / self.cap) * TRIMMED / sample.kv_use)
        elif sample.kv_use > FULL:
            self._cut(GENTLY)
        elif self._polls == 0:
            self._factor = None
            turnover = sample.turned - self._turned >= self.cap
            binds = sample.held_back or sample.in_flight > BINDS * self.cap
            if turnover and sample.kv_use < CLEAR and binds:
                self.cap, self._turned = self.cap * GROWTH, sample.turned
        self._draining = sample.in_flight > self.cap
        return self.cap

    def _cut(self, factor: float) -> None:
        self.cap = max(self._floor, self.cap * factor)

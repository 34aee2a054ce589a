"""The state machine that says how many tokens may be in flight: each rule, with exact caps."""

from collections.abc import Sequence
from typing import Any

import pytest

from butwait.engines.scheduling.governor import Governor, Sample


def caps(governor: Governor, samples: Sequence[Sample]) -> list[float]:
    return [round(governor.observe(sample), 3) for sample in samples]


def busy(**changes: Any) -> Sample:
    """A cap of 1,000 that binds, turned over once, in a cache that is half full."""
    given = {"in_flight": 950, "turned": 1000, "kv_use": 0.5} | changes
    return Sample(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("capacity", "longest", "cap"), [(1050, 100, 1000), (99, 100, 100), (1000, 300, 900)]
)
def test_the_first_cap_is_what_the_longest_paths_hold_that_fit(
    capacity: int, longest: int, cap: int
) -> None:
    assert Governor(capacity, longest).cap == cap


@pytest.mark.parametrize(
    ("sample", "cap"),
    [
        (busy(), 1250),
        (busy(in_flight=900), 1000),  # it does not bind
        (busy(in_flight=500, held_back=True), 1250),  # the next path is larger than what is left
        (busy(in_flight=500, held_back=True, kv_use=0.6), 1000),
        (busy(kv_use=0.6), 1000),  # the cache is not clear
        (busy(turned=999), 1000),  # there was no turnover yet
        (busy(queued=0.5), 1000),  # somebody waits
        (busy(kv_use=0.81), 950),
        (busy(kv_use=0.95), 950 * 0.7 / 0.95),
        (busy(preemptions=1), 800),
        (busy(preemptions=1, kv_use=0.95), 800),
    ],
)
def test_one_sample(sample: Sample, cap: float) -> None:
    assert Governor(1000, 100).observe(sample) == pytest.approx(cap)


def test_it_grows_once_a_turnover() -> None:
    samples = [
        busy(),
        busy(in_flight=1250, turned=1100),
        busy(in_flight=1250, turned=2249),
        busy(in_flight=1250, turned=2250),
    ]
    assert caps(Governor(1000, 100), samples) == [1250, 1250, 1250, 1562.5]


def test_a_queue_counts_when_it_lasts() -> None:
    queue = busy(in_flight=500, queued=0.5)
    assert caps(Governor(1000, 100), [queue] * 3) == [1000, 1000, 900]
    assert caps(Governor(1000, 100), [queue, queue, busy(in_flight=500), queue]) == [1000] * 4


def test_what_outlives_its_cut_is_cut_by_half() -> None:
    queue = busy(in_flight=400, queued=1.0)
    assert caps(Governor(1000, 100), [queue] * 6) == [1000, 1000, 900, 900, 900, 450]
    preempted = [busy(in_flight=300, preemptions=n) for n in (1, 2, 2, 3)]
    assert caps(Governor(1000, 100), preempted) == [800, 400, 400, 320]  # it was clear once


def test_nothing_is_cut_until_the_last_cut_has_come_true() -> None:
    samples = [
        busy(in_flight=950, preemptions=1),
        busy(in_flight=900, preemptions=2),
        busy(in_flight=801, preemptions=2, kv_use=0.95),
        busy(in_flight=700, preemptions=3),
    ]
    assert caps(Governor(1000, 100), samples) == [800, 800, 800, 400]


def test_one_path_always_passes() -> None:
    governor = Governor(1000, 300)
    samples = [busy(in_flight=0, preemptions=n) for n in range(1, 6)]
    assert caps(governor, samples) == [720, 360, 300, 300, 300]


def test_trimming_goes_on_down_to_where_it_ends() -> None:
    governor = Governor(1000, 100)
    seen = []
    for use in (0.79, 0.81, 0.75, 0.71, 0.7, 0.75):
        governor.observe(busy(in_flight=100, kv_use=use))
        seen.append(governor.trimming)
    assert seen == [False, True, True, True, False, False]


def test_preemptions_of_others_and_a_server_that_was_started_anew() -> None:
    governor = Governor(1000, 100, preemptions=7)
    samples = [busy(in_flight=100, preemptions=n) for n in (7, 0, 1)]
    assert caps(governor, samples) == [1000, 1000, 800]
    assert governor.preemptions == 1

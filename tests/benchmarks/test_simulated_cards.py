"""The flagship on simulated cards: the product's pool, sampler and reward-model queue."""

import asyncio
import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_seed_scale as bench
import virtual_workers
from virtual_card import Rates, VirtualLoop, run_virtually
from virtual_workers import PacedWorker, Setup


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = virtual_workers.SETTINGS.model_copy(update={"particles": 16})
    monkeypatch.setattr(virtual_workers, "SETTINGS", settings)


def test_questions_share_a_card_evenly() -> None:
    """Sizes 1 and 2, 10 s alone and 15 s in company: the small one ends after 15 s, and half of
    the large one takes 10 s more."""

    async def work(loop: VirtualLoop) -> tuple[list[float], PacedWorker]:
        worker, ends = PacedWorker(loop, {1: 10.0, 2: 15.0}), []

        async def one(size: float) -> None:
            await worker.call(size)
            ends.append(loop.now)

        await asyncio.gather(one(1.0), one(2.0))
        return ends, worker

    ends, worker = run_virtually(work)
    assert ends == pytest.approx([15.0, 25.0])
    assert (worker.longest, worker.thin, worker.done) == pytest.approx((25.0, 10.0, 25.0))


def test_cards_are_limited_by_their_last_questions() -> None:
    """817 even questions, two at a time in 20 s: 6 rounds of 64 cards, then 24 pairs and one that
    takes 15 s alone; 39 cards have nothing left."""
    pace = {1: 15.0, 2: 20.0}
    one, many = bench.fleet(1, pace, [7, 7]), bench.fleet(64, pace, [7, 7])
    assert one["hours"] == round((408 * 20 + 15) / 3600, 3)
    assert many["hours"] == round(7 * 20 / 3600, 3)
    limits = many["limited_by"]
    assert limits["longest_question_hours"] == round(20 / 3600, 3)
    assert limits["nothing_left_share"] == pytest.approx((39 * 20 + 5) / 64 / 140, abs=0.001)
    assert limits["free_places_share"] == pytest.approx(15 / 64 / 140, abs=0.001)


@pytest.mark.slow
def test_what_a_question_is_does_not_depend_on_the_cards(small: None) -> None:
    def run(cards: int, **changes: Any) -> dict[str, Any]:
        return bench.simulate(4, dataclasses.replace(Setup(), **changes), Rates(), cards)

    one, two = run(1), run(2)
    assert one["sizes"] == two["sizes"]
    assert one["tokens_a_particle"] == two["tokens_a_particle"] > 10
    assert one["hours"] > two["hours"]
    assert one["reward_tokens_ratio"] == pytest.approx(1.0, abs=0.01)
    assert set(one["causes"]) == {
        "decode", "prefill", "re-prefill", "reward model", "reward model again", "waiting",
    }  # fmt: skip
    for fault in ("order", "slots"):
        crowded = {"reward_gb": 0.1, **bench.FAULTS[fault]}
        assert run(1, **crowded)["sizes"] == one["sizes"]
    assert run(1, full_reach=True, policy_gb=1.0)["hours"] > one["hours"]

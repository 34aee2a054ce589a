"""The flagship on simulated cards: the product's pool, sampler and reward-model queue."""

import asyncio
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_seed_scale as bench
import virtual_card
import virtual_workers
from virtual_card import Rates, VirtualLoop, run_virtually
from virtual_workers import PacedWorker, Setup

from butwait.recipe.load import load_recipe
from butwait.records import UserError
from butwait.stages.kinds import STAGES


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = virtual_workers.SETTINGS.model_copy(update={"particles": 16})
    monkeypatch.setattr(virtual_workers, "SETTINGS", settings)
    monkeypatch.setattr(virtual_workers, "PARTICLES", 16)
    monkeypatch.setattr(bench, "PARTICLES", 16)


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of whole runs, with figures of its own."""
    path = tmp_path / "seed_scale.json"
    figures = {"one_card": {"questions": 817, "hours": 34.45}, "put_back": {"host": 1.94}}
    path.write_text(json.dumps(figures))
    monkeypatch.setattr(bench, "RESULTS", path)
    return path


def bench_main(monkeypatch: pytest.MonkeyPatch, *words: Any) -> int:
    """Its exit code."""
    monkeypatch.setattr(sys, "argv", ["bench_seed_scale.py", *map(str, words)])
    try:
        bench.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


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
    assert min(one["causes"].values()) >= 0
    assert set(one["causes"]) == {
        "decode", "prefill", "re-prefill", "reward model", "reward model again", "waiting",
    }  # fmt: skip
    for fault in ("order", "slots"):
        crowded = {"reward_gb": 0.1, **bench.FAULTS[fault]}
        assert run(1, **crowded)["sizes"] == one["sizes"]
    assert run(1, full_reach=True, policy_gb=1.0)["hours"] > one["hours"]


def test_the_memory_of_the_table_is_divided() -> None:
    assert Setup().memory(Rates()) == (24.0, 8.0)
    assert Setup().memory(Rates(memory=100.0, other=8.0)) == (36.0, 12.0)
    assert Setup(policy_gb=18.0).memory(Rates()) == (18.0, 8.0)
    with pytest.raises(UserError, match=r"leave -1 GB for keys and values"):
        Rates(memory=47.0)
    with pytest.raises(UserError, match=r"0\.75 GB .* do not hold one path of 4,496 tokens"):
        Setup().memory(Rates(memory=49.0))


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, 1e300, "5000", None, True])
@pytest.mark.parametrize("name", ["decode", "policy_kv", "full_rows", "block"])
def test_a_card_of_nonsense_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"Rates in .*virtual_card.py: {name} is .*; write a "):
        Rates(**{name: value})


def test_a_table_that_lacks_a_number_is_told(
    monkeypatch: pytest.MonkeyPatch, committed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = committed.read_text()

    def lacking() -> Rates:
        raise TypeError("missing 1 required keyword-only argument: 'decode'")

    monkeypatch.setattr(bench, "Rates", lacking)
    assert bench_main(monkeypatch) == 2
    told = capsys.readouterr().err
    assert "virtual_card.py: a number is missing" in told
    assert told.count("\n") == 1
    assert committed.read_text() == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--questions", "0"], "'0' is no whole number from 1 to 817"),
        (["--questions", "nan"], "'nan' is no whole number"),
        (["--questions", "-3"], "no whole number"),
        (["--cards", "0"], "'0' is no whole number from 1 to 817"),
        (["--put-back"], "--put-back"),
        (["--step-by-step"], "--cards"),
        (["--cards", "8", "--questions", "5"], "leave --questions out"),
        (["--questions", "1"], "takes runs of 817 questions here, not of 1"),
        (["--questions", "3", "--put-back", "slots"], "takes runs of 40 questions here, not of 3"),
        (["--questions", "1", "--output", "nowhere/figures.json"], "there is no folder nowhere"),
    ],
)
def test_words_that_would_spoil_the_figures_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    committed: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    before = committed.read_text()
    monkeypatch.setattr(bench, "simulate", None)
    assert bench_main(monkeypatch, *words) == 2
    assert told in capsys.readouterr().err
    assert committed.read_text() == before


def test_a_file_without_figures_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "figures.json"
    for content, told in (("{", "cannot be read as JSON"), ("[1]", "is no JSON object")):
        output.write_text(content)
        assert bench_main(monkeypatch, "--questions", 1, "--output", output) == 2
        assert told in capsys.readouterr().err
        assert output.read_text() == content


def test_a_run_leaves_the_other_figures(
    monkeypatch: pytest.MonkeyPatch, committed: Path, small: None, tmp_path: Path
) -> None:
    """Of one question in a file of its own: no cause takes less than nothing, though steps of one
    length are many."""
    monkeypatch.setattr(bench, "PUT_BACK_QUESTIONS", 1)
    assert bench_main(monkeypatch, "--put-back", "nothing", "company") == 0
    told = json.loads(committed.read_text())
    assert told["one_card"] == {"questions": 817, "hours": 34.45}
    assert told["put_back"] == {"host": 1.94, "company": told["put_back_baseline"]}
    scaled = told["put_back_scaled"]["company"]
    assert (scaled["questions"], scaled["setup"]["concurrency"]) == (1, 1)
    whole = told["put_back_baseline_scaled"]
    assert (whole["setup"]["policy_gb"], whole["setup"]["reward_gb"]) == (24.0, 8.0)
    assert whole["rates"] == dataclasses.asdict(Rates())
    assert whole["causes"]["reward model"] > 0
    assert min(whole["causes"].values()) >= 0
    assert whole["reward_tokens_ratio"] == 1.0

    output = tmp_path / "share.json"
    assert bench_main(monkeypatch, "--questions", 2, "--output", output) == 0
    assert json.loads(output.read_text())["one_card"]["questions"] == 2
    assert json.loads(committed.read_text())["one_card"] == told["one_card"]


def test_hours_of_one_card_are_those_of_its_rates() -> None:
    told = {"one_card": {"questions": 817, "hours": 34.45}, "rates": dataclasses.asdict(Rates())}
    assert bench.hours_of_one(told, Rates()) == 34.45
    assert bench.hours_of_one(told, Rates(decode=1.0)) is None
    assert bench.hours_of_one({}, Rates()) is None


def test_the_recipe_of_the_flagship_is_what_is_simulated() -> None:
    recipe = load_recipe("phi4_pf_limo", STAGES, ["engine.host_gb=93"])
    search, setup = recipe.stages["search"], Setup()
    assert recipe.engine.max_rows == setup.max_rows
    assert search.concurrency == setup.concurrency
    assert search.sampler.particles == virtual_workers.PARTICLES
    assert search.sampler.max_steps == virtual_workers.SETTINGS.max_steps
    assert recipe.engine.host_gb * 2**30 / 1e9 == pytest.approx(Rates().host_memory, rel=0.01)


def test_a_clock_far_on_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """After 30 years a float shows no nanoseconds, by which asyncio tells what is due."""
    select, turns = virtual_card._Selector.select, 0

    def counted(self: Any, timeout: float | None = None) -> Any:
        nonlocal turns
        turns += 1
        assert turns < 100, "the clock stands still"
        return select(self, timeout)

    monkeypatch.setattr(virtual_card._Selector, "select", counted)

    async def work(loop: VirtualLoop) -> float:
        loop.now = 1e9
        await asyncio.sleep(0.1)
        return loop.now

    assert run_virtually(work) == pytest.approx(1e9 + 0.1, abs=1e-6)

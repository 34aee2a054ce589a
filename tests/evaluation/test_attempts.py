"""Attempts are made once, graded, and survive a kill."""

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from evaluation_toys import PROBLEMS, TABLE, BoxGrader, evaluate

from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import StepRule
from butwait.evaluation.attempts import run_attempts
from butwait.evaluation.metrics import attempt_figures
from butwait.evaluation.settings import MethodSettings
from butwait.evaluation.storage import read_attempts, read_shard
from butwait.problems.grading import Grader
from butwait.records import Key, UserError
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings, SelfConsistencySettings

LINES = StepRule(delimiters=("\n",))


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}


def test_samples_are_the_leaves_of_one_tree(tmp_path):
    attempts = evaluate(tmp_path)
    assert [(a.problem_id, a.sample) for a in attempts] == [
        (problem.id, sample) for problem in PROBLEMS for sample in range(8)
    ]
    expected = {
        "a\n\\boxed{1}": ("correct", "1", "box", 2),
        "a\n\\boxed{2}": ("wrong", "2", "box", 2),
        "b\n\\boxed{1}": ("correct", "1", "box", 2),
        "b\n\\boxed{02}": ("wrong", "02", "box", 2),
        "b\n": ("no_answer", None, "eos", 2),
    }
    assert {a.text for a in attempts} == set(expected)
    for a in attempts:
        assert (a.status, a.answer, a.finish, a.length) == expected[a.text]
        assert (a.tokens, a.reward_tokens) == (a.length, 0)
    # The script solves 0.5 * 0.8 + 0.5 * 0.4 = 0.6; four standard errors of 240 draws are 0.126.
    assert attempt_figures(attempts)["pass_at_1"] == pytest.approx(0.6, abs=0.126)


def test_equal_answers_have_one_class_and_the_correct_one_is_0(tmp_path):
    for attempt in evaluate(tmp_path):
        expected = {"1": 0, "2": 1, "02": 1, None: None}[attempt.answer]
        assert attempt.answer_class == expected


def test_the_real_grader_gives_the_same_attempts(tmp_path):
    with Grader(workers=1) as grader:
        graded = evaluate(tmp_path / "real", grader=grader)
    assert graded == evaluate(tmp_path / "toy")


def test_shards_hold_whole_problems_in_order(tmp_path):
    attempts = evaluate(tmp_path)
    assert list(shards(tmp_path)) == [f"shard-0000{i}.parquet" for i in range(4)]
    held = [
        rows[0].problem_id
        for i in range(4)
        for rows in read_shard(tmp_path / f"shard-0000{i}.parquet")
    ]
    assert held == [problem.id for problem in PROBLEMS]
    assert read_attempts(tmp_path) == attempts


def test_files_depend_neither_on_concurrency_nor_on_order_of_work(tmp_path):
    evaluate(tmp_path / "one", concurrency=1)
    evaluate(tmp_path / "many", concurrency=30)
    assert shards(tmp_path / "one") == shards(tmp_path / "many")


def test_stored_problems_are_not_attempted_again(tmp_path):
    log = tmp_path / "log"
    first = evaluate(tmp_path / "attempts", log=log)
    assert Counter(log.read_text().split()) == {problem.id: 8 for problem in PROBLEMS}
    seen: list[str] = []
    again = evaluate(
        tmp_path / "attempts", log=log, on_problem=lambda rows: seen.append(rows[0].problem_id)
    )
    assert again == first
    assert len(log.read_text().split()) == 8 * len(PROBLEMS)
    assert sorted(seen) == sorted(problem.id for problem in PROBLEMS)


@pytest.mark.slow
def test_kills_lose_nothing_and_repeat_nothing(tmp_path):
    """SIGKILL at random moments, then the same command: the same bytes, no problem twice but
    those that were in flight."""
    evaluate(tmp_path / "whole")
    folder, log = tmp_path / "killed", tmp_path / "log"
    command = [sys.executable, Path(__file__).with_name("evaluation_toys.py"), folder, log, "0.05"]
    draw, kills = random.Random(0), 0
    for _ in range(50):
        process = subprocess.Popen(command)
        if kills < 4:
            _wait_for_growth(log, process, draw.randint(1, 40))
            time.sleep(draw.random() * 0.02)
            process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
        kills += 1
    assert kills == 4
    assert shards(folder) == shards(tmp_path / "whole")
    times = Counter(log.read_text().split())
    # Three problems are in flight at a time, so that each kill costs at most three.
    assert sum(times.values()) <= 8 * (len(PROBLEMS) + 3 * kills)


def _wait_for_growth(log: Path, process: subprocess.Popen, lines: int) -> None:
    """Until the log has so many more lines, or the process has ended."""
    before = log.read_text().count("\n") if log.exists() else 0
    while process.poll() is None:
        if log.exists() and log.read_text().count("\n") >= before + lines:
            return
        time.sleep(0.002)


def test_a_slow_problem_does_not_hold_up_the_next_shard(tmp_path):
    """The first problem waits until one of the last shard has been graded: with a barrier
    between shards this would never end."""
    last = asyncio.Event()

    class Waiting(BoxGrader):
        async def agrade(self, text, problem, finish="eos"):
            if problem.id == PROBLEMS[-1].id:
                last.set()
            if problem.id == PROBLEMS[0].id:
                await asyncio.wait_for(last.wait(), timeout=20)
            return await super().agrade(text, problem, finish)

    method = MethodSettings(k=2)
    run = run_attempts(
        PROBLEMS,
        ScriptedEngine(TABLE),
        None,
        Waiting(),
        method,
        Key.of(0, "test"),
        tmp_path,
        shard_size=8,
        concurrency=3,
    )
    assert len(asyncio.run(run)) == 2 * len(PROBLEMS)


def test_a_search_gives_one_answer_and_pays_for_all_its_particles(tmp_path):
    sampler = SelfConsistencySettings(samples=5, step=LINES)
    attempts = evaluate(tmp_path, MethodSettings(sampler=sampler, k=2))
    assert len(attempts) == 2 * len(PROBLEMS)
    # Five particles of two tokens each; what is shown has two.
    assert {(a.tokens, a.length) for a in attempts} == {(10, 2)}
    # Searches of one problem have their own randomness.
    pairs = [attempts[i : i + 2] for i in range(0, len(attempts), 2)]
    assert any(a.text != b.text for a, b in pairs)
    # A vote of five beats one sample: P(correct) = 0.6 against at most 0.4 for its rival.
    assert attempt_figures(attempts)["pass_at_1"] > 0.6


def test_a_search_uses_the_reward_model(tmp_path):
    """A reward model that knows the answer makes the filter give it."""

    def reward(problem, steps):
        text = "".join(step.text for step in steps)
        return 6.0 if "{1}" in text else (-6.0 if "boxed" in text else 0.0)

    method = MethodSettings(sampler=ParticleFilterSettings(particles=8, step=LINES))
    run = run_attempts(
        PROBLEMS,
        ScriptedEngine(TABLE),
        ScriptedRewardModel(reward),
        BoxGrader(),
        method,
        Key.of(0, "test"),
        tmp_path,
    )
    attempts = asyncio.run(run)
    assert attempt_figures(attempts)["pass_at_1"] > 0.95
    assert all(a.tokens >= 16 and a.reward_tokens > 0 for a in attempts)


def test_a_method_without_its_reward_model_is_an_error(tmp_path):
    with pytest.raises(UserError, match="needs a reward model"):
        evaluate(tmp_path, MethodSettings(sampler=ParticleFilterSettings()))


@pytest.mark.parametrize("damage", [b"", b"PAR1 and then nothing"])
def test_a_damaged_shard_is_named_and_only_its_problems_are_repeated(tmp_path, damage):
    log, folder = tmp_path / "log", tmp_path / "attempts"
    evaluate(folder)
    before = shards(folder)
    broken = folder / "shard-00002.parquet"
    broken.write_bytes(damage)
    with pytest.raises(UserError, match=r"shard-00002\.parquet is not a readable file of attempts"):
        evaluate(folder)
    broken.unlink()
    evaluate(folder, log=log)
    assert shards(folder) == before
    assert set(log.read_text().split()) == {problem.id for problem in PROBLEMS[16:24]}


def test_a_shard_of_another_evaluation_is_refused(tmp_path):
    evaluate(tmp_path)
    with pytest.raises(UserError, match="holds attempts at other problems"):
        evaluate(tmp_path, problems=PROBLEMS[::-1])
    with pytest.raises(UserError, match="or another number of them"):
        evaluate(tmp_path, MethodSettings(k=4))


def test_no_attempts_is_an_error(tmp_path):
    with pytest.raises(UserError, match="holds no attempts"):
        read_attempts(tmp_path)


def test_settings_refuse_contradictions():
    with pytest.raises(ValueError, match="contradict each other"):
        MethodSettings(k=4, sampler=IndependentSettings(samples=8))
    assert MethodSettings(k=8, sampler=IndependentSettings(samples=8)).k == 8

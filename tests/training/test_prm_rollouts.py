"""Rollouts on a scripted engine, where every value is known."""

import asyncio
from collections import defaultdict

import numpy as np
import pytest

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import ModelSettings, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.problems.grading import Grader
from butwait.problems.settings import PromptSettings
from butwait.records import Grade, Key, Problem, UserError
from butwait.training.rollouts import collect_rollouts, rollout_figures
from butwait.training.settings import RolloutSettings

GOOD, BAD, THINK = "good\n", "bad\n", "think\n"
RIGHT, WRONG = "\\boxed{1}", "\\boxed{2}"
# Values: after good 0.9, after bad 0.2, after bad think 0.5; the question 0.55.
TABLE = {
    "": {GOOD: 0.5, BAD: 0.5},
    GOOD: {RIGHT: 0.9, WRONG: 0.1},
    BAD: {THINK: 0.4, WRONG: 0.6},
    BAD + THINK: {RIGHT: 0.5, WRONG: 0.5},
}
VALUES = {GOOD: 0.9, BAD: 0.2, BAD + THINK: 0.5}
STEPS = StepRule(delimiters=("\n",), max_tokens=8)
KEY = Key.of(7, "prm")


def questions(n: int) -> list[Problem]:
    return [Problem(f"q{i}", f"Question {i}?", "1", "integer") for i in range(n)]


def collect(folder, n=4, engine=None, grader=None, problems=None, **settings):
    settings = RolloutSettings(**{"steps": STEPS} | settings)

    async def run(grader):
        return await collect_rollouts(
            engine or ScriptedEngine(TABLE),
            problems or questions(n),
            grader,
            settings,
            KEY,
            folder,
        )

    if grader is not None:
        return asyncio.run(run(grader))
    with Grader() as real:
        return asyncio.run(run(real))


def text_of(engine, rollout, step):
    return engine.tokenizer.decode(rollout.token_ids[: rollout.step_ends[step]].tolist())


@pytest.mark.parametrize(("prefixes", "completions"), [(0, 1), (1, 6)])
def test_labels_estimate_the_true_values(tmp_path, prefixes, completions):
    """Mean labels are unbiased: within four standard errors of the exact values."""
    engine = ScriptedEngine(TABLE)
    rollouts = collect(
        tmp_path, 50, engine, solutions=8, prefixes=prefixes, completions=completions
    )
    verified, total = defaultdict(int), defaultdict(int)
    seen = set()
    for r in rollouts:
        for step in range(len(r.step_ends)):
            if (r.problem_id, r.prefix(step)) not in seen:
                seen.add((r.problem_id, r.prefix(step)))
                verified[text_of(engine, r, step)] += r.verified[step]
                total[text_of(engine, r, step)] += r.completions[step]
    for text, value in VALUES.items():
        # Completions from one prefix are independent given it, so the binomial error holds.
        error = np.sqrt(value * (1 - value) / total[text])
        assert verified[text] / total[text] == pytest.approx(value, abs=4 * error)
    assert verified[GOOD + RIGHT] == total[GOOD + RIGHT] > 0
    assert verified[GOOD + WRONG] == 0


def test_rollouts_of_one_question_by_hand(tmp_path):
    """Each solution is open after every step but its last; one prefix of it is continued."""
    engine = ScriptedEngine(TABLE)
    rollouts = collect(tmp_path, 1, engine, solutions=3, prefixes=1, completions=2)
    solutions = [r for r in rollouts if r.shared_steps == 0]
    completions = [r for r in rollouts if r.shared_steps > 0]
    assert (len(solutions), len(completions)) == (3, 6)
    for r in completions:
        starts = {
            s.prefix(r.shared_steps - 1) for s in solutions if len(s.step_ends) > r.shared_steps
        }
        assert r.prefix(r.shared_steps - 1) in starts
    # Without shared steps counted twice: every sampled token is a policy token of the engine.
    assert sum(r.sampled_tokens for r in rollouts) == engine.counters.policy_tokens
    for r in rollouts:
        assert r.step_ends[-1] == len(r.token_ids)
        assert r.finish == "box"
        assert r.status == ("correct" if RIGHT in text_of(engine, r, -1) else "wrong")
    assert engine.held == 0


def test_more_prefixes_than_open_step_ends(tmp_path):
    rollouts = collect(tmp_path, 1, solutions=4, prefixes=9, completions=1)
    opened = sum(len(r.step_ends) - 1 for r in rollouts if r.shared_steps == 0)
    assert sum(r.shared_steps > 0 for r in rollouts) == opened


def test_prefixes_are_drawn_uniformly(tmp_path):
    """A path of six steps, one prefix: each of its five open step ends comes up as often."""
    chain = [f"{i}\n" for i in range(5)]
    table = {"".join(chain[:i]): {chain[i]: 1.0} for i in range(5)}
    table["".join(chain)] = {RIGHT: 1.0}
    rollouts = collect(tmp_path, 40, ScriptedEngine(table), solutions=10, prefixes=1, completions=1)
    drawn = np.bincount([r.shared_steps for r in rollouts if r.shared_steps], minlength=6)[1:]
    assert drawn.sum() == 400
    # Chi-square with 4 degrees of freedom: above 18.5 with probability 0.001.
    assert ((drawn - 80) ** 2 / 80).sum() < 18.5


def test_the_same_at_any_concurrency_and_after_a_resume(tmp_path):
    wanted = {"solutions": 4, "completions": 2, "shard_size": 2}
    collect(tmp_path / "a", **wanted, concurrency=1)
    collect(tmp_path / "b", **wanted, concurrency=8)
    shards = sorted(path.name for path in (tmp_path / "a").glob("shard-*"))
    assert shards == ["shard-00000.parquet", "shard-00001.parquet"]
    (tmp_path / "b" / shards[1]).unlink()
    kept = (tmp_path / "b" / shards[0]).stat().st_mtime_ns
    engine = ScriptedEngine(TABLE)
    resumed = collect(tmp_path / "b", engine=engine, **wanted)
    for name in shards:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert (tmp_path / "b" / shards[0]).stat().st_mtime_ns == kept
    assert engine.counters.policy_tokens == sum(r.sampled_tokens for r in resumed[24:])


class Verdicts:
    """A grader that knows one verdict per text."""

    def __init__(self, **statuses):
        self.statuses = statuses

    async def agrade(self, text, problem, finish="eos"):
        return Grade(None, self.statuses["good" if text.startswith(GOOD) else "bad"])


def test_ungradable_rollouts_are_left_out_and_counted(tmp_path):
    grader = Verdicts(good="ungradable", bad="correct")
    engine = ScriptedEngine(TABLE)
    rollouts = collect(tmp_path, 6, engine, grader, solutions=4, prefixes=0)
    bad = [r for r in rollouts if text_of(engine, r, 0) == BAD]
    good = [r for r in rollouts if text_of(engine, r, 0) == GOOD]
    assert rollout_figures(rollouts)["ungradable"] == len(good) > 0
    assert rollout_figures(rollouts)["verified"] == 1.0
    assert all(r.completions.sum() == 0 for r in good)
    assert all((r.verified == r.completions).all() for r in bad)


def test_nothing_gradable_is_a_user_error(tmp_path):
    grader = Verdicts(good="ungradable", bad="ungradable")
    with pytest.raises(UserError, match="could be graded"):
        collect(tmp_path, grader=grader, solutions=2)


def test_problems_without_answers_are_a_user_error(tmp_path):
    problems = [*questions(1), Problem("lost", "?", None)]
    with pytest.raises(UserError, match="lost"):
        collect(tmp_path, problems=problems)


def test_the_tiny_model_rolls_out_alike_at_any_concurrency(tmp_path):
    tiny, prompt = ModelSettings(name="tiny", device="cpu"), PromptSettings(template="{question}")
    model, tokenizer = load_causal_lm(tiny), load_tokenizer(tiny)
    problems = [Problem(f"a{i}", f"Calculate {i} + 5 - 3.", str(i + 2)) for i in range(3)]
    slots = TransformersSettings(slots=6, capacity=96, prefill_chunk=16, deterministic=True)

    def tokens(concurrency):
        engine = TransformersEngine(model, tokenizer, slots, prompt)
        folder = tmp_path / str(concurrency)
        rollouts = collect(
            folder,
            engine=engine,
            problems=problems,
            solutions=3,
            completions=2,
            concurrency=concurrency,
            steps=StepRule(delimiters=("\n",), max_tokens=48),
        )
        assert sum(r.sampled_tokens for r in rollouts) == engine.counters.policy_tokens
        return (folder / "shard-00000.parquet").read_bytes()

    assert tokens(1) == tokens(3)

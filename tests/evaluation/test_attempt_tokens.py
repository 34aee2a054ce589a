"""The log-probabilities that attempts are stored with are the engine's, token by token."""

import asyncio
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from evaluation_toys import PROBLEMS, TABLE, BoxGrader, evaluate

from butwait.engines.kinds.transformers import TransformersSettings
from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.engines.transformers import TransformersEngine
from butwait.evaluation.attempts import run_attempts
from butwait.evaluation.settings import EvaluateSettings, MethodSettings
from butwait.evaluation.storage import TOKEN_NAMES, read_attempts
from butwait.problems.settings import PromptSettings
from butwait.records import Attempt, Key, Problem
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running.identity import identity
from butwait.search.samplers.but_wait import ButWaitSettings
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.samplers.samples import IndependentSettings

LINES = StepRule(delimiters=("\n",))


def texts(attempt: Attempt) -> list[str]:
    """Of its tokens."""
    assert attempt.by_token is not None
    ends = np.cumsum([0, *attempt.by_token.characters.tolist()]).tolist()
    parts = [attempt.text[a:b] for a, b in pairwise(ends)]
    assert "".join(parts) == attempt.text
    assert len(parts) == len(attempt.by_token.logprobs) == attempt.length
    return parts


def made(folder: Path, engine: Any, sampler: Any, problems: Any = PROBLEMS, **other: Any) -> Any:
    """The stored attempts with their tokens; two at each problem."""
    run = run_attempts(
        problems, engine, other.pop("reward_model", None), BoxGrader(),
        MethodSettings(sampler=sampler, k=2), Key.of(0, "test"), folder, token_logprobs=True,
    )  # fmt: skip
    asyncio.run(run)
    return read_attempts(folder, tokens=True)


def log_table(parts: list[str]) -> list[float]:
    """What the script gives each piece after those before; EOS has no text."""
    before = ["".join(parts[:i]) for i in range(len(parts))]
    return [math.log(TABLE[b][part or "<eos>"]) for b, part in zip(before, parts, strict=True)]


def test_samples_have_the_script_s_probabilities(tmp_path: Path) -> None:
    returned = evaluate(tmp_path, token_logprobs=True)
    attempts = read_attempts(tmp_path, tokens=True)
    assert {a.text for a in attempts} >= {"b\n", "a\n\\boxed{1}"}
    for attempt in attempts:
        parts = texts(attempt)
        np.testing.assert_allclose(attempt.by_token.logprobs, log_table(parts), rtol=1e-3)
    assert [a.by_token for a in returned] == [None] * len(attempts)  # whatever is in memory


def test_a_filter_s_attempt_has_the_tokens_of_the_chosen_particle(tmp_path: Path) -> None:
    judge = ScriptedRewardModel(lambda problem, steps: 0.5 * len(steps[-1].text))
    sampler = ParticleFilterSettings(particles=4, step=LINES)
    attempts = made(tmp_path, ScriptedEngine(TABLE), sampler, reward_model=judge)
    for attempt in attempts:
        parts = texts(attempt)
        assert attempt.tokens > attempt.length == len(parts) == 2
        np.testing.assert_allclose(attempt.by_token.logprobs, log_table(parts), rtol=1e-3)


def test_what_was_inserted_has_no_probability_and_is_one_token_s(tmp_path: Path) -> None:
    boxes = {f"\\boxed{{{i}}}": 0.5 for i in (1, 2)}
    engine = ScriptedEngine(lambda question, text: boxes, list(boxes))
    sampler = ButWaitSettings(phrase="\n\nBut wait, ü", stable=None, rounds=2, step=LINES)
    for attempt in made(tmp_path, engine, sampler):
        parts = texts(attempt)
        assert parts[0] in boxes
        assert parts[-1] in boxes
        assert "".join(parts[1:-1]) == "\n\nBut wait, ü" == parts[-2]
        logprobs = attempt.by_token.logprobs
        assert np.isnan(logprobs[1:-1]).all()
        np.testing.assert_allclose(logprobs[[0, -1]], math.log(0.5), rtol=1e-3)


def test_a_model_s_are_those_that_it_scores(tmp_path: Path) -> None:
    model = ModelSettings(name="tiny", device="cpu")
    tokenizer = load_tokenizer(model)
    engine = TransformersEngine(
        load_causal_lm(model), tokenizer, TransformersSettings(slots=4), PromptSettings()
    )
    asked = [Problem(f"p{i}", f"Compute {i} + 30. 😀", "1", "integer") for i in range(3)]
    sampler = IndependentSettings(
        step=StepRule(delimiters=(), max_tokens=24), sampling=Sampling(temperature=1.0)
    )
    attempts = made(tmp_path, engine, sampler, asked)
    for attempt in attempts:
        problem = next(p for p in asked if p.id == attempt.problem_id)
        parts = texts(attempt)
        ids = _ids(engine, problem, sampler, attempt.sample)
        assert tokenizer.decode(ids, skip_special_tokens=True) == attempt.text
        for place, part in enumerate(parts):
            alone = tokenizer.decode(ids[place : place + 1], skip_special_tokens=True)
            assert part == alone or "\ufffd" in alone
        [scored] = asyncio.run(engine.score([engine.start(problem)], [ids]))
        np.testing.assert_allclose(attempt.by_token.logprobs, scored, rtol=2e-3, atol=2e-3)
    asyncio.run(engine.close())


def _ids(engine: Any, problem: Problem, sampler: Any, sample: int) -> np.ndarray:
    """The tokens of a sample, drawn again."""
    from butwait.search.run import run_sampler

    own = sampler.model_copy(update={"samples": 2})
    key = Key.of(0, "test").derive(problem.id)
    tree = asyncio.run(run_sampler(problem, engine, None, own, key))
    return tree.path_tokens(int(tree.leaves[sample]))


class Untold:
    """An engine that does not say what its tokens wrote."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.counters = engine, engine.counters

    def turn(self) -> "Untold":
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "token_characters":
            raise AttributeError(name)
        return getattr(self._engine, name)


def test_without_the_engine_s_word_attempts_have_no_tokens(tmp_path: Path) -> None:
    attempts = made(tmp_path / "untold", Untold(ScriptedEngine(TABLE)), IndependentSettings())
    assert {a.by_token for a in attempts} == {None}
    (shard,) = (tmp_path / "untold").glob("shard-*")
    assert not set(TOKEN_NAMES) & set(pq.read_schema(shard).names)


def test_a_resumed_evaluation_has_the_same_files(tmp_path: Path) -> None:
    def shards(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*"))}

    class StopError(Exception):
        pass

    seen: list[Any] = []

    def stop(rows: list[Attempt]) -> None:
        seen.append(rows)
        if len(seen) == 11:
            raise StopError

    whole = evaluate(tmp_path / "whole", token_logprobs=True)
    with pytest.raises(StopError):
        evaluate(tmp_path / "stopped", token_logprobs=True, on_problem=stop)
    assert list((tmp_path / "stopped" / ".spool").glob("*.parquet"))
    assert evaluate(tmp_path / "stopped", token_logprobs=True, concurrency=30) == whole
    assert shards(tmp_path / "stopped") == shards(tmp_path / "whole")


def test_storing_them_changes_no_result() -> None:
    one, other = (
        EvaluateSettings(problems=["test"], methods={"m": {}}, token_logprobs=kept)
        for kept in (True, False)
    )
    assert one.token_logprobs != other.token_logprobs
    assert identity(one) == identity(other)
    assert EvaluateSettings(problems=["test"], methods={"m": {}}).token_logprobs


def test_without_them_the_files_are_those_of_before(tmp_path: Path) -> None:
    attempts = evaluate(tmp_path / "with", token_logprobs=True)
    assert evaluate(tmp_path / "without") == attempts
    for path in (tmp_path / "without").glob("shard-*"):
        assert not set(TOKEN_NAMES) & set(pq.read_schema(path).names)

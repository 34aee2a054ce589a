"""The best answer so far: what a search out of time has to say."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("prometheus_client")

from serve_cases import ask, chat, served

from butwait.engines.scripted import ScriptedEngine
from butwait.problems.grading import Grader
from butwait.records import Problem
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.samplers.samples import BestOfNSettings
from butwait.server.work import Answer, Answering, Ask
from butwait.workers.job import Opened

CHAT = "/v1/chat/completions"
PHRASE = "\n\nBut wait,"
TWO_STEPS = {"": {"Easy.\n": 1.0}, "Easy.\n": {"\\boxed{2}": 1.0}}
THOUGHTS = {
    "": {"It is. \\boxed{2}": 1.0},
    "It is. \\boxed{2}" + PHRASE: {" no. \\boxed{3}": 1.0},
    f"It is. \\boxed{{2}}{PHRASE} no. \\boxed{{3}}{PHRASE}": {" yes. \\boxed{3}": 1.0},
}


SECONDS = 77.0
"""Of the searches here: none of them lasts so long."""
LIMITS: list[asyncio.Timeout] = []


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is over when a search is stuck, and not before."""
    timeout = asyncio.timeout

    def kept(seconds: float | None) -> asyncio.Timeout:
        limit = timeout(seconds)
        if seconds == SECONDS:
            LIMITS[:] = [limit]
        return limit

    monkeypatch.setattr(asyncio, "timeout", kept)


async def out_of_time() -> None:
    LIMITS[0].reschedule(asyncio.get_running_loop().time())
    await asyncio.sleep(SECONDS)


class Stuck(ScriptedEngine):
    """Gives so many steps of a search, and no more."""

    def __init__(self, table: Mapping[str, Mapping[str, float]], steps: int) -> None:
        super().__init__(table)
        self._left = steps

    async def extend(self, *given: Any) -> Any:
        if self._left == 0:
            await out_of_time()
        self._left -= 1
        return await super().extend(*given)


def said(engine: Stuck, method: str, **settings: Any) -> Any:
    async def asked() -> Any:
        async with served(engine, **settings) as it:
            own = {"timeout_s": SECONDS, "on_timeout": "answer"}
            return await ask(it.app, CHAT, chat(model=f"tiny@{method}", butwait=own, seed=1))

    return asyncio.run(asked())


@pytest.mark.parametrize("method", ["self_consistency-4", "pf-4", "beam_search-4", "pg-4", "bw-2"])
def test_before_the_first_step_there_is_no_answer(method: str) -> None:
    late = said(Stuck(TWO_STEPS, 0), method, step={"delimiters": [], "max_tokens": 64})
    assert (late.status, late.error["code"]) == (504, "timeout")


@pytest.mark.parametrize(
    ("table", "steps", "method", "content", "answer", "tokens"),
    [
        (TWO_STEPS, 1, "pf-4", "Easy.\n", None, 4),
        (TWO_STEPS, 1, "pg-4", "Easy.\n", None, 4),
        # A sweep is whole; the next one is at its beginning, and on its way.
        (TWO_STEPS, 2, "pg-4", "Easy.\n\\boxed{2}", "2", 8),
        (TWO_STEPS, 3, "pg-4", "Easy.\n\\boxed{2}", "2", 11),
        # A thought, or two that differ; the next one has begun.
        (THOUGHTS, 1, "bw-2", "It is. \\boxed{2}", "2", 2),
        (THOUGHTS, 2, "bw-2", f"It is. \\boxed{{2}}{PHRASE} no. \\boxed{{3}}", "3", 4),
    ],
)
def test_complete_paths_are_the_answer_wherever_the_search_stands(
    table: dict[str, dict[str, float]],
    steps: int,
    method: str,
    content: str,
    answer: str | None,
    tokens: int,
) -> None:
    found = said(Stuck(table, steps), method)
    assert found.status == 200
    (choice,) = found.json["choices"]
    assert choice["message"]["content"] == content
    assert choice["butwait"]["answer"] == answer
    assert choice["butwait"]["timed_out"] is True
    assert choice["finish_reason"] == ("length" if answer is None else "stop")
    assert found.json["usage"]["completion_tokens"] == tokens


def test_whole_samples_that_are_not_judged_yet_vote() -> None:
    """Best-of-N takes the one of the highest reward, and there is none."""

    class Slow(ScriptedRewardModel):
        async def score(self, *given: Any) -> Any:
            await out_of_time()

    async def searched(seed: int, opened: Opened) -> Answer:
        sampler = BestOfNSettings(samples=5, aggregation="model")
        ask = Ask(Problem("p", "?", None), sampler, seed, timeout_s=SECONDS, so_far=True)
        found = await Answering()(opened, ask)
        assert isinstance(found, Answer)
        return found

    async def all_of_them() -> list[Answer]:
        engine = ScriptedEngine({"": {"\\boxed{2}": 0.5, "\\boxed{3}": 0.5}})
        with Grader(workers=1) as grader:
            opened = Opened(engine, Slow(lambda problem, steps: 0.0), grader)
            return [await searched(seed, opened) for seed in range(6)]

    for found in asyncio.run(all_of_them()):
        assert found.timed_out
        assert found.answer == found.answers[0][0]
        assert found.weight == max(share for _, share in found.answers) >= 0.6
        assert found.text == f"\\boxed{{{found.answer}}}"

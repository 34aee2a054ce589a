"""Engines and reward models of a program's own, however they arrive: what they raise, and what
is no answer, is one sentence."""

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import butwait
from butwait.engines.scheduling.rows import Rows
from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.records import UserError
from butwait.reward_models.reward_model import BaseRewardModel, Score
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.running import plugins
from butwait.workers.loading import watched

STEP = {"delimiters": ["\n"], "max_tokens": 8}
TABLE = {"": {"a\n": 0.5, "b\n": 0.5}, "a\n": {"1": 1.0}, "b\n": {"2": 1.0}} | {
    text: {EOS: 1.0} for text in ("a\n1", "b\n2")
}
JUDGE = ScriptedRewardModel(lambda problem, steps: 1.0)


class Own(ScriptedEngine):
    """Gives what ``change`` makes of its answers."""

    def __init__(self, change: Callable[[list[Any]], Any]) -> None:
        super().__init__(TABLE)
        self._change = change

    async def extend(self, *given: Any) -> Any:
        return self._change(await super().extend(*given))


class Judge(BaseRewardModel):
    """Gives what ``answer`` makes of the paths."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self._answer = answer

    async def score(self, problem: Any, paths: Any) -> Any:
        return self._answer(paths)


def each(**parts: Callable[[Any], Any]) -> Callable[[list[Any]], Any]:
    """All steps with these parts changed."""
    return lambda steps: [replace(s, **{k: f(s) for k, f in parts.items()}) for s in steps]


def minus_one(step: Any) -> Any:
    return np.full_like(step.token_ids, -1)


ENGINES = {
    "fewer": (lambda steps: steps[1:], "a list of 4 Continuations, one a prefix"),
    "raises": (lambda steps: 1 / 0, "failed in extend: ZeroDivisionError"),
    "nan": (each(logprobs=lambda s: s.logprobs * np.nan), "none NaN"),
    "infinite": (each(logprobs=lambda s: s.logprobs + np.inf), "none NaN"),
    "impossible": (each(logprobs=lambda s: s.logprobs - np.inf), "drawn, none infinite"),
    "below": (each(token_ids=minus_one), "token ids, int32 (n,)"),
    "above": (
        each(token_ids=lambda s: s.token_ids.astype(np.int64) + 2**31),
        "token ids, int32 (n,)",
    ),
    "other path": (
        each(prefix=lambda s: replace(s.prefix, token_ids=s.prefix.token_ids[::-1])),
        "as prefix the one that was given and the step's tokens",
    ),
    "same path": (
        each(prefix=lambda s: replace(s.prefix, token_ids=s.prefix.token_ids[:-1])),
        "as prefix the one that was given and the step's tokens",
    ),
}
JUDGES = {
    "fewer": (lambda paths: [], "a list of 4 Scores, one a path"),
    "raises": (lambda paths: 1 / 0, "failed in score: ZeroDivisionError"),
    "nan": (lambda paths: [Score(np.nan, None, 0) for _ in paths], "a Score of a number"),
    "infinite": (lambda paths: [Score(np.inf, None, 0) for _ in paths], "a Score of a number"),
}
BROKEN = [
    *(pytest.param(Own(c), JUDGE, says, id=f"engine {n}") for n, (c, says) in ENGINES.items()),
    *(
        pytest.param(ScriptedEngine(TABLE), Judge(a), says, id=f"judge {n}")
        for n, (a, says) in JUDGES.items()
    ),
    pytest.param(
        ScriptedEngine(lambda question, text: 1 / 0, ["a\n"]),
        JUDGE,
        "'ScriptedEngine' failed in extend: ZeroDivisionError",
        id="script",
    ),
    pytest.param(
        ScriptedEngine(TABLE),
        ScriptedRewardModel(lambda problem, steps: 1 / 0),
        "'ScriptedRewardModel' failed in score: ZeroDivisionError",
        id="function",
    ),
]


def in_solve(engine: Any, judge: Any) -> Any:
    return butwait.solve("?", particles=4, step=STEP, engine=engine, reward_model=judge)


def in_search(engine: Any, judge: Any) -> Any:
    return butwait.search(["?"], particles=4, step=STEP, engine=engine, reward_model=judge)


def by_watch(engine: Any, judge: Any) -> Any:
    given = {"engine": ScriptedEngine(TABLE), "reward_model": JUDGE}
    return butwait.solve("?", particles=4, step=STEP, watch=lambda *_: (engine, judge), **given)


def by_settings(engine: Any, judge: Any) -> Any:
    module: Any = sys.modules["objects_of_mine"]
    module.engine, module.judge = (lambda: engine), (lambda: judge)
    return butwait.solve(
        "?",
        particles=4,
        step=STEP,
        engine={"kind": "scripted", "script": "objects_of_mine:engine"},
        reward_model={"kind": "custom", "factory": "objects_of_mine:judge"},
    )


@pytest.mark.parametrize("arrives", [in_solve, in_search, by_watch, by_settings])
@pytest.mark.parametrize(("engine", "judge", "says"), BROKEN)
def test_what_an_object_does_is_looked_at(
    monkeypatch: pytest.MonkeyPatch, engine: Any, judge: Any, says: str, arrives: Any
) -> None:
    monkeypatch.setitem(sys.modules, "objects_of_mine", ModuleType("objects_of_mine"))
    with pytest.raises(UserError) as told:
        arrives(engine, judge)
    said = str(told.value)
    assert said.startswith("the plugin '")
    if arrives is by_settings:
        says = says.partition("' failed in ")[2] or says  # it has the name of its setting
    assert says in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("arrives", [in_solve, in_search, by_watch])
def test_an_object_is_waited_for(arrives: Any) -> None:
    seen = []

    def look(steps: list[Any]) -> list[Any]:
        seen.append([*plugins._waited["Own"].calls])
        return steps

    arrives(Own(look), JUDGE)
    assert seen
    assert all(calls == [("extend", True)] for calls in seen)


def test_a_sound_object_gives_the_same_tree_as_by_its_settings() -> None:
    plain = butwait.solve("?", particles=4, step=STEP, engine=Own(list), reward_model=JUDGE)
    hooked = by_watch(Own(list), JUDGE)
    texts = [node.text for node in plain.tree.nodes]
    assert texts == [node.text for node in hooked.tree.nodes]
    assert len(texts) >= 9
    assert plain.usage.policy_tokens == hooked.usage.policy_tokens == 12


def test_rows_of_its_own_are_counted_once() -> None:
    seen: list[tuple[int, int]] = []

    def look(steps: list[Any]) -> list[Any]:
        seen.append((outside.rows.at_work, len(steps)))
        return steps

    engine: Any = Own(look)
    outside: Any = watched(engine, None)[0]
    butwait.solve("?", particles=4, step=STEP, engine=outside, reward_model=JUDGE)
    assert set(seen) == {(4, 4)}  # it counts none
    seen.clear()
    engine.rows = Rows(7)
    outside = watched(engine, None)[0]
    butwait.solve("?", particles=4, step=STEP, engine=outside, reward_model=JUDGE)
    assert set(seen) == {(0, 4)}
    assert outside.turn().rows is outside.rows is engine.rows

"""Replies that are made up: each is a step or one sentence."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from engine_contract import GREEDY, KEY
from hostile_replies import RULE, USAGE, WHOLE, A, B, of_ids
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai_toy import Toy, serving
from test_openai_engine import PROBLEM, TURNS, Run, engine_of

from butwait.engines.servers.remote_server import LostError
from butwait.records import UserError

pytestmark = pytest.mark.usefixtures("short_pauses")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)


@st.composite
def spoilt_events(draw: st.DrawFn) -> bytes:
    """Events like those of a server, with a value anywhere replaced by another one."""
    made = draw(st.sampled_from((A, B, WHOLE, USAGE, of_ids([5, 6], [-0.5, -1.0], "length"))))
    made = json.loads(json.dumps(made))
    inside: Any = made
    while draw(st.booleans()):
        inner = inside.get("choices") or inside.get("logprobs") or {}
        inner = inner[0] if isinstance(inner, list) else inner
        if not isinstance(inner, dict) or not inner:
            break
        inside = inner
    known = ["choices", "usage", "error", "text", "finish_reason", "stop_reason", "logprobs"]
    known += ["token_ids", "tokens", "token_logprobs", "delta", "index", "content", "object"]
    if draw(st.booleans()):
        inside[draw(st.sampled_from([*inside, *known]))] = draw(VALUES)
    text = json.dumps(made, ensure_ascii=draw(st.booleans()))
    return b"data: " + text.encode("utf-8", "surrogatepass") + draw(ENDS)


ENDS = st.sampled_from((b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b""))
OTHERS = st.binary(max_size=20) | st.sampled_from(
    (
        b"data: [DONE]\n\n",
        b": alive\n\n",
        b"event: error\n",
        b"<html>",
        b'{"error": "x"}',
        b"\xf0\x9f",
    )
)
BODIES = st.lists(spoilt_events() | OTHERS, max_size=5).map(b"".join)
STATUSES = st.sampled_from(
    (200,) * 12 + (201, 204, 206, 299, 301, 304, 400, 404, 418, 429, 500, 599)
)


def attack(dialect: str, examples: int, run: Run) -> None:
    toy = Toy(dialect=dialect)
    with serving(toy):
        engine = engine_of(toy, retries=0)
        start = engine.start(PROBLEM)

        async def ask() -> Any:
            return await asyncio.wait_for(engine.extend([start], RULE, GREEDY, [KEY]), 10)

        expected = run(ask())[0].token_ids.tolist()

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(BODIES, STATUSES, st.integers(1, 60))
        def once(body: bytes, status: int, piece: int) -> None:
            toy.piece = piece
            # A path may go on for many requests; whatever is behind the bad reply is none.
            toy.verbatim = [(status, {}, body)] + [(400, {}, b"the end")] * 3
            said, made = "", []
            try:
                made = run(ask())
            except UserError as error:
                said = str(error)
            assert said.isprintable()
            assert made or toy.url in said or "random" in said, said
            for step in made:
                assert len(step.token_ids) > 0
                assert np.isfinite(step.logprobs).all()
                assert step.finish in ("eos", "length")
            toy.verbatim = []

        once()
        assert run(ask())[0].token_ids.tolist() == expected  # it goes on as if nothing had been
        run(engine.close())


@pytest.mark.parametrize("dialect", ["text", "vllm"])
def test_generated_replies_are_a_step_or_one_sentence(dialect: str, run: Run) -> None:
    attack(dialect, 30, run)


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["text", "vllm", "llama.cpp"])
def test_many_generated_replies_are_a_step_or_one_sentence(dialect: str, run: Run) -> None:
    attack(dialect, 800, run)


def attack_probe(examples: int, run: Run) -> None:
    """Whatever a server answers when it is asked what it can: it is known how to ask it, or one
    sentence says why not."""
    listed = st.fixed_dictionaries({"id": st.just("toy") | VALUES, "max_model_len": VALUES})
    models = VALUES | st.fixed_dictionaries({"data": st.lists(listed) | VALUES})
    answers = spoilt_events().map(lambda event: json.loads(event.strip()[6:])) | VALUES
    with serving(Toy()) as toy:
        engine: Any = engine_of(toy, TURNS, retries=0)
        start = engine.start(PROBLEM)

        @settings(
            max_examples=examples,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(models, st.lists(answers, min_size=4, max_size=4))
        def once(models: Any, said: list[Any]) -> None:
            asked = 0

            async def json_of(path: str) -> Any:
                return models

            async def events_of(path: str, body: Any) -> AsyncIterator[Any]:
                nonlocal asked
                event = said[asked % len(said)]
                asked += 1
                if not isinstance(event, dict):
                    raise LostError("a reply is no JSON object")
                engine._server.check(event)
                yield event

            engine._server.json, engine._server.events = json_of, events_of
            engine._served = engine._capacity = None
            sentence = ""
            try:
                run(engine._how(start))
            except UserError as error:
                sentence = str(error)
            assert sentence.isprintable()
            assert bool(sentence) == (engine._served is None)

        once()


def test_generated_answers_of_a_probe(run: Run) -> None:
    attack_probe(30, run)


@pytest.mark.slow
def test_many_generated_answers_of_a_probe(run: Run) -> None:
    attack_probe(1500, run)

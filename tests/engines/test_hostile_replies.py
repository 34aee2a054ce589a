"""What servers answer in the place of what they were asked for: the right step, or one sentence;
never a traceback, and no path that nobody wrote."""

import json
import math
from typing import Any

import numpy as np
import pytest
from engine_contract import GREEDY, KEY
from hostile_replies import LOST, LOST_IDS, MODELS, NO_NUMBERS, RIGHT, RULE, A, event, of_ids, sse
from openai_toy import Toy, Verbatim, next_logprobs, serving
from random_models import EOS, VOCABULARY
from test_openai_engine import PLAIN, PROBLEM, TURNS, Run, engine_of, ids, steps

from butwait.engines.engine import PromptTooLongError
from butwait.engines.servers.remote_server import RemoteServer
from butwait.records import UserError

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.mark.parametrize("piece", [7, 10**6], ids=["in pieces", "at once"])
def test_one_reply_in_every_notation(piece: int, run: Run) -> None:
    """The same step of "It is 7" each time, asked for once."""
    toy = Toy(dialect="text", piece=piece)
    with serving(toy):
        engine = engine_of(toy)
        for name, reply in RIGHT.items():
            toy.verbatim = [reply if isinstance(reply, tuple) else (200, {}, reply)]
            toy.asked.clear()
            [step] = run(engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY]))
            assert (step.text, step.finish, len(toy.asked)) == ("It is 7", "eos", 1), name
            assert step.token_ids.tolist() == [*ids("It is"), *ids(" 7"), EOS], name
            assert float(step.logprobs.sum()) == -0.75, name
            assert 0 <= step.prefilled_tokens <= len(ids(PROBLEM.question)), name
        run(engine.close())


@pytest.mark.parametrize("character", ["\u2028", "\x85", "\u2029", "\x0c", "\x1e", "½", "😀"])
def test_a_character_is_text_however_it_is_sent(character: str, run: Run) -> None:
    """Raw, cut between its bytes, escaped, or as two halves in two events."""
    text = f"a{character}b"
    halves = character.encode("utf-16-be").decode("utf-16-be", "surrogatepass")
    escaped = json.dumps(event(text, finish="stop"))
    bodies = [sse(event(text, finish="stop")), sse(f"data: {escaped}")]
    if len(character.encode("utf-16-le")) == 4:
        high, low = (json.loads(half) for half in ('"\\ud83d"', '"\\ude00"'))
        assert (high + low).encode("utf-16", "surrogatepass").decode("utf-16") == halves
        bodies.append(sse(event("a" + high), event(low + "b", finish="stop")))
        cut = [json.dumps(e) for e in (event("a" + high), event(low + "b", finish="stop"))]
        bodies[-1] = sse(*(f"data: {piece}" for piece in cut))
    toy = Toy(dialect="text", piece=1, verbatim=[(200, {}, body) for body in bodies])
    with serving(toy):
        for _ in bodies:
            _, [step] = steps(toy, run, RULE)
            assert step.text == text


@pytest.mark.parametrize("dialect", ["text", "vllm"])
def test_what_is_no_reply_is_asked_for_again_and_then_one_sentence(dialect: str, run: Run) -> None:
    table: Any = LOST if dialect == "text" else LOST_IDS
    toy = Toy(dialect=dialect)
    with serving(toy):
        engine = engine_of(toy, retries=1)
        for name, (reply, sentence) in table.items():
            bad: Verbatim = reply if isinstance(reply, tuple) else (200, {}, reply)
            for times in (1, 2):  # it is asked twice
                toy.verbatim, toy.asked[:] = [bad] * times, []
                toy.script = ["It is 7"]
                asked = engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY])
                if times == 1:
                    [step] = run(asked)
                    assert (step.text, step.finish) == ("It is 7", "eos"), name
                else:
                    with pytest.raises(UserError, match=sentence) as error:
                        run(asked)
                    assert toy.url in str(error.value), name
                    assert str(error.value).isprintable(), name
                assert len(toy.asked) == 2, name
        run(engine.close())


def test_log_probabilities_that_are_none_stop_a_run_at_once(run: Run) -> None:
    toy = Toy(dialect="text")
    with serving(toy):
        engine = engine_of(toy)
        for name, body in NO_NUMBERS.items():
            toy.verbatim, toy.asked[:] = [(200, {}, body)], []
            with pytest.raises(UserError, match=r"1 of \d .*logits are no numbers \(NaN\)"):
                run(engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY]))
            assert len(toy.asked) == 1, name
        run(engine.close())


def test_log_probabilities_behind_a_steps_end_do_not_matter(run: Run) -> None:
    """And what rounding lifts above zero is taken."""
    box = ids("\\boxed{7}")
    body = sse(of_ids([*box, 5, 6], [0.003] * len(box) + [math.nan, None], "length"))
    with serving(Toy(verbatim=[(200, {}, body)])) as toy:
        _, [step] = steps(toy, run, RULE.model_copy(update={"stop_at_box": True}))
    assert (step.text, step.finish, step.overshoot_tokens) == ("\\boxed{7}", "box", 2)


def test_padded_ids_are_no_text(run: Run) -> None:
    body = sse(of_ids([VOCABULARY + 3, *ids("7"), EOS], [-0.5] * 3, "stop"))
    with serving(Toy(verbatim=[(200, {}, body)])) as toy:
        _, [step] = steps(toy, run, RULE)
    assert (step.text, step.finish, step.token_ids[0]) == ("7", "eos", VOCABULARY + 3)


def test_tokens_that_a_stream_leaves_out_are_asked_for_at_once(run: Run) -> None:
    """llama.cpp streams none that ends within a character: its text is whole, its tokens are not.
    They are not made up from the text."""
    with serving(Toy(dialect="llama.cpp")) as toy:
        _, [expected] = steps(toy, run, RULE)
        whole_requests = len(toy.headers)
        toy.drops = True
        _, [step] = steps(toy, run, RULE)
    assert step.token_ids.tolist() == expected.token_ids.tolist()
    np.testing.assert_allclose(step.logprobs, expected.logprobs, atol=1e-6)
    assert len(toy.headers) == 2 * whole_requests + 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_its_target(status: int, run: Run) -> None:
    place = {"Location": "https://other.example/v1/completions"}
    with serving(Toy(verbatim=[(status, place, b"")])) as toy:
        with pytest.raises(UserError, match=r"engine\.base_url to https://other\.example/v1$"):
            steps(toy, run, RULE)
        assert len(toy.asked) == 1


@pytest.mark.parametrize("place", ["mailto:x", "http://[", "//", "\xe9", "http://a b", ""])
def test_a_redirect_to_nowhere_is_one_sentence(place: str, run: Run) -> None:
    with serving(Toy(verbatim=[(301, {"Location": place}, b"")] * 3)) as toy:
        with pytest.raises(UserError):
            steps(toy, run, RULE)


def test_a_refusal_in_a_stream_is_not_asked_again(run: Run) -> None:
    body = sse(A, {"error": {"message": "too long", "code": 400}})
    with serving(Toy(dialect="text", verbatim=[(200, {}, body)])) as toy:
        with pytest.raises(UserError, match="refused a request: too long"):
            steps(toy, run, RULE)
    assert len(toy.asked) == 1


def test_the_list_of_models_is_optional_and_has_several_shapes(run: Run) -> None:
    prompt = len(ids(PROBLEM.question))
    with serving(Toy()) as toy:
        engine = engine_of(toy)
        for name, (reply, context) in MODELS.items():
            engine._served = engine._capacity = None
            toy.models, toy.script, toy.asked[:] = reply, ["7"], []
            [step] = run(engine.extend([engine.start(PROBLEM)], RULE, GREEDY, [KEY]))
            room = 30 if context is None else context - prompt
            assert (step.text, toy.asked[0]["max_tokens"]) == ("7", room), name
        run(engine.close())


@pytest.mark.parametrize("body", [b'["other"]', b'{"models": [{"name": "other"}]}'])
def test_a_model_that_is_in_no_list_is_named(body: bytes, run: Run) -> None:
    with serving(Toy(models=(200, {}, body))) as toy:
        with pytest.raises(UserError, match=r"no model 'toy' but other: set engine.served_model"):
            steps(toy, run)


def test_a_prompt_beyond_the_servers_context_is_no_empty_path(run: Run) -> None:
    with serving(Toy(context=5)) as toy:
        with pytest.raises(
            PromptTooLongError, match=r"has 13 tokens, and the server at .* takes 5,"
        ):
            steps(toy, run, RULE)
    assert not toy.asked


@pytest.mark.parametrize(
    "toy",
    [
        Toy(dialect="text", silent="completions"),
        Toy(dialect="vllm", silent="completions"),
        *(
            Toy(dialect="text", no_token_prompts=status)
            for status in (400, 404, 405, 422, 500, 501)
        ),
    ],
)
def test_auto_takes_chats_where_completions_do_not_give_what_is_needed(toy: Toy, run: Run) -> None:
    toy.script = ["It is 7"]
    with serving(toy):
        _, [step] = steps(toy, run, RULE, TURNS)
        assert (step.text, "messages" in toy.asked[0]) == ("It is 7", True)
        with pytest.raises(UserError, match=r"log-probabilities|a prompt is a string"):
            steps(toy, run, RULE, PLAIN, mode="completions")


def test_a_lost_echo_is_asked_for_again(run: Run) -> None:
    """And log-probabilities that are no numbers are no scores."""

    class Rest:
        def __init__(self, server: RemoteServer) -> None:
            self.json, self.spoilt = server.json, [{}, {"choices": []}]
            server.json = self  # type: ignore[method-assign, assignment]

        async def __call__(self, path: str, body: Any = None) -> Any:
            reply = await self.json(path, body)
            if not (body or {}).get("echo"):
                return reply
            if self.spoilt:
                return self.spoilt.pop()
            return reply

    with serving(Toy()) as toy:
        engine = engine_of(toy)
        Rest(engine._server)
        start = engine.start(PROBLEM)
        [scored] = run(engine.score([start], [np.array([5], np.int32)]))
        assert scored[0] == pytest.approx(next_logprobs(start.token_ids)[5], abs=1e-5)
        run(engine.close())

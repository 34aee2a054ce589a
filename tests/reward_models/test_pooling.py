"""The reward model behind a server, against a server that says what the test tells it to."""

import asyncio
import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from test_qwen_prm import PROBLEM, make_tokenizer

from butwait.engines.servers import remote_server
from butwait.records import Problem, UserError
from butwait.reward_models.kinds.pooling import PoolingPrm, PoolingSettings
from butwait.reward_models.reward_model import (
    Path,
    PathTooLongError,
    RewardModel,
    RewardModelError,
    Step,
)
from butwait.reward_models.reward_model import scores as every_score

MARK = make_tokenizer().convert_tokens_to_ids("<extra_0>")
Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""HTTP status, the body (JSON, or bytes as they are), and headers."""


class Server(ThreadingHTTPServer):
    """Keeps what it was asked, and gives ``replies``, then the answer of a PRM whose logits at a
    mark at position n of a prompt are (0, n / 10)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Reply] = []
        self.asked: list[tuple[str, dict[str, Any], str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body, self.headers["Authorization"]))
        replies = self.server.replies
        status, reply, *headers = replies.pop(0) if replies else (200, answer(body))
        self.send_response(status)
        for name, value in headers[0].items() if headers else ():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply if isinstance(reply, bytes) else json.dumps(reply).encode())

    def log_message(self, *args: Any) -> None: ...


def answer(body: dict[str, Any]) -> dict[str, Any]:
    """As vLLM 0.31 answers ``/pooling``; the order of rows is not promised."""
    rows = [
        {
            "index": i,
            "object": "pooling",
            "data": [[0.0, n / 10] for n, token in enumerate(prompt) if token == MARK],
        }
        for i, prompt in enumerate(body["input"])
    ]
    return {"object": "list", "model": body["model"], "data": rows[::-1]}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(remote_server, "LONGEST_PAUSE_S", 0.01)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def model(server: Server, **settings: Any) -> PoolingPrm:
    chosen = {"kind": "pooling", "base_url": server.url, "retries": 2, "aggregation": "prod"}
    return PoolingPrm(PoolingSettings(**chosen | settings), make_tokenizer())


def path(*texts: str, handle: Any = None) -> Path:
    return Path(tuple(Step(np.zeros(1, np.int32), text) for text in texts), handle)


def scores(a_model: PoolingPrm, *paths: Path) -> list[Any]:
    return asyncio.run(a_model.score(PROBLEM, list(paths)))


def test_steps_are_scored_at_their_marks_in_one_request(server: Server) -> None:
    got = scores(model(server), path("So 3.\n\n", "Yes."), path("No."), path("\n\n"))
    [(where, body, key)] = server.asked
    assert (where, key) == ("/pooling", None)
    assert body["use_activation"] is False
    assert body["model"] == "Qwen/Qwen2.5-Math-PRM-7B"
    at = [[n / 10 for n, t in enumerate(prompt) if t == MARK] for prompt in body["input"]]
    assert [len(marks) for marks in at] == [2, 1]
    product = float(logit(expit(at[0]).prod()))
    expected = [min(value, 12.0) for value in (product, at[1][0], 0.0)]
    assert [score.logit for score in got] == pytest.approx(expected, abs=1e-5)
    assert [score.tokens for score in got] == [*map(len, body["input"]), 0]


def test_a_path_goes_on_from_its_handle(server: Server) -> None:
    a_model = model(server)
    [first] = scores(a_model, path("So 3.\n\n"))
    scores(a_model, path("So 3.\n\n", "Yes.", handle=first.handle))
    scores(a_model, path("So 3.\n\n", "Yes."))
    (_, one, _), (_, grown, _), (_, whole, _) = server.asked
    assert grown["input"] == whole["input"]
    assert grown["input"][0][: len(one["input"][0])] == one["input"][0]


def test_logits_are_clipped_and_counted(server: Server) -> None:
    a_model = model(server)
    server.replies = [(200, {"data": [{"index": 0, "data": [[0.0, 40.0]]}]})]
    assert scores(a_model, path("Yes."))[0].logit == 12.0
    assert a_model.clipped == 1


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.replies = [(503, {}), (200, b"no JSON")]
    [score] = scores(model(server), path("Yes."))
    assert len(server.asked) == 3
    assert score.logit == pytest.approx((score.tokens - 1) / 10)


def test_an_error_that_may_pass_is_asked_again(server: Server) -> None:
    server.replies = [(200, {"error": {"message": "busy", "code": code}}) for code in (503, "429")]
    [score] = scores(model(server), path("Yes."))
    assert len(server.asked) == 3
    assert score.tokens > 0


def test_probabilities_are_no_logits(server: Server) -> None:
    """A server that does not know ``use_activation`` gives them without a word."""
    rows = [{"index": i, "data": [[1 - p, p]]} for i, p in enumerate((0.5, 1, 0, 0.25, 0.9, 0.1))]
    server.replies = [(200, {"data": rows})]
    with pytest.raises(RewardModelError, match="probabilities in the place of logits"):
        scores(model(server), *[path("Yes.")] * 6)


def test_a_redirect_names_its_target(server: Server) -> None:
    server.replies = [(308, {}, {"Location": "https://other.example/pooling"})]
    with pytest.raises(UserError, match=r"reward_model\.base_url to https://other\.example$"):
        scores(model(server), path("Yes."))


def test_the_key_comes_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRM_KEY", "secret")
    scores(model(server, api_key_env="PRM_KEY", served_model="prm"), path("Yes."))
    [(_, body, key)] = server.asked
    assert (body["model"], key) == ("prm", "Bearer secret")


@pytest.mark.parametrize(
    ("reply", "kind", "sentence"),
    [
        ((200, {"data": [{"index": 0, "data": []}]}), RewardModelError, "0 scores for 1 steps"),
        ((200, {"data": []}), RewardModelError, "answered for 0 of 1 paths"),
        ((200, {"data": [{"index": 0, "data": [[1.0]]}]}), RewardModelError, "no two logits"),
        ((200, {"error": "x"}), RewardModelError, "no two logits"),
        ((200, {"data": [{"index": 0, "data": [[0.0, float("nan")]]}]}), RewardModelError, "NaN"),
        ((404, {"error": {"message": "no model m"}}), UserError, "status 404: no model m"),
        ((200, {"error": {"message": "out of\nmemory"}}), RewardModelError, "out of memory"),
        ((200, [1]), RewardModelError, "no two logits"),
        ((200, {"data": None}), RewardModelError, "no two logits"),
        ((200, {"data": {"data": [[0.0, 1.0]]}}), RewardModelError, "no two logits"),
        ((200, {"data": [[[0.0, 1.0]]]}), RewardModelError, "no two logits"),
        ((200, {"data": [{"index": 0, "data": "AAAA"}]}), RewardModelError, "no two logits"),
        (
            (200, {"data": [{"index": 0, "data": [[10**400, 0]]}]}),
            RewardModelError,
            "no two logits",
        ),
        ((200, {"data": [{"index": 0, "data": [[0, 1], [2]]}]}), RewardModelError, "no two logits"),
        ((200, {"data": [{"index": 1, "data": [[0.0, 1.0]]}]}), RewardModelError, "0 of 1 paths"),
        ((200, {"data": [{"index": 0, "data": [[0.0, None]]}]}), RewardModelError, "NaN"),
        ((200, {"data": [{"index": 0, "data": [[0.0, math.inf]]}]}), RewardModelError, "infinite"),
        ((308, {}), UserError, r"sends on \(status 308\)"),
        ((200, {"data": [{"index": 0, "data": [[0, 1, 2, 3]]}]}), RewardModelError, r"\(1, 4\)"),
        ((200, {"data": [{"index": 0, "data": [0.0, 1.0]}]}), RewardModelError, "no two logits"),
        ((200, {"data": [{"index": 0, "data": [["0", "1"]]}]}), RewardModelError, "logit is '0'"),
        ((200, {"data": [{"index": 0, "data": [[0, True]]}]}), RewardModelError, "logit is True"),
        ((200, {"data": [{"index": 0, "embedding": [0, 1]}]}), RewardModelError, "no two logits"),
        ((200, {"data": [{"index": 0, "data": None}]}), RewardModelError, "no two logits"),
        ((200, {"data": [{"index": "0", "data": []}]}), RewardModelError, "0 of 1 paths"),
        ((200, {"error": {"message": "too long", "code": 400}}), UserError, "request: too long"),
        ((401, {"error": "no"}), UserError, "key is read from OPENAI_API_KEY, which is empty"),
        ((404, {"detail": "Not Found"}), UserError, r"Not Found: a vLLM server .*--runner pooling"),
        ((400, {"error": {"message": "maximum context length"}}), UserError, "context length"),
    ],
)
def test_an_answer_that_is_no_score_is_an_error_at_once(
    server: Server, reply: Reply, kind: type[Exception], sentence: str
) -> None:
    server.replies = [reply]
    with pytest.raises(kind, match=sentence):
        scores(model(server), path("Yes."))
    assert len(server.asked) == 1


def test_two_answers_for_one_path_are_none_for_another(server: Server) -> None:
    row = {"index": 0, "data": [[0.0, 1.0]]}
    server.replies = [(200, {"data": [row, row]})]
    with pytest.raises(RewardModelError, match="answered for 1 of 2 paths"):
        scores(model(server), path("Yes."), path("No."))


def test_a_server_that_stays_away_is_the_users_to_mend(server: Server) -> None:
    server.replies = [(500, {})] * 9
    with pytest.raises(UserError, match=r"does not answer \(status 500.*3 attempts\)"):
        scores(model(server), path("Yes."))
    assert len(server.asked) == 3


def test_it_keeps_the_contract(server: Server) -> None:
    assert isinstance(model(server), RewardModel)


def test_a_path_longer_than_the_servers_model_takes_is_too_long(server: Server) -> None:
    """The server does not say which of the paths it is: they are asked for apart."""
    said = "This model's maximum context length is 16 tokens. However, your request has 40."
    server.replies = [(400, {"error": {"message": said, "code": 400}})] * 2
    a_model = model(server)
    got = asyncio.run(every_score(a_model, PROBLEM, [path("So 3. " * 9), path("Yes.")]))
    assert [score.too_long for score in got] == [True, False]
    assert [len(body["input"]) for _, body, _ in server.asked] == [2, 1, 1]
    server.replies = [(413, b"too large")]
    with pytest.raises(PathTooLongError, match="status 413: too large"):
        scores(a_model, path("Yes."))


def test_two_servers_share_the_problems(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one of them loses, the other is asked for; the scores are those of one."""
    monkeypatch.setattr("butwait.engines.servers.router.FIRST_PROBE_S", 1000.0)
    problems = [Problem(f"p{i}", f"{i} + 1?", None) for i in range(4)]
    paths = [path("So 3.\n\n", "Yes."), path("No.")]

    async def scored(a_model: PoolingPrm) -> list[float]:
        found = [await a_model.score(problem, paths) for problem in problems * 2]
        await a_model.close()
        return [score.logit for each in found for score in each]

    expected = asyncio.run(scored(model(server)))
    server.asked.clear()
    with Server() as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        other.replies = [(500, {})]
        both = model(server, base_url=[server.url, other.url], retries=0)
        assert asyncio.run(scored(both)) == expected
        other.shutdown()
        thread.join()
    figures = both.server_figures()
    urls = [each.url.removesuffix("/v1") for each in (server, other)]
    assert [figures[url]["requests"] for url in urls] == [len(s.asked) for s in (server, other)]
    assert [figures[url]["requests"] for url in urls] == [7, 2]  # problems begin elsewhere then
    assert [figures[url]["failures"] for url in urls] == [0, 1]
    told = [{tuple(body["input"][0]) for _, body, _ in each.asked} for each in (server, other)]
    assert len(told[0] & told[1]) == 1  # the one that was lost


def test_a_server_counts_once_with_and_without_v1(server: Server) -> None:
    with pytest.raises(UserError, match=r"reward_model\.base_url: a server stands there twice"):
        model(server, base_url=[server.url, server.url.removesuffix("/v1")])

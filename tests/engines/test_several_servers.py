"""Several servers of one model: the same results, whoever answers, dies or comes back."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from openai_toy import MODEL, Toy, serving, tokenizer_with_chat
from random_models import EOS, model, tokenizer

from butwait.engines.engine import Continuation
from butwait.engines.kinds.openai import OpenAISettings, start_openai
from butwait.engines.openai import OpenAIEngine
from butwait.engines.servers import probe, router
from butwait.engines.settings import ModelSettings, Sampling, StepRule
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem, UserError
from butwait.running.stages import read_stage

PLAIN = PromptSettings(style="plain", template="{question}")
PROBLEMS = [Problem(f"p{i}", f"What is {i} + 4?", None) for i in range(4)]
RULE = StepRule(delimiters=(), max_tokens=4)
Run = Callable[[Any], Any]

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture(autouse=True)
def short_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router, "FIRST_PROBE_S", 0.0)


@pytest.fixture
def toys() -> Iterator[Callable[..., list[Toy]]]:
    with ExitStack() as stack:
        yield lambda *made: [stack.enter_context(serving(toy)) for toy in made]


def engine_of(toys: list[Toy], **settings: Any) -> OpenAIEngine:
    chosen = {"kind": "openai", "served_model": MODEL, "retries": 2, "capacity": 64}
    chosen |= {"base_url": [toy.url for toy in toys]} | settings
    engine: Any = start_openai(
        ModelSettings(name="tiny"), tokenizer_with_chat(), OpenAISettings(**chosen), PLAIN
    )
    engine._eos_ids = frozenset([EOS])  # tiny has another vocabulary
    return engine


async def grown(engine: OpenAIEngine, problems: list[Problem] = PROBLEMS) -> list[list[int]]:
    """Two steps of two paths of each problem."""

    async def one(problem: Problem) -> list[list[int]]:
        paths, ids = [engine.start(problem)] * 2, []
        for step in range(2):
            keys = [Key.of(7, problem.id).at(step=step, particle=i) for i in range(2)]
            made: list[Continuation] = await engine.extend(
                paths, RULE if step else StepRule(delimiters=(), max_tokens=2), Sampling(), keys
            )
            paths = [each.prefix for each in made]
            ids = [path.token_ids.tolist() for path in paths]
        return ids

    found = await asyncio.gather(*map(one, problems), return_exceptions=True)
    if failed := next((each for each in found if isinstance(each, BaseException)), None):
        raise failed
    return [ids for each in found if isinstance(each, list) for ids in each]


async def looked(engine: OpenAIEngine) -> None:
    await asyncio.gather(*engine._servers._looks.values())


def sessions(toy: Toy) -> set[str]:
    return {headers["X-Session-ID"] for headers in toy.headers if "X-Session-ID" in headers}


def test_the_same_paths_whoever_answers(toys: Callable[..., list[Toy]], run: Run) -> None:
    """A problem stays at a server, and a single one is told the session too."""
    alone, *both = toys(Toy(), Toy(), Toy())
    engines = engine_of([alone]), engine_of(both)
    expected, got = (run(grown(engine)) for engine in engines)
    assert got == expected
    assert len(sessions(alone)) == len(PROBLEMS)
    assert sessions(both[0]) & sessions(both[1]) == set()
    assert [len(sessions(toy)) for toy in both] == [2, 2]
    assert [len(toy.asked) for toy in both] == [8, 8]
    figures = engines[1].server_figures()
    assert list(figures) == [toy.url for toy in both]
    assert sum(of["tokens"] for of in figures.values()) == engines[1].counters.policy_tokens
    assert all(of["requests"] == 8 and of["failures"] == 0 for of in figures.values())
    for engine in engines:
        run(engine.close())


def test_a_server_that_dies_loses_nothing(toys: Callable[..., list[Toy]], run: Run) -> None:
    alone, dying, living = toys(Toy(), Toy(dies_after=3), Toy())
    engine = engine_of([dying, living], retries=0)
    assert run(grown(engine)) == run(grown(engine_of([alone])))
    figures = engine.server_figures()
    assert figures[dying.url]["failures"] >= 2  # a look may show it dead before a third
    assert figures[dying.url]["moved"] in (1, 2)  # those that had not ended
    assert figures[living.url]["failures"] == 0
    run(engine.close())


def test_where_all_are_dead_each_is_named_with_its_reason(
    toys: Callable[..., list[Toy]], run: Run
) -> None:
    both = toys(Toy(dies_after=2), Toy())
    engine = engine_of(both, retries=1)
    both[1].faults = [("status", 500, {})] * 99
    with pytest.raises(UserError, match=r"no server of engine\.base_url answers") as error:
        run(grown(engine))
    assert f"{both[0].url}: " in str(error.value)
    assert f"{both[1].url}: status 500: too busy" in str(error.value)
    assert str(error.value).endswith("what is finished stays")
    run(engine.close())


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Toy(names=("another",)), "has no model 'toy' but another"),
        (Toy(context=32), "context: 32, not None|context: None, not 32"),
        (Toy(raw=True), "serves another model .* or in another way .of_the_policy"),
    ],
    ids=["name", "context", "way"],
)
def test_a_server_of_another_model_is_refused_at_the_start(
    other: Toy, told: str, toys: Callable[..., list[Toy]], run: Run
) -> None:
    both = toys(Toy(), other)
    engine = engine_of(both)
    with pytest.raises(UserError, match=told):
        run(grown(engine))
    assert [len(toy.asked) for toy in both] == [0, 0]
    run(engine.close())


def test_another_tokenizer_is_seen_by_its_texts(
    toys: Callable[..., list[Toy]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = toys(Toy(), Toy())
    event = probe.replies

    async def shifted(server: Any, path: str, body: Any) -> Any:
        async for reply in event(server, path, body):
            if server.url == both[1].url and reply.token_ids:
                object.__setattr__(reply, "token_ids", [t % 90 + 5 for t in reply.token_ids])
            yield reply

    monkeypatch.setattr(probe, "replies", shifted)
    engine = engine_of(both)
    with pytest.raises(UserError, match=rf"{both[1].url} has another tokenizer than model\.name"):
        run(grown(engine))
    run(engine.close())


def test_one_that_is_away_at_the_start_is_used_when_it_comes(
    toys: Callable[..., list[Toy]], run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    late, living = toys(Toy(dies_after=0, models=(503, {}, b"starting")), Toy())
    engine = engine_of([late, living])
    first = run(grown(engine))
    assert late.asked == []
    late.dies_after, late.models = None, (200, {}, json.dumps({"data": ["another"]}).encode())
    run(grown(engine))
    run(looked(engine))
    assert late.asked == []  # it serves another model
    assert "has no model 'toy' but another" in caplog.text
    late.models = None
    new = [Problem(f"n{i}", f"What is {i} + 5?", None) for i in range(3)]
    run(grown(engine, new[:1]))  # it is looked at meanwhile
    run(looked(engine))
    run(grown(engine, new[1:]))
    assert sessions(late)  # which probes have none of
    assert "is there again" in caplog.text
    assert run(grown(engine)) == first
    run(engine.close())


def test_a_draining_server_gets_no_new_problem(toys: Callable[..., list[Toy]], run: Run) -> None:
    draining, living = toys(Toy(), Toy())
    engine = engine_of([draining, living])
    expected = run(grown(engine, PROBLEMS[:2]))
    draining.faults = [("status", 503, {"Retry-After": "60"})]
    assert run(grown(engine, PROBLEMS[:2])) == expected
    asked = len(draining.asked)
    run(grown(engine, PROBLEMS[2:]))
    assert len(draining.asked) == asked
    figures = engine.server_figures()[draining.url]
    assert (figures["failures"], figures["moved"]) == (1, 1)
    run(engine.close())


def test_a_server_whose_model_went_is_left(toys: Callable[..., list[Toy]], run: Run) -> None:
    """It refuses what another one does: that says nothing of the request."""
    both = toys(Toy(), Toy())
    engine = engine_of(both)
    expected = run(grown(engine))
    gone = b'{"error": {"message": "The model `toy` does not exist."}}'
    both[0].verbatim = [(404, {"Content-Type": "application/json"}, gone)] * 99
    assert run(grown(engine)) == expected
    assert engine.server_figures()[both[0].url]["moved"] in (1, 2)
    run(engine.close())


def test_scores_go_where_the_problem_is(toys: Callable[..., list[Toy]], run: Run) -> None:
    both = toys(Toy(), Toy())
    engine = engine_of(both)
    starts = [engine.start(problem) for problem in PROBLEMS[:2]]
    run(engine.score(starts, [np.array([5], np.int32)] * 2))
    told = [h["X-Session-ID"] for toy in both for h in toy.headers if "X-Session-ID" in h]
    assert len(told) == len(set(told)) == 2
    run(engine.close())


RECIPE = """
model: {{name: policy}}
prompt: {{style: plain, template: "{{question}}"}}
engine: {{kind: openai, base_url: {urls}, served_model: toy, retries: 0}}
problems:
  train: {{source: questions.jsonl}}
stages:
  search:
    kind: search
    problems: train
    concurrency: 2
    shard_size: 2
    sampler: {{kind: self_consistency, samples: 2, step: {{delimiters: [], max_tokens: 5}}}}
"""


@pytest.mark.slow
def test_a_run_over_two_servers(
    own_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    toys: Callable[..., list[Toy]],
) -> None:
    """One dies on the way; the trees are those of a single server. Which servers there are, and in
    which order, makes no other run of it."""
    model().config.save_pretrained(own_folder / "policy")
    tokenizer().save_pretrained(own_folder / "policy")
    rows = [{"id": f"q{i}", "question": f"{i} + 1", "answer": "3"} for i in range(6)]
    Path("questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    alone, dying, living = toys(Toy(), Toy(dies_after=3), Toy())

    def go(urls: Any, run_dir: str) -> tuple[int, str]:
        Path("mine.yaml").write_text(RECIPE.format(urls=json.dumps(urls)))
        code, out, said = command("run", "mine.yaml", "--run-dir", run_dir)
        assert code == 0, said
        return code, out

    go(alone.url, "one")
    assert "others go on for it" not in go([dying.url, living.url], "two")[1]
    trees = [
        {p.name: p.read_bytes() for p in Path(run, "search", "trees").glob("shard*")}
        for run in ("one", "two")
    ]
    assert trees[0] == trees[1]
    stage = read_stage(Path("two", "search"))
    assert stage is not None
    servers = stage.record["servers"]
    assert servers[dying.url]["failures"] > 0
    assert servers[living.url]["requests"] >= 9
    policy_tokens = stage.record["cost"]["policy_tokens"]
    assert sum(of["tokens"] for of in servers.values()) == policy_tokens
    asked = len(living.asked)
    assert "finished before" in go([living.url, dying.url], "two")[1]
    assert "finished before" in go(living.url, "two")[1]
    assert len(living.asked) == asked


@pytest.mark.parametrize(
    ("urls", "code", "told"),
    [
        (["LIVE", "DEAD"], 0, "does not answer"),
        (["DEAD", "DEAD/other"], 2, "does not answer"),
        (["LIVE", "no address"], 2, "'no address' is no address"),
        (["LIVE", "LIVE/"], 2, "stands there twice"),
        ([], 2, "names no server"),
    ],
)
def test_check_asks_each(
    urls: list[str],
    code: int,
    told: str,
    own_folder: Path,
    command: Callable[..., tuple[int, str, str]],
    toys: Callable[..., list[Toy]],
) -> None:
    [live] = toys(Toy())
    model().config.save_pretrained(own_folder / "policy")
    tokenizer().save_pretrained(own_folder / "policy")
    Path("questions.jsonl").write_text('{"id": "q", "question": "1 + 1", "answer": "2"}\n')
    names = [url.replace("LIVE", live.url).replace("DEAD", "http://127.0.0.1:9") for url in urls]
    Path("mine.yaml").write_text(RECIPE.format(urls=json.dumps(names)))
    ended, out, said = command("check", "mine.yaml")
    assert (ended, told in said + out) == (code, True), said

"""A user's own function that fails, gives something else or hangs: one sentence, exit code 2, and
what is finished is kept."""

import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from butwait.records import Example, Span, UserError
from butwait.running import plugins
from butwait.synthesis.builder import BuildCounts, Built
from butwait.synthesis.given import checked_build

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from pipeline_runs import SCRIPTED, butwait, finished, prepare, shards

Command = Callable[..., tuple[int, str, str]]

MINE = """
import asyncio, os, sys
import numpy as np
from butwait.engines.engine import Continuation
from butwait.engines.load import EngineKind
from butwait.engines.settings import BaseEngineSettings
from butwait.records import Example
from butwait.recipe.stages import StageKind, StageSettings
from butwait.reward_models.reward_model import BaseRewardModel, Score
from butwait.search.settings import CommonSettings, Sampler
from butwait.records import Span
from butwait.records.settings import Settings
from butwait.reward_models.load import RewardModelKind
from butwait.stages.kinds.data import data_stage
from butwait.synthesis.builder import BuildCounts, Builder, Built
from butwait.synthesis.settings import DataSettings
from toys import policy, reward

class Own(StageSettings):
    pass

calls = 0

class Model(BaseRewardModel):
    async def score(self, problem, paths):
        global calls
        calls += 1
        return self.answer(problem, paths) if calls > 9 else [Score(1.0, None, 1) for _ in paths]

class Engine(type(policy())):
    async def extend(self, prefixes, rule, sampling, keys):
        return self.answer(await super().extend(prefixes, rule, sampling, keys))

class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError

class Strange:
    def __repr__(self):
        raise RuntimeError
"""


RAISED = [
    ("1 / 0", "ZeroDivisionError (division by zero) at mine.py, line"),
    ("sys.exit(0)", "SystemExit (0) at mine.py, line"),
    ("sys.exit()", "SystemExit at mine.py, line"),
    ("raise BaseException('no')", "BaseException (no) at mine.py, line"),
    ("raise asyncio.CancelledError", "CancelledError at mine.py, line"),
    ("raise Unprintable", "Unprintable at mine.py, line"),
    ("raise ValueError('two\\nlines ' * 200)", "ValueError (two lines two lines"),
    ("raise ExceptionGroup('several', [KeyError('a')])", "KeyError ('a')"),
    ("[][0]", "IndexError (list index out of range) at mine.py, line"),
    ("open('gone.txt')", "FileNotFoundError ([Errno 2] No such file or directory: 'gone.txt')"),
    ("return (lambda f: f(f))(lambda f: f(f))", "RecursionError (maximum recursion depth"),
]
"""What a plugin does -> what is said of it."""

FACTORY = "stages.search.reward_model.factory=mine:factory"
SCRIPT = "engine.script=mine:script"
SOURCE = "problems.train.source=mine:questions"
MODEL = "class It(Model):\n  def answer(self, problem, paths):\n    {}\nfactory = It\n"
ENGINE = (
    "class It(Engine):\n  def answer(self, steps):\n    {}\n"
    "from toys import TABLE\ndef script():\n  return It(TABLE)\n"
)
SAMPLER = (
    "async def sample(problem, engine, reward_model, settings, key):\n    {}\n"
    "SAMPLER = Sampler(CommonSettings, sample, needs_reward_model=False)\n"
)
SAMPLED = "stages.search.sampler={kind: 'mine:SAMPLER'}"
STAGE = "def run(stage):\n    {}\nSTAGE = StageKind(settings=Own, gives='counts', run=run)\n"
STAGED = "stages.own={kind: 'mine:STAGE'}"
ENGINED = "def start(*_):\n    {}\nENGINE = EngineKind(BaseEngineSettings, start)\n"
RECORD = (
    "class Judge(Settings):\n    kind: str\n"
    "RECORD = RewardModelKind(Judge, lambda *_: reward(), {})\n"
)
RECORDED = "stages.search.reward_model={kind: 'mine:RECORD'}"
BUILDER = """
class Mine(DataSettings):
    pass
def example(**other):
    mask = np.ones(2, bool)
    ids = np.array([1, 2], np.int32)
    given = dict(problem_id="q00", prompt_ids=ids, completion_ids=ids, loss_mask=mask, spans=(),
                 prompt=[], text="", tokenizer_fingerprint="x")
    return Example(**(given | other))
async def ask(material, searcher):
    pass
def build(material):
    {}
BUILDER = data_stage(Builder(Mine, build, label='x'))
"""
EXAMPLE = BUILDER.format("return Built([example({})], BuildCounts())")
BUILT = "stages.own={kind: 'mine:BUILDER', from: [search]}"
CONTINUED = "return [type(s)({}, s.prefix, 0) for s in steps]"

GIVEN = [
    ("factory = None", FACTORY, "'mine:factory' is a NoneType and no function"),
    (
        "def factory(): pass",
        FACTORY,
        "gives None in its start; it must return a reward model, which has",
    ),
    ("def factory(): return {}", FACTORY, "gives {} (dict) in its start"),
    (MODEL.format("pass"), FACTORY, "gives None in score; it must return a list of 4 Scores"),
    (
        MODEL.format("return [1.0] * len(paths)"),
        FACTORY,
        "gives 1.0 (float) in score; it must return a",
    ),
    (MODEL.format("return np.zeros(4)"), FACTORY, "in score; it must return a list of 4 Scores"),
    (
        MODEL.format("return [Score(1.0, None, 1)]"),
        FACTORY,
        "must return a list of 4 Scores, one a path",
    ),
    (
        MODEL.format("return [Score(float('nan'), None, 1) for _ in paths]"),
        FACTORY,
        "gives Score(logit=nan, handle=None, tokens=1, too_long=False) (Score) in score",
    ),
    (MODEL.format("return [Score('1', None, 1) for _ in paths]"), FACTORY, "a Score of a number"),
    (MODEL.format("return [Score(1.0, None, None) for _ in paths]"), FACTORY, "and its tokens"),
    (MODEL.format("return Strange()"), FACTORY, "gives ... (Strange) in score"),
    (
        "def script(): pass",
        SCRIPT,
        "gives None in its start; it must return an engine, which has start",
    ),
    (
        ENGINE.format("pass"),
        SCRIPT,
        "gives None in extend; it must return a list of 4 Continuations",
    ),
    (
        ENGINE.format("return steps[1:]"),
        SCRIPT,
        "must return a list of 4 Continuations, one a prefix",
    ),
    (
        ENGINE.format("return [None] * len(steps)"),
        SCRIPT,
        "must return a Continuation with its prefix",
    ),
    (
        ENGINE.format(
            CONTINUED.format("s.token_ids, s.text, np.full(len(s.token_ids), np.nan), s.finish")
        ),
        SCRIPT,
        "log-probabilities, float32 (n,), none NaN",
    ),
    (
        ENGINE.format(CONTINUED.format("[1], s.text, s.logprobs, s.finish")),
        SCRIPT,
        "token ids, int32 (n,)",
    ),
    (
        ENGINE.format(CONTINUED.format("s.token_ids, s.text, s.logprobs, 'done'")),
        SCRIPT,
        "a finish (step, step_limit, eos",
    ),
    (
        "def questions(): pass",
        SOURCE,
        "gives None in the call for its questions; it must return a list",
    ),
    ("def questions(): return 'abc'", SOURCE, "gives 'abc' (str) in the call"),
    ("def questions(): yield {'question': 'q', 'answer': 1}; yield 7", SOURCE, "gives 7 (int) in"),
    ("def questions(): yield {'question': 'q', 'answer': 1}; 1 / 0", SOURCE, "ZeroDivisionError"),
    ("questions = 3", SOURCE, "3 is not a callable object"),
    (SAMPLER.format("pass"), SAMPLED, "gives None in its run; it must return a SearchTree"),
    (SAMPLER.format("1 / 0"), SAMPLED, "'mine:SAMPLER' failed in sample: ZeroDivisionError"),
    (SAMPLER.format("sys.exit()"), SAMPLED, "'mine:SAMPLER' failed in sample: SystemExit"),
    (SAMPLER.format("raise asyncio.CancelledError"), SAMPLED, "was cancelled by itself"),
    (STAGE.format("pass"), STAGED, "gives None in its run; it must return (metrics, cost)"),
    (STAGE.format("return {'x': float('nan')}, {}"), STAGED, "two mappings that JSON can hold"),
    (STAGE.format("sys.exit(3)"), STAGED, "'mine:STAGE' failed in run: SystemExit (3) at mine.py"),
    (
        RECORD.format("decoder=lambda s: 3"),
        RECORDED,
        "gives 3 (int) in its decoder; it must return",
    ),
    (RECORD.format("decoder=lambda s: 1 / 0"), RECORDED, "failed in <lambda>: ZeroDivisionError"),
    (BUILDER.format("return None"), BUILT, "gives None in its build; it must return a Built of"),
    (BUILDER.format("1 / 0"), BUILT, "'mine:BUILDER' failed in build: ZeroDivisionError"),
    (EXAMPLE.format("problem_id='x'"), BUILT, "problem_id is that of a problem"),
    (
        BUILDER.replace("label='x'", "label='x', prepare=lambda settings: ask").format("pass"),
        BUILT,
        "gives None in its prepare; it must return a pair",
    ),
    (ENGINED.format("pass"), "engine={kind: 'mine:ENGINE'}", "it must return an engine"),
]
"""(what the plugin is, --set, what is said of it)"""


@pytest.fixture
def folder(own_folder: Path) -> Path:
    prepare(own_folder, SCRIPTED, questions=10)
    return own_folder


def told(folder: Path, command: Command, plugin: str, setting: str) -> str:
    """The one sentence of a run with this plugin."""
    (folder / "mine.py").write_text(MINE + plugin)
    code, _, said = command("run", "mine.yaml", "--set", setting)
    assert code == 2, said
    assert said.startswith("butwait: "), said
    assert len(said.strip().splitlines()) == 1, said
    assert len(said) < 900
    return said


@pytest.mark.parametrize(("plugin", "setting", "says"), GIVEN, ids=[p[:60] for p, *_ in GIVEN])
def test_what_a_plugin_gives_is_looked_at(
    folder: Path, command: Command, plugin: str, setting: str, says: str
) -> None:
    assert says in told(folder, command, plugin, setting)


@pytest.mark.parametrize("plugin", [(MODEL, FACTORY), (ENGINE, SCRIPT)], ids=["model", "engine"])
@pytest.mark.parametrize(("how", "says"), RAISED, ids=[how for how, _ in RAISED])
def test_whatever_a_plugin_raises_is_told_with_its_place(
    folder: Path, command: Command, plugin: tuple[str, str], how: str, says: str
) -> None:
    said = told(folder, command, plugin[0].format(how), plugin[1])
    assert says in said
    assert "failed in score" in said or "failed in extend" in said


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("def f(:\n", "ends in SyntaxError"),
        ("raise SystemExit(0)", "ends in SystemExit (0) at mine.py, line 1; mend it"),
        ("raise BaseException('x')", "ends in BaseException (x) at mine.py, line 1"),
        ("import no_such_thing", "cannot be imported (No module named 'no_such_thing')"),
        ("\0", "cannot be imported"),
        ("def f(): f()\nf()", "ends in RecursionError"),
    ],
)
def test_a_module_that_cannot_be_imported(
    folder: Path, command: Command, module: str, says: str
) -> None:
    (folder / "mine.py").write_text(module)
    code, _, said = command("run", "mine.yaml", "--set", FACTORY)
    assert code == 2
    assert says in said
    assert len(said.strip().splitlines()) == 1


def test_what_was_finished_before_a_plugin_failed_is_kept(folder: Path, command: Command) -> None:
    trees = folder / "runs/mine/search/trees"
    (folder / "broken").touch()
    scores = "return [Score(1.0, None, 1) for _ in paths]"
    told(folder, command, MODEL.format(f"assert not os.path.exists('broken'); {scores}"), FACTORY)
    assert finished(trees)
    (folder / "broken").unlink()
    assert command("run", "mine.yaml", "--set", FACTORY)[0] == 0
    disturbed = shards(trees)
    shutil.rmtree(folder / "runs")
    assert command("run", "mine.yaml", "--set", FACTORY)[0] == 0
    assert shards(trees) == disturbed


def test_the_whole_traceback_is_there_for_who_asks(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mine.py").write_text(MINE + MODEL.format("1 / 0"))
    monkeypatch.setenv("BUTWAIT_TRACEBACK", "1")
    code, _, said = command("run", "mine.yaml", "--set", FACTORY)
    assert code == 2
    assert 'mine.py", line' in said
    assert said.splitlines()[-1].startswith("butwait: the plugin 'mine:factory' failed in score")


def test_a_plugin_that_prints_changes_nothing(folder: Path, command: Command) -> None:
    (folder / "mine.py").write_text("print('hello')\nfrom toys import reward as factory\n")
    code, said, _ = command("run", "mine.yaml", "--set", FACTORY)
    assert code == 0
    assert "hello\n" in said


HANGING = [
    ("while True: pass\n", FACTORY, "its import", "(at mine.py, line 1)"),
    (MODEL.format("import time; time.sleep(99)"), FACTORY, "score", "(at mine.py, line"),
    (
        "class It(Model):\n  async def score(self, problem, paths):\n"
        "    await asyncio.Event().wait()\nfactory = It\n",
        FACTORY,
        "score",
        "",
    ),
    ("def questions():\n  while True: pass\n", SOURCE, "the call for its questions", "(at mine.py"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plugin", "setting", "call", "place"), HANGING)
def test_a_plugin_that_hangs_ends_the_run(
    tmp_path: Path, plugin: str, setting: str, call: str, place: str
) -> None:
    prepare(tmp_path, SCRIPTED, questions=10)
    head = "" if plugin.startswith("while") else MINE
    (tmp_path / "mine.py").write_text(head + plugin)
    words = ("run", "mine.yaml", "--set", setting)
    ended = butwait(*words, cwd=tmp_path, BUTWAIT_PLUGIN_TIMEOUT="1")
    assert ended.returncode == 2, ended.stderr
    assert f"has not come back from {call} for 1 s" in ended.stderr
    assert place in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_what_is_said_of_a_plugin_that_hangs_is_known_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the run, of a worker in another process that says so and ends."""

    class EndedError(Exception):
        pass

    def end(code: int) -> None:
        raise EndedError(code)

    waited = plugins._Waited([("score", False)], told=0.002)
    monkeypatch.setattr(plugins, "_waited", {"mine:factory": waited})
    monkeypatch.setattr(plugins.os, "_exit", end)
    monkeypatch.setenv("BUTWAIT_PLUGIN_TIMEOUT", "0.004")
    with pytest.raises(EndedError, match="2"):
        plugins._look()
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(plugins.WAITING)
    assert said[-1].startswith("butwait: the plugin 'mine:factory' has not come back from score")
    assert plugins.overdue(said) == said[-1].removeprefix("butwait: ")
    assert plugins.overdue(said[:-1]) is None


@pytest.mark.parametrize("given", ["soon", "-1", "nan"])
def test_a_time_limit_that_is_no_number(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("BUTWAIT_PLUGIN_TIMEOUT", given)
    code, _, said = command("run", "mine.yaml")
    assert code == 2
    assert f"BUTWAIT_PLUGIN_TIMEOUT='{given}' is no number of seconds" in said


EXAMPLES = [
    ({"problem_id": "x"}, "problem_id is that of a problem"),
    ({"problem_id": [1]}, "problem_id is that of a problem"),
    ({"completion_ids": [1, 2]}, "are token ids, int32 (n,)"),
    ({"prompt_ids": np.zeros((1, 2), int)}, "are token ids, int32 (n,)"),
    ({"loss_mask": np.ones(3, bool)}, "loss_mask is bool (n,)"),
    ({"loss_mask": None}, "loss_mask is bool (n,)"),
    ({"spans": None}, "spans are Spans inside of the completion"),
    ({"spans": (Span("doubt", 1, 9, ""),)}, "spans are Spans inside of the completion"),
    ({"text": None}, "text and tokenizer_fingerprint are texts"),
    ({"prompt": "hello"}, "prompt is a list of messages"),
    ({"provenance": {"a": {1}}}, "provenance is a mapping that JSON can hold"),
    ({"provenance": [1]}, "provenance is a mapping that JSON can hold"),
]


@pytest.mark.parametrize(("given", "says"), EXAMPLES, ids=[says for _, says in EXAMPLES])
def test_an_example_that_is_none(given: dict[str, Any], says: str) -> None:
    ids, mask = np.array([1, 2], np.int32), np.ones(2, bool)
    whole = Example("q", ids, ids, mask, (Span("solution", 0, 2, "a"),), [], "", "x", {})
    counts = BuildCounts()
    assert checked_build("a:b", Built([whole], counts), {"q"}).examples == [whole]
    with pytest.raises(UserError, match=re.escape(says)):
        checked_build("a:b", Built([whole, replace(whole, **given)], counts), {"q"})


@pytest.mark.parametrize(
    ("built", "says"),
    [
        (Built(None, BuildCounts()), "gives None in its build; it must return a list of Examples"),
        (Built(iter([]), BuildCounts()), "must return a list of Examples"),
        (Built([None], BuildCounts()), "one is of another type"),
        (Built([], None), "a Built of Examples and BuildCounts"),
        (Built([], BuildCounts(trees="2")), "BuildCounts of whole numbers"),
        (Built([], BuildCounts(facts={"a": 0.5})), "BuildCounts of whole numbers"),
        (Built([], BuildCounts(candidate_lengths=None)), "BuildCounts of whole numbers"),
    ],
)
def test_a_data_set_that_is_none(built: Any, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        checked_build("a:b", built, {"q"})

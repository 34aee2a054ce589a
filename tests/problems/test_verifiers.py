"""Verifiers: whatever they do, it is a verdict or no verdict, and never a crash."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from butwait.problems.grading import Grader
from butwait.problems.settings import ProblemSetSettings
from butwait.problems.sources import load_problems
from butwait.records import Grade, Problem, UserError
from butwait.running import plugins

JUDGES = r"""
import asyncio, os, sys, time
import numpy as np

counts = []

def half(question, answer, metadata):
    return 0.5

def same(question, answer, metadata):
    return answer == metadata["gold"]

def looks(question, answer, metadata):
    assert question == "How?" and metadata["level"] == 3
    return 1.0 if metadata["response"].startswith("So") else 0.0

def pair(question, answer, metadata):
    return 0.25, "correct"

def bare(question, answer, metadata):
    return [1, None]

def fails(question, answer, metadata):
    return 1 / (answer == "7")

def odd(question, answer, metadata):
    class Odd(BaseException):
        def __str__(self):
            raise ValueError
    raise Odd

def exits(question, answer, metadata):
    sys.exit(0)

def stops(question, answer, metadata):
    raise KeyboardInterrupt

def deep(question, answer, metadata):
    return deep(question, answer, metadata)

def hangs(question, answer, metadata):
    time.sleep(1000) if answer == "8" else None
    return 1

def leaves(question, answer, metadata):
    os._exit(0)

def forks(question, answer, metadata):
    if os.fork() == 0 and answer == "sleeps":
        time.sleep(1000)
    return 1

def prints(question, answer, metadata):
    print("ready" * 200_000)
    sys.stderr.write("loaded\n" * 100_000)
    os.write(1, b"{}\n")
    return 1

def asks(question, answer, metadata):
    return float(input("a score, please: "))

def allocates(question, answer, metadata):
    return len(bytearray(60 << 30)) > 0 if answer == "big" else 1

def changes(question, answer, metadata):
    metadata.clear()
    counts.append(answer)
    return 1

def generates(question, answer, metadata):
    yield 1

async def awaits(question, answer, metadata):
    return 1

def true(question, answer, metadata):
    return True

def of_numpy(question, answer, metadata):
    return np.float32(1)

def array(question, answer, metadata):
    return np.ones(2)

def text(question, answer, metadata):
    return "1"

def beyond(question, answer, metadata):
    return 1.5

def status(question, answer, metadata):
    return 1, "excellent"

def none(question, answer, metadata):
    return None

def nan(question, answer, metadata):
    return float("nan")

def hidden(question, answer, metadata):
    class Hidden:
        def __repr__(self):
            raise OSError
    return Hidden()

def keeps(question, answer, metadata):
    return sorted(metadata) == ["gold", "level", "response", "when"]

number = 5
"""

MISSING = """
model: {name: tiny}
problems:
  some: {source: arithmetic, limit: 8}
  far: {source: nobody/nothing, verifier: "absent:judge"}
stages:
  base: {kind: evaluate, problems: [far], methods: {plain: {sampler: {kind: independent}}}}
  rl:
    kind: grpo
    problems: some
    reward:
      functions: ["present:one", "present:none"]
"""

Judge = Callable[..., tuple[Grade, list[str]]]


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """(function, text, finish) -> the verdict, and why there is none."""
    folder = tmp_path_factory.mktemp("beside")
    (folder / "judges.py").write_text(JUDGES)
    with pytest.MonkeyPatch.context() as patch, Grader(workers=1) as grader:
        patch.setattr(plugins, "_places", [str(folder)])

        def asked(name: str, text: str = r"So \boxed{9}", finish: str = "eos", **kept: object):
            metadata = {"level": 3, **kept}
            problem = Problem("p", "How?", "9", metadata=metadata, verifier=f"judges:{name}")
            return grader.grade(text, problem, finish), grader.untold()

        yield asked


@pytest.mark.parametrize(
    ("name", "text", "finish", "grade"),
    [
        ("half", r"\boxed{9}", "box", Grade("9", "wrong", 0.5)),
        ("half", "no box here", "eos", Grade(None, "no_answer", 0.5)),
        ("half", "cut", "length", Grade(None, "truncated", 0.0)),
        ("same", r"\boxed{9}", "box", Grade("9", "correct", 1.0)),
        ("same", r"\boxed{09}", "box", Grade("09", "wrong", 0.0)),
        ("looks", r"So \boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("looks", r"No \boxed{1}", "box", Grade("1", "wrong", 0.0)),
        ("pair", r"\boxed{1}", "box", Grade("1", "correct", 0.25)),
        ("bare", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("true", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("of_numpy", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("prints", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("forks", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("forks", r"\boxed{sleeps}", "box", Grade("sleeps", "correct", 1.0)),
        ("changes", r"\boxed{1}", "box", Grade("1", "correct", 1.0)),
        ("fails", r"\boxed{7}", "box", Grade("7", "correct", 1.0)),
        ("allocates", r"\boxed{7}", "box", Grade("7", "correct", 1.0)),
    ],
)
def test_a_score_is_a_verdict(judge: Judge, name, text, finish, grade) -> None:
    assert judge(name, text, finish) == (grade, [])


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fails", "failed in its call: ZeroDivisionError (division by zero) at "),
        ("odd", "failed in its call: Odd at "),
        ("exits", "failed in its call: SystemExit (0) at "),
        ("stops", "KeyboardInterrupt"),
        ("deep", "failed in its call: RecursionError (maximum recursion depth exceeded"),
        ("asks", "failed in its call: EOFError (EOF when reading a line) at "),
        ("generates", "gives <generator object generates> (generator) in its call; it must ret"),
        ("awaits", "gives <coroutine object awaits> (coroutine) in its call; it must return a s"),
        ("array", "gives array([1., 1.]) (ndarray) in its call; it must return a score in [0, "),
        ("text", "gives '1' (str) in its call; it must return a score in [0, 1]"),
        ("beyond", "gives 1.5 (float) in its call; it must return a score in [0, 1]"),
        ("none", "gives None in its call; it must return a score in [0, 1], or (score, status)"),
        ("nan", "gives nan (float) in its call; it must return a score in [0, 1]"),
        ("hidden", "gives ... (Hidden) in its call; it must return a score in [0, 1]"),
        ("status", "gives (1, 'excellent') (tuple) in its call; it must return (score, status), "),
    ],
)
def test_what_is_no_verdict_is_ungradable_and_told(judge: Judge, name, why) -> None:
    grade, [told] = judge(name)
    assert grade == Grade("9", "ungradable")
    assert told.startswith(f"1 answer is ungradable: the plugin 'judges:{name}' {why}") or (
        name == "stops" and told == f"1 answer is ungradable: {why}"
    )
    assert " at 0x" not in told


@pytest.mark.slow
def test_memory_has_an_end(judge: Judge) -> None:
    grade, [told] = judge("allocates", r"\boxed{big}")
    assert grade == Grade("big", "ungradable")
    assert "failed in its call: MemoryError" in told
    assert judge("allocates") == (Grade("9", "correct", 1.0), [])


def test_metadata_that_are_no_json_are_text_or_told(judge: Judge) -> None:
    held: list[object] = []
    held.append(held)
    assert judge("keeps", when={1, 2}) == (Grade("9", "correct", 1.0), [])
    grade, [told] = judge("keeps", when=held)
    assert grade.status == "ungradable"
    assert "its metadata cannot be handed to 'judges:keeps' (Circular reference" in told


def test_failures_are_added_up_by_function(judge: Judge) -> None:
    with Grader(workers=1) as grader:
        for why in ("same", "same", "other"):
            grader._judges._fail("judges:half", False, why)
        grader._judges._fail("judges:half", True, "same")
        assert grader.untold() == [
            "2 answers are ungradable: same (and 1 for other reasons)",
            "1 completion moves nothing: same",
        ]
        for number in [0, *range(200)]:
            grader._judges._fail("judges:half", False, str(number))
        assert grader.untold() == ["2 answers are ungradable: 0 (and 199 for other reasons)"]
        assert grader.untold() == []


def test_a_function_that_is_not_there_stops(judge: Judge) -> None:
    with pytest.raises(UserError, match="the module 'judges' has no 'nobody'"):
        judge("nobody")
    with pytest.raises(UserError, match="'judges:number' is a int and no function"):
        judge("number")
    assert judge("same") == (Grade("9", "correct", 1.0), [])


@pytest.mark.slow
def test_one_that_hangs_or_ends_its_process_hurts_no_other_answer(
    judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plugins.TIMEOUT, "1")
    grade, [told] = judge("hangs", r"\boxed{8}")
    assert grade.status == "ungradable"
    assert told.endswith(
        "longer than 1 s; mend it, or give it longer (BUTWAIT_PLUGIN_TIMEOUT=SECONDS)"
    )
    assert judge("hangs", r"\boxed{9}") == (Grade("9", "correct", 1.0), [])
    grade, [told] = judge("leaves")
    assert (grade.status, told) == (
        "ungradable",
        "1 answer is ungradable: the plugin 'judges:leaves' ended its process",
    )
    assert judge("half") == (Grade("9", "wrong", 0.5), [])


@pytest.mark.slow
def test_a_module_that_is_changed_while_it_is_in_use_stops(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_folder / "mine.py"
    file.write_text("def judge(*given):\n    return 1\n")
    problem = Problem("p", "How?", "9", verifier="mine:judge")
    with Grader(workers=1) as grader:
        grader.expect([problem])
        file.write_text("def judge(*given):\n    return 0.5\n")
        with pytest.raises(UserError, match="the module of 'mine:judge' was changed while it is"):
            grader.grade("9", problem)


@pytest.mark.slow
def test_the_current_folder_goes_before_the_recipes(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same file is imported here, judged there and part of the identity."""
    for name, score in (("there", 0.25), (".", 0.75)):
        (own_folder / name).mkdir(exist_ok=True)
        (own_folder / name / "twice.py").write_text(f"def judge(*given):\n    return {score}\n")
    monkeypatch.setattr(plugins, "_places", [str(own_folder / "there")])
    assert plugins.load_plugin("twice:judge", "it")() == 0.75
    assert plugins.source_file("twice:judge") == own_folder / "twice.py"
    with Grader(workers=1) as grader:
        grade = grader.grade(r"\boxed{9}", Problem("p", "How?", "9", verifier="twice:judge"))
    assert grade.score == 0.75


def test_a_function_that_is_missing_is_told_before_a_run(own_folder: Path, command) -> None:
    (own_folder / "mine.yaml").write_text(MISSING)
    (own_folder / "present.py").write_text("def one(*given):\n    return 1\n")
    code, _, told = command("check", "mine.yaml")
    assert code == 2
    assert "mine.yaml:5: 'absent:judge' cannot be imported" in told
    assert "mine.yaml:12: `stages.rl.reward.functions.1.function`: the module 'present' h" in told
    assert "functions.0" not in told


def test_a_set_names_its_verifier(own_folder: Path) -> None:
    (own_folder / "of_a_set.py").write_text("def half(*given):\n    return 0.5\nnumber = 5\n")
    (own_folder / "broken.py").write_text("def half(:\n")
    (own_folder / "lacks.py").write_text("import not_installed_anywhere\n")
    rows = [{"question": "How?", "answer": None}, {"question": "Who?", "answer": "0101"}]
    (own_folder / "mine.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = {"source": "mine.jsonl", "verifier": "of_a_set:half"}

    def load(**others: str) -> list[Problem]:
        return load_problems(ProblemSetSettings.model_validate(settings | others))

    first, second = load()
    assert (first.verifier, first.answer, first.judged) == ("of_a_set:half", None, True)
    assert (second.answer, second.answer_kind) == ("0101", "text")
    assert first.row()["verifier"] == "of_a_set:half"
    for name, why in (
        ("of_a_set:haf", "verifier: the module 'of_a_set' has no 'haf'; did you mean half?"),
        ("of_a_set:number", "verifier: 'of_a_set:number' is a int and no function"),
        ("broken:half", "verifier: 'broken:half' cannot be imported"),
        ("lacks:half", "cannot be imported (No module named 'not_installed_anywhere')"),
    ):
        with pytest.raises(UserError) as error:
            load(verifier=name)
        assert why in str(error.value)
    for name in ("of_a_set", "gym:countdown"):
        with pytest.raises(ValueError, match="is not of the form module:function"):
            load(verifier=name)


@pytest.mark.slow
def test_what_a_verifier_starts_ends_with_the_grader(own_folder: Path) -> None:
    (own_folder / "starts.py").write_text(
        "import os, subprocess, time\n\n"
        "def judge(*given):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        time.sleep(1000)\n"
        "    subprocess.Popen(['sleep', '1000'])\n"
        "    return 1\n"
    )
    before = set(psutil.Process().children(recursive=True))
    with Grader(workers=1) as grader:
        assert grader.grade("9", Problem("p", "How?", "9", verifier="starts:judge")).correct
        started = set(psutil.Process().children(recursive=True)) - before
        assert len(started) == 3
    gone, _ = psutil.wait_procs(started, timeout=10)
    ended = {process for process in started if process in gone or not process.is_running()}
    zombies = {p for p in started - ended if p.status() == psutil.STATUS_ZOMBIE}
    assert started == ended | zombies

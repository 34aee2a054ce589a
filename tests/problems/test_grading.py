"""Grading: typed golds, statuses, votes, and processes that are killed."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import psutil
import pytest

from butwait.problems.equality.pool import WorkerDiedError, WorkerPool
from butwait.problems.grading import Grader
from butwait.records import AnswerKind, Grade, Problem

SLOW = r"\int_0^\infty e^{-x^x} dx"
"""A formula that sympy integrates for minutes."""
HOG = r"\prod_{k=1}^{9000} (x+k)"
"""A formula that math-verify multiplies out."""


def problem(gold: str | None, kind: AnswerKind = "math") -> Problem:
    return Problem("p", "?", gold, kind)


def boxed(answer: str) -> str:
    return rf"The answer is $\boxed{{{answer}}}$."


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    with Grader(workers=2) as grader:
        yield grader


def children() -> list[psutil.Process]:
    return [p for p in psutil.Process().children(recursive=True) if p.status() != "zombie"]


def wait_until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_integers_are_graded_without_a_process() -> None:
    before = len(children())
    with Grader() as grader:
        assert grader.grade(boxed("073"), problem("73", "integer")) == Grade("073", "correct")
        assert grader.grade(boxed("74"), problem("73", "integer")) == Grade("74", "wrong")
        assert grader.grade(boxed("9^{9^{9^9}}"), problem("73", "integer")).status == "wrong"
        assert grader.grade(boxed("1/2"), problem("0.5")).status == "correct"
        assert grader.grade(boxed(r"\text{(C)}"), problem("C")).status == "correct"
        assert len(children()) == before


@pytest.mark.parametrize(
    ("text", "gold", "kind", "finish", "status"),
    [
        (boxed("7"), None, "integer", "eos", "ungradable"),
        (boxed("7"), " ", "math", "eos", "ungradable"),
        (boxed("7"), "lucky", "integer", "eos", "ungradable"),
        (boxed("7"), "seven", "integer", "eos", "correct"),
        (boxed(r"\log_2 8"), "3", "integer", "eos", "correct"),
        (boxed(r"\log_2 9"), "3", "integer", "eos", "wrong"),
        (boxed(r"\sqrt{2}"), "0.30000000000000004", "math", "eos", "wrong"),
        (boxed(r"\frac{1"), r"\frac{1", "math", "eos", "ungradable"),
        (boxed("x"), r"\frac{}{}", "math", "eos", "ungradable"),
        ("no idea", "7", "integer", "eos", "no_answer"),
        ("the answer is 7", "7", "integer", "length", "truncated"),
        (r"\boxed{7} wait \boxed{", "7", "integer", "length", "truncated"),
        (r"<think>\boxed{7}", "7", "integer", "length", "truncated"),
        (r"\boxed{7} and on", "7", "integer", "length", "correct"),
        ("", "7", "integer", "eos", "no_answer"),
        (boxed("2(x+1)"), "2x+2", "math", "box", "correct"),
        (boxed("2(x-1)"), "2x+2", "math", "box", "wrong"),
        (boxed(r"\frac{x}{"), "2x+2", "math", "eos", "no_answer"),
        (boxed(r"\foo\bar"), "2x+2", "math", "eos", "wrong"),
    ],
)
def test_every_grade_has_a_status(
    grader: Grader, text: str, gold: str | None, kind: AnswerKind, finish: str, status: str
) -> None:
    assert grader.grade(text, problem(gold, kind), finish).status == status


def test_several_boxes_count_together_only_for_a_gold_of_several_values(grader: Grader) -> None:
    text = r"\boxed{2}, \boxed{3}, and \boxed{5}"
    assert grader.grade(text, problem(r"\{2,3,5\}")) == Grade("2, 3, 5", "correct")
    assert grader.grade(text, problem("5", "integer")) == Grade("5", "correct")
    assert grader.grade(r"\boxed{2} or \boxed{5}", problem("5", "integer")).status == "wrong"


@pytest.mark.parametrize("formula", [SLOW, HOG])
def test_an_answer_that_hangs_is_wrong_and_hurts_no_other(formula: str) -> None:
    with Grader(workers=1, time_limit=0.5) as grader:
        assert grader.equal("x+1", "1+x", "math")
        start = time.monotonic()
        assert grader.grade(boxed(formula), problem(r"\sqrt{2}")).status == "wrong"
        assert time.monotonic() - start < 5.0
        assert grader.grade(boxed("2^{1/2}"), problem(r"\sqrt{2}")).status == "correct"


def test_a_gold_answer_that_hangs_is_ungradable_but_equals_its_own_text() -> None:
    with Grader(workers=1, time_limit=0.5) as grader:
        assert grader.grade(boxed(r"\sqrt{2}"), problem(SLOW)).status == "ungradable"
        assert grader.grade(boxed(SLOW), problem(SLOW)).status == "correct"


def test_a_busy_machine_changes_no_verdict() -> None:
    script = """
import io, os, time
from butwait.problems.equality import worker
def work(gold, answer):
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    return True
burners = []
for _ in range(4 * os.cpu_count()):
    if (child := os.fork()) == 0:
        while True:
            pass
    burners.append(child)
start = time.monotonic()
print(worker.in_child(work, "x", "x", 0.8, io.FileIO(os.dup(1), "w")))
print(time.monotonic() - start > 0.8)
for child in burners:
    os.kill(child, 9)
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.split() == ["equal", "True"]


def test_c_code_that_ignores_signals_and_a_memory_hog_are_ended() -> None:
    script = """
import io, os, re, time
from butwait.problems.equality import worker
worker.limit_memory(1 << 30)
stuck = lambda gold, answer: bool(re.match("(a+)+$", "a" * 60 + "b"))
hog = lambda gold, answer: bool(bytearray(3 << 30))
deep = lambda gold, answer: deep(gold, answer)
for compare in (stuck, hog, deep, str.__eq__):
    pipe = io.FileIO(os.dup(1), "w")
    start = time.monotonic()
    verdict = worker.in_child(compare, "x", "x", 0.5, pipe)
    print(verdict, time.monotonic() - start < 5, flush=True)
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.split() == ["limit", "True"] * 3 + ["equal", "True"]


KINDS = {  # what stands before, is repeated, stands after
    "braces": (r"\boxed{", "{", "1"),
    "spaces": (r"\boxed{\text{", " ", "!}}"),
    "displays": ("The answer is ", r"\[ ", ""),
    "dollars": ("The answer is ", "$1", ""),
    "digits": (r"\boxed{", "7", "}"),
    "fractions": (r"\boxed{", r"\frac{1}{", "1}"),
    "towers": (r"\boxed{", "9^", "9}"),
    "factorials": (r"\boxed{9", "!", "}"),
    "integrals": (r"\boxed{", r"\int_0^1 x ", "dx}"),
    "units": (r"\boxed{5 ", r"\text{m}", "!}"),
    "words": ("the answer is ", "two ", ""),
    "announcements": ("", "are the answer ", ""),
    "tags": ("", "<answer>", ""),
    "periods": (r"\boxed{0.", "3", r"\ldots}"),
    "matrices": (r"\boxed{", r"\begin{pmatrix}1", "}"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1_500, 10_000, 1_000_000])
def test_hostile_text_is_graded_in_linear_time(grader: Grader, kind: str, size: int) -> None:
    before, repeated, after = KINDS[kind]
    text = before + repeated * (size // len(repeated)) + after
    for gold, answer_kind in (("7", "integer"), (r"\frac{\sqrt{2}}{3}", "math")):
        start = time.process_time()
        status = grader.grade(text, problem(gold, answer_kind)).status
        assert time.process_time() - start < 2.0
        assert status in ("wrong", "no_answer")


def test_grading_processes_have_a_memory_limit() -> None:
    before = set(children())
    with Grader(workers=1, memory_limit=600 << 20) as grader:
        assert grader.equal("x+1", "1+x", "math")
        (worker,) = set(children()) - before
        assert worker.rlimit(psutil.RLIMIT_AS)[0] == 600 << 20


def test_grading_from_eight_threads(grader: Grader) -> None:
    cases = [(f"{i}x + {i}", f"{i}(x+{1 if i % 2 else 2})", bool(i % 2)) for i in range(1, 25)]
    with ThreadPoolExecutor(8) as threads:
        grades = threads.map(lambda case: grader.grade(boxed(case[1]), problem(case[0])), cases)
        assert [grade.correct for grade in grades] == [correct for _, _, correct in cases]


def test_an_event_loop_goes_on_while_algebra_runs() -> None:
    async def main(grader: Grader) -> tuple[list[Grade], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.02)
                ticks += 1

        ticking = asyncio.create_task(tick())
        golds = ["x+1", "x+2", r"\sqrt{2}", r"\pi"]
        answers = ["1+x", "1+x", SLOW, SLOW]
        pairs = zip(golds, answers, strict=True)
        grades = await asyncio.gather(*(grader.agrade(boxed(a), problem(g)) for g, a in pairs))
        ticking.cancel()
        return grades, ticks

    with Grader(workers=2, time_limit=0.5) as grader:
        grades, ticks = asyncio.run(main(grader))
        assert asyncio.run(grader.aequal("2x", "x+x", "math"))
    assert [g.status for g in grades] == ["correct", "wrong", "wrong", "wrong"]
    assert ticks >= 5


def kill_worker_at_work() -> None:
    """Kills the grading process, once it has forked a child for its case."""

    def at_work() -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):  # one that ended meanwhile
            return [p for p in psutil.Process().children() if p.children()]
        return []

    assert wait_until(lambda: bool(at_work()))
    (worker,) = at_work()
    worker.kill()
    assert wait_until(lambda: worker not in children())


def test_a_process_killed_in_the_middle_of_a_case_is_replaced() -> None:
    pool = WorkerPool("butwait.problems.equality.worker", (1.0, 1 << 30), 1, 1.0)
    try:
        assert pool.ask({"gold": "x+1", "answer": "1+x"}) == "equal"
        with ThreadPoolExecutor(1) as thread:
            once = thread.submit(pool.ask, {"gold": "x", "answer": SLOW})
            kill_worker_at_work()
            assert once.result() == "different"  # asked again of a second process
            twice = thread.submit(pool.ask, {"gold": "x", "answer": SLOW})
            kill_worker_at_work()
            kill_worker_at_work()
            with pytest.raises(WorkerDiedError):
                twice.result()
        assert pool.ask({"gold": "x+1", "answer": "x+1+0"}) == "equal"
    finally:
        pool.close()


def test_no_process_survives_close() -> None:
    before = set(children())
    grader = Grader(workers=2, time_limit=30.0)
    assert grader.equal("x+1", "1+x", "math")
    with ThreadPoolExecutor(1) as thread:
        hanging = thread.submit(grader.grade, boxed(SLOW), problem(r"\sqrt{2}"))
        assert wait_until(lambda: any(p.children() for p in set(children()) - before))
        family = set(children()) - before
        assert len(family) == 2  # the grading process and the child on its case
        grader.close()
        assert hanging.exception(timeout=60) is not None
    assert wait_until(lambda: not any(p.is_running() for p in family))
    with pytest.raises(RuntimeError, match="closed"):
        grader.grade(boxed("x^2"), problem("x^3"))
    grader.close()


def test_no_process_survives_the_death_of_its_parent() -> None:
    script = (
        "from butwait.problems.grading import Grader\n"
        "from butwait.records import Problem\n"
        "g = Grader(workers=1, time_limit=10.0)\n"
        "assert g.equal('x+1', '1+x', 'math')\n"
        "print('ready', flush=True)\n"
        rf"g.grade(r'\boxed{{{SLOW}}}', Problem('p', '', r'\sqrt{{2}}'))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        me = psutil.Process(parent.pid)
        assert wait_until(lambda: len(me.children(recursive=True)) == 2)
        family = me.children(recursive=True)
        parent.kill()
    assert wait_until(lambda: not any(p.is_running() for p in family))


def test_a_grader_belongs_to_its_process(grader: Grader) -> None:
    assert grader.equal("x+1", "1+x", "math")
    child = os.fork()
    if child == 0:
        try:
            grader.grade(boxed("x^2"), problem("x^3"))
        except RuntimeError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_votes_use_a_symmetric_equality(grader: Grader) -> None:
    pairs = [
        ("073", "73", "integer", True),
        ("73", "74", "integer", False),
        ("?", "?", "integer", True),
        (r"\frac{1}{2}", "0.5", "math", True),
        ("x=5", "5", "math", True),
        (r"50\%", "50", "math", True),
        ("2(x+1)", "2x+2", "math", True),
        ("x^2", "x^3", "math", False),
        (r"\frac{", r"\frac{", "math", True),
        (r"\frac{", "x", "math", False),
        (r"(0,1)", "0<x<1", "math", True),
        (r"\log_2 8", "3", "integer", True),
        (r"\log_2 8", r"\log_3 27", "integer", True),
    ]
    for a, b, kind, expected in pairs:
        assert grader.equal(a, b, kind) is expected, (a, b)
        assert grader.equal(b, a, kind) is expected, (b, a)


def test_a_repeated_case_is_not_computed_again() -> None:
    with Grader(workers=1) as grader:
        assert grader.equal("3(x+1)", "3x+3", "math")
    # Its processes are gone: none is left to compute anything.
    assert grader.equal("3(x+1)", "3x+3", "math")


@pytest.mark.parametrize(
    ("golds", "kind", "text", "status"),
    [
        (("1/2", "half of it"), "math", r"\boxed{0.5}", "correct"),
        (("1/2", "\\sqrt{3}"), "math", r"\boxed{3^{1/2}}", "correct"),
        (("1/2", "\\sqrt{3}"), "math", r"\boxed{3}", "wrong"),
        (("7", "8"), "integer", r"\boxed{8}", "correct"),
        (("7", "8"), "integer", r"\boxed{9}", "wrong"),
        (("7", "8"), "integer", "", "no_answer"),
        (("1,2", "3"), "math", r"\boxed{1} and \boxed{2}", "correct"),
        (("\\frac{1", "3"), "math", r"\boxed{3}", "correct"),
        (("\\frac{1", "3"), "math", r"\boxed{4}", "wrong"),
        (("\\frac{1", "\\frac{2"), "math", r"\boxed{4}", "ungradable"),
    ],
)
def test_the_best_verdict_of_several_gold_answers_counts(
    grader: Grader, golds: tuple[str, ...], kind: AnswerKind, text: str, status: str
) -> None:
    asked = Problem("p", "", golds[0], kind, also=golds[1:])
    found = grader.grade(text, asked)
    assert found.status == status
    assert asyncio.run(grader.agrade(text, asked)) == found
    turned = Problem("p", "", golds[-1], kind, also=golds[-2::-1])
    assert grader.grade(text, turned) == found
    cut = "ungradable" if status == "ungradable" else "truncated"
    assert grader.grade("\\boxed{", asked, "length").status == cut


@pytest.mark.parametrize(
    ("question", "gold", "answer", "status"),
    [
        ("What percent of 80 is 20?", "25", r"25\%", "correct"),
        ("What percent of 80 is 20?", "25", r"25 \text{ percent}", "correct"),
        ("Which \\% of the marbles is red?", "33.5", r"33.5\%", "correct"),
        ("What is the percentage?", "0.25", r"25\%", "correct"),
        ("What percent of 80 is 20?", "25", r"26\%", "wrong"),
        ("How many marbles are red?", "25", r"25\%", "wrong"),
        ("What is the price after a discount of $20\\%$?", "40", r"40\%", "wrong"),
        ("What is 20 percent of 25?", "5", r"5\%", "wrong"),
    ],
)
def test_a_percent_sign_is_what_the_question_asks_for(
    question: str, gold: str, answer: str, status: str
) -> None:
    for kind in ("integer", "math")[gold != "25" :]:
        problem = Problem("1", question, gold, kind)  # type: ignore[arg-type]
        with Grader() as grader:
            assert grader.grade(f"\\boxed{{{answer}}}", problem).status == status

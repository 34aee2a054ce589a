"""Grades completions against gold answers.

Integers are graded in-process by exact arithmetic. Other answers are compared in-process where
words, shapes and numbers decide, and by math-verify in a process that can be killed where algebra
is needed. ``docs/grading.md`` states every rule.
"""

import asyncio
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from types import TracebackType
from typing import Any, TypeVar

from butwait.problems.answers import (
    box_closed,
    gold_text,
    joined_boxes,
    needs_calculation,
    read_answer,
    read_integer,
    same_text,
)
from butwait.problems.equality.compare import (
    NeedsAlgebraError,
    UnreadableGoldError,
    equal,
    is_collection,
    is_readable,
)
from butwait.problems.equality.notation import canonical
from butwait.problems.equality.pool import WorkerDiedError, WorkerPool
from butwait.problems.equality.worker import Verdict
from butwait.problems.judging import Judges
from butwait.problems.unfinished import is_unfinished
from butwait.problems.verifying import Verify
from butwait.records import AnswerKind, Grade, Problem, Status

logger = logging.getLogger(__name__)

T = TypeVar("T")

_CACHE_SIZE = 50_000
_ASKS_PERCENT = re.compile(r"(?i)(?<![\d}$\\])(?<![\d}$][\s~-])(?:\\?%|\bper ?cent)")
"""A percent sign or word that no number stands before: what a question may ask for."""
_STATUS: dict[Verdict, Status] = {
    "equal": "correct",
    "different": "wrong",
    "unreadable": "ungradable",
    "limit": "ungradable",
}


class Grader:
    """Grades answers; callable from any thread and from any event loop.

    A context manager: ``close`` ends its processes. They are started by the first answer that
    needs algebra, and end by themselves when the process that made the grader does.
    """

    def __init__(
        self,
        *,
        workers: int | None = None,
        time_limit: float = 1.0,
        memory_limit: int = 1 << 30,
        verifiers: Mapping[str, Verify] | None = None,
    ) -> None:
        """
        Args:
            workers: grading processes at most; by default one a core, no more than 8.
            time_limit: seconds of the processor that the algebra of one comparison may use.
            memory_limit: bytes of address space of one grading process.
            verifiers: functions that this process holds, by what a problem's ``verifier`` calls
                them.
        """
        self.workers = workers or min(8, os.cpu_count() or 1)
        algebra = "butwait.problems.equality.worker"
        self._pool = WorkerPool(algebra, (time_limit, memory_limit), self.workers, time_limit)
        self._judges = Judges(self.workers, verifiers or {})
        self._threads = ThreadPoolExecutor(self.workers, thread_name_prefix="butwait-grading")
        self._verdicts: OrderedDict[tuple[str, str], Status] = OrderedDict()
        self._lock = Lock()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Starts a grading process ahead of the first answer that needs one."""
        self._pool.start()

    def close(self) -> None:
        """Ends the grading processes, and logs what ``untold`` would say. A second call does
        nothing."""
        self._pool.close()
        self._judges.close()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for line in self.untold():
            logger.warning("%s", line)

    def expect(self, problems: Iterable[Problem]) -> None:
        """Holds the verifiers of these problems to what they are now."""
        self._judges.expect(p.verifier for p in problems if p.verifier is not None)

    def grade(self, text: str, problem: Problem, finish: str = "eos") -> Grade:
        """The verdict on a completion.

        Where several gold answers are accepted, the verdict is the best that one of them gives:
        ``ungradable`` only where none of them can be judged.

        Args:
            text: the completion.
            problem: its gold answers and its ``answer_kind`` are used.
            finish: why the completion ended; ``length`` without a closed box is ``truncated``.
        """
        if problem.verifier is not None:
            return self._verified(text, problem, finish)
        readings = [_read(text, one, finish) for one in _alone(problem)]
        return _best(
            reading
            if isinstance(reading, Grade)
            else Grade(reading.answer, self._compare(reading.gold, reading.answer))
            for reading in readings
        )

    async def agrade(self, text: str, problem: Problem, finish: str = "eos") -> Grade:
        """``grade`` without blocking the event loop while algebra runs."""
        if problem.verifier is not None:
            return await self._in_thread(self._verified, text, problem, finish)
        grades = []
        for one in _alone(problem):
            reading = _read(text, one, finish)
            if isinstance(reading, _Pair):
                pair = (reading.gold, reading.answer)
                if (quick := _compare_here(*pair)) is not None:
                    status = quick
                else:
                    status = await self._in_thread(self._compare, *pair)
                reading = Grade(reading.answer, status)
            if reading.correct:
                return reading
            grades.append(reading)
        return _best(grades)

    @property
    def judges(self) -> Judges:
        """Who asks functions of one's own."""
        return self._judges

    def rewards(self, name: str, cases: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """What a reward function of one's own gives for each case (``question``, ``answer``,
        ``metadata``), any finite number; None where it has none, which ``untold`` tells.

        Raises UserError where there is no such function, or it was changed.
        """

        def one(case: Mapping[str, Any]) -> float | None:
            said = self._judges.ask(name, case, reward=True)
            return None if said is None else said[0]

        return list(self._threads.map(one, cases))

    def untold(self) -> list[str]:
        """Why functions of one's own gave no verdict, and how often, since this was asked last: a
        sentence each."""
        return self._judges.untold()

    def equal(self, a: str, b: str, kind: AnswerKind) -> bool:
        """Whether two extracted answers are the same answer, for majority votes.

        Symmetric: equal where either verifies against the other. An answer that cannot be read
        equals only its own text.
        """
        quick = _equal_here(a, b, kind)
        if quick is not None:
            return quick
        return self._compare(a, b) == "correct" or self._compare(b, a) == "correct"

    async def aequal(self, a: str, b: str, kind: AnswerKind) -> bool:
        """``equal`` without blocking the event loop."""
        quick = _equal_here(a, b, kind)
        return await self._in_thread(self.equal, a, b, kind) if quick is None else quick

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *args)

    def _verified(self, text: str, problem: Problem, finish: str) -> Grade:
        """The verdict of the problem's own verifier. What has none is ``ungradable``."""
        answer = read_answer(text, problem)
        if finish == "length" and (answer is None or not box_closed(text)):
            return Grade(None, "truncated", 0.0)
        metadata = {**problem.metadata, "gold": problem.answer, "response": text}
        case = {"question": problem.question, "answer": answer, "metadata": metadata}
        assert problem.verifier is not None
        said = self._judges.ask(problem.verifier, case, reward=False)
        if said is None:
            return Grade(answer, "ungradable")
        score, status = said
        if status is None:
            missing: Status = "no_answer" if answer is None else "wrong"
            status = "correct" if score >= 1.0 else missing
        return Grade(answer, status, score)

    def _compare(self, gold: str, answer: str) -> Status:
        status = _compare_here(gold, answer)
        if status is not None:
            return status
        with self._lock:
            if (gold, answer) in self._verdicts:
                self._verdicts.move_to_end((gold, answer))
                return self._verdicts[gold, answer]
        try:
            verdict = self._pool.ask({"gold": gold, "answer": answer})
        except WorkerDiedError:
            return "ungradable"
        status = _STATUS[verdict]  # type: ignore[index]
        with self._lock:
            self._verdicts[gold, answer] = status
            if len(self._verdicts) > _CACHE_SIZE:
                self._verdicts.popitem(last=False)
        return status


@dataclass(frozen=True, slots=True)
class _Pair:
    """A gold answer and an answer whose formulas must be compared."""

    gold: str
    answer: str


def _alone(problem: Problem) -> list[Problem]:
    """The problem with each of its gold answers alone."""
    if not problem.also:
        return [problem]
    return [replace(problem, answer=gold, also=()) for gold in problem.golds]


def _best(grades: Iterable[Grade]) -> Grade:
    """The first that is correct, else the first that is a verdict at all, else the first."""
    first: Grade | None = None
    for grade in grades:
        if grade.correct:
            return grade
        if first is None or (first.status == "ungradable" != grade.status):
            first = grade
    assert first is not None, "every problem is read once"
    return first


def _read(text: str, problem: Problem, finish: str) -> Grade | _Pair:
    """The verdict where it needs no comparison of formulas, else what to compare."""
    gold, kind = gold_text(problem.answer), problem.answer_kind
    answer = read_answer(text, problem)
    gold_value = read_integer(gold) if gold is not None and kind == "integer" else None
    readable = gold_value is not None if kind == "integer" else kind == "text" or is_readable(gold)
    if gold is None or not readable:
        return Grade(answer, "ungradable")
    if finish == "length" and (answer is None or not box_closed(text)):
        return Grade(None, "truncated")
    if answer is None:
        return Grade(None, "no_answer")
    if kind == "text":
        return Grade(answer, "correct" if same_text(gold, answer) else "wrong")
    if _in_percent(str(gold_value) if kind == "integer" else gold, answer, problem.question):
        return Grade(answer, "correct")
    found: Grade | _Pair = _Pair(gold, answer)
    if kind == "integer":
        found, value = _Pair(str(gold_value), answer), read_integer(answer)
        if value is not None or not needs_calculation(answer):
            found = Grade(answer, "correct" if value == gold_value else "wrong")
    elif is_collection(gold):
        found = _Pair(gold, joined_boxes(text) or answer)
    if isinstance(found, Grade) and not found.correct:
        return found
    unfinished = is_unfinished(gold, answer, problem.question, integer=kind == "integer")
    return Grade(answer, "wrong") if unfinished else found


def _in_percent(gold: str, answer: str, question: str) -> bool:
    """Whether ``answer`` is ``gold`` with a percent sign, and the question asks for percent."""
    if ("%" not in answer and "cent" not in answer) or not _ASKS_PERCENT.search(question):
        return False
    latex = canonical(answer)
    if "\\%" not in latex or "\\%" in canonical(gold):
        return False
    return _compare_here(gold, latex.replace("\\%", "")) == "correct"


def _compare_here(gold: str, answer: str) -> Status | None:
    """The status where it needs no algebra, else None."""
    try:
        return "correct" if equal(gold, answer) else "wrong"
    except UnreadableGoldError:
        return "ungradable"
    except NeedsAlgebraError:
        return None


def _equal_here(a: str, b: str, kind: AnswerKind) -> bool | None:
    """``Grader.equal`` where it needs no algebra, else None."""
    if a.strip() == b.strip():
        return True
    if kind == "text":
        return same_text(a, b)
    if kind == "integer":
        first, second = read_integer(a), read_integer(b)
        if None not in (first, second) or not (needs_calculation(a) or needs_calculation(b)):
            return first is not None and first == second
    verdicts = (_compare_here(a, b), _compare_here(b, a))
    if "correct" in verdicts:
        return True
    return None if None in verdicts else False

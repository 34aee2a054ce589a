"""A stored log, graded: as butwait grades where it keeps texts, or by its own scores."""

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from butwait.evaluation.classes import with_classes
from butwait.evaluation.logs.records import Log, LoggedQuestion
from butwait.problems.answers import answer_kind
from butwait.problems.grading import Grader
from butwait.records import Attempt, Problem, UserError

BUTWAIT = "butwait"
PROMPT = "whole_prompt"
"""In a problem's metadata: its question is the whole prompt."""


@dataclass(frozen=True)
class GradedLog:
    """Attributes:
    log: what was graded.
    problems: its questions.
    attempts: problems in order, then samples.
    by: whose verdicts these are: butwait's, or a scorer of the log.
    """

    log: Log
    problems: list[Problem]
    attempts: list[Attempt]
    by: str = BUTWAIT

    @property
    def lengths_known(self) -> bool:
        """Whether the log tells how many tokens each completion has; 0 stands for those that it
        does not tell."""
        return all(a.tokens is not None for q in self.log.questions for a in q.attempts)


def grade_log(log: Log, grader: Grader) -> GradedLog:
    """Grades every text against the question's gold answers.

    An attempt without a text, as of a sample that failed, is ``ungradable``: it counts neither as
    right nor as wrong. Raises UserError for a log that keeps no text at all.
    """
    if not any(a.text is not None for q in log.questions for a in q.attempts):
        raise UserError(
            f"{log.path} keeps no texts, so it cannot be graded again; --theirs takes the scores "
            "that it keeps"
        )
    problems = _problems(log)

    async def of_one(problem: Problem, question: LoggedQuestion) -> list[Attempt]:
        made = [
            await _graded(problem, question, sample, grader)
            for sample in range(len(question.attempts))
        ]
        return await with_classes(made, problem, grader)

    async def of_all() -> list[list[Attempt]]:
        pairs = zip(problems, log.questions, strict=True)
        return await asyncio.gather(*(of_one(*pair) for pair in pairs))

    with ThreadPoolExecutor(1) as thread:  # a notebook has an event loop of its own
        rows = thread.submit(asyncio.run, of_all()).result()
    return GradedLog(log, problems, [row for of_problem in rows for row in of_problem])


def score_log(log: Log, scorer: str | None) -> GradedLog:
    """The verdicts that the log itself holds.

    Args:
        log: the log.
        scorer: whose; None: of the only one.

    Raises UserError where the scorer is none of the log's or could be several, or does not say of
    every attempt whether it is right.
    """
    names = list(log.scores)
    if scorer is None and len(names) != 1:
        told = "holds no scores" if not names else f"has the scorers {', '.join(names)}: name one"
        raise UserError(f"{log.path} {told}" + (" by --scorer" if names else ""))
    chosen = scorer or names[0]
    if chosen not in log.scores:
        known = ", ".join(names) or "none"
        raise UserError(f"{log.path} has no scorer {chosen!r} (there are: {known})")
    scores = log.attempt_scores(chosen)
    if scores is None:
        raise UserError(
            f"{log.path}: {chosen!r} is one number for all {log.k} attempts at a question, which "
            "does not say which of them were right; leave out --theirs to have them graded"
        )
    attempts = []
    for question in log.questions:
        for sample, score in enumerate(scores[question.id]):
            if score not in (None, 0.0, 1.0):
                raise UserError(
                    f"{log.path}: {chosen!r} is {score} at the question {question.id!r}, neither "
                    "right (1) nor wrong (0); leave out --theirs to have the texts graded"
                )
            status = {None: "ungradable", 0.0: "wrong", 1.0: "correct"}[score]
            attempts.append(_attempt(question, sample, None, status, int(not score)))
    return GradedLog(log, _problems(log), attempts, chosen)


def disagreements(graded: GradedLog, scorer: str) -> Iterator[dict[str, Any]]:
    """Where a scorer of the log says right and butwait not, or the other way round: question,
    sample, what each said, the answer that butwait read and the gold answers. Attempts that could
    not be graded are left out. Empty where the scorer has one number for all attempts at a
    question."""
    scores = graded.log.attempt_scores(scorer)
    golds = {problem.id: problem.golds for problem in graded.problems}
    for attempt in graded.attempts if scores else ():
        theirs = scores[attempt.problem_id][attempt.sample]  # type: ignore[index]
        if theirs is None or attempt.status == "ungradable":
            continue  # one of the two has no verdict
        if (theirs == 1.0) != (attempt.status == "correct"):
            yield {
                "id": attempt.problem_id,
                "sample": attempt.sample,
                "theirs": theirs,
                "ours": attempt.status,
                "answer": attempt.answer,
                "gold": list(golds[attempt.problem_id]),
            }


def answered(disagreement: Mapping[str, Any]) -> str:
    """The answer and the first gold answer, of which a log may have none, in words."""
    gold = next(iter(disagreement["gold"]), None)
    return f"answer {disagreement['answer']!r}, gold {gold!r}"


def _problems(log: Log) -> list[Problem]:
    kinds = {answer_kind(gold) for question in log.questions for gold in question.golds}
    kind = kinds.pop() if len(kinds) == 1 else "math"
    metadata = {PROMPT: True} if log.prompts else {}
    return [
        Problem(
            id=question.id,
            question=question.question,
            answer=next(iter(question.golds), None) or None,
            answer_kind=kind,
            source=f"{log.package}, {log.task}",
            metadata=dict(metadata),
            also=question.golds[1:],
        )
        for question in log.questions
    ]


async def _graded(
    problem: Problem, question: LoggedQuestion, sample: int, grader: Grader
) -> Attempt:
    logged = question.attempts[sample]
    if logged.text is None:
        return _attempt(question, sample, None, "ungradable", None)
    grade = await grader.agrade(logged.text, problem, "length" if logged.cut else "eos")
    return _attempt(question, sample, grade.answer, grade.status, None)


def _attempt(
    question: LoggedQuestion, sample: int, answer: str | None, status: Any, label: int | None
) -> Attempt:
    logged = question.attempts[sample]
    return Attempt(
        problem_id=question.id,
        sample=sample,
        text=logged.text or "",
        finish="length" if logged.cut or logged.text is None else "eos",
        answer=answer,
        status=status,
        tokens=logged.tokens or 0,
        reward_tokens=0,
        length=logged.tokens or 0,
        answer_class=label,
    )

"""``butwait attempts``: what an evaluation's model wrote, for a person to read."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.text import Text

from butwait.cli.stored_stages.chosen import (
    UNCHECKED,
    check_problem,
    one_of,
    print_json,
    questions,
    show_question,
    show_rows,
    show_text,
    the_stage,
)
from butwait.cli.stored_stages.paging import paged
from butwait.evaluation.storage import TOKEN_NAMES, stored_problems
from butwait.records import Attempt, Status, UserError
from butwait.running.terminal import visible

FAILED = ("wrong", "no_answer", "truncated")
"""What ``--wrong`` shows: all that count as not solved."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which attempts are meant; everything where nothing is chosen."""

    problem: str | None = None
    status: str | None = None
    wrong: bool = False
    problem_set: str | None = None
    method: str | None = None
    everything: bool = False

    @property
    def some(self) -> bool:
        """Whether texts are asked for: without, a list is shown."""
        return self.everything or self.wrong or (self.status, self.problem) != (None, None)

    @property
    def statuses(self) -> Sequence[str]:
        if self.status is not None:
            return (self.status,)
        return FAILED if self.wrong else get_args(Status)


def attempts(path: Path | None, choice: Choice, as_json: bool) -> None:
    """Prints the chosen attempts of an evaluation, or a list of its questions.

    Raises UserError for a stage without attempts, and a problem, status, set or method that it has
    not.
    """
    one_of(choice.wrong, choice.status, get_args(Status))
    stage = the_stage(path, "attempts", "attempts")
    if stage is None:
        return
    parts = _parts(stage, choice)
    if choice.problem is not None:
        check_problem(choice.problem, (i for part in parts for i in part.ids()), stage)
    if as_json:
        print_json(row for part in parts for row in part.as_json(choice))
        return
    with paged() as screen:
        shown = 0
        for part in parts:
            shown += part.show(screen, choice) if choice.some else part.show_list(screen)
        if not shown:
            screen.print(Text(f"{visible(stage)} has no such attempt"), soft_wrap=True)
        elif not choice.some:
            told = "--problem ID shows one question's texts, --wrong and --status S those of all"
            screen.print(Text(told, style="dim"))


def _parts(stage: Path, choice: Choice) -> list["_Part"]:
    """The stage's sets and methods, in order of their names."""
    found = []
    for folder in sorted((stage / "attempts").glob("*/*")):
        if folder.is_dir():
            found.append(_Part(stage, folder, folder.parent.name, folder.name))
    for option, asked, named in (
        ("--problems", choice.problem_set, [part.problem_set for part in found]),
        ("--method", choice.method, [part.method for part in found]),
    ):
        if asked is not None and asked not in named:
            there = ", ".join(dict.fromkeys(named)) or "none"
            raise UserError(f"{option}: {stage} has no {asked!r} (it has {there})")
    return [
        part
        for part in found
        if choice.problem_set in (None, part.problem_set) and choice.method in (None, part.method)
    ]


@dataclass(frozen=True, slots=True)
class _Part:
    """The attempts at one set by one method."""

    stage: Path
    folder: Path
    problem_set: str
    method: str

    def ids(self) -> Iterator[str]:
        """Of the problems."""
        return (rows[0].problem_id for rows in stored_problems(self.folder, texts=False))

    def chosen(self, choice: Choice) -> Iterator[tuple[str, int, list[Attempt]]]:
        """(problem's id, all of its attempts, the chosen ones): those of one problem with their
        tokens, where they were stored."""
        tokens = choice.problem is not None
        for rows in stored_problems(self.folder, tokens=tokens, problem=choice.problem):
            if kept := [row for row in rows if row.status in choice.statuses]:
                yield rows[0].problem_id, len(rows), kept

    def as_json(self, choice: Choice) -> Iterator[dict[str, Any]]:
        known = questions(self.stage, self.problem_set)
        for problem, _, rows in self.chosen(choice):
            about = known.get(problem, {})
            for row in rows:
                yield {
                    "set": self.problem_set,
                    "method": self.method,
                    "problem_id": problem,
                    "question": about.get("question"),
                    "gold": about.get("answer"),
                    **_plain(row),
                }

    def show(self, screen: Console, choice: Choice) -> int:
        known, shown = questions(self.stage, self.problem_set), 0
        for problem, of, rows in self.chosen(choice):
            heading = f"{problem}  ({self.problem_set} by {self.method})"
            show_question(screen, known.get(problem, {}), heading)
            for row in rows:
                _show_attempt(screen, row, of)
            screen.print()
            shown += len(rows)
        return shown

    def show_list(self, screen: Console) -> int:
        known = questions(self.stage, self.problem_set)
        table, statuses = [("problem", "right", "gold", "answers", "question")], Counter[str]()
        for rows in stored_problems(self.folder, texts=False):
            about = known.get(rows[0].problem_id, {})
            statuses.update(row.status for row in rows)
            right = sum(row.status == "correct" for row in rows)
            table.append(
                (
                    rows[0].problem_id,
                    f"{right} of {len(rows)}",
                    str(about.get("answer") or ""),
                    _answers(rows),
                    str(about.get("question") or ""),
                )
            )
        made = sum(statuses.values())
        if made:
            counts = ", ".join(
                f"{statuses[status]:,} {status.replace('_', ' ')}"
                for status in get_args(Status)
                if statuses[status]
            )
            heading = f"{self.problem_set} by {self.method}: {made:,} attempts at "
            heading += f"{len(table) - 1:,} questions: {counts}"
            screen.print(Text(visible(heading), style="bold"))
            show_rows(screen, table)
            screen.print()
        return made


def _plain(row: Attempt) -> dict[str, Any]:
    """What is known of an attempt, its problem's id aside, as JSON has it."""
    row, by_token = replace(row, by_token=None), row.by_token
    found = {k: v for k, v in asdict(row).items() if k not in ("problem_id", "by_token")}
    if by_token is not None:
        columns = (by_token.characters.tolist(), by_token.logprobs.tolist())
        found |= dict(zip(TOKEN_NAMES, columns, strict=True))
    return found


def _answers(rows: Sequence[Attempt]) -> str:
    """The different answers, the most frequent first: "12 x3, 7"."""
    given = Counter("–" if row.answer is None else row.answer for row in rows)
    return ", ".join(f"{a} x{n}" if n > 1 else a for a, n in given.most_common())


def _show_attempt(screen: Console, row: Attempt, of: int) -> None:
    right = row.status == "correct"
    told = Text(f"  attempt {row.sample + 1} of {of}: ")
    told.append(row.status.replace("_", " "), style="bold green" if right else "bold red")
    answer = "" if row.answer is None else f", answer {visible(row.answer)}"
    score = "" if row.score is None else f", score {row.score:.3g}"
    told.append(f"{answer}{score}, {row.length:,} tokens, ended by {row.finish}")
    screen.print(told)
    if right:
        screen.print(Text(f"    ({UNCHECKED})", style="dim"))
    show_text(screen, row.text, indent="    ")

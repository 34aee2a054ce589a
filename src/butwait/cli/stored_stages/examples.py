"""``butwait examples``: training examples, for a person to read."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from butwait.cli.stored_stages.chosen import (
    check_problem,
    print_json,
    question_sets,
    show_question,
    show_rows,
    show_text,
    the_stage,
)
from butwait.cli.stored_stages.paging import paged
from butwait.records import Example, UserError
from butwait.running.terminal import visible

_STYLES = {"mistake": "red", "doubt": "yellow"}


def examples(
    path: Path | None,
    problem: str | None,
    role: str | None,
    wrong: bool,
    everything: bool,
    as_json: bool,
) -> None:
    """Prints the chosen examples of a data stage, or a list of them.

    Args:
        path: RUN/STAGE.
        problem: whose examples; None: of all.
        role: only those with such a span.
        wrong: only those with a mistake in them.
        everything: all of them, texts included.
        as_json: a JSON array in place of the texts.

    Raises UserError for a stage without examples, and a problem or a role that it has not.
    """
    if wrong and role is not None:
        raise UserError("--wrong and --role are two choices; give one of them")
    role = "mistake" if wrong else role
    stage = the_stage(path, "dataset", "examples")
    if stage is None:
        return
    from butwait.synthesis.dataset import load_examples

    found = load_examples(stage / "dataset")
    if problem is not None:
        check_problem(problem, dict.fromkeys(one.problem_id for one in found), stage)
    roles = sorted({span.role for one in found for span in one.spans})
    if role is not None and role not in roles and not wrong:
        raise UserError(
            f"--role: no example of {stage} has {role!r} (they have {', '.join(roles)})"
        )
    sets = question_sets(stage)
    chosen = [
        (number, one)
        for number, one in enumerate(found, start=1)
        if problem in (None, one.problem_id)
        and (role is None or any(span.role == role for span in one.spans))
    ]
    if as_json:
        print_json(_row(number, one, _known(one, sets)) for number, one in chosen)
        return
    with paged() as screen:
        if not chosen:
            screen.print(Text(f"{visible(stage)} has no such example"), soft_wrap=True)
        elif everything or problem is not None or role is not None:
            for number, one in chosen:
                _show(screen, number, len(found), one, _known(one, sets))
        else:
            _list(screen, stage, found)


def _known(example: Example, sets: Sequence[Mapping[str, dict[str, Any]]]) -> dict[str, Any]:
    """The question with the example's id. Where sets have it for different ones, that which the
    prompt asks; none where it asks none of them, which no id can tell apart."""
    named = [known[example.problem_id] for known in sets if example.problem_id in known]
    prompt = "\n".join(str(message.get("content")) for message in example.prompt)
    asked = [one for one in named if str(one.get("question")).strip() in prompt]
    if asked:
        return max(asked, key=lambda one: len(str(one.get("question"))))
    return named[0] if len({str(one.get("question")) for one in named}) == 1 else {}


def _loss(example: Example, start: int = 0, end: int | None = None) -> int:
    return int(example.loss_mask[start:end].sum())


def _row(number: int, example: Example, known: dict[str, Any]) -> dict[str, Any]:
    return {
        "number": number,
        "problem_id": example.problem_id,
        "question": known.get("question"),
        "gold": known.get("answer"),
        "tokens": len(example.completion_ids),
        "loss_tokens": _loss(example),
        "text": example.text,
        "spans": [
            {
                "role": span.role,
                "start": span.start,
                "end": span.end,
                "loss_tokens": _loss(example, span.start, span.end),
                "text": span.text,
            }
            for span in example.spans
        ],
        "prompt": example.prompt,
        "provenance": example.provenance,
    }


def _list(screen: Console, stage: Path, found: Sequence[Example]) -> None:
    problems = len({one.problem_id for one in found})
    loss = sum(map(_loss, found))
    heading = f"{visible(stage)}: {len(found):,} examples of {problems:,} questions, "
    screen.print(Text(f"{heading}{loss:,} tokens with loss", style="bold"))
    table = [("problem", "number", "tokens", "with loss", "spans", "text")]
    for number, one in enumerate(found, start=1):
        spans = Counter(span.role for span in one.spans)
        told = ", ".join(f"{role} x{n}" if n > 1 else role for role, n in spans.items())
        sizes = (f"{len(one.completion_ids):,}", f"{_loss(one):,}")
        table.append((one.problem_id, f"{number}", *sizes, told, one.text))
    show_rows(screen, table)
    told = "--problem ID shows a question's examples, --wrong those with a mistake in them"
    screen.print(Text(told, style="dim"))


def _show(screen: Console, number: int, of: int, example: Example, known: dict[str, Any]) -> None:
    asked = {"question": example.prompt[-1]["content"]} if example.prompt else {}
    show_question(screen, asked | known, f"{example.problem_id}  (example {number} of {of})")
    for span in example.spans:
        tokens, loss = span.end - span.start, _loss(example, span.start, span.end)
        told = f"  {span.role}: {tokens:,} tokens, {loss:,} with loss"
        screen.print(Text(told, style=_STYLES.get(span.role, "green")))
        show_text(screen, span.text, indent="    ")
    screen.print()

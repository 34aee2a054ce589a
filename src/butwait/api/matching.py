"""The questions that several evaluations have in common, whatever ids each gave them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from butwait.api.sides import Answered
from butwait.evaluation.logs.grading import PROMPT
from butwait.problems.grading import Grader
from butwait.problems.overlap import normalised, text_id
from butwait.records import Attempt, Problem, UserError


def matched(
    sides: Sequence[Answered], grader: Grader, common: bool = False
) -> tuple[list[list[Attempt]], dict[str, Problem], int]:
    """The attempts of all sides with the first one's ids of the questions.

    A question is found on another side by its text; where one of them keeps whole prompts, also by
    the text within it, then by its id, if gold answer and half of the words are the same too.

    Args:
        sides: the baseline first.
        grader: compares gold answers that are written differently.
        common: leave out questions that are not on all sides.

    Returns:
        the attempts of each side; the problems that are compared, by id; how many questions were
        left out, on whatever side.

    Raises:
        UserError: the questions differ and ``common`` is not asked for, none is on all sides, or
            two sides judge one by different gold answers.
    """
    first = sides[0]
    names = {name: name for name in first.problems}
    maps = [names]
    for other in sides[1:]:
        maps.append(_pairs(first, other))
    kept = [name for name in first.problems if all(name in found.values() for found in maps)]
    lost = sum(len(side.problems) for side in sides) - len(kept) * len(sides)
    for other, found in zip(sides[1:], maps[1:], strict=True):
        _check(first, other, found, common)
        _same_golds(first, other, found, grader)
    if not kept:
        told = ", ".join(side.name for side in sides)
        raise UserError(f"compare: no question is common to {told}")
    wanted = set(kept)
    attempts = [
        [
            attempt if found[name] == name else replace(attempt, problem_id=found[name])
            for attempt in side.attempts
            for name in [attempt.problem_id]
            if found.get(name) in wanted
        ]
        for side, found in zip(sides, maps, strict=True)
    ]
    return attempts, {name: first.problems[name] for name in kept}, lost


def _pairs(first: Answered, other: Answered) -> dict[str, str]:
    """id of ``other`` -> id of ``first``, of the questions that both have."""
    by_text = {key: name for name, key in _keys(first).items()}
    found = {name: by_text[key] for name, key in _keys(other).items() if key in by_text}
    if _prompts(first) or _prompts(other):
        mine, theirs = _open(first, other, found)
        found |= _within(first, mine, other, theirs)
        mine, theirs = _open(first, other, found)
        for name in {*mine} & {*theirs}:
            if _alike(first.problems[name], other.problems[name]):
                found[name] = name
    return found


def _open(
    first: Answered, other: Answered, found: Mapping[str, str]
) -> tuple[list[str], list[str]]:
    """The questions of both that have no partner yet."""
    met = set(found.values())
    mine = [name for name in first.problems if name not in met]
    return mine, [name for name in other.problems if name not in found]


def _keys(side: Answered) -> dict[str, str]:
    """id -> a key of the text; the second of two equal texts has another one."""
    times: Counter[str] = Counter()
    keys = {}
    for problem in side.problems.values():
        text = text_id(problem.question)
        times[text] += 1
        keys[problem.id] = f"{text}-{times[text]}"
    return keys


def _prompts(side: Answered) -> bool:
    return any(problem.metadata.get(PROMPT) for problem in side.problems.values())


def _within(
    first: Answered, mine: Sequence[str], other: Answered, theirs: Sequence[str]
) -> dict[str, str]:
    """Pairs of which one text stands in the other, and in no other one."""
    ours = {name: normalised(first.problems[name].question) for name in mine}
    candidates: dict[str, list[str]] = {}
    for name in theirs:
        text = normalised(other.problems[name].question)
        candidates[name] = [own for own, held in ours.items() if held in text or text in held]
    times = Counter(own for found in candidates.values() for own in found)
    return {
        name: found[0]
        for name, found in candidates.items()
        if len(found) == 1 and times[found[0]] == 1
    }


def _alike(a: Problem, b: Problem) -> bool:
    """Whether two questions with one id are one: they have a gold answer and half of the words in
    common."""
    words = [set(normalised(problem.question).split()) for problem in (a, b)]
    shared = len(words[0] & words[1])
    return bool(set(a.golds) & set(b.golds)) and 2 * shared >= min(map(len, words)) > 0


def _check(first: Answered, other: Answered, found: Mapping[str, str], common: bool) -> None:
    met = set(found.values())
    only = [p.question for name, p in first.problems.items() if name not in met]
    only += [p.question for name, p in other.problems.items() if name not in found]
    if only and not common:
        raise UserError(
            f"compare: {first.name} and {other.name} have different questions ({len(only)} stand "
            f"in one of them only, such as {only[0][:80]!r}); compare evaluations of the same "
            "questions, or only the questions that both have (--common)"
        )


def _same_golds(first: Answered, other: Answered, found: Mapping[str, str], grader: Grader) -> None:
    for theirs, mine in found.items():
        one, same = first.problems[mine], other.problems[theirs]
        if one.verifier == same.verifier and (
            set(one.golds) == set(same.golds) or _equal(one, same, grader)
        ):
            continue
        raise UserError(
            f"compare: {first.name} and {other.name} judge {one.question[:80]!r} by different gold "
            f"answers or verifiers ({one.golds} and {same.golds}); evaluate both by the same"
        )


def _equal(a: Problem, b: Problem, grader: Grader) -> bool:
    """Whether every gold answer of one side is one of the other's, by value."""
    if not a.golds or not b.golds:
        return False
    kind = a.answer_kind if a.answer_kind == b.answer_kind else "math"

    def covers(these: Sequence[str], those: Sequence[str]) -> bool:
        return all(any(grader.equal(x, y, kind) for y in those) for x in these)

    return covers(a.golds, b.golds) and covers(b.golds, a.golds)

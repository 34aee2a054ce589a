"""The rounds of a loop: which stages they are, and what their table says."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fake_kinds import KINDS
from report_fake_run import FakeModel, _evaluate, _record, _tree, questions

from butwait.evaluation.compare import compare, with_holm
from butwait.evaluation.storage import read_attempts
from butwait.records import Example, Grade
from butwait.report.collect import evaluations
from butwait.report.lineage import ancestry, supervision_of
from butwait.report.loops import Rounds
from butwait.report.page import write_report
from butwait.report.rounds import rounds_of
from butwait.running.files import write_json
from butwait.search.storage import write_shard as write_trees
from butwait.statistics.intervals import wilson
from butwait.synthesis.dataset import save_examples


def records(*lines: str) -> dict[str, dict[str, Any]]:
    """ "sft_2: sft data_2 sft_1" -> its record."""
    found = {}
    for line in lines:
        name, _, rest = line.partition(": ")
        kind, *inputs = rest.split()
        found[name] = {"name": name, "kind": kind, "from": inputs, "settings": {"kind": kind}}
    return found


FIRST = ("prm: prm", "hunt: search prm", "data: verified hunt", "sft: sft data")
SECOND = ("again: search sft prm", "pooled: verified hunt again", "more: sft pooled")
THIRD = ("third: search more prm", "all: verified hunt again third", "last: sft all")


def loops(*lines: str) -> list[list[tuple]]:
    """(model that searched, searches, training) of each round of each loop."""
    found = Rounds(records(*lines), KINDS).loops()
    return [[(r.model, r.searches, r.training) for r in line] for line in found]


ON = "more: sft pooled sft"
ROUND_1, ROUND_2 = (None, ("hunt",), "sft"), ("sft", ("again",), "more")
ROUND_3 = ("more", ("third",), "last")


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ((), []),
        (FIRST, []),  # one round is no loop
        ((*FIRST, *SECOND), [[ROUND_1, ROUND_2]]),
        ((*FIRST, *SECOND, *THIRD), [[ROUND_1, ROUND_2, ROUND_3]]),
        # Stages in another order than that in which they run.
        ((*THIRD, *SECOND, *FIRST), [[ROUND_1, ROUND_2, ROUND_3]]),
        # Its trees alone, and on from the model of the round before.
        ((*FIRST, SECOND[0], "pooled: verified again", ON), [[ROUND_1, ROUND_2]]),
        # On with the first data, without a search of its own: no round.
        ((*FIRST, "more: sft data sft"), []),
        # The model is trained further before it searches.
        (
            (*FIRST, "rl: grpo sft", "again: search rl", *SECOND[1:]),
            [[(None, ("hunt",), "rl"), ("rl", ("again",), "more")]],
        ),
        # A first model that learned from no search: its search is the first round.
        (
            (
                *("limo: external", "start: sft limo", "hunt: search start", "data: verified hunt"),
                *("sft: sft data", *SECOND),
            ),
            [[("start", ("hunt",), "sft"), ROUND_2]],
        ),
        # A search that chose questions wrote none of the solutions.
        ((*FIRST, SECOND[0], "limo: external again", "more: sft limo"), [
            [ROUND_1, ("sft", ("again",), None)]
        ]),
        # Two searches of one model are one round, also where nothing learns from them.
        (
            (*FIRST, SECOND[0], "harder: search sft"),
            [[ROUND_1, ("sft", ("again", "harder"), None)]],
        ),
        # Two loops that share their first round.
        (
            (*FIRST, *SECOND, "other: sft pooled sft"),
            [[ROUND_1, ROUND_2], [ROUND_1, ("sft", ("again",), "other")]],
        ),
    ],
)  # fmt: skip
def test_rounds_are_found_from_what_stages_take(lines: tuple[str, ...], found: list) -> None:
    assert loops(*lines) == found


def test_many_rounds_end_and_a_circle_does_too() -> None:
    lines = ["sft0: sft"]
    for i in range(1, 41):
        pooled = " ".join(f"hunt{j}" for j in range(1, i + 1))
        lines += [
            f"hunt{i}: search sft{i - 1}",
            f"data{i}: verified {pooled}",
            f"sft{i}: sft data{i}",
        ]
    many = records(*lines)
    assert Rounds(many, KINDS).number("sft40") == 40
    (line,) = Rounds(many, KINDS).loops()
    assert [r.searches for r in line] == [(f"hunt{i}",) for i in range(1, 41)]
    assert supervision_of("sft40", many, KINDS) == "self"
    assert ancestry("sft40", many).startswith("sft40 ← data40 ← hunt1 + hunt2")
    circle = records(
        "a: search b", "c: verified a d", "b: sft c", "d: search e", "e: sft f", "f: verified a d"
    )
    assert Rounds(circle, KINDS).number("b") <= 3
    Rounds(circle, KINDS).loops()


def test_supervision_goes_through_all_rounds() -> None:
    stages = records(*FIRST, *SECOND, *THIRD)
    assert supervision_of("last", stages, KINDS) == "self"
    stages["hunt"] |= {"from": [], "settings": {"reward_model": {"kind": "qwen_math_prm"}}}
    assert supervision_of("last", stages, KINDS) == "external reward"
    assert supervision_of("again", stages, KINDS) == "external reward"


def test_the_lineage_names_each_stage_once() -> None:
    told = ancestry("more", records(*FIRST, *SECOND))
    assert told == "more ← pooled ← hunt + again ← prm + sft ← data"


def example(problem_id: str, text: str, stage: str) -> Example:
    ids = np.arange(len(text), dtype=np.int32)
    return Example(
        problem_id, ids[:2], ids, np.ones(len(ids), bool), (), [], text, "f", {"stage": stage}
    )  # fmt: skip


def looped(run: Path, *, gain: bool = True) -> list[dict[str, Any]]:
    """Two rounds on disk. Questions 0 to 5: the first search solves 0 to 2, the second 2 to 4."""
    rng = np.random.default_rng(0)
    asked, held_out = questions(6, 2), questions(60, 1)
    base, tuned = FakeModel(0.16, rng), FakeModel(0.02, rng)
    for name, solved in (("hunt", (0, 1, 2)), ("again", (2, 3, 4))):
        trees = [_tree(base, i, terms, rng, n=2) for i, terms in asked.items()]
        for i, tree in enumerate(trees):
            status = "correct" if i in solved else "wrong"
            tree.grades.update({node: Grade("1", status) for node in tree.grades})
        write_trees(run / name / "trees" / "shard-00000.parquet", trees)
    q = list(asked)
    first = [example(q[0], "aaaa", "hunt"), example(q[1], "bb", "hunt"), example(q[2], "c", "hunt")]
    # One of the second search's is what the first round learned, but for its white space.
    second = [example(q[2], "c ", "again"), example(q[3], "dddddd", "again")]
    save_examples(run / "data" / "dataset", first)
    save_examples(run / "pooled" / "dataset", [*first[:2], *second])
    stages = [
        _evaluate(run, "before", [], base, held_out, 1.0, False),
        _record("prm", "prm", [], 7.0, {}, {"policy_tokens": 1000}),
        _record("hunt", "search", ["prm"], 5.0, {}, {"policy_tokens": 100}),
        _record("data", "verified", ["hunt"], 0.5, {}),
        _record("sft", "sft", ["data"], 3.0, {}),
        _evaluate(run, "middle", ["sft"], tuned, held_out, 1.0, False),
        _record("again", "search", ["sft", "prm"], 6.0, {}, {"policy_tokens": 120}),
        _record("pooled", "verified", ["hunt", "again"], 0.5, {}, {"policy_tokens": 3}),
        _record("more", "sft", ["pooled"], 4.0, {}),
        _evaluate(run, "after", ["more"], tuned, held_out, 1.0, False),
    ]
    for stage in stages:
        write_json(run / stage["name"] / "stage.json", stage)
    return stages


def compared(run: Path, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    def attempts(stage: str) -> Any:
        return read_attempts(run / stage / "attempts" / "heldout" / "plain")

    keys = [tuple(f"{stage}/heldout/plain" for stage in pair) for pair in pairs]
    return with_holm(
        [
            compare(x, attempts(a), y, attempts(b))
            for (a, b), (x, y) in zip(pairs, keys, strict=True)
        ]
    )


def test_the_table_of_rounds(tmp_path: Path) -> None:
    stages = looped(tmp_path)
    # The second comparison stands the other way round.
    comparisons = compared(tmp_path, ("before", "middle"), ("after", "middle"))
    (loop,) = rounds_of(tmp_path, stages, evaluations(stages, KINDS), comparisons, KINDS)
    assert (loop["loop"], loop["set"], loop["method"]) == ("more", "heldout", "plain")
    assert loop["before"]["key"] == "before/heldout/plain"
    first, second = loop["rounds"]
    assert [(r["round"], r["model"], r["searches"], r["training"]) for r in (first, second)] == [
        (1, None, ["hunt"], "sft"),
        (2, "sft", ["again"], "more"),
    ]
    assert [(r["solved"], r["questions"], r["first_solved"]) for r in (first, second)] == [
        (3, 6, 3),
        (3, 6, 2),
    ]
    assert first["solved_share"] == 0.5
    assert first["interval"] == pytest.approx(wilson(0.5, 6))
    told = ("examples", "examples_of_round", "new_examples", "mean_length")
    assert [first[key] for key in told] == [3, 3, 3, pytest.approx(7 / 3)]
    assert [second[key] for key in told] == [4, 2, 1, 4.0]
    assert first["policy_tokens"] == 1100  # the reward model's rollouts too, once
    assert second["policy_tokens"] == 123
    assert first["stages"] == ["prm", "hunt", "data", "sft"]
    assert second["stages"] == ["again", "pooled", "more"]
    assert first["evaluation"]["pass_at_1"] == stages[5]["metrics"]["heldout/plain"]["pass_at_1"]
    assert first["gain"]["delta"] == comparisons[0]["delta"] > 0.2
    assert first["gain"]["told_apart"]
    assert second["gain"]["delta"] == -comparisons[1]["delta"]
    low, high = comparisons[1]["interval"]
    assert second["gain"]["interval"] == [-high, -low]
    assert not second["gain"]["told_apart"]


def test_the_page_and_the_summary_have_the_same_rows(tmp_path: Path) -> None:
    stages = looped(tmp_path)
    comparisons = compared(tmp_path, ("before", "middle"), ("before", "after"), ("middle", "after"))
    summary = write_report(tmp_path, stages, "loop", comparisons, {}, KINDS)
    (loop,) = summary["rounds"]
    assert [row["solved"] for row in loop["rounds"]] == [3, 3]
    page = (tmp_path / "report.html").read_text()
    rows = page[page.index('<section id="rounds">') :].split("</section>")[0]
    rows = rows.replace("\u202f", " ").replace("\xa0", " ")
    assert "3 of 6, 50.0 % [18.8, 81.2]" in rows
    assert "not told apart" in rows
    assert "15.5 s" in rows  # 7 + 5 + 0.5 + 3
    assert "10.5 s" in rows
    # The verdict is that of the last round, and says so.
    assert ", round 2 solves" in summary["verdict"]
    assert "rounds" not in write_report(tmp_path, stages[:6], "one", comparisons[:1], {}, KINDS)


def test_a_loop_that_has_not_come_to_its_end(tmp_path: Path) -> None:
    stages = looped(tmp_path)[:7]
    stages[-1]["status"] = "running"
    (tmp_path / "again" / "trees" / "shard-00000.parquet").unlink()
    (loop,) = rounds_of(tmp_path, stages, evaluations(stages, KINDS), [], KINDS)
    last = loop["rounds"][-1]
    assert (last["questions"], last["solved_share"], last["training"]) == (0, None, None)
    assert (last["evaluation"], last["gain"], loop["rounds"][0]["gain"]) == (None, None, None)

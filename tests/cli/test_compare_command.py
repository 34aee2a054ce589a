"""`butwait compare`, `import` and `export` as a user meets them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from stored_stages import changed, inspect_log, stage, with_row

import butwait
from butwait.evaluation.compare import compare
from butwait.evaluation.storage import read_attempts
from butwait.running.stages import read_stage

LOGS = Path(__file__).parents[1] / "evaluation" / "logs"
INSPECT = sorted((LOGS / "inspect").glob("*.eval"))
LM_EVAL, LIGHTEVAL = LOGS / "lm_eval", LOGS / "lighteval" / "details" / "org"


NINE, TEN = [1] * 9 + [0] * 21, [1] * 10 + [0] * 20


def test_plus_one_of_thirty(own_folder, command):
    stage(own_folder / "runs/a/base", NINE, 1)
    stage(own_folder / "runs/b/after", TEN, 1, rename="other")
    written = ("--json", "found.json", "--html", "page.html")
    code, out, _ = command("compare", "runs/a/base", "runs/b/after", *written)
    assert code == 0
    assert " ".join(out.split()).startswith(
        "NOT EVIDENCE: after/aime/plain 10/30 against base/aime/plain 9/30, 1 win and 0 losses: "
        "+3.3 points, 95% CI [-7.4, +13.7], exact p = 1.00."
    )
    assert "Smallest significant splits" in " ".join(out.split())
    assert "q9 0/1 -> 1/1 What is 9 + 9?" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads((own_folder / "found.json").read_text())
    assert found["verdict"].startswith("NOT EVIDENCE: after/aime/plain 10/30")
    assert (found["a"], found["b"]) == ("base/aime/plain", "after/aime/plain")
    assert found["delta"] == pytest.approx(1 / 30)
    assert found["interval"] == pytest.approx([-0.074282, 0.136782], abs=1e-6)
    assert (found["p"], found["n"], found["k"]) == (1.0, 30, 1)
    assert (found["wins"], found["losses"], found["evidence"]) == (1, 0, False)
    assert found["questions"][9] == {
        "id": "q9",
        "correct": [0, 1],
        "graded": [1, 1],
        "gains": [1],
    }
    page = (own_folder / "page.html").read_text()
    assert found["verdict"].split(":")[0] in page
    assert not re.search(r"<script|src=|https?://|url\(", page)


def test_an_improvement_and_a_loss_are_called_so(own_folder, command):
    stage(own_folder / "a/x", [2] * 30, 8)
    stage(own_folder / "b/x", [4] * 28 + [2] * 2, 8)
    _, out, _ = command("compare", "a/x", "b/x")
    assert out.startswith("IMPROVED: b/x")
    _, out, _ = command("compare", "b/x", "a/x", "--margin", "2")
    assert out.startswith("WORSE: a/x")
    assert "NOT SHOWN that nothing was lost" in " ".join(out.split())
    _, out, _ = command("compare", "a/x", "b/x", "--margin", "2")
    assert "NO LOSS: that b/x/aime/plain loses less than 2 points" in " ".join(out.split())


def test_runs_are_compared_by_the_row_that_they_share(own_folder, command):
    for run, counts in (("a", NINE), ("b", TEN)):
        stage(own_folder / run / "base", NINE, 1)
        stage(own_folder / run / "after", counts, 1)
    code, _, err = command("compare", "a", "b")
    assert code == 2
    assert "several rows could be meant; name one by --row (of a: after/aime/plain, base/" in err
    code, out, _ = command("compare", "a", "b", "--row", "after/aime/plain")
    assert code == 0
    assert " 10/30 against a/after/aime/plain 9/30" in " ".join(out.split())
    code, out, _ = command("compare", "b")
    assert "base/aime/plain 9/30 against after/aime/plain 10/30" in " ".join(out.split())
    code, _, err = command("compare", "a", "b", "--row", "aftr/aime/plain")
    assert code == 2
    assert "not every side has a row 'aftr/aime/plain'" in err


def test_within_a_run_the_base_is_the_baseline(own_folder, command):
    """Not what is first by name; trained ones in the recipe's order."""
    for name, counts in (("after", TEN), ("also", NINE), ("before", NINE)):
        stage(own_folder / "run" / name, counts, 1)
    stages = {"zero": [], "before": [], "sft": [], "also": ["sft"], "after": ["sft"]}
    (own_folder / "run" / "plan.json").write_text(json.dumps({"stages": stages}))
    training = own_folder / "run" / "sft"
    training.mkdir()
    record = {"kind": "sft", "fingerprint": "1", "status": "complete", "seconds": 1.0}
    (training / "stage.json").write_text(json.dumps(record))
    for name in ("after", "also"):
        file = own_folder / "run" / name / "stage.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"from": ["sft"]}))

    def models() -> list[str]:
        assert command("compare", "run", "--json", "found.json")[0] == 0
        found = json.loads((own_folder / "found.json").read_text())
        return [model["name"].partition("/")[0] for model in found["models"]]

    assert models() == ["before", "also", "after"]
    (own_folder / "run" / "plan.json").unlink()
    assert models() == ["before", "after", "also"]


def test_stages_and_logs_of_all_packages_in_one_table(own_folder, command):
    command("import", INSPECT[0], "--out", "run/small")
    sources = [LM_EVAL / "org__small", LIGHTEVAL / "large", INSPECT[1], "run/small"]
    code, out, err = command("compare", *sources, "--json", "found.json", "--html", "page.html")
    assert (code, err) == (0, "")
    found = json.loads((own_folder / "found.json").read_text())
    names = ["org/small", "org/large", "mockllm/large", "small/jars/log"]
    assert [model["name"] for model in found["models"]] == names
    assert len(found["comparisons"]) == 6
    assert found["groups"] == [["org/large", "mockllm/large", "org/small", "small/jars/log"]]
    assert found["verdict"] == (
        "NOT EVIDENCE: org/large 83.3% leads, and is told apart from none of the others (6 "
        "comparisons, p adjusted by Holm)."
    )
    assert [q["correct"] for q in found["questions"]] == [
        [2, 3, 3, 2],
        [2, 3, 3, 2],
        [2, 2, 2, 2],
        [1, 2, 2, 1],
        [1, 2, 2, 1],
        [2, 3, 3, 2],
    ]
    assert "at 1 attempts" not in " ".join(out.split())
    assert "jar" in (own_folder / "page.html").read_text()


def test_groups_of_ten(own_folder, command):
    for i, c in enumerate([1, 1, 4, 4, 4, 6]):
        stage(own_folder / f"r{i}" / "x", [c] * 15 + [c + 1] * 15, 8)
    _, out, _ = command("compare", *(f"r{i}/x" for i in range(6)), "--json", "found.json")
    assert "\n…/x/aime/plain" in out  # once, above
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("r5 ")] == [
        ["r5", "81.2%"]
    ]
    found = json.loads((own_folder / "found.json").read_text())
    names = [f"r{i}/x/aime/plain" for i in range(6)]
    assert found["groups"] == [[names[5]], names[2:5], names[:2]]
    assert found["verdict"].startswith(f"BEST: {names[5]} 81.2% leads, and is better than each")


def test_questions_that_differ_are_refused_and_said(own_folder, command):
    stage(own_folder / "a/x", NINE, 1)
    stage(own_folder / "b/x", TEN, 1, q3="What is the height of the tower?")
    code, _, err = command("compare", "a/x", "b/x")
    assert code == 2
    assert "have different questions (2 stand in one of them only, such as 'What is 3 + 3?')" in err
    code, out, _ = command("compare", "a/x", "b/x", "--common")
    assert code == 0
    assert "9/29 against a/x/aime/plain 8/29" in " ".join(out.split())
    assert "2 questions are not on all sides" in " ".join(out.split())


def test_other_questions_under_the_same_ids_are_refused(own_folder, command):
    """One gold answer and half of the words are no proof where both keep the questions."""
    stage(own_folder / "a/x", NINE, 1, q3="What is 2 + 4?")
    stage(own_folder / "b/x", TEN, 1, q3="What is 5 + 1?")
    code, _, err = command("compare", "a/x", "b/x")
    assert code == 2
    assert "have different questions (2 stand in one of them only, such as 'What is 2 + 4?')" in err
    _, out, _ = command("compare", "a/x", "b/x", "--common")
    assert "2 questions are not on all sides" in " ".join(out.split())


def test_other_gold_answers_are_refused(own_folder, command):
    """Padded ones are the same; equal ids with other texts are other questions."""
    row = json.loads(
        (LM_EVAL / "org__small").glob("samples_*").__next__().read_text().split("\n")[0]
    )
    for name, change in (
        ("same", {"target": "73"}),
        ("other", {"target": "74"}),
        ("texts", {"doc": {"id": "2030-I-1", "problem": "How many moons has Mars, and which?"}}),
    ):
        (own_folder / f"{name}.jsonl").write_text(json.dumps(row | change) + "\n")
    (own_folder / "first.jsonl").write_text(json.dumps(row) + "\n")
    assert command("compare", "first.jsonl", "same.jsonl")[0] == 0
    code, _, err = command("compare", "first.jsonl", "other.jsonl")
    assert code == 2
    assert "by different gold answers or verifiers (('073',) and ('74',))" in err
    code, _, err = command("compare", "first.jsonl", "texts.jsonl")
    assert code == 2
    assert "different questions (2 stand in one of them only, such as 'A jar holds" in err


MISTAKES = {
    "compare a/x": "a/x/aime/plain is one evaluation; name two",
    "compare a/x a/x": "a/x/aime/plain is named twice",
    "compare a/x nowhere": "nowhere is no folder of an evaluation (RUN/STAGE) and no log",
    "compare a/x a/problems": "holds no log of an evaluation",
    "compare a/x a/x --scorer s": "--scorer names whose verdicts --theirs takes",
    "compare a/x a/x --theirs": "--theirs is of logs of other packages",
    "compare a/x a/x --margin -1": "--margin -1: points between 0 and 100",
    "compare a/x a/x --json a": "--json a is a folder",
    "import a/x/stage.json --out b/y": "is no log of an evaluation",
    "import nothing.eval --out b/y": "nothing.eval cannot be read",
    "import {log} --out a/x": "is another stage already",
    "import {log} --out a/problems": "is there already and is no stage",
    "import {log} --out b/y --set ../up": "--set '../up': a name of letters",
    "import {log} --out b/y --theirs": "has the scorers match, math: name one by --scorer",
    "export a/x": "nothing to write",
    "export a/x --hub h.yaml": "--hub needs --dataset",
    "export a/x --inspect s.json": "a file that ends in .jsonl",
    "export a/x --inspect s.jsonl --row b": "has no row 'b'",
    "export {log} --inspect s.jsonl": "is a log: make a stage of it first",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_told_in_a_sentence(words, own_folder, command):
    stage(own_folder / "a/x", NINE, 1)
    code, out, err = command(*(word.format(log=INSPECT[0]) for word in words.split()))
    assert code == 2, out
    assert MISTAKES[words] in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1


def test_import_makes_a_stage_that_is_read_as_any_other(own_folder, command):
    for name, log in (("small", INSPECT[0]), ("large", INSPECT[1])):
        code, out, _ = command("import", log, "--out", f"run/{name}")
        assert code == 0
    assert "run/large: inspect, mockllm/large on jars, 6 questions x 3: 83.3% [54.7, 94.8]" in out
    code, out, _ = command("import", INSPECT[1], "--out", "run/large")
    assert (code, "(imported before)" in out) == (0, True)
    small = read_stage(own_folder / "run/small")
    assert small.complete
    assert small.record["imported"]["model"] == "mockllm/small"
    assert small.record["metrics"]["jars/log"]["pass_at_1"] == pytest.approx(10 / 18)
    attempts = read_attempts(own_folder / "run/small/attempts/jars/log")
    assert attempts[2].text == "I count \\boxed{74} marbles."
    scores = json.loads((own_folder / "run/small/scores.json").read_text())
    assert scores["ours"]["2030-I-3"] == ["correct", "correct", "no_answer"]
    assert scores["theirs"]["math"]["2030-I-3"] == [1.0, 1.0, 1.0]
    assert [d["id"] for d in scores["differences"]["math"]] == ["2030-I-3"]
    assert "5 wins and 0 losses" in " ".join(
        command("compare", "run/small", "run/large")[1].split()
    )
    assert butwait.compare("run/small", INSPECT[1]).difference == pytest.approx(5 / 18)
    words = "export run/small --inspect s.jsonl --hub h.yaml --dataset o/d"
    assert command(*words.split())[0] == 0
    assert len((own_folder / "s.jsonl").read_text().splitlines()) == 18
    assert "value: 55.5556" in (own_folder / "h.yaml").read_text()


def test_a_log_without_gold_answers_takes_its_own_verdicts(own_folder, command):
    """Without them nothing is written, so that the same folder is free."""
    for name, verdicts in (("one", "CI"), ("two", "CC")):
        samples = [
            {"id": q, "target": "", "text": f"\\boxed{{{q}}}", "scores": {"a": a, "b": "I"}}
            for q, a in zip("12", verdicts, strict=True)
        ]
        inspect_log(own_folder / f"{name}.json", *samples)
    code, _, err = command("import", "one.json", "--out", "run/x")
    assert (code, err.count("\n")) == (2, 1)
    assert "one.json: no question of this log could be scored: it has no readable gold" in err
    assert "--theirs takes its own verdicts" in err
    assert not (own_folder / "run").exists()
    code, out, err = command("import", "one.json", "--out", "run/x", "--theirs", "--scorer", "a")
    assert (code, err) == (0, "")
    assert "2 questions x 1: 50.0%" in out
    assert "b in the log: 0.0%, differs at 1 of 2 attempts" in out
    assert "1, attempt 0: answer None, gold None: correct here, 0 there" in out
    code, out, err = command("compare", "one.json", "two.json", "--theirs", "--scorer", "a")
    assert (code, err) == (0, "")
    told = " ".join(out.split())
    assert "first at 1: answer None, gold None, correct here and 0 there." in told


def test_a_report_shows_what_was_imported(own_folder, command):
    from butwait.report.page import write_report
    from butwait.stages.kinds import STAGES

    command("import", LM_EVAL / "org__small", "--out", "run/small")
    command("import", LM_EVAL / "org__large", "--out", "run/large")
    run = own_folder / "run"
    records = [read_stage(run / name).record for name in ("small", "large")]
    rows = [read_attempts(run / name / "attempts/jars/log") for name in ("small", "large")]
    found = compare("small/jars/log", rows[0], "large/jars/log", rows[1]) | {"p_holm": 0.06}
    kinds = {kind: STAGES[kind] for kind in STAGES}
    summary = write_report(run, records, "peers", [found], {}, kinds)
    assert "83.3" in (run / "report.html").read_text()
    assert summary["evaluations"]["large/jars/log"]["pass_at_1"] == pytest.approx(15 / 18)


def test_what_is_not_finished_is_left_out_of_runs_and_told(own_folder, command):
    for run, counts in (("a", NINE), ("b", TEN)):
        stage(own_folder / run / "after", counts, 1)
    changed(stage(own_folder / "b" / "later", NINE, 1), status="running")
    code, out, _ = command("compare", "a", "b", "--json", "found.json")
    assert code == 0
    assert "10/30 against a/after/aime/plain 9/30" in " ".join(out.split())
    note = "the evaluation b/later is not finished and was left out."
    assert f"Note: {note}" in " ".join(out.split())
    assert json.loads((own_folder / "found.json").read_text())["notes"] == [note]
    code, _, err = command("compare", "b")
    assert (code, err.count("\n")) == (2, 1)
    assert "b/after/aime/plain is one evaluation; name two" in err
    assert "(b/later is not finished)" in err
    told = r"b/later is not finished; run its stage first, or name what is finished \(b/after\)"
    with pytest.raises(butwait.UserError, match=told):
        butwait.compare("a", "b")
    code, _, err = command("compare", "a", "b/later")
    assert code == 2
    assert "the evaluation b/later is not finished" in err
    changed(own_folder / "b/after", status="running")
    code, _, err = command("compare", "a", "b")
    assert code == 2
    assert "no evaluation of the run b is finished" in err


def test_seeds_are_one_side(own_folder, command):
    base = stage(own_folder / "run/base", [2] * 30, 4)
    for seed, counts in enumerate(([3] * 30, [4] * 15 + [3] * 15, [3] * 29 + [2])):
        changed(stage(own_folder / f"run/after-{seed}", counts, 4), arm="after")
        stage(own_folder / f"s{seed}/after", counts, 4)
    seeds = [own_folder / f"run/after-{seed}" for seed in range(3)]
    expected = butwait.compare(base, seeds)
    for b in ("run/after", ",".join(f"s{seed}/after" for seed in range(3))):
        code, out, err = command("compare", "run/base", b, "--json", "f.json", "--html", "f.html")
        assert (code, err) == (0, "")
        found = json.loads((own_folder / "f.json").read_text())
        assert found["verdict"].startswith("IMPROVED: after/aime/plain 78.9% (30 x 4, 3 seeds) ")
        assert (found["seeds_a"], found["seeds_b"]) == (1, 3)
        assert found["delta"] == pytest.approx(expected.difference)
        assert found["interval"] == pytest.approx(expected.interval)
        assert found["p"] == pytest.approx(expected.p)
        assert "30 x 4 x 3" in out
        model = found["models"][1]
        assert model["seed_rates"] == pytest.approx([0.75, 0.875, 0.75 - 1 / 120])
        assert model["status"]["correct"] == 90 + 105 + 89
        assert found["questions"][0] == {
            "id": "q0", "correct": [2, 10], "graded": [4, 12], "gains": [pytest.approx(4 / 3)],
        }  # fmt: skip
        assert "t over questions and seeds" in (own_folder / "f.html").read_text()
    assert butwait.compare("run/base", "run/after").p == expected.p
    # A run alone: its arm is one side, and not three.
    command("compare", "run", "--json", "f.json")
    found = json.loads((own_folder / "f.json").read_text())
    assert [model["name"] for model in found["models"]] == ["after/aime/plain", "base/aime/plain"]
    # With an evaluation besides: three models, every pair.
    stage(own_folder / "run/other", [3] * 30, 4)
    _, out, _ = command("compare", "run/base", "run/other", "run/after", "--json", "f.json")
    assert len(json.loads((own_folder / "f.json").read_text())["comparisons"]) == 3
    # A seed that is not finished.
    changed(seeds[2], status="running")
    _, out, _ = command("compare", "run/base", "run/after")
    assert "Note: the evaluation run/after-2 is not finished and was left out." in out
    assert "2 seeds" in out


def test_a_single_training_beside_an_arm_shows_no_spread_of_its_own(own_folder, command):
    """What made its model decides, by the stages it takes from."""
    for seed, counts in enumerate(([2] * 30, [3] * 15 + [2] * 15, [2] * 29 + [1])):
        changed(stage(own_folder / f"run/after-{seed}", counts, 4), arm="after")
    once = stage(own_folder / "run/once", [3] * 30, 4)
    found = {}
    for made_by in ("verified", "sft"):
        record = json.loads((once / "stage.json").read_text())
        (once / "stage.json").write_text(json.dumps(record | {"from": ["source"]}))
        (own_folder / "run/source").mkdir(exist_ok=True)
        (own_folder / "run/source/stage.json").write_text(json.dumps(record | {"kind": made_by}))
        words = ("run/after", "run/once", "--json", "f.json", "--html", "page.html")
        code, out, err = command("compare", *words)
        assert (code, err) == (0, "")
        found[made_by] = json.loads((own_folder / "f.json").read_text())
        page = (own_folder / "page.html").read_text()
        is_named = made_by == "sft"
        told = "Note: once/aime/plain was trained once: its interval is of this one training"
        assert (told in " ".join(out.split())) == is_named
        assert ("once/aime/plain was trained once: its interval" in page) == is_named
        assert page.count("one training</span>") == is_named
        assert [model.get("trained_once") for model in found[made_by]["models"]] == [
            None, True if is_named else None,
        ]  # fmt: skip
    assert found["sft"]["delta"] == found["verified"]["delta"]
    assert found["sft"]["p"] > found["verified"]["p"]
    compared = butwait.compare("run/after", "run/once")
    assert compared.p == pytest.approx(found["sft"]["p"])


@pytest.mark.parametrize(
    ("b", "words", "told"),
    [
        ("s0/after,s0/after", (), "named twice among the seeds"),
        ("s0/after,s9/after", (), "s9/after is no folder of an evaluation"),
        ("s0/after,s1/after", ("--margin", "2"), "--margin is of single evaluations"),
        ("s0/after,", (), "30/30"),
        (",", (), "is no folder of an evaluation"),
    ],
)
def test_seeds_that_are_none(own_folder, command, b, words, told):
    stage(own_folder / "base", NINE, 1)
    for seed in range(2):
        stage(own_folder / f"s{seed}/after", [1] * 30, 1)
    code, out, err = command("compare", "base", b, *words)
    assert told in " ".join((out + err).split())
    assert code == (0 if told == "30/30" else 2)
    assert err.count("\n") <= 1


def test_a_run_of_several_evaluations_is_no_seed(own_folder, command):
    """Its base and its trained model were averaged as two seeds."""
    for run in "abcd":
        stage(own_folder / run / "base", NINE, 1)
        stage(own_folder / run / "after", TEN, 1)
    told = "a is a run with several evaluations; name one (a/after, a/base)"
    for words in (
        ("compare", "a,b", "c,d"),
        ("compare", "c/after", "a,b"),
        ("plan-eval", "--detect", "3", "--problems", "30", "--pilot", "a,b"),
    ):
        code, out, err = command(*words)
        assert (code, out, err) == (2, "", f"butwait: compare: {told}\n")
    with pytest.raises(butwait.UserError, match=r"a is a run with several .*\(a/after, a/base\)"):
        butwait.compare("c/after", "a,b")
    # Runs of one evaluation each are seeds.
    for run in "ef":
        stage(own_folder / run / "after", TEN, 1)
    _, out, _ = command("compare", "a/base", "e,f")
    assert "after/aime/plain 33.3% (30 x 1, 2 seeds)" in " ".join(out.split())


def test_an_arm_with_an_unfinished_seed_is_no_run_of_several(own_folder):
    stage(own_folder / "base", NINE, 1)
    for seed in range(3):
        changed(stage(own_folder / f"run/after-{seed}", TEN, 1), arm="after")
    changed(own_folder / "run/after-1", status="running")
    told = (
        "compare: the evaluation run/after-1 is not finished; run its stage first, or name what is "
        "finished (run/after-0, run/after-2)"
    )
    for arm in ("run/after", "run/after,"):
        with pytest.raises(butwait.UserError) as raised:
            butwait.compare("base", arm)
        assert str(raised.value) == told


def test_export_writes_what_is_named_and_nothing_else(own_folder, command):
    """Of a run it took the first stage by name; what it could not take was called a log."""
    with_row(stage(own_folder / "run/after", TEN, 1), "filter", [1] * 15 + [0] * 15, 1)
    stage(own_folder / "run/base", NINE, 1)
    for seed in range(2):
        changed(stage(own_folder / f"run/sft-{seed}", TEN, 1), arm="sft")
    words = ("--hub", "hub.yaml", "--dataset", "o/d")
    seeds = "is an arm of several seeds; name one of them (run/sft-0, run/sft-1)"
    for named, more, told in (
        ("run", (), "run is a run with several evaluations; name one (run/after, run/base, "),
        ("run/sft", (), f"run/sft {seeds}"),
        ("run/sft-0,run/sft-1", (), f"run/sft-0,run/sft-1 {seeds}"),
        ("run/after", (), "run/after has several rows; name one by --row (aime/plain, aime/filter"),
        (
            "run/after/attempts/aime/filtr",
            (),
            "run/after has no row 'aime/filtr'; did you mean aime/filter?",
        ),
        (
            "run/after/attempts/aime/plain",
            ("--row", "aime/filter"),
            "run/after/attempts/aime/plain has no row 'aime/filter' (there are: aime/plain)",
        ),
    ):
        code, _, err = command("export", named, *words, *more)
        assert (code, err.count("\n")) == (2, 1), named
        assert told in err
        assert not (own_folder / "hub.yaml").exists()
    for named, rate in (("run/base", "30.0%"), ("run/after/attempts/aime/filter", "50.0%")):
        code, out, err = command("export", named, *words)
        assert (code, out, err) == (0, f"hub.yaml: {rate} of o/d\n", "")
    changed(own_folder / "run/sft-0", status="running")
    code, _, err = command("export", "run/sft", *words)
    assert code == 2
    assert "run/sft-0 is not finished; run its stage first, or name what is finished (r" in err


@pytest.mark.slow
def test_identical_pairs_are_called_improved_in_at_most_a_fortieth():
    """A two-sided test at 5 %: a gain that is none is claimed in 2.5 % of pairs at most."""
    from butwait.statistics.paired import sign_flip

    rng, pairs = np.random.default_rng(18), 10_000
    rates = rng.beta(0.45, 1.05, (pairs, 30))
    gains = rng.binomial(8, rates) - rng.binomial(8, rates)
    improved = sum(of_pair.sum() > 0 and sign_flip(of_pair, 8) < 0.05 for of_pair in gains)
    assert improved / pairs < 0.025 + 4 * (0.025 * 0.975 / pairs) ** 0.5

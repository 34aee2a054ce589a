"""`butwait plan-eval`."""

import json

import pytest
from stored_stages import changed, inspect_log, stage, with_row


def plan(command, *words: str) -> dict:
    code, out, err = command("plan-eval", *words, "--json", "plan.json")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    with open("plan.json") as file:
        return json.load(file) | {"told": " ".join(out.split())}


def test_three_points_on_aime(own_folder, command):
    found = plan(command, "--detect", "3", "--problems", "aime24")
    # 30 questions stop at 2.80 * 0.1 / sqrt(30) = 5.1 points; about (2.80 / 0.03)^2 * (0.01 + 2 *
    # 0.126 / 64) = 121 questions do.
    assert (found["n"], found["k"], found["enough"]) == (124, 64, False)
    assert found["power"] == pytest.approx(0.8, abs=0.005)
    assert found["smallest_of_all"] == pytest.approx(0.0529, abs=1e-4)
    assert found["set"] == {"name": "aime24", "n": 30, "power": pytest.approx(0.25, abs=0.03)}
    assert found["these_problems"]["k"] == 79
    assert [step["k"] for step in found["curve"]] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    powers = [step["power"] for step in found["curve"]]
    assert powers == sorted(powers)
    assert found["told"].startswith(
        "NOT ENOUGH: aime24 (30 questions) cannot find a gain of 3 points, whatever k: questions "
        "like them stop at 5.3 points. 124 questions with k = 64 find it with 80% power."
    )


def test_a_set_that_is_enough_needs_the_fewest_samples(own_folder, command):
    found = plan(command, "--detect", "3", "--problems", "math500")
    assert (found["n"], found["enough"]) == (500, True)
    assert found["power"] >= 0.8
    fewer = plan(command, "--detect", "6", "--problems", "500")
    assert fewer["k"] < found["k"]
    many = plan(command, "--detect", "3", "--problems", "500", "--checkpoints", "10")
    assert many["k"] > found["k"]
    assert many["level"] == pytest.approx(0.995)
    assert "each test is at 0.5% (Bonferroni)" in many["told"]
    margin = plan(command, "--detect", "3", "--problems", "500", "--margin", "3")
    assert margin["no_loss"]["power"] > 0.8


def test_a_pilot_says_how_noisy_an_attempt_is(own_folder, command):
    from pathlib import Path

    logs = Path(__file__).parents[1] / "evaluation" / "logs"
    small, large = (str(logs / "lm_eval" / f"org__{name}") for name in ("small", "large"))
    one = plan(command, "--detect", "9", "--problems", "60", "--pilot", small)
    # 2 of 3 right at four questions, 1 of 3 at two: c (k - c) / (k (k - 1)) is 1/3 at each.
    assert one["variance"] == pytest.approx(1 / 3)
    assert one["spread"] == 0.1
    assert "(assumed: --spread, or two pilots)" in one["told"]
    two = plan(command, "--detect", "9", "--problems", "60", "--pilot", small, "--pilot", large)
    assert two["variance"] == pytest.approx((1 / 3 + 1 / 6) / 2)
    assert two["spread"] == 0.0


def test_one_pilot_is_one_side_whatever_it_holds(own_folder, command):
    """Rows are no baseline and trained model, and nor are seeds."""
    with_row(stage(own_folder / "run/both", [2] * 30, 4), "filter", [4] * 15 + [1] * 15, 4)
    asked = ("plan-eval", "--detect", "9", "--problems", "60", "--pilot", "run/both")
    code, _, err = command(*asked)
    assert (code, err.count("\n")) == (2, 1)
    told = "name one by --row (of run/both: both/aime/plain, both/aime/filter)"
    assert told in err
    for words in (
        ("--pilot", "run/both", "--row", "aime/plain"),
        ("--pilot", "run/both/attempts/aime/plain"),
    ):
        found = plan(command, "--detect", "9", "--problems", "60", *words)
        assert found["variance"] == pytest.approx(1 / 3)  # 2 * 2 / (4 * 3)
        assert found["spread"] == 0.1
        assert "(assumed: --spread, or two pilots)" in found["told"]

    for seed, counts in enumerate(([2] * 30, [4] * 15 + [2] * 15)):
        changed(stage(own_folder / f"run/after-{seed}", counts, 4), arm="after")
    found = plan(command, "--detect", "9", "--problems", "60", "--pilot", "run/after")
    assert found["variance"] == pytest.approx((1 / 3 + 1 / 6) / 2)
    assert found["spread"] == 0.1

    # A baseline and an arm are two: the gains are those of the mean over its seeds.
    stage(own_folder / "run/base", [0] * 15 + [4] * 15, 4)
    two = ("--pilot", "run/base", "--pilot", "run/after")
    found = plan(command, "--detect", "9", "--problems", "60", *two)
    variance, gains = (0 + (1 / 3 + 1 / 6) / 2) / 2, (1.25 / 2) ** 2 * 30 / 29
    assert found["variance"] == pytest.approx(variance)
    # Of the arm 3/4 right at fifteen questions and 1/2 at fifteen; 4 and 8 attempts a question.
    noise = variance / 4 + variance / 8
    assert found["spread"] == pytest.approx((gains - noise) ** 0.5)
    assert "assumed" not in found["told"]


def test_an_unfinished_seed_of_a_pilot_is_left_out_and_told(own_folder, command):
    for seed, counts in enumerate(([2] * 30, [4] * 15 + [2] * 15, [1] * 30)):
        changed(stage(own_folder / f"run/after-{seed}", counts, 4), arm="after")
    changed(own_folder / "run/after-2", status="running")
    found = plan(command, "--detect", "9", "--problems", "60", "--pilot", "run/after")
    assert found["variance"] == pytest.approx((1 / 3 + 1 / 6) / 2)
    assert found["notes"] == ["the evaluation run/after-2 is not finished and was left out."]
    assert f"Note: {found['notes'][0]}" in found["told"]
    whole = plan(command, "--detect", "9", "--problems", "60", "--pilot", "run/after-0")
    assert whole["notes"] == []


def test_the_pilot_that_could_not_be_scored_is_named(own_folder, command):
    no_gold = {"id": "b", "target": "", "text": "It is 7."}
    inspect_log(own_folder / "some.json", {"id": "a", "text": "It is 7."}, no_gold)
    inspect_log(own_folder / "none.json", {"id": "a", "text": None}, no_gold)
    words = ("--problems", "60", "--pilot", "some.json", "--pilot", "none.json")
    code, _, err = command("plan-eval", "--detect", "9", *words)
    assert code == 2
    assert "--pilot none.json: no question of it could be scored" in err


def test_samples_that_are_not_looked_for_are_not_called_hopeless(own_folder, command):
    found = plan(command, "--problems", "30", "--detect", "0.5", "--spread", "0")
    assert (found["enough"], found["these_problems"]["k"]) == (False, None)
    assert "30 questions cannot find a gain of 0.5 points with 1,000 samples each." in found["told"]
    assert "alone, k = 1,000 is not enough" in found["told"]
    assert "whatever k" not in found["told"]


def test_a_set_that_finds_no_gain_has_no_smallest_one(own_folder, command):
    """Not one of 100 points."""
    few = plan(command, "--problems", "5", "--detect", "3")
    # Five wins of five are p = 0.0625 in the exact test.
    smallest = [step["minimum_detectable_effect"] for step in few["curve"]]
    assert smallest[0] is None
    assert smallest[1] == pytest.approx(0.6203, abs=1e-4)
    assert few["smallest_of_all"] == pytest.approx(0.1682, abs=1e-4)
    assert " 1 0% 0% – " in few["told"]
    two = plan(command, "--problems", "2", "--detect", "3")
    assert two["minimum_detectable_effect"] is two["smallest_of_all"] is None
    assert (
        "2 questions cannot find a gain of 3 points, whatever k: questions like them find no gain, "
        "however large."
    ) in two["told"]


def test_a_file_of_problems_is_counted(own_folder, command):
    rows = [{"question": f"{i}?", "answer": i} for i in range(40)]
    (own_folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert plan(command, "--detect", "10", "--problems", "mine.jsonl")["set"]["n"] == 40


MISTAKES = {
    "--detect 3 --problems 30 --row aime/plain": "--row names a row of a --pilot",
    "--detect 3 --problems nosuch": "how many questions it has is not known",
    "--detect 3 --problems nosuch.jsonl": "nosuch.jsonl",
    "--detect 3 --problems 1": "from 2 to 1,000,000 questions",
    "--detect 0 --problems 30": "--detect 0: a number between 0 and 100",
    "--detect 300 --problems 30": "--detect 300: a number between 0 and 100",
    "--detect nan --problems 30": "--detect nan: a number between 0 and 100",
    "--detect 3 --problems 30 --power 100": "--power 100: a number between 0 and 100",
    "--detect 3 --problems 30 --spread -1": "--spread -1: points from 0 to below 100",
    "--detect 3 --problems 30 --pilot no": "no is no folder of an evaluation (RUN/STAGE) and no",
    "--detect 3 --problems 30 --pilot a --pilot b --pilot c": "--pilot: one evaluation, or two",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes_are_told_in_a_sentence(words, own_folder, command):
    code, _, err = command("plan-eval", *words.split())
    assert code == 2
    assert MISTAKES[words] in " ".join(err.split())
    assert len(err.strip().splitlines()) == 1

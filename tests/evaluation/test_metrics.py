"""What attempts add up to."""

import json
from dataclasses import replace

import pytest

from butwait.evaluation.metrics import attempt_figures, clusters_of
from butwait.evaluation.settings import EvaluateSettings, MethodSettings
from butwait.records import Problem, UserError
from butwait.statistics.intervals import wilson

COUNTS_K8 = [0] * 12 + [1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 8]


def test_rates_of_the_worked_example(from_counts):
    found = attempt_figures(from_counts(COUNTS_K8, 8))
    assert (found["n"], found["k"]) == (30, 8)
    assert found["pass_at_1"] == pytest.approx(0.3375, abs=1e-12)
    assert found["interval"] == pytest.approx([0.217009, 0.483573], abs=1e-6)
    assert found["estimand"] == "problems like these"
    assert found["se"] == pytest.approx(0.067581, abs=1e-6)
    assert found["se_these_problems"] == pytest.approx(0.020833, abs=1e-6)
    assert found["n_effective"] == pytest.approx(44.96, abs=0.01)
    assert found["status"] == {
        "correct": 81,
        "wrong": 159,
        "no_answer": 0,
        "truncated": 0,
        "ungradable": 0,
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_the_mean_score_stands_beside_the_rate_where_it_is_another_one(from_marks):
    attempts = from_marks("01", "00")
    assert "score" not in attempt_figures(attempts)
    whole = [replace(a, score=float(a.status == "correct")) for a in attempts]
    assert "score" not in attempt_figures(whole)
    partly = [replace(a, score=1.0 if a.status == "correct" else 0.5) for a in attempts]
    assert attempt_figures(partly)["score"] == (0.75 + 1) / 2
    assert attempt_figures(partly)["pass_at_1"] == 0.75


def test_pass_and_majority_by_hand(from_marks):
    # p0: two correct, two different wrong answers; p1: one correct, three that agree.
    found = attempt_figures(from_marks("0012", "0111"))
    # pass@2: 1 - C(2,2)/C(4,2) = 5/6; 1 - C(3,2)/C(4,2) = 1/2
    assert found["pass_at_k"] == pytest.approx({"2": (5 / 6 + 1 / 2) / 2, "4": 1.0})
    # maj@2, p0: {0,0} 1, four mixed pairs 1/2 each, {1,2} 0: 3/6; p1: three mixed pairs: 1/4.
    # maj@4: p0 wins two to one to one, p1 loses one to three.
    assert found["maj_at_k"] == pytest.approx({"2": (1 / 2 + 1 / 4) / 2, "4": 0.5})


def test_k_itself_is_reported_beside_the_powers_of_two(from_marks):
    assert list(attempt_figures(from_marks("001111"))["pass_at_k"]) == ["2", "4", "6"]
    assert attempt_figures(from_marks("0"))["pass_at_k"] == {}


def test_attempts_without_an_answer_do_not_vote(from_marks):
    found = attempt_figures(from_marks("0-t-"))
    assert found["pass_at_1"] == 0.25
    assert found["maj_at_k"]["4"] == 1.0
    assert found["status"]["no_answer"] == 2
    assert found["status"]["truncated"] == 1


def test_statuses_add_up_to_all_attempts(from_marks):
    found = attempt_figures(from_marks("01-tu", "00000", "uuuuu"))
    assert sum(found["status"].values()) == found["n"] * found["k"] == 10
    assert sum(found["excluded"]["status"].values()) == 5


def test_an_ungradable_attempt_counts_neither_way(from_marks):
    found = attempt_figures(from_marks("00u1", "1111"))
    assert found["pass_at_1"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["n"] == 2
    # pass@4 of the first problem comes from its three graded attempts.
    assert found["pass_at_k"]["4"] == 0.5


@pytest.mark.parametrize("marks", ["uuu", "utt", "u--"])
def test_a_problem_whose_answers_cannot_be_graded_is_left_out_and_named(from_marks, marks):
    found = attempt_figures(from_marks("011", marks))
    assert found["n"] == 1
    assert found["pass_at_1"] == pytest.approx(1 / 3)
    assert found["excluded"]["problems"] == ["p1"]
    assert found["excluded"]["status"]["ungradable"] == marks.count("u")


def test_a_set_without_readable_answers_is_an_error(from_marks):
    with pytest.raises(UserError, match="no problem of the set could be scored"):
        attempt_figures(from_marks("uu", "uu"))


def test_one_attempt_has_the_plain_wilson_interval(from_counts):
    found = attempt_figures(from_counts([1] * 3 + [0] * 27, 1))
    assert found["interval"] == list(wilson(0.1, 30))
    assert found["se_these_problems"] is None


def test_nothing_solved_is_not_certain(from_counts):
    found = attempt_figures(from_counts([0] * 30, 8))
    assert found["interval"] == pytest.approx([0, 0.113513], abs=1e-6)


def test_one_problem_gives_valid_json(from_counts):
    found = attempt_figures(from_counts([2], 4))
    assert found["se"] is None
    json.dumps(found, allow_nan=False)


def test_lengths_and_costs(from_counts):
    found = attempt_figures(from_counts([1, 0], 3))
    assert found["length"] == {"mean": 2.0, "median": 2.0}
    assert found["tokens_per_problem"] == 60.0
    assert found["tokens_per_attempt"] == 20.0
    assert found["reward_tokens_per_problem"] == 9.0


def test_groups_widen_the_interval(from_counts):
    attempts = from_counts([1] * 9 + [0] * 21, 1)
    grouped = attempt_figures(attempts, {f"p{i}": i // 3 for i in range(30)})
    plain = attempt_figures(attempts)["interval"]
    assert grouped["interval"][0] < plain[0] < plain[1] < grouped["interval"][1]


def test_a_column_of_the_metadata_names_the_clusters(from_counts):
    problems = [Problem(f"p{i}", "?", "1", metadata={"year": 2000 + i // 3}) for i in range(30)]
    attempts = from_counts([1] * 9 + [0] * 21, 1)
    by_hand = attempt_figures(attempts, {f"p{i}": i // 3 for i in range(30)})
    assert attempt_figures(attempts, clusters_of(problems, "year")) == by_hand
    with pytest.raises(UserError, match="clusters: problem 'p0' has no 'month'"):
        clusters_of(problems, "month")
    with pytest.raises(ValueError, match="'other', which is not among `problems`"):
        EvaluateSettings(problems=["test"], methods={"m": {}}, clusters={"other": "year"})


def test_more_attempts_than_maj_at_k_can_count_are_refused_before_they_are_made():
    assert MethodSettings(k=1000).k == 1000
    with pytest.raises(
        ValueError, match=r"maj@k counts at most 1,000 attempts a problem, got 1,001"
    ):
        EvaluateSettings(problems=["test"], methods={"m": {"k": 1001}})


def test_the_order_of_attempts_does_not_matter(from_marks):
    attempts = from_marks("0012", "0111", "1-tu")
    found, other = attempt_figures(attempts), attempt_figures(attempts[::-1])
    assert other["pass_at_1"] == pytest.approx(found["pass_at_1"])
    assert other["maj_at_k"] == found["maj_at_k"]


def test_missing_attempts_are_an_error(from_counts):
    attempts = from_counts([1, 1], 2)
    with pytest.raises(UserError, match=r"'p1' has the samples \[0\] where 0 to 1 are expected"):
        attempt_figures(attempts[:-1])
    with pytest.raises(UserError, match="incomplete"):
        attempt_figures([*attempts, attempts[0]])
    with pytest.raises(UserError, match="no attempts"):
        attempt_figures([])

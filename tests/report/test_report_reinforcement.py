"""Stages of reinforcement learning on the page: values, missing files, and whose text is whose."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_fake_kinds import KINDS
from report_fake_rl import EVIL, evaluation, training, write_lines

from butwait.report.page import write_report
from butwait.report.reinforcement.curves import (
    GROUPS,
    MOST_POINTS,
    _group,
    held_out,
    mean_curve,
    step_curves,
    thinned,
)
from butwait.report.reinforcement.runs import Training, arms_of, ends, guards, read_trainings
from butwait.report.reinforcement.section import warnings
from butwait.report.reinforcement.texts import strips

DOCS = Path(__file__).parents[2] / "docs" / "report.md"


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A plain training whose reward is gamed, three modes, one of them twice."""
    run = tmp_path_factory.mktemp("rl")
    stages = [
        evaluation("base", "", 0.4),
        training(run, "plain", gamed=True, steps=200),
        evaluation("plain_eval", "plain", 0.55),
        training(run, "mixed", mode="mixed", seed=1),
        evaluation("mixed_eval", "mixed", 0.6),
        training(run, "expert", mode="expert_iteration"),
        training(run, "replace-1", mode="replace", arm="replace"),
        training(run, "replace-2", mode="replace", arm="replace", seed=3),
        training(run, "blind", looks=False),
    ]
    return run, stages


def trainings(ablation: tuple[Path, list[dict[str, Any]]]) -> list[Training]:
    run, stages = ablation
    return read_trainings(run, [s for s in stages if s["kind"] != "evaluate"])


@pytest.fixture(scope="module")
def page(ablation: tuple[Path, list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
    """The section's HTML with plain spaces, and the summary."""
    run, stages = ablation
    summary = write_report(run, stages, "ablation", [], {}, KINDS)
    html = (run / "report.html").read_text(encoding="utf-8")
    section = html.partition('<section id="reinforcement">')[2].partition("</section>")[0]
    return section.replace("\u202f", " ").replace("\u00a0", " "), summary


def named(ablation: tuple[Path, list[dict[str, Any]]], name: str) -> Training:
    return next(t for t in trainings(ablation) if t.name == name)


def logged(values: list[float], figure: str = "reward", **record: Any) -> Training:
    made = {"name": "rl", "kind": "grpo", "status": "complete"} | record
    log = [{"step": step, figure: value} for step, value in enumerate(values, start=1)]
    return Training(made, log, [], [])


def test_looks_know_what_the_training_had_sampled(
    ablation: tuple[Path, list[dict[str, Any]]],
) -> None:
    looks = named(ablation, "mixed").looks
    assert [look.step for look in looks] == [0, 10, 20, 30, 40]
    assert [look.policy_tokens for look in looks] == [0, 15_000, 30_000, 45_000, 60_000]
    assert [look.reward_tokens for look in looks] == [0, 7_000, 14_000, 21_000, 28_000]
    assert [round(look.accuracy, 2) for look in looks] == [0.41, 0.43, 0.45, 0.47, 0.43]
    assert looks[0].interval == pytest.approx((0.33, 0.49))


def cells(html: str, name: str) -> list[str]:
    """The first row of that stage, a text a cell."""
    row = re.search(rf"<tr>\s*<td[^>]*>[^\n]*>{name}<br>.*?</tr>", html, re.DOTALL)
    assert row is not None
    texts = re.findall(r"<td[^>]*>(.*?)</td>", row[0], re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", text).split()) for text in texts]


def test_a_row_of_the_table(page: tuple[str, dict[str, Any]]) -> None:
    html, _ = page
    assert cells(html, "mixed")[:8] == [
        "mixed mixed", "40 all its steps", "60.0 k 20.0 k search", "28.0 k",
        cells(html, "mixed")[4], "41.0 % [33.0, 49.0]", "47.0 % [39.0, 55.0] step 30, kept",
        "43.0 % [35.0, 51.0] step 40",
    ]  # fmt: skip
    assert re.fullmatch(r"0\.\d{3} to 0\.\d{3}", cells(html, "mixed")[4])
    assert cells(html, "expert")[8] == "–"
    assert cells(html, "plain")[0] == "plain GRPO"
    assert cells(html, "plain")[2:4] == ["200 k", "–"]
    assert cells(html, "expert")[4].endswith(" of particles")
    assert cells(html, "replace-1")[4].endswith(" with solutions")


def test_the_evaluation_stands_beside_the_best_look(page: tuple[str, dict[str, Any]]) -> None:
    html, _ = page
    assert cells(html, "mixed")[7:] == [
        "43.0 % [35.0, 51.0] step 40", "60.0 % [55.0, 65.0] test (mixed_eval)",
    ]  # fmt: skip
    assert "so its rate is optimistic" in html


def test_summary_of_a_training(page: tuple[str, dict[str, Any]]) -> None:
    _, summary = page
    stages = summary["reinforcement"]
    assert list(stages) == ["plain", "mixed", "expert", "replace-1", "replace-2", "blind"]
    mixed = stages["mixed"]
    assert (mixed["mode"], mixed["kept_step"], mixed["stopped"]) == ("mixed", 30, "all its steps")
    assert mixed["looks"][3] == {
        "step": 30, "accuracy": pytest.approx(0.47), "interval": pytest.approx([0.39, 0.55]),
        "n": 128, "k": 1, "length": 30.0, "policy_tokens": 45_000, "reward_tokens": 21_000,
    }  # fmt: skip
    assert mixed["reward"]["steps"] == 5
    assert mixed["reward"]["rises"]
    assert stages["plain"]["mode"] is None
    assert stages["plain"]["reward_of"] == "samples of the policy"
    assert stages["expert"]["reward_of"] == "particles of searches, not samples of the policy"
    assert (stages["blind"]["kept_step"], stages["blind"]["looks"]) == (None, [])
    boxes = stages["plain"]["signs"]["several_boxes"]
    # 0.3 x step / 200 over the first and the last 20 of 200 steps.
    assert boxes["first"] == pytest.approx(0.3 * 10.5 / 200)
    assert boxes["last"] == pytest.approx(0.3 * 190.5 / 200)
    text = DOCS.read_text(encoding="utf-8")
    keys = {*mixed, *mixed["reward"], *mixed["signs"], *mixed["looks"][0]}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


@pytest.mark.parametrize(
    ("values", "first", "last", "steps", "rises"),
    [
        ([0.0] * 5 + [0.02] * 5, 0.0, 0.02, 5, True),
        ([0.0] * 5 + [0.009] * 5, 0.0, 0.009, 5, False),  # less than a point
        ([0.0, 0.4] * 3 + [0.1, 0.4] * 3, 0.16, 0.28, 5, False),  # within the noise
        ([0.5] * 10 + [0.0] * 90, 0.5, 0.0, 10, False),
        ([0.0, 1.0], 0.0, 1.0, 1, True),
        ([1.0], 1.0, 1.0, 1, False),
    ],
)
def test_first_and_last_values(
    values: list[float], first: float, last: float, steps: int, rises: bool
) -> None:
    seen = ends(logged(values), "reward")
    assert seen is not None
    assert (seen.first, seen.last) == pytest.approx((first, last))
    assert (seen.steps, seen.rises) == (steps, rises)


def test_a_sign_that_rises_is_said_and_one_that_does_not_is_not(
    ablation: tuple[Path, list[dict[str, Any]]], page: tuple[str, dict[str, Any]]
) -> None:
    arms = arms_of(trainings(ablation), {})
    said = warnings(arms)
    assert said[0] == (
        "plain: completions with the sign “several boxes” rose from 1.6 % to 28.6 %; the reward "
        "may be gamed, read the texts."
    )
    assert [text.partition(":")[0] for text in said] == ["plain", "mixed", "expert", "replace"]
    assert "25.0 % of 640 searches were poor" in said[3]
    assert {name: seen.rises for name, seen in guards(named(ablation, "plain")).items()} == {
        "several_boxes": True,
        "no_reasoning": False,
        "other_language": False,
    }
    assert page[0].count("▲ rises") == 1


@pytest.mark.parametrize(
    ("record", "stopped"),
    [
        ({"status": "running"}, "not finished"),
        ({"settings": {"steps": 3}}, "all its steps"),
        ({"settings": {"steps": 9}}, ""),
        (
            {"settings": {"steps": 9, "token_budget": 100}, "metrics": {"policy_tokens": 120}},
            "token budget spent",
        ),
        ({"metrics": {"stopped": "plateau at step 3"}}, "plateau at step 3"),
    ],
)
def test_why_it_stopped(record: dict[str, Any], stopped: str) -> None:
    assert logged([0.1, 0.2, 0.3], **record).stopped == stopped


def test_curves_are_thinned_to_means() -> None:
    curve = np.column_stack([np.arange(1.0, 10 * MOST_POINTS + 1), np.arange(10.0 * MOST_POINTS)])
    thin = thinned(curve)
    assert thin.shape == (MOST_POINTS, 2)
    assert thin[0].tolist() == [5.5, 4.5]
    assert thin[-1].tolist() == [595.5, 594.5]
    assert np.array_equal(thinned(curve[:7]), curve[:7])


def test_the_mean_over_seeds_takes_shared_steps() -> None:
    seeds = [logged([0.2, 0.4, 0.9]), logged([0.4, 0.8])]
    made = [
        Training({**s.record, "settings": {"arm": "a"}}, s.log, s.rows, s.samples) for s in seeds
    ]
    (arm,) = arms_of(made, {})
    assert mean_curve(arm, "reward") == pytest.approx(np.array([[1, 0.3], [2, 0.6]]))
    assert mean_curve(arm, "length").shape == (0, 2)


def test_what_is_not_of_the_policy_is_dashed(
    ablation: tuple[Path, list[dict[str, Any]]], page: tuple[str, dict[str, Any]]
) -> None:
    def dashes(names: tuple[str, ...], group: int) -> int:
        arms = arms_of([named(ablation, name) for name in names], {})
        drawn = _group(GROUPS[0], arms) if group == 0 else step_curves(arms)[group]
        return drawn.panels[0].count("stroke-dasharray")

    assert dashes(("plain", "mixed"), 0) == 0
    assert dashes(("plain", "expert"), 0) == 1
    assert dashes(("expert",), -1) == 0  # figures of searches are the same in every mode
    assert "dashed (expert): particles of searches, not samples of the policy" in page[0]
    assert "dashed (replace): samples of the policy, with solutions" in page[0]


def test_panels_of_zeros_are_named_and_not_drawn(
    ablation: tuple[Path, list[dict[str, Any]]],
) -> None:
    reward, completions, difficulty = step_curves(arms_of([named(ablation, "plain")], {}))
    assert len(reward.panels) == 2  # no clipped token, and no KL was logged
    assert "Always 0 and not drawn: clipped tokens." in reward.reading
    assert "KL" not in reward.reading
    assert len(completions.panels) == 4
    assert "duplicates in a group 31.6 % to 58.6 %" in completions.reading
    assert len(difficulty.panels) == 5


def test_held_out_accuracy_of_all_arms(ablation: tuple[Path, list[dict[str, Any]]]) -> None:
    (figure,) = held_out(arms_of(trainings(ablation), {}))
    assert figure.title == "Held-out accuracy on choose"
    assert "plain begins at 40.0 %, is best at step 150 with 46.0 % and ends at 42.0 %" in (
        figure.reading
    )
    # Seeds 0 and 3 of `replace` lie 3 points apart.
    assert "replace begins at 41.5 %, is best at step 30 with 47.5 %" in figure.reading
    assert [entry.text for entry in figure.legend] == [
        "plain", "mixed", "expert", "replace (mean of 2 seeds)",
        "ring: the look whose model is kept", "thin: single seeds",
        "hollow, dotted: with the reward model's tokens",
    ]  # fmt: skip
    (alone,) = held_out(arms_of([named(ablation, "plain")], {}))
    assert len(alone.legend) == 2
    assert held_out(arms_of([named(ablation, "blind")], {})) == []


def test_an_arm_has_the_colour_of_its_evaluation(page: tuple[str, dict[str, Any]]) -> None:
    # base is the first series, plain_eval the second, mixed_eval the third.
    for name, colour in (("plain", 2), ("mixed", 3), ("expert", 4), ("replace-2", 5)):
        assert f'style="background: var(--s{colour})"></span>{name}<br>' in page[0]


def test_texts_over_time(ablation: tuple[Path, list[dict[str, Any]]]) -> None:
    (strip,) = strips(named(ablation, "mixed"))
    assert strip.problem_id == "q-1"
    assert [(text.step, text.when, text.status) for text in strip.texts] == [
        (0, "before training", "wrong"),
        (20, "middle", "correct"),
        (30, "best, kept", "correct"),
        (40, "last", "correct"),
    ]
    assert strip.texts[1].pieces == [
        ("9 - 4 = 5\n", False), ("Wait", True), (", ", False), ("let me check", True),
        (" that again.\n\\boxed{5}", False),
    ]  # fmt: skip


def test_texts_of_a_training_without_looks(ablation: tuple[Path, list[dict[str, Any]]]) -> None:
    (strip,) = strips(named(ablation, "blind"))
    assert strip.question == ""
    assert [(text.step, text.when) for text in strip.texts] == [
        (1, "first"), (20, "middle"), (40, "last"),
    ]  # fmt: skip
    assert strip.texts[0].question == "Question 0 of step 1"


@pytest.mark.parametrize(
    ("accuracies", "whens"),
    [
        ([0.5], ["before training, best, kept, last"]),
        ([0.5, 0.4], ["before training, best, kept", "last"]),
        ([0.4, 0.5], ["before training", "best, kept, last"]),
        ([0.4, 0.5, 0.6], ["before training", "middle", "best, kept, last"]),
    ],
)
def test_a_look_is_shown_once(accuracies: list[float], whens: list[str]) -> None:
    text = {"problem_id": "q", "question": "?", "text": "t", "status": "wrong"}
    rows = [
        {"step": step, "accuracy": accuracy, "texts": [text]}
        for step, accuracy in enumerate(accuracies)
    ]
    (strip,) = strips(Training({"name": "rl", "kind": "grpo"}, [], rows, []))
    assert [text.when for text in strip.texts] == whens


def test_text_of_a_policy_is_shown_and_never_run(page: tuple[str, dict[str, Any]]) -> None:
    html, _ = page
    assert EVIL not in html
    escaped = "&lt;script&gt;alert(&#39;from a policy&#39;)&lt;/script&gt;"
    assert f"<p>What is 9 - 4? {escaped}" in html
    assert f"{escaped}\\boxed{{5}}</pre>" in html
    assert "<mark>let me check</mark>" in html


def test_ids_stay_unique(ablation: tuple[Path, list[dict[str, Any]]], page: object) -> None:
    html = (ablation[0] / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="(?![\w-]+-[mp][0-9a-f]{8,}")([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(
        re.findall(r'\bid="([^"]+)"', html)
    )


def test_an_unfinished_training_shows_its_log(tmp_path: Path) -> None:
    record = training(tmp_path, "rl", mode="mixed", steps=12)
    record |= {"status": "running", "metrics": {}}
    with (tmp_path / "rl" / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write('{"step": 13, "rewa')
    with (tmp_path / "rl" / "looks.jsonl").open("a", encoding="utf-8") as looks:
        looks.write('{"step": 12, "accuracy": null}\n{"accuracy": 0.9}\n{"step": 15')
    summary = write_report(tmp_path, [record], "unfinished", [], {}, KINDS)
    course = summary["reinforcement"]["rl"]
    assert course["stopped"] == "not finished"
    assert [look["step"] for look in course["looks"]] == [0, 3, 6, 9, 12]
    assert course["kept_step"] == 9
    html = (tmp_path / "report.html").read_text(encoding="utf-8").replace("\u202f", " ")
    assert "18.0 k<br>" in html
    assert "6.00 k search" in html
    assert "not finished" in html


@pytest.mark.parametrize("left", [(), ("log",), ("looks",), ("samples",)])
def test_a_training_without_its_files_gives_a_smaller_page(
    tmp_path: Path, left: tuple[str, ...]
) -> None:
    record = training(tmp_path, "rl", mode="mixed")
    for name in {"log", "looks", "samples"} - set(left):
        (tmp_path / "rl" / f"{name}.jsonl").unlink()
    write_report(tmp_path, [record], "bare", [], {}, KINDS)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Reinforcement learning" in html
    assert ("Step by step" in html) == ("log" in left)
    assert ("Held-out accuracy" in html) == ("looks" in left)
    assert ("Sparks of reasoning" in html) == bool({"looks", "samples"} & set(left))
    assert ("No stage looked at held-out questions" in html) == ("looks" not in left)


def test_a_training_that_has_not_begun_is_left_out(tmp_path: Path) -> None:
    record = {"name": "rl", "kind": "grpo", "from": [], "status": "running", "metrics": {}}
    summary = write_report(tmp_path, [record], "begun", [], {}, KINDS)
    assert summary["reinforcement"] == {}
    assert 'id="reinforcement"' not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_values_that_are_no_numbers_are_left_out(tmp_path: Path) -> None:
    record = training(tmp_path, "rl", looks=False, steps=4)
    rows = [{"step": i, "reward": value} for i, value in enumerate([None, 0.5, "x", 0.7])]
    write_lines(tmp_path / "rl" / "log.jsonl", rows)
    (read,) = read_trainings(tmp_path, [record])
    assert read.curve("reward").tolist() == [[1.0, 0.5], [3.0, 0.7]]
    assert json.dumps(write_report(tmp_path, [record], "holes", [], {}, KINDS)["reinforcement"])

"""Arms of several seeds: pooled on the page, and ranked."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from report_fake_kinds import KINDS
from report_fake_run import FakeModel, _evaluate, questions

from butwait.evaluation.arms import arm_figures, compare_arms
from butwait.evaluation.compare import with_holm
from butwait.evaluation.storage import read_attempts
from butwait.report.collect import costs, evaluations
from butwait.report.page import write_report
from butwait.report.ranking import rankings
from butwait.running.files import write_json
from butwait.running.stages import read_stage
from butwait.stages.comparisons import Row, compared

SLIPS = {"base": 0.3, "good-1": 0.02, "good-2": 0.03, "poor-1": 0.29, "poor-2": 0.33}


@pytest.fixture(scope="module")
def ablation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list, list, dict]:
    """(run, records, comparisons, arms): a base, and two arms of two seeds each."""
    run = tmp_path_factory.mktemp("ablation")
    rng, problems = np.random.default_rng(1), questions(80, 1)
    records: list[dict[str, Any]] = []
    for name, slip in SLIPS.items():
        model = FakeModel(slip, rng)
        arm = name.partition("-")[0] if "-" in name else None
        sft = [f"{name}-sft"] if arm else []
        record = _evaluate(run, name, sft, model, problems, 2.0, False)
        record["settings"]["arm"] = arm
        if arm:
            records.append(
                {**record, "name": sft[0], "kind": "sft", "from": ["data"], "metrics": {}}
            )
        records.append(record)
        write_json(run / name / "stage.json", record)
    rows: dict[str, list[str]] = {}
    for name in SLIPS:
        rows.setdefault(name.partition("-")[0], []).append(name)
    attempts = {
        f"{arm}/heldout/plain": [read_attempts(run / s / "attempts/heldout/plain") for s in stages]
        for arm, stages in rows.items()
    }
    pooled = {key: arm_figures(several) for key, several in attempts.items() if len(several) > 1}
    keys = list(attempts)
    pairs = [(0, 1), (0, 2), (1, 2)]
    made = [compare_arms(keys[a], attempts[keys[a]], keys[b], attempts[keys[b]]) for a, b in pairs]
    return run, records, with_holm(made), pooled


def test_the_seeds_of_an_arm_are_one_row(ablation: tuple[Path, list, list, dict]) -> None:
    _, records, _, pooled = ablation
    rows = {row.key: row for row in evaluations(records, KINDS, pooled)}
    assert [key for key in rows if key.endswith("/plain")] == [
        "base/heldout/plain", "good/heldout/plain", "poor/heldout/plain",
    ]  # fmt: skip
    good = rows["good/heldout/plain"]
    assert good.stages == ("good-1", "good-2")
    assert good.metrics is pooled["good/heldout/plain"]
    assert rows["base/heldout/plain"].stages == ("base",)
    # A method that was not pooled keeps a row for each of its stages.
    assert "good-1/heldout/filter8" in rows


def test_arms_are_ranked_and_told_apart_by_the_tests(
    ablation: tuple[Path, list, list, dict],
) -> None:
    _, records, comparisons, pooled = ablation
    (ranking,) = rankings(evaluations(records, KINDS, pooled), comparisons)
    assert (ranking.set, ranking.method) == ("heldout", "plain")
    best, *rest = ranking.arms
    assert (best.arm, best.seeds, set(best.better_than)) == ("good", 2, {"base", "poor"})
    assert best.worse_than == best.not_told_apart_from == []
    assert best.pass_at_1 == pytest.approx(np.mean(best.seed_rates))
    told = {arm.arm: (arm.worse_than, arm.not_told_apart_from) for arm in rest}
    assert told == {"base": (["good"], ["poor"]), "poor": (["good"], ["base"])}
    assert [arm.pass_at_1 for arm in ranking.arms] == sorted(
        (arm.pass_at_1 for arm in ranking.arms), reverse=True
    )


def test_without_arms_there_is_no_ranking(ablation: tuple[Path, list, list, dict]) -> None:
    _, records, _, _ = ablation
    assert rankings(evaluations(records, KINDS), []) == []


def test_arms_that_were_not_compared_are_not_called_alike(
    ablation: tuple[Path, list, list, dict],
) -> None:
    run, records, comparisons, pooled = ablation
    rows = evaluations(records, KINDS, pooled)
    poor = "poor/heldout/plain"
    known = [c for c in comparisons if poor not in (c["a"], c["b"])]
    (ranking,) = rankings(rows, known)
    told = {
        arm.arm: (arm.better_than, arm.worse_than, arm.not_told_apart_from) for arm in ranking.arms
    }
    assert told == {"good": (["base"], [], []), "base": ([], ["good"], []), "poor": ([], [], [])}
    write_report(run, records, "ablation", known, pooled, KINDS)
    html = (run / "report.html").read_text()
    section = html.partition('<section id="ranking">')[2].partition("</section>")[0]
    cells = [cell.partition("</td>")[0] for cell in section.split('<td class="wrap small">')[1:]]
    assert cells == ["–" if arm.arm == "poor" else "none" for arm in ranking.arms]


def test_one_policy_by_one_method_in_two_stages_is_compared(
    ablation: tuple[Path, list, list, dict],
) -> None:
    """As with two reward models; the arm's seeds are still one side."""
    run, records, _, _ = ablation
    arms = {"base": None, "poor-1": "poor", "poor-2": "poor"}
    recipe = SimpleNamespace(
        stages={name: SimpleNamespace(arm=arm) for name, arm in arms.items()},
        inputs=lambda name, gives: [],
    )
    inputs = {"evaluation": [read_stage(run / name) for name in arms]}.__getitem__
    given: Any = SimpleNamespace(inputs=inputs, recipe=recipe, model_of=lambda name: "policy")
    pooled, comparisons = compared(given)
    base, poor = ([f"{arm}/heldout/{m}" for m in ("plain", "filter8")] for arm in ("base", "poor"))
    pairs = [(c["a"], c["b"]) for c in comparisons]
    assert len(pairs) == 6  # of four rows of one model every pair
    assert set(zip(base, poor, strict=True)) < set(pairs)
    kept = [record for record in records if record["name"] in arms]
    found = rankings(evaluations(kept, KINDS, pooled), comparisons)
    told = {arm.arm: arm.not_told_apart_from for arm in found[0].arms}
    assert told == {"base": ["poor"], "poor": ["base"]}


def test_the_cost_of_an_arm_is_that_of_all_its_seeds(
    ablation: tuple[Path, list, list, dict],
) -> None:
    _, records, _, _ = ablation
    kept = [r for r in records if r["kind"] == "evaluate"]
    rows, total = costs(kept)
    assert [row["name"] for row in rows] == ["base", "good (2 seeds)", "poor (2 seeds)"]
    assert [row["seconds"] for row in rows] == [2.0, 4.0, 4.0]
    tokens = [sum(r["cost"]["policy_tokens"] for r in kept[i : i + 2]) for i in (1, 3)]
    assert [row["cost"]["policy_tokens"] for row in rows[1:]] == tokens
    assert total["seconds"] == 10.0


def test_the_page_shows_the_ranking(
    ablation: tuple[Path, list, list, dict], tmp_path: Path
) -> None:
    run, records, comparisons, pooled = ablation
    summary = write_report(run, records, "ablation", comparisons, pooled, KINDS)
    html = (run / "report.html").read_text()
    section = html.partition('<section id="ranking">')[2].partition("</section>")[0]
    assert section.index(">good<") < section.index(">poor<")
    assert section.count('height="9"') == 1 + 2 + 2  # a dot a seed
    (ranking,) = summary["rankings"]
    assert ranking["arms"][0]["arm"] == "good"
    assert "good/heldout/plain" in summary["evaluations"]
    assert "good-1/heldout/plain" not in summary["evaluations"]
    assert "SFT (stage good-1-sft)" in summary["verdict"]


def test_one_training_beside_an_arm_is_named(ablation: tuple[Path, list, list, dict]) -> None:
    """And the base, which no training made, is not."""
    run, records, _, _ = ablation
    arms = {"base": None, "good-1": None, "poor-1": "poor", "poor-2": "poor"}
    settings = {name: SimpleNamespace(arm=arm) for name, arm in arms.items()}
    inputs = {"evaluation": [read_stage(run / name) for name in arms]}.__getitem__
    made_by = {name: [f"{name}-sft"] for name in arms if name != "base"}
    recipe = SimpleNamespace(stages=settings, inputs=lambda name, gives: made_by.get(name, []))
    given: Any = SimpleNamespace(inputs=inputs, recipe=recipe, model_of=lambda name: name)
    pooled, comparisons = compared(given)
    once = {(c["a"], c["b"]): c.get("trained_once") for c in comparisons}
    base, good, poor = (f"{name}/heldout/plain" for name in ("base", "good-1", "poor"))
    assert (once[good, poor], once[base, poor]) == (good, None)
    kept = [record for record in records if record["name"].removesuffix("-sft") in arms]
    summary = write_report(run, kept, "ablation", comparisons, pooled, KINDS)
    named = [told for told in summary["caveats"] if "was trained once" in told]
    assert [told.partition(" ")[0] for told in named] == [
        "good-1/heldout/plain", "good-1/heldout/filter8",
    ]  # fmt: skip
    html = (run / "report.html").read_text()
    assert "good-1/heldout/plain was trained once: its interval is of this one training" in html
    for section in ("ranking", "evaluations"):
        part = html.partition(f'<section id="{section}">')[2].partition("</section>")[0]
        assert part.count('<br><span class="small">one training</span>') == 2  # by either method


def test_what_seeds_are_complete_without_is_named_of_their_arm(
    ablation: tuple[Path, list, list, dict],
) -> None:
    """One question that both seeds set aside is one."""
    run, _, _, _ = ablation
    stages = [read_stage(run / name) for name in ("good-1", "good-2")]
    for stage, names in zip(stages, (["a"], ["b", "a"]), strict=True):
        stage.record["metrics"]["heldout/plain"]["set_aside"] = names
    assert Row("good", tuple(stages), "heldout", "plain").set_aside == {"set_aside": ["a", "b"]}
    assert Row("good", tuple(stages), "heldout", "filter8").set_aside == {}

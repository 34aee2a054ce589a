import re

import numpy as np
import pytest
from matplotlib import rcParams
from matplotlib.ticker import MaxNLocator

from butwait.report.audits import auc_by_depth, reliability
from butwait.report.collect import Evaluation
from butwait.report.figures import (
    accuracy_against_tokens,
    histogram_row,
    length_row,
    solution_lengths,
    training_curves,
)
from butwait.report.searches import ess_curve
from butwait.report.svg import Canvas, Ink, inline


def evaluation(stage: str, method: str, **metrics: object) -> Evaluation:
    basis = {"n": 512, "k": 1, "pass_at_1": 0.4, "interval": [0.3, 0.5], "tokens_per_attempt": 50}
    return Evaluation(stage, "heldout", method, basis | metrics)


def test_inline_svg_follows_the_theme_and_keeps_ids_apart() -> None:
    text = (
        '<?xml version="1.0"?><svg width="10pt" height="5pt" viewBox="0 0 10 5"><metadata>x'
        f'</metadata><g id="a" style="fill: {Ink.TEXT}; stroke: {Ink.SERIES[2]}"/>'
        '<use xlink:href="#a" clip-path="url(#p)" style="font: 9.5px \'DejaVu Sans\', x"/></svg>'
    )
    svg = inline(text, "fig", 'a "label"')
    assert svg == (
        '<svg role="img" aria-label="a &quot;label&quot;" viewBox="0 0 10 5">'
        '<g id="fig-a" style="fill: var(--ink); stroke: var(--s3)"/>'
        '<use xlink:href="#fig-a" clip-path="url(#fig-p)" style="font-size: 9.5px"/></svg>'
    )


def test_a_figure_is_the_same_text_twice_and_leaves_no_settings_behind() -> None:
    before = dict(rcParams)

    def draw() -> str:
        with Canvas("x", "x") as canvas:
            canvas.axes[0].plot([0, 1], [0, 1], "o-", color=Ink.MUTED)
            canvas.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
        return canvas.svg

    assert draw() == draw()
    assert dict(rcParams) == before


def test_no_stand_in_colour_is_left() -> None:
    rows = [
        evaluation("base", "plain", k=4, maj_at_k={"2": 0.4, "4": 0.45}),
        evaluation("sft", "filter", reward_tokens_per_problem=100.0),
    ]
    block = accuracy_against_tokens(rows, {"base": 0, "sft": 1})
    assert block is not None
    assert "#0a0" not in block.svg
    assert "var(--s1)" in block.svg
    assert "var(--s2)" in block.svg
    assert "<text" in block.svg  # text stays text
    assert [entry.text for entry in block.legend] == [
        "base", "sft", "plain", "filter", "hollow: with reward-model tokens",
        "dots: majority of 2, 4, … attempts",
    ]  # fmt: skip


def test_accuracy_reading_counts_reward_tokens() -> None:
    rows = [
        evaluation("base", "plain"),
        evaluation("base", "filter", pass_at_1=0.6, tokens_per_attempt=400,
                   reward_tokens_per_problem=800.0),
    ]  # fmt: skip
    block = accuracy_against_tokens(rows, {"base": 0})
    assert block is not None
    assert block.reading == (
        "On heldout one attempt is right most often for base/filter, 60.0 % at 1.20 k tokens with "
        "the reward model's; the cheapest is base/plain, 40.0 % at 50 tokens."
    )


def test_evaluations_without_tokens_give_no_figure() -> None:
    rows = [Evaluation("base", "heldout", "plain", {"pass_at_1": 0.4})]
    assert accuracy_against_tokens(rows, {"base": 0}) is None


def test_length_rows_by_hand() -> None:
    exact = length_row("all", np.arange(101), 0)
    assert exact is not None
    assert exact.quantiles == [5.0, 25.0, 50.0, 75.0, 95.0]
    assert exact.n == 101
    assert length_row("none", np.zeros(0), 0) is None
    # 10 in [0, 10), 30 in [10, 20): the quartile is at the edge, the median a third after it.
    binned = histogram_row("data", [0, 10, 20], [10, 30], 1)
    assert binned is not None
    assert binned.quantiles == pytest.approx([2.0, 10.0, 10 + 10 / 3, 10 + 20 / 3, 10 + 28 / 3])
    assert binned.n == 40
    assert histogram_row("data", [], [], 1) is None


def test_solution_lengths_read_the_medians() -> None:
    rows = [length_row("base, all", np.array([10, 20, 30]), 0)]
    block = solution_lengths([row for row in rows if row])
    assert block is not None
    assert "base, all 20." in block.reading
    assert "n = 3" in block.svg
    assert solution_lengths([]) is None


def test_reliability_reading_by_hand() -> None:
    bins = [
        {"lo": 0.0, "hi": 0.1, "mean_predicted": 0.1, "mean_observed": 0.2, "n": 100},
        {"lo": 0.8, "hi": 0.9, "mean_predicted": 0.9, "mean_observed": 0.6, "n": 300},
    ]
    block = reliability("prm", {"reliability": bins})
    assert block is not None
    # (100 x 10 + 300 x 30) / 400 = 25 points off; (-100 x 10 + 300 x 30) / 400 = 20 too high
    assert "Over n = 400 held-out completions" in block.reading
    assert "off by 25.0 points" in block.reading
    assert "20.0 points too high" in block.reading
    assert reliability("prm", {}) is None


def test_auc_by_depth_leaves_out_what_has_no_auc() -> None:
    rows = [
        {"depth": 1, "or_deeper": False, "auc": 0.6, "prefixes": 40},
        {"depth": 2, "or_deeper": False, "auc": None, "prefixes": 3},
        {"depth": 10, "or_deeper": True, "auc": 0.8, "prefixes": 7},
    ]
    block = auc_by_depth("prm", {"auc_by_depth": rows})
    assert block is not None
    assert "best at 10+ steps (AUC 0.80, n = 7 prefixes) and worst at 1 (0.60, n = 40)" in (
        block.reading
    )


def test_ess_reading_by_hand() -> None:
    ess = np.array([[1.0, 0.5, 0.9], [0.8, 0.3, np.nan]])
    resampled = np.array([[False, True, False], [False, False, False]])
    block = ess_curve("search", ess, resampled)
    assert block is not None
    assert "Lowest at step 2 (40 % of the particles, n = 2)" in block.reading
    assert "20 % of the steps began with a resampling" in block.reading
    assert ess_curve("search", ess[:, :1], resampled[:, :1]) is None


def test_training_curves_skip_broken_rows_and_name_units() -> None:
    log = [
        {"step": 1, "loss": 0.5, "eval_loss": None},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 0.25},
        {"train_runtime": 3.0},
    ]
    block = training_curves("sft", log, "token")
    assert block is not None
    assert block.reading == "Over 2 logged steps the loss goes from 0.5 to 0.25."
    assert block.svg == ""  # two points are a sentence
    block = training_curves("sft", [*log, {"step": 4, "loss": 0.125}], "token")
    assert block is not None
    assert block.reading == "Over 3 logged steps the loss goes from 0.5 to 0.125."
    assert re.search(r"\(nats a token\)", block.svg)
    assert training_curves("sft", log[:1], "token") is None

"""The stage kind `profile`, from a recipe to the section of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from butwait.pipeline.run import run_recipe
from butwait.profile.figures import length_histograms, measure, models, place_histogram
from butwait.profile.patterns import shipped_patterns
from butwait.profile.sources import Source, SourceSolution, read_source
from butwait.recipe.load import load_recipe
from butwait.recipe.recipe import Recipe
from butwait.records import UserError
from butwait.report.profiles import habit_places
from butwait.report.profiles import length_histograms as drawn_lengths
from butwait.search.storage import read_trees
from butwait.stages.kinds import STAGES
from butwait.synthesis.dataset import load_examples

PLUGIN = """
from butwait.engines.scripted import ScriptedEngine

def policy():
    return ScriptedEngine({"": {"Wait\\n": 0.5, "so\\n": 0.5},
        "Wait\\n": {"\\\\boxed{3}": 1.0}, "so\\n": {"\\\\boxed{3}": 1.0}})
"""

RECIPE = """
model: {name: none}
engine: {kind: scripted, script: "profiled:policy"}
problems:
  train: {source: questions.jsonl, columns: {solution: solution}}
stages:
  hunt:
    kind: search
    problems: train
    sampler: {kind: self_consistency, samples: 4, step: {delimiters: ["\\n"], max_tokens: 9}}
  verified: {kind: verified, from: [hunt], per_question: 2}
  looks: {kind: profile, from: [verified, hunt], sources: [train, hunt, verified]}
  report: {kind: report}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [
        {"id": f"q{i}", "question": f"question {i}", "answer": "3", "solution": "so\n\\boxed{3}"}
        for i in range(6)
    ]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "profiled.py").write_text(PLUGIN)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    run_recipe(load_recipe("mine.yaml", STAGES, ()), tmp_path / "run")
    return tmp_path / "run"


def test_the_stage_counts_what_the_other_stages_hold(run: Path) -> None:
    found = json.loads((run / "looks" / "profile.json").read_text())
    reference, searched, verified = found["sources"]
    examples = load_examples(run / "verified" / "dataset")
    paths = [
        len(tree.path_tokens(leaf))
        for tree in read_trees(run / "hunt" / "trees")
        for leaf in {int(leaf) for leaf in tree.leaves}
    ]
    assert (found["unit"], found["tokenizer"]) == ("tokens", "scripted")
    assert [s["name"] for s in found["sources"]] == ["train", "hunt", "verified"]
    assert (reference["n"], searched["n"], verified["n"]) == (6, len(paths), len(examples))
    assert searched["figures"]["length"]["mean"] == np.mean(paths)
    lengths = [len(example.completion_ids) for example in examples]
    assert verified["figures"]["length"]["mean"] == np.mean(lengths)
    waits = sum(example.text.startswith("Wait") for example in examples)
    assert verified["figures"]["reflection_share"]["mean"] == waits / len(examples)
    assert verified["place_counts"]["reflection"] == [waits] + 9 * [0]
    assert [row["shared_questions"] for row in found["ratios"]] == [6, 6]


def test_metrics_tell_the_sentences_and_their_numbers(run: Path) -> None:
    found = json.loads((run / "looks" / "profile.json").read_text())
    metrics = json.loads((run / "looks" / "stage.json").read_text())["metrics"]
    assert metrics["sentences"] == found["sentences"]
    assert found["sentences"][1].startswith("verified's solutions are ")
    means = metrics["mean_lengths"]
    ratio = metrics["length_ratios"]["verified"]["ratio"]
    assert ratio == pytest.approx(means["verified"] / means["train"])
    assert list(STAGES["profile"].headline(metrics)) == found["sentences"]


def test_the_report_shows_the_profile(run: Path) -> None:
    page = (run / "report.html").read_text()
    section = page.partition('<section id="profiles">')[2].partition("</section>")[0]
    assert section.count("<svg") == 2
    assert "solutions are" in section
    assert "Median lengths in tokens: train " in section
    assert "Solutions with such a phrase: train 0" in section


def test_one_seed_gives_one_profile(run: Path, tmp_path: Path) -> None:
    run_recipe(load_recipe("mine.yaml", STAGES, ()), tmp_path / "again")
    first, second = (folder / "looks" / "profile.json" for folder in (run, tmp_path / "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_set_without_solutions_is_one_sentence(run: Path, tmp_path: Path) -> None:
    without = tmp_path / "without.yaml"
    without.write_text(RECIPE.replace(", columns: {solution: solution}", ""))
    with pytest.raises(UserError, match=r"no reference solutions .*problems\.train\.columns"):
        run_recipe(load_recipe(str(without), STAGES, ()), tmp_path / "other")


def test_a_set_that_only_a_profile_uses_stays_whole(run: Path, tmp_path: Path) -> None:
    twice = RECIPE.replace(
        "stages:", "  gold: {source: questions.jsonl, columns: {solution: solution}}\nstages:"
    ).replace("sources: [train,", "sources: [gold,")
    (tmp_path / "twice.yaml").write_text(twice)
    run_recipe(load_recipe("twice.yaml", STAGES, ()), tmp_path / "twice")
    found = json.loads((tmp_path / "twice" / "looks" / "profile.json").read_text())
    assert (found["sources"][0]["name"], found["sources"][0]["n"]) == ("gold", 6)
    assert found["ratios"][0]["shared_questions"] == 6


@pytest.mark.parametrize(
    ("looks", "message"),
    [
        ({"from": ["hunt"], "sources": ["train"]}, "'hunt', which its `sources` lack"),
        ({"sources": ["train", "train"]}, "names one twice"),
        ({"sources": ["hunt"]}, "'hunt' is a stage; add it to `from`"),
        ({"sources": ["nothing"]}, "uses the problem set 'nothing'"),
        ({"from": ["tuned"], "sources": ["tuned"]}, "cannot take from 'tuned'"),
    ],
)
def test_sources_that_do_not_fit(looks: dict[str, Any], message: str) -> None:
    stages = {
        "hunt": {"kind": "search", "problems": "train", "sampler": {"kind": "self_consistency"}},
        "data": {"kind": "verified", "from": ["hunt"]},
        "tuned": {"kind": "sft", "from": ["data"]},
        "looks": {"kind": "profile"} | looks,
    }
    with pytest.raises(ValidationError, match=message):
        Recipe.model_validate(
            {
                "name": "r",
                "model": {"name": "tiny"},
                "problems": {"train": {"source": "a.jsonl"}},
                "stages": stages,
            },
            context=STAGES,
        )


def told(name: str, model: str | None, *lengths: int) -> Source:
    solutions = [SourceSolution(f"q{i}", "one two", None, n) for i, n in enumerate(lengths)]
    return Source(name, solutions, 0, model)


def test_tokens_of_two_models_are_not_compared() -> None:
    same = measure([told("a", "m", 5), told("b", "m", 7)], shipped_patterns())
    assert [(of.unit, of.columns["length"].tolist()) for of in same] == [
        ("tokens", [5]),
        ("tokens", [7]),
    ]
    sources = [told("a", "m", 5), told("b", "n", 7)]
    assert models(sources) == ["m", "n"]
    other = measure(sources, shipped_patterns())
    assert [(of.unit, of.columns["length"].tolist()) for of in other] == [
        ("words", [2]),
        ("words", [2]),
    ]


def test_a_stage_names_its_model(run: Path) -> None:
    assert [read_source(str(run / s))[0].model for s in ("hunt", "verified")] == ["none", "none"]


def test_histograms_lose_no_solution() -> None:
    measured = measure([told("a", "m", 1, 2, 4), told("b", "m", 4096)], shipped_patterns())
    edges, (a, b) = length_histograms(measured)
    # 24 bins from 2^0 to 2^12: two bins an octave; the last bin holds its upper edge.
    assert np.log2(edges).tolist() == pytest.approx([i / 2 for i in range(25)])
    assert (sum(a), sum(b), b[23]) == (3, 1, 1)
    alone, counts = length_histograms(measure([told("a", "m", 9, 9)], shipped_patterns()))
    assert (alone[0], alone[-1], counts[0][0]) == (9, 18, 2)


def test_places_fall_into_ten_bins() -> None:
    assert place_histogram(np.array([0.0, 0.05, 0.1, 0.95])) == [2, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    assert place_histogram(np.array([])) == [0] * 10


def test_the_figures_read_medians_and_shares() -> None:
    def source(name: str, median: float, share: float, places: list[int]) -> dict[str, Any]:
        figures = {"length": {"median": median}, "reflection_share": {"mean": share}}
        counts = {"length_counts": [1, 1], "place_counts": {"reflection": places}}
        return {"name": name, "n": 2, "figures": figures} | counts

    sources = [source("A", 1234, 0, [0, 0]), source("B", 20, 0.5, [1, 3])]
    profile = {"unit": "words", "length_edges": [1, 50, 2500], "sources": sources}
    lengths, places = drawn_lengths("p", profile), habit_places("p", profile)
    assert lengths.reading == "Median lengths in words: A 1,234; B 20."
    assert places is not None
    assert places.reading.startswith("Solutions with such a phrase: A 0 %; B 50 %.")
    assert "B (4 phrases)" in places.svg
    assert "A (" not in places.svg
    assert "var(--s2)" in places.svg  # B keeps its colour though A has no panel
    assert habit_places("p", profile | {"sources": sources[:1]}) is None

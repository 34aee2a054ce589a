"""What is run again, and what is not: a scripted loop, changed in one place at a time."""

import importlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from pipeline_runs import PLUGIN, SCRIPTED, TINY, prepare

from butwait.cli.recorded_stage import read_recorded_stage
from butwait.pipeline import run as pipeline
from butwait.pipeline.identity import stage_header
from butwait.problems.overlap import text_id
from butwait.profile.sources import read_source
from butwait.recipe.load import load_recipe
from butwait.records import UserError
from butwait.running.identity import content
from butwait.running.json_lines import dump_rows, read_rows
from butwait.running.stages import Stage
from butwait.stages.kinds import STAGES
from butwait.stages.problem_sets import LoadedSet
from butwait.synthesis.dataset import load_examples

BASE = "  base: {kind: evaluate, problems: [test], methods: {sample: {k: 2}}}\n"
LOOP = (
    SCRIPTED.replace("problems:\n", "problems:\n  test: {source: tests.jsonl}\n", 1)
    .replace("stages:\n", f"stages:\n{BASE}", 1)
    .replace("{source: questions.jsonl}", "{source: questions.jsonl, columns: {solution: told}}")
    + """  verified: {kind: verified, from: [search]}
  report: {kind: report}
"""
)
ENDS = {"\\boxed{3}": 1.0}
EVERYTHING = ["base", "search", "verified", "report"]


def begin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder, entered, with a module of a name that no other test imports."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    plugin = f"toys_{abs(hash(folder))}"
    prepare(folder, LOOP.replace("toys:", f"{plugin}:"))
    Path(f"{plugin}.py").write_text(PLUGIN)
    write_set("questions.jsonl", "question", 6)
    write_set("tests.jsonl", "test", 4)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return begin(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The loop's run, made once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = begin(tmp_path_factory.mktemp("whole"), patch)
        assert ran() == EVERYTHING
    return folder / "run"


@pytest.fixture
def finished(folder: Path, whole: Path) -> Path:
    """The folder, in which the loop has run: a copy counts as the run (the first test)."""
    shutil.copytree(whole, folder / "run")
    return folder


def write_set(path: str, word: str, count: int, **more: Any) -> None:
    rows = [
        {"id": f"q{i}", "question": f"{word} {i}", "answer": "3", "told": "3"} | more
        for i in range(count)
    ]
    Path(path).write_text(dump_rows(rows))


def ran(*overrides: str, recipe: str = "mine.yaml", where: str = "run") -> list[str]:
    """Runs the recipe; returns the stages that were not finished before. Nothing is drawn."""
    found: list[str] = []
    outcome = pipeline._outcome
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "_outcome", lambda s: found.append(s.name) or outcome(s))
        patch.setattr(Figure, "savefig", lambda _, file, **__: file.write("<svg></svg>"))
        pipeline.run_recipe(load_recipe(recipe, STAGES, overrides), Path(where))
    return found


def test_nothing_is_run_again_where_nothing_changed(folder: Path) -> None:
    assert ran() == EVERYTHING
    assert ran() == []
    shutil.copytree("run", "moved")
    assert ran(where="moved") == []


def test_a_problem_file_counts_by_its_content_and_not_by_its_place(finished: Path) -> None:
    Path("questions.jsonl").rename("elsewhere.jsonl")
    elsewhere = "problems.train.source=elsewhere.jsonl"
    assert ran(elsewhere) == []
    for column in ("answer", "told"):
        write_set("elsewhere.jsonl", "question", 6, **{column: "5"})
        assert ran(elsewhere) == ["search", "verified", "report"], column
    metadata = "problems.train.columns.metadata=[told]"
    assert ran(elsewhere, metadata) == ["search", "verified", "report"]
    write_set("elsewhere.jsonl", "question", 6)
    assert ran(elsewhere) == []


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("stages.search.concurrency=1", []),
        ("stages.search.shard_size=3", []),
        ("stages.base.concurrency=1", []),
        ("engine.live_tokens=64", []),
        ("threads=1", []),
        ("stages.verified.per_question=1", ["verified", "report"]),
        ("stages.search.sampler.particles=5", ["search", "verified", "report"]),
        ("stages.base.methods.sample.k=3", ["base", "report"]),
        ("seed=1", EVERYTHING),
    ],
)
def test_a_result_is_made_again_and_a_resource_is_not(
    finished: Path, change: str, again: list[str]
) -> None:
    assert ran(change) == again
    assert ran() == (["report"] if again == ["report"] else [])  # the old ones come back


def test_an_arm_is_told_by_the_report_that_follows(finished: Path) -> None:
    assert ran("stages.base.arm=x") == ["base", "report"]
    summary = json.loads(Path("run/summary.json").read_text())
    assert "x" not in summary["stages"]


def test_the_report_has_the_name_of_the_run_just_made(finished: Path) -> None:
    assert ran("name=other") == ["report"]
    assert json.loads(Path("run/summary.json").read_text())["recipe"] == "other"


def test_a_report_that_lost_its_page_is_one_sentence(finished: Path) -> None:
    Path("run/report/report.html").unlink()
    with pytest.raises(UserError, match=r"report.html is gone; remove the folder"):
        ran()


def test_a_plugin_that_is_no_python_is_one_sentence(folder: Path) -> None:
    (plugin,) = Path().glob("toys_*.py")
    broken = Path(f"broken_{plugin.stem}.py")
    broken.write_text("def policy(:\n")
    with pytest.raises(UserError, match="cannot be imported"):
        ran(f"engine.script={broken.stem}:policy")


def test_a_model_folder_may_hold_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = content(str(tmp_path))
    (tmp_path / "run" / "sft").mkdir(parents=True)
    (tmp_path / "run" / "sft" / "log.jsonl").write_text("{}")
    assert content(str(tmp_path)) == before
    (tmp_path / "config.json").write_text("{ }")
    assert content(str(tmp_path)) != before


def test_the_device_counts_where_a_model_is_trained(folder: Path) -> None:
    recipe = Path("mine.yaml").read_text()
    Path("mine.yaml").write_text(
        recipe.replace("  report:", "  sft: {kind: sft, from: [verified]}\n  report:")
    )

    def prints(device: str) -> dict[str, str]:
        loaded = load_recipe("mine.yaml", STAGES, [f"model.device={device}"])
        sets = dict.fromkeys(loaded.problems, LoadedSet([], Counter(), "0"))
        record = {"fingerprint": "0", "metrics": {}, "cost": {}}
        done = {name: Stage(Path(name), record) for name in loaded.stages}
        return {
            name: stage_header(loaded, name, sets, done, {})["fingerprint"]
            for name in ("search", "sft")
        }

    cpu, first, second = (prints(device) for device in ("cpu", "cuda:0", "cuda:1"))
    assert cpu["search"] == first["search"]  # its policy is written down
    assert cpu["sft"] != first["sft"] == second["sft"]


def test_a_plugin_counts_by_its_source(finished: Path) -> None:
    (plugin,) = Path().glob("toys_*.py")
    plugin.write_text(PLUGIN + "\n# Another thought.\n")
    assert ran() == EVERYTHING  # the policy and the reward model stand in it


@pytest.mark.slow
def test_slots_are_a_resource_unless_bits_depend_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, TINY.replace("size: 40", "size: 4"))
    free, fixed = "engine.deterministic=false", "engine.deterministic=true"
    assert ran(free) == ["search"]
    assert ran(free, "engine.slots=8", "engine.prefill_chunk=16") == []
    assert ran(fixed) == ["search"]
    assert ran(fixed, "engine.slots=8") == ["search"]
    before = torch.get_num_threads()
    try:
        assert ran(fixed, f"threads={before + 1}") == ["search"]
    finally:
        torch.set_num_threads(before)


def test_the_report_is_that_of_the_run_just_made(folder: Path, capsys) -> None:
    def shown() -> tuple[str, str, str]:
        """The terminal's verdict, the page, and the figures."""
        page, summary = (Path("run", n).read_text() for n in ("report.html", "summary.json"))
        assert json.loads(summary)["verdict"] in capsys.readouterr().out
        return page, summary

    other = "stages.base.methods.sample.k=4"
    assert ran() == EVERYTHING
    first = shown()
    assert ran(other) == ["base", "report"]
    second = shown()
    assert first[1] != second[1]
    for overrides, expected in (((), first), ((other,), second), ((), first)):
        assert ran(*overrides) == []
        assert shown() == expected
    for left in ([], ["report.html"], ["summary.json"]):
        for name in ("report.html", "summary.json"):
            if name not in left:
                Path("run", name).unlink()
        assert ran() == []
        assert shown() == first
    Path("run/report.html").write_text("of somebody else")
    assert ran() == []
    assert shown() == first


def test_no_report_is_named_where_the_recipe_makes_none(finished: Path, capsys) -> None:
    text = Path("mine.yaml").read_text().replace("  report: {kind: report}\n", "")
    Path("without.yaml").write_text(text)
    capsys.readouterr()
    assert ran(recipe="without.yaml") == []
    assert "report" not in capsys.readouterr().out


def test_the_order_of_stages_counts_for_the_report_alone(folder: Path) -> None:
    text = Path("mine.yaml").read_text()
    other = BASE.replace("base", "other").replace("k: 2", "k: 3")
    Path("mine.yaml").write_text(text.replace(BASE, BASE + other))
    ran()
    Path("mine.yaml").write_text(text.replace(BASE, other + BASE))
    assert ran() == ["report"]


def test_a_stage_without_its_record_is_refused(finished: Path) -> None:
    for stage in EVERYTHING:
        record = Path("run", stage, "stage.json")
        record.rename("record")
        with pytest.raises(UserError, match=rf"{stage} holds files and no stage\.json"):
            ran()
        Path("record").rename(record)
    assert ran() == []


def test_an_input_that_is_made_again_and_is_another_one_counts(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree("run/search")
    assert ran() == ["search"]  # the same trees: what was made of them is still right
    shutil.rmtree("run/search")
    # A policy that was changed behind the recipe's back.
    module = importlib.import_module(next(finished.glob("toys_*.py")).stem)
    monkeypatch.setattr(module, "TABLE", {"": {"a\n": 0.5, "\\boxed{7}": 0.5}, "a\n": ENDS})
    assert ran() == ["search", "verified", "report"]


def test_another_minor_version_is_said_in_one_line(finished: Path, capsys) -> None:
    file = Path("run/search/stage.json")
    record = json.loads(file.read_text())
    versions = record["versions"]
    now = {name: ".".join(versions[name].split(".")[:2]) for name in ("torch", "trl")}
    for changed, told in (
        ({"torch": "1.0.0"}, [f"  made by torch 1.0 (now {now['torch']})"]),
        ({"trl": "99.1"}, [f"  made by trl 99.1 (now {now['trl']})"]),
        ({"numpy": "1.0", "torch": now["torch"] + ".99", "vllm": "0.1"}, []),
    ):
        file.write_text(json.dumps(record | {"versions": versions | changed}))
        capsys.readouterr()
        assert ran() == []
        assert [x for x in capsys.readouterr().out.splitlines() if "made by" in x] == told


OUTSIDE = ["../x", "..", ".", "", "/tmp/x", "a/b", "a\\b", ".hidden", "a\nb", "x" * 300]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("what", ["recipe", "problem set", "stage"])
def test_names_stay_inside_of_the_run(folder: Path, what: str, name: str) -> None:
    content = {
        "name": "mine",
        "model": {"name": "none"},
        "problems": {"test": {"source": "tests.jsonl"}},
        "stages": {"base": {"kind": "evaluate", "problems": ["test"], "methods": {"a": {}}}},
    }
    if what == "recipe":
        content["name"] = name
    elif what == "problem set":
        content["problems"] = {name: {"source": "tests.jsonl"}}
        content["stages"]["base"]["problems"] = [name]
    else:
        content["stages"] = {name: content["stages"]["base"]}
    Path("named.yaml").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{what} name"):
        load_recipe("named.yaml", STAGES)


@pytest.mark.parametrize("name", ["problems", "Problems"])
def test_no_stage_is_called_as_the_folder_of_the_questions(folder: Path, name: str) -> None:
    text = Path("mine.yaml").read_text().replace("  verified:", f"  {name}:")
    Path("mine.yaml").write_text(text)
    with pytest.raises(UserError, match="the run has its questions there"):
        ran()


def test_questions_of_several_sets_are_told_apart_where_their_ids_are_not(folder: Path) -> None:
    """An apple's solution must not answer a banana's question, wherever solutions are pooled."""
    text = Path("mine.yaml").read_text()
    search = text[text.index("  search:") : text.index("  verified:")]
    text = text.replace("  test: {", "  bananas: {source: bananas.jsonl}\n  test: {")
    second = search.replace("search:", "second:", 1).replace(": train", ": bananas")
    text = text.replace("  verified:", second + "  verified:")
    text = text.replace("from: [search]", "from: [search, second], per_question: 1")
    text += "  looked_at: {kind: profile, from: [verified], sources: [verified]}\n"
    Path("mine.yaml").write_text(text)
    write_set("bananas.jsonl", "banana", 6)
    ran()
    asked = {}
    for name in ("train", "bananas"):
        for row in read_rows(Path(f"run/problems/{name}.jsonl")):
            assert row["id"] not in asked
            asked[row["id"]] = row["question"]
    examples = load_examples(Path("run/verified/dataset"))
    assert {example.provenance["stage"] for example in examples} == {"search", "second"}
    for example in examples:
        question = asked[example.problem_id]
        assert question in example.prompt[-1]["content"]
        assert question.startswith("banana") == (example.provenance["stage"] == "second")
    (source,) = read_source("run/verified")
    assert {s.question for s in source.solutions} == {
        text_id(asked[example.problem_id]) for example in examples
    }
    stage = read_recorded_stage(Path("run/second"))
    assert all(p.question.startswith("banana") for p in stage.problems.values())
    assert len(stage.problems) == 6


def test_evaluation_sets_keep_the_questions_that_they_share(folder: Path) -> None:
    text = Path("mine.yaml").read_text()
    text = text.replace("  test: {", "  more: {source: more.jsonl}\n  test: {")
    text = text.replace("problems: [test],", "problems: [test, more],")
    Path("mine.yaml").write_text(text)
    write_set("more.jsonl", "test", 7)
    ran()
    metrics = json.loads(Path("run/base/stage.json").read_text())["metrics"]
    assert {key: found["n"] for key, found in metrics.items()} == {
        "test/sample": 4,
        "more/sample": 7,
    }

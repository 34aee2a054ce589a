"""Finished stages whose files are gone, and what is said of those that are computed anew."""

import json
import shutil
from pathlib import Path

import pytest
from pipeline_runs import PLUGIN, SCRIPTED, prepare

import butwait
from butwait.api.finished import Evaluation
from butwait.cli.stored_stages.attempts import Choice, attempts
from butwait.cli.trees import trees
from butwait.pipeline import run as pipeline
from butwait.pipeline.preflight import lost_models
from butwait.recipe.load import load_recipe
from butwait.records import UserError
from butwait.running.json_lines import dump_rows
from butwait.running.stages import Stage, read_stage
from butwait.stages.kinds import STAGES

RECIPE = (
    SCRIPTED.replace("problems:\n", "problems:\n  test: {source: tests.jsonl}\n", 1)
    .replace("shard_size: 8", "shard_size: 2")
    .replace(
        "stages:\n",
        "stages:\n  base: {kind: evaluate, problems: [test], methods: {sample: {k: 2}}, "
        "shard_size: 2}\n",
        1,
    )
    + "  verified: {kind: verified, from: [search]}\n"
)
TREES = Path("run/search/trees")
ATTEMPTS = Path("run/base/attempts/test/sample")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a finished run."""
    folder = tmp_path_factory.mktemp("gone")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        prepare(folder, RECIPE.replace("toys:", "gone_toys:"))
        Path("gone_toys.py").write_text(PLUGIN)
        write_sets()
        ran()
    return folder


@pytest.fixture
def finished(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, entered."""
    shutil.copytree(whole, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(tmp_path / "here"))
    return tmp_path / "here"


def write_sets(answer: str = "3") -> None:
    for path, word in (("questions.jsonl", "question"), ("tests.jsonl", "test")):
        rows = [{"id": f"q{i}", "question": f"{word} {i}", "answer": answer} for i in range(6)]
        Path(path).write_text(dump_rows(rows))


def ran(*overrides: str) -> None:
    pipeline.run_recipe(load_recipe("mine.yaml", STAGES, overrides), Path("run"))


def test_a_finished_search_that_lost_trees_makes_them_again(finished: Path, capsys) -> None:
    before = {file.name: file.read_bytes() for file in TREES.glob("shard-*")}
    record, data = read_stage(Path("run/search")), Path("run/verified/stage.json").read_bytes()
    assert record is not None
    assert len(before) == 3
    kept = TREES / "shard-00000.parquet"
    written = kept.stat().st_mtime_ns
    (TREES / "shard-00001.parquet").unlink()
    capsys.readouterr()
    ran()
    out = capsys.readouterr().out
    assert "1 of its files of results is gone: only their problems are computed" in out
    assert "search (search): finished before" not in out
    assert {file.name: file.read_bytes() for file in TREES.glob("shard-*")} == before
    assert kept.stat().st_mtime_ns == written
    again = read_stage(Path("run/search"))
    assert again is not None
    assert again.complete
    assert again.record["metrics"] == record.record["metrics"]
    assert Path("run/verified/stage.json").read_bytes() == data


def test_a_stage_that_was_put_aside_without_all_its_trees_makes_them_again(finished: Path) -> None:
    other = "stages.search.sampler.particles=2"
    ran(other)
    (kept,) = Path("run/.superseded").glob("search-*")
    (kept / "trees" / "shard-00002.parquet").unlink()
    ran()
    assert len(list(TREES.glob("shard-*"))) == 3


def test_a_finished_evaluation_that_lost_attempts_makes_them_again(finished: Path) -> None:
    before = {file.name: file.read_bytes() for file in ATTEMPTS.glob("shard-*")}
    for file in ATTEMPTS.glob("shard-*"):
        file.unlink()
    ran()
    assert {file.name: file.read_bytes() for file in ATTEMPTS.glob("shard-*")} == before


def test_what_is_left_of_finished_trees_is_not_taken_for_all(finished: Path) -> None:
    for number in (0, 2):
        (TREES / f"shard-0000{number}.parquet").unlink()
    told = (
        r"shard-00000\.parquet is gone, and 1 more: the finished stage 'search' is not whole; run "
        r"the recipe of .* again"
    )
    with pytest.raises(UserError, match=told):
        butwait.load_trees("run/search")
    with pytest.raises(UserError, match=told):
        trees(Path("run/search"))
    shutil.rmtree(TREES)
    with pytest.raises(UserError, match="of the finished stage run/search are gone; remove its"):
        butwait.load_trees(TREES)


def test_what_is_left_of_finished_attempts_is_not_taken_for_all(finished: Path) -> None:
    (ATTEMPTS / "shard-00001.parquet").unlink()
    record = read_stage(Path("run/base"))
    assert record is not None
    told = "the finished stage 'base' is not whole"
    with pytest.raises(UserError, match=told):
        attempts(Path("run/base"), Choice(), as_json=True)
    with pytest.raises(UserError, match=told):
        Evaluation(Path("run"), "base", record.record, {}).attempts()


def test_an_unfinished_stage_and_one_without_a_note_are_read_as_they_are(finished: Path) -> None:
    (TREES / "shard-00001.parquet").unlink()
    file = Path("run/search/stage.json")
    text = file.read_text()
    file.write_text(json.dumps(json.loads(text) | {"status": "running"}))
    assert len(butwait.load_trees("run/search")) == 4
    file.write_text(text)
    (TREES / ".shards.json").unlink()
    assert len(butwait.load_trees("run/search")) == 4


def test_a_finished_stage_whose_model_is_gone_is_one_sentence(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        "model: {name: tiny}\n"
        "problems: {train: {source: questions.jsonl}, test: {source: tests.jsonl}}\n"
        "stages:\n"
        "  search: {kind: search, problems: train, sampler: {kind: independent}}\n"
        "  verified: {kind: verified, from: [search]}\n"
        "  sft: {kind: sft, from: [verified], keep_epochs: true, epochs: 2}\n"
        "  base: {kind: evaluate, from: [sft], checkpoint: 1, problems: [test], methods: {a: {}}}\n"
        "  report: {kind: report}\n"
    )
    recipe = load_recipe("mine.yaml", STAGES)
    model = Path("run/sft/epochs/1/model")
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    done = {
        name: Stage(Path("run", name), {"status": "complete"})
        for name in ("search", "verified", "sft")
    }
    (told,) = lost_models(recipe, done)
    assert told == (
        f"the trained model of the finished stage 'sft' is gone or damaged (the folder {model} has "
        "a configuration and no weights (model.safetensors)); remove the folder run/sft and run "
        "the same command again"
    )
    assert lost_models(recipe, done | {"base": done["sft"]}) == []  # a report loads no model
    (model / "pytorch_model.bin").write_bytes(b"weights")
    assert lost_models(recipe, done) == []


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("stages.search.sampler.particles=2", "sampler.particles changed"),
        ("prompt.system=Think.", "prompt.system changed"),
        ("seed=1", "seed changed"),
    ],
)
def test_a_stage_that_is_computed_anew_says_what_changed(
    finished: Path, capsys, change: str, what: str
) -> None:
    capsys.readouterr()
    ran(change, "stages.search.concurrency=1", "engine.live_tokens=64")  # no part of a result
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if "search is computed anew" in line]
    (kept,) = Path("run/.superseded").glob("search-*")
    assert told == (
        f"  search is computed anew: {what}; the earlier one is kept in .superseded/{kept.name}"
    )


def test_other_questions_and_inputs_are_named(finished: Path, capsys) -> None:
    write_sets("5")
    capsys.readouterr()
    ran()
    told = [line for line in capsys.readouterr().out.splitlines() if "anew" in line]
    assert [line.partition(";")[0] for line in told] == [
        "  base is computed anew: the questions of test changed",
        "  search is computed anew: the questions of train changed",
        "  verified is computed anew: its input search changed",
    ]
    write_sets()
    ran()
    assert "anew" not in capsys.readouterr().out  # the old ones came back


def test_a_changed_plugin_is_told_where_no_setting_changed(finished: Path, capsys) -> None:
    plugin = Path("gone_toys.py")
    plugin.write_text(plugin.read_text() + "\n# Another thought.\n")
    capsys.readouterr()
    ran()
    out = capsys.readouterr().out
    assert "search is computed anew: a file or function that it uses, or what came out of" in out

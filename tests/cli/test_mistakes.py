"""A user's mistakes: one clear sentence, exit code 2, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))

from pipeline_runs import SCRIPTED, butwait, prepare, shards

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def folder(own_folder: Path) -> Path:
    prepare(own_folder, SCRIPTED, questions=10)
    return own_folder


@pytest.fixture
def run(command: Callable[..., tuple[int, str, str]]) -> Run:
    """Runs a command: (exit code, what it said on stderr)."""
    return lambda *words: command(*words)[::2]


def save_tiny_without_chat_template(folder: Path) -> None:
    from butwait.engines.models import resolve
    from butwait.engines.settings import ModelSettings

    shutil.copytree(resolve(ModelSettings(name="tiny")), folder / "base")
    (folder / "base" / "chat_template.jinja").unlink()


def nothing(folder: Path) -> None:
    pass


def drop_an_answer(folder: Path) -> None:
    (folder / "questions.jsonl").write_text('{"id": "q7", "question": "?", "answer": null}\n')


def break_a_line(folder: Path) -> None:
    (folder / "questions.jsonl").write_text('{"id": "q0", "question": "?", "answer": "3"}\n{"id"\n')


TRANSFORMERS = "engine={kind: transformers}"
MISTAKES: list[tuple[Callable[[Path], None], list[str], list[str]]] = [
    (nothing, ["stages.search.sampler.particels=3"], ["unknown key `stages.search.sampler.part"]),
    (nothing, ["problems.train.source=gone.jsonl"], ["gone.jsonl"]),
    (nothing, ["problems.train.columns.answer=gold"], ["gold", "id, question, answer"]),
    (nothing, ["problems.train.source=gym:no_such_thing"], ["no_such_thing"]),
    (nothing, ["problems.train.offset=99"], ["gives no problems", "99"]),
    (drop_an_answer, [], ["row 1", "no gold answer"]),
    (break_a_line, [], ["line 2"]),
    (nothing, [TRANSFORMERS, "model.name=no-such-org/no-such-model"], ["no-such-org/no-such-m"]),
    (nothing, [TRANSFORMERS, "model.name=./nowhere/"], ["./nowhere/"]),
    (nothing, [TRANSFORMERS, "model={name: tiny, device: abacus}"], ["abacus"]),
    (save_tiny_without_chat_template, [TRANSFORMERS, "model.name=base"], ["chat template"]),
    (nothing, ["engine.script=toys:no_such"], ["no_such"]),
    (nothing, ["engine.script=no_such:policy"], ["no_such"]),
    (nothing, ["stages.search.reward_model=null"], ["needs a reward model"]),
]


@pytest.mark.parametrize(
    ("break_", "words", "said"), MISTAKES, ids=[" ".join(m[1]) or m[0].__name__ for m in MISTAKES]
)
def test_a_mistake_in_a_run(
    folder: Path,
    run: Run,
    break_: Callable[[Path], None],
    words: list[str],
    said: list[str],
) -> None:
    break_(folder)
    code, sentence = run("run", "mine.yaml", *(w for word in words for w in ("--set", word)))
    assert code == 2, sentence
    assert sentence.startswith("butwait: ")
    assert len(sentence.strip().splitlines()) == 1
    for part in said:
        assert part in sentence
    assert not list(folder.glob("runs/mine/search/trees/shard-*"))


@pytest.mark.parametrize(
    "damage", [b"", b"PAR1 this is no shard", None], ids=["empty", "corrupt", "cut"]
)
def test_a_damaged_shard_is_named_and_the_others_are_kept(
    folder: Path, run: Run, damage: bytes | None
) -> None:
    assert run("run", "mine.yaml")[0] == 0
    trees = folder / "runs" / "mine" / "search" / "trees"
    whole = shards(trees)
    broken = trees / "shard-00000.parquet"
    broken.write_bytes(whole[broken.name][:-20] if damage is None else damage)
    # The stage was stopped before its end, as far as its record knows.
    record = trees.parent / "stage.json"
    record.write_text(record.read_text().replace('"complete"', '"running"'))

    for words in (("run", "mine.yaml"), ("trees", "runs/mine/search")):
        code, sentence = run(*words)
        assert code == 2
        assert str(broken.relative_to(folder)) in sentence
        assert len(sentence.strip().splitlines()) == 1

    broken.unlink()
    assert run("run", "mine.yaml")[0] == 0
    assert shards(trees) == whole


def test_a_damaged_stage_record_is_named(folder: Path, run: Run) -> None:
    (folder / "runs" / "mine" / "search").mkdir(parents=True)
    (folder / "runs" / "mine" / "search" / "stage.json").write_text("{")
    code, sentence = run("run", "mine.yaml")
    assert code == 2
    assert "search/stage.json is damaged" in sentence


def test_a_run_folder_that_cannot_be_made(folder: Path, run: Run) -> None:
    (folder / "taken").write_text("a file")
    code, sentence = run("run", "mine.yaml", "--run-dir", "taken")
    assert code == 2
    assert "choose another with --run-dir" in sentence


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "in.jsonl"),
        ('{"id": 1, "gold": "3"}\n', "pred"),
        ('{"id": 1, "gold": "3", "pred": "3"}\n{"id": 2,\n', "line 2"),
    ],
)
def test_mistakes_in_a_file_to_grade(
    folder: Path, run: Run, content: str | None, said: str
) -> None:
    if content is not None:
        (folder / "in.jsonl").write_text(content)
    code, sentence = run("grade", "--jsonl", "in.jsonl", "--out", "out.jsonl")
    assert code == 2
    assert said in sentence
    assert not (folder / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("toys", "--out toys is a folder; give the name of a file"),
        ("in.jsonl", "--out in.jsonl is the file that is read"),
        ("hard.jsonl", "--out hard.jsonl is the file that is read"),
        ("in.jsonl/x", "in.jsonl is no folder"),
        ("pipe", "pipe is a device or a pipe"),
        ("/dev/null", "/dev/null is a device or a pipe"),
    ],
)
def test_where_verdicts_cannot_be_written(folder: Path, run: Run, out: str, said: str) -> None:
    before = '{"id": 1, "gold": "3", "pred": "3"}\n'
    (folder / "in.jsonl").write_text(before)
    (folder / "hard.jsonl").hardlink_to(folder / "in.jsonl")
    (folder / "toys").mkdir()
    os.mkfifo(folder / "pipe")
    code, sentence = run("grade", "--jsonl", "in.jsonl", "--out", out)
    assert code == 2
    assert said in sentence
    assert (folder / "in.jsonl").read_text() == before
    assert not Path("/dev/null").is_file()


def test_a_folder_without_trees(folder: Path, run: Run) -> None:
    code, sentence = run("trees", "runs/none")
    assert code == 2
    assert "runs/none" in sentence


@pytest.mark.slow
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    """On a real file system of 48 kB, which is then made larger."""
    prepare(tmp_path, SCRIPTED, questions=40)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48k,mode=777", "none", disk]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        words = ("run", "mine.yaml", "--run-dir", disk / "run")
        full = butwait(*words, cwd=tmp_path)
        assert full.returncode == 2
        assert "the disk is full" in full.stderr
        assert len(full.stderr.strip().splitlines()) == 1
        kept = {p.name for p in (disk / "run" / "search" / "trees").rglob("*.parquet")}
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        again = butwait(*words, cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert kept
        assert len(shards(disk / "run" / "search" / "trees")) == 5
    finally:
        subprocess.run(["umount", disk], check=True)


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; sys.argv = ['butwait', '--help']\n"
        "from butwait.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_grade_writes_a_status_for_every_line(folder: Path, run: Run) -> None:
    rows = [
        {"id": "a", "gold": "073", "pred": "so \\boxed{73}"},
        {"id": "b", "gold": "12", "pred": "\\boxed{13}"},
        {"id": "c", "gold": "12", "pred": "I do not know"},
    ]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("grade", "--jsonl", "in.jsonl", "--out", "out.jsonl")[0] == 0
    graded = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert graded == [
        {"id": "a", "match": True, "status": "correct"},
        {"id": "b", "match": False, "status": "wrong"},
        {"id": "c", "match": False, "status": "no_answer"},
    ]

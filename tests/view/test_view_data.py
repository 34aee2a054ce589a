"""What the page is told of a run: each figure is that of the run's own files."""

import json
import math
import os
import shutil
from collections import Counter
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from viewed_run import GRPO, HOSTILE, VERIFIED, write_run

from butwait.evaluation.storage import read_attempts
from butwait.evaluation.storage import write_shard as write_attempts
from butwait.records import AttemptTokens
from butwait.reward_models.kinds.trained import FILE as REWARD_MODEL
from butwait.running.json_lines import dump_rows
from butwait.search.storage import read_tree, write_shard
from butwait.search.summary import descendants, weight_below
from butwait.search.weights import ess_share
from butwait.synthesis.dataset import load_examples, save_examples
from butwait.training.grpo.searches import SearchFolder
from butwait.view.attempts import steps
from butwait.view.folders import Folder
from butwait.view.library import Library, everything
from butwait.view.script import numbers, script


def library(*runs: Path) -> Library:
    return Library(lambda: runs, live=True)


def own(run: Path, folder: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(run, folder / run.name))


def noted(stage: Path, **changed: Any) -> None:
    """Changes a stage's record; its settings by their names."""
    record = json.loads((stage / "stage.json").read_text())
    settings = record["settings"] | changed.pop("settings", {})
    (stage / "stage.json").write_text(json.dumps(record | {"settings": settings} | changed))


def with_train(run: Path, folder: Path) -> Path:
    """A copy with a training set, which has the test set's ids for other questions. Its search and
    its trainings are on that one."""
    run = own(run, folder)
    rows = [{"id": f"p{i}", "question": f"And {i} + 5?", "answer": str(i + 5)} for i in range(4)]
    (run / "problems" / "train.jsonl").write_text(dump_rows(rows))
    noted(run / "hunt", settings={"problems": "train"}, problem_sets={"train": {}})
    both = {"problems": "train", "selection": {"problems": "test"}}
    noted(run / GRPO, settings=both, problem_sets={"test": {}, "train": {}})
    return run


def test_questions_are_of_the_set_that_the_stage_is_about(seen_run: Path, tmp_path: Path) -> None:
    """A training set and a test set may have one id for two questions."""
    run = with_train(seen_run, tmp_path)
    seen = library(run)
    golds = [str(i + 5) for i in range(4)]
    trees = seen.get("trees/0/hunt")
    assert trees["gold"] == golds
    assert seen.get("tree/0/hunt/0-1")["question"] == "And 1 + 5?"
    told = seen.get(f"examples/0/{VERIFIED}")["problems"]
    assert told[0] == {"id": "p0", "question": "And 0 + 5?", "gold": "5"}
    assert [one["gold"] for one in seen.get("attempts/0/after")["problems"]] == list("1234")

    # Looks are at the set that chooses, completions at that of the training.
    (path,) = (run / GRPO).glob("samples.jsonl")
    sample = {"step": 1, "problem_id": "p1", "question": "And 1 + 5?", "text": "", "reward": 0}
    older = {name: value for name, value in sample.items() if name != "question"}
    path.write_text(dump_rows([sample, older]))
    samples = seen.get(f"training/0/{GRPO}")["samples"]
    assert [(one["step"], one["question"], one["gold"]) for one in samples] == [
        (0, "What is 0 + 1?", "1"), (1, "And 1 + 5?", "6"), (1, "And 1 + 5?", "6"),
        (100, "What is 0 + 1?", "1"), (200, "What is 0 + 1?", "1"),
    ]  # fmt: skip

    # Searches of a training, which reads both sets.
    tree = read_tree(run / "hunt" / "trees", "p1")
    SearchFolder(run / GRPO / "searches").keep(tree, 4)
    assert seen.get(f"trees/0/{GRPO}")["gold"] == ["6"]


def test_an_example_of_an_id_of_two_questions_shows_the_one_it_asks(
    seen_run: Path, tmp_path: Path
) -> None:
    run = with_train(seen_run, tmp_path)
    noted(run / "hunt", problem_sets={"test": {}, "train": {}})
    asked = ["And 0 + 5? Think.", "What is 0 + 1?", "something else"]
    example = load_examples(run / VERIFIED / "dataset")[0]
    turns = [[{"role": "user", "content": text}] for text in asked]
    shutil.rmtree(run / VERIFIED / "dataset")
    save_examples(run / VERIFIED / "dataset", [replace(example, prompt=turn) for turn in turns])
    told = library(run).get(f"examples/0/{VERIFIED}")
    found = [told["problems"][place] for place in told["problem"]]
    assert [one["id"] for one in found] == [example.problem_id] * 3
    assert [(one["question"], one["gold"]) for one in found] == [
        ("And 0 + 5?", "5"), ("What is 0 + 1?", "1"), ("", None),
    ]  # fmt: skip


def test_long_questions_are_told_apart_by_what_they_end_in(seen_run: Path, tmp_path: Path) -> None:
    """Prompts with the same examples begin alike, further than the page holds them."""
    run, examples = own(seen_run, tmp_path), "Q: 1 + 1? A: 2. " * 200
    texts = [f"{examples}3 + 4?", f"{examples}3 + 5?", f"{examples}\n 3 + 4?", ""]
    rows = [{"id": f"p{i}", "question": text, "answer": "7"} for i, text in enumerate(texts)]
    (run / "problems" / "test.jsonl").write_text(dump_rows(rows))
    told = library(run).get("attempts/0/after")["problems"]
    assert told[0]["question"] == told[1]["question"] == examples[:1999] + "…"
    first, other, spaced, none = (one["same"] for one in told)
    assert first == spaced != other
    assert none == ""


def test_a_piece_of_data_is_one_statement_that_no_text_can_end() -> None:
    texts = [HOSTILE, "\u2029 \ud800 \x7f é", float("nan"), {"deep": [float("-inf"), 1]}]
    statement = script("a/</script>", texts)
    assert statement.isascii()
    assert b"<" not in statement
    assert statement.count(b"\n") == 1
    name, _, value = statement.decode()[len("butwait.receive(") : -3].partition('",')
    assert json.loads(f'{name}"') == "a/</script>"
    assert json.loads(value) == [*texts[:2], None, {"deep": [None, 1]}]


def test_numbers_have_six_digits_and_no_nan() -> None:
    assert numbers([0.123456789, 1234567.0, math.nan, None, -math.inf]) == [
        0.123457, 1234570.0, None, None, None
    ]  # fmt: skip
    assert numbers(np.array([-1234.56789]), 4) == [-1234.5679]


def test_runs_and_stages_are_those_of_status(seen_run: Path) -> None:
    told = library(seen_run).get("runs")
    (run,) = told["runs"]
    assert told["live"] is True
    assert (run["id"], run["name"], run["state"]) == (0, "small run", "finished")
    stages = ["after", "base", GRPO, "hunt", "sft", VERIFIED]
    assert [stage["name"] for stage in run["stages"]] == stages
    page = library(seen_run).get("run/0")
    assert {stage["name"]: stage["has"] for stage in page["stages"]} == {
        "after": ["attempts"], "base": ["attempts"], GRPO: ["training"], "hunt": ["trees"],
        "sft": ["training"], VERIFIED: ["examples"],
    }  # fmt: skip
    (comparison,) = page["comparisons"]
    assert page["verdict"] == comparison["sentence"]
    rates = {row["stage"]: row["pass_at_1"] for row in page["evaluations"]}
    assert rates["base"] == comparison["rate_a"]
    assert rates["after"] == comparison["rate_b"]


def test_a_comparison_of_an_arm_leads_to_a_stage_of_it(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    noted(run / "after", settings={"arm": "tuned"})
    summary = json.loads((run / "summary.json").read_text())
    (row,) = summary["comparisons"]
    rows = [row, row | {"b": "tuned/test/sample"}, row | {"a": "gone/test/sample"}]
    (run / "summary.json").write_text(json.dumps(summary | {"comparisons": rows}))
    told = library(run).get("run/0")["comparisons"]
    assert [one["at"] for one in told] == [["base", "after"], ["base", "after"], [None, "after"]]


def test_the_list_of_trees_is_that_of_their_files(seen_run: Path) -> None:
    listed = library(seen_run).get("trees/0/hunt")
    assert listed["id"] == ["0-0", "0-1", "0-2", "0-3"]
    assert listed["question"][1] == "What is 1 + 1?"
    assert listed["gold"][1] == "2"
    for place, problem in enumerate(listed["problem"]):
        tree = read_tree(seen_run / "hunt" / "trees", problem)
        right = [leaf for leaf, grade in tree.grades.items() if grade.correct]
        share = np.exp(tree.log_weights)[np.isin(tree.leaves, right)].sum()
        assert listed["right"][place] == pytest.approx(share, rel=1e-5)
        assert listed["right_nodes"][place] == len(right)
        assert listed["nodes"][place] == len(tree.nodes)
        assert listed["steps"][place] == len(tree.populations)
        assert listed["particles"][place] == len(tree.leaves)
        assert listed["tokens"][place] == tree.counts.policy_tokens
        assert listed["log_evidence"][place] == pytest.approx(tree.log_evidence, rel=1e-5)


def test_a_tree_is_the_stored_one(seen_run: Path) -> None:
    seen = library(seen_run)
    told, tree = seen.get("tree/0/hunt/0-2"), read_tree(seen_run / "hunt" / "trees", "p2")
    nodes, populations = told["nodes"], told["populations"]
    assert nodes["parent"] == [node.parent for node in tree.nodes]
    assert nodes["depth"] == [len(list(tree.path(node))) for node in range(len(tree.nodes))]
    assert nodes["final"] == descendants(tree).tolist()
    assert nodes["weight"] == pytest.approx(weight_below(tree), rel=1e-5)
    assert nodes["logprob"] == pytest.approx([n.logprobs.sum() for n in tree.nodes], rel=1e-5)
    odds = [math.exp(node.reward_logit) for node in tree.nodes]
    assert nodes["reward"] == pytest.approx([o / (1 + o) for o in odds], rel=1e-5)
    for node, grade in tree.grades.items():
        assert told["statuses"][nodes["status"][node]] == grade.status
        assert told["answers"][nodes["answer"][node]] == grade.answer
    assert nodes["status"].count(-1) == len(tree.nodes) - len(tree.grades)
    assert populations["sizes"] == [8] * len(tree.populations)
    slots = [int(slot) for population in tree.populations for slot in population.ancestors]
    assert populations["ancestors"] == slots
    assert told["ess"] == pytest.approx([ess_share(p.log_weights) for p in tree.populations])
    assert told["evidence"][-1] == pytest.approx(tree.log_evidence, rel=1e-5)
    assert populations["alive"][-1] == 8
    assert min(populations["alive"]) < 8
    texts = seen.get("tree/0/hunt/0-2/texts/0")
    assert texts["texts"] == [node.text for node in tree.nodes]
    assert texts["tokens"] is None
    assert texts["logprobs"][1] == pytest.approx(tree.nodes[1].logprobs, abs=1e-3)
    assert "none from 256" in seen.get("tree/0/hunt/0-2/texts/1")["error"]


def test_the_alive_of_a_population_have_final_descendants(seen_run: Path) -> None:
    tree = read_tree(seen_run / "hunt" / "trees", "p0")
    alive, expected = np.ones(8, bool), []
    for population in reversed(tree.populations):
        expected.append(int(alive.sum()))
        before = np.zeros(8, bool)
        before[population.ancestors[alive]] = True
        alive = before
    told = library(seen_run).get("tree/0/hunt/0-0")
    assert told["populations"]["alive"] == expected[::-1]


def test_examples_lead_to_their_trees_and_back(seen_run: Path) -> None:
    seen = library(seen_run)
    stored, told = (
        load_examples(seen_run / VERIFIED / "dataset"),
        seen.get(f"examples/0/{VERIFIED}"),
    )
    assert told["tokens"] == [len(example.completion_ids) for example in stored]
    assert told["loss_tokens"] == [int(example.loss_mask.sum()) for example in stored]
    ids = [told["problems"][place]["id"] for place in told["problem"]]
    assert ids == [example.problem_id for example in stored]
    texts = seen.get(f"examples/0/{VERIFIED}/texts/0")["examples"]
    spans = texts[1]["spans"]
    assert [(s["role"], s["loss"]) for s in spans] == [
        ("mistake", False), ("doubt", True), ("recovery", True)
    ]  # fmt: skip
    assert "".join(span["text"] for span in spans) == stored[1].text
    made_of = spans[2]["pieces"][0]
    assert spans[1]["pieces"][0]["text"] == "\nWait.\n"
    tree = seen.get(f"tree/0/{made_of['tree']['stage']}/{made_of['tree']['id']}")
    assert tree["problem"] == ids[1]
    taken = [use for use in tree["taken"] if use["role"] == "recovery"]
    assert taken == [
        {"stage": VERIFIED, "kind": VERIFIED, "example": 1, "role": "recovery",
         "nodes": made_of["nodes"]}
    ]  # fmt: skip


def test_attempts_are_the_stored_ones(seen_run: Path) -> None:
    seen = library(seen_run)
    told = seen.get("attempts/0/after")
    stored = read_attempts(seen_run / "after" / "attempts" / "test" / "sample")
    assert len(stored) == 16
    assert told["score"] is None
    for place, attempt in enumerate(stored):
        problem = told["problems"][told["problem"][place]]
        assert (problem["id"], problem["set"]) == (attempt.problem_id, "test")
        assert told["sample"][place] == attempt.sample
        assert told["statuses"][told["status"][place]] == attempt.status
        answer = told["answer"][place]
        assert (told["answers"][answer] if answer >= 0 else None) == attempt.answer
        assert told["length"][place] == attempt.length
    texts = [
        text["steps"]
        for chunk in told["chunks"]
        for text in seen.get(f"attempts/0/after/texts/{chunk['id']}")["texts"]
    ]
    assert ["".join(text) for text in texts] == [attempt.text for attempt in stored]
    assert texts[0][:2] == ["One step. \n", "Another 😀 step.\n"]


def test_tokens_of_attempts_are_the_stored_ones(seen_run: Path) -> None:
    seen = library(seen_run)
    stored = read_attempts(seen_run / "after" / "attempts" / "test" / "sample", tokens=True)
    chunks = seen.get("attempts/0/after")["chunks"]
    assert all(chunk["tokens"] for chunk in chunks)
    told = [
        tokens
        for chunk in chunks
        for tokens in seen.get(f"attempts/0/after/tokens/{chunk['id']}")["tokens"]
    ]
    assert len(told) == len(stored) == 16
    for tokens, attempt in zip(told, stored, strict=True):
        # A page counts in units of UTF-16, of which the smiley has two.
        units = attempt.text.encode("utf-16-le")
        ends = np.cumsum([0, *tokens["lengths"]]).tolist()
        parts = [units[2 * a : 2 * b].decode("utf-16-le") for a, b in pairwise(ends)]
        counts = attempt.by_token.characters.tolist()
        assert [len(part) for part in parts] == counts
        assert "".join(parts) == attempt.text
        assert parts[parts.index(" 😀") - 1] == ""
        logprobs = attempt.by_token.logprobs.astype(float)
        known = [math.nan if p is None else p for p in tokens["logprobs"]]
        np.testing.assert_allclose(known, logprobs, atol=5e-4)
        assert tokens["logprobs"][1] is None


def test_attempts_of_before_have_no_tokens(seen_run: Path) -> None:
    seen = library(seen_run)
    (chunk,) = seen.get("attempts/0/base")["chunks"]
    assert chunk["tokens"] is False
    assert seen.get(f"attempts/0/base/tokens/{chunk['id']}")["tokens"] == [None] * 16
    names = dict(everything(seen)).keys()
    assert f"attempts/0/after/tokens/{chunk['id']}" in names
    assert f"attempts/0/base/tokens/{chunk['id']}" not in names


def test_a_chunk_is_found_in_its_row_group_and_no_other_is_read(
    seen_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = own(seen_run, tmp_path)
    folder = run / "after" / "attempts" / "test" / "sample"
    rows = [
        [replace(row, problem_id=f"p{i}", text=f"{i} {row.text}") for row in read_attempts(folder)]
        for i in range(4)
    ]
    rows[3] = [
        replace(row, by_token=AttemptTokens(np.array([len(row.text)]), np.float16([-row.sample])))
        for row in rows[3]
    ]
    monkeypatch.setattr("butwait.evaluation.storage.GROUP_TOKENS", 1)
    write_attempts(folder / "shard-00000.parquet", rows)
    read: list[int] = []
    whole = pq.ParquetFile.iter_batches

    def counted(file: pq.ParquetFile, *args: Any, row_groups: list[int], **kwargs: Any) -> Any:
        read.extend(row_groups)
        return whole(file, *args, row_groups=row_groups, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    seen = library(run)
    for place, problem in enumerate(rows):
        texts = seen.get(f"attempts/0/after/texts/0-0-0-{place}")["texts"]
        assert ["".join(text["steps"]) for text in texts] == [row.text for row in problem]
    assert read == [0, 0, 0, 1]
    tokens = seen.get("attempts/0/after/tokens/0-0-0-3")["tokens"]
    assert [one["logprobs"] for one in tokens] == [[-row.sample] for row in rows[3]]
    assert "any more" in seen.get("attempts/0/after/tokens/0-0-0-4")["error"]


@pytest.mark.parametrize("counts", [[1, 2], [40_000], [-1, 60], []])
def test_tokens_that_are_not_the_text_s_are_told(
    seen_run: Path, tmp_path: Path, counts: list[int]
) -> None:
    run = own(seen_run, tmp_path)
    folder = run / "after" / "attempts" / "test" / "sample"
    first = read_attempts(folder)[0]
    broken = AttemptTokens(np.array(counts, np.int32), np.zeros(len(counts), np.float16))
    write_attempts(folder / "shard-00000.parquet", [[replace(first, by_token=broken)]])
    told = library(run).get("attempts/0/after/tokens/0-0-0-0")
    assert "tokens are not those of its text" in told["error"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("a\n\nb", ["a\n\n", "b"]), ("a\n\n", ["a\n\n"]), ("", [""]), ("a", ["a"])],
)
def test_steps_joined_are_the_text(text: str, found: list[str]) -> None:
    assert steps(text, ["\n\n"]) == found
    assert steps("a", []) == ["a"]


def test_a_training_has_its_curves_and_what_the_rule_says(seen_run: Path) -> None:
    told = library(seen_run).get(f"training/0/{GRPO}")
    curves = {curve["name"]: curve for curve in told["series"]}
    assert curves["reward"]["steps"] == list(range(1, 201))
    assert [(look["step"], look["kept"]) for look in told["looks"]] == [
        (0, False), (100, False), (200, True)
    ]  # fmt: skip
    plateau = told["plateau"]
    assert plateau["stop_step"] == plateau["looks"][-1]["step"]
    assert plateau["looks"][-1]["stop"]
    assert plateau["verdict"].startswith(f"Stopped at step {plateau['stop_step']:g}: ")
    assert [sample["text"] for sample in told["samples"]] == [
        "after 0", "tried", "after 100", "after 200"
    ]  # fmt: skip


def test_what_is_half_written_is_not_yet_there(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    seen, shard = library(run), run / "hunt" / "trees" / "shard-00000.parquet"
    whole = shard.read_bytes()
    for half in (b"", whole[: len(whole) // 2], whole[:-1], b"PAR1" * 9):
        shard.write_bytes(half)
        told = seen.get("trees/0/hunt")
        assert told["id"] == []
        assert "cannot be read (yet)" in told["notes"][0]
        assert "cannot be read (yet)" in seen.get("tree/0/hunt/0-0")["error"]
    shard.write_bytes(whole)
    assert len(seen.get("trees/0/hunt")["id"]) == 4
    (run / "base" / "stage.json").write_text("{")
    (run / VERIFIED / "dataset" / "data-00000-of-00001.arrow").write_bytes(b"half")
    assert "cannot be read (yet)" in seen.get(f"examples/0/{VERIFIED}")["error"]
    assert seen.get("tree/0/hunt/0-0")["taken"] == []
    assert "error" not in seen.get("run/0")
    assert "error" not in seen.get("runs")
    with (run / GRPO / "log.jsonl").open("a") as log:
        log.write('{"step": 201, "rew')
    assert "error" not in seen.get(f"training/0/{GRPO}")
    shutil.rmtree(run)
    assert seen.get("runs")["runs"][0]["state"] == "gone"
    assert "not there any more" in seen.get("trees/0/hunt")["error"]


def test_finished_problems_are_there_before_their_shard_is(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    trees = run / "hunt" / "trees"
    found = [read_tree(trees, f"p{i}") for i in range(4)]
    shard = trees / "shard-00000.parquet"
    shard.rename(tmp_path / "aside")
    for place in (3, 1):
        write_shard(trees / ".spool" / f"{place:08d}.parquet", [found[place]])
    seen = library(run)
    assert seen.get("trees/0/hunt")["id"] == ["s1", "s3"]
    assert seen.get("tree/0/hunt/s3")["problem"] == "p3"
    (tmp_path / "aside").rename(shard)  # the spool is emptied afterwards
    assert seen.get("trees/0/hunt")["id"] == ["0-0", "0-1", "0-2", "0-3"]


def test_a_training_s_searches_are_trees(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    folder = SearchFolder(run / GRPO / "searches")
    for step, place in ((120, 1), (40, 2), (40, 1)):
        tree = read_tree(run / "hunt" / "trees", f"p{place}")
        folder.keep(tree, step)
    seen = library(run)
    stages = {stage["name"]: stage["has"] for stage in seen.get("run/0")["stages"]}
    assert stages[GRPO] == ["trees", "training"]
    listed = seen.get(f"trees/0/{GRPO}")
    assert sorted(zip(listed["after"], listed["problem"], strict=True)) == [
        (40, "p1"), (40, "p2"), (120, "p1")
    ]  # fmt: skip
    place = listed["after"].index(120)
    assert listed["id"][place].startswith("g120-")
    assert listed["question"][place] == "What is 1 + 1?"
    tree = seen.get(f"tree/0/{GRPO}/{listed['id'][place]}")
    assert tree["nodes"] == seen.get("tree/0/hunt/0-1")["nodes"]
    assert "texts" in seen.get(f"tree/0/{GRPO}/{listed['id'][place]}/texts/0")
    assert seen.get("trees/0/hunt")["after"] is None


def test_a_tree_without_steps_is_listed_with_none(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", problems=1, particles=2, steps=1, samples=1)
    tree = read_tree(run / "hunt" / "trees", "p0")
    nobody = {"leaves": np.zeros(0, np.int32), "log_weights": np.zeros(0), "populations": []}
    bare = replace(tree, nodes=tree.nodes[:1], grades={}, outcome="extinct", **nobody)
    write_shard(run / "hunt" / "trees" / "shard-00000.parquet", [bare])
    listed = library(run).get("trees/0/hunt")
    figures = {name: listed[name] for name in ("particles", "steps", "nodes", "outcome")}
    assert figures == {"particles": [0], "steps": [0], "nodes": [1], "outcome": ["extinct"]}


def test_digests_are_bounded_by_their_size(
    seen_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("butwait.view.folders._MOST_KEPT", 3000)
    folder, read = Folder(seen_run), Counter[str]()
    for name in "abcabc":
        path = tmp_path / name
        path.write_text(name * 1000)

        def digest(path: Path) -> str:
            read[path.name] += 1
            return path.read_text()

        assert folder.digest(path, "all", digest) == name * 1000
        folder.digest(path, "all", digest)
    assert read == {"a": 2, "b": 2, "c": 2}


def test_texts_over_time_are_few(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    rows = [{"step": step, "problem_id": "p0", "text": "x" * 1000} for step in range(1000)]
    (run / GRPO / "samples.jsonl").write_text(dump_rows(rows))
    seen = library(run)
    told = seen.get(f"training/0/{GRPO}")["samples"]
    assert [sample["step"] for sample in told if sample["text"][0] == "x"] == list(
        range(3, 1000, 6)
    )
    assert seen.folders()[0]._bytes < 400_000


def test_a_pipe_in_a_run_holds_up_nobody(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    names = [".progress.json", ".lock", "log.txt", "summary.json", "base/stage.json"]
    names += ["hunt/trees/.shards.json", f"{GRPO}/log.jsonl", f"{GRPO}/samples.jsonl"]
    for name in names:
        (run / name).unlink()
        os.mkfifo(run / name)
    assert {"runs", "run/0", "trees/0/hunt"} <= dict(everything(library(run))).keys()


def test_an_answer_that_breaks_is_no_unknown_name(
    seen_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise KeyError("key of a file")

    monkeypatch.setattr("butwait.view.library.trees.tree_list", broken)
    assert "KeyError" in library(seen_run).get("trees/0/hunt")["error"]


def test_tables_tell_what_a_stage_was_made_of(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    seen = library(run)
    names = ["trees/0/hunt", "attempts/0/base", f"examples/0/{VERIFIED}"]
    for name in names:
        record = run / name.split("/")[2] / "stage.json"
        made = json.loads(record.read_text())["fingerprint"]
        assert seen.get(name)["made"] == made
        record.write_text(record.read_text().replace(made, "another"))
        assert seen.get(name)["made"] == "another"


def test_a_reward_model_s_tokenizer_is_not_the_policy_s(seen_run: Path, tmp_path: Path) -> None:
    run = own(seen_run, tmp_path)
    tokenizer = files("butwait") / "models" / "tiny" / "tokenizer.json"
    (run / "base" / "model").mkdir()
    shutil.copy(str(tokenizer), run / "base" / "model" / "tokenizer.json")
    seen, name = library(run), "tree/0/hunt/0-0/texts/0"
    assert seen.get(name)["tokens"] is not None
    (run / "base" / "model" / REWARD_MODEL).write_text("{}")
    assert seen.get(name)["tokens"] is None


@pytest.mark.parametrize(
    "name",
    ["", "run", "run/1", "run/-1", "run/0/x", "trees/0", "tree/0/hunt/x", "tree/0/hunt/0-0/texts/x",
     "tree/0/hunt/0-0/texts/-1", "attempts/0/after/texts/0", "attempts/0/after/tokens/0",
     "other/0/hunt", "run/" + "9" * 40],
)  # fmt: skip
def test_a_name_of_no_known_form_is_refused(seen_run: Path, name: str) -> None:
    with pytest.raises(KeyError):
        library(seen_run).get(name)


@pytest.mark.parametrize("stage", ["..", ".", ".superseded", "problems", "no such", "", "a\0b"])
def test_what_is_no_stage_is_told_in_a_sentence(seen_run: Path, stage: str) -> None:
    assert "has no stage" in library(seen_run).get(f"trees/0/{stage}")["error"]


def test_links_that_lead_out_of_the_run_are_not_followed(seen_run: Path, tmp_path: Path) -> None:
    run, other = own(seen_run, tmp_path), own(seen_run, tmp_path / "other")
    shard = run / "hunt" / "trees" / "shard-00000.parquet"
    shard.unlink()
    shard.symlink_to(other / "hunt" / "trees" / "shard-00000.parquet")
    shutil.rmtree(run / "base")
    (run / "base").symlink_to(other / "base")
    (run / "log.txt").unlink()
    (run / "log.txt").symlink_to(other / "log.txt")
    seen = library(run)
    assert seen.get("trees/0/hunt")["id"] == []
    assert "no tree" in seen.get("tree/0/hunt/0-0")["error"]
    assert "has no stage" in seen.get("attempts/0/base")["error"]
    assert seen.get("run/0")["log"] == []
    states = {stage["name"]: stage["state"] for stage in seen.get("runs")["runs"][0]["stages"]}
    assert (states["base"], states["after"]) == ("waits", "finished")


def test_reading_a_tree_reads_no_other(seen_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    whole = pq.ParquetFile.read_row_group

    def counted(file: pq.ParquetFile, index: int, *args: Any, **kwargs: Any) -> Any:
        read.append(index)
        return whole(file, index, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    seen = library(seen_run)
    seen.get("tree/0/hunt/0-3")
    seen.get("tree/0/hunt/0-3/texts/0")
    assert read == [3, 3]


def test_everything_is_there_and_hostile_texts_are_text(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", problems=2, steps=2, particles=4, distinct=1, extra=HOSTILE)
    found = dict(everything(library(run)))
    assert not [name for name, content in found.items() if "error" in content]
    kinds = {name.split("/")[0] for name in found}
    assert kinds == {"runs", "run", "trees", "tree", "attempts", "examples", "training"}
    lengths = found["attempts/0/after/tokens/0-0-0-0"]["tokens"][0]["lengths"]
    text = "".join(found["attempts/0/after/texts/0-0-0-0"]["texts"][0]["steps"])
    assert sum(lengths) == len(text.encode("utf-16-le")) // 2
    assert HOSTILE in found["attempts/0/base/texts/0-0-0-0"]["texts"][0]["steps"][0]
    assert all(b"<" not in script(name, content) for name, content in found.items())

"""Examples on disk, and their card."""

import json
from pathlib import Path

import datasets
import pytest
from synthesis_cases import KEY, PROMPTING, chain, make_problem

from butwait.records import UserError
from butwait.synthesis.builder import BuildCounts, Built, Material
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified
from butwait.synthesis.card import Origin, statistics, write_card
from butwait.synthesis.dataset import load_examples, save_examples

ORIGIN = Origin(
    stage="own_solutions",
    builder="verified",
    settings={"per_question": 2, "choose": "random"},
    sources=["gsm8k"],
    model="tiny",
    recipe="quickstart",
    seed=7,
    tokenizer_fingerprint="by character",
)


def build(per_question: int = 2) -> Built:
    """Two of three questions solved: three solutions, and one found twice."""
    trees = [
        chain("p", [f"{'a' * n}\\boxed{{4}}" for n in (1, 2, 3)]),
        chain("q", ["a\\boxed{4}", "a\\boxed{4}"]),
        chain("r", []),
    ]
    problems = [make_problem(name) for name in "pqr"]
    settings = VerifiedSettings(per_question=per_question)
    return build_verified(Material(trees, problems, PROMPTING, settings, KEY))


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    examples = build().examples
    examples[0].loss_mask[:3] = False
    save_examples(tmp_path / "dataset", examples)
    loaded = load_examples(tmp_path / "dataset")
    assert len(loaded) == len(examples) == 3
    for before, after in zip(examples, loaded, strict=True):
        for name in ("prompt_ids", "completion_ids", "loss_mask"):
            assert getattr(after, name).dtype == getattr(before, name).dtype
            assert getattr(after, name).tolist() == getattr(before, name).tolist()
        for name in ("problem_id", "spans", "prompt", "text", "provenance"):
            assert getattr(after, name) == getattr(before, name)
        assert after.tokenizer_fingerprint == before.tokenizer_fingerprint


def test_saving_again_replaces_the_data_set_and_leaves_nothing_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    save_examples(tmp_path / "dataset", build().examples)
    save_examples(tmp_path / "dataset", build().examples[:1])
    assert len(load_examples(tmp_path / "dataset")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]
    assert capfd.readouterr() == ("", "")


def test_bad_data_sets_are_user_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no data set in"):
        load_examples(tmp_path / "nothing")
    (tmp_path / "other").mkdir()
    with pytest.raises(UserError, match="holds no readable data set"):
        load_examples(tmp_path / "other")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "columns")
    with pytest.raises(UserError, match="has no column 'completion_ids'"):
        load_examples(tmp_path / "columns")
    save_examples(tmp_path / "dataset", build().examples)
    empty = datasets.load_from_disk(tmp_path / "dataset").select([])
    empty.save_to_disk(tmp_path / "empty")
    with pytest.raises(UserError, match="or an empty one"):
        load_examples(tmp_path / "empty")
    splits = datasets.DatasetDict({"train": datasets.load_from_disk(tmp_path / "dataset")})
    splits.save_to_disk(tmp_path / "splits")
    with pytest.raises(UserError, match="holds several splits"):
        load_examples(tmp_path / "splits")
    shard = next((tmp_path / "dataset").glob("*.arrow"))
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(UserError, match="holds no readable data set"):
        load_examples(tmp_path / "dataset")


def test_no_verified_solution_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no solution could be used"):
        save_examples(tmp_path / "dataset", [])
    counts = BuildCounts(questions_searched=3, outside_subset=2)
    with pytest.raises(
        UserError, match=r"of 3 questions .* \(questions outside of the subset: 2\)"
    ):
        write_card(tmp_path, Built([], counts), ORIGIN)
    assert not list(tmp_path.iterdir())


def test_statistics_by_hand() -> None:
    built = build()
    numbers = statistics(built)
    lengths = [len(example.completion_ids) for example in built.examples]
    assert sorted(numbers.pop("lengths")["counts"]) == sorted(
        lengths.count(n) for n in range(min(lengths), max(lengths) + 1)
    )
    length = numbers.pop("length")
    assert (length["min"], length["max"]) == (min(lengths), max(lengths))
    assert length["mean"] == pytest.approx(sum(lengths) / 3)
    # "\boxed{4}" is 9 tokens, EOS is one: 11, 12, 13 of p and 11 of q.
    assert numbers == {
        "examples": 3,
        "questions": 2,
        "questions_searched": 3,
        "trees": 3,
        "correct_paths": 5,
        "duplicates_dropped": 1,
        "not_chosen": 1,
        "outside_subset": 0,
        "facts": {},
        "detours": {},
        "tokens_by_role": {"solution": {"tokens": sum(lengths), "loss_tokens": sum(lengths)}},
        "solutions_per_question": {"1": 1, "2": 1},
        "tokens": sum(lengths),
        "prompt_tokens": 3 * len("What is p?"),
        "loss_tokens": sum(lengths),
        "length_of_candidates": {
            "min": 11.0,
            "q25": 11.0,
            "median": 11.5,
            "q75": 12.25,
            "max": 13.0,
            "mean": 11.75,
        },
    }


def test_the_histogram_of_lengths_is_capped_and_whole() -> None:
    built = build_verified(
        Material(
            [chain("p", ["a" * n + "\\boxed{4}" for n in range(300)])],
            [make_problem("p")],
            PROMPTING,
            VerifiedSettings(per_question=300),
            KEY,
        )
    )
    histogram = statistics(built)["lengths"]
    assert histogram["edges"] == list(range(10, 315, 8))
    assert histogram["counts"] == [8] * 37 + [4]


def test_the_card_says_what_and_from_where(tmp_path: Path) -> None:
    numbers = write_card(tmp_path, build(), ORIGIN)
    assert json.loads((tmp_path / "statistics.json").read_text()) == numbers
    card = (tmp_path / "card.md").read_text()
    assert card.startswith("# own_solutions\n")
    for line in (
        "Training examples made by the builder `verified` (`per_question: 2`, `choose: random`).",
        "| examples | 3 |",
        "| questions covered | 2 of 3 searched (66.7%) |",
        "| questions by number of solutions | 1: 1, 2: 1 |",
        "| all unique correct solutions | 11 | 11 | 11.5 | 12.2 | 13 | 11.8 |",
        "| supervision | self |",
        "| model that searched | tiny |",
        "| recipe | quickstart |",
        "| seed | 7 |",
        "| tokenizer fingerprint | `by character` |",
    ):
        assert line in card.splitlines()

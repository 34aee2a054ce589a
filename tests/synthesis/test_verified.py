"""The ``verified`` builder on trees made by hand and on random ones."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthesis_cases import EOS, KEY, PROMPTING, TreeBuilder, chain, decode, ids, make_problem

from butwait.problems.answers import extract_answer
from butwait.records import Key, Span, UserError
from butwait.synthesis.builder import Material
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified

ALL = VerifiedSettings(per_question=100)


def texts(built) -> list[str]:
    return [example.text for example in built.examples]


def test_an_example_is_the_path_of_its_tree() -> None:
    builder = TreeBuilder("2+2", shard="shard-00003.parquet", row=7)
    first = builder.add(0, "two and two\n\n")
    builder.end(first, "\\boxed{5}", status="wrong")
    leaf = builder.end(first, "\\boxed{4}")
    built = build_verified(Material([builder.stored()], [make_problem("2+2")], PROMPTING, ALL, KEY))
    (example,) = built.examples
    text = "two and two\n\n\\boxed{4}"
    assert example.completion_ids.tolist() == [*ids(text), EOS]
    assert example.completion_ids.dtype == np.int32
    assert example.loss_mask.tolist() == [True] * (len(text) + 1)
    assert example.prompt_ids.tolist() == ids("What is 2+2?")
    assert example.prompt == [{"role": "user", "content": "What is 2+2?"}]
    assert example.text == text
    assert example.spans == (Span("solution", 0, len(text) + 1, text),)
    assert example.tokenizer_fingerprint == "by character"
    assert example.provenance == {
        "builder": "verified",
        "stage": "search",
        "problem": "2+2",
        "shard": "shard-00003.parquet",
        "row": 7,
        "sampler": "particle_filter",
        "leaf": leaf,
        "finish": "box",
        "key": list(KEY.derive("question", "2+2").words),
        "pieces": [
            {
                "stage": "search",
                "shard": "shard-00003.parquet",
                "row": 7,
                "nodes": [first, leaf],
                "role": "solution",
                "loss": True,
            }
        ],
    }


def test_eos_stands_once_at_the_end_however_the_path_ended() -> None:
    builder = TreeBuilder("2+2")
    builder.end(0, "a \\boxed{4}", finish="eos")
    builder.end(0, "b \\boxed{4}", finish="box")
    built = build_verified(Material([builder.stored()], [make_problem("2+2")], PROMPTING, ALL, KEY))
    assert len(built.examples) == 2
    for example in built.examples:
        assert np.flatnonzero(example.completion_ids == EOS).tolist() == [len(example.text)]


def test_only_finished_correct_paths_are_taken_dead_ones_too() -> None:
    builder = TreeBuilder("2+2")
    builder.end(0, "cut \\boxed{4}", finish="length")
    for status in ("wrong", "no_answer", "truncated", "ungradable"):
        builder.end(0, f"{status} \\boxed{{4}}", status=status)
    builder.end(0, "dead \\boxed{4}", dead=True)
    builder.add(0, "unfinished \\boxed{4}")
    built = build_verified(Material([builder.stored()], [make_problem("2+2")], PROMPTING, ALL, KEY))
    assert texts(built) == ["dead \\boxed{4}"]
    assert (built.counts.correct, built.counts.trees) == (1, 1)


def test_duplicates_are_dropped_by_ids_by_text_and_across_trees() -> None:
    builder = TreeBuilder("2+2")
    once = builder.add(0, "2+2=4\n\n")
    builder.end(once, "\\boxed{4}")
    builder.end(0, "2+2=4\n\n\\boxed{4}")  # the same ids in other steps
    builder.end(0, "2+2=4  \\boxed{4}", finish="eos")  # the same text but for white space
    other = chain("2+2", ["2+2=4\n\n\\boxed{4}", "new \\boxed{4}"])
    trees = [builder.stored(), other]
    built = build_verified(Material(trees, [make_problem("2+2")], PROMPTING, ALL, KEY))
    assert sorted(texts(built)) == ["2+2=4\n\n\\boxed{4}", "new \\boxed{4}"]
    assert (built.counts.correct, built.counts.duplicates_dropped) == (5, 3)
    assert (built.counts.trees, built.counts.questions_searched) == (2, 1)


LENGTHS = ["a" * n + "\\boxed{4}" for n in (1, 2, 3, 10, 20)]


@pytest.mark.parametrize(
    ("choose", "extra"), [("shortest", [1, 2]), ("longest", [20, 10]), ("median", [3, 2])]
)
def test_choice_by_length(choose: str, extra: list[int]) -> None:
    settings = VerifiedSettings(per_question=2, choose=choose)
    built = build_verified(
        Material([chain("q", LENGTHS)], [make_problem("q")], PROMPTING, settings, KEY)
    )
    assert [text.count("a") for text in texts(built)] == extra
    assert sorted(built.counts.candidate_lengths) == [n + 10 for n in (1, 2, 3, 10, 20)]


def test_choice_by_reward() -> None:
    builder = TreeBuilder("q")
    for reward in (0.5, 3.0, -1.0):
        builder.end(0, f"reward {reward} \\boxed{{4}}", reward=reward)
    settings = VerifiedSettings(per_question=2, choose="reward")
    problems = [make_problem("q")]
    built = build_verified(Material([builder.stored()], problems, PROMPTING, settings, KEY))
    assert texts(built) == ["reward 3.0 \\boxed{4}", "reward 0.5 \\boxed{4}"]
    unscored = chain("q", ["\\boxed{4}"], reward=float("nan"))
    with pytest.raises(UserError, match="choose: reward needs the rewards"):
        build_verified(Material([unscored], problems, PROMPTING, settings, KEY))


def test_the_random_choice_is_uniform_and_favours_no_length() -> None:
    settings = VerifiedSettings(per_question=1)
    names = [f"q{i}" for i in range(2000)]
    trees = [chain(name, LENGTHS) for name in names]
    built = build_verified(
        Material(trees, [make_problem(n) for n in names], PROMPTING, settings, KEY)
    )
    counts = Counter(text.count("a") for text in texts(built))
    assert sum(counts.values()) == 2000
    # 400 each; the standard deviation is 18, so 5 of them.
    assert all(abs(counts[n] - 400) < 90 for n in (1, 2, 3, 10, 20))


def test_every_beginning_is_spread_over_the_questions() -> None:
    names = ["easy", "middle", "hard", "unsolved"]
    trees = [chain(n, LENGTHS[:k]) for n, k in zip(names, (5, 2, 1, 0), strict=True)]
    problems = [make_problem(name) for name in names]
    settings = VerifiedSettings(per_question=3)
    built = build_verified(Material(trees, problems, PROMPTING, settings, KEY))
    order = [example.problem_id for example in built.examples]
    assert set(order[:3]) == {"easy", "middle", "hard"}
    assert set(order[3:5]) == {"easy", "middle"}
    assert order[5:] == ["easy"]
    assert built.counts.questions_searched == 4
    limited = VerifiedSettings(per_question=3, limit=4)
    few = build_verified(Material(trees, problems, PROMPTING, limited, KEY))
    assert texts(few) == texts(built)[:4]


def test_the_result_depends_on_the_key_and_not_on_the_order_of_the_trees() -> None:
    names = [f"q{i}" for i in range(30)]
    trees = [chain(name, LENGTHS) for name in names]
    problems = [make_problem(name) for name in names]
    settings = VerifiedSettings(per_question=2)

    def rows(trees, key) -> list[tuple[str, str]]:
        built = build_verified(Material(trees, problems, PROMPTING, settings, key))
        return [(example.problem_id, example.text) for example in built.examples]

    assert rows(trees, KEY) == rows(trees[::-1], KEY)
    assert rows(trees, KEY) != rows(trees, Key.of(1, "verified"))


def test_what_the_user_must_mend() -> None:
    tree = chain("q", ["\\boxed{4}"])
    with pytest.raises(UserError, match="problem 'q', which is not in the problem set"):
        build_verified(Material([tree], [make_problem("other")], PROMPTING, ALL, KEY))
    tree.tree.grades.clear()
    with pytest.raises(UserError, match=r"search/shard-00000.parquet has finished paths without"):
        build_verified(Material([tree], [make_problem("q")], PROMPTING, ALL, KEY))


@st.composite
def random_trees(draw):
    """A tree of random steps whose finished paths box a random answer, graded truthfully."""
    builder = TreeBuilder("q")
    open_nodes = [0]
    for _ in range(draw(st.integers(1, 25))):
        parent = draw(st.sampled_from(open_nodes))
        finish = draw(st.sampled_from(["step", "step_limit", "eos", "box", "length"]))
        text = draw(st.sampled_from(["one\n\n", "\\boxed{9} no\n\n", "wait\n\n"]))
        if finish in ("step", "step_limit"):
            open_nodes.append(builder.add(parent, text, finish))
            continue
        answer = draw(st.sampled_from(["4", "5"]))
        status = "correct" if answer == "4" else "wrong"
        tail = text + f"\\boxed{{{answer}}}" + (" done" if finish == "eos" else "")
        builder.end(parent, tail, "truncated" if finish == "length" else status, finish)
    return builder.stored()


@given(random_trees(), st.sampled_from(["random", "shortest", "median", "longest", "reward"]))
def test_every_example_decodes_to_a_text_whose_last_box_is_the_answer(stored, choose) -> None:
    settings = VerifiedSettings(per_question=3, choose=choose)
    built = build_verified(Material([stored], [make_problem("q")], PROMPTING, settings, KEY))
    assert len(built.examples) <= 3
    seen = set()
    for example in built.examples:
        decoded = decode(example.completion_ids)
        assert decoded == example.text
        assert extract_answer(decoded, "integer") == "4"
        assert example.completion_ids[-1] == EOS
        path = example.provenance["pieces"][0]["nodes"]
        assert list(stored.tree.path(example.provenance["leaf"])) == path
        rebuilt = np.concatenate([stored.tree.nodes[node].token_ids for node in path])
        assert example.completion_ids[: len(rebuilt)].tolist() == rebuilt.tolist()
        seen.add(" ".join(decoded.split()))
    assert len(seen) == len(built.examples)

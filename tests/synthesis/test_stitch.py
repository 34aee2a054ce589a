"""Wrong attempts, a doubt, a correct solution."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthesis_cases import (
    BOX,
    KEY,
    PROMPTING,
    TreeBuilder,
    check_example,
    decode,
    make_problem,
    random_trees,
    roles,
)

from butwait.records import UserError
from butwait.synthesis.builder import Material
from butwait.synthesis.builders.stitch import StitchSettings, build_stitch
from butwait.synthesis.pieces import before_box, text_piece
from butwait.synthesis.settings import FixedNumber

PHRASES = {"doubt": ("Wait.",), "return": ("Back.",), "check": ("Check.",)}


def build(stored, **settings):
    return build_stitch(
        Material(
            [stored],
            [make_problem("q")],
            PROMPTING,
            StitchSettings(phrases=PHRASES, **settings),
            KEY,
        )
    )


def one_of_each() -> TreeBuilder:
    builder = TreeBuilder("q")
    first = builder.add(0, "2 + 2 is 5.\n\n")
    builder.end(first, "So it is " + BOX[5], status="wrong", finish="eos")
    builder.end(0, "2 + 2 is 4.\n\n" + BOX[4])
    return builder


def test_a_wrong_attempt_loses_its_answer_and_its_loss() -> None:
    (example,) = build(one_of_each().stored()).examples
    assert roles(example) == [
        ("mistake", "2 + 2 is 5.\n\n"),
        ("doubt", "Wait.\n\n"),
        ("recovery", "2 + 2 is 4.\n\n" + BOX[4]),
    ]
    mistake = len("2 + 2 is 5.\n\n")
    assert example.loss_mask.tolist() == [False] * mistake + [True] * (
        len(example.completion_ids) - mistake
    )
    pieces = example.provenance["pieces"]
    assert (pieces[0]["nodes"], pieces[0]["tokens"]) == ([1, 2], mistake)
    assert pieces[1] == {"text": "Wait.\n\n", "role": "doubt", "loss": True}
    assert example.provenance["leaf"] == 3


def test_what_a_box_and_the_masks_can_be_told() -> None:
    (example,) = build(
        one_of_each().stored(),
        boxes="keep",
        mask_mistakes=False,
        train_phrases=False,
        separator="\n",
        phrase="check",
    ).examples
    assert roles(example) == [
        ("mistake", "2 + 2 is 5.\n\nSo it is " + BOX[5]),
        ("doubt", "\nCheck.\n"),
        ("recovery", "2 + 2 is 4.\n\n" + BOX[4]),
    ]
    losses = {s.role: set(example.loss_mask[s.start : s.end].tolist()) for s in example.spans}
    assert losses == {"mistake": {True}, "doubt": {False}, "recovery": {True}}


def test_thinking_stands_in_tags_and_the_answer_behind_them() -> None:
    (example,) = build(one_of_each().stored(), format="think").examples
    assert roles(example) == [
        ("solution", "<think>\n"),
        ("mistake", "2 + 2 is 5.\n\n"),
        ("doubt", "Wait.\n\n"),
        ("recovery", "2 + 2 is 4.\n\n" + BOX[4]),
        ("answer", "\n</think>\n\n" + BOX[4]),
    ]
    builder = one_of_each()
    builder.end(0, "<think>4</think>" + BOX[4])
    with pytest.raises(UserError, match="use format: plain"):
        build(builder.stored(), format="think")


def test_only_whole_and_wrong_attempts_are_used_each_in_its_turn() -> None:
    builder = TreeBuilder("q")
    for answer in (1, 2, 3):
        builder.end(0, f"It is {answer}.\n" + BOX[answer], status="wrong")
    for status in ("truncated", "no_answer", "ungradable"):
        builder.end(0, f"{status}.\n" + BOX[9], status=status)
    builder.end(0, BOX[5], status="wrong")  # nothing stands before its box
    for word in ("a", "b", "c"):
        builder.end(0, f"{word}\n" + BOX[4])
    built = build(builder.stored(), per_question=3, attempts=FixedNumber(value=2))
    mistakes = [
        span.text[6] for example in built.examples for span in example.spans if span.role[0] == "m"
    ]
    assert len(built.examples) == 3
    assert sorted(mistakes) == ["1", "1", "2", "2", "3", "3"]
    assert built.counts.facts == {"wrong attempts with nothing before their box": 1}


def test_no_attempt_or_no_solution_gives_no_example() -> None:
    builder = TreeBuilder("q")
    builder.end(0, BOX[4])
    assert build(builder.stored()).examples == []
    builder = TreeBuilder("q")
    builder.end(0, "No.\n" + BOX[5], status="wrong")
    assert build(builder.stored()).examples == []


@given(random_trees(), st.sampled_from(["cut", "keep"]), st.sampled_from(["plain", "think"]))
def test_every_example_holds_what_it_says(stored, boxes, format) -> None:
    built = build(stored, boxes=boxes, format=format, per_question=2)
    for example in built.examples:
        check_example(example, stored)
        body = [span for span in example.spans if span.role in ("mistake", "doubt", "recovery")]
        kinds = [span.role for span in body]
        assert kinds == ["mistake", "doubt", "recovery"]
        mistake = example.provenance["pieces"][format == "think"]
        assert stored.tree.grades[mistake["nodes"][-1]].status == "wrong"
        assert stored.tree.path_text(mistake["nodes"][-1]).startswith(body[0].text)
        if boxes == "cut":
            assert "\\boxed" not in body[0].text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("One. Two.\nSo $\\boxed{5}$.", "One. Two.\n"),
        ("One. So it is \\boxed{5}. Or \\boxed{6}.", "One. "),
        ("One. So\n\\[\n\\boxed{5}\n\\]", "One. So\n"),
        ("One. So \\[\n\\boxed{5}\n\\]", "One. "),
        ("Two is 2.5 as\n$$\\fbox 5$$", "Two is 2.5 as\n"),
        ("no box", "no box"),
    ],
)
def test_where_a_thought_is_cut(text: str, left: str) -> None:
    cut = before_box(text_piece("mistake", text, PROMPTING, True), PROMPTING)
    assert cut is not None
    assert cut.text == decode(cut.token_ids) == left


def test_a_cut_falls_between_tokens() -> None:
    # Tokens of two characters: the third one reaches over the end of the line.
    pairs = [text[i : i + 2] for text in ["abcd\n\\boxed{5}"] for i in range(0, 14, 2)]
    prompting = replace(
        PROMPTING,
        encode=lambda text: np.arange(len(pairs), dtype=np.int32),
        decode=lambda tokens: "".join(pairs[token] for token in tokens),
    )
    cut = before_box(text_piece("mistake", "".join(pairs), prompting, True), prompting)
    assert cut is not None
    assert (cut.text, cut.token_ids.tolist()) == ("abcd", [0, 1])

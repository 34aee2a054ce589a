"""Verified paths of forced second thoughts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthesis_cases import (
    BOX,
    KEY,
    PROMPTING,
    TreeBuilder,
    chain,
    check_example,
    make_problem,
    roles,
)

from butwait.records import UserError
from butwait.synthesis.builder import Material
from butwait.synthesis.builders.second_thoughts import SecondThoughtsSettings, build_second_thoughts
from butwait.synthesis.builders.verified import VerifiedSettings, build_verified

PHRASE = "But wait, "


def build(stored, **settings):
    chosen = SecondThoughtsSettings(**settings)
    return build_second_thoughts(Material([stored], [make_problem("q")], PROMPTING, chosen, KEY))


def rounds(*answers: int, eos: bool = False) -> TreeBuilder:
    """One path of thoughts with these answers, as the sampler writes it: the phrase follows the
    box, or replaces EOS, which stays as a branch of its own."""
    builder, node = TreeBuilder("q"), 0
    for i, answer in enumerate(answers):
        status = "correct" if answer == 4 else "wrong"
        if i:
            node = builder.add(node, PHRASE, "inserted")
        text = f"{i} + {i}.\n{BOX[answer]}"
        if eos:
            node = builder.add(node, text)
            builder.end(node, "", status, "eos", dead=i < len(answers) - 1)
        else:
            node = builder.end(node, text, status, dead=i < len(answers) - 1)
    return builder


@pytest.mark.parametrize("eos", [False, True])
def test_a_wrong_first_thought_is_a_mistake(eos) -> None:
    stored = rounds(5, 4, eos=eos).stored()
    (example,) = build(stored).examples
    assert roles(example) == [
        ("mistake", "0 + 0.\n"),
        ("doubt", PHRASE),
        ("recovery", "1 + 1.\n" + BOX[4]),
    ]
    lost = len("0 + 0.\n")
    assert example.loss_mask.tolist() == [False] * lost + [True] * (len(example.text) + 1 - lost)
    check_example(example, stored)
    assert len(build(stored, first="wrong").examples) == 1


def test_a_first_thought_that_was_right_is_a_solution() -> None:
    stored = rounds(4, 5, 4).stored()
    (example,) = build(stored, boxes="keep", train_phrases=False).examples
    assert roles(example) == [
        ("solution", "0 + 0.\n" + BOX[4]),
        ("doubt", PHRASE),
        ("mistake", "1 + 1.\n" + BOX[5]),
        ("doubt", PHRASE),
        ("recovery", "2 + 2.\n" + BOX[4]),
    ]
    losses = [bool(example.loss_mask[span.start]) for span in example.spans]
    assert losses == [True, False, False, False, True]
    check_example(example, stored)
    assert build(stored, first="wrong").examples == []
    (cut,) = build(stored).examples
    assert cut.text == f"0 + 0.\n{PHRASE}1 + 1.\n{PHRASE}2 + 2.\n{BOX[4]}"


def test_paths_that_end_wrong_or_thought_once_are_not_used() -> None:
    assert build(rounds(4, 5).stored()).examples == []
    builder = rounds(5, 5)
    builder.end(0, BOX[4])
    assert build(builder.stored()).examples == []
    with pytest.raises(UserError, match=r"sampler.kind: but_wait"):
        build(chain("q", [BOX[4]]))


def test_a_thought_that_is_only_its_box_leaves_nothing() -> None:
    builder = TreeBuilder("q")
    first = builder.end(0, BOX[5], "wrong", dead=True)
    again = builder.add(first, PHRASE, "inserted")
    builder.end(again, "2 + 2.\n" + BOX[4])
    built = build(builder.stored())
    assert built.examples == []
    assert built.counts.facts == {"paths with a thought that is only its box": 1}
    assert len(build(builder.stored(), boxes="keep").examples) == 1


def test_a_last_thought_that_only_confirms_has_no_answer_once_boxes_are_cut() -> None:
    builder = TreeBuilder("q")
    first = builder.end(0, "2 + 2.\n" + BOX[4], dead=True)
    again = builder.add(first, PHRASE, "inserted")
    builder.end(builder.add(again, "that is right."), "", "correct", "eos")
    stored = builder.stored()
    built = build(stored)
    assert built.examples == []
    assert built.counts.facts["paths whose last thought has no box"] == 1
    (kept,) = build(stored, boxes="keep").examples
    assert kept.text == f"2 + 2.\n{BOX[4]}{PHRASE}that is right."
    (thought,) = build(stored, format="think").examples
    assert thought.text.endswith("that is right.\n</think>\n\n" + BOX[4])


def test_inserted_text_carries_no_loss_in_verified_solutions() -> None:
    stored = rounds(5, 4).stored()
    settings = VerifiedSettings()
    (example,) = build_verified(
        Material([stored], [make_problem("q")], PROMPTING, settings, KEY)
    ).examples
    assert [span.role for span in example.spans] == ["solution", "doubt", "solution"]
    at = example.text.index(PHRASE)
    silent = [i for i, loss in enumerate(example.loss_mask) if not loss]
    assert silent == list(range(at, at + len(PHRASE)))


THOUGHTS = st.lists(st.sampled_from([4, 4, 5]), min_size=1, max_size=4)


@given(THOUGHTS, st.booleans(), st.sampled_from(["cut", "keep"]), st.booleans(), st.booleans())
def test_every_example_holds_what_it_says(answers, eos, boxes, masked, phrases) -> None:
    stored = rounds(*answers, eos=eos).stored()
    if len(answers) == 1:
        with pytest.raises(UserError, match="made to think again"):
            build(stored)
        return
    made = build(stored, boxes=boxes, mask_mistakes=masked, train_phrases=phrases).examples
    assert len(made) == (answers[-1] == 4)
    for example in made:
        check_example(example, stored)
        first, *later = answers
        expected = ["solution" if first == 4 else "mistake"]
        expected += [r for a in later for r in ("doubt", "recovery" if a == 4 else "mistake")]
        assert [span.role for span in example.spans] == expected
        loss = {"mistake": not masked, "doubt": phrases}
        for span in example.spans:
            carried = set(example.loss_mask[span.start : span.end].tolist())
            assert carried == {loss.get(span.role, True)}
        assert example.text.count("\\boxed") == (1 if boxes == "cut" else len(answers))

"""Which questions every generation asks."""

import pytest

from butwait.records import Key, UserError
from butwait.training.grpo.generation import question_order

KEY = Key.of(0, "order")


def test_every_pass_asks_every_question_once_in_an_order_of_its_own() -> None:
    order = question_order(6, 2, 9, KEY)
    assert order.shape == (9, 2)
    passes = order.reshape(3, 6).tolist()
    assert all(sorted(one) == list(range(6)) for one in passes)
    assert len({tuple(one) for one in passes}) == 3


def test_no_generation_asks_a_question_twice_and_none_is_left_out_for_good() -> None:
    order = question_order(5, 2, 40, KEY)
    assert all(len(set(generation)) == 2 for generation in order.tolist())
    assert set(order.ravel().tolist()) == set(range(5))
    # Two generations a pass; the fifth question waits for another one.
    assert all(len(set(order[i : i + 2].ravel().tolist())) == 4 for i in range(0, 40, 2))


def test_a_longer_training_begins_like_a_shorter_one() -> None:
    long = question_order(7, 3, 20, KEY)
    assert question_order(7, 3, 5, KEY).tolist() == long[:5].tolist()
    assert question_order(7, 3, 20, KEY.derive("other")).tolist() != long.tolist()


def test_too_few_questions_are_refused() -> None:
    assert question_order(4, 4, 1, KEY).shape == (1, 4)
    with pytest.raises(UserError, match="a generation asks 5 questions and there are 4 to train"):
        question_order(4, 5, 1, KEY)

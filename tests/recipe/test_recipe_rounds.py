"""A recipe of several rounds: what it may not say."""

import pytest

from butwait.recipe.load import load_recipe
from butwait.records import UserError
from butwait.stages.kinds import STAGES


def test_a_round_takes_from_the_rounds_before_it() -> None:
    recipe = load_recipe("tiny_rounds", STAGES)
    assert recipe.inputs("hunt_3", "model") == ["sft_2"]
    assert recipe.inputs("data_3", "trees") == ["hunt_3", "hunt_2", "hunt_1"]
    assert recipe.inputs("sft_3", "model") == []  # the base model


@pytest.mark.parametrize(
    ("words", "says"),
    [
        # A model that searches for its own data, at once and by way of a later round.
        (["stages.hunt_2.from=[prm, sft_2]"], "take from each other: hunt_2, data_2, sft_2"),
        (["stages.hunt_2.from=[prm, sft_3]"], "take from each other"),
        (["stages.hunt_1.from=[prm, sft_3]"], "take from each other"),
        (["stages.sft_1.from=[data_1, sft_1]"], "take from each other"),
        (["stages.data_2.from=[hunt_2, hunt_3]"], "take from each other"),
        (["stages.prm.from=[sft_3]"], "take from each other"),
        (["stages.hunt_3.from=[prm, sft_1, sft_2]"], "more than one model stage"),
        (["stages.hunt_3.problems=test"], "'test' is used for evaluation and for training"),
        (["stages.data_2.from=[hunt_1, hunt_9]"], "'hunt_9', which is no stage"),
        (["stages.data_2.from=[hunt_1, sft_1]"], "cannot take from 'sft_1', which gives model"),
        (["stages.data_2.balance=2"], "stages.data_2.balance"),
    ],
)
def test_what_cannot_be_is_one_sentence(words: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        load_recipe("tiny_rounds", STAGES, words)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert not str(error.value).endswith("report")  # it only waits for a circle

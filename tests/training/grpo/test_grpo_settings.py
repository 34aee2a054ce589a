"""Settings of ``grpo`` and ``grpo_direct`` that do not fit are refused, each in one sentence."""

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from butwait.recipe.load import load_recipe
from butwait.records import UserError
from butwait.stages.kinds import STAGES
from butwait.training.devices import Devices
from butwait.training.grpo.settings import GrpoDirectSettings, GrpoSettings, LossSettings
from butwait.training.grpo.trainer import (
    check_devices,
    check_whole_model,
    loss_arguments,
)

DIRECT: dict[str, Any] = {"questions": 2, "group": 4, "batch_size": 8}

REFUSED = [
    (
        "grpo",
        {"questions": 3, "group": 5, "batch_size": 4},
        "questions x group (15) must be a multiple of batch_size x minibatches (4)",
    ),
    (
        "grpo",
        {"questions": 4, "group": 4, "batch_size": 8, "minibatches": 4},
        "questions x group (16) must be a multiple of batch_size x minibatches (32)",
    ),
    ("grpo", {"subset": {"length": [0, 0.5]}}, "questions are chosen by solved_by and solve_rate"),
    ("grpo", {"subset": {"same_questions_as": "x"}}, "length and same_questions_as are for data"),
    (
        "grpo",
        {"reward": {"overlong_tokens": 50}, "step": {"max_tokens": 40}},
        "reward.overlong_tokens (50) must not exceed step.max_tokens (40)",
    ),
    ("grpo", {"group": 1}, "greater than or equal to 2"),
    ("grpo", {"lora": {"dropout": 0.1}}, "lora.dropout: GRPO trains without dropout"),
    ("grpo_direct", {"lora": {"dropout": 0.1}}, "lora.dropout: GRPO trains without dropout"),
    (
        "grpo_direct",
        {"prm": {"rollouts": {"solutions": 4}}},
        "prm.rollouts: the labels come from the loop's own searches",
    ),
    (
        "grpo_direct",
        {"temperature": 0.8},
        "sampler.sampling must be the trained policy: temperature 0.8, top_p 1 and top_k 0",
    ),
    (
        "grpo_direct",
        {"sampler": {"kind": "particle_filter", "sampling": {"top_p": 0.9}}},
        "sampler.sampling must be the trained policy: temperature 1, top_p 1 and top_k 0",
    ),
    ("grpo_direct", {"solutions": 5}, "solutions (5) must not exceed group (4)"),
    (
        "grpo_direct",
        {"generation": {"kind": "vllm_server"}},
        "grpo_direct searches with generation.kind: engine",
    ),
    ("grpo_direct", {"mode": "replace", "backtrack": {}}, "the mode replace learns no examples"),
    (
        "grpo_direct",
        {"backtrack": {"confirm": {}}},
        "backtrack.confirm: branches are not completed in the loop",
    ),
]


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED)
def test_what_does_not_fit_is_refused(kind: str, values: dict[str, Any], message: str) -> None:
    chosen, base = (GrpoSettings, {}) if kind == "grpo" else (GrpoDirectSettings, DIRECT)
    with pytest.raises(ValidationError) as caught:
        chosen.model_validate(base | values)
    assert message in str(caught.value)


def test_a_recipe_says_where_it_is(tmp_path: Any) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        """model: {name: tiny}
problems: {train: {source: arithmetic, split: train}}
stages:
  direct: {kind: grpo_direct, problems: train, temperature: 0.5}
"""
    )
    with pytest.raises(UserError, match=r"direct.*sampler\.sampling must be the trained policy"):
        load_recipe(str(recipe), STAGES)


@pytest.mark.parametrize(
    ("processes", "changes", "message"),
    [
        (3, {}, r"questions \(4\) must be a multiple of the 3 devices, so that the completions"),
        (
            4,
            {"batch_size": 8},
            r"questions x group \(16\) must be a multiple of batch_size x minibatches x devices "
            r"\(8 x 1 x 4\)",
        ),
    ],
)
def test_groups_stay_on_one_device(processes: int, changes: dict[str, Any], message: str) -> None:
    values = {"questions": 4, "group": 4, "batch_size": 4} | changes
    with pytest.raises(UserError, match=message):
        check_devices(GrpoSettings.model_validate(values), processes)


def test_passes_of_an_optimizer_step() -> None:
    chosen = GrpoSettings(questions=8, group=4, batch_size=4, minibatches=2)
    assert [check_devices(chosen, n) for n in (1, 2, 4)] == [4, 2, 1]


def test_a_reward_model_is_trained_on_one_device_only() -> None:
    chosen = GrpoDirectSettings.model_validate(DIRECT | {"batch_size": 4, "prm": {}})
    assert check_devices(chosen, 1) == 2
    with pytest.raises(UserError, match="the reward model is trained in the loop on one device"):
        check_devices(chosen, 2)


def fake_trainer(fsdp: bool, zero: int | None) -> Any:
    plugin = None if zero is None else SimpleNamespace(zero_stage=zero)
    state = SimpleNamespace(deepspeed_plugin=plugin)
    return SimpleNamespace(is_fsdp_enabled=fsdp, accelerator=SimpleNamespace(state=state))


@pytest.mark.parametrize(("fsdp", "zero"), [(True, None), (False, 3)])
def test_spread_weights_draw_elsewhere_and_take_no_looks(fsdp: bool, zero: int | None) -> None:
    spread = fake_trainer(fsdp, zero)
    with pytest.raises(UserError, match=r"generation\.kind: engine needs the whole model"):
        check_whole_model(spread, GrpoSettings())
    served = {"generation": {"kind": "vllm_server"}}
    check_whole_model(spread, GrpoSettings.model_validate(served))
    looking = GrpoSettings.model_validate(served | {"selection": {"problems": "held_out"}})
    with pytest.raises(UserError, match="selection draws samples with the whole model"):
        check_whole_model(spread, looking)
    check_whole_model(fake_trainer(False, None), GrpoSettings())
    check_whole_model(fake_trainer(False, 2), looking)


def test_one_device_talks_to_itself() -> None:
    alone = Devices(1)
    assert alone.gathered({"a": 1}) == [{"a": 1}]
    assert alone.from_first("x") == "x"


def test_presets_are_those_of_the_papers_and_can_be_changed_in_part() -> None:
    assert loss_arguments(LossSettings()) == {
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "mask_truncated_completions": False,
    }
    grpo, dapo = (loss_arguments(LossSettings(preset=name)) for name in ("grpo", "dapo"))
    assert (grpo["loss_type"], grpo["beta"], grpo["scale_rewards"]) == ("grpo", 0.04, "group")
    assert (dapo["epsilon"], dapo["epsilon_high"], dapo["beta"]) == (0.2, 0.28, 0.0)
    assert dapo["mask_truncated_completions"] is True
    changed = loss_arguments(
        LossSettings(
            preset="dapo",
            epsilon_low=0.0,
            epsilon_high=0.5,
            beta=0.1,
            scale_rewards="batch",
            mask_truncated=False,
        )
    )
    assert changed == {
        "loss_type": "dapo",
        "scale_rewards": "batch",
        "epsilon": 0.0,
        "epsilon_high": 0.5,
        "beta": 0.1,
        "mask_truncated_completions": False,
    }

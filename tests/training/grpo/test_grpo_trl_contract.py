"""What butwait relies on inside of TRL. Each test names what changed and what hangs on it.

TRL is pinned to a minor version. When the pin moves, these tests say what to look at; the equality
of the losses is in ``test_grpo_stock_loss.py``.
"""

import inspect
from pathlib import Path
from typing import Any

import grpo_trainers
import pytest
import torch
import trl
from grpo_trainers import LIMIT, QUESTIONS, TINY, generation, losses, policy_trainer, settings
from trl import GRPOTrainer
from trl.trainer import grpo_trainer

from butwait.engines.models import load_causal_lm
from butwait.training.grpo import trainer as ours
from butwait.training.grpo.trainer import PolicyTrainer
from butwait.training.settings import LoraSettings
from butwait.training.weights import lora_config

OVERRIDDEN = {
    "_generate_and_score_completions": ["self", "inputs"],
    "_compute_loss": ["self", "model", "inputs"],
    "_prepare_inputs": ["self", "generation_batch"],
    "_get_per_token_logps_and_entropies": [
        *("self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"),
        *("compute_entropy", "compute_aux_loss", "pixel_values", "image_grid_thw", "num_images"),
        *("pixel_attention_mask", "spatial_shapes", "num_tiles", "image_sizes", "token_type_ids"),
        *("mm_token_type_ids", "image_position_ids"),
    ],
}
CALLED = {
    "_generate_single_turn": ["self", "prompt_ids", "images", "multimodal_fields"],
}


@pytest.mark.parametrize("name", [*OVERRIDDEN, *CALLED, "create_model_card"])
def test_methods_that_are_overridden_or_called_are_there(name: str) -> None:
    assert hasattr(GRPOTrainer, name), (
        f"TRL {trl.__version__} has no GRPOTrainer.{name} any more; "
        "src/butwait/training/grpo/trainer.py overrides or calls it"
    )


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_overridden_methods_take_what_they_took(name: str) -> None:
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found == OVERRIDDEN[name], (
        f"TRL {trl.__version__}: GRPOTrainer.{name} takes {found}, not {OVERRIDDEN[name]}; "
        "PolicyTrainer's own has to follow"
    )


@pytest.mark.parametrize("name", CALLED)
def test_called_methods_take_what_is_given_by_place(name: str) -> None:
    found = list(inspect.signature(getattr(GRPOTrainer, name)).parameters)
    assert found[: len(CALLED[name])] == CALLED[name], (
        f"TRL {trl.__version__}: GRPOTrainer.{name} takes {found}; PolicyTrainer gives "
        f"{CALLED[name]} by their places"
    )


def test_generation_in_one_turn_takes_the_group_s_size_fourth() -> None:
    fourth = list(inspect.signature(GRPOTrainer._generate_single_turn).parameters)[4]
    assert fourth == "num_generations", (
        f"TRL {trl.__version__}: the fourth argument of _generate_single_turn is {fourth}; "
        "PolicyTrainer.sample gives it num_generations"
    )


def test_losses_are_not_divided_by_the_passes_once_more() -> None:
    assert GRPOTrainer.loss_is_scaled_for_ga is True, (
        f"TRL {trl.__version__}: transformers would divide the loss by the accumulation steps; "
        "PolicyTrainer._likelihood counts on passes being summed"
    )


def test_at_most_five_methods_are_overridden_and_only_through_super() -> None:
    own = {
        name
        for name in vars(PolicyTrainer)
        if name != "__init__" and not (name.startswith("__") and name.endswith("__"))
    }
    overridden = {name for name in own if any(name in vars(base) for base in GRPOTrainer.__mro__)}
    assert overridden == {*OVERRIDDEN, "create_model_card"}
    source = inspect.getsource(ours)
    for name in OVERRIDDEN:
        assert f"super().{name}" in source


def test_attributes_that_are_read_are_there(tmp_path: Path) -> None:
    trainer = policy_trainer(tmp_path, settings())
    expected: dict[str, Any] = {
        "_step": 0,
        "_buffered_inputs": None,
        "num_generations": 4,
        "max_completion_length": LIMIT,
        "temperature": 1.0,
        "rollout_func": trainer.rollout,
    }
    for name, value in expected.items():
        assert getattr(trainer, name, "missing") == value, (
            f"TRL {trl.__version__}: GRPOTrainer.{name} is {getattr(trainer, name, 'missing')!r} "
            f"before the first step, not {value!r}"
        )
    assert trainer._tokenizer.pad_token_id is not None
    assert trainer.eos_token_ids == [trainer._tokenizer.eos_token_id]
    trainer.note("selection/accuracy", 0.5)
    assert trainer._metrics["train"]["selection/accuracy"] == [0.5], (
        "TRL keeps figures elsewhere; PolicyTrainer.note puts them into _metrics['train']"
    )
    assert trainer.args.steps_per_generation == trainer.args.gradient_accumulation_steps == 2


class Watched(PolicyTrainer):
    """Notes what TRL asks for and what it makes of the answer."""

    prompts: list[Any]
    batches: list[dict[str, torch.Tensor]]
    steps: list[int]

    def rollout(self, prompts: list[Any], trainer: PolicyTrainer) -> dict[str, Any]:
        assert trainer is self
        self.prompts.append(prompts)
        return super().rollout(prompts, trainer)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self.batches.append(inputs)
        self.steps.append(self._step)
        return super()._compute_loss(model, inputs)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """After two optimizer steps of two passes each, a generation each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grpo_trainers.PolicyTrainer", Watched)
        trainer = policy_trainer(tmp_path_factory.mktemp("watched"), settings(steps=2))
    trainer.prompts, trainer.batches, trainer.steps = [], [], []
    losses(trainer)
    return trainer


def test_a_rollout_gets_every_prompt_as_often_as_its_group_is_large(watched: Watched) -> None:
    assert len(watched.prompts) == 2
    for prompts in watched.prompts:
        groups = [prompts[i : i + 4] for i in range(0, 16, 4)]
        assert all(group == [group[0]] * 4 for group in groups), (
            "TRL no longer hands prompts repeated num_generations times, one after another"
        )
        assert sorted(group[0] for group in groups) == sorted(QUESTIONS)


def test_passes_are_counted_through_the_whole_training(watched: Watched) -> None:
    # PolicyTrainer._likelihood deals its rows by this count.
    assert watched.steps == [0, 1, 2, 3]
    assert watched._step == 4
    assert len(watched._buffered_inputs) == 2


def test_masks_advantages_and_tokens_arrive_in_the_loss(watched: Watched) -> None:
    made = watched.generation
    assert made is not None
    last = watched.batches[2:]
    names = {"prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "tool_mask"}
    assert all(names | {"advantages"} <= batch.keys() for batch in last), (
        f"TRL's batches hold {sorted(last[0])}: env_mask should arrive as tool_mask"
    )
    rows = {}
    for batch in last:
        for i in range(8):
            kept = batch["completion_mask"][i].bool()
            name = (
                tuple(batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()),
                tuple(batch["completion_ids"][i][kept].tolist()),
            )
            rows[name] = (batch["tool_mask"][i][kept].tolist(), batch["advantages"][i].item())
    assert len(rows) == 16
    for i, row in enumerate(made.completions):
        mask, advantage = rows[tuple(row.prompt_ids.tolist()), tuple(row.token_ids.tolist())]
        assert mask == row.sampled.astype(int).tolist()
        # dr_grpo: the reward less the mean of those of the group that have one.
        group = [r for r in made.rewards[i - i % 4 : i - i % 4 + 4] if r is not None]
        own = made.rewards[i]
        expected = 0.0 if own is None else own - sum(group) / len(group)
        assert advantage == pytest.approx(expected, abs=1e-6), (
            "TRL computes advantages differently, or no longer leaves out a reward of None"
        )


@pytest.mark.parametrize("key", ["prompt_ids", "completion_ids", "logprobs"])
def test_these_keys_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    trainer = policy_trainer(tmp_path, settings())
    whole = trainer.rollout_func
    monkeypatch.setattr(
        trainer,
        "rollout_func",
        lambda *args: {name: value for name, value in whole(*args).items() if name != key},
    )
    with pytest.raises(ValueError, match=key):
        trainer.train()


def test_a_group_that_straddles_devices_is_refused(tmp_path: Path) -> None:
    trainer = policy_trainer(tmp_path, settings())
    trainer._asked = ["q0", "q0", "q0", "q1"]
    with pytest.raises(RuntimeError, match="TRL split a group between devices"):
        trainer.rollout(["?"] * 4, trainer)
    trainer._asked = ["q0", "q0"]
    with pytest.raises(RuntimeError, match="TRL split a group between devices"):
        trainer.rollout(["?"] * 2, trainer)


def test_trls_own_generation_draws_a_completion_for_every_prompt(tmp_path: Path) -> None:
    trainer = policy_trainer(tmp_path, settings())
    prompt = generation([trainer._problems["q0"]]).completions[0].prompt_ids.tolist()
    torch.manual_seed(0)
    ids, logprobs = trainer.sample([prompt] * 4)
    assert logprobs is None
    assert len(ids) == 4
    assert all(1 <= len(row) <= LIMIT for row in ids)
    assert trainer._tokenizer.pad_token_id not in {token for row in ids for token in row}


def test_the_reference_of_a_kl_term_has_the_revision_of_the_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TRL loads it by name; at another revision the KL would not start at 0."""
    asked: list[dict[str, Any]] = []

    def create(name: str, **options: Any) -> Any:
        asked.append(options)
        return load_causal_lm(TINY)

    monkeypatch.setattr(grpo_trainer, "create_model_from_path", create)
    chosen = settings(loss={"preset": "grpo", "beta": 0.1})
    for revision in ("v2", None):
        model = TINY.model_copy(update={"revision": revision})
        monkeypatch.setattr(grpo_trainers, "TINY", model)
        trainer = policy_trainer(tmp_path / str(revision), chosen)
        assert trainer.ref_model is not None, f"TRL {trl.__version__} loads no reference any more"
    assert [options.get("revision") for options in asked] == ["v2", None]


def test_adapters_on_four_bits_are_trained_in_float32(tmp_path: Path) -> None:
    """Weights that only say that they are in four bits: TRL then casts what is trained."""
    model = load_causal_lm(TINY.model_copy(update={"dtype": "bfloat16"}))
    model.is_loaded_in_4bit = True
    lora = lora_config(LoraSettings(rank=2))
    trainer = policy_trainer(tmp_path, settings(), model=model, peft_config=lora)
    trained = {w.dtype for w in trainer.model.parameters() if w.requires_grad}
    frozen = {w.dtype for w in trainer.model.parameters() if not w.requires_grad}
    assert (trained, frozen) == ({torch.float32}, {torch.bfloat16})

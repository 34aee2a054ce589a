"""The score head on every kind of architecture, and its checkpoints."""

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.reward_models.kinds.trained import (
    FILE,
    TrainedRewardModel,
    TrainedSettings,
    read_prompt,
    write_note,
)
from butwait.reward_models.load import load_reward_model
from butwait.reward_models.score_head import add_score_head, load_scorer, score_head

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = torch.tensor([[3, 4, 5, 6]])


def settings(folder) -> ModelSettings:
    return ModelSettings(name=str(folder), device="cpu")


@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Phi3", "Granite", "SmolLM3", "Olmo2"])
def test_head_on_the_policys_hidden_states(family, tmp_path):
    """Granite and Olmo2 have no token-classification class in transformers."""
    config = getattr(transformers, f"{family}Config")(**SMALL)
    policy = AutoModelForCausalLM.from_config(config).eval()
    policy.save_pretrained(tmp_path / "policy")
    scorer = add_score_head(settings(tmp_path / "policy"), 0.5).eval()
    assert scorer(input_ids=IDS).logits.flatten().tolist() == [0.5] * 4

    head = score_head(scorer)
    torch.nn.init.normal_(head.weight)
    scorer.save_pretrained(tmp_path / "scorer")
    hidden = policy(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
    loaded = load_scorer(settings(tmp_path / "scorer"))
    torch.testing.assert_close(loaded(input_ids=IDS).logits, head(hidden))
    assert loaded.config.architectures == [f"{family}ForTokenClassification"]


def test_the_checkpoint_is_an_ordinary_one(scorer, tmp_path):
    scorer.save_pretrained(tmp_path)
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(input_ids=IDS).logits, scorer(input_ids=IDS).logits)


def test_a_policy_is_no_reward_model():
    with pytest.raises(UserError, match=r"no reward model.*score"):
        load_scorer(ModelSettings(name="tiny", device="cpu"))


def test_load_reward_model(scorer, tokenizer, tmp_path, problems, make_steps):
    prompt = PromptSettings(template="Q: {question}")
    scorer.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    write_note(tmp_path, tokenizer, prompt)
    assert read_prompt(tmp_path) == prompt
    wanted = TrainedSettings(model=str(tmp_path), device="cpu", capacity=64)
    model = load_reward_model(wanted, tokenizer)
    assert isinstance(model, TrainedRewardModel)
    assert model._same_tokens


def test_a_folder_without_our_note_is_a_user_error(tmp_path, tokenizer):
    with pytest.raises(UserError, match=FILE):
        load_reward_model(TrainedSettings(model=str(tmp_path)), tokenizer)


@pytest.mark.parametrize("text", ["{", "{}", '{"schema_version": 1, "prompt": {"style": 3}}'])
def test_a_broken_note_is_a_user_error(tmp_path, text):
    (tmp_path / FILE).write_text(text)
    with pytest.raises(UserError, match="cannot be read"):
        read_prompt(tmp_path)


def test_a_note_of_another_version_is_a_user_error(tmp_path):
    (tmp_path / FILE).write_text('{"schema_version": 99, "prompt": {}}')
    with pytest.raises(UserError, match="schema version 99"):
        read_prompt(tmp_path)

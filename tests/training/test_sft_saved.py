"""The model on disk is the trained one, whatever its architecture and what was trained of it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel
from sft_cases import SIZES, save_model, sums
from transformers import AutoModelForCausalLM, PreTrainedModel

from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import Example, UserError
from butwait.training import checkpoints, weights
from butwait.training.encode import check_packing
from butwait.training.saved import Probe
from butwait.training.settings import LoraSettings, SftSettings, ValidationSettings
from butwait.training.sft import train_sft
from butwait.training.validation import split_rows
from butwait.training.weights import Start

SHORT = SftSettings(learning_rate=1e-2, max_steps=6, batch_size=4, save_steps=None)
LORA = LoraSettings(rank=4, alpha=8)
IDS = torch.arange(5, 25)[None]
MIXTURE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS.to(model.device)).logits.float().cpu()


def change_config(model: ModelSettings, **fields: Any) -> None:
    """Makes the random model anew with other fields of its config."""
    folder = Path(model.name)
    config = AutoModelForCausalLM.from_pretrained(folder).config
    config.update(fields)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """What each trained model says, in the trainer's hands, before it is saved."""
    said = []
    save = Start.save

    def saved(start: Start, policy: Any, *others: Any, **named: Any) -> float | None:
        said.append(logits(policy))
        return save(start, policy, *others, **named)

    monkeypatch.setattr(Start, "save", saved)
    return said


def on_disk(folder: Path) -> PreTrainedModel:
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model


HELD = ValidationSettings(share=0.2, every=100)


def loss_on_disk(folder: Path, examples: list[Example]) -> float:
    """Nats a token on the questions that ``HELD`` keeps from training, by plain transformers."""
    names = [example.problem_id for example in examples]
    policy, total, tokens = on_disk(folder), 0.0, 0
    for example in split_rows(examples, names, HELD.share, 0)[1]:
        ids = torch.tensor([[*example.prompt_ids, *example.completion_ids]])
        with torch.no_grad():
            said = policy(input_ids=ids).logits[0, :-1].log_softmax(-1)
        kept = torch.tensor([False] * (len(example.prompt_ids) - 1) + example.loss_mask.tolist())
        total -= float(said.gather(1, ids[0, 1:, None])[kept].sum())
        tokens += int(kept.sum())
    return total / tokens


ARCHITECTURES = ["Llama", "Granite", "Mixtral", "Qwen3Moe", "GraniteMoe", "Olmoe"]
WAYS = [
    ("all weights", {}, None),
    ("adapters", {}, LORA),
    ("tied", {"tie_word_embeddings": True}, None),
    ("tied, adapters", {"tie_word_embeddings": True}, LORA),
    (
        "tied, adapted embeddings",
        {"tie_word_embeddings": True},
        LORA.model_copy(update={"target_modules": ("embed_tokens", "q_proj")}),
    ),
]


@pytest.mark.parametrize(("fields", "lora"), [w[1:] for w in WAYS], ids=[w[0] for w in WAYS])
def test_however_it_was_trained(
    fields: dict[str, Any], lora: LoraSettings | None, tmp_path: Path, trained: list[torch.Tensor]
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    change_config(model, **fields)
    settings = SHORT.model_copy(update={"lora": lora, "keep_epochs": True, "epochs": 2.0})
    settings = settings.model_copy(update={"max_steps": None, "validation": HELD})
    examples = sums(tokenizer, 10)
    ended = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert loss_on_disk(tmp_path / "out/model", examples) == pytest.approx(
        ended["validation_last"], abs=1e-5
    )
    before = logits(on_disk(tmp_path / "base"))
    assert (trained[0] - before).abs().max() > 0.1
    for saved in ("model", "epochs/2/model"):
        assert (logits(on_disk(tmp_path / "out" / saved)) - trained[0]).abs().max() < 1e-5


@pytest.mark.parametrize(
    "lora",
    [None, pytest.param(LORA, marks=pytest.mark.slow)],
    ids=["all weights", "adapters"],
)
def test_a_saved_model_that_is_another_one_ends_the_training(
    lora: LoraSettings | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight that is lost on the way to the disk is found by the stage itself."""
    model, tokenizer = save_model(tmp_path / "base")
    save = weights.save_weights

    def lossy(policy: Any, folder: Path, *others: Any) -> None:
        if not isinstance(policy, PeftModel):
            policy.model.layers[1].mlp.down_proj.weight.data[3] = 0
        save(policy, folder, *others)

    monkeypatch.setattr(weights, "save_weights", lossy)
    settings = SHORT.model_copy(update={"lora": lora})
    told = (
        r"is not the one that was trained: on 4 rows its loss is (\S+) nats.*and (\S+) in training"
    )
    with pytest.raises(UserError, match=told) as refused:
        train_sft(model, sums(tokenizer, 8), settings, tmp_path / "out", seed=0)
    found, trained = map(float, re.search(told, str(refused.value)).groups())  # type: ignore[union-attr]
    assert abs(found - trained) > 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["mixed", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LORA], ids=["all weights", "adapters"])
def test_in_any_precision(lora: LoraSettings | None, precision: str, tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    settings = SHORT.model_copy(update={"lora": lora, "precision": precision})
    train_sft(model, sums(tokenizer, 8), settings, tmp_path / "out", seed=0)


def test_a_look_at_a_model_changes_nothing() -> None:
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(vocab_size=64, attention_dropout=0.5, **SIZES)
    ).train()
    drawn = torch.get_rng_state()
    probe = Probe([([5, 6, 7], [-100, 6, 7]), (np.arange(9, dtype=np.int32),) * 2])
    expected = probe.measure(policy)
    assert policy.training
    assert torch.equal(torch.get_rng_state(), drawn)
    policy.eval()
    rows = [torch.tensor([[5, 6, 7]]), torch.arange(9)[None]]
    with torch.no_grad():
        sums = [float(policy(input_ids=r, labels=r).loss) * (r.numel() - 1) for r in rows]
    assert expected == pytest.approx(sum(sums) / 11, abs=1e-6)


def test_an_adapter_for_the_output_head_is_refused(tmp_path: Path) -> None:
    """TRL takes log-probabilities from the head's own weights: it would never be trained."""
    model, tokenizer = save_model(tmp_path / "base")
    settings = SHORT.model_copy(update={"lora": LoraSettings(target_modules=("lm_head",))})
    with pytest.raises(UserError, match=r"adapter to `lm_head` is not supported"):
        train_sft(model, sums(tokenizer, 4), settings, tmp_path / "out", seed=0)


@pytest.mark.parametrize(
    "architecture",
    [*ARCHITECTURES[:3], *(pytest.param(a, marks=pytest.mark.slow) for a in ARCHITECTURES[3:])],
)
def test_whatever_its_architecture(
    architecture: str, tmp_path: Path, trained: list[torch.Tensor]
) -> None:
    model, tokenizer = save_model(tmp_path / "base", architecture)
    change_config(model, **MIXTURE, rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    examples = sums(tokenizer, 10)
    settings = SHORT.model_copy(update={"validation": HELD})
    ended = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert loss_on_disk(tmp_path / "out/model", examples) == pytest.approx(
        ended["validation_last"], abs=1e-5
    )
    saved = on_disk(tmp_path / "out/model")
    assert (logits(saved) - trained[0]).abs().max() < 1e-5
    # Readers of the older layout find the base of the rotary embeddings too.
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 5e5
    base = json.loads((tmp_path / "base/config.json").read_text())
    for name in ("output_router_logits", "router_aux_loss_coef", "use_cache"):
        assert config.get(name) == base.get(name)


@pytest.mark.parametrize("architecture", ["Mixtral", "Qwen3Moe", "GraniteMoe"])
def test_the_router_of_a_mixture_of_experts_adds_no_loss(architecture: str, tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base", architecture)
    change_config(model, **MIXTURE, output_router_logits=True, router_aux_loss_coef=0.5)
    examples = sums(tokenizer, 8)
    first = train_sft(
        model, examples, SHORT.model_copy(update={"batch_size": 8}), tmp_path / "out", seed=0
    )
    policy = on_disk(tmp_path / "base")
    total, tokens = 0.0, 0
    for example in examples:
        ids = torch.tensor([[*example.prompt_ids, *example.completion_ids]])
        said = policy(input_ids=ids, output_router_logits=False).logits[0, :-1]
        picked = said.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        kept = torch.tensor([False] * (len(example.prompt_ids) - 1) + example.loss_mask.tolist())
        total -= float(picked[kept].sum().detach())
        tokens += int(kept.sum())
    assert first["loss_first"] == pytest.approx(total / tokens, abs=1e-4)


@pytest.mark.parametrize(
    "architecture", ["Mixtral", "Qwen2Moe", "Qwen3Moe", "GraniteMoe", "Olmoe", "Llama"]
)
def test_packed_examples_are_kept_apart(architecture: str) -> None:
    """The order of a sum over experts depends on how many tokens chose one: that is no leak."""
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=64, pad_token_id=0, **SIZES, **MIXTURE
    )
    check_packing(AutoModelForCausalLM.from_config(config).eval())


def test_packing_by_a_model_that_refuses_it_is_one_sentence() -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise ValueError("this kernel can't keep packed sequences apart")

    policy = AutoModelForCausalLM.from_config(transformers.LlamaConfig(vocab_size=64, **SIZES))
    policy.model.norm.register_forward_hook(refused)
    with pytest.raises(UserError, match=r"cannot be trained on packed .* set packing: false"):
        check_packing(policy)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["Mixtral", "Qwen3Moe", "GraniteMoe", "Olmoe"])
def test_a_mixture_of_experts_is_packed_like_others(architecture: str, tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base", architecture)
    change_config(model, **MIXTURE)
    settings = SHORT.model_copy(update={"max_steps": 1, "batch_size": 8, "warmup_ratio": 0.0})
    packed = settings.model_copy(update={"packing": True, "max_length": 120})
    examples = sums(tokenizer, 8)
    apart, together = (
        train_sft(model, examples, how, tmp_path / str(how.packing), seed=0)
        for how in (settings, packed)
    )
    assert together["packed_rows"] < len(examples)
    assert together["loss_first"] == pytest.approx(apart["loss_first"], abs=2e-6)


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_gradient_that_is_no_number_takes_no_step(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    load, calls = Start.load, []

    def broken(start: Start) -> Any:
        policy = load(start)

        def spoil(gradient: torch.Tensor) -> torch.Tensor:
            calls.append(None)
            return gradient * (float("nan") if len(calls) == step else 1.0)

        policy.model.norm.weight.register_hook(spoil)
        return policy

    settings = SHORT.model_copy(update={"save_steps": 1})
    examples = sums(tokenizer, 24)
    with monkeypatch.context() as patch:
        patch.setattr(Start, "load", broken)
        with pytest.raises(UserError, match=f"the gradient is no number at step {step}"):
            train_sft(model, examples, settings, tmp_path / "out", seed=0)
    assert not (tmp_path / "out/model").exists()
    # What was done before it is good, and is gone on from.
    resumed = train_sft(model, examples, settings, tmp_path / "out", seed=0)
    whole = train_sft(model, examples, settings, tmp_path / "whole", seed=0)
    assert resumed == whole
    lines = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_weights_that_are_no_numbers_are_neither_saved_nor_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    policy = on_disk(tmp_path / "base")
    policy.loaded_with = {}
    with torch.no_grad():
        policy.lm_head.weight[3, 1] = float("inf")
    with pytest.raises(UserError, match=r"lm_head.weight are no longer numbers"):
        Start(model, None, tokenizer, PromptSettings()).save(policy, tmp_path / "out")
    assert not (tmp_path / "out/model").exists()
    monkeypatch.setattr(checkpoints, "write_json", lambda *_: pytest.fail("a mark was set"))
    arguments = type("Arguments", (), {"output_dir": str(tmp_path)})
    state = type("State", (), {"is_world_process_zero": True, "global_step": 1})
    with pytest.raises(UserError, match="no longer numbers"):
        checkpoints.Marker(dict).on_save(arguments, state, None, model=policy)


def test_a_training_that_is_all_warm_up_is_refused(tmp_path: Path) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    two = SHORT.model_copy(update={"max_steps": 2, "warmup_ratio": 0.9})
    with pytest.raises(UserError, match=r"all steps \(2\) would be warm-up"):
        train_sft(model, sums(tokenizer, 4), two, tmp_path / "out", seed=0)


def test_a_single_step_has_no_warm_up(tmp_path: Path) -> None:
    """Whatever share of the steps it is to be: one step of a learning rate of 0 trains nothing."""
    model, tokenizer = save_model(tmp_path / "base")
    one = SHORT.model_copy(update={"max_steps": 1, "logging_steps": 1})
    assert one.warmup_ratio > 0
    train_sft(model, sums(tokenizer, 4), one, tmp_path / "out", seed=0)
    (line,) = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert json.loads(line)["learning_rate"] == one.learning_rate
    base, trained = on_disk(tmp_path / "base"), on_disk(tmp_path / "out/model")
    assert not torch.equal(base.lm_head.weight, trained.lm_head.weight)


def test_an_adapter_names_its_base_by_the_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = save_model(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    relative = model.model_copy(update={"name": "base"})
    settings = SHORT.model_copy(update={"lora": LORA})
    train_sft(relative, sums(tokenizer, 8), settings, Path("out"), seed=0)
    config = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str((tmp_path / "base").resolve())


@pytest.mark.parametrize(
    ("architecture", "rope"),
    [
        ("Llama", {"rope_type": "linear", "factor": 4.0, "rope_theta": 2e5}),
        ("Llama", {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 3e4}),
        (
            "Gemma3Text",
            {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        ),
    ],
    ids=["linear", "dynamic", "two kinds of layers"],
)
def test_rotary_embeddings_are_named_in_both_layouts(
    architecture: str, rope: dict[str, Any], tmp_path: Path
) -> None:
    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=64, head_dim=8, rope_parameters=rope, **SIZES
    )
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config)
    weights.save_weights(policy, tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    whole = rope.get("full_attention", rope)
    assert said["rope_theta"] == whole["rope_theta"]
    assert said["rope_scaling"] == {k: v for k, v in whole.items() if k != "rope_theta"}
    assert said.get("rope_local_base_freq") == rope.get("sliding_attention", {}).get("rope_theta")
    assert torch.equal(logits(on_disk(tmp_path)), logits(policy))
    # What a reader of the older layout takes is the same model.
    for name in ("rope_parameters",):
        del said[name]
    (tmp_path / "config.json").write_text(json.dumps(said))
    assert torch.equal(logits(on_disk(tmp_path)), logits(policy))

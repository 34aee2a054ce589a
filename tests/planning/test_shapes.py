"""Sizes of models from their configurations."""

import json
from pathlib import Path
from typing import Any

import pytest

from butwait.engines.settings import ModelSettings, allowed_tensor_parallel
from butwait.planning.devices import DECODE_BANDWIDTH, SERVED_PASS_S, Device, decode_seconds
from butwait.planning.known import facts, find_shape
from butwait.planning.memory import Held, drawing_parts
from butwait.planning.shapes import (
    ModelShape,
    refused_tensor_parallel,
    shape_of,
)
from butwait.planning.work import Drawing
from butwait.records import UserError

SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 131,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MAMBA: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
}
MAMBA |= {"shared_intermediate_size": 80, "mamba_n_groups": 1}
MAMBA |= {"layer_types": ["mamba", "attention", "mamba", "mamba"]}
LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16}
LATENT |= {"v_head_dim": 16, "num_key_value_heads": 4, "first_k_dense_replace": 1}
LATENT |= {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
LATENT |= {"num_experts_per_tok": 2, "moe_intermediate_size": 48}
FAMILIES: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in ("llama", "mistral", "qwen2", "qwen3", "phi3", "granite", "olmo2")),
    *((kind, {}) for kind in ("gemma", "gemma2", "gemma3_text", "smollm3")),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"tie_word_embeddings": True}),
    ("qwen3", {"head_dim": 32}),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    ("qwen2_moe", {**EXPERTS, "shared_expert_intermediate_size": 80}),
    ("qwen3_moe", {**EXPERTS, "mlp_only_layers": [1]}),
    ("deepseek_v3", LATENT),
    ("granitemoehybrid", {**MAMBA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ("granitemoehybrid", {**MAMBA, "num_local_experts": 0}),
]


def shape(name: str) -> ModelShape:
    found = find_shape(ModelSettings(name=name))
    assert isinstance(found, ModelShape), found
    return found


def test_phi4_keeps_204800_bytes_a_token() -> None:
    phi = shape("microsoft/phi-4")
    assert phi.kv_numbers == 40 * 10 * 128 * 2
    assert phi.kv_numbers * 2 == 204_800
    assert shape("smollm2").kv_numbers * 2 == 23_040
    assert shape("Qwen/Qwen2.5-Math-PRM-7B").kv_numbers * 2 == 57_344


@pytest.mark.parametrize("name", sorted(facts()["models"]))
def test_weights_are_as_many_as_published(name: str) -> None:
    published = facts()["models"][name].get("published_parameters")
    if published is not None:
        assert shape(name).parameters == pytest.approx(published, rel=0.005)


def test_published_totals() -> None:
    for name, billions in (
        ("microsoft/phi-4", 14.66),
        ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
        ("Qwen/Qwen2.5-7B-Instruct", 7.62),
        ("ibm-granite/granite-3.1-8b-instruct", 8.17),
    ):
        assert shape(name).parameters / 1e9 == pytest.approx(billions, rel=0.005)


def test_devices_divide_both_kinds_of_heads() -> None:
    assert allowed_tensor_parallel(10, 40) == [1, 2, 5, 10]
    assert allowed_tensor_parallel(8, 32) == [1, 2, 4, 8]
    assert allowed_tensor_parallel(4, 28) == [1, 2, 4]
    told = refused_tensor_parallel(shape("microsoft/phi-4"), 4)
    assert told is not None
    assert "10 key and value heads" in told
    assert "1, 2, 5 or 10" in told
    assert refused_tensor_parallel(shape("microsoft/phi-4"), 5) is None


def test_a_mixture_runs_some_of_its_weights() -> None:
    config = {"model_type": "mixtral", **SMALL, "num_local_experts": 4, "num_experts_per_tok": 2}
    found = shape_of(config, "m")
    each = 3 * 64 * 96 * 4
    assert found.parameters - found.active == 2 * each + 131 * 64
    assert found.intermediate == 2 * 96


def test_a_hybrid_keeps_states_and_few_keys() -> None:
    config = {"model_type": "granitemoehybrid", **SMALL, **MAMBA, "num_local_experts": 0}
    found = shape_of(config, "h")
    assert found.kv_numbers == 1 * 2 * 2 * 16
    assert found.state == 3 * (128 * 16 + (128 + 2 * 16) * 4)
    assert found.cached(10) == 10 * 64 + found.state


def test_granite_4_tiny_is_of_6_9_billion() -> None:
    kinds = ["attention" if i in (5, 15, 25, 35) else "mamba" for i in range(40)]
    config = {
        "model_type": "granitemoehybrid",
        "hidden_size": 1536,
        "num_hidden_layers": 40,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "intermediate_size": 512,
        "shared_intermediate_size": 1024,
        "num_local_experts": 64,
        "num_experts_per_tok": 6,
        "vocab_size": 100352,
        "tie_word_embeddings": True,
        "mamba_d_state": 128,
        "mamba_n_groups": 1,
        "mamba_n_heads": 48,
        "mamba_d_head": 64,
        "mamba_d_conv": 4,
        "layer_types": kinds,
    }
    found = shape_of(config, "granite-4.0-h-tiny")
    assert found.parameters / 1e9 == pytest.approx(6.94, rel=0.005)
    assert found.kv_numbers * 2 == 4 * 2 * 4 * 128 * 2


def test_windows_end_the_cache_of_a_server_alone() -> None:
    config = {"model_type": "mistral", **SMALL, "sliding_window": 8}
    found = shape_of(config, "w")
    assert found.cached(20, served=True) == 8 * found.windowed
    assert found.cached(20) == 20 * found.windowed


def test_latents_are_kept_in_place_of_keys_and_values() -> None:
    found = shape_of({"model_type": "deepseek_v3", **SMALL, **LATENT}, "d")
    assert found.cached(1, served=True) == found.cached(1) == 4 * (16 + 8)
    assert found.whole == 4 * 4 * (24 + 16)


# What each of several devices holds of a cache (tensor parallel), by vLLM's own count:
# `ModelConfig.get_num_kv_heads` (config/model.py) is max(1, heads // devices), and 1 for latents;
# `mamba2_state_shape` (layers/mamba/mamba_utils.py) parts states by Mamba's heads.
LATENTS = {"model_type": "deepseek_v3", **SMALL, **LATENT}
HYBRID = {"model_type": "granitemoehybrid", **SMALL, **MAMBA, "num_local_experts": 0}
STATE = 3 * (128 * 16 + (128 + 2 * 16) * 4)


@pytest.mark.parametrize(
    ("config", "devices", "held"),
    [
        ({"model_type": "llama", **SMALL}, 1, 10 * 4 * 2 * 2 * 16),
        ({"model_type": "llama", **SMALL}, 2, 10 * 4 * 2 * 1 * 16),
        ({"model_type": "llama", **SMALL}, 4, 10 * 4 * 2 * 1 * 16),  # two have the same head
        ({"model_type": "mistral", **SMALL, "sliding_window": 8}, 2, 8 * 4 * 2 * 1 * 16),
        (LATENTS, 1, 10 * 4 * (16 + 8)),
        (LATENTS, 2, 10 * 4 * (16 + 8)),
        (LATENTS, 4, 10 * 4 * (16 + 8)),
        (HYBRID, 1, 10 * 2 * 2 * 16 + STATE),
        (HYBRID, 2, 10 * 2 * 1 * 16 + STATE / 2),
        (HYBRID, 4, 10 * 2 * 1 * 16 + STATE / 4),
    ],
)
def test_what_each_device_holds(config: dict[str, Any], devices: int, held: float) -> None:
    found = shape_of(config, "s")
    assert found.cached(10, served=True, devices=devices) == held
    policy = Held(found, "bfloat16", 2.0, served=True)
    beginning = found.cached(10, served=True, devices=devices) - found.state / devices
    longer = found.cached(15, served=True, devices=devices)
    both = 3 * beginning + 12 * (longer - beginning)
    assert policy.kv(prompts=3, prompt=10, rows=12, path=5, devices=devices) == 2 * both


def test_each_device_reads_latents_whole() -> None:
    card = Device("card", memory=1.0, flops=1e30, bandwidth=1e9, source="")
    sizes = {"tokens": 6.0, "rows": 3.0, "context": 10.0, "weight_bytes": 8000.0}
    given = sizes | {"number_bytes": 2.0, "served": True}

    def reading(config: dict[str, Any], spread: int) -> float:
        took = decode_seconds(card, shape_of(config, "s"), spread=spread, **given)
        return 1e9 * DECODE_BANDWIDTH * (took / 2 - SERVED_PASS_S)  # bytes of each of two passes

    assert reading(LATENTS, 1) == pytest.approx(8000 + 3 * 10 * 4 * 24 * 2)
    assert reading(LATENTS, 4) == pytest.approx(2000 + 3 * 10 * 4 * 24 * 2)
    assert reading({"model_type": "llama", **SMALL}, 4) == pytest.approx(2000 + 3 * 10 * 4 * 32 * 2)


def test_every_device_holds_all_logits() -> None:
    drawing = Drawing(paths=8, prompts=2, prompt=10, path=5, longest=20)
    held = Held(shape_of(LATENTS, "d"), "bfloat16", 2.0, served=True)
    one, four = (
        drawing_parts(held, [], drawing, False, n, rows=None, at_limit=False) for n in (1, 4)
    )
    assert one["logits"] == four["logits"] == 8 * 131 * 4  # gathered (logits_processor.py)
    assert one["policy KV"] == four["policy KV"] == (2 * 10 + 8 * 5) * 4 * 24 * 2
    assert four["policy weights"] == one["policy weights"] / 4


def test_the_text_of_a_model_that_sees_is_counted() -> None:
    inner = {"model_type": "gemma3_text", **SMALL}
    outer = {"model_type": "gemma3", "text_config": inner, "vision_config": {"hidden_size": 9}}
    assert shape_of(outer, "g") == shape_of(inner, "g")


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"model_type": "jamba", **SMALL}, "'jamba'"),
        ({"model_type": "qwen3", **SMALL, "layer_types": ["linear_attention"] * 4}, "linear"),
        ({"model_type": "llama", "hidden_size": 8}, "lacks 'num_hidden_layers'"),
        ({"model_type": "llama", **SMALL, "hidden_size": "wide"}, "cannot be understood"),
    ],
)
def test_what_cannot_be_counted_is_refused(config: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        shape_of(config, "x")


def test_a_quantised_checkpoint_is_smaller() -> None:
    plain = shape_of({"model_type": "llama", **SMALL}, "p")
    four = {
        "model_type": "llama",
        **SMALL,
        "quantization_config": {"quant_method": "awq", "bits": 4},
    }
    found = shape_of(four, "q")
    assert (plain.bits, found.bits) == (None, 4.25)
    ends = 2 * 131 * 64
    inner = plain.parameters - ends
    assert Held(found, "bfloat16", 2.0).weights == inner * 4.25 / 8 + 2 * ends
    assert Held(plain, "bfloat16", 2.0, head=False).weights == 2 * (inner + 131 * 64)
    with pytest.raises(UserError, match="quantised in a way"):
        shape_of({**four, "quantization_config": {"quant_method": "hqq"}}, "q")


def test_facts_of_other_models(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SMALL}))
    assert shape(str(tmp_path)).layers == 4
    (tmp_path / "config.json").write_text("{")
    assert "cannot be read" in str(find_shape(ModelSettings(name=str(tmp_path))))
    missing = find_shape(ModelSettings(name="nobody/nothing-13b"))
    assert isinstance(missing, str)
    assert "not at hand" in missing
    assert "hf download nobody/nothing-13b" in missing


def test_every_fact_says_where_it_is_from() -> None:
    for held in (*facts()["models"].values(), *facts()["sets"].values()):
        assert held["source"]
        assert held["checked"]


@pytest.mark.parametrize(
    ("kind", "more"), [("qwen3", {"head_dim": 32}), ("gemma2", {}), ("deepseek_v3", LATENT)]
)
def test_a_cached_token_is_that_of_transformers_and_of_the_engine(
    kind: str, more: dict[str, Any]
) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from butwait.engines.slots import SlotModel

    config = CONFIG_MAPPING[kind](**{**SMALL, **more})
    model: Any = AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([[3]]), use_cache=True).past_key_values
    held = sum(part.numel() for layer in cache.layers for part in (layer.keys, layer.values))
    content = json.loads(config.to_json_string(use_diff=False))
    assert shape_of(content, kind).kv_numbers == held
    assert SlotModel(model, 2, 32, most_bytes=40 * held).most_tokens == 10


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "more"), FAMILIES)
def test_weights_are_those_of_transformers(kind: str, more: dict[str, Any]) -> None:
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    config = CONFIG_MAPPING[kind](**{**SMALL, **more})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    counted = sum(weight.numel() for weight in model.parameters())
    content = json.loads(config.to_json_string(use_diff=False))
    assert shape_of(content, kind).parameters == counted

"""A tiny model with random weights of every decoder that transformers has, and which of them the
in-process engine runs."""

import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForImageTextToText

VOCABULARY = 320
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "sliding_window": 8,
    # Random weights of the usual size give nearly uniform logits: nothing would be tested.
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 0,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 96,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "qk_head_dim": 32,
    "v_head_dim": 16,
    "num_attention_groups": 2,
    "keep_window_size": 8,
    "window_size": 8,
    "rotary_dim": 8,
    "is_decoder": True,
    "d_model": 64,
    "n_layers": 4,
    "n_heads": 4,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "ffn_dim": 96,
    "word_embed_proj_dim": 64,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 96,
    "encoder_layers": 1,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "embedding_size": 64,
}
EVERY_HEAD = {"num_key_value_heads": 4}
FULL = {"layer_types": ["full_attention"] * 4}
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "axk1",
            "axk2",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "dots3_note_text",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "longcat_flash",
            "minicpm3",
            "youtu",
        ),
        EVERY_HEAD,
    ),
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "num_layers": 4},
    "granitemoehybrid": {
        "layer_types": ["attention"] * 4,
        "mamba_n_heads": 4,
        "position_embedding_type": "rope",
    },
    "bamba": {"attn_layer_indices": [0, 1, 2, 3], "mamba_n_heads": 4},
    "jamba": {"attn_layer_period": 1, "attn_layer_offset": 0},
    "nemotron_h": {"layer_types": ["attention"] * 4},
    **dict.fromkeys(("lfm2", "qwen3_5_text", "qwen3_5_moe_text", "qwen3_next"), FULL),
    "lfm2_moe": FULL | {"num_dense_layers": 1},
    "longcat_flash": EVERY_HEAD
    | {"ffn_hidden_size": 96, "expert_ffn_hidden_size": 32, "num_layers": 2, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "cpmant": {"dim_head": 16, "num_attention_heads": 4, "dim_ff": 96, "segment_types": 4},
    "cohere_compass_text": FULL,
    "gpt_neox_japanese": {"intermediate_multiple_size": 2},
}
EYES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "depth": 1,
    "embed_dim": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
    "num_position_embeddings": 16,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "projection_dim": 64,
}
SECTIONS = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}
}


def _taken(config_class: Any, sizes: dict[str, Any]) -> dict[str, Any]:
    """Those of the sizes that a configuration knows."""
    names = {field.name for field in dataclasses.fields(config_class)}
    names |= set(getattr(config_class, "attribute_map", {}))
    return {name: size for name, size in sizes.items() if name in names}


def tiny_config(kind: str, **changes: Any) -> Any:
    """Of an architecture; of one that sees images, with a tiny language model inside. ``changes``
    are to the sizes."""
    config_class, sizes = CONFIG_MAPPING[kind], SIZES | changes
    if "vision_config" not in config_class.sub_configs:
        return config_class(**_taken(config_class, sizes) | CHANGES.get(kind, {}))
    whole = config_class()
    parts = {"text_config": whole.get_text_config(), "vision_config": whole.vision_config}
    sections = SECTIONS if kind.startswith("qwen") else {}
    made = {
        name: _taken(type(part), its_sizes) | {"model_type": part.model_type} | more
        for (name, part), its_sizes, more in zip(
            parts.items(), (sizes, EYES), (sections, {}), strict=True
        )
    }
    return config_class(**made)


def tiny_model(kind: str, **changes: Any) -> Any:
    """In float64, or, as experts may take no other, in float32."""
    config = tiny_config(kind, **changes)
    seen = "vision_config" in config.sub_configs and kind not in ("gemma3", "llama4")
    auto_class = AutoModelForImageTextToText if seen else AutoModelForCausalLM
    with torch.device("meta"):
        size = auto_class.from_config(config).num_parameters()
    assert size < 6e6, f"{kind} is not tiny: {size}"
    torch.manual_seed(0)
    model = auto_class.from_config(config).eval()
    return model if "expert" in str(config.to_dict()) else model.double()


_RUNS = """
afmoe apertus arcee aria_text axk1 bamba beam
bitnet codegen cohere cohere2 cohere2_moe cwm deepseek_v2
deepseek_v3 diffllama doge dots1 ernie4_5 ernie4_5_moe exaone4
exaone_moe flex_olmo flint gemma gemma2 gemma3_text glm
glm4 glm4_moe glm4_moe_lite gpt-sw3 gpt2 gpt_bigcode gpt_neox gpt_neox_japanese
gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid
granitemoeshared helium hrm_text hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax
internlm3 iquestcoder jais2 jamba jetmoe kolibri1 laguna
lfm2 lfm2_moe llama longcat_flash mellum mimo_v2_flash minicpm3 minimax_m2
minimax_m3_vl_text ministral ministral3 mistral mixtral mllama modernbert-decoder
nanochat nemotron nemotron_h olmo olmo2 olmo3 olmoe
persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3
qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3 solar_open
stablelm starcoder2 vaultgemma youtu gemma3 mistral3 qwen2_vl
qwen2_5_vl qwen3_vl llava internvl idefics3 got_ocr2 lfm2_vl
aya_vision
"""
RUNS = tuple(_RUNS.split())

_COPIED = """
axk1 codegen deepseek_v2 deepseek_v3 diffllama doge flint gemma2 glm4_moe_lite gpt_neox_japanese
gpt_oss gptj granite_swa granitemoe_swa granitemoeshared jetmoe longcat_flash mimo_v2_flash
minicpm3 mllama vaultgemma youtu got_ocr2
"""
COPIED = frozenset(_COPIED.split())
"""Those whose layers attend to a copy of keys and values on a CPU too: by ``eager`` or their own
attention, with sinks, or with keys that are made of what is cached (latent attention)."""
"""Architectures whose rows, of any lengths and side by side, get the numbers they get alone."""

REFUSED = {
    "layers that choose what they see": """
        axk2 deepseek_v32 glm_moe_dsa hy_v4
    """,
    "layers with a state": """
        inkling2_text inkling_text lfm3 minimax
        bailing_hybrid deepseek_v4 falcon_h1 falcon_mamba mamba mamba2
        olmo_hybrid qwen3_5 qwen3_5_moe recurrent_gemma rwkv xlstm
    """,
    "the cache's one length": """
        bart bert bert-generation big_bird bigbird_pegasus biogpt
        blenderbot blenderbot-small bloom camembert cpmant ctrl
        data2vec-text electra ernie falcon marian mbart
        megatron-bert mpt mvp opt pegasus plbart
        prophetnet rembert roberta roberta-prelayernorm roformer trocr
        whisper xlm-roberta xlm-roberta-xl
    """,
    "keys of different shapes": """
        gemma4_unified_text
    """,
    "beside rows of other lengths their logits change": """
        gpt_neo paligemma
    """,
    "cannot run this": """
        openai-gpt xlm xlnet
    """,
    "chunked attention": """
        llama4_text llama4
    """,
}
"""Part of the sentence: architectures that it is said of."""

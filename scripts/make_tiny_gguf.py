"""Writes the package's tiny model as a GGUF file, in float32, for llama.cpp to serve.

    pip install 'butwait[gguf]'
    python scripts/make_tiny_gguf.py --out tiny.gguf

llama.cpp splits a text by patterns that it has by name, and the tiny model's own is none of them;
``superbpe`` leaves all its merges possible, so that prompts become the same tokens.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, TokenType
from safetensors.numpy import load_file

TINY = Path(str(files("butwait"))) / "models" / "tiny"
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""Of layers here and there."""


def renamed(name: str) -> str:
    """GGUF's name of a weight: ``model.layers.0.mlp.up_proj.weight`` is ``blk.0.ffn_up.weight``."""
    name = name.removesuffix(".weight")
    if not name.startswith("model.layers."):
        return f"{NAMES[name]}.weight"
    layer, _, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{NAMES[rest]}.weight"


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """float32 (heads * d, n): a projection whose rotary pairs lie side by side, as llama.cpp
    rotates them; the checkpoint has the halves of a head one after the other."""
    halves = weight.reshape(heads, 2, -1, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write(out: Path, config: dict[str, Any], tokenizer: dict[str, Any], template: str) -> None:
    """Writes the file: metadata, vocabulary, weights."""
    writer = GGUFWriter(out, "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_name("tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    special = {added["id"] for added in tokenizer["added_tokens"]}
    vocabulary = sorted(tokenizer["model"]["vocab"].items(), key=lambda item: item[1])
    kinds = [TokenType.CONTROL if i in special else TokenType.NORMAL for _, i in vocabulary]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("superbpe")
    writer.add_token_list([token for token, _ in vocabulary])
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_pad_token_id(config["pad_token_id"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(template)
    rotary = {"q_proj": heads, "k_proj": kv_heads}
    for name, weight in load_file(TINY / "model.safetensors").items():
        weight = weight.astype(np.float32)
        for projection, its_heads in rotary.items():
            if f".{projection}." in name:
                weight = interleaved(weight, its_heads)
        writer.add_tensor(renamed(name), weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the .gguf file to write")
    out = parser.parse_args().out
    config, tokenizer = (
        json.loads((TINY / name).read_text(encoding="utf-8"))
        for name in ("config.json", "tokenizer.json")
    )
    write(out, config, tokenizer, (TINY / "chat_template.jinja").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

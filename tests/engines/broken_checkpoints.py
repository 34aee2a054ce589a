"""Ways in which a folder with a model can be broken or be something else, and what is said then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Break = Callable[[Path], Any]


def edit(name: str = "config.json", **changes: Any) -> Break:
    def apply(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


def write(name: str, content: str | bytes) -> Break:
    data = content if isinstance(content, bytes) else content.encode()
    return lambda folder: (folder / name).write_bytes(data)


def remove(*names: str) -> Break:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, size: int) -> Break:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        held = load_file(file)
        change(held)
        save_file(held, file, metadata={"format": "pt"})

    return apply


def sharded(index: Any) -> Break:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
        text = index if isinstance(index, str) else json.dumps(index)
        (folder / "model.safetensors.index.json").write_text(text)

    return apply


def named_shards(folder: Path) -> None:
    """An index that puts the last weight in a shard that is not there."""
    names = sorted(load_file(folder / "model.safetensors"))
    where = dict.fromkeys(names, "model-00001-of-00002.safetensors")
    where[names[-1]] = "model-00002-of-00002.safetensors"
    sharded({"metadata": {}, "weight_map": where})(folder)


def directory(name: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return apply


def adapter(base: Any = "org/base") -> Break:
    return write(
        "adapter_config.json", json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
    )


def no_config(*then: Break) -> Break:
    def apply(folder: Path) -> None:
        (folder / "config.json").unlink()
        for each in then:
            each(folder)

    return apply


def nested(folder: Path) -> None:
    inner = folder / "checkpoint-8"
    inner.mkdir()
    (folder / "config.json").rename(inner / "config.json")


def hub_cache(folder: Path) -> None:
    inner = folder / "snapshots" / "abc"
    inner.mkdir(parents=True)
    (folder / "config.json").rename(inner / "config.json")


def scaled(held: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    held[name] = held[name].to(torch.float8_e4m3fn)
    held[f"{name}_scale"] = torch.ones(1)


def whole_numbers(held: dict[str, torch.Tensor]) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    held[name] = (held[name] * 100).to(torch.int8)


def quantised(**settings: Any) -> Break:
    return edit(quantization_config=settings)


TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")

MODELS: dict[str, tuple[Break, str]] = {
    "config cut short": (cut("config.json", 40), "not a valid JSON"),
    "config empty": (write("config.json", ""), "not a valid JSON"),
    "config no text": (write("config.json", b"\xff\xfe\x00{"), "could not be loaded"),
    "config a list": (write("config.json", "[]"), "could not be loaded"),
    "config a number": (write("config.json", "3"), "could not be loaded"),
    "config without anything": (write("config.json", "{}"), "model_type"),
    "config a folder": (directory("config.json"), "has no config.json"),
    "no config": (remove("config.json"), "has no config.json"),
    "unknown architecture": (edit(model_type="fancy9"), "does not know the architecture 'fancy9'"),
    "architecture a number": (edit(model_type=3), "does not know the architecture 3"),
    "code of its own": (
        edit(
            model_type="fancy9",
            auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"},
        ),
        "code of its own that butwait never runs",
    ),
    "code of another repository": (
        edit(model_type="fancy9", auto_map={"AutoConfig": "o/r--c.C"}),
        "never runs",
    ),
    "size a word": (edit(hidden_size="big"), "hidden_size"),
    "no heads": (edit(num_attention_heads=0), "could not be loaded"),
    "heads that do not divide": (edit(num_attention_heads=7), "could not be loaded"),
    "negative size": (edit(intermediate_size=-4), "could not be loaded"),
    "another size": (
        edit(intermediate_size=8),
        r"other shapes .* and not \(128, 8\)",
    ),
    "more layers": (edit(num_hidden_layers=9), "weights are missing"),
    "unknown activation": (edit(hidden_act="fancy"), "could not be loaded"),
    "unknown rotary": (
        edit(rope_parameters={"rope_type": "fancy", "rope_theta": 1.0}),
        "could not be loaded",
    ),
    "unknown dtype": (edit(dtype="float7"), "could not be loaded"),
    "an encoder-decoder": (edit(model_type="t5", is_encoder_decoder=True), "an encoder-decoder"),
    "vision": (edit(model_type="vit"), "vit is no language model"),
    "speech": (edit(model_type="wav2vec2"), "wav2vec2 is no language model"),
    "whisper": (edit(model_type="whisper", is_encoder_decoder=True), "an encoder-decoder"),
    "no weights": (remove("model.safetensors"), "could not be loaded.*model.safetensors"),
    "empty weights": (write("model.safetensors", b""), "in model.safetensors"),
    "weights cut short": (cut("model.safetensors", 5000), "in model.safetensors"),
    "weights of another kind": (write("model.safetensors", b"PK" * 500), "in model.safetensors"),
    "a pickle that is none": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        "is no pickle of tensors",
    ),
    "an empty pickle": (
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "pytorch_model.bin").touch(),
        ),
        "could not be loaded",
    ),
    "weights a folder": (directory("model.safetensors"), "could not be loaded"),
    "an absent shard": (named_shards, "model-00002-of-00002.safetensors"),
    "an index cut short": (sharded("{"), "in model.safetensors.index.json"),
    "an index of nothing": (sharded({}), "could not be loaded"),
    "an index with an empty map": (sharded({"weight_map": {}, "metadata": {}}), "."),
    "a weight of another shape": (
        tensors(lambda held: held.update({"model.norm.weight": torch.ones(3)})),
        r"1 weights .* other shapes .* model.norm.weight is \(3,\) and not \(128,\)",
    ),
    "a weight that is missing": (
        tensors(lambda held: held.pop("model.norm.weight")),
        "1 weights are missing, model.norm.weight",
    ),
    "all weights of another model": (
        tensors(lambda held: [held.update({f"x.{name}": held.pop(name)}) for name in sorted(held)]),
        "weights are missing",
    ),
    "quantised without a word": (
        tensors(scaled),
        r"quantised \(.* is F8_E4M3 in .*has no quantization_config",
    ),
    "whole numbers without a word": (tensors(whole_numbers), r"quantised \(model.* is I8 in"),
    "gptq": (quantised(quant_method="gptq", bits=4), r"quantised \(gptq\).*optimum"),
    "awq": (quantised(quant_method="awq", bits=4), r"quantised \(awq\).*gptqmodel"),
    "bitsandbytes, 4 bits": (
        quantised(quant_method="bitsandbytes", load_in_4bit=True),
        r"quantised \(bitsandbytes\).*pip install",
    ),
    "bitsandbytes, 8 bits": (
        quantised(quant_method="bitsandbytes", load_in_8bit=True),
        r"quantised \(bitsandbytes\).*pip install",
    ),
    "compressed-tensors": (
        quantised(quant_method="compressed-tensors", format="pack-quantized"),
        r"quantised \(compressed-tensors\).*pip install",
    ),
    "torchao": (quantised(quant_method="torchao", quant_type="int4_weight_only"), "quantised"),
    "hqq": (quantised(quant_method="hqq"), r"quantised \(hqq\)"),
    "aqlm": (quantised(quant_method="aqlm"), r"quantised \(aqlm\)"),
    "auto-round": (quantised(quant_method="auto-round"), r"quantised \(auto-round\)"),
    "fbgemm": (quantised(quant_method="fbgemm_fp8"), r"quantised \(fbgemm_fp8\)"),
    "unknown quantisation": (quantised(quant_method="fancy"), "does not know this kind"),
    "quantisation without a method": (quantised(bits=4), "quantised"),
    "an adapter": (no_config(adapter()), r"adapter \(LoRA\) of org/base: merge"),
    "an adapter of no one": (no_config(write("adapter_config.json", "{")), "of some model: merge"),
    "an adapter beside its weights": (adapter(), "holds an adapter"),
    "a diffusion pipeline": (no_config(write("model_index.json", "{}")), "diffusion pipeline"),
    "a GGUF file": (no_config(write("w-Q4.gguf", "GGUF")), "GGUF file: serve it with llama.cpp"),
    "a folder of checkpoints": (nested, "checkpoint-8 has one"),
    "the cache of a hub's client": (hub_cache, "snapshots/abc has one"),
    "another format": (no_config(write("params.json", "{}")), "params.json"),
}
"""Name: (what is done to a whole checkpoint, what the sentence says)."""

TOKENIZERS: dict[str, tuple[Break, str]] = {
    "no tokenizer": (remove(*TOKENIZER), "the folder has no tokenizer.json"),
    "vocabulary cut short": (cut("tokenizer.json", 500), "in tokenizer.json"),
    "vocabulary empty": (write("tokenizer.json", ""), "could not be loaded"),
    "vocabulary a list": (write("tokenizer.json", "[]"), "could not be loaded"),
    "settings cut short": (cut("tokenizer_config.json", 20), "in tokenizer_config.json"),
    "settings a list": (write("tokenizer_config.json", "[]"), "could not be loaded"),
    "code of its own": (
        edit(
            "tokenizer_config.json",
            tokenizer_class="FancyTokenizer",
            auto_map={"AutoTokenizer": ["t.T", None]},
        ),
        "code of its own, which butwait never runs",
    ),
    "no EOS": (edit("tokenizer_config.json", eos_token=None), "has no EOS token"),
}
"""The same for its tokenizer."""

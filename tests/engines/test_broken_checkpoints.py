"""Folders that hold no whole model, or another kind of one: one sentence each."""

import ast
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import tiny_model
from broken_checkpoints import MODELS, TOKENIZERS, Break, adapter, edit, no_config, remove
from random_models import model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, Gemma3Config, Gemma3TextConfig, MiniCPM3Config

import butwait
from butwait.engines.checkpoints import failures
from butwait.engines.checkpoints.configs import quantisation
from butwait.engines.flops import decoder_flops
from butwait.engines.kinds.transformers import TRANSFORMERS, TransformersSettings
from butwait.engines.models import (
    checkpoint_eos_token_ids,
    eos_token_ids,
    load_causal_lm,
    load_tokenizer,
    on_device,
    read_config,
    resolve,
)
from butwait.engines.settings import ModelSettings
from butwait.engines.slots import SlotModel
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.reward_models.score_head import add_score_head, load_classifier, load_scorer
from butwait.training.settings import LoraSettings
from butwait.training.weights import Start

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A whole model; nothing may ask at the terminal whether to run its code."""

    def never(*_: Any) -> str:
        pytest.fail("a prompt at the terminal")

    monkeypatch.setattr("builtins.input", never)
    return Path(shutil.copytree(resolve(ModelSettings(name="tiny")), tmp_path / "model"))


def of(folder: Path) -> ModelSettings:
    return ModelSettings(name=str(folder), device="cpu")


@pytest.mark.parametrize(("breaks", "says"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_loaded(folder: Path, breaks: Break, says: str) -> None:
    breaks(folder)
    for load in (load_causal_lm, load_scorer):
        with pytest.raises(UserError) as raised:
            load(of(folder))
        sentence = str(raised.value)
        assert "\n" not in sentence
        assert "trust_remote_code" not in sentence
    if load is load_causal_lm:
        assert re.search(says, sentence)


@pytest.mark.parametrize(("breaks", "says"), TOKENIZERS.values(), ids=TOKENIZERS)
def test_a_tokenizer_that_cannot_be_loaded(folder: Path, breaks: Break, says: str) -> None:
    breaks(folder)
    with pytest.raises(UserError, match=says) as raised:
        load_tokenizer(of(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["LlamaTokenizer", "Qwen2Tokenizer", "GemmaTokenizer"])
def test_a_tokenizer_without_its_vocabulary_is_not_taken_for_one(folder: Path, kind: str) -> None:
    """transformers makes these from nothing, and every text has no tokens."""
    edit("tokenizer_config.json", tokenizer_class=kind)(folder)
    remove("tokenizer.json")(folder)
    with pytest.raises(UserError, match="has an empty vocabulary"):
        load_tokenizer(of(folder))


def test_the_merged_weights_beside_an_adapter_are_named(folder: Path, tmp_path: Path) -> None:
    stage = tmp_path / "adapter"
    shutil.copytree(folder, stage)
    no_config(adapter())(stage)
    with pytest.raises(UserError, match=re.escape(f"its merged weights are in {folder}")):
        resolve(of(stage))


def test_files_are_no_models(folder: Path) -> None:
    with pytest.raises(UserError, match=r"is a GGUF file: serve it with llama\.cpp"):
        resolve(ModelSettings(name="absent/policy-Q4_K_M.GGUF"))
    with pytest.raises(UserError, match="a model is named by the folder that holds it"):
        resolve(of(folder / "model.safetensors"))


def test_ids_of_the_hub_that_hold_something_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(source: str, **_: Any) -> Any:
        raise OSError(f"{source} does not appear to have a file named config.json. See the hub.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", absent)
    with pytest.raises(UserError, match=r"'org/Model-GGUF' holds no config\.json, but GGUF files"):
        load_causal_lm(ModelSettings(name="org/Model-GGUF"))
    with pytest.raises(UserError, match=r"the model of 'org/other' could not be loaded: org/other"):
        load_causal_lm(ModelSettings(name="org/other"))
    adapter("org/base")(folder)
    monkeypatch.setattr(
        failures, "find_adapter_config_file", lambda *_, **__: str(folder / "adapter_config.json")
    )
    with pytest.raises(UserError, match=r"'org/lora' at revision 7 holds an adapter .* org/base"):
        load_causal_lm(ModelSettings(name="org/lora", revision="7"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="transformers keeps FP8 where a card is seen")
def test_weights_whose_quantisation_is_undone_have_the_dtype_of_the_settings(folder: Path) -> None:
    """As transformers does with FP8 on a CPU; what was not quantised kept the file's dtype."""
    file = folder / "model.safetensors"
    held = load_file(file)
    for name in [name for name in held if "_proj" in name]:
        rows, columns = held[name].shape
        held[name] = held[name].to(torch.float8_e4m3fn)
        held[f"{name}_scale_inv"] = torch.ones(-(-rows // 128), -(-columns // 128))
    save_file(held, file, metadata={"format": "pt"})
    edit(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})(folder)
    for dtype in (torch.float32, torch.bfloat16):
        settings = of(folder).model_copy(update={"dtype": str(dtype).removeprefix("torch.")})
        loaded = load_causal_lm(settings)
        assert {weight.dtype for weight in loaded.parameters()} == {dtype}
        slots = SlotModel(loaded, 1, 16)
        assert slots.run([(slots.acquire(), 0, [1, 2])], "last").isfinite().all()


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3", "flex_attention"])
def test_attention_that_takes_no_mask_is_not_loaded(folder: Path, attention: str) -> None:
    edit(_attn_implementation=attention)(folder)
    loaded = load_causal_lm(of(folder))
    assert loaded.config._attn_implementation == "sdpa"
    assert SlotModel(loaded, 2).capacity == loaded.config.max_position_embeddings


def test_layers_are_refused_before_weights_are_read(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "mamba", "vocab_size": 9}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="mamba models with layers with a state"):
        TRANSFORMERS.start(of(folder), None, TransformersSettings(), PromptSettings())


def test_quantised_weights_are_not_trained(folder: Path) -> None:
    edit(quantization_config={"quant_method": "gptq", "bits": 4})(folder)
    for lora in (None, LoraSettings()):
        with pytest.raises(UserError, match=r"quantised \(gptq\) and cannot be trained"):
            Start(of(folder), lora, None, PromptSettings()).load()
    with pytest.raises(UserError, match=r"quantised \(gptq\) and cannot be trained"):
        add_score_head(of(folder), 0.0)


def test_quantisation_is_read_from_the_language_model_too() -> None:
    awq = {"quant_method": "awq", "bits": 4}
    assert quantisation(Gemma3Config(text_config={"quantization_config": awq})) == "awq"
    assert quantisation(Gemma3Config()) is None


def test_a_device_too_small_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    large = model()
    monkeypatch.setattr(large, "to", full)
    with pytest.raises(UserError, match=r"\(0\.0 GiB\) do not fit on cpu"):
        on_device(large, torch.device("cpu"))


def test_a_token_of_another_vocabulary_is_one_sentence() -> None:
    slots = SlotModel(model(), 2, 16)
    with pytest.raises(UserError, match="there is no token 999 in the model's vocabulary of 320"):
        slots.run([(slots.acquire(), 0, [1, 999])], "last")


def test_eos_of_a_broken_or_wrapped_checkpoint(folder: Path) -> None:
    tokenizer = load_tokenizer(of(folder))
    own = frozenset([tokenizer.eos_token_id])
    (folder / "generation_config.json").unlink()
    edit(eos_token_id=[5, 7])(folder)
    assert checkpoint_eos_token_ids(of(folder), tokenizer) == own | {5, 7}
    (folder / "config.json").write_text("{")
    assert checkpoint_eos_token_ids(of(folder), tokenizer) == own


def test_no_call_leaves_it_open_whether_a_checkpoints_code_is_run() -> None:
    harmless = {"GenerationConfig", "PeftModel"}  # they run none
    texts = {file: file.read_text("utf-8") for file in Path(butwait.__file__).parent.rglob("*.py")}
    calls = [
        (file.name, node)
        for file, text in texts.items()
        if "from_pretrained" in text or "from_config" in text
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("from_pretrained", "from_config")
        and getattr(node.func.value, "id", "") not in harmless
    ]
    open_calls = [
        (name, node.lineno)
        for name, node in calls
        if not any(
            word.arg == "trust_remote_code" and getattr(word.value, "value", None) is False
            for word in node.keywords
        )
    ]
    assert len(calls) > 5
    # That of a GGUF file's weights is built from a class of transformers, from memory.
    assert [name for name, _ in open_calls] == ["models.py", "configs.py"]


RECIPE = """
model: {{name: {folder}, device: cpu}}
prompt: {{template: "{{question}}"}}
engine: {{kind: transformers, slots: 4}}
problems: {{sums: {{source: arithmetic, split: search, params: {{size: 2}}}}}}
stages:
  ask:
    kind: evaluate
    problems: [sums]
    methods: {{sample: {{k: 2, sampler: {{kind: independent, step: {{max_tokens: 8}}}}}}}}
"""


def replace_model(folder: Path, kind: str) -> None:
    """By a random one of another architecture that takes the same tokens."""
    tokens = len(load_tokenizer(of(folder)))
    tiny_model(kind, vocab_size=tokens).float().save_pretrained(folder)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (no_config(adapter()), "holds an adapter"),
        (edit(quantization_config={"quant_method": "gptq", "bits": 4}), "quantised (gptq)"),
        (edit(model_type="rwkv"), "rwkv models with layers with a state"),
        (edit(model_type="fancy9", auto_map={"AutoConfig": "c.C"}), "butwait never runs"),
        (lambda folder: replace_model(folder, "gpt_neo"), "beside rows of other lengths"),
        (lambda folder: replace_model(folder, "openai-gpt"), "cannot run this openai-gpt model"),
    ],
    ids=["adapter", "quantised", "stateful", "own code", "GPT-Neo", "OpenAI-GPT"],
)
def test_a_run_says_so_in_one_line_with_code_2(
    folder: Path, own_folder: Path, command: Command, breaks: Break, says: str
) -> None:
    breaks(folder)
    (own_folder / "r.yaml").write_text(RECIPE.format(folder=folder))
    code, _, err = command("run", "r.yaml")
    assert code == 2
    assert says in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "kind",
    [
        "granitemoehybrid",
        pytest.param("gemma3", marks=pytest.mark.slow),
        pytest.param("mistral3", marks=pytest.mark.slow),
    ],
)
def test_a_run_of_an_attention_only_hybrid_or_a_wrapper(
    folder: Path, own_folder: Path, command: Command, kind: str
) -> None:
    replace_model(folder, kind)
    (own_folder / "r.yaml").write_text(RECIPE.format(folder=folder))
    code, _, err = command("run", "r.yaml")
    assert code == 0, err
    assert (own_folder / "runs" / "r" / "ask" / "stage.json").is_file()


def test_eos_that_is_no_id_is_one_sentence(folder: Path) -> None:
    tokenizer = load_tokenizer(of(folder))
    for wrong in ("</s>", ["</s>"], 2.5):
        with pytest.raises(UserError, match=r"eos_token_id is .* no id"):
            eos_token_ids(wrong, tokenizer)  # type: ignore[arg-type]


def test_a_model_that_one_must_ask_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def gated(*_: Any, **__: Any) -> Any:
        raise OSError("You are trying to access a gated repo.\nMake sure to have access to it.")

    monkeypatch.setattr(AutoConfig, "from_pretrained", gated)
    with pytest.raises(UserError, match=r"a gated repo .ask for access .* set HF_TOKEN"):
        load_causal_lm(ModelSettings(name="org/gated"))


def test_code_of_a_known_architecture_is_left_alone(folder: Path) -> None:
    """Many checkpoints bring a copy of what transformers has."""
    edit(auto_map={"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"})(folder)
    assert load_causal_lm(of(folder)).num_parameters() == 604_160
    assert read_config(of(folder)).model_type == "llama"


def test_a_classifier_of_other_classes_is_one_sentence(folder: Path) -> None:
    with pytest.raises(UserError, match=r"is no classifier: its checkpoint lacks score\.weight"):
        load_classifier(of(folder))


def test_flops_of_a_model_that_sees_images_are_of_its_language_model() -> None:
    sizes = {"hidden_size": 64, "head_dim": 16, "num_hidden_layers": 2, "vocab_size": 100}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 96}
    whole = Gemma3Config(text_config=sizes | heads)
    alone = decoder_flops(Gemma3TextConfig(**sizes | heads))
    assert decoder_flops(whole) == alone
    assert alone is not None
    assert alone.per_position == 4 * 2 * 4 * 16


def test_flops_of_latent_attention_count_its_keys_and_its_values() -> None:
    latent = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 12}
    config = MiniCPM3Config(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        vocab_size=100,
        q_lora_rank=16,
        kv_lora_rank=16,
        **latent,
    )
    flops = decoder_flops(config)
    assert flops is not None
    assert flops.per_position == 2 * 2 * 4 * (16 + 8 + 12)

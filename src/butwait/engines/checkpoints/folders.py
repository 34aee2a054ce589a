"""What a model's folder lacks, by the names, sizes and headers of its files. Imports no torch."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from butwait.running.files import expanded
from butwait.running.identity import SHIPPED

SINGLE = ("model.safetensors", "pytorch_model.bin")
"""Weights in one file, in the order in which transformers looks; an index beside it, of the same
name and ``.index.json``, names the files that they are parted into."""
POINTER = b"version https://git-lfs"
"""How a file of Git LFS begins that was not fetched."""
LARGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; a longer one is none."""
ODD_SHARE = 0.5
"""Of a model's vocabulary: a tokenizer that knows less is not likely to be its own."""


def look_into(world: Any, name: str, revision: str | None, key: str, *, weights: bool) -> None:
    """Looks for a model and, in a local folder, for its tokenizer.

    Args:
        world: a ``World``.
        name, revision: of the model.
        key: of the setting that names it.
        weights: whether its weights are needed too.
    """
    world.model(name, revision, key)
    config, folder = world.peek(name, revision), local_folder(name)
    if config is None or folder is None:
        return
    for told in (lacking_tokenizer(folder, config), lacking_weights(folder) if weights else None):
        if told is not None:
            world.lack(key, told)
    if (odd := odd_tokenizer(folder, config)) is not None:
        world.lack(key, odd, warning=True)


def local_folder(name: str) -> Path | None:
    """The folder that a model's name means; None where it means none that is here."""
    folder = expanded(name)
    return folder if name not in SHIPPED and folder.is_dir() else None


def holds_tokenizer(folder: Path) -> bool:
    """Whether a folder has a file with a vocabulary."""
    names = ("tokenizer.json", "*.model", "vocab.*", "tekken.json", "*.tiktoken")
    return any(any(folder.glob(name)) for name in names)


def lacking_tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    """What is wrong with the tokenizer of a folder; None: nothing that can be seen."""
    if not holds_tokenizer(folder):
        return (
            f"the folder {folder} has no tokenizer (tokenizer.json): copy the files of the model's "
            "tokenizer into it"
        )
    known = _vocabulary(folder)
    if isinstance(known, str):
        return known
    size = _model_vocabulary(config)
    if known and size and max(known) >= size:
        return (
            f"the tokenizer in {folder} has tokens up to {max(known)}, and the model's vocabulary "
            f"is {size}: it belongs to another model, so copy that of this one"
        )
    return None


def odd_tokenizer(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Why a tokenizer may be that of another model; None where it looks like the model's own."""
    known, size = _vocabulary(folder), _model_vocabulary(config)
    if isinstance(known, str) or not known or not size or len(known) >= ODD_SHARE * size:
        return None
    return (
        f"the tokenizer in {folder} knows {len(known)} of the {size} tokens of the model's "
        "vocabulary; it may be that of another model"
    )


def lacking_weights(folder: Path) -> str | None:
    """What is wrong with the weights of a folder; None: nothing that can be seen."""
    if not (folder / "config.json").is_file():
        return f"the folder {folder} holds no model but a tokenizer: it has no config.json"
    for single in SINGLE:
        index = folder / f"{single}.index.json"
        if (folder / single).is_file():
            return _broken(folder / single)
        if index.is_file():
            return _lacking_part(folder, index)
    kinds = ("*.safetensors", "*.bin", "*.pt", "*.pth")
    if any(any(folder.glob(kind)) for kind in kinds):
        return None  # under names that some engines take
    return (
        f"the folder {folder} has a configuration and no weights (model.safetensors): copy them "
        "into it"
    )


def _lacking_part(folder: Path, index: Path) -> str | None:
    try:
        parts = sorted({*json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
        lacking = [part for part in parts if not (folder / part).is_file()]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"{index} cannot be read ({type(error).__name__} {error}): fetch it again"
    if lacking:
        return (
            f"{len(lacking)} of the {len(parts)} files of weights are not in {folder}, "
            f"{lacking[0]} among them: fetch them"
        )
    return next((told for part in parts if (told := _broken(folder / part)) is not None), None)


def _broken(file: Path) -> str | None:
    """Why a file of weights is not whole. A header of safetensors says how long the file is."""
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            begins = opened.read(len(POINTER))
            if begins == POINTER:
                return f"{file} is a pointer of Git LFS and no weights: fetch them (git lfs pull)"
            if file.suffix != ".safetensors":
                return None if size else f"{file} is empty: fetch it again"
            opened.seek(0)
            length = int.from_bytes(opened.read(8), "little")
            if length > min(size, LARGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(opened.read(length))
        ends = [held["data_offsets"][1] for name, held in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends, default=0)
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        return f"{file} cannot be read ({error}): fetch it again"
    return None if size >= whole else f"{file} ends early ({size} of {whole} bytes): fetch it again"


def _vocabulary(folder: Path) -> set[int] | str:
    """Ids that the tokenizer of a folder has for text, those that were added aside (of images, some
    of which no model of text alone has); none where its files are of a kind that is not read here;
    or why they cannot be read."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return set()
    try:
        whole = json.loads(file.read_text(encoding="utf-8"))
        held, added = whole["model"]["vocab"], whole.get("added_tokens") or []
        aside = {token["id"] for token in added}
    except (OSError, ValueError) as error:
        return f"{file} cannot be read ({error}): fetch it again"
    except (KeyError, TypeError):
        return set()
    ids = held.values() if isinstance(held, dict) else range(len(held))
    return {i for i in ids if isinstance(i, int)} - aside


def _model_vocabulary(config: Mapping[str, Any]) -> int | None:
    text = config.get("text_config")
    size = (text if isinstance(text, dict) else config).get("vocab_size")
    return size if isinstance(size, int) and not isinstance(size, bool) else None

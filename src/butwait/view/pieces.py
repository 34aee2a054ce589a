"""The texts of single tokens, where the tokenizer of a run is at hand without a network."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from butwait.engines.detokenizer import GrowingText
from butwait.reward_models.kinds.trained import FILE as REWARD_MODEL
from butwait.view.folders import Folder

_FILE = "tokenizer.json"


def pieces_of(
    folder: Folder, stage: str, token_ids: Sequence[list[int]], texts: Sequence[str]
) -> list[list[str] | None] | None:
    """What each token adds to the text of its node.

    Args:
        folder: of the run.
        stage: whose model wrote the tokens.
        token_ids: of each node.
        texts: of each node.

    Returns:
        A list a node, whose texts joined are the node's; None for a node of which that cannot be
        said. None altogether where the tokenizer is not found.
    """
    path = _tokenizer_file(folder, stage)
    if path is None:
        return None
    try:
        tokenizer = _tokenizer(str(path), path.stat().st_mtime_ns)
    except Exception:  # the library raises Exception itself for a file that it cannot read
        return None
    return [_parted(tokenizer, ids, text) for ids, text in zip(token_ids, texts, strict=True)]


class _Decoder:
    """As much of a detokenizer as a growing text needs."""

    def __init__(self, path: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(path)

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=True)


@lru_cache(maxsize=2)
def _tokenizer(path: str, changed: int) -> _Decoder:
    return _Decoder(path)


def _parted(tokenizer: _Decoder, token_ids: list[int], text: str) -> list[str] | None:
    growing: Any = GrowingText(tokenizer, np.zeros(0, np.int32), "")  # type: ignore[arg-type]
    pieces = []
    for place, token in enumerate(token_ids, 1):
        before = len(growing.text)
        growing.append([token], last=place == len(token_ids))
        pieces.append(growing.text[before:])
    rest = "".join(pieces[1:])
    if pieces and text.endswith(rest):  # a decoder may strip the space of a text's first token
        return [text[: len(text) - len(rest)], *pieces[1:]]
    return pieces if "".join(pieces) == text else None


def _tokenizer_file(folder: Folder, stage: str) -> Path | None:
    """That of a policy that a stage of the run trained (they all share one tokenizer; a reward
    model may have another), or of the recipe's own model, where it lies in a folder or ships with
    butwait."""
    for name in folder.stages():
        trained = folder.path / name / "model"
        if folder.is_file(trained / _FILE) and not folder.is_file(trained / REWARD_MODEL):
            return trained / _FILE
    settings = folder.record(stage).get("settings")
    recipe = settings.get("recipe") if isinstance(settings, dict) else None
    model = recipe.get("model") if isinstance(recipe, dict) else None
    source = model.get("name") if isinstance(model, dict) else None
    if not isinstance(source, str) or "\0" in source:
        return None
    shipped = Path(str(files("butwait") / "models" / source / _FILE))
    own = Path(source) / _FILE
    return next((path for path in (own, shipped) if path.is_file()), None)

"""The texts of single tokens, where the tokenizer of a run is at hand without a network."""

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import numpy as np

from butwait.engines.detokenizer import token_characters
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
    """As much of a detokenizer as it takes to cut a text."""

    def __init__(self, path: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(path)
        ids = range(self._tokenizer.get_vocab_size())
        # A decoder may strip the space of a text's first token.
        texts = ((i, self.decode([i])) for i in ids)
        self._before = next(([i] for i, t in texts if t.isascii() and t.isalnum()), [])
        self._added: dict[int, str] = {}

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids, skip_special_tokens=True)

    def added(self, token: int) -> str:
        """What a token adds to a text."""
        if token not in self._added:
            start = len(self.decode(self._before))
            self._added[token] = self.decode([*self._before, token])[start:]
        return self._added[token]


@lru_cache(maxsize=2)
def _tokenizer(path: str, changed: int) -> _Decoder:
    return _Decoder(path)


def _parted(tokenizer: _Decoder, token_ids: list[int], text: str) -> list[str] | None:
    added = [tokenizer.added(token) for token in token_ids]
    counts = token_characters(tokenizer.decode, added, token_ids, text)
    if counts is None:
        return None
    ends = np.cumsum(counts).tolist()
    return [text[a:b] for a, b in pairwise([0, *ends])]


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

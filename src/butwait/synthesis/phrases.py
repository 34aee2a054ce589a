"""Phrases that are put between a mistake and the way out of it, from a YAML file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal, get_args

import yaml

from butwait.records import Key, UserError
from butwait.running.files import expanded

PhraseKind = Literal["doubt", "return", "check"]
KINDS: tuple[PhraseKind, ...] = get_args(PhraseKind)


@dataclass(frozen=True, slots=True)
class Phrases:
    """Phrases by kind."""

    by_kind: dict[str, tuple[str, ...]]

    def draw(self, kind: PhraseKind, key: Key) -> str:
        """One phrase of a kind, each with the same probability."""
        phrases = self.by_kind[kind]
        return phrases[int(key.generator().integers(len(phrases)))]


def load_phrases(source: str | Mapping[PhraseKind, Sequence[str]] | None) -> Phrases:
    """The phrases of a file, or given as its content, or those that ship with butwait.

    ``doubt``, ``return`` and ``check`` are mapped to lists of texts; a kind that is left out keeps
    the shipped ones. Raises UserError for a file that is missing, and for anything else in it.
    """
    shipped = _read(files("butwait.synthesis") / "phrases.yaml", "phrases.yaml")
    if source is None:
        return Phrases(shipped)
    if isinstance(source, str):
        return Phrases(shipped | _read(expanded(source), source))
    return Phrases(shipped | _checked({k: list(v) for k, v in source.items()}, "the recipe"))


def _read(file: Any, name: str) -> dict[str, tuple[str, ...]]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"phrases: {name} cannot be read ({type(error).__name__})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"phrases: {name} is not YAML: {' '.join(str(error).split())}") from error
    return _checked(content, name)


def _checked(content: Any, name: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(content, dict) or not content:
        raise UserError(f"phrases: {name} must map {', '.join(KINDS)} to lists of phrases")
    for kind, phrases in content.items():
        if kind not in KINDS:
            raise UserError(f"phrases: {name} has the kind {kind!r}; there are {', '.join(KINDS)}")
        texts = isinstance(phrases, list) and all(isinstance(p, str) for p in phrases)
        if not texts or not phrases or not all(p.strip() for p in phrases):
            raise UserError(f"phrases: {kind} in {name} must be a list of texts that say something")
        if any("\\boxed" in p or "\\fbox" in p for p in phrases):
            raise UserError(f"phrases: {kind} in {name} has a box, which is kept for answers")
    return {kind: tuple(phrases) for kind, phrases in content.items()}

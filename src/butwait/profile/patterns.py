"""The phrases that are counted as signs of a habit of reasoning, from a YAML file."""

import re
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from butwait.records import UserError

Patterns = dict[str, re.Pattern[str]]
"""Habit -> one expression for all of its phrases."""


@cache
def shipped_patterns() -> Patterns:
    """The phrases of ``patterns.yaml`` beside this file."""
    text = (files("butwait.profile") / "patterns.yaml").read_text(encoding="utf-8")
    return _compiled(yaml.safe_load(text), "patterns.yaml")


def load_patterns(path: Path | None) -> Patterns:
    """The phrases of a file, or the shipped ones.

    Raises UserError for a file that is missing or does not map habits to lists of expressions.
    """
    if path is None:
        return shipped_patterns()
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"patterns: {path} cannot be read ({type(error).__name__})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"patterns: {path} is not YAML: {' '.join(str(error).split())}") from error
    return _compiled(content, str(path))


def _compiled(content: object, name: str) -> Patterns:
    if not isinstance(content, dict) or not content:
        raise UserError(f"patterns: {name} must map habits to lists of expressions")
    return {str(habit): _habit(habit, phrases, name) for habit, phrases in content.items()}


def _habit(habit: object, phrases: object, name: str) -> re.Pattern[str]:
    if not isinstance(phrases, list) or not phrases or not all(isinstance(p, str) for p in phrases):
        raise UserError(f"patterns: {habit} in {name} must be a list of expressions")
    for phrase in phrases:
        try:
            empty = re.compile(phrase).search("") is not None
        except re.error as error:
            raise UserError(
                f"patterns: {habit} in {name}: {phrase!r} is no regular expression ({error})"
            ) from error
        if empty:
            raise UserError(f"patterns: {habit} in {name}: {phrase!r} also matches an empty text")
    return re.compile(rf"(?<!\w)(?:{'|'.join(phrases)})(?!\w)", re.IGNORECASE)

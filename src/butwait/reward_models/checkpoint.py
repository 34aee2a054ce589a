"""The note beside a trained checkpoint that says how it is scored."""

import json
from pathlib import Path
from typing import Any

from butwait.engines.models import tokenizer_fingerprint
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.running.files import write_json

FILE = "butwait_reward_model.json"
SCHEMA_VERSION = 1


def write_note(folder: Path, tokenizer: Any, prompt: PromptSettings) -> None:
    """Writes the note into the checkpoint's folder."""
    write_json(
        folder / FILE,
        {
            "schema_version": SCHEMA_VERSION,
            "kind": "trained",
            "logit": "log-odds that the path will verify, at the last token of each step, the "
            "token that ends the answer included",
            "prompt": prompt.model_dump(mode="json"),
            "tokenizer": tokenizer_fingerprint(tokenizer),
        },
    )


def read_prompt(folder: Path) -> PromptSettings:
    """How the model was shown questions. Raises UserError where the folder holds no reward model
    of ours, or one of another version."""
    path = folder / FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no reward model made by a prm stage: it has no {FILE}")
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        version = note["schema_version"]
        prompt = PromptSettings.model_validate(note["prompt"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema version {version}, this butwait reads {SCHEMA_VERSION}; train the "
            "reward model again"
        )
    return prompt

"""A reward model made by a stage of kind ``prm``: the policy's architecture and a score head."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.records.settings import Content
from butwait.reward_models.load import Policy, RewardModelKind
from butwait.reward_models.local import Layout, LocalRewardModel, in_slots, step_ids
from butwait.reward_models.reward_model import RewardModel, Step
from butwait.reward_models.settings import LocalModelSettings
from butwait.running.files import expanded, write_json

FILE = "butwait_reward_model.json"
"""The note beside a trained checkpoint that says how it is scored."""
SCHEMA_VERSION = 1


class TrainedSettings(LocalModelSettings):
    """A reward model made by a stage of kind ``prm``."""

    kind: Literal["trained"] = "trained"
    model: Content[str]
    """Folder of the checkpoint (``RUN/STAGE/model``)."""

    def look(self, world: Any) -> None:
        super().look(world)
        world.file(f"{self.model}/{FILE}", "model")


class TrainedRewardModel(LocalRewardModel):
    """The score of a path is the logit at the last token of its last step, as in training; where a
    step ends the answer with EOS, that is the EOS token. A path without steps is scored at the end
    of the prompt.

    Args:
        model: the scorer in its slots; one output per token.
        tokenizer: the scorer's.
        prompt: how questions were shown to it in training.
        same_tokens: whether the policy has the same tokenizer. If so the policy's token ids are
            taken as they are; otherwise each step's text is tokenised, once, on its own, and an
            EOS token, which no text shows, is not seen.
    """

    def __init__(
        self, model: Any, tokenizer: Any, prompt: PromptSettings, same_tokens: bool
    ) -> None:
        super().__init__(model, tokenizer, prompt)
        self._same_tokens = same_tokens

    def _extended(self, layout: Layout, step: Step) -> Layout:
        same = self._same_tokens
        return layout.extended(step.token_ids if same else step_ids(self._tokenizer, step.text))

    def _logit(self, layout: Layout, outputs: Sequence[np.ndarray], output: np.ndarray) -> float:
        return float(output[0])


def write_note(folder: Path, tokenizer: Any, prompt: PromptSettings) -> None:
    """Writes the note into the checkpoint's folder."""
    from butwait.engines.models import tokenizer_fingerprint

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
    path = expanded(folder) / FILE
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


def _load(settings: TrainedSettings, policy_tokenizer: Any, policy: Policy | None) -> RewardModel:
    from butwait.engines.models import load_tokenizer, tokenizer_fingerprint
    from butwait.reward_models.score_head import load_scorer

    checkpoint = settings.checkpoint(settings.model)
    prompt = read_prompt(Path(settings.model))
    tokenizer = load_tokenizer(checkpoint)
    same = policy_tokenizer is not None and (
        tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(policy_tokenizer)
    )
    if settings.capacity is None and policy is not None:
        as_written = same and prompt == policy.prompt  # then its paths are as long as the policy's
        if as_written or settings.deterministic:  # fixed shapes need a length
            settings = settings.model_copy(update={"capacity": policy.tokens})
    slots = in_slots(load_scorer(checkpoint), settings, policy)
    return TrainedRewardModel(slots, tokenizer, prompt, same)


TRAINED = RewardModelKind(
    TrainedSettings,
    _load,
    decoder=lambda settings: (settings.checkpoint(settings.model), False),
)

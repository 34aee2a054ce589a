"""The kinds of reward models, and loading one."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records.settings import Settings
from butwait.reward_models.plugin import load_plugin_model
from butwait.reward_models.reward_model import RewardModel
from butwait.running.kinds import Kinds
from butwait.running.log import say
from butwait.running.plugins import wrong


class Policy(NamedTuple):
    """The weights of a policy, how it is shown questions, and how many of its paths and prompts are
    in flight at a time (None: nobody knows)."""

    model: ModelSettings
    prompt: PromptSettings
    paths: int | None = None


@dataclass(frozen=True)
class RewardModelKind:
    """A kind of reward model.

    Attributes:
        settings: what it takes.
        load: as ``load_reward_model``.
        own: whether the policy itself is the judge, by these settings: then a search has no
            signal from outside.
        decoder: the language model that is run, and whether with its language-model head, for
            the cost in floating-point operations; None: there is none, or it is not known.
        aggregates: whether a score is of a whole path by these settings, its steps put together
            already; then the product of the scores along a path would count them again and again.
        fitted: the settings with room for the policy's longest path, in tokens (None: no bound).
            For a model that takes the policy's tokens.
    """

    settings: type[Settings]
    load: Callable[[Any, Any, Policy | None], RewardModel]
    own: Callable[[Any], bool] = lambda settings: False
    aggregates: Callable[[Any], bool] = lambda settings: False
    decoder: Callable[[Any], tuple[ModelSettings, bool] | None] = lambda settings: None
    fitted: Callable[[Any, int | None], Settings] = lambda settings, tokens: settings


REWARD_MODELS = Kinds("reward model", "butwait.reward_models.kinds", RewardModelKind)


def load_reward_model(
    settings: Settings, policy_tokenizer: Any, policy: Policy | None = None
) -> RewardModel:
    """Loads the weights and makes the slots. Whoever calls this closes the model.

    Args:
        settings: which reward model.
        policy_tokenizer: tells whether the policy's token ids can be taken as they are; None:
            there are none, and steps are texts.
        policy: whose paths are scored; for ``measure: self_certainty``.

    Raises UserError for a model that cannot be found or read, or is of another kind.
    """
    load = REWARD_MODELS.of(settings).load
    kind = str(getattr(settings, "kind", ""))
    say(f"  reward model {settings.model_dump(mode='json', exclude_none=True)}", logging.DEBUG)
    if ":" in kind:
        return load_plugin_model(kind, load, settings, policy_tokenizer, policy)
    return load(settings, policy_tokenizer, policy)


def fitted(settings: Any, tokens: int | None) -> Any:
    """``RewardModelKind.fitted`` of these settings. UserError for a plugin that gives none."""
    found = REWARD_MODELS.of(settings).fitted(settings, tokens)
    if not isinstance(found, Settings):
        raise wrong(settings.kind, "its fitted", found, "settings")
    return found


def decoder(settings: Any) -> tuple[ModelSettings, bool] | None:
    """``RewardModelKind.decoder`` of these settings. UserError for a plugin that gives something
    else."""
    found: Any = REWARD_MODELS.of(settings).decoder(settings)
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], ModelSettings)
    if found is not None and not pair:
        raise wrong(
            settings.kind, "its decoder", found, "a ModelSettings and true or false, or None"
        )
    return found


def aggregates(settings: Any) -> bool:
    """``RewardModelKind.aggregates`` of these settings."""
    return REWARD_MODELS.of(settings).aggregates(settings)


def is_own(settings: Any) -> bool:
    """Whether the policy itself is the judge. ``settings`` are of a reward model, parsed or as a
    mapping."""
    parsed = REWARD_MODELS.parse(settings)
    return REWARD_MODELS.of(parsed).own(parsed)

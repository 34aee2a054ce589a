"""The kinds of reward models, and loading one."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from butwait.engines.flops import DecoderFlops, flops_of
from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records.settings import Settings
from butwait.reward_models.plugin import load_plugin_model
from butwait.reward_models.reward_model import RewardModel
from butwait.running.kinds import Kinds
from butwait.running.log import say
from butwait.running.plugins import wrong

THE_POLICY = "the policy"
"""The name, in ``RewardModelKind.decoder``, of the policy's own weights, run once more."""


class Policy(NamedTuple):
    """The weights of a policy, how it is shown questions, how many of its paths and prompts are in
    flight at a time, and the tokens of its longest path, prompt included (None: nobody knows)."""

    model: ModelSettings
    prompt: PromptSettings
    paths: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class RewardModelKind:
    """A kind of reward model.

    Attributes:
        settings: what it takes.
        load: as ``load_reward_model``.
        own: whether the policy itself is the judge, by these settings: then a search has no
            signal from outside.
        decoder: the language model that is run (``THE_POLICY``: a copy of it), and whether with
            its language-model head, for memory and the cost in floating-point operations; one that
            gives None runs none. None: not known.
        members: the reward models that it is made of.
        aggregates: whether a score is of a whole path by these settings, its steps put together
            already; then the product of the scores along a path would count them again and again.
    """

    settings: type[Settings]
    load: Callable[[Any, Any, Policy | None], RewardModel]
    own: Callable[[Any], bool] = lambda settings: False
    aggregates: Callable[[Any], bool] = lambda settings: False
    decoder: Callable[[Any], tuple[ModelSettings, bool] | None] | None = None
    members: Callable[[Any], Sequence[Settings]] = lambda settings: ()


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


class Decoder(NamedTuple):
    """What is run for a score.

    Attributes:
        settings: of the reward model, or of a member of it.
        model: the language model; None: not known.
        head: whether with its language-model head.
    """

    settings: Any
    model: ModelSettings | None
    head: bool


def decoders(settings: Any, policy: ModelSettings | None) -> list[Decoder]:
    """All that is run for a score, that of an ensemble's members one by one.

    Args:
        settings: of a reward model.
        policy: which model the policy is.

    Raises UserError for a plugin whose ``decoder`` gives something else.
    """
    kind = REWARD_MODELS.of(settings)
    if members := kind.members(settings):
        return [each for member in members for each in decoders(member, policy)]
    if kind.decoder is None:
        return [Decoder(settings, None, False)]
    found: Any = kind.decoder(settings)
    if found is None:
        return []
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], ModelSettings)):
        raise wrong(
            settings.kind, "its decoder", found, "a ModelSettings and true or false, or None"
        )
    model, head = found
    if model.name == THE_POLICY:
        if policy is None:
            return [Decoder(settings, None, head)]
        model = model.model_copy(update={"name": policy.name, "revision": policy.revision})
    return [Decoder(settings, model, head)]


def reward_model_flops(settings: Any, policy: ModelSettings | None) -> DecoderFlops | None:
    """Of a pass for a score; None where none is run, where it is not known, and where members run
    several, whose tokens are counted together. Arguments as for ``decoders``."""
    found = decoders(settings, policy)
    if len(found) != 1 or found[0].model is None:
        return None
    return flops_of(found[0].model, head=found[0].head)


def aggregates(settings: Any) -> bool:
    """``RewardModelKind.aggregates`` of these settings."""
    return REWARD_MODELS.of(settings).aggregates(settings)


def is_own(settings: Any) -> bool:
    """Whether the policy itself is the judge. ``settings`` are of a reward model, parsed or as a
    mapping."""
    parsed = REWARD_MODELS.parse(settings)
    return REWARD_MODELS.of(parsed).own(parsed)

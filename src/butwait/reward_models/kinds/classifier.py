"""Any public process reward model that classifies tokens: its layout is told by settings.

The prompt is followed by the steps, each with the separator after it; the score of a step is the
log-odds of the good class at the separator's last token. Text that stands between the score and
the next step (the ``+`` of a judge that answers in a chat) opens the next step.

Steps, separators and what follows them are tokenised one at a time, as trl's ``PRMTrainer`` does
in training, so that a path can be scored as it grows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from butwait.engines.checkpoints.folders import look_into
from butwait.problems.settings import PromptSettings
from butwait.records import UserError
from butwait.records.settings import Content, Result
from butwait.reward_models.aggregate import aggregate
from butwait.reward_models.load import Policy, RewardModelKind
from butwait.reward_models.local import (
    NOTHING,
    Layout,
    LocalRewardModel,
    in_slots,
    layout_ids,
    step_ids,
)
from butwait.reward_models.reward_model import RewardModel, Step
from butwait.reward_models.settings import LocalModelSettings


class ClassifierSettings(LocalModelSettings):
    """Any public process reward model that is a decoder of transformers: a token or sequence
    classifier, or a language model that answers with a good or a bad token."""

    kind: Literal["classifier"]
    name: Content[str]
    """A Hugging Face id or a folder."""
    revision: Result[str | None] = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    head: Result[Literal["classes", "tokens"]] = "classes"
    """``classes``: ``*ForTokenClassification`` or ``*ForSequenceClassification``; ``tokens``:
    ``*ForCausalLM``, whose next token is the judgement."""
    good: Result[str | int | None] = None
    """The class (name or index) or token (text) of a good step; None: the last class, where there
    are one or two."""
    bad: Result[str | int | None] = None
    """What it is weighed against; None: all other classes."""
    prompt: Result[PromptSettings] = PromptSettings(style="plain", template="{question}")
    """How the question is shown; by default it stands alone."""
    separator: Result[str] = "\n"
    """Text after each step; the score is read at its last token (at the step's own last token
    where it is empty)."""
    after: Result[str] = ""
    """Text after the score, before the next step."""
    aggregation: Result[Literal["prod", "min", "last"]] = "last"
    """One score from many steps: their product, their minimum, the last one."""

    def look(self, world: Any) -> None:
        super().look(world)
        look_into(world, self.name, self.revision, "name", weights=True)


@dataclass(frozen=True, slots=True)
class Classes:
    """Which outputs count.

    Attributes:
        good: index of the good class.
        bad: index of the class it is weighed against; None: all others together.
    """

    good: int
    bad: int | None

    def log_odds(self, outputs: np.ndarray) -> float:
        """Of the good class, from logits (V,). A single output is the log-odds itself."""
        from scipy.special import logsumexp  # here: a recipe is parsed without scipy

        z = outputs.astype(np.float64)
        if len(z) == 1:
            return float(z[0])
        against = logsumexp(np.delete(z, self.good)) if self.bad is None else z[self.bad]
        return float(z[self.good] - against)


class ClassifierRewardModel(LocalRewardModel):
    """Implements ``RewardModel``. A path without any text is scored 0: there is nothing to judge.

    Args:
        model: the classifier in its slots; one row of logits per token.
        tokenizer: the classifier's.
        classes: which logits count.
        settings: the layout and the aggregation.
    """

    def __init__(
        self, model: Any, tokenizer: Any, classes: Classes, settings: ClassifierSettings
    ) -> None:
        written = f"{settings.prompt.template}{settings.separator}{settings.after}"
        super().__init__(model, tokenizer, settings.prompt, written=written)
        self._classes = classes
        self._aggregation = settings.aggregation
        self._separator = layout_ids(tokenizer, settings.separator)
        self._after = layout_ids(tokenizer, settings.after)

    def _extended(self, layout: Layout, step: Step) -> Layout:
        """A step without text has no segment: there is nothing to judge."""
        text = step.text.strip()
        if not text:
            return layout
        tokens = np.concatenate([step_ids(self._tokenizer, text, self._written), self._separator])
        return layout.extended(tokens, NOTHING, self._after)

    def _logit(self, layout: Layout, outputs: Sequence[np.ndarray], output: np.ndarray) -> float:
        steps = [self._classes.log_odds(each) for each in outputs]
        return aggregate(np.array(steps), self._aggregation)


def load_judge(settings: ClassifierSettings) -> tuple[Any, Any, Classes]:
    """The model in evaluation mode, its tokenizer, and which of its outputs count.

    Raises UserError for a checkpoint that cannot be read or has no such head, and for a class or
    token that it does not know.
    """
    from butwait.engines.models import load_causal_lm, load_tokenizer
    from butwait.reward_models.score_head import load_classifier

    checkpoint = settings.checkpoint(settings.name, settings.revision)
    tokenizer = load_tokenizer(checkpoint)
    if settings.head == "tokens":
        model = load_causal_lm(checkpoint)
        return model, tokenizer, _two_tokens(model, tokenizer, settings)
    model = load_classifier(checkpoint)
    return model, tokenizer, _classes(model.config, settings)


def _classes(config: Any, settings: ClassifierSettings) -> Classes:
    if settings.good is None:
        if config.num_labels > 2:
            raise UserError(
                f"{settings.name!r} has {config.num_labels} classes "
                f"({', '.join(config.id2label.values())}): say which is `good`"
            )
        return Classes(config.num_labels - 1, None)
    good = _class(config, settings.good, settings.name)
    return Classes(
        good, None if settings.bad is None else _class(config, settings.bad, settings.name)
    )


def _class(config: Any, label: str | int, name: str) -> int:
    index = config.label2id.get(label, -1) if isinstance(label, str) else label
    if not 0 <= index < config.num_labels:
        raise UserError(
            f"{name!r} has no class {label!r}; it has "
            + ", ".join(f"{i} ({text})" for i, text in config.id2label.items())
        )
    return int(index)


def _two_tokens(model: Any, tokenizer: Any, settings: ClassifierSettings) -> Classes:
    """Cuts the vocabulary's head down to the two tokens that are read: (bad, good)."""
    import torch

    rows = [_token(tokenizer, text, settings.name) for text in (settings.bad, settings.good)]
    head = model.get_output_embeddings()
    cut = torch.nn.Linear(head.in_features, 2, head.bias is not None, head.weight.device)
    cut.weight = torch.nn.Parameter(head.weight[rows].detach().clone(), requires_grad=False)
    if head.bias is not None:
        cut.bias = torch.nn.Parameter(head.bias[rows].detach().clone(), requires_grad=False)
    model.set_output_embeddings(cut)
    return Classes(good=1, bad=0)


def _token(tokenizer: Any, text: str | int | None, name: str) -> int:
    if not isinstance(text, str):
        raise UserError(f"{name!r} answers with tokens: give `good` and `bad` as text (+ and -)")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    # SentencePiece puts a token of its own before a word: the text's last token is what is drawn.
    if not ids or tokenizer.decode(ids[-1:]).strip() != text.strip():
        raise UserError(f"{text!r} is no single token of {name!r}; it is {len(ids)} tokens")
    return int(ids[-1])


def _load(settings: ClassifierSettings, tokenizer: Any, policy: Policy | None) -> RewardModel:
    judge, its_tokenizer, classes = load_judge(settings)
    return ClassifierRewardModel(
        in_slots(judge, settings, policy), its_tokenizer, classes, settings
    )


CLASSIFIER = RewardModelKind(
    ClassifierSettings,
    _load,
    decoder=lambda settings: (
        settings.checkpoint(settings.name, settings.revision),
        settings.head == "tokens",
    ),
    aggregates=lambda settings: settings.aggregation != "last",
)

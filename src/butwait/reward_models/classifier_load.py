"""Loading any public process reward model (``kind: classifier``)."""

from typing import Any

import torch

from butwait.engines.models import load_causal_lm, load_tokenizer
from butwait.engines.settings import ModelSettings
from butwait.records import UserError
from butwait.reward_models.classifier import Classes
from butwait.reward_models.score_head import load_classifier
from butwait.reward_models.settings import ClassifierSettings


def load_judge(settings: ClassifierSettings) -> tuple[Any, Any, Classes]:
    """The model in evaluation mode, its tokenizer, and which of its outputs count.

    Raises UserError for a checkpoint that cannot be read or has no such head, and for a class or
    token that it does not know.
    """
    checkpoint = ModelSettings(
        name=settings.name,
        revision=settings.revision,
        dtype=settings.dtype,
        device=settings.device,
    )
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

"""From examples to the trainer's rows: token ids and labels, and nothing cut nor mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from butwait.engines.models import tokenizer_fingerprint
from butwait.problems.prompts import encode, turn_end
from butwait.problems.settings import PromptSettings
from butwait.problems.tokens import bare, following, text_ids
from butwait.records import Example, Span, UserError

NO_LOSS = -100
"""The label of a token without loss (torch's ``ignore_index``)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the trainer takes.

    Attributes:
        input_ids: prompt then completion of each row.
        labels: the same ids where the example's mask says loss, ``NO_LOSS`` elsewhere and on the
            prompt; the trainer shifts them.
        encoded_again: rows whose example came from another tokenizer.
        dropped_too_long: examples left out for their length.
    """

    input_ids: list[list[int]]
    labels: list[list[int]]
    encoded_again: int
    dropped_too_long: int


def make_rows(
    examples: Sequence[Example],
    tokenizer: Any,
    prompt: PromptSettings,
    limit: int | None,
    too_long: Literal["error", "drop"],
) -> Rows:
    """The rows of the examples, in order.

    The ids of an example made with this tokenizer are taken as they are; of any other, prompt
    and spans are encoded again.

    Args:
        examples: the examples.
        tokenizer: of the model to be trained.
        prompt: how prompts are laid out where they have to be encoded again.
        limit: the most tokens of a row; None: no limit.
        too_long: what happens to a longer example.

    Raises:
        UserError: no examples; one is too long (``error``); none is short enough; none carries
            loss; one cannot be encoded with this tokenizer.
    """
    if not examples:
        raise UserError("there are no examples to train on; run the stage that makes them first")
    fingerprint = tokenizer_fingerprint(tokenizer)
    foreign = [example.tokenizer_fingerprint != fingerprint for example in examples]
    pairs = [
        _encode_again(example, tokenizer, prompt) if other else _as_it_is(example)
        for example, other in zip(examples, foreign, strict=True)
    ]
    fits = [limit is None or len(ids) <= limit for ids, _ in pairs]
    dropped = len(pairs) - sum(fits)
    if dropped and (too_long == "error" or dropped == len(pairs)):
        longest = max(len(ids) for ids, _ in pairs)
        raise UserError(
            f"{dropped} of {len(pairs)} examples are longer than {limit} tokens (the longest has "
            f"{longest}); raise max_length, or leave them out with too_long: drop (the model's "
            "own positions are a limit too)"
        )
    kept = [pair for pair, fit in zip(pairs, fits, strict=True) if fit]
    if not any(label != NO_LOSS for _, labels in kept for label in labels):
        raise UserError("no token of the examples carries loss: their masks are all False")
    again = sum(other and fit for other, fit in zip(foreign, fits, strict=True))
    return Rows([ids for ids, _ in kept], [labels for _, labels in kept], again, dropped)


def _as_it_is(example: Example) -> tuple[list[int], list[int]]:
    return _row(example.prompt_ids, example.completion_ids, example.loss_mask)


def _row(
    prompt_ids: np.ndarray, completion_ids: np.ndarray, mask: np.ndarray
) -> tuple[list[int], list[int]]:
    labels = np.where(mask, completion_ids, NO_LOSS)
    ids = [*prompt_ids.tolist(), *completion_ids.tolist()]
    return ids, [NO_LOSS] * len(prompt_ids) + labels.tolist()


def _encode_again(
    example: Example, tokenizer: Any, prompt: PromptSettings
) -> tuple[list[int], list[int]]:
    """Prompt and spans with another tokenizer.

    Spans are encoded one by one, so that a mask that follows spans still ends where they do; the
    end of the turn belongs to the last. Raises UserError for a mask that does not follow them, and
    for text that does not come back from the ids as it was.
    """
    prompt_ids = encode(tokenizer, example.prompt, prompt)
    completion: list[int] = []
    mask: list[bool] = []
    for i, span in enumerate(example.spans):
        ids = _encode_span(span, example, tokenizer, first=i == 0)
        if i == len(example.spans) - 1:
            ids = [*ids, turn_end(tokenizer, prompt)]
        carries_loss = example.loss_mask[span.start : span.end]
        if carries_loss.any() != carries_loss.all():
            raise UserError(
                f"the example of {example.problem_id!r} has loss on a part of its span "
                f"{span.role!r} only, so it cannot be encoded for another tokenizer; train the "
                "model that made it, or mask whole spans"
            )
        completion += ids
        mask += [bool(carries_loss.all())] * len(ids)
    return _row(prompt_ids, np.array(completion), np.array(mask))


def _encode_span(span: Span, example: Example, tokenizer: Any, *, first: bool) -> list[int]:
    encode = partial(text_ids, tokenizer)
    decode = partial(tokenizer.decode, clean_up_tokenization_spaces=False)
    ids = encode(span.text) if first else following(encode, span.text)
    # Tokenizers of small vocabularies drop or replace what they do not know without a word.
    # Decoders may strip the space that a text begins with, so nothing is decoded first.
    start = [] if first else encode("\n")
    back = decode([*start, *ids])[len(decode(start)) :]
    if bare(back) != bare(span.text):
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} cannot write the example of "
            f"{example.problem_id!r}: {span.text!r} would become {back!r}; train another model"
        )
    return ids


def check_packing(model: Any) -> None:
    """Raises UserError if a packed example changes what the model says on the next one.

    Two sequences in one row, laid out as TRL's padding-free collator does it. Nothing of the second
    sequence's logits may depend on the embeddings of the first: masked positions weigh exactly 0,
    so the gradient is exactly 0 too. (Logits themselves are no test: experts are run on as many
    tokens as chose them, and the order of a sum depends on how many.)
    """
    size = model.config.get_text_config().vocab_size
    first, second = [1 % size, 2 % size, 3 % size, 4 % size], [5 % size, 6 % size, 7 % size]
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collator([{"input_ids": first}, {"input_ids": second}])
    batch = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    del batch["labels"]
    embedded: list[torch.Tensor] = []

    def keep(module: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[-1]

    hook = model.get_input_embeddings().register_forward_hook(keep)
    try:
        logits = model(**batch, use_cache=False).logits[0, len(first) :]
    except ValueError as error:  # of a model that knows that it cannot keep them apart
        raise UserError(
            f"{type(model).__name__} cannot be trained on packed examples: {error}; set packing: "
            "false"
        ) from error
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits.float().square().sum(), embedded[:1])
    if gradient[0, : len(first)].any():
        raise UserError(
            f"{type(model).__name__} lets packed examples see each other; set packing: false"
        )

"""Whether a model can keep packed examples apart."""

from typing import Any

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from butwait.records import UserError


def check_packing(model: Any) -> None:
    """Raises UserError if a packed example changes what the model says on the next one.

    Two sequences in one row, laid out as TRL's padding-free collator does it; then the same row
    with other tokens in the first. Masked positions weigh exactly 0, so the second sequence's
    logits must not change by a bit.
    """
    size = model.config.get_text_config().vocab_size
    first, second = [1 % size, 2 % size, 3 % size, 4 % size], [5 % size, 6 % size, 7 % size]
    with torch.no_grad():
        kept = _logits(model, first, second)
        changed = _logits(model, [(token + size // 2) % size for token in first], second)
    if not torch.equal(kept, changed):
        raise UserError(
            f"{type(model).__name__} lets packed examples see each other; set packing: false"
        )


def _logits(model: Any, first: list[int], second: list[int]) -> torch.Tensor:
    """The logits of ``second`` behind ``first`` in one row, shape (len(second), vocabulary)."""
    collator = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    batch = collator([{"input_ids": first}, {"input_ids": second}])
    batch = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in batch.items()}
    del batch["labels"]
    return model(**batch, use_cache=False).logits[0, len(first) :]

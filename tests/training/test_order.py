"""The order in which a training runs its examples."""

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler

from butwait.training.devices import Order

LENGTHS = np.random.default_rng(7).integers(5, 90, size=45).tolist()


def order(batch: int, passes: int, *, epoch: int = 0, blank: bool = False) -> list[int]:
    torch.manual_seed(3)
    found = Order(LENGTHS, batch, passes, lambda: epoch, blank=blank)
    rows = list(found)
    assert len(rows) == len(found)
    return rows


def known(epoch: int) -> list[int]:
    torch.manual_seed(3)
    sampler = SeedableRandomSampler(range(len(LENGTHS)))
    sampler.set_epoch(epoch)
    return list(sampler)


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_step_of_one_pass_has_the_order_of_accelerate(epoch: int) -> None:
    assert order(8, 1, epoch=epoch) == known(epoch)


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_rows_of_a_step_stay_in_it_and_come_by_length(epoch: int) -> None:
    rows, before = order(4, 4, epoch=epoch), known(epoch)
    for first in range(0, len(LENGTHS), 16):
        step = rows[first : first + 16]
        assert sorted(step) == sorted(before[first : first + 16])
        lengths = [LENGTHS[row] for row in step]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("passes", [1, 4])
def test_what_is_lacking_of_the_last_batch_is_the_blank_row(passes: int) -> None:
    rows = order(4, passes, blank=True)
    assert rows[:45] == order(4, passes)
    assert rows[45:] == [45, 45, 45]


def test_little_is_padded() -> None:
    def padded(rows: list[int]) -> int:
        batches = [rows[i : i + 4] for i in range(0, len(rows), 4)]
        return sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in batches)

    tokens = sum(LENGTHS)
    assert padded(order(4, 1)) > 1.4 * tokens
    assert padded(order(4, 8)) < 1.15 * tokens

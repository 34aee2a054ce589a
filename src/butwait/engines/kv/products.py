"""Products whose weights lie in memory as the processor reads them.

A matrix product in bfloat16 on a CPU begins by putting the weights in another order. Here that is
done once for all products of a model's linear layers, by the operators that PyTorch's own compiler
uses for frozen weights. The results are the same to the bit on the processors where it was tried.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import nn

from butwait.engines.kv.packing import SHARE
from butwait.running.devices import free_memory

ROWS = 128
"""Of a product that the order is chosen for. It serves others as well."""


class PackedProducts:
    """The packed weights of a model, whose own are not to change while this is in use.

    Args:
        model: any; where nothing is gained by it, or there is no memory for it, nothing is packed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._forwards: list[tuple[dict[str, Any], Callable[[torch.Tensor], torch.Tensor]]] = []
        layers = [layer for layer in model.modules() if _is_plain(layer)]
        size = sum(layer.weight.nbytes for layer in layers)
        if layers and _packs() and size <= SHARE * free_memory(torch.device("cpu")):
            self._forwards = [(vars(layer), _packed(layer)) for layer in layers]

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While it is open, the model's linear layers take the packed weights."""
        for attributes, forward in self._forwards:
            attributes["forward"] = forward
        try:
            yield
        finally:
            for attributes, _ in self._forwards:
                attributes.pop("forward", None)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear layer with nothing else to it."""
    return (
        type(layer) is nn.Linear
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.bfloat16
        and "forward" not in vars(layer)
    )


def _packs() -> bool:
    """Whether this PyTorch on this processor has the operators."""
    try:
        return torch.backends.mkldnn.is_available() and bool(
            torch.ops.mkldnn._is_mkldnn_bf16_supported()
            and torch.ops.mkldnn._linear_pointwise
            and torch.ops.mkldnn._reorder_linear_weight
        )
    except AttributeError:
        return False


@torch.inference_mode()
def _packed(layer: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    product = torch.ops.mkldnn._linear_pointwise
    weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight, ROWS)
    bias = layer.bias

    def forward(inputs: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = product(inputs, weight, bias, "none", [], "")
        return out

    return forward

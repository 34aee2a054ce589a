"""The optimizer of a training, and what rounding leaves of its updates."""

from dataclasses import dataclass
from typing import Any

import torch

from butwait.records import UserError
from butwait.running.packages import require
from butwait.running.progress import tell
from butwait.training.devices import parts_are_held
from butwait.training.settings import OptimizerSettings

_SAMPLED = 4096
"""Weights of a tensor that are looked at, evenly spaced: a share of them has an error of 1 %."""


def choose_optimizer(trainer: Any, settings: OptimizerSettings) -> None:
    """Gives a trainer of transformers the optimizer that the settings name; ``adamw`` is its own.

    Raises UserError where torchao is not installed.
    """
    if settings.optimizer == "adamw":
        return
    require("torchao", f"optimizer: {settings.optimizer}", "'butwait[torchao]'")
    if parts_are_held():
        raise UserError(
            f"optimizer: {settings.optimizer} is for whole weights, and the devices hold parts of "
            "them; take optimizer: adamw, or launch.config: ddp"
        )
    args = trainer.args
    trainer.optimizer_cls_and_kwargs = (
        _low_bit(settings.optimizer),
        {
            "lr": args.learning_rate,
            "betas": (args.adam_beta1, args.adam_beta2),
            "eps": args.adam_epsilon,
            "seed": args.seed,
        },
    )


def _low_bit(name: str) -> type[torch.optim.Optimizer]:
    from torchao import optim

    base: Any = optim.AdamW8bit if name == "adamw_8bit" else optim.AdamW4bit

    class LowBit(base):
        """AdamW with moments of few bits; bfloat16 weights are rounded up or down at random, so
        that the mean of many updates is right.

        The draws are a function of seed and step: devices that hold the same weights round them
        alike, a resumed training rounds as the other would have, and no other draw is moved.
        """

        def __init__(self, params: Any, *, seed: int, **others: Any) -> None:
            super().__init__(params, bf16_stochastic_round=True, **others)
            self._seed = seed

        def step(self, closure: Any = None) -> Any:
            weights = [p for group in self.param_groups for p in group["params"]]
            devices = {p.device.index for p in weights if p.device.type == "cuda"}
            taken = next((int(state["step"]) for state in self.state.values()), 0)
            with torch.random.fork_rng(sorted(devices)):
                torch.manual_seed(self._seed * 1_000_003 + taken)
                if devices:
                    return self._compiled(closure)
                # Compiled, a GPU needs no copies in float32. A CPU does without a compiler.
                with torch.compiler.set_stance("force_eager"):
                    return super().step(closure)

        def _compiled(self, closure: Any) -> Any:
            try:
                return super().step(closure)
            except torch._dynamo.exc.TorchDynamoException as error:
                told = str(error).strip().partition("\n")[0]
                raise UserError(
                    f"optimizer: {name} could not be compiled for this GPU ({told}); install a C "
                    "compiler, or take optimizer: adamw"
                ) from error

    return LowBit


@dataclass(frozen=True)
class Beginning:
    """Some of the weights that a training begins with.

    Attributes:
        sampled: of each tensor that is trained, by its name: evenly spaced weights, in main memory.
        sizes: how many weights each has.
    """

    sampled: dict[str, torch.Tensor]
    sizes: dict[str, int]

    @classmethod
    def of(cls, policy: Any) -> "Beginning":
        """The beginning of a model that is about to be trained."""
        named = policy.named_parameters()
        # What devices will hold parts of is not here yet, but on the first of them.
        trained = {name: p for name, p in named if p.requires_grad and not p.is_meta}
        return cls(
            {name: _spaced(p) for name, p in trained.items()},
            {name: p.numel() for name, p in trained.items()},
        )

    def moved(self, policy: Any) -> float | None:
        """The share of the weights that are others now; None where devices hold parts of them."""
        now = dict(policy.named_parameters())
        if any(not _is_whole(now.get(name), size) for name, size in self.sizes.items()):
            return None
        return self._mean(
            {name: (_spaced(now[name]) != old).double() for name, old in self.sampled.items()}
        )

    def lost(self, rate: float) -> float:
        """The share of the weights that a step of ``rate`` up or down leaves as they are, since
        their dtype has no number so close to them."""
        shares = {}
        for name, old in self.sampled.items():
            up, down = ((old.double() + step).to(old.dtype) for step in (rate, -rate))
            shares[name] = ((up == old).double() + (down == old).double()) / 2
        return self._mean(shares) or 0.0

    def warn(self, settings: OptimizerSettings) -> None:
        """Says so where rounding takes most updates of the weights."""
        lost = self.lost(settings.learning_rate)
        if settings.optimizer == "adamw" and lost > 0.5:
            tell(
                f"bfloat16 weights: at learning_rate {settings.learning_rate:g} about {lost:.0%} "
                "of them cannot move, as AdamW's updates round to nothing; take precision: mixed "
                "(float32 weights), or optimizer: adamw_8bit (rounds at random)"
            )

    def _mean(self, shares: dict[str, torch.Tensor]) -> float | None:
        total = sum(self.sizes.values())
        if not total:
            return None
        return sum(float(shares[name].mean()) * size for name, size in self.sizes.items()) / total


def _is_whole(weights: Any, size: int) -> bool:
    return weights is not None and weights.numel() == size and not hasattr(weights, "to_local")


def _spaced(weights: torch.Tensor) -> torch.Tensor:
    flat = weights.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLED)][:_SAMPLED].cpu().clone()

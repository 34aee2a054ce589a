"""The losses of the papers as keywords of ``trl.GRPOConfig``."""

from typing import Any

from butwait.training.grpo.settings import LossSettings


def loss_arguments(loss: LossSettings) -> dict[str, Any]:
    """Keywords of ``trl.GRPOConfig``: the preset's values, and what replaces them."""
    chosen = dict(_PRESETS[loss.preset])
    replaced = {
        "epsilon": loss.epsilon_low,
        "epsilon_high": loss.epsilon_high,
        "beta": loss.beta,
        "scale_rewards": loss.scale_rewards,
        "mask_truncated_completions": loss.mask_truncated,
    }
    return chosen | {name: value for name, value in replaced.items() if value is not None}


# Values of the papers; where one says nothing, those of TRL.
_PRESETS: dict[str, dict[str, Any]] = {
    # Section 4.1.3: beta 0.04; eps as in PPO. The loss is a mean over the tokens of each
    # completion.
    "grpo": {
        "loss_type": "grpo",
        "scale_rewards": "group",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.04,
        "mask_truncated_completions": False,
    },
    # Section 3.2: neither 1/length nor 1/std; section 3.3 and table 1: beta 0.
    "dr_grpo": {
        "loss_type": "dr_grpo",
        "scale_rewards": "none",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
        "mask_truncated_completions": False,
    },
    # Sections 3.1 (clip higher: 0.2, 0.28), 3.3 (token mean), 3.4 (overlong filtering), 2.3 (no
    # KL). Its dynamic sampling is not in TRL; ``subset.solve_rate`` does a part of it beforehand.
    "dapo": {
        "loss_type": "dapo",
        "scale_rewards": "group",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "mask_truncated_completions": True,
    },
}

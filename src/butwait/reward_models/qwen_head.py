"""The architecture of Qwen2.5-Math-PRM, whose own code is not in transformers.

``Qwen2ForProcessRewardModel`` is a Qwen2 decoder with a two-layer head that gives two logits per
token (bad, good); see ``modeling_qwen2_rm.py`` in the model's repository. The decoder is
transformers' own, so the checkpoint loads without running code from the hub.
"""

from typing import Any

from torch import nn
from transformers import Qwen2Config, Qwen2Model, Qwen2PreTrainedModel
from transformers.modeling_outputs import TokenClassifierOutput

from butwait.engines.models import device_of
from butwait.engines.settings import ModelSettings
from butwait.records import UserError
from butwait.reward_models.score_head import load_weights, read_config

ARCHITECTURE = "Qwen2ForProcessRewardModel"


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Names of parameters are those of the published checkpoints."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size),
            nn.ReLU(),
            nn.Linear(config.hidden_size, 2),
        )
        self.post_init()

    def forward(self, *args: Any, **kwargs: Any) -> TokenClassifierOutput:
        """Takes what ``Qwen2Model`` takes; logits are (b, t, 2)."""
        hidden = self.model(*args, **kwargs).last_hidden_state
        return TokenClassifierOutput(logits=self.score(hidden))


def load_qwen_prm(model: ModelSettings) -> Qwen2ForProcessRewardModel:
    """The model in evaluation mode, on its device. Raises UserError for another architecture and
    for a checkpoint that cannot be read or lacks weights."""
    config = read_config(model, Qwen2Config)
    if ARCHITECTURE not in (config.architectures or []):
        raise UserError(
            f"{model.name!r} is no Qwen2.5-Math-PRM: its architecture is "
            f"{config.architectures}, not {ARCHITECTURE}"
        )
    loaded, missing = load_weights(model, config, Qwen2ForProcessRewardModel)
    if missing:
        raise UserError(f"the checkpoint of {model.name!r} is not whole: it lacks {missing[0]}")
    return loaded.to(device_of(model)).eval()

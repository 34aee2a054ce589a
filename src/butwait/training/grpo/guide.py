"""The reward model that guides the loop's searches: as it came, or trained again on the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from butwait.engines.settings import ModelSettings
from butwait.problems.settings import PromptSettings
from butwait.records import COMPLETE, Key, SearchTree, UserError
from butwait.reward_models.kinds.trained import TrainedSettings
from butwait.reward_models.load import Policy, load_reward_model
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.settings import RewardModelSettings
from butwait.search.settings import SAMPLERS
from butwait.training.grpo.settings import GrpoDirectSettings
from butwait.training.grpo.solved import SearchFolder
from butwait.training.prm import train_prm
from butwait.training.prm_data import Rollout


class Guide:
    """Gives the reward model of a step.

    Args:
        settings: of the stage.
        reward_model: where it begins; None: the sampler asks for none.
        policy: whose paths are scored, and how it is prompted.
        tokenizer: the policy's.
        trees: of the loop's searches.
        output: the stage's folder; ``prm/<step>/`` holds what is trained on the way.
        key: of the trainings.
    """

    def __init__(
        self,
        settings: GrpoDirectSettings,
        reward_model: RewardModelSettings | None,
        policy: Policy,
        tokenizer: Any,
        trees: SearchFolder,
        output: Path,
        key: Key,
    ) -> None:
        self._loop = settings.prm
        if reward_model is None and SAMPLERS.of(settings.sampler).needs_reward_model:
            raise UserError(
                f"the sampler {settings.sampler.kind} needs a reward model: name a prm stage in "
                "`from`, or set reward_model (kind: confidence needs no training)"
            )
        if self._loop is not None and not isinstance(reward_model, TrainedSettings):
            raise UserError("prm: only the reward model of a prm stage can be trained again")
        self._settings = reward_model
        self._policy = policy
        self._tokenizer = tokenizer
        self._trees = trees
        self._folder = output / "prm"
        self._key = key
        self._loaded: tuple[RewardModelSettings, RewardModel] | None = None
        self.auc: float | None = None
        """Within-question AUC of the latest training; None before the first."""

    def at(self, step: int) -> RewardModel | None:
        """The reward model after so many optimizer steps. It may be trained here first; what was
        trained for a step before a kill is not trained again."""
        if self._settings is None:
            return None
        settings = self._settings
        if self._loop is not None and isinstance(settings, TrainedSettings):
            settings = self._trained(step, settings)
        if self._loaded is None or self._loaded[0] != settings:
            model = load_reward_model(settings, self._tokenizer, self._policy)
            self._loaded = (settings, model)
        return self._loaded[1]

    def _trained(self, step: int, first: TrainedSettings) -> TrainedSettings:
        """The settings of the reward model of this step: trained at the last multiple of ``every``
        that had trees enough."""
        assert self._loop is not None
        current = first
        for at in range(self._loop.every, step + 1, self._loop.every):
            folder = self._folder / f"{at:08d}"
            if not (folder / "model").exists() and at + self._loop.every > step:
                self._train(folder, at, current)
            if (folder / "model").exists():
                current = first.model_copy(update={"model": str(folder / "model")})
        return current

    def _train(self, folder: Path, step: int, current: TrainedSettings) -> None:
        assert self._loop is not None
        trees = self._trees.latest(step - 1, self._loop.window, step - self._loop.window)
        if len({tree.problem_id for tree in trees}) < 2:
            return
        rollouts = [rollout for tree in trees for rollout in tree_rollouts(tree)]
        start = ModelSettings(name=current.model, device=current.device)
        prompt: PromptSettings = self._policy.prompt
        key = self._key.derive(step)
        result = train_prm(start, rollouts, self._loop, prompt, folder, key, continued=True)
        self.auc = result.metrics["within_question_auc"]


def tree_rollouts(tree: SearchTree) -> list[Rollout]:
    """The graded paths of a search as labelled rollouts: a prefix is labelled by the share of the
    paths through it that were verified.

    Unlike completions that are sampled for the purpose, these paths are those that resampling by
    the old reward model let live, so the labels of promising prefixes rest on more of them. A path
    that was cut counts as not verified.
    """
    ends = [
        i
        for i, node in enumerate(tree.nodes)
        if node.finish == "length" or (node.finish in COMPLETE and i in tree.grades)
    ]
    status = {i: tree.grades[i].status if i in tree.grades else "truncated" for i in ends}
    graded = [i for i in ends if status[i] != "ungradable"]
    verified = np.zeros(len(tree.nodes), np.int32)
    completions = np.zeros(len(tree.nodes), np.int32)
    for end in graded:
        for node in tree.path(end):
            verified[node] += status[end] == "correct"
            completions[node] += 1
    seen: set[int] = set()
    rollouts = []
    for end in graded:
        path = list(tree.path(end))
        rollouts.append(
            Rollout(
                problem_id=tree.problem_id,
                prompt_ids=tree.prompt_ids,
                token_ids=tree.path_tokens(end),
                step_ends=_step_ends(tree, path),
                shared_steps=sum(node in seen for node in path),
                finish=tree.nodes[end].finish,
                status=status[end],
                verified=verified[path],
                completions=completions[path],
            )
        )
        seen.update(path)
    return rollouts


def _step_ends(tree: SearchTree, path: Sequence[int]) -> np.ndarray:
    return np.cumsum([len(tree.nodes[node].token_ids) for node in path]).astype(np.int32)

"""One generation of ``grpo_direct``: groups, searches and the reward model that guides them, and
what is learned from both. Verified solutions of searches are learned by a likelihood term:

    L = L_GRPO + mu(t) * NLL,    NLL = 1/Q sum_q 1/n_q sum_s sum_t -log pi(s_t | s_<t) / L_max

over the Q questions of a generation that were searched, the n_q unique solutions that were verified
of each, and the tokens of each that the policy drew; a searched question without a solution adds
nothing. L_max is the longest length of a completion, as in Dr. GRPO's loss, so that both terms are
sums of tokens over the same constant and neither favours a length.

For one question its gradient is that of -log P(correct) under the policy where solutions are drawn
from the policy's posterior given a correct answer, which a telescoping filter with alpha = 1
approaches (``docs/grpo_direct.md``).
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from butwait.engines.engine import Engine
from butwait.engines.settings import ModelSettings
from butwait.records import COMPLETE, Key, Problem, SearchTree, UserError
from butwait.reward_models.kinds.trained import TrainedSettings, read_prompt
from butwait.reward_models.load import Policy, load_reward_model
from butwait.reward_models.reward_model import RewardModel
from butwait.reward_models.settings import RewardModelSettings
from butwait.running.files import remove
from butwait.running.log import say
from butwait.search.settings import SAMPLERS
from butwait.training.grpo.completions import Completion, completion_of, particles_as_group
from butwait.training.grpo.generation import (
    Generation,
    GroupSampler,
    LikelihoodRow,
    Tally,
    solve_counts,
)
from butwait.training.grpo.searches import Found, LoopSearch, SearchFolder, is_solved
from butwait.training.grpo.settings import GrpoDirectSettings, LoopPrmSettings
from butwait.training.nested import inside_another
from butwait.training.prm import train_prm
from butwait.training.rollouts import Rollout, put

Groups = list[list[Completion]]


def row_weights(rows: Sequence[LikelihoodRow], searched: int) -> np.ndarray:
    """float64 (rows,): 1 / (Q n_q), the weight of each row's summed -log pi in the NLL, without
    L_max.

    Args:
        rows: of whole questions: all rows of a question are here.
        searched: Q, the questions searched, those without a row included.
    """
    names = [row.problem_id for row in rows]
    return np.array([1 / (searched * names.count(name)) for name in names])


def mu_at(progress: float, start: float, until: float) -> float:
    """The weight of the term: ``start`` at ``progress`` 0, falling linearly to 0 at ``until``."""
    return start * max(1 - progress / until, 0.0)


@dataclass(eq=False)
class DirectSampler(GroupSampler):
    """Draws the groups of the ``grpo_direct`` stage and searches beside them.

    Attributes:
        search: searches questions.
        guide: gives the reward model of a step.
        policy: gives the fingerprint of the weights as they are.
    """

    settings: GrpoDirectSettings
    search: LoopSearch
    guide: "Guide"
    policy: Callable[[], str]

    async def draw(self, problems: Sequence[Problem], step: int, engine: Engine) -> Generation:
        """The groups of these questions, and the solutions that searches found."""
        key = self.key.derive("direct", step)
        if not self.settings.draws_groups:
            return await self._searched_groups(problems, step, engine, key)
        groups, tally = await self.fresh(problems, step, engine)
        mu = self._mu(step)
        wanted = [p for p, g in zip(problems, groups, strict=True) if self._is_wanted(g, mu)]
        found = await self._searched(wanted, step, engine, tally)
        trained = self._rescued(groups, found, key) if self.settings.mode == "replace" else groups
        made = self.judged(trained, tally, fresh=groups)
        return self._with_solutions(made, problems, found, mu, key)

    async def _searched_groups(
        self, problems: Sequence[Problem], step: int, engine: Engine, key: Key
    ) -> Generation:
        """Groups of particles: every question is searched, and none is sampled besides."""
        tally = Tally()
        found = await self._searched(problems, step, engine, tally)
        size, eos = self.settings.group, self.prompting.eos_token_id
        groups = []
        for p in problems:
            tree, own = found.used[p.id], key.derive("group", p.id)
            groups.append(await particles_as_group(tree, p, size, self.grader, own, eos))
        made = self.judged(groups, tally, fresh=())
        return self._with_solutions(made, problems, found, self._mu(step), key)

    def _mu(self, step: int) -> float:
        if self.settings.mode == "expert_iteration":
            return 1.0
        return mu_at(self.progress(step), self.settings.mu, self.settings.mu_until)

    def _is_wanted(self, group: Sequence[Completion], mu: float) -> bool:
        """Whether the question of this fresh group is searched."""
        problem_id, correct, graded = solve_counts(group)
        unwanted = {"replace": correct > 0, "mixed": mu == 0}
        if unwanted[self.settings.mode]:
            return False
        rate = self._rates.rate(problem_id, (correct, graded))
        return graded > 0 and rate is not None and rate <= self.settings.search_below

    async def _searched(
        self, problems: Sequence[Problem], step: int, engine: Engine, tally: Tally
    ) -> Found:
        """Searches, and adds what it took to the tally."""
        guide = self.guide.at(step, wanted=bool(problems))
        found = await self.search.run(problems, step, engine, guide, self.policy())
        tally.policy_tokens += found.counts.policy_tokens
        tally.search_tokens += found.counts.policy_tokens
        tally.prefilled_tokens += found.counts.prefilled_tokens
        tally.reward_tokens += found.counts.reward_tokens
        tally.searched += len(found.trees)
        tally.solved += sum(map(is_solved, found.trees.values()))
        tally.reused += len(found.again)
        tally.poor += found.poor
        tally.too_long += found.too_long
        tally.mixed_policies += found.mixed_policies
        return found

    def _rescued(self, groups: Groups, found: Found, key: Key) -> Groups:
        """A verified solution in the place of a random sample of each all-wrong group that has
        one."""
        rescued = []
        for group in groups:
            problem, mine = group[0].problem, list(group)
            own = key.derive("rescue", problem.id)
            if (tree := found.used.get(problem.id)) is not None:
                for solution in self.search.solutions(tree, own)[:1]:
                    place = int(own.generator().integers(len(group)))
                    eos = self.prompting.eos_token_id
                    mine[place] = completion_of(tree, solution.leaf, problem, solution.grade, eos)
            rescued.append(mine)
        return rescued

    def _with_solutions(
        self, made: Generation, problems: Sequence[Problem], found: Found, mu: float, key: Key
    ) -> Generation:
        """The generation with its likelihood term. All devices must come here together."""
        rows: list[LikelihoodRow] = []
        if self.settings.learns_solutions:
            by_id = {problem.id: problem for problem in problems}
            for problem_id, tree in found.used.items():
                rows += self.search.rows(tree, by_id[problem_id], key.derive("rows", problem_id))
        used = self.devices.gathered(len(found.used))
        searched = sum(used)
        return replace(
            made,
            rows=rows,
            row_weights=row_weights(rows, searched) if rows else np.zeros(0),
            mu=mu,
            learns=self.settings.learns_solutions and mu > 0 and searched > 0,
            figures=made.figures | self._figures(found, rows, mu, len(used)),
        )

    def _figures(
        self, found: Found, rows: Sequence[LikelihoodRow], mu: float, devices: int
    ) -> dict[str, float]:
        # The log has the mean over devices: counts are made to be the sum.
        seen = {
            "search/questions": float(devices * len(found.trees)),
            "search/reused": float(devices * len(found.again)),
            "search/solutions": float(devices * len(rows)),
            "tokens/search": float(self.tally.search_tokens),
        }
        if self.settings.learns_solutions:
            seen["search/mu"] = mu
        if self.guide.auc is not None:
            seen["prm/auc"] = self.guide.auc
        if found.trees:
            solved = [is_solved(tree) for tree in found.trees.values()]
            seen |= {
                "search/solved": float(np.mean(solved)),
                "search/ess": float(np.mean(found.ess)),
                "search/ancestors": float(np.mean(found.ancestors)),
                "search/poor": found.poor / len(found.trees),
            }
        return seen


@dataclass(eq=False)
class Guide:
    """Gives the reward model of a step.

    Attributes:
        settings: of the stage.
        reward_model: where it begins; None: the sampler asks for none.
        policy: whose paths are scored, and how it is prompted.
        tokenizer: the policy's.
        trees: of the loop's searches.
        folder: ``<step>/`` in it holds what is trained on the way.
        key: of the trainings.
        problems: of the loop.
        auc: within-question AUC of the latest model that was trained on the way; None before the
            first, and where its audit has none.
    """

    settings: GrpoDirectSettings
    reward_model: RewardModelSettings | None
    policy: Policy
    tokenizer: Any
    trees: SearchFolder
    folder: Path
    key: Key
    problems: Sequence[Problem] = ()
    auc: float | None = None

    def __post_init__(self) -> None:
        self._loaded: tuple[RewardModelSettings, RewardModel] | None = None
        self._closing: list[asyncio.Task[None]] = []
        self._failed: set[int] = set()  # steps whose training could not be done
        sampler = self.settings.sampler
        if self.reward_model is None and SAMPLERS.of(sampler).needs_reward_model:
            raise UserError(
                f"the sampler {sampler.kind} needs a reward model: name a prm stage in `from`, or "
                "set reward_model (kind: confidence needs no training)"
            )
        if self.settings.prm is not None and not isinstance(self.reward_model, TrainedSettings):
            raise UserError("prm: only the reward model of a prm stage can be trained again")

    async def close(self) -> None:
        """Closes the reward model that is loaded, if one is."""
        await asyncio.gather(*self._closing)
        if self._loaded is not None:
            _, model = self._loaded
            self._loaded = None
            await model.close()

    def at(self, step: int, wanted: bool = True) -> RewardModel | None:
        """The reward model after so many optimiser steps. It may be trained here first; what was
        trained for a step before a kill is not trained again. The one before it is closed.

        Where it is not ``wanted``, it is neither trained nor loaded, and None is given."""
        settings, loop = self.reward_model, self.settings.prm
        if settings is None:
            return None
        if loop is not None and isinstance(settings, TrainedSettings):
            settings = self._trained(step, settings, loop, wanted)
        if not wanted:
            return None
        if self._loaded is None or self._loaded[0] != settings:
            self._close_soon()
            model = load_reward_model(settings, self.tokenizer, self.policy)
            self._loaded = (settings, model)
        return self._loaded[1]

    def _close_soon(self) -> None:
        if self._loaded is not None:
            with suppress(RuntimeError):  # without an event loop nothing of it ran
                loop, (_, model) = asyncio.get_running_loop(), self._loaded
                self._closing.append(loop.create_task(model.close()))

    def _trained(
        self, step: int, first: TrainedSettings, loop: LoopPrmSettings, wanted: bool
    ) -> TrainedSettings:
        """The settings of the reward model of this step: trained at the last multiple of ``every``
        that had trees enough, where one could be trained on them."""
        current = first
        for at in range(loop.every, step + 1, loop.every):
            folder = self.folder / f"{at:08d}"
            due = at + loop.every > step and at not in self._failed
            if wanted and due and not (folder / "model").exists():
                self._train(folder, at, current, loop)
            if (folder / "model").exists():
                remove(folder / "work")
                current = first.model_copy(update={"model": str(folder / "model")})
        if current is not first:
            # From the disk, as a resume finds it.
            audit = json.loads((Path(current.model).parent / "audit.json").read_text("utf-8"))
            self.auc = audit["within_question_auc"]
        return current

    def _train(
        self, folder: Path, step: int, current: TrainedSettings, loop: LoopPrmSettings
    ) -> None:
        trees = self.trees.latest(step - 1, loop.window, step - loop.window)
        rollouts = [rollout for tree in trees for rollout in tree_rollouts(tree)]
        if len({rollout.problem_id for rollout in rollouts}) < 2:
            return
        start = ModelSettings(name=current.model, device=current.device)
        key = self.key.derive(step)
        try:
            prompt = loop.prompt or read_prompt(Path(current.model))
            if prompt != self.policy.prompt:
                rollouts = put(rollouts, self.problems, prompt, self.tokenizer)
            with inside_another():
                train_prm(start, rollouts, loop, prompt, folder, key, continued=True)
        except UserError as error:
            # The policy's training is worth more than a newer judge.
            self._failed.add(step)
            remove(folder)  # a model that is not the one that was trained may be in it
            say(
                f"  prm: at step {step} the reward model could not be trained again, and the one "
                f"before it stays: {error}",
                logging.WARNING,
            )


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
    lengths = np.array([len(node.token_ids) for node in tree.nodes])
    seen: set[int] = set()
    rollouts = []
    for end in graded:
        path = list(tree.path(end))
        rollouts.append(
            Rollout(
                problem_id=tree.problem_id,
                prompt_ids=tree.prompt_ids,
                token_ids=tree.path_tokens(end),
                step_ends=np.cumsum(lengths[path], dtype=np.int32),
                shared_steps=sum(node in seen for node in path),
                finish=tree.nodes[end].finish,
                status=status[end],
                verified=verified[path],
                completions=completions[path],
            )
        )
        seen.update(path)
    return rollouts

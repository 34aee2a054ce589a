"""A toy policy and reward whose every path, weight and evidence can be listed."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from butwait.engines.scripted import EOS, ScriptedEngine
from butwait.engines.settings import StepRule
from butwait.records import Key, Problem, SearchTree
from butwait.reward_models.reward_model import Step
from butwait.reward_models.scripted import ScriptedRewardModel
from butwait.search.run import run_sampler
from butwait.search.settings import SamplerSettings
from scripted_paths import scripted_paths

PROBLEM = Problem("toy", "?", None)

BOX = {n: f"\\boxed{{{n}}}" for n in (1, 2, 3)}

# Twelve outcomes of one to four steps: boxes, EOS, a step of several tokens, a step cut at its
# limit ("ccc" never is) and a path cut at four tokens ("a d e f").
TABLE = {
    "": {"a\n": 0.5, "b\n": 0.3, "c": 0.2},
    "a\n": {BOX[1]: 0.6, "d\n": 0.4},
    "a\nd\n": {BOX[2]: 0.5, EOS: 0.2, "e\n": 0.3},
    "a\nd\ne\n": {BOX[3]: 0.5, "f\n": 0.5},
    "b\n": {BOX[2]: 0.1, "g\n": 0.9},
    "b\ng\n": {BOX[1]: 0.7, BOX[3]: 0.3},
    "c": {"c": 0.5, "\n": 0.5},
    "c\n": {BOX[1]: 0.5, BOX[3]: 0.5},
    "cc": {EOS: 0.25, "\n": 0.75},
    "cc\n": {BOX[2]: 1.0},
}
RULE = StepRule(delimiters=("\n",), max_tokens=4)

LOGITS = {
    "a\n": -0.5,
    "a\n" + BOX[1]: -1.0,
    "a\nd\n": 0.5,
    "a\nd\n" + BOX[2]: 2.0,
    "a\nd\ne\n": 1.0,
    "a\nd\ne\n" + BOX[3]: -2.0,
    "a\nd\ne\nf\n": 0.25,
    "b\n": 1.0,
    "b\n" + BOX[2]: 0.0,
    "b\ng\n": -0.75,
    "b\ng\n" + BOX[1]: 0.75,
    "b\ng\n" + BOX[3]: -1.5,
    "c\n": -0.25,
    "c\n" + BOX[1]: 1.5,
    "c\n" + BOX[3]: -0.5,
    "cc": -1.0,
    "cc\n": 0.0,
    "cc\n" + BOX[2]: 1.25,
}
"""Reward by text. "a d" ends at EOS with the logit of "a d"."""


def text_of(steps: Sequence[Step]) -> str:
    """The text of a path."""
    return "".join(step.text for step in steps)


def toy_reward(problem: Problem, steps: Sequence[Step]) -> float:
    """``LOGITS`` by the path's text."""
    return LOGITS[text_of(steps)]


@dataclass
class StreamKey:
    """Takes the place of a ``Key`` where only the law of the draws matters: one fast stream."""

    rng: np.random.Generator

    def derive(self, *parts: object) -> "StreamKey":
        return self

    def at(self, **counters: int) -> "StreamKey":
        return self

    def generator(self) -> np.random.Generator:
        return self.rng

    def uniforms(self, n: int) -> np.ndarray:
        return self.rng.random(n)


def toy_engine() -> ScriptedEngine:
    """The engine of ``TABLE``."""
    return ScriptedEngine(TABLE)


def search(
    settings: SamplerSettings,
    key: Key | None = None,
    *,
    engine: ScriptedEngine | None = None,
    reward: Callable[[Problem, Sequence[Step]], float] = toy_reward,
    problem: Problem = PROBLEM,
) -> SearchTree:
    """One run of a sampler on a scripted problem."""
    return asyncio.run(
        run_sampler(
            problem,
            engine or toy_engine(),
            ScriptedRewardModel(reward),
            settings,
            key or Key.of(0, "test", problem.id),
        )
    )


def posterior(
    alpha: float,
    max_steps: int | None = None,
    *,
    engine: ScriptedEngine | None = None,
    rule: StepRule = RULE,
    reward: Callable[[Problem, Sequence[Step]], float] = toy_reward,
) -> tuple[dict[str, float], float]:
    """Exact target by listing all paths: {text: probability} and the evidence."""
    weights: dict[str, float] = {}
    for path in scripted_paths(engine or toy_engine(), PROBLEM, rule, max_steps=max_steps):
        steps = [Step(np.zeros(0, np.int32), text) for text in path.steps]
        odds = np.exp(alpha * reward(PROBLEM, steps))
        text = text_of(steps)
        weights[text] = weights.get(text, 0.0) + path.probability * float(odds)
    evidence = sum(weights.values())
    return {text: weight / evidence for text, weight in weights.items()}, evidence


@dataclass
class Pool:
    """Many runs of one sampler. R runs, X outcomes in the order of ``outcomes``.

    Attributes:
        outcomes: the texts.
        exact: float64 (X,), the target.
        shares: float64 (R, X), each run's self-normalised weights.
        evidence: float64 (R,).
    """

    outcomes: list[str]
    exact: np.ndarray
    shares: np.ndarray
    evidence: np.ndarray

    def histogram(self) -> np.ndarray:
        """(X,): the runs' shares, each run weighted by its evidence estimate."""
        return self.evidence @ self.shares / self.evidence.sum()

    def total_variation(self) -> float:
        return float(0.5 * np.abs(self.histogram() - self.exact).sum())

    def z_scores(self) -> np.ndarray:
        """(X,): deviations of the histogram from the target in standard errors.

        The histogram is a ratio of means; by the delta method its error is that of the mean of
        evidence * (share - exact).
        """
        errors = self.evidence[:, None] * (self.shares - self.exact)
        standard_error = errors.std(axis=0, ddof=1) / np.sqrt(len(errors))
        return errors.mean(axis=0) / np.maximum(standard_error, 1e-12)

    def evidence_z(self, truth: float) -> float:
        """Deviation of the mean evidence from the truth in standard errors."""
        standard_error = self.evidence.std(ddof=1) / np.sqrt(len(self.evidence))
        return float((self.evidence.mean() - truth) / max(standard_error, 1e-12))


def pool(
    settings: SamplerSettings,
    runs: int,
    exact: dict[str, float],
    seed: int = 0,
    *,
    engine: ScriptedEngine | None = None,
    reward: Callable[[Problem, Sequence[Step]], float] = toy_reward,
) -> Pool:
    """Runs a sampler many times."""
    outcomes = sorted(exact)
    index = {text: i for i, text in enumerate(outcomes)}
    shares, evidence = np.zeros((runs, len(outcomes))), np.zeros(runs)
    engine = engine or toy_engine()
    key = StreamKey(np.random.default_rng(seed))

    async def run_all() -> None:
        for run in range(runs):
            model = ScriptedRewardModel(reward)
            tree = await run_sampler(PROBLEM, engine, model, settings, key)
            evidence[run] = np.exp(tree.log_evidence)
            if tree.outcome == "extinct":
                continue
            texts: dict[int, int] = {}
            for leaf, log_weight in zip(tree.leaves.tolist(), tree.log_weights, strict=True):
                if leaf not in texts:
                    texts[leaf] = index.get(tree.path_text(leaf), -1)
                if log_weight > -np.inf:
                    shares[run, texts[leaf]] += np.exp(log_weight)

    asyncio.run(run_all())
    return Pool(outcomes, np.array([exact[text] for text in outcomes]), shares, evidence)


SPLICE_RULE = StepRule(delimiters=("\n",), max_tokens=3)


def splice_policy(question: str, text: str) -> dict[str, float]:
    """Paths that can be joined at many places, where steps would often end otherwise: a box may
    open in one step and close in another, and three tokens are the limit."""
    if not text:
        return {"\\boxed{": 0.4, "u": 0.3, "u\n": 0.3}
    closing = 0.3 if text.endswith("}\n") else 0.6
    return {"}\n": closing, "v\n": 1 - closing}


def splice_engine() -> ScriptedEngine:
    """The engine of ``splice_policy``: eleven outcomes."""
    return ScriptedEngine(splice_policy, ["\\boxed{", "u", "u\n", "}\n", "v\n"])


def splice_reward(problem: Problem, steps: Sequence[Step]) -> float:
    """Depends on the order of what was written, so that a joined path has a reward of its own."""
    text = text_of(steps)
    return 0.6 * text.count("v\n}") - 0.4 * text.count("}\n}") - 0.3 * ("boxed" in text)

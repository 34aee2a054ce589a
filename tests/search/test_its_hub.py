"""The preset ``its_hub`` against its_hub itself, on the same random numbers."""

import asyncio
import random

import numpy as np
import pytest
from pydantic import ValidationError
from search_toys import BOX, PROBLEM, RULE, StreamKey, search

from butwait.engines.engine import Prefix
from butwait.engines.scripted import ScriptedEngine
from butwait.engines.settings import Sampling
from butwait.records import Key, SearchTree
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.selection import select

SHORT, LONG = "\\boxed{short}", "\\boxed{long}"

# Boxes end every path but "e", which goes on until the steps are spent.
TABLE = {
    "": {"a\n": 0.5, "b\n": 0.3, "e\n": 0.2},
    "a\n": {BOX[1]: 0.4, "c\n": 0.6},
    "a\nc\n": {BOX[2]: 0.7, "c\n": 0.3},
    "a\nc\nc\n": {BOX[3]: 1.0},
    "b\n": {BOX[2]: 0.1, "d\n": 0.9},
    "b\nd\n": {BOX[1]: 0.5, BOX[3]: 0.5},
    **{"e\n" * n: {"e\n": 1.0} for n in range(1, 10)},
}


def probability(text: str) -> float:
    """A reward that differs from path to path."""
    return 0.05 + 0.9 * ((sum(map(ord, text)) * 7) % 97) / 97


def logit(text: str) -> float:
    return float(np.log(probability(text) / (1 - probability(text))))


def ours(particles: int, steps: int, key: Key) -> SearchTree:
    return search(
        ParticleFilterSettings(preset="its_hub", particles=particles, max_steps=steps, step=RULE_9),
        key,
        engine=ScriptedEngine(TABLE),
        reward=lambda problem, done: logit("".join(step.text for step in done)),
    )


RULE_9 = RULE.model_copy(update={"max_tokens": 9})


class Uniforms(random.Random):
    """Gives the numbers that the preset draws before step t; ``choices`` is the real one."""

    def __init__(self, key: Key, particles: int) -> None:
        super().__init__(0)
        self._key, self._particles = key.derive("resample"), particles
        self.step, self._left = 1, []

    def random(self) -> float:
        if not self._left:
            self.step += 1
            self._left = self._key.at(step=self.step).uniforms(self._particles).tolist()
        return self._left.pop(0)


class Policy:
    """its_hub's language model: the table, by the keys of the preset."""

    def __init__(self, key: Key) -> None:
        self._engine = ScriptedEngine(TABLE)
        self._key = key.derive("tokens")
        self._step = 0
        self.slots: list[int] = []

    async def agenerate(self, messages, **_: object) -> list[dict[str, str]]:
        self._step += 1
        start = self._engine.start(PROBLEM)
        prefixes = []
        for chat in messages:
            said = chat[-1].content if chat[-1].role == "assistant" else ""
            ids = [self._engine.tokenizer.id(piece) for piece in said.splitlines(keepends=True)]
            whole = np.concatenate([start.token_ids, np.array(ids, np.int32)])
            prefixes.append(Prefix(whole, start.prompt_length, said))
        keys = [self._key.at(step=self._step, particle=slot) for slot in self.slots]
        made = await self._engine.extend(prefixes, RULE_9, Sampling(), keys)
        return [{"role": "assistant", "content": continuation.text} for continuation in made]


class Rewards:
    """its_hub's process reward model."""

    async def ascore(self, prompt: str, texts: list[str]) -> list[float]:
        return [probability(text) for text in texts]


def theirs(particles: int, steps: int, key: Key, monkeypatch: pytest.MonkeyPatch):
    """Populations (texts, log-weights) of the real its_hub, and its result."""
    its_hub = pytest.importorskip(
        "its_hub.core.algorithms.particle_gibbs",
        reason="its_hub is not installed: pip install --group peers",
    )
    from its_hub.core.lms.step_generation import StepGeneration

    policy, populations = Policy(key), []
    monkeypatch.setattr(its_hub, "random", Uniforms(key, particles))

    def note(particles) -> None:
        texts = ["".join(p.steps) for p in particles]
        populations.append((texts, [float(p.log_weight) for p in particles]))

    class Watched(its_hub.ParticleFiltering):
        async def _apropagate(self, lm, particles, *rest, **named):
            policy.slots = [i for i, p in enumerate(particles) if not p.is_stopped]
            particles = await super()._apropagate(lm, particles, *rest, **named)
            note(particles)
            return particles

        def _resampling(self, *given):
            drawn = super()._resampling(*given)
            self.last = drawn
            return drawn

    filtering = Watched(
        StepGeneration(
            max_steps=steps - 1,  # it takes one more than it is told
            step_token=["\n"],
            stop_token="\\boxed",
            include_stop_str_in_output=True,
        ),
        Rewards(),
        resampling_method="systematic",  # it draws multinomially all the same
    )
    result = asyncio.run(
        filtering.ainfer(policy, PROBLEM.question, particles, return_response_only=False)
    )
    note(filtering.last)
    return populations, result


@pytest.mark.parametrize(("particles", "steps"), [(1, 4), (4, 4), (16, 5), (64, 3)])
def test_populations_are_those_of_its_hub(
    particles: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(10):
        key = Key.of(seed, "its_hub")
        tree = ours(particles, steps, key)
        populations, result = theirs(particles, steps, key, monkeypatch)
        assert len(tree.populations) == len(populations)
        for mine, (texts, log_weights) in zip(tree.populations, populations, strict=True):
            assert [tree.path_text(node) for node in mine.nodes] == texts
            assert mine.log_weights == pytest.approx(log_weights, abs=1e-5)
        assert [tree.path_text(leaf) for leaf in tree.leaves] == [
            response["content"] for response in result.responses
        ]
        best = asyncio.run(select(tree, "argmax", lambda text: text, lambda a, b: a == b, key))
        complete = [response["content"].endswith("}") for response in result.responses]
        if all(complete):
            assert best.answer == result.the_one["content"]


def test_a_finished_particle_is_weighed_again_and_again() -> None:
    """Early finishers win: measured on its_hub, 64 particles, 0, 1, 2 and 4 extra steps of the
    longer and better path: 0.342, 0.120, 0.036, 0.001 of the mass, where 0.692 is right. Exactly,
    for many particles: the ratio of the masses falls by 4 with every step."""
    for extra, exact in ((0, 0.36), (1, 0.1233), (2, 0.0340)):
        table = {"": {SHORT: 0.5, "m\n": 0.5}}
        table |= {"m\n" * n: {"m\n": 1.0} for n in range(1, extra + 1)}
        table["m\n" * (extra + 1)] = {LONG: 1.0}
        tree = search(
            ParticleFilterSettings(preset="its_hub", particles=4_000, step=RULE_9),
            StreamKey(np.random.default_rng(extra)),
            engine=ScriptedEngine(table),
            reward=lambda problem, steps: {SHORT: np.log(4), LONG: np.log(9)}.get(
                steps[-1].text, 0.0
            ),
        )
        survivors = [tree.nodes[leaf].text == LONG for leaf in tree.leaves]
        assert np.mean(survivors) == pytest.approx(exact, abs=0.03)


def test_it_resamples_at_every_step_and_once_more() -> None:
    tree = ours(16, 4, Key.of(0, "every step"))
    assert [population.resampled for population in tree.populations] == [False, *[True] * 4]
    last, drawn = tree.populations[-2:]
    assert drawn.nodes.tolist() == last.nodes[drawn.ancestors].tolist()
    assert tree.log_evidence is None
    weights = np.exp([tree.nodes[leaf].reward_logit for leaf in tree.leaves])
    assert np.exp(tree.log_weights) == pytest.approx(weights / weights.sum())


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"resampling": "systematic"}, "no resampling;"),
        ({"alpha": 1.0}, "no alpha;"),
        ({"ess_threshold": 0.5, "alpha": 2.0}, "no alpha and no ess_threshold;"),
    ],
)
def test_what_it_has_no_say_in_is_refused(given: dict[str, object], named: str) -> None:
    with pytest.raises(ValidationError, match=named):
        ParticleFilterSettings(preset="its_hub", **given)
    assert ParticleFilterSettings(preset="its_hub", selection="argmax", max_steps=40)

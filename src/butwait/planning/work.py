"""How many tokens each stage of a recipe draws, reads, scores and trains on, and what it keeps."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from butwait.engines.settings import StepRule
from butwait.planning.known import SetFacts, facts, set_facts
from butwait.search.settings import SAMPLERS, CommonSettings

PATH_SHARE = 0.5
"""Of a path's limit, that an average path takes."""
SOLVED = 0.5
"""Of the questions of a search, that give examples."""
SEARCHED = 0.5
"""Of the questions of a GRPO-Direct step, that are searched."""
SHARED = 0.5
"""Of what the paths of one search hold, that they have in common, where paths go on from others."""
EXTERNAL = 2048
"""Tokens of a solution that others wrote, of a set whose solutions nobody measured."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Paths that are drawn side by side.

    Attributes:
        paths: in flight, before the engine's rows bound them.
        prompts: problems in flight, whose prompts are held once each.
        prompt, path: tokens on average, of whole ones.
        longest: tokens of the longest prompt and path together.
        shared: of the paths' tokens, the share that is held once for several.
        judged: whether a reward model holds them too.
    """

    paths: int
    prompts: int
    prompt: float
    path: float
    longest: int
    shared: float = 0.0
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What a stage does.

    Attributes:
        drawn: tokens that the policy draws.
        read: tokens that it reads without drawing them.
        scored: tokens that the reward model reads.
        trained: tokens that are run forwards and backwards.
        referred: tokens that a reference model reads for the training.
        drawing: the largest set of paths side by side; None: none are drawn.
        example: tokens of an average example that is trained on.
        longest_example: of the longest.
        steps: of the optimizer.
        examples: that a data stage gives.
        trees: tokens that are kept in trees.
        attempts: tokens that are kept as attempts.
        problems: of a search or evaluation; the unit of a pilot.
        assumed: sentences.
    """

    drawn: float = 0.0
    read: float = 0.0
    scored: float = 0.0
    trained: float = 0.0
    referred: float = 0.0
    drawing: Drawing | None = None
    example: float = 0.0
    longest_example: int = 0
    steps: float = 0.0
    examples: float = 0.0
    trees: float = 0.0
    attempts: float = 0.0
    problems: int = 0
    assumed: tuple[str, ...] = ()


@dataclass
class Counting:
    """Works through a recipe's stages in order.

    Args:
        recipe: a ``Recipe``.
        context: positions of the policy; None: not known.
        path_shares: by the stage: of a path's limit, what its paths were measured to take.
    """

    recipe: Any
    context: int | None = None
    path_shares: Mapping[str, float] = field(default_factory=dict)
    done: dict[str, Work] = field(default_factory=dict)

    def all(self) -> dict[str, Work]:
        """Stage name -> its work, in the order in which stages run."""
        for name in self.recipe.order():
            count = _OF.get(self.recipe.stages[name].kind)
            if count is None:
                gives = self.recipe.kind(name).gives
                count = _data if gives == "data" else _nothing
            self.done[name] = count(self, name, self.recipe.stages[name])
        return self.done

    def sets(self, names: Any) -> list[SetFacts]:
        return [
            set_facts(name, self.recipe.problems[name])
            for name in names
            if name in self.recipe.problems
        ]

    @property
    def prompt_around(self) -> int:
        """Tokens that stand around a question: three characters each, and a chat's marks."""
        prompt = self.recipe.prompt
        written = len(prompt.system or "") + len(prompt.template.replace("{question}", ""))
        return written // 3 + (
            16 if prompt.style == "chat" and self.recipe.model.name != "tiny" else 2
        )

    def limit(self, rule: StepRule, longest_question: int, sampler: Any = None) -> int:
        """Tokens that a path may take."""
        most = rule.max_tokens
        steps = getattr(sampler, "max_steps", None)
        if steps is not None and rule.max_step_tokens is not None:
            most = min(most, steps * rule.max_step_tokens)
        if self.context is not None:
            most = max(1, min(most, self.context - longest_question - self.prompt_around))
        return most

    def share(self, name: str) -> float:
        """Of a path's limit, that a stage's average path takes."""
        if name in self.path_shares:
            return self.path_shares[name]
        measured = self.path_shares.values()
        return sum(measured) / len(measured) if measured else PATH_SHARE


def paths_of(sampler: CommonSettings, k: int | None = None) -> int:
    """Paths that are extended side by side for one problem.

    Args:
        sampler: its settings.
        k: attempts of an evaluation, which are plain samples, or whole searches; None: one search.
    """
    kind = SAMPLERS.of(sampler)
    if k is not None and kind.as_attempts is not None:
        return k
    paths = kind.paths(sampler)
    return (k or 1) * int(paths if paths is not None else getattr(sampler, "samples", 1))


def sweeps_of(sampler: CommonSettings) -> int:
    """How often a chain draws its population anew."""
    return int(getattr(sampler, "iterations", 1))


def _searching(
    c: Counting,
    name: str,
    sets: list[SetFacts],
    sampler: CommonSettings,
    k: int | None,
    concurrency: int,
) -> Work:
    """One sampler, k times on every problem (None: once)."""
    problems = sum(s.problems for s in sets)
    longest = max((s.longest for s in sets), default=0)
    question = sum(s.problems * s.question for s in sets) / max(1, problems)
    prompt = question + c.prompt_around
    limit = c.limit(sampler.step, longest, sampler)
    path = limit * c.share(name)
    paths, judged = paths_of(sampler, k), SAMPLERS.of(sampler).needs_reward_model
    total = problems * paths * sweeps_of(sampler) * path
    flight = min(problems, concurrency)
    forks = judged and getattr(sampler, "kind", "") != "best_of_n"
    drawing = Drawing(
        paths=flight * paths,
        prompts=flight,
        prompt=prompt,
        path=path,
        longest=math.ceil(longest + c.prompt_around + limit),
        shared=SHARED if forks else 0.0,
        judged=judged,
    )
    return Work(
        drawn=total,
        read=problems * prompt,
        scored=total + problems * prompt if judged else 0.0,
        drawing=drawing,
        problems=problems,
        assumed=tuple(s.assumed for s in sets if s.assumed),
    )


def joined(works: list[Work]) -> Work:
    """Several that are done one after another: sums, and the largest drawing."""
    whole = works[0]
    for work in works[1:]:
        sums = {
            each: getattr(whole, each) + getattr(work, each)
            for each in ("drawn", "read", "scored", "trees", "attempts")
        }
        pair = [d for d in (whole.drawing, work.drawing) if d is not None]
        largest = max(pair, key=lambda d: (d.judged, d.paths * d.longest), default=None)
        assumed = tuple(dict.fromkeys((*whole.assumed, *work.assumed)))
        whole = replace(whole, **sums, drawing=largest, assumed=assumed)
    return whole


def _search(c: Counting, name: str, stage: Any) -> Work:
    sets = c.sets([stage.problems])
    work = _searching(c, name, sets, stage.sampler, None, stage.concurrency)
    return replace(work, trees=work.drawn * (1 - (work.drawing.shared if work.drawing else 0)))


def _evaluate(c: Counting, name: str, stage: Any) -> Work:
    works = []
    for method in stage.methods.values():
        sets = c.sets(stage.problems)
        work = _searching(c, name, sets, method.sampler, method.k, stage.concurrency)
        chosen = (
            work.drawn if SAMPLERS.of(method.sampler).as_attempts else _selected(work, method.k)
        )
        works.append(replace(work, attempts=chosen))
    return joined(works)


def _selected(work: Work, k: int) -> float:
    """Tokens of the answers that searches are selected down to."""
    return 0.0 if work.drawing is None else work.problems * k * work.drawing.path


def _prm(c: Counting, name: str, stage: Any) -> Work:
    [facts_] = c.sets([stage.problems]) or [SetFacts(0, 0, 0)]
    roll = stage.rollouts
    limit = c.limit(roll.steps, facts_.longest)
    path, prompt = limit * c.share(name), facts_.question + c.prompt_around
    more = roll.solutions * roll.prefixes * roll.completions
    drawn = facts_.problems * (roll.solutions + more / 2) * path
    rollouts = facts_.problems * (roll.solutions + more) * (1 - stage.heldout)
    share = stage.batch_size * stage.accumulation_steps
    steps = stage.max_steps or math.ceil(stage.epochs * rollouts / share)
    longest = math.ceil(facts_.longest + c.prompt_around + limit)
    flight = min(facts_.problems, roll.concurrency)
    return Work(
        drawn=drawn,
        read=facts_.problems * prompt,
        trained=steps * share * (prompt + path),
        drawing=Drawing(flight * max(roll.solutions, more), flight, prompt, path, longest),
        example=prompt + path,
        longest_example=min(longest, stage.max_length or longest),
        steps=steps,
        attempts=drawn,
        problems=facts_.problems,
        assumed=(facts_.assumed,) if facts_.assumed else (),
    )


def _data(c: Counting, name: str, stage: Any) -> Work:
    trees = list(c.recipe.inputs(name, "trees"))
    per, limit, budget = (
        getattr(stage, key, None) for key in ("per_question", "limit", "loss_tokens")
    )
    assumed: tuple[str, ...] = ()
    if trees:
        searched = [c.done[source] for source in trees]
        drawings = [work.drawing for work in searched if work.drawing is not None]
        questions = max((work.problems for work in searched), default=0)
        path = max((d.path for d in drawings), default=0.0)
        prompt = max((d.prompt for d in drawings), default=0.0)
        longest = max((d.longest for d in drawings), default=0)
        examples = questions * SOLVED * (per or 1)
        assumed = (f"{name}: {SOLVED:.0%} of the questions give examples",)
    else:
        sets = c.sets(stage.problem_sets)
        settings = [
            c.recipe.problems[each] for each in stage.problem_sets if each in c.recipe.problems
        ]
        known = [facts()["sets"].get(s.source, {}).get("solution_tokens") for s in settings]
        path = next((float(tokens) for tokens in known if tokens), 0.0)
        if not path:
            path = float(EXTERNAL)
            assumed = (f"{name}: solutions of {EXTERNAL} tokens, the longest four times that",)
        prompt = max((s.question for s in sets), default=0) + c.prompt_around
        longest = math.ceil(max((s.longest for s in sets), default=0) + c.prompt_around + 4 * path)
        examples = float(sum(s.problems for s in sets))
    if limit is not None:
        examples = min(examples, float(limit))
    if budget is not None and path:
        examples = min(examples, budget / path)
    drawn, drawing = _confirmations(c, stage, trees, examples, path, prompt, longest)
    return Work(
        drawn=drawn,
        drawing=drawing,
        examples=examples,
        example=prompt + path,
        longest_example=longest,
        assumed=assumed,
    )


def _confirmations(
    c: Counting,
    stage: Any,
    trees: list[str],
    examples: float,
    path: float,
    prompt: float,
    longest: int,
) -> tuple[float, Drawing | None]:
    """What is drawn to see whether branches are wrong: half a path each."""
    confirm = getattr(stage, "confirm", None)
    if confirm is None or not trees:
        return 0.0, None
    completions = int(getattr(confirm, "completions", 1))
    concurrency = int(getattr(c.recipe.stages[trees[0]], "concurrency", 64))
    drawing = Drawing(concurrency * completions, concurrency, prompt, path, longest)
    return examples * completions * path / 2, drawing


def _sft(c: Counting, name: str, stage: Any) -> Work:
    data = [c.done[source] for source in c.recipe.inputs(name, "data")]
    examples = sum(work.examples for work in data)
    tokens = sum(work.examples * work.example for work in data) / max(1.0, examples)
    longest = max((work.longest_example for work in data), default=0)
    assumed: tuple[str, ...] = ()
    if stage.max_length is not None:
        longest = min(longest, stage.max_length) if longest else stage.max_length
        tokens = min(tokens, float(longest))
    if c.context is not None:
        longest = min(longest, c.context)
    share = stage.batch_size * stage.accumulation_steps
    rows = examples
    if stage.packing:
        longest = stage.max_length or longest
        rows = examples * tokens / max(1, longest)
        tokens = float(longest)
    steps = stage.max_steps or math.ceil(stage.epochs * rows / share)
    return Work(
        trained=steps * share * tokens,
        example=tokens,
        longest_example=int(longest),
        steps=steps,
        assumed=assumed,
    )


def _grpo(c: Counting, name: str, stage: Any) -> Work:
    [facts_] = c.sets([stage.problems]) or [SetFacts(0, 0, 0)]
    limit, prompt = c.limit(stage.step, facts_.longest), facts_.question + c.prompt_around
    path = limit * c.share(name)
    generations = math.ceil(stage.steps / stage.steps_per_generation)
    fresh = stage.completions * path if getattr(stage, "draws_groups", True) else 0.0
    searched = scored = 0.0
    paths, longest, judged = min(stage.completions, facts_.problems * stage.group), 0, False
    if (sampler := getattr(stage, "sampler", None)) is not None:
        found = _searching(c, name, [facts_], sampler, None, stage.concurrency)
        share = SEARCHED * (stage.mu_until if stage.mode == "mixed" else 1.0)
        each = found.drawn / max(1, facts_.problems)
        searched = stage.questions * share * each
        judged = found.scored > 0
        scored = searched if judged else 0.0
        assert found.drawing is not None
        paths, longest = max(paths, found.drawing.paths), found.drawing.longest
    drawn = generations * (fresh + searched)
    if stage.token_budget is not None and drawn > stage.token_budget:
        shrunk = stage.token_budget / drawn
        generations = math.ceil(generations * shrunk)
        drawn, scored = float(stage.token_budget), scored * shrunk
    steps = min(stage.steps, generations * stage.steps_per_generation)
    looks = _looks(c, stage, steps, path)
    trained = steps * stage.completions / stage.minibatches * (prompt + path)
    longest = max(longest, math.ceil(facts_.longest + c.prompt_around + limit))
    return Work(
        drawn=drawn + looks,
        read=generations * stage.questions * prompt,
        scored=generations * scored,
        trained=trained,
        referred=trained if _refers(stage) else 0.0,
        drawing=Drawing(paths, stage.questions, prompt, path, longest, judged=judged),
        example=prompt + path,
        longest_example=longest,
        steps=steps,
        trees=generations * searched,
        problems=facts_.problems,
        assumed=(facts_.assumed,) if facts_.assumed else (),
    )


def _looks(c: Counting, stage: Any, steps: int, path: float) -> float:
    if stage.selection is None:
        return 0.0
    held = sum(s.problems for s in c.sets([stage.selection.problems]))
    return (steps // stage.selection.every + 2) * held * stage.selection.samples * path


def _nothing(c: Counting, name: str, stage: Any) -> Work:
    return Work()


_OF = {
    "search": _search,
    "evaluate": _evaluate,
    "prm": _prm,
    "sft": _sft,
    "grpo": _grpo,
    "grpo_direct": _grpo,
}


def assumptions(
    recipe: Any, works: Mapping[str, Work], measured: Mapping[str, float]
) -> Iterator[str]:
    """What the counts rest on, as sentences."""
    if not measured:
        yield f"an average path takes {PATH_SHARE:.0%} of its limit"
    else:
        yield "paths are as long as the pilot's"
    if any(work.drawing and work.drawing.shared for work in works.values()):
        yield f"paths of a search share {SHARED:.0%} of what they hold"
    if any(stage.kind == "grpo_direct" for stage in recipe.stages.values()):
        yield f"GRPO-Direct searches {SEARCHED:.0%} of its questions while it searches"
    yield from dict.fromkeys(told for work in works.values() for told in work.assumed)


def _refers(stage: Any) -> bool:
    """Whether the loss compares with the model that the training began with."""
    loss = stage.loss
    return bool(loss.beta) if loss.beta is not None else loss.preset == "grpo"


def side_by_side(paths: int, rows: int | None) -> int:
    """Paths side by side, as far as an engine's rows allow."""
    return paths if rows is None else min(paths, rows)

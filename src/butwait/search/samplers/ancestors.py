"""Ancestor sampling: the reference of a conditional sweep draws a new past.

After Lindsten, Jordan and Schön (2014, "Particle Gibbs with ancestor sampling", section 3),
for paths of different lengths. The rest of the reference, x'_t..T, may follow any particle i
of the population before, with the log-weight

    W_(t-1)^i + log pi(x'_t..T | x^i) + alpha l(x^i, x'_t..T) - alpha_(t-1) l_(t-1)^i,

in which the joined path is scored as a whole. Departure: only those particles take part after
which the policy, under its step rule, would end the steps of the rest where they end
(``docs/chains.md``).
"""

from collections.abc import Sequence

import numpy as np

from butwait.engines.engine import Prefix
from butwait.engines.settings import StepRule
from butwait.problems.answers import box_closed
from butwait.records import COMPLETE, Finish, Key
from butwait.search.frontier import Frontier, log_probability
from butwait.search.resampling import inverse_cdf
from butwait.search.settings import FilterSettings
from butwait.search.weights import normalise, tempered


async def sample_ancestor(
    frontier: Frontier,
    settings: FilterSettings,
    reference: Sequence[int],
    nodes: np.ndarray,
    past: np.ndarray,
    step: int,
    key: Key,
) -> tuple[int, Sequence[int]]:
    """Draws the particle that the rest of the reference follows.

    The policy and the reward model run the rest once after every candidate.

    Args:
        reference: nodes of a path, of which slot 0 has taken ``step`` - 1.
        nodes: int32 (N,), where the particles stand.
        past: float64 (N,), log-weights without the potentials in them, W - alpha l, in nats; -inf
            for particles that cannot go on.
        step: number of the step that comes next.
        key: the draw is made at its address and this step.

    Returns:
        The slot, and the reference with that past. Both are as before, at no cost, where the
        reference has ended or has no other candidate.
    """
    rest = reference[step - 1 :]
    candidates = _candidates(frontier, settings.step, nodes, past, rest) if rest else []
    if not candidates:
        return 0, reference
    tree = frontier.tree
    others = await frontier.follow(nodes[candidates].tolist(), rest)
    log_probabilities = [log_probability(map(tree.step, rest))]
    log_probabilities += [other.log_probability for other in others]
    logits = [tree.rewards(np.array(rest)), *(other.logits for other in others)]
    futures = [_future(settings, rewards, step) for rewards in logits]
    log_weights = past[[0, *candidates]] + log_probabilities + futures
    uniform = key.at(step=step).uniforms(1)
    drawn = int(inverse_cdf(np.exp(normalise(log_weights)), uniform)[0])
    if drawn == 0:
        return 0, reference
    chosen = others[drawn - 1]
    return candidates[drawn - 1], [*tree.path(chosen.node), *frontier.graft(chosen, rest)]


def _future(settings: FilterSettings, logits: np.ndarray, step: int) -> float:
    """alpha l at the end of a path, in nats, given its logits from ``step`` on; -inf where its
    weight is zero on the way."""
    exponents = [settings.alpha_at(step + i) for i in range(len(logits))]
    if any(alpha and logit == -np.inf for alpha, logit in zip(exponents, logits, strict=True)):
        return -np.inf
    return float(tempered(settings.final_alpha, logits[-1:])[0])


def _candidates(
    frontier: Frontier, rule: StepRule, nodes: np.ndarray, past: np.ndarray, rest: Sequence[int]
) -> list[int]:
    """The slots, but 0, after which the steps of the rest would end as they do."""
    tree = frontier.tree
    steps = [tree.nodes[node] for node in rest]
    tokens, finish = sum(len(step.token_ids) for step in steps), steps[-1].finish
    text = "".join(step.text for step in steps)
    own = tree.prefix(int(nodes[0]))
    ends = ends_by_text(rule, own.text, text)
    candidates = []
    for slot in (np.flatnonzero(past[1:] > -np.inf) + 1).tolist():
        other = tree.prefix(int(nodes[slot]))
        fits = _fits(rule, other, own, tokens, finish)
        if fits and ends_by_text(rule, other.text, text) == ends:
            candidates.append(slot)
    return candidates


def _fits(rule: StepRule, other: Prefix, own: Prefix, tokens: int, finish: Finish) -> bool:
    """Whether the path's limit lets so many tokens end as they do after another prefix."""
    if finish == "length":  # the limit itself, which may be the context's
        return other.completion_length == own.completion_length
    length = other.completion_length + tokens
    return length <= rule.max_tokens if finish in COMPLETE else length < rule.max_tokens


def ends_by_text(rule: StepRule, before: str, text: str) -> tuple[int | None, list[int]]:
    """What decides, beside ``text`` itself, where its steps end when it follows ``before``.

    Returns:
        The position in ``text`` after the end of the thought (0 where that came before it), None
        where the rule knows no thoughts or this one goes on; and the positions of those closing
        braces at which the path has a closed box, and of the ends of stops.
    """
    whole, thought, ends = before + text, None, []
    if rule.think_end is not None and rule.think_end in whole:
        end = whole.index(rule.think_end) + len(rule.think_end)
        thought = max(0, end - len(before))
    openings = [at for word in ("\\boxed", "\\fbox") if (at := whole.find(word)) >= 0]
    if rule.stop_at_box and openings:
        for at in range(max(len(before), min(openings)), len(whole)):
            if whole[at] == "}" and _has_box(rule, whole[: at + 1]):
                ends.append(at - len(before))
    for stop in rule.stops:  # one may begin in what came before
        if (at := whole.find(stop, max(0, len(before) - len(stop) + 1))) >= 0:
            ends.append(at + len(stop) - 1 - len(before))
    return thought, ends


def _has_box(rule: StepRule, text: str) -> bool:
    """Whether a box is closed in the answer of a path."""
    if rule.think_end is None:
        return box_closed(text)
    _, ended, answer = text.rpartition(rule.think_end)
    return bool(ended) and box_closed(answer)

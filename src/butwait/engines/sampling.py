"""The steps that are being sampled, as arrays: what happens at every token happens for all rows at
once, and Python looks at a single row only where its step may end.

Tokens are drawn from logits by inverse CDF. Every row has its own settings and its own uniform
numbers, and its result depends on nothing else.

Shapes: n live rows of at most S; V tokens of the vocabulary; w tokens of a step, doubled when a
step gets longer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from butwait.engines.batching import Handle, Job
from butwait.engines.engine import Prefix
from butwait.engines.settings import Sampling
from butwait.engines.steps import MOST_RULES, GrowingStep, StepDetector
from butwait.records import Finish, Key, UserError
from butwait.records.keys import KeyStream

BLOCK = 64
"""Uniform numbers drawn at a time for a row; also the first w."""
CHUNK = 128
"""Tokens of the vocabulary that are summed up at once."""
CACHED = 2**18
"""Probabilities that a CPU works on at a time: they stay in its cache from one operation to the
next."""


@dataclass(frozen=True, slots=True, eq=False)
class RowSampling:
    """How each row is sampled; tensors of shape (n,) on the device of the logits.

    Attributes:
        temperature: float32; 0 is greedy decoding.
        top_p: float32 in (0, 1].
        top_k: int64; 0 keeps all.
    """

    temperature: torch.Tensor
    top_p: torch.Tensor
    top_k: torch.Tensor


class Asked(NamedTuple):
    """What at least one of the rows asks for. The host knows it from the settings: to look at
    tensors would make it wait for the device."""

    greedy: bool
    tempered: bool
    top_k: bool
    top_p: bool

    @classmethod
    def by(cls, temperature: Any, top_p: Any, top_k: Any) -> "Asked":
        """By the settings of the rows: arrays or tensors (n,) each."""
        return cls(
            greedy=bool((temperature == 0).any()),
            tempered=bool(((temperature != 0) & (temperature != 1)).any()),
            top_k=bool(((temperature != 0) & (top_k > 0)).any()),
            top_p=bool(((temperature != 0) & (top_p < 1)).any()),
        )


def draw(
    logits: torch.Tensor, uniforms: torch.Tensor, how: RowSampling, asked: Asked | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token per row.

    The token is the first whose cumulative probability, in the vocabulary's order and in
    float64, exceeds the uniform number. The order of filters is that of ``generate()``:
    temperature, top-k, top-p.

    Args:
        logits: (n, V) of any floating type; worked on in float32.
        uniforms: float64 (n,), in [0, 1).
        how: settings per row.
        asked: what of them is in use; None: they are looked at.

    Returns:
        int64 (n,) tokens and float32 (n,) log-probabilities in nats: under the sampled policy,
        or under the untempered model where decoding is greedy. Where a row's logits are no
        numbers, its log-probability is NaN.
    """
    if asked is None:
        asked = Asked.by(how.temperature, how.top_p, how.top_k)
    n, width = logits.shape
    rows = max(1, CACHED // width) if logits.device.type == "cpu" else n
    if n <= rows:
        return _draw(logits.float(), uniforms, how, asked)
    parts = []
    for first in range(0, n, rows):
        some = slice(first, first + rows)
        theirs = RowSampling(how.temperature[some], how.top_p[some], how.top_k[some])
        parts.append(_draw(logits[some].float(), uniforms[some], theirs, asked))
    tokens, logprobs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(logprobs)


def _draw(
    logits: torch.Tensor, uniforms: torch.Tensor, how: RowSampling, asked: Asked
) -> tuple[torch.Tensor, torch.Tensor]:
    greedy = how.temperature == 0
    scaled = logits
    if asked.tempered:
        scaled = logits / torch.where(greedy, 1.0, how.temperature)[:, None]
    logprobs = _filtered(scaled, how, greedy, asked).log_softmax(-1)
    tokens = _inverse_cdf(logprobs.exp(), uniforms)
    if asked.greedy:
        tokens = torch.where(greedy, logits.argmax(-1), tokens)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _inverse_cdf(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """int64 (n,): the first tokens whose cumulative probability exceeds the uniform number, float64
    (n,), times the total. Tokens without probability are none of them.

    The sums of chunks say in which chunk it is: a sum of a vocabulary, token after token, takes
    several times as long as all else here.

    Args:
        probabilities: float32 (n, V); where one is NaN, so is the row's total, and any token comes.
        uniforms: float64 (n,).
    """
    n, width = probabilities.shape
    chunks = functional.pad(probabilities, (0, -width % CHUNK)) if width % CHUNK else probabilities
    chunks = chunks.view(n, -1, CHUNK)
    ends = _sums(chunks).cumsum(-1)
    # Uniform numbers are at most 1 - 2^-53, so their product with the total stays below it.
    target = uniforms * ends[:, -1]
    chunk = torch.searchsorted(ends, target[:, None], right=True)
    chunk = chunk.clamp(max=chunks.shape[1] - 1)  # NaN is below nothing
    before = functional.pad(ends, (1, 0)).gather(-1, chunk)
    within = chunks.gather(1, chunk[:, :, None].expand(n, 1, CHUNK))[:, 0].double().cumsum(-1)
    place = torch.searchsorted(within, target[:, None] - before, right=True)
    # By rounding it may lie behind the chunk's last token that has any probability.
    last = (within < within[:, -1:]).sum(-1, keepdim=True)
    return (chunk * CHUNK + torch.minimum(place, last))[:, 0]


def _sums(chunks: torch.Tensor) -> torch.Tensor:
    """float64 (n, c) of float32 (n, c, CHUNK)."""
    if chunks.device.type == "cpu":  # PyTorch would make a float64 copy first
        return torch.from_numpy(chunks.numpy().sum(-1, dtype=np.float64))
    return chunks.sum(-1, dtype=torch.float64)


def _filtered(
    scaled: torch.Tensor, how: RowSampling, greedy: torch.Tensor, asked: Asked
) -> torch.Tensor:
    """Tokens outside of top-k and top-p at -inf."""
    if asked.top_k:
        top_k = torch.where(greedy | (how.top_k == 0), scaled.shape[-1], how.top_k)
        # Ties with the k-th token stay, as in generate().
        ranked = scaled.sort(-1, descending=True).values
        threshold = ranked.gather(-1, top_k.clamp(max=scaled.shape[-1])[:, None] - 1)
        scaled = scaled.masked_fill(scaled < threshold, -torch.inf)
    if asked.top_p:
        top_p = torch.where(greedy, 1.0, how.top_p)
        ranked, order = scaled.sort(stable=True, dim=-1, descending=True)
        probabilities = ranked.softmax(-1)
        before = probabilities.cumsum(-1) - probabilities
        dropped = (before >= top_p[:, None]) & (top_p[:, None] < 1)
        scaled = scaled.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)
    return scaled


@dataclass(slots=True, eq=False)
class SharedStart:
    """A start that several jobs of one call have in common and that no cache holds.

    Attributes:
        waiting: jobs that have not begun.
        begun: whether one of them has: it runs the tokens, and the others copy.
        handle: to the tokens, once they have been run.
    """

    waiting: int = 0
    begun: bool = False
    handle: Handle | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class PathJob(Job):
    """A path to go on from. Its ``handle`` is to all of its tokens but the last: logits come from
    running the last one, so it is always left to whoever goes on.

    Attributes:
        prefix: the path.
        start: common to the jobs of the call with the very same tokens.
        run_tokens: tokens that had to be run to get there; 0 where a cache held them.
        logprobs: the result, float32 (m,).
    """

    prefix: Prefix
    start: SharedStart = field(default_factory=SharedStart)
    run_tokens: int = 0
    logprobs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(slots=True, eq=False, kw_only=True)
class StepJob(PathJob):
    """One step to be sampled. Its ``new_handle`` is to the extended path but its last token; None
    where the path has ended.

    Attributes:
        detector, step: where the step ends.
        sampling, key: how its tokens are drawn.
        tokens: the result, int32 (m,).
        finish: why the step ended; None while it goes on.
    """

    detector: StepDetector
    step: GrowingStep
    sampling: Sampling
    key: Key
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    finish: Finish | None = None


ROW = np.dtype(
    [(name, np.int64) for name in ("slot", "position", "token", "count", "room", "rule")]
    + [("temperature", np.float32), ("top_p", np.float32), ("top_k", np.int64)]
)
"""A live row: where its next token goes and which one it is; how many were drawn, how many may be,
and the number of its detector; how it is sampled."""


class LiveRows:
    """Rows that are being decoded; they lie at 0..n-1 of every array.

    Args:
        capacity: S.
        device: of the logits.
    """

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._device = device
        self.jobs: list[StepJob] = []
        self._stream = KeyStream()
        self._detectors: dict[StepDetector, int] = {}
        self._rows = np.zeros(capacity, ROW)
        self._uniforms = np.zeros((capacity, BLOCK))
        self._tokens = np.zeros((capacity, BLOCK), np.int32)
        self._logprobs = np.zeros((capacity, BLOCK), np.float32)
        self._sampling: tuple[RowSampling, Asked] | None = None

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def inputs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """int64 (n,) each: slots, positions and tokens of the next forward pass."""
        rows = self._rows[: len(self.jobs)]
        return rows["slot"], rows["position"], rows["token"]

    def add(self, begun: Sequence[StepJob]) -> None:
        """Starts rows, each with all tokens but the last in its tenant's slot."""
        if not begun:
            return
        first = len(self.jobs)
        if len(self._detectors) > MOST_RULES:  # those of rows that have left
            used = dict.fromkeys(job.detector for job in self.jobs)
            self._detectors = {detector: i for i, detector in enumerate(used)}
            self._rows["rule"][:first] = [self._detectors[job.detector] for job in self.jobs]
        self.jobs += begun
        for i, job in enumerate(begun, first):
            ids, how = job.prefix.token_ids, job.sampling
            place = job.tenant.slot, len(ids) - 1, ids[-1]
            rule = self._detectors.setdefault(job.detector, len(self._detectors))
            limits = 0, job.step.room, rule
            self._rows[i] = (*place, *limits, how.temperature, how.top_p, how.top_k)
            self._uniforms[i] = self._stream.uniforms(job.key, BLOCK)
        self._sampling = None

    def draw(self, logits: torch.Tensor) -> None:
        """One token for every row, from (n, V) logits of ``inputs``. Raises UserError where
        a row's are no numbers."""
        n = len(self.jobs)
        rows, live = np.arange(n), self._rows[:n]
        counts = live["count"]
        uniforms = torch.from_numpy(self._uniforms[rows, counts % BLOCK]).to(self._device)
        newest = draw(logits, uniforms, *self._row_sampling())
        self._widen(int(counts.max()) + 1)
        # One copy from the device a pass. Float64 holds both as they are.
        tokens, logprobs = torch.stack([each.double() for each in newest]).cpu().numpy()
        live["token"] = self._tokens[rows, counts] = tokens
        self._logprobs[rows, counts] = logprobs
        if np.isnan(logprobs).any():
            raise UserError(
                "the model's logits are no numbers (NaN): its weights or this precision do not "
                "hold; train with a lower learning_rate, or take dtype: float32"
            )
        live["position"] += 1
        counts += 1
        for i in np.flatnonzero(counts % BLOCK == 0).tolist():
            key, drawn = self.jobs[i].key, int(counts[i])
            self._uniforms[i] = self._stream.uniforms(key, BLOCK, start=drawn)

    def pop_finished(self) -> list[StepJob]:
        """Takes out the rows whose step ended with the newest token, their results filled in."""
        live, detectors = self._rows[: len(self.jobs)], list(self._detectors)
        may_end = live["count"] >= live["room"]
        for rule in np.unique(live["rule"]).tolist():
            ends = detectors[rule].may_end(live["token"])
            may_end |= ends & (live["rule"] == rule)
        ended = []
        for i in np.flatnonzero(may_end).tolist():
            job, count = self.jobs[i], live["count"][i]
            job.finish = job.step.finish(self._tokens[i, :count])
            if job.finish is not None:
                job.tokens = self._tokens[i, :count].copy()
                job.logprobs = self._logprobs[i, :count].copy()
                ended.append(i)
        return self.remove(ended)

    def remove(self, rows: Sequence[int]) -> list[StepJob]:
        """Takes rows out, given in ascending order; the last ones that stay take their places."""
        if not rows:
            return []
        removed = [self.jobs[i] for i in rows]
        left = len(self.jobs) - len(rows)
        gone = set(rows)
        holes = [i for i in rows if i < left]
        movers = [i for i in range(left, len(self.jobs)) if i not in gone]
        for array in (self._rows, self._uniforms, self._tokens, self._logprobs):
            array[holes] = array[movers]
        for hole, mover in zip(holes, movers, strict=True):
            self.jobs[hole] = self.jobs[mover]
        del self.jobs[left:]
        self._sampling = None
        return removed

    def _row_sampling(self) -> tuple[RowSampling, Asked]:
        if self._sampling is None:
            live = self._rows[: len(self.jobs)]
            columns = [live[name].copy() for name in ("temperature", "top_p", "top_k")]
            how = RowSampling(*(torch.from_numpy(c).to(self._device) for c in columns))
            self._sampling = how, Asked.by(*columns)
        return self._sampling

    def _widen(self, columns: int) -> None:
        if columns > self._tokens.shape[1]:
            self._tokens = np.concatenate([self._tokens, np.zeros_like(self._tokens)], 1)
            self._logprobs = np.concatenate([self._logprobs, np.zeros_like(self._logprobs)], 1)

"""Qwen2.5-Math-PRM behind a vLLM server: ``vllm serve Qwen/Qwen2.5-Math-PRM-7B``.

The server pools at every ``<extra_0>`` (its STEP pooling) and gives two logits for each. Token ids
go in, in the layout of the in-process model. Pooling has no use for vLLM's prefix cache, which
would leave out the scores of what is cached: a path is run whole for every score.
"""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from butwait.engines.checkpoints.folders import look_into
from butwait.engines.servers.figures import Figures
from butwait.engines.settings import ModelSettings, ServerSettings
from butwait.records import Problem, UserError
from butwait.records.settings import Content, Resource, Result
from butwait.reward_models.kinds.qwen_math_prm import QwenLayouts
from butwait.reward_models.load import Policy, RewardModelKind
from butwait.reward_models.local import Layout, laid_out
from butwait.reward_models.reward_model import (
    BaseRewardModel,
    Path,
    PathTooLongError,
    RewardModelError,
    Score,
)
from butwait.reward_models.settings import Aggregation

_NO_SCORES = np.zeros((0, 2))
KEY = "reward_model.base_url"
MANY = 6
"""Pairs of logits that do not all add up to one by chance."""


class PoolingSettings(ServerSettings):
    """Qwen2.5-Math-PRM behind a vLLM server (``vllm serve``), which has a machine of its own.
    ``base_url`` is taken with or without ``/v1``."""

    kind: Literal["pooling"]
    name: Content[str] = "Qwen/Qwen2.5-Math-PRM-7B"
    """A Hugging Face id or a folder: its tokenizer is needed here."""
    revision: Result[str | None] = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    served_model: Result[str | None] = None
    """The model's name at the server; None: ``name``."""
    aggregation: Result[Aggregation] = "model"
    """As for ``qwen_math_prm``."""
    max_requests: Resource[Annotated[int, Field(gt=0)]] = 64
    """Requests in flight at a time; one asks for all particles of a search."""

    def look(self, world: Any) -> None:
        super().look(world)
        look_into(world, self.name, self.revision, "name", weights=False)

    @property
    def checkpoint(self) -> ModelSettings:
        """Whose tokenizer is needed."""
        return ModelSettings(name=self.name, revision=self.revision)


class PoolingPrm(BaseRewardModel):
    """Implements ``RewardModel``. Handles save laying a path out again, not running it.

    Args:
        settings: where the server is and how scores are aggregated.
        tokenizer: of the reward model.

    Raises UserError for a tokenizer without ``<extra_0>``.
    """

    def __init__(self, settings: PoolingSettings, tokenizer: Any) -> None:
        from butwait.engines.servers.fleet import Fleet

        super().__init__()
        self._layouts = QwenLayouts(tokenizer, settings.aggregation)
        self._servers = Fleet(settings, settings.max_requests, KEY, ends="/v1")
        self._server = self._servers.first
        self._name = settings.served_model or settings.name
        self._asking = asyncio.Lock()
        self._proved = False

    async def score(self, problem: Problem, paths: Sequence[Path]) -> list[Score]:
        """See ``RewardModel.score``. All paths are one request. Raises UserError for a server
        that does not answer or refuses, and PathTooLongError where it finds one of them longer than
        its model takes (it does not say which)."""
        start = Layout((self._layouts.prompt(problem),))
        layouts = [laid_out(start, path, path.handle, self._layouts.extended) for path in paths]
        tokens = [np.concatenate([*layout.segments, layout.peek]) for layout in layouts]
        asked = [ids.tolist() for ids, layout in zip(tokens, layouts, strict=True) if layout.steps]
        answers = iter(await self._pool(asked, start.segments[0]) if asked else [])
        outputs = [next(answers) if layout.steps else _NO_SCORES for layout in layouts]
        return [
            self._score(problem, layout, output, len(ids))
            for layout, output, ids in zip(layouts, outputs, tokens, strict=True)
        ]

    async def close(self) -> None:
        """Closes the connections."""
        await self._servers.close()

    def server_figures(self) -> Figures:
        """Requests, failures and scored tokens, by the server's address."""
        return self._servers.figures()

    async def _pool(self, prompts: list[list[int]], start: np.ndarray) -> list[np.ndarray]:
        """float64 (marks, 2) for every prompt: the logits at its marks. ``start``, int32 (p,): what
        the prompts of this problem begin with."""
        body = {
            "model": self._name,
            "input": prompts,
            "task": "token_classify",
            "encoding_format": "float",
            "use_activation": False,
        }
        from butwait.engines.servers.fleet import session_of
        from butwait.engines.servers.openai_protocol import about_the_context
        from butwait.engines.servers.remote_server import RefusedError

        await self._prove()
        try:
            answer, server = await self._servers.again(
                session_of(start), partial(self._asked, body)
            )
        except RefusedError as error:
            if about_the_context(error):
                raise PathTooLongError(str(error)) from error
            if error.status != 404:
                raise
            raise UserError(
                f"{error}: a vLLM server pools there (--runner pooling), under the name "
                f"{body['model']!r} (reward_model.served_model)"
            ) from error
        url = f"{server.url}/pooling"
        if said := server.failure(answer):
            raise RewardModelError(f"{url} gave no two logits per step but an error: {said}")
        try:
            rows = {row["index"]: row["data"] for row in answer["data"]}
            outputs = [_logits(rows[i]) for i in sorted(rows)]
        except (LookupError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise RewardModelError(
                f"{url} gave no two logits per step ({error}): is it a Qwen2.5-Math-PRM?"
            ) from error
        answered = sum(i in rows for i in range(len(prompts)))
        if not answered == len(rows) == len(prompts):
            raise RewardModelError(f"{url} answered for {answered} of {len(prompts)} paths")
        if _are_probabilities(np.concatenate(outputs)):
            raise RewardModelError(
                f"{url} gave probabilities in the place of logits: it must know use_activation "
                "(vLLM 0.31 does)"
            )
        self._servers.used(server, sum(map(len, prompts)))
        return outputs

    async def _prove(self) -> None:
        """Several servers are asked once whether they serve the same model."""
        from butwait.engines.servers.probe import context

        async def proof(server: Any) -> dict[str, Any]:
            return {"context": await context(server, self._name, "/v1/models", "reward_model")}

        async with self._asking:
            if self._servers.several and not self._proved:
                await self._servers.proof(proof)
                self._proved = True

    async def _asked(self, body: dict[str, Any], server: Any) -> tuple[Any, Any]:
        """(answer, who gave it)."""
        from butwait.engines.servers.remote_server import error_code

        answer = await server.json("/pooling", body)
        if error_code(answer) is not None:
            server.check(answer)  # says itself whether asking again may help
        return answer, server

    def _score(self, problem: Problem, layout: Layout, output: np.ndarray, tokens: int) -> Score:
        if len(output) != self._layouts.judged(layout):
            raise RewardModelError(
                f"the reward model's server gave {len(output)} scores for "
                f"{self._layouts.judged(layout)} steps of {problem.id}: it must pool at token "
                f"{self._layouts.mark_id} (--pooler-config with step_tag_id)"
            )
        if np.isinf(output).any():
            raise RewardModelError(
                f"the reward model's server gave a logit for {problem.id} that is infinite"
            )
        logit = self.checked(self._layouts.logit(output), problem)
        return Score(logit, layout, tokens if layout.steps else 0)


def _logits(marks: Any) -> np.ndarray:
    """float64 (marks, 2), with NaN for null. Raises ValueError and TypeError for another form."""
    if not isinstance(marks, list):
        raise TypeError(f"they are {type(marks).__name__}")
    if not marks:
        return _NO_SCORES
    for mark in marks:
        for value in mark:
            if isinstance(value, bool | str):  # which numpy would take
                raise TypeError(f"a logit is {value!r:.20}")
    logits = np.array(marks, np.float64)
    if logits.shape != (len(marks), 2):
        raise ValueError(f"they have the shape {logits.shape}")
    return logits


def _are_probabilities(logits: np.ndarray) -> bool:
    """Whether so many pairs (marks, 2) all add up to one that it can be no chance."""
    if len(logits) < MANY or logits.min() < 0:
        return False
    return bool(np.abs(logits.sum(-1) - 1).max() < 1e-3)


def _load(settings: PoolingSettings, policy_tokenizer: Any, policy: Policy | None) -> PoolingPrm:
    from butwait.engines.models import load_tokenizer

    return PoolingPrm(settings, load_tokenizer(settings.checkpoint))


POOLING = RewardModelKind(
    PoolingSettings,
    _load,
    decoder=lambda settings: (settings.checkpoint, False),
    aggregates=lambda settings: settings.aggregation != "last",
)

"""How does a server that speaks OpenAI's protocol answer? It is asked before the first step."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from butwait.engines.engine import Prefix
from butwait.engines.openai_replies import read
from butwait.engines.remote_server import RefusedError, RemoteServer
from butwait.engines.settings import Sampling
from butwait.problems.settings import PromptSettings
from butwait.records import UserError

COMPLETIONS, CHAT = "/completions", "/chat/completions"
CERTAIN = -1e-6
"""Nats: the log-probability of the only token that a filter left, but for rounding."""
PROBED = 4
"""Tokens that the server is asked for to see how it answers. They are in no count."""


@dataclass(frozen=True)
class Served:
    """How a server answers.

    Attributes:
        path: where completions or chats are asked for.
        extended: whether it takes vLLM's further parameters.
        gives_ids: whether it says which tokens it sampled.
        is_vllm: whether it understood ``return_token_ids``, and so keeps stop strings in its text.
        of_the_policy: whether log-probabilities are those after temperature, top-k and top-p.
    """

    path: str
    extended: bool
    gives_ids: bool
    is_vllm: bool
    of_the_policy: bool

    def sampled(self, sampling: Sampling) -> dict[str, Any]:
        """The parameters of sampling, all of them: a server has defaults of its own, which come
        from the model's generation settings."""
        body: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
        body |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
        if self.extended:
            body |= {"top_k": sampling.top_k, "min_p": 0.0, "repetition_penalty": 1.0}
            body |= {"watermarking": False, "return_token_ids": True}
        elif sampling.top_k:
            body["top_k"] = sampling.top_k
        return body


class Probe:
    """Questions to a server about itself.

    Args:
        server: which one.
        name: the model's name there.
        mode: the ways to ask that are allowed.
        prompt: how a problem is put to the model; a plain prompt can be no chat.
    """

    def __init__(
        self,
        server: RemoteServer,
        name: str,
        mode: Literal["auto", "completions", "chat"],
        prompt: PromptSettings,
    ) -> None:
        self._server = server
        self._name = name
        self._mode = mode
        self._prompt = prompt

    async def context(self) -> int | None:
        """Tokens of the model's context, from the server's list of models; None where it has no
        list or does not say. Raises UserError where the list does not have the model."""
        try:
            reply = await self._server.again(partial(self._server.json, "/models"))
        except RefusedError as error:
            if error.status in (401, 403):
                raise
            return None
        listed = {str(model.get("id")): model for model in reply.get("data") or []}
        if listed and self._name not in listed:
            raise UserError(
                f"the server at {self._server.url} has no model {self._name!r} but "
                f"{', '.join(sorted(listed)[:5])}: set engine.served_model"
            )
        context = listed.get(self._name, {}).get("max_model_len")
        return context if isinstance(context, int) else None

    async def ask(self, prefix: Prefix) -> Served:
        """Asks in every way that the settings allow, the fullest first. Raises the server's
        refusal of the last."""
        paths = [COMPLETIONS] if self._mode != "chat" else []
        if self._mode != "completions" and self._prompt.style == "chat":
            paths.append(CHAT)
        refusal: RefusedError | None = None
        for path in paths:
            for extended in (True, False):
                try:
                    return await self._try(path, extended, prefix)
                except RefusedError as error:
                    if error.status in (401, 403):
                        raise
                    refusal = error
        assert refusal is not None
        raise refusal

    async def _try(self, path: str, extended: bool, prefix: Prefix) -> Served:
        # A prompt that says nothing, so that no model is certain of what follows; where the
        # filters leave one token, only log-probabilities of the policy are zero.
        served = Served(path, extended, gives_ids=False, is_vllm=False, of_the_policy=False)
        body = served.sampled(Sampling(top_k=int(extended))) | {"max_tokens": PROBED, "seed": 0}
        if path == COMPLETIONS:
            body |= {"prompt": prefix.token_ids[::-1].tolist(), "logprobs": 1}
        else:
            body |= {"messages": [{"role": "user", "content": "?!"}], "logprobs": True}
        body["model"] = self._name
        reply = read(await self._server.again(partial(self._server.json, path, body)))
        if not reply.logprobs:
            raise UserError(
                f"the server at {self._server.url} gives no log-probabilities of its tokens: they "
                "are a part of every search tree"
            )
        return Served(
            path,
            extended,
            gives_ids=reply.token_ids is not None,
            is_vllm=reply.prompt_ids is not None,
            of_the_policy=extended and min(reply.logprobs) > CERTAIN,
        )

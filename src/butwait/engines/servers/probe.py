"""How a model's server answers: asked before the first step."""

import math
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import product
from typing import Any

from butwait.engines.detokenizer import UNFINISHED
from butwait.engines.engine import Prefix, SamplingUnsupportedError
from butwait.engines.servers.openai_protocol import (
    COMPLETIONS,
    Reply,
    about_the_context,
    about_the_model,
    is_int,
    mapping,
    no_numbers,
    replies,
)
from butwait.engines.servers.remote_server import RefusedError, RemoteServer, UnansweredError
from butwait.engines.settings import Sampling
from butwait.records import UserError

ROUNDING = 1e-6
"""Nats that a log-probability may be off by."""
MOST_TIED = 8
"""Tokens that may share the first place, where logits of 16 bits are equal: vLLM's ``top_k: 1``
keeps them all, with the same probability each."""
PROBED = 4
"""Tokens that the server is asked for to see how it answers. They are in no count."""
PROMPTED = 8
"""The most tokens of the prompt that they follow."""
OF_THE_WAY = frozenset({400, 404, 405, 410, 415, 422})
"""Statuses of a refusal after which another way of asking may do."""


class LackingError(UserError):
    """A server answers, and leaves out what is needed."""


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
    gives_ids: bool = False
    is_vllm: bool = False
    of_the_policy: bool = False

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

    def check(self, sampling: Sampling, url: str) -> None:
        """Raises SamplingUnsupportedError where tokens that are drawn so have no log-probability of
        the policy at the server of this address."""
        shaped = sampling.temperature not in (0.0, 1.0) or sampling.top_p < 1 or sampling.top_k
        if shaped and not self.of_the_policy:
            raise SamplingUnsupportedError(
                f"the server at {url} gives log-probabilities before "
                "temperature, top-k and top-p: start vLLM with --logprobs-mode processed_logprobs, "
                "sample with temperature 1 alone, or set engine.any_logprobs: true"
            )


async def probe(
    server: RemoteServer,
    requests: Mapping[str, dict[str, Any]],
    prefix: Prefix,
    decode: Callable[[list[int]], str] | None = None,
) -> Served:
    """How a model's server answers a stream as a step asks for it. It is asked in every way that
    is allowed, the fullest first, until one gives what is needed.

    Args:
        server: to be asked.
        requests: the paths (completions, chats) that may be used, and what every request there
            holds, whatever step it is for.
        prefix: of some problem, for tokens that the model knows.
        decode: the text of token ids, for a server that may have another tokenizer.

    Raises UserError where no way does, and where the trouble is not the way of asking: the key, the
    address, the model's name, the context, or a server that is away or busy.
    """
    failures: dict[tuple[str, bool], UserError] = {}
    served = None
    for path, extended in product(requests, (True, False)):
        try:
            served = await _probe(server, path, extended, prefix, requests[path], decode)
            break
        except UserError as error:
            failures[path, extended] = _of_the_way(error)
    if served is None:
        raise _told(list(failures.values()))
    for (path, extended), failure in failures.items():
        if isinstance(failure, UnansweredError):  # can it not do this, or was it in trouble?
            try:
                return await _probe(server, path, extended, prefix, requests[path], decode)
            except UserError as again:
                _of_the_way(again)
    return served


def _told(failures: list[UserError]) -> UserError:
    """What is said where no way does."""
    if all(isinstance(error, RefusedError) and error.status == 404 for error in failures):
        return UserError(f"{failures[-1]}: engine.base_url goes up to and with /v1, no further")
    lacking = [error for error in failures if isinstance(error, LackingError)]
    return [*failures, *lacking][-1]


def _of_the_way(error: UserError) -> UserError:
    """The error, where another way of asking may do better; else it is raised."""
    if isinstance(error, LackingError) or (isinstance(error, UnansweredError) and error.unable):
        return error
    if isinstance(error, RefusedError):
        if error.status in (400, 404) and about_the_model(error):
            raise UserError(f"{error}: set engine.served_model") from error
        if error.status in OF_THE_WAY and not about_the_context(error):
            return error
    raise error


async def _probe(
    server: RemoteServer,
    path: str,
    extended: bool,
    prefix: Prefix,
    request: dict[str, Any],
    decode: Callable[[list[int]], str] | None,
) -> Served:
    # A short prompt that says nothing, so that it fits and no model is certain of what follows;
    # where the filters leave one token, only log-probabilities of the policy are zero.
    served = Served(path, extended)
    body = request | served.sampled(Sampling(top_k=int(extended))) | {"max_tokens": PROBED}
    if path == COMPLETIONS:
        body |= {"prompt": prefix.token_ids[: -PROMPTED - 1 : -1].tolist()}
    else:
        body |= {"messages": [{"role": "user", "content": "?!"}]}

    async def ask() -> list[Reply]:
        async with aclosing(replies(server, path, body)) as arriving:
            pieces = [piece async for piece in arriving]
        reduce(Reply.then, pieces, Reply()).check_end()
        return pieces

    pieces = await server.again(ask, probing=True)
    logprobs = [value for piece in pieces for value in piece.logprobs]
    if all(map(math.isnan, logprobs)):
        raise LackingError(
            f"the server at {server.url} gives no log-probabilities of its tokens in streams of "
            f"{path}: they are a part of every search tree"
        )
    if wrong := no_numbers(server.url, logprobs):
        raise LackingError(wrong)
    sampled = [piece for piece in pieces if piece.text or piece.logprobs]
    how = replace(
        served,
        gives_ids=all(piece.token_ids is not None for piece in sampled),
        is_vllm=any(piece.prompt_ids is not None for piece in pieces),
        of_the_policy=extended and all(map(_is_first, logprobs)),
    )
    if how.gives_ids and decode is not None:
        _check_text(server, pieces, decode, whole=how.is_vllm)
    return how


def _is_first(logprob: float) -> bool:
    """Whether a token's log-probability is that of the only one that ``top_k: 1`` left, or of one
    of several that are equal."""
    tied = round(math.exp(min(-logprob, math.log(2 * MOST_TIED))))
    return tied <= MOST_TIED and abs(logprob + math.log(max(1, tied))) < ROUNDING


def _check_text(
    server: RemoteServer, pieces: list[Reply], decode: Callable[[list[int]], str], whole: bool
) -> None:
    """Raises UserError where the sampled tokens have another text by our tokenizer. ``whole``:
    whether the server gives all tokens, those that end within a character too."""
    theirs = "".join(piece.text for piece in pieces)
    ours = decode([token for piece in pieces for token in piece.token_ids or ()])
    broken = not whole and UNFINISHED in ours + theirs
    if not broken and ours.rstrip(UNFINISHED).strip() != theirs.rstrip(UNFINISHED).strip():
        raise UserError(
            f"the server at {server.url} has another tokenizer than model.name: its tokens make "
            f"{ours[:40]!r} here and {server.shown(theirs[:40])!r} there; serve the same model"
        )


async def context(
    server: RemoteServer, name: str, path: str = "/models", key: str = "engine"
) -> int | None:
    """Tokens of the model's context, from the server's list of models; None where it has no list or
    does not say. Raises UserError where the list does not have the model.

    Args:
        server: to be asked.
        name: the model's.
        path: of the list.
        key: of the recipe, under which the name is set.
    """
    try:
        reply = await server.again(partial(server.json, path), probing=True)
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        return None
    except UnansweredError as error:
        if not error.unable:
            raise
        return None
    listed = _listed(reply)
    if listed and name not in listed:
        raise UserError(
            f"the server at {server.url} has no model {name!r} but "
            f"{server.shown(', '.join(sorted(listed)[:5]))}: set {key}.served_model"
        )
    about = listed.get(name, {})
    limit: Any = about.get("max_model_len") or mapping(about.get("meta")).get("n_ctx")  # llama.cpp
    return limit if is_int(limit) and limit > 0 else None


def _listed(reply: Any) -> dict[str, dict[str, Any]]:
    """What is known of each model by its name, from a list in one of several shapes."""
    models = reply
    for key in ("data", "models"):
        if isinstance(models, dict):
            models = models.get(key) or models
    if isinstance(models, dict) and models.get("object") == "model":
        models = [models]
    listed = {}
    for model in models if isinstance(models, list) else []:
        about = model if isinstance(model, dict) else {"id": model}
        aliases = about.get("aliases")
        names = [about.get(key) for key in ("id", "name", "model")]
        names += aliases if isinstance(aliases, list) else []
        listed.update({name: about for name in names if isinstance(name, str)})
    return listed

"""A server that speaks OpenAI's protocol from a random model, in several dialects, with faults to
be injected."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import torch
from random_models import EOS, VOCABULARY, model, tokenizer

from butwait.engines.servers.probe import PROBED

MODEL = "toy"
FAULTS = ("status", "broken off", "no JSON", "silence", "hung up", "error event")
Verbatim = tuple[int, dict[str, str], bytes]


def probing(body: dict[str, Any]) -> bool:
    """Whether it is only to be seen how the server answers."""
    return bool(body["max_tokens"] == PROBED and not body.get("seed"))


def next_logprobs(path: np.ndarray | list[int]) -> np.ndarray:
    """float32 (V,): of the token after a path."""
    with torch.inference_mode():
        logits = model()(torch.from_numpy(np.asarray(path, np.int64))[None]).logits[0, -1]
    return logits.float().log_softmax(-1).numpy()


@dataclass
class Toy:
    """How the server behaves, and what it was asked.

    Attributes:
        dialect: ``vllm`` (ids, echo, stop strings), ``llama.cpp`` (ids in the log-probabilities),
            ``text`` (no ids) or ``strict`` (as ``text``, and refuses parameters it does not know).
        completions: whether it has them beside chats.
        raw: whether log-probabilities are those before the filters.
        silent: whether it gives no log-probabilities (in ``completions`` alone, or anywhere).
        whole_only: whether log-probabilities and ids are left out of streams of completions.
        script: texts to be said one after another, token by token with -0.5 nats; empty: the
            random model.
        faults: what goes wrong with the next streams: (kind, status or seconds, headers).
        verbatim: what the next streams are instead, as it is: (status, headers, body).
        piece: bytes of it that are sent at a time.
        models: what its list of models is instead: (status, headers, body).
        no_token_prompts: the status with which it answers a prompt of token ids; None: it takes it.
        other_prompt: whether it says that it ran other tokens.
        drops: whether its streams leave out tokens that end within a character, as llama.cpp's do.
        limit: tokens that it samples in one request at most.
        cached: prompt tokens that it says were in its cache.
        dies_after: streams after which it hangs up on every one; None: it stays.
        asked: bodies of the streams it was asked for, faults and all, but for those of a probe.
        probes: bodies of the streams that were to show how it answers.
        probe_faults: what these get instead: (status, headers, body); None: the answer.
    """

    dialect: str = "vllm"
    completions: bool = True
    raw: bool = False
    silent: bool | str = False
    whole_only: bool = False
    script: list[str] = field(default_factory=list)
    faults: list[tuple[str, int, dict[str, str]]] = field(default_factory=list)
    verbatim: list[Verbatim] = field(default_factory=list)
    piece: int = 10**6
    models: Verbatim | None = None
    no_token_prompts: int | None = None
    other_prompt: bool = False
    drops: bool = False
    limit: int = 10**6
    cached: int = 0
    extra_prompt_tokens: int = 0
    names: tuple[str, ...] = (MODEL,)
    context: int | None = None
    dies_after: int | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    probes: list[dict[str, Any]] = field(default_factory=list)
    probe_faults: list[Verbatim | None] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def draw(self, prompt: list[int], body: dict[str, Any]) -> Iterator[tuple[int, float, str]]:
        """(token, log-probability, finish) until the reply ends."""
        scripted = None
        if self.script and body.get("stream") and not probing(body):
            scripted = [*tokenizer().encode(self.script.pop(0), add_special_tokens=False), EOS]
        rng = np.random.default_rng(body.get("seed"))
        new: list[int] = []
        while True:
            if scripted is not None:
                token, logprob = scripted[len(new)], -0.5
            else:
                token, logprob = self._sample(np.array(prompt + new), body, rng)
            new.append(token)
            finish = ""
            text = tokenizer().decode(new, skip_special_tokens=True)
            if token == EOS or any(stop in text for stop in body.get("stop", [])):
                finish = "stop"
            elif len(new) >= min(body["max_tokens"], self.limit):
                finish = "length"
            yield token, logprob, finish
            if finish:
                return

    def _sample(self, path: np.ndarray, body: dict[str, Any], rng: Any) -> tuple[int, float]:
        raw = next_logprobs(path).astype(np.float64)
        if body["temperature"] == 0:
            return int(raw.argmax()), float(raw.max())
        policy = raw / body["temperature"]
        order = np.argsort(-policy, kind="stable")
        if body.get("top_k"):
            policy[order[body["top_k"] :]] = -np.inf
        policy -= np.logaddexp.reduce(policy)
        before = np.cumsum(np.exp(policy[order])) - np.exp(policy[order])
        policy[order[before >= body["top_p"]]] = -np.inf
        policy -= np.logaddexp.reduce(policy)
        token = int(rng.choice(VOCABULARY, p=np.exp(policy) / np.exp(policy).sum()))
        return token, float((raw if self.raw else policy)[token])


KNOWN = frozenset(
    ("model", "prompt", "messages", "logprobs", "temperature", "top_p", "presence_penalty",
     "frequency_penalty", "seed", "max_tokens", "stream", "stream_options")
)  # fmt: skip


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a reply in several writes takes 40 ms
    toy: Toy

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        self.toy.headers.append(dict(self.headers))
        if self.toy.models is not None:
            status, headers, body = self.toy.models
            return self._say(status, body, headers)
        entry = {"max_model_len": self.toy.context}
        self._say(200, {"data": [{"id": name, **entry} for name in self.toy.names]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        chat = self.path.endswith("/chat/completions")
        self.toy.headers.append(dict(self.headers))
        streamed = bool(body.get("stream")) and not probing(body)
        if streamed:
            self.toy.asked.append(body)
        elif body.get("stream"):
            self.toy.probes.append(body | {"path": self.path})
            fault = self.toy.probe_faults.pop(0) if self.toy.probe_faults else None
            if fault is not None:
                return self._say(fault[0], fault[2], fault[1])
        if self.toy.dies_after is not None and len(self.toy.asked) >= self.toy.dies_after:
            return self._fail("hung up", 0, body, chat)
        if streamed and self.toy.faults:
            kind, number, headers = self.toy.faults.pop(0)
            if kind == "status":
                return self._say(number, {"error": {"message": "too\nbusy"}}, headers)
            if kind == "silence":
                time.sleep(number)
            if kind != "silence":
                return self._fail(kind, number, body, chat)
        if streamed and self.toy.verbatim:
            status, headers, raw = self.toy.verbatim.pop(0)
            self._begin_stream(status, headers)
            for i in range(0, len(raw), self.toy.piece):
                self._chunk(raw[i : i + self.toy.piece])
            return self._chunk("")
        if not chat and self.toy.no_token_prompts:
            return self._say(self.toy.no_token_prompts, {"error": "a prompt is a string"})
        if not chat and not self.toy.completions:
            return self._say(404, {"detail": "Not Found"})
        if self.toy.dialect == "strict" and (unknown := body.keys() - KNOWN):
            return self._say(400, {"error": {"message": f"unknown: {sorted(unknown)[0]}"}})
        prompt = self._chat_ids(body) if chat else body["prompt"]
        if body.get("echo"):
            return self._echo(prompt, body)
        if not body.get("stream"):
            draws = list(self.toy.draw(prompt, body))
            return self._say(200, self._event(draws, chat, prompt, body, draws[-1][2]))
        self._begin_stream()
        for event in self._stream(prompt, body, chat):
            self._chunk(f"data: {json.dumps(event)}\n\n")
        self._chunk("data: [DONE]\n\n")
        self._chunk("")

    def _chat_ids(self, body: dict[str, Any]) -> list[int]:
        going_on = body.get("continue_final_message", False)
        text = tokenizer_with_chat().apply_chat_template(
            body["messages"],
            tokenize=False,
            add_generation_prompt=not going_on,
            continue_final_message=going_on,
        )
        return tokenizer().encode(text, add_special_tokens=False)

    def _stream(self, prompt: list[int], body: dict[str, Any], chat: bool) -> Iterator[Any]:
        draws: list[tuple[int, float, str]] = []
        shown = ""
        for draw in self.toy.draw(prompt, body):
            draws.append(draw)
            text = tokenizer().decode([t for t, _, _ in draws], skip_special_tokens=True)
            if self.toy.drops and not draw[2] and text.endswith("\ufffd"):
                continue
            text = text if draw[2] else text.rstrip("\ufffd")
            first = len(draws) == 1
            yield self._event(
                [draw], chat, prompt if first else None, body, draw[2], text[len(shown) :]
            )
            shown = text
        usage: dict[str, Any] = {"prompt_tokens": len(prompt) + self.toy.extra_prompt_tokens}
        usage["prompt_tokens_details"] = {"cached_tokens": self.toy.cached}
        yield {"choices": [], "usage": usage}

    def _event(
        self,
        draws: list[tuple[int, float, str]],
        chat: bool,
        prompt: list[int] | None,
        body: dict[str, Any],
        finish: str,
        text: str | None = None,
    ) -> dict[str, Any]:
        ids = [token for token, _, _ in draws]
        values = [logprob for _, logprob, _ in draws]
        text = tokenizer().decode(ids, skip_special_tokens=True) if text is None else text
        names = [tokenizer().decode([token]) for token in ids]
        choice: dict[str, Any] = {"finish_reason": finish or None}
        choice |= {"delta": {"content": text}} if chat else {"text": text}
        if not chat and self.toy.dialect != "llama.cpp":
            choice["logprobs"] = {"tokens": names, "token_logprobs": values}
        else:
            entries = [{"token": n, "logprob": v} for n, v in zip(names, values, strict=True)]
            if self.toy.dialect == "llama.cpp":
                entries = [e | {"id": i} for e, i in zip(entries, ids, strict=True)]
            choice["logprobs"] = {"content": entries}
        if self.toy.silent is True or (self.toy.silent == "completions" and not chat):
            choice["logprobs"] = None
        bare = self.toy.whole_only and not chat and bool(body.get("stream"))
        if bare:
            choice["logprobs"] = None
        event: dict[str, Any] = {"choices": [choice]}
        if not bare and self.toy.dialect == "vllm" and body.get("return_token_ids"):
            choice["token_ids"] = ids
            other = [*prompt, EOS] if prompt and self.toy.other_prompt else prompt
            (event if chat else choice)["prompt_token_ids"] = other
            stopped = finish == "stop" and ids[-1] != EOS
            choice["stop_reason"] = body["stop"][0] if stopped else None
        return event

    def _echo(self, prompt: list[int], body: dict[str, Any]) -> None:
        if self.toy.dialect != "vllm":
            return self._say(400, {"error": {"message": "no echo here"}})
        [asked] = body["logprob_token_ids"]
        path = [*prompt, asked]
        values = [float(next_logprobs(path[:n])[path[n]]) for n in range(1, len(path))]
        greedy = int(next_logprobs(prompt).argmax())
        logprobs = {
            "tokens": [f"token_id:{token}" for token in (*prompt, greedy)],
            "token_logprobs": [None, *values[:-1], float(next_logprobs(prompt)[greedy])],
            "top_logprobs": [*[None] * len(prompt), {f"token_id:{asked}": values[-1]}],
        }
        self._say(200, {"choices": [{"logprobs": logprobs}]})

    def _fail(self, kind: str, number: int, body: dict[str, Any], chat: bool) -> None:
        self.close_connection = True
        if kind == "hung up":
            return
        self._begin_stream()
        if kind == "no JSON":
            self._chunk("data: <html>\n\n")
        elif kind == "error event":
            error = {"message": "engine died", "code": number}
            self._chunk(f"data: {json.dumps({'error': error})}\n\n")
        elif kind == "broken off":
            prompt = self._chat_ids(body) if chat else body["prompt"]
            events = self._stream(prompt, body, chat)
            for _ in range(number):
                self._chunk(f"data: {json.dumps(next(events))}\n\n")

    def _begin_stream(self, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "text/event-stream"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _say(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """A client that hangs up is part of the protocol."""


CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}\nassistant: {% endif %}"
)


def tokenizer_with_chat() -> Any:
    """The random tokenizer with a template that leaves turns as they are."""
    made = tokenizer()
    made.chat_template = CHAT_TEMPLATE
    return made


@contextmanager
def serving(toy: Toy) -> Iterator[Toy]:
    """Runs the server in a thread; ``toy.url`` is its address."""
    handler = type("Handler", (_Handler,), {"toy": toy})
    with _Server(("127.0.0.1", 0), handler) as server:
        toy.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield toy
        finally:
            server.shutdown()
            thread.join()

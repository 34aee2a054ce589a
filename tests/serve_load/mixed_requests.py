"""A thousand requests as a day brings them: good ones, bad ones, and clients that leave."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2
from served_process import QUESTION, proper_error

Body = dict[str, Any]
PATHS, TOKENS = 4, 16
"""Of a good request."""


@dataclass
class Seen:
    """What came of the requests.

    Attributes:
        kinds: of each kind, how many were finished as they should be.
        told: completion tokens by the answers' usage.
        busy: answers with 429, each of which said when to come again.
    """

    kinds: Counter[str] = field(default_factory=Counter)
    told: int = 0
    busy: int = 0


@dataclass
class Client:
    """Asks one server, and counts."""

    http: httpx2.AsyncClient
    dice: random.Random
    seen: Seen = field(default_factory=Seen)

    def chat(self, **more: Any) -> Body:
        question = {"role": "user", "content": QUESTION}
        chosen: Body = {
            "messages": [question],
            "max_tokens": TOKENS,
            "butwait": {"particles": PATHS},
        }
        return {"model": "tiny", "seed": self.dice.randrange(1000)} | chosen | more

    async def post(self, path: str, body: Body) -> httpx2.Response:
        """The answer; a server that is busy is asked again when it said."""
        while True:
            answer = await self.http.post(path, json=body)
            if answer.status_code != 429:
                return answer
            self.busy(answer)
            await asyncio.sleep(min(float(answer.headers["retry-after"]), 0.5))

    def busy(self, answer: httpx2.Response) -> None:
        assert proper_error(answer)["code"] == "queue_full"
        assert float(answer.headers["retry-after"]) >= 0
        self.seen.busy += 1

    async def good(self) -> None:
        answer = await self.post("/v1/chat/completions", self.chat())
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["choices"][0]["message"]["role"] == "assistant"
        self.count(told["usage"])

    async def several(self) -> None:
        answer = await self.post("/v1/chat/completions", self.chat(n=2))
        assert answer.status_code == 200, answer.text
        assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1]
        self.count(answer.json()["usage"])

    async def completion(self) -> None:
        body = self.chat(prompt=QUESTION)
        del body["messages"]
        answer = await self.post("/v1/completions", body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["object"] == "text_completion"
        self.count(answer.json()["usage"])

    async def stream(self, pause: float = 0.0) -> None:
        """A stream, read to its end; ``pause`` seconds before each line."""
        body = self.chat(stream=True, stream_options={"include_usage": True})
        while True:
            async with self.http.stream("POST", "/v1/chat/completions", json=body) as answer:
                if answer.status_code == 429:
                    await answer.aread()
                    self.busy(answer)
                    await asyncio.sleep(0.2)
                    continue
                assert answer.status_code == 200
                lines = []
                async for line in answer.aiter_lines():
                    lines.append(line)
                    await asyncio.sleep(pause)
                break
        data = [line[6:] for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        last = json.loads(data[-2])
        assert last["choices"] == []
        self.count(last["usage"])

    async def slow(self) -> None:
        await self.stream(pause=0.02)

    async def bad(self) -> None:
        content, status = self.dice.choice(BAD)
        body = content if isinstance(content, bytes) else json.dumps(self.chat(**content)).encode()
        headers = {"Content-Type": "application/json"}
        answer = await self.http.post("/v1/chat/completions", content=body, headers=headers)
        assert answer.status_code == status, (content, answer.text)
        proper_error(answer)

    async def huge(self) -> None:
        """A body over the limit, or a prompt over it."""
        size, statuses = self.dice.choice([(2_000_000, {413}), (200_000, {400})])
        body = self.chat(messages=[{"role": "user", "content": "7 + 8 " * (size // 6)}])
        answer = await self.http.post("/v1/chat/completions", json=body)
        assert answer.status_code in statuses, answer.text
        proper_error(answer)

    async def leaves(self) -> None:
        """A client that goes away, from an answer or from a stream."""
        body = self.chat(max_tokens=64, stream=self.dice.random() < 0.5)
        asking = asyncio.ensure_future(self.http.post("/v1/chat/completions", json=body))
        await asyncio.sleep(self.dice.random() * 0.3)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    async def looks(self) -> None:
        path, status = self.dice.choice(LOOKS)
        answer = await self.http.get(path)
        assert answer.status_code == status, path
        if status >= 400:
            proper_error(answer)

    def count(self, usage: Body) -> None:
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert usage["completion_tokens"] > 0
        self.seen.told += usage["completion_tokens"]


BAD: list[tuple[bytes | Body, int]] = [
    (b"{", 400),
    (b"[]", 400),
    (b"", 400),
    (b"\xff\xfe", 400),
    ({"messages": []}, 400),
    ({"messages": [{"role": "user", "content": 7}]}, 400),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400),
    ({"temperature": -1}, 400),
    ({"n": 10_000}, 400),
    ({"max_tokens": 0}, 400),
    ({"butwait": {"particles": 0}}, 400),
    ({"butwait": {"particles": 10**9}}, 400),
    ({"butwait": {"method": "none_of_these"}}, 400),
    ({"model": "another"}, 404),
    ({"model": "tiny@pf-99999999999999"}, 404),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400),
    ({"no_such_field": 1}, 400),
]
"""Bytes as they are sent, or what they change of a good body; the status they are answered."""
LOOKS = [
    ("/v1/models", 200),
    ("/healthz", 200),
    ("/metrics", 200),
    ("/nothing", 404),
    ("/v1/chat/completions", 405),
]
SHARES: dict[str, int] = {
    "good": 30,
    "several": 3,
    "completion": 7,
    "stream": 10,
    "slow": 5,
    "bad": 20,
    "huge": 5,
    "leaves": 15,
    "looks": 5,
}
"""Of a hundred requests."""
WITHOUT_LEAVING = {kind: share for kind, share in SHARES.items() if kind != "leaves"}


async def mixed(
    base: str, count: int, together: int = 100, seed: int = 0, shares: dict[str, int] = SHARES
) -> Seen:
    """So many requests, ``together`` at once."""
    dice = random.Random(seed)
    kinds = dice.choices(list(shares), list(shares.values()), k=count)
    limits = httpx2.Limits(max_connections=together)
    gate = asyncio.Semaphore(together)
    async with httpx2.AsyncClient(
        base_url=base, timeout=120, limits=limits, trust_env=False
    ) as http:
        client = Client(http, dice)

        async def one(kind: str) -> None:
            act: Callable[[], Awaitable[None]] = getattr(client, kind)
            async with gate:
                await act()
            client.seen.kinds[kind] += 1

        async with asyncio.TaskGroup() as group:
            for kind in kinds:
                group.create_task(one(kind))
    assert sum(client.seen.kinds.values()) == count
    return client.seen

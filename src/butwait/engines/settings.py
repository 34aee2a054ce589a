"""What an engine takes. Imports no torch."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from butwait.engines.checkpoints.folders import look_into
from butwait.records.settings import Content, Device, Resource, Result, Settings, Shape
from butwait.running.devices import DeviceName

SENTENCE_MARKS = ".!?"
"""What a sentence may end with."""


def without_login(url: str) -> str:
    """A text with an address, without the name and password that stand in it."""
    return re.sub(r"//[^/]*@", "//", url)


class Sampling(Settings):
    """How tokens are drawn from the policy."""

    temperature: Result[Annotated[float, Field(ge=0)]] = 1.0
    """Divides the logits; 0 is greedy decoding."""
    top_p: Result[Annotated[float, Field(gt=0, le=1)]] = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this."""
    top_k: Result[Annotated[int, Field(ge=0)]] = 0
    """Keep the k likeliest tokens; 0 keeps all."""


class StepRule(Settings):
    """Where a step of reasoning ends, and where a path must."""

    delimiters: Result[tuple[Annotated[str, Field(min_length=1)], ...]] = ("\n\n",)
    """A step ends with the token that completes one of these; none: the path is one step."""
    sentences: Result[bool] = False
    """A step also ends where a sentence does: at ``.``, ``!`` or ``?``, not after a number, a
    single letter or an abbreviation, and not inside of ``$...$`` or braces."""
    think_end: Result[Annotated[str, Field(min_length=1)] | None] = None
    """For models that think before they answer: what closes the thought (``</think>``). Steps are
    cut up to there, it ends a step itself, and the answer after it is one step. A box inside the
    thought ends nothing, wherever the thought was opened (some templates open it in the prompt)."""
    max_step_tokens: Result[Annotated[int, Field(gt=0)] | None] = None
    """Tokens after which a step is cut (finish ``step_limit``); None: no limit of its own."""
    max_tokens: Result[Annotated[int, Field(gt=0)]] = 2048
    """Tokens of a whole completion; a path that reaches it ends truncated (finish ``length``)."""
    stop_at_box: Result[bool] = True
    r"""End the path when a ``\boxed{...}`` outside ``<think>`` closes (finish ``box``). It holds
    for every method, base evaluation included."""

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts that end a step wherever they come, in the answer behind ``think_end`` too: no
        recipe has any (``StoppedRule``)."""
        return ()

    def room(self, completion_length: int) -> int:
        """The most tokens that the next step may take after so many of the completion."""
        left = max(0, self.max_tokens - completion_length)
        return left if self.max_step_tokens is None else min(left, self.max_step_tokens)

    def stop_strings(self, text: str) -> tuple[str, ...]:
        """Strings for a server to stop at after the completion ``text``: every step that text
        ends, but for a box, ends with one of them. Not every one of them ends a step."""
        if self.think_end is not None and self.think_end in text:
            return self.stops
        marks = tuple(SENTENCE_MARKS) if self.sentences else ()
        think_end = [self.think_end] if self.think_end else []
        return (*self.delimiters, *marks, *think_end, *self.stops)


class StoppedRule(StepRule):
    """A step rule, and the texts at which a client of a server wants its paths to end. The engine
    ends a step there; that the path goes no further is the server's to see to."""

    stop: Result[tuple[Annotated[str, Field(min_length=1)], ...]]
    """What ends a path."""

    @property
    def stops(self) -> tuple[str, ...]:
        return self.stop


class ModelSettings(Settings):
    """A language model and how it is run."""

    name: Content[str]
    """``tiny`` (ships with the package), ``smollm2``, a Hugging Face id, or a folder."""
    revision: Result[str | None] = None
    """Commit of a Hugging Face id; pin it for a run to be repeatable."""
    dtype: Result[Literal["float32", "bfloat16"]] = "float32"
    device: Device[DeviceName] = "auto"
    """``auto`` takes CUDA where there is one; else ``cpu``, ``cuda``, ``cuda:1``."""

    def look(self, world: Any) -> None:
        look_into(world, self.name, self.revision, "name", weights=False)


class BaseEngineSettings(Settings):
    """What every kind of engine takes."""

    kind: str
    """The engine's name."""
    live_tokens: Resource[Literal["auto"] | Annotated[int, Field(gt=0)] | None] = None
    """The most tokens of all paths that are being extended at a time: what they hold, what they
    share counted once, and what their next steps may take. ``auto``: as many as the engine's cache
    takes, by what it says of itself while it runs. None: only the rows are bounded. Searches that
    began earlier go first."""


class ModelEngineSettings(BaseEngineSettings):
    """What an engine takes that runs the recipe's model."""

    capacity: Result[Annotated[int, Field(gt=0)] | None] = None
    """Tokens per path, prompt included; None: what the prompt and the path's limit need."""


class SlotSettings(ModelEngineSettings):
    """What an engine takes that runs the model over a cache of slots in this process."""

    slots: Shape[Annotated[int, Field(gt=0)]] = 64
    """Rows of the KV cache: the most paths that are in flight or parked at once."""
    prefill_chunk: Shape[Annotated[int, Field(gt=0)]] = 64
    """Tokens of a prompt that are run at a time."""
    deterministic: Result[bool] = False
    """Fixed shapes (rows, capacity, chunk), so that a row's numbers do not depend on what shares
    the batch. Slower; its cost is measured in ``benchmarks/``."""


class ServerSettings(Settings):
    """How a model's server is asked."""

    base_url: Resource[str | tuple[str, ...]]
    """Up to and with ``/v1``. A list: several servers of the same model, which share the work
    (``docs/how_to/server.md``)."""
    api_key_env: Resource[str] = "OPENAI_API_KEY"
    """Environment variable that holds the key (blanks around it are cut off); servers without keys
    need none."""
    timeout_s: Resource[Annotated[float, Field(gt=0)]] = 600.0
    """Seconds without anything said until a request counts as lost. Comments that keep a connection
    alive say nothing."""
    retries: Resource[Annotated[int, Field(ge=0)]] = 6
    """Further attempts after a time-out, a lost connection, or status 408, 425, 429 or 5xx."""

    @field_validator("base_url")
    @classmethod
    def _each_once(cls, base_url: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(base_url, tuple):
            if not base_url:
                raise ValueError("an empty list names no server; give an address at least")
            shown = [without_login(url.strip().rstrip("/")) for url in base_url]
            twice = next((url for url in shown if shown.count(url) > 1), None)
            if twice is not None:
                raise ValueError(f"{twice} stands there twice; name each server once")
        return base_url

    @property
    def urls(self) -> tuple[str, ...]:
        """The addresses, at least one."""
        return (self.base_url,) if isinstance(self.base_url, str) else self.base_url

    def look(self, world: Any) -> None:
        world.servers(self.urls, "base_url")


def refused_spread(kv_heads: int, heads: int, devices: int) -> str | None:
    """Why one copy of a model cannot be spread over so many devices; None: it can.

    Each device has as many query heads, and as many key and value heads; or several devices have
    copies of the same one of these.
    """
    if heads % devices == 0 and (kv_heads % devices == 0 or devices % kv_heads == 0):
        return None
    *fewer, most = allowed_tensor_parallel(kv_heads, heads)
    able = f"{', '.join(map(str, fewer))} or {most}" if fewer else str(most)
    return f"{devices} GPUs cannot share its {kv_heads} key and value heads evenly: set {able}"


def allowed_tensor_parallel(kv_heads: int, heads: int) -> list[int]:
    """Devices that one copy of a model can be spread over with nothing held twice: each has as many
    query heads, and as many key and value heads."""
    return [n for n in range(1, kv_heads + 1) if kv_heads % n == 0 and heads % n == 0]

"""What a server takes. Imports neither torch nor FastAPI."""

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from butwait.records import UserError
from butwait.records.settings import Resource, Settings
from butwait.running import mistakes

Count = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]


class ServeSettings(Settings):
    """What `butwait serve` serves, and its limits: the words of `butwait.solve`, and some more."""

    model: Resource[str | dict[str, Any]] = "tiny"
    """``tiny``, ``smollm2``, a Hugging Face id, a folder, or a recipe's ``model``."""
    method: Resource[str | dict[str, Any] | None] = None
    """How a request is searched that names no method: a sampler's name, or a recipe's ``sampler``;
    None: the particle filter."""
    particles: Resource[Count | None] = None
    """Paths of that method; None: its default."""
    methods: Resource[dict[str, str | dict[str, Any]]] = Field(default_factory=dict)
    """Further methods by a name of one's own (``MODEL@NAME``): samplers as in a recipe."""
    reward_model: Resource[str | dict[str, Any] | None] = None
    """A recipe's ``reward_model``; None: the policy's own confidence."""
    engine: Resource[str | dict[str, Any] | None] = None
    """A recipe's ``engine``, or the address of a server that speaks OpenAI's protocol; None: the
    model is run in this process."""
    prompt: Resource[dict[str, Any] | None] = None
    """A recipe's ``prompt``: how a chat's last message is put."""
    step: Resource[dict[str, Any] | None] = None
    """Where a step ends, and a path where a request does not say."""
    sampling: Resource[dict[str, Any] | None] = None
    """How tokens are drawn where a request does not say."""
    workers: Resource[dict[str, Any] | None] = None
    """A recipe's ``workers``. Those elsewhere tell nothing on the way: answers are streamed at the
    end."""
    max_body_bytes: Resource[Count] = 1 << 20
    """Of a request; more is status 413."""
    max_prompt_tokens: Resource[Count] = 4096
    """Of a prompt; less where the model's context is shorter. More is status 400."""
    max_tokens: Resource[Count] = 2048
    """The most tokens of a path that a request may ask for. Where it is not set, a method's longer
    ``step.max_tokens`` is."""
    max_paths: Resource[Count] = 512
    """The most paths of a request: ``n`` times the particles."""
    concurrency: Resource[Count] = 64
    """Requests that are searched at a time; their steps share the engine's batch."""
    queue: Resource[Annotated[int, Field(ge=0)]] = 256
    """Requests that may wait for a place; one more is status 429."""
    timeout_s: Resource[Seconds] = 600.0
    """Seconds of a search; a request may ask for less."""
    body_timeout_s: Resource[Seconds] = 30.0
    """Seconds in which the whole of a request must have come."""
    keep_alive_s: Resource[Seconds] = 10.0
    """Seconds without anything said after which a stream says that it is alive."""
    drain_s: Resource[Annotated[float, Field(ge=0)]] = 30.0
    """Seconds that searches get to end by themselves when the server is told to stop."""


def serve_settings(config: Path | None, **options: Any) -> ServeSettings:
    """The settings of a YAML file, with the options of a command line that are not None on top.

    Raises UserError for a file that cannot be read, and for what no setting takes.
    """
    content = {} if config is None else _read(config)
    content |= {name: value for name, value in options.items() if value is not None}
    try:
        return ServeSettings.model_validate(content)
    except ValidationError as error:
        where = "butwait serve" if config is None else str(config)
        raise UserError(f"{where}: {mistakes.told(ServeSettings, content, error)}") from error


def _read(config: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"the settings {config} cannot be read: {reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{config} is no valid YAML: {' '.join(str(error).split())}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{config} holds no settings: write `model: ...` (docs/serve.md)")
    return {str(key): value for key, value in content.items()}

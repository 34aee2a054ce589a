"""What servers say of their caches at ``/metrics``, as vLLM's do (Prometheus' text)."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from butwait.engines.scheduling.loads import Load, load_of, together
from butwait.engines.servers.remote_server import LostError, RemoteServer
from butwait.engines.settings import ServerSettings
from butwait.records import UserError

PATIENCE_S = 10.0
"""For one look."""


class _Page(RemoteServer):
    """What stands beside the paths of a server."""

    async def text(self, path: str) -> str:
        """Raises LostError and RefusedError."""
        async with self._response(path, None) as response:
            return (await self._whole(response)).decode(errors="replace")


class MetricsPages:
    """The loads of servers that have the same model. Their connections are their own: those of the
    requests may all be in use.

    Args:
        settings: how they are asked.
        urls: of the servers, up to and with ``/v1``.
    """

    def __init__(self, settings: ServerSettings, urls: Sequence[str]) -> None:
        roots = [url.strip().rstrip("/").removesuffix("/v1") for url in urls]
        self._last: dict[_Page, Load] = {}
        self._pages = [_Page(settings, root, 1, "engine.base_url") for root in roots]

    async def load(self) -> Load | None:
        """Of all together; one that says nothing now counts as idle. None where none says
        anything."""
        now = dict(zip(self._pages, await asyncio.gather(*map(_load, self._pages)), strict=True))
        known = {page: load for page, load in now.items() if load is not None}
        self._last |= known
        idle = [
            replace(load, kv_use=0.0, running=0, waiting=0)
            for page, load in self._last.items()
            if page not in known
        ]
        return together([*known.values(), *idle]) if known else None

    async def close(self) -> None:
        for page in self._pages:
            await page.close()


async def _load(page: _Page) -> Load | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return load_of(await page.text("/metrics"))
    except (LostError, UserError, TimeoutError):
        return None

"""``butwait serve``: answers with a search behind them, by OpenAI's protocol."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from butwait.cli.solve import reward_model_of
from butwait.running.packages import require
from butwait.server.settings import serve_settings

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
"""Of the extra ``serve``."""


def serve(
    config: Path | None,
    options: Mapping[str, Any],
    reward_model: str | None,
    host: str,
    port: int,
    api_key_env: str | None,
) -> None:
    """Serves until it is told to stop.

    Raises UserError for settings that do not fit, a package or a key that is not there, a model
    that cannot be loaded, and an address that cannot be had.
    """
    for package in PACKAGES:
        require(package, "butwait serve", "'butwait[serve]'")
    settings = serve_settings(config, reward_model=reward_model_of(reward_model), **options)
    from butwait.server.serve import serve as run  # heavy

    run(settings, host, port, api_key_env)

"""``butwait serve``: answers with a search behind them, by OpenAI's protocol."""

from pathlib import Path
from typing import Annotated

import typer

from butwait.cli.commands import RewardModelOption, ServerOption, command
from butwait.cli.completion import methods, models

PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
"""Of the extra ``serve``."""


@command()
def serve(
    model: Annotated[
        str | None,
        typer.Option(
            help="tiny, smollm2, a Hugging Face id, or a folder; tiny if none.",
            autocompletion=models,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Of requests that name none; the particle filter if none.", autocompletion=methods
        ),
    ] = None,
    particles: Annotated[
        int | None, typer.Option(min=1, help="Paths of that method; its default if none.")
    ] = None,
    reward_model: RewardModelOption = None,
    server: ServerOption = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of settings; options win over it.")
    ] = None,
    host: Annotated[str, typer.Option(help="Beyond this machine only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: one that is free.")] = 8000,
    api_key_env: Annotated[
        str | None,
        typer.Option(help="Environment variable that holds the key, or several with commas."),
    ] = None,
) -> None:
    """Serve a model with a search behind every answer, by OpenAI's protocol."""
    from butwait.cli.solve import reward_model_of
    from butwait.running.packages import require
    from butwait.server.settings import serve_settings

    for package in PACKAGES:
        require(package, "butwait serve", "'butwait[serve]'")
    given = {"model": model, "method": method, "particles": particles, "engine": server}
    judge = reward_model_of(reward_model)
    settings = serve_settings(config, reward_model=judge, **given)
    from butwait.server.serve import serve as run  # heavy

    run(settings, host, port, api_key_env)

"""The recipes that come with butwait."""

from importlib import resources
from pathlib import Path


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of the recipes that come with butwait (in the wheel, or in the checkout)."""
    installed = Path(str(resources.files("butwait"))) / "recipes"
    folder = installed if installed.is_dir() else Path(__file__).parents[3] / "recipes"
    files = sorted(folder.rglob("*.yaml"))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}

"""Packages that only some settings need."""

from importlib.util import find_spec

from butwait.records import UserError


def require(package: str, setting: str, install: str | None = None) -> None:
    """Raises UserError where a package is not installed.

    Args:
        package: as it is imported.
        setting: what needs it.
        install: what pip is to install, where it has another name.
    """
    if find_spec(package) is None:
        raise UserError(f"{setting} needs the package {package}: pip install {install or package}")

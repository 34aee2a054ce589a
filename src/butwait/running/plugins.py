"""A user's own function, named ``module:function`` in a recipe."""

import importlib
import sys
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from butwait.records import UserError


def load_plugin(name: str, what: str) -> Any:
    """The object that ``module:function`` names; modules in the current folder are found too.

    Args:
        name: such as ``my_rewards:strict``.
        what: what it is for, for the error's sentence.

    Raises:
        UserError: no such module or function.
    """
    module_name, colon, attribute = name.partition(":")
    if not colon or not module_name.strip(".") or module_name[0] == "." or not attribute:
        raise UserError(f"{what}: {name!r} is not of the form module:function")
    _find_modules_here()
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        near = get_close_matches(module_name, [file.stem for file in Path.cwd().glob("*.py")], n=1)
        meant = f"; did you mean {near[0]}?" if near and near[0] != module_name else ""
        raise UserError(
            f"{what}: {name!r} cannot be imported ({error}); it must be installed, or a file in "
            f"the current folder{meant}"
        ) from error
    except Exception as error:  # whatever a user's module raises
        raise UserError(
            f"{what}: {name!r} cannot be imported: the module {module_name!r} ends in "
            f"{type(error).__name__} ({error}); mend it"
        ) from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        near = get_close_matches(attribute, dir(module), n=1)
        meant = f"; did you mean {near[0]}?" if near else ""
        told = f"{what}: the module {module_name!r} has no {attribute!r}{meant}"
        raise UserError(told) from error


def source_file(name: str) -> Path | None:
    """The file of the module in ``module:function``; None where there is none."""
    _find_modules_here()
    try:
        spec = find_spec(name.partition(":")[0])
    except (ImportError, SyntaxError, ValueError):  # told where it is loaded
        return None
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _find_modules_here() -> None:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)

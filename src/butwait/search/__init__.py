"""Samplers, their trees, and storing these. As a function, ``butwait.search``: the package is
called like it, so it can be called."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Search(ModuleType):
    def __call__(self, *args: Any, **options: Any) -> Any:
        """``butwait.api.searching.search``."""
        return import_module("butwait.api.searching").search(*args, **options)


sys.modules[__name__].__class__ = _Search

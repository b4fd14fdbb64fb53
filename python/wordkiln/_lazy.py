"""Public names that need torch, imported when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from wordkiln.errors import DependencyError


def import_name(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """What `name` of `package` stands for.

    Args:
        package: its full name.
        name: one of its public names.
        modules: of such a name, the module that defines it.

    Raises:
        AttributeError: there is no such name.
        DependencyError: torch is not installed.
    """
    if name not in modules:
        raise AttributeError(f"module {package!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(modules[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise DependencyError(f"{package}.{name} needs torch: pip install 'wordkiln[train]'") from error

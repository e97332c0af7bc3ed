"""Names of methods and problems: a short name, an installed package's entry point, or an import string."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any


def find(kind: str, name: str, table: Mapping[str, str], group: str) -> Callable[..., Any]:
    """Return the function that a name stands for. Raises ValueError: see `target_of`, `import_object`."""
    return import_object(kind, target_of(kind, name, table, group))


def target_of(kind: str, name: str, table: Mapping[str, str], group: str) -> str:
    """Return the import string "package.module:function" that a name stands for. Raises ValueError: no such name.

    Args:
        kind: "method" or "problem", for messages.
        table: short name -> import string "package.module:function".
        group: of the entry points that installed packages may offer under short names.
    """
    if name in table or ":" in name:
        return table.get(name, name)
    installed = {entry.name: entry.value for entry in entry_points(group=group)}
    if name in installed:
        return installed[name]
    raise ValueError(f"unknown {kind} {name!r}; choose from {listing([*table, *installed])}")


def import_object(kind: str, target: str) -> Callable[..., Any]:
    """Import "package.module:function". Raises ValueError: no such part; ModuleNotFoundError: a missing import."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute.isidentifier():
        raise ValueError(f"the {kind} {target!r} must have the form package.module:function")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not f"{module_name}.".startswith(f"{error.name}."):  # something that it imports
            raise ModuleNotFoundError(f"{kind} {target!r}: {error}", name=error.name) from error
        where = "in the current folder or among installed packages"
        raise ValueError(f"{kind} {target!r}: there is no module {error.name!r} {where}") from error
    except Exception as error:  # in the user's code
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{kind} {target!r}: {module_name} cannot be imported ({reason})") from error
    if not hasattr(module, attribute):
        raise ValueError(f"{kind} {target!r}: the module {module_name} has no function {attribute!r}")
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"{kind} {target!r}: {attribute} in {module_name} is not a function")
    return function


def listing(names: Iterable[str]) -> str:
    """Return the names for a message or a help text, with the import string as the last choice."""
    return f"{', '.join(names)}, or package.module:function of your own"

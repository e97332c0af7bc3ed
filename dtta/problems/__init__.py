"""Worlds, data, models and metrics, combined into a ``Problem`` by name.

May import ``dtta.core`` only; methods are a sibling that no problem knows. To add a problem, write a function that
returns a ``Problem`` and one line in ``registry.py``.
"""

from dtta.problems.registry import PROBLEMS, load, module, recipes_of

__all__ = ["PROBLEMS", "load", "module", "recipes_of"]

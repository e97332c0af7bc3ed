"""One file for each method: its class, and ``build``, which makes it from a problem and plain settings.

May import ``dtta.core`` only. To add a method, write its file and one line in ``registry.py``.
"""

from dtta.methods.registry import METHODS, build, methods_for, online, settings_of

__all__ = ["METHODS", "build", "methods_for", "online", "settings_of"]

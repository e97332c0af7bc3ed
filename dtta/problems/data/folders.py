"""Folders for data sets and for files that the package makes. Imports only the standard library."""

from __future__ import annotations

import os
from pathlib import Path


def data_folder() -> Path:
    """Return the folder of data sets: $DTTA_DATA or ~/.cache/dtta/data."""
    return _folder("DTTA_DATA", "~/.cache/dtta/data")


def cache_folder() -> Path:
    """Return the folder of files that the package makes, such as results and rendered scenes: $DTTA_CACHE or
    ~/.cache/dtta."""
    return _folder("DTTA_CACHE", "~/.cache/dtta")


def _folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or default).expanduser()


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

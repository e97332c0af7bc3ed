"""Folders for data sets and for files that the package makes. Imports only the standard library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


class IncompleteError(FileNotFoundError):
    """Some images of a data set are missing. The message is one sentence: how many, and what to do."""


def check_counts(name: str, folder: Path, counts: Mapping[str, tuple[int, int]], remedy: str) -> None:
    """Raise IncompleteError if a data set has less than was published; `counts`: noun -> (present, published)."""
    lacking = [
        f"{present:,} of {published:,} {noun}" for noun, (present, published) in counts.items() if present < published
    ]
    if lacking:
        there = " and ".join(lacking)
        raise IncompleteError(f"{name} in {folder} is incomplete, it has only {there}; to get it again: {remedy}")


def data_folder() -> Path:
    """Return the folder of data sets: $DTTA_DATA or ~/.cache/dtta/data."""
    return folder_from("DTTA_DATA", "~/.cache/dtta/data")


def cache_folder() -> Path:
    """Return the folder of files that the package makes, such as results: $DTTA_CACHE or ~/.cache/dtta."""
    return folder_from("DTTA_CACHE", "~/.cache/dtta")


def folder_from(variable: str, default: str | Path) -> Path:
    """Return the folder that an environment variable names, or the default; ~ is expanded."""
    return Path(os.environ.get(variable) or default).expanduser()


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

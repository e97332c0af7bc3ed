"""Folders for data sets and for files that the package makes. Imports only the standard library."""

from __future__ import annotations

import os
from argparse import ArgumentTypeError
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
    """Return the folder that an environment variable names, or the default; ~ is expanded.

    Raises FileNotFoundError: ~ stands for the home folder of a user who has none.
    """
    path = Path(os.environ.get(variable) or default)
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{path} names no folder, for there is no such home: set {variable}") from error


def output_folder(text: str | Path) -> Path:
    """Return a folder that can be written; it need not exist yet. Raises ArgumentTypeError: it cannot."""
    if not str(text):
        raise ArgumentTypeError("the name of a folder must not be empty")
    path = Path(text).expanduser()
    existing = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not existing.is_dir():
        raise ArgumentTypeError(f"{existing} is a file; name a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ArgumentTypeError(f"{existing} cannot be written; change its permissions or name another folder")
    return path


def output_file(text: str) -> Path:
    """Return a file that can be written; neither it nor its folder need exist. Raises ArgumentTypeError: it cannot."""
    path = Path(text).expanduser()
    if path.is_dir():
        raise ArgumentTypeError(f"{path} is a folder; name a file")
    return output_folder(path.parent) / path.name


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Add a file's name to errors of the file system that have none, such as those of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno:
            error.filename = str(path)
        raise


def one_line(error: Exception) -> str:
    """Return the first line of an error's message, or the error's type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

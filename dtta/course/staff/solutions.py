"""The solutions as students get them, after the deadline: run, with outputs, and without the hidden tests."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import nbformat

from dtta.course.staff import build, dates
from dtta.course.staff.source import Assignment, CourseError

FOLDER = "released_solutions"
_HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS\n?", re.MULTILINE | re.DOTALL)
_MARKER = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION\n?", re.MULTILINE)


def too_early(folder: Path, keys: list[str], now: dt.datetime) -> list[str]:
    """Why solutions must wait, a sentence for each assignment; empty if none must."""
    deadlines = dates.read(folder)
    reasons = []
    for key in keys:
        last = deadlines.last(key)
        if last is None:
            reasons.append(f"{key} has no deadline in {folder / dates.FILE}")
        elif now <= last:
            extended = last != deadlines.deadlines.get(key)
            reasons.append(f"{key} is due on {last:%Y-%m-%d %H:%M %Z}" + (", by an extension" if extended else ""))
    return reasons


def sources(folder: Path, keys: list[str]) -> dict[str, Path]:
    """The notebooks with solutions, by assignment; with keys, of these.

    Raises:
        CourseError: an assignment that was never built here.
    """
    there = {path.parent.name: path for path in sorted((folder / "source").glob("*/*.ipynb"))}
    if unknown := [key for key in keys if key not in there] or ([] if there else ["any assignment"]):
        raise CourseError(f"{folder}/source has no {', '.join(unknown)}; call: dtta course build --to {folder}")
    return {key: path for key, path in there.items() if not keys or key in keys}


def release(folder: Path, key: str, path: Path) -> Path:
    """Write released_solutions/a1_NAME.ipynb.

    Raises:
        CourseError: the solution fails.
    """
    notebook = nbformat.read(path, as_version=4)
    kept = []
    for cell in notebook.cells:
        source = _HIDDEN.sub("", cell.source)
        if source != cell.source and all(line.startswith("#") for line in source.split("\n") if line.strip()):
            continue  # nothing but hidden tests and a comment on them
        cell.source = _MARKER.sub("", source).rstrip("\n")
        cell.metadata.pop("nbgrader", None)
        kept.append(cell)
    notebook.cells = kept
    to = folder / FOLDER / path.name
    build.write(build.run(Assignment(key, path.stem, path.stem, [], notebook)), to)
    return to

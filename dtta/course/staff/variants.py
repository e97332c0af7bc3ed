"""A variant of the data for each student: seeds.csv in the course folder, and the notebooks that go with it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dtta.course.staff import roster
from dtta.course.staff.roster import Person
from dtta.course.staff.source import CourseError

FILE = "seeds.csv"
RELEASE = "release_each"  # release_each/NAME/a1/a1_NAME.ipynb
COLUMN = "seed"  # of a roster whose lecturer chooses the seeds
_CALL = re.compile(r"\bcheck\.variant\(-?\d+\)")


def read(folder: Path) -> dict[str, int]:
    """The seeds by student, as named in submitted/; empty if all have the course's.

    Raises:
        CourseError: seeds.csv is not understood.
    """
    path = folder / FILE
    if not path.is_file():
        return {}
    header, rows = roster.table(path)
    if not {"student", COLUMN} <= set(header):
        raise CourseError(f"{path} needs the columns student and {COLUMN}")
    names = [row.get("student", "").strip().removeprefix("'") for row in rows]  # `write_table` puts it before @ and -
    return {name: _number(path, name, row.get(COLUMN, "")) for name, row in zip(names, rows, strict=True)}


def choose(folder: Path, people: Iterable[Person], seed: int, table: Path | None = None) -> dict[str, int]:
    """Write seeds.csv: each student's seed there, or else that of the table of students, or one made from the course's.

    Raises:
        CourseError: a seed in one of the tables is no whole number.
    """
    seeds = read(folder)
    for person in people:
        if person.key in seeds:  # has the notebook
            continue
        chosen = next((value for header, value in person.fields.items() if header.strip().lower() == COLUMN), "")
        if chosen.strip():
            seeds[person.key] = _number(table or folder / roster.FILE, person.key, chosen)
        else:
            seeds[person.key] = derived(seed, person.key)
    roster.write_table(folder / FILE, ["student", COLUMN], sorted(seeds.items()))
    return seeds


def derived(seed: int, student: str) -> int:
    """A student's seed, made from the course's and the name in submitted/."""
    return int.from_bytes(hashlib.sha256(f"{seed} {student}".encode()).digest()[:4]) % 10**8


def personal(text: str, seed: int | None) -> str:
    """The text of a setup cell under a student's seed; None: as it is."""
    return text if seed is None else _CALL.sub(f"check.variant({seed})", text)


def personalize(notebook: NotebookNode, seed: int | None) -> NotebookNode:
    """The notebook that a student with this seed gets, from the one of the course, which is changed."""
    for cell in notebook.cells:
        about = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and about.get("locked") and not about.get("grade"):
            cell.source = personal(cell.source, seed)
    return notebook


def release(folder: Path, key: str, seeds: dict[str, int]) -> None:
    """Write release_each/NAME/KEY/ for each student."""
    (path,) = (folder / "release" / key).glob("*.ipynb")
    for student, seed in seeds.items():
        to = folder / RELEASE / student / key / path.name
        to.parent.mkdir(parents=True, exist_ok=True)
        notebook = personalize(nbformat.read(path, as_version=4), seed)
        to.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def _number(path: Path, student: str, text: str) -> int:
    if not re.fullmatch(r"-?\d{1,12}", text.strip()):
        raise CourseError(f"{path}: the seed of {student} must be a whole number, not {text!r}")
    return int(text)

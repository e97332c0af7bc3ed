"""Submissions as students might hand them in, made from an assignment: its solution, a blank, and wrong answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode

from dtta.course.staff import sandbox
from dtta.course.staff.source import Assignment

ROOT = Path(__file__).resolve().parents[2]
MARKER = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION\n?", re.MULTILINE)
# Where no sandbox works, the tests' own submissions run without; test_course_sandbox.py tests those that work.
SANDBOX = next(filter(sandbox.works, sandbox.KINDS), "none")
WRONG = Path(__file__).parent / "wrong"


@dataclass
class WrongAnswer:
    """A wrong answer to one task: the graded cells it must lose, and what the first of them must say."""

    name: str
    task: str
    source: str
    loses: list[str]
    says: str


def wrong_answers(key: str) -> dict[str, list[WrongAnswer]]:
    """The wrong answers to an assignment, by the grade id of the answer's cell."""
    found: dict[str, list[WrongAnswer]] = {}
    for cell in jupytext.read(WRONG / f"{key}.py", fmt="py:percent").cells:
        if "task" in cell.metadata:
            about = cell.metadata
            answer = WrongAnswer(about["title"], about["task"], cell.source, about["loses"], about["says"])
            found.setdefault(answer.task, []).append(answer)
    return found


def answered(release: NotebookNode, answers: dict[str, str]) -> NotebookNode:
    """A student's notebook with the given answers filled in, by grade id."""
    notebook = nbformat.from_dict(release)
    for cell in notebook.cells:
        cell.source = answers.get(cell.metadata.get("nbgrader", {}).get("grade_id"), cell.source)
    return notebook


def solved(assignment: Assignment, release: NotebookNode) -> NotebookNode:
    """A student's notebook with the solutions filled in."""
    cells = [cell for cell in assignment.notebook.cells if cell.metadata.get("nbgrader", {}).get("solution")]
    return answered(release, {cell.metadata.nbgrader.grade_id: MARKER.sub("", cell.source) for cell in cells})

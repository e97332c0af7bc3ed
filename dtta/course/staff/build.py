"""From the sources to a course folder for nbgrader: source/, release/, its settings and its gradebook.

course/
  nbgrader_config.py            the settings below, for those who type nbgrader commands themselves
  source/a1/a1_NAME.ipynb       with solutions and hidden tests: keep it to yourself
  release/a1/a1_NAME.ipynb      what students get
  solutions/a1_NAME.ipynb       run, with outputs (only with solutions=True)
  gradebook.db                  what nbgrader knows of the cells and, later, the scores
"""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbgrader.apps import NbGraderAPI
from nbgrader.converters import Autograde
from traitlets.config import Config

import dtta
from dtta.course.staff import source
from dtta.course.staff.sandbox import LockedExecute
from dtta.course.staff.source import STUB, TEXT_STUB, Assignment, CourseError

SOLUTION_SECONDS = 300  # for one cell of a solution
CONFIG = '''\
"""Settings of this course, as `dtta course` uses them. Add your own below."""

from dtta.course.staff.build import settings

c = get_config()
c.merge(settings("."))
'''


def settings(folder: Path | str, sandbox: str = "") -> Config:
    """nbgrader's settings for a course folder, and the kind of sandbox that submissions run in."""
    folder = Path(folder).resolve()
    c = Config()
    c.CourseDirectory.root = str(folder)
    c.CourseDirectory.course_id = "dtta"
    c.ClearSolutions.code_stub = {"python": STUB}
    c.ClearSolutions.text_stub = TEXT_STUB
    c.Autograde.autograde_preprocessors = [LockedExecute, *Autograde.autograde_preprocessors.default()[1:]]
    c.LockedExecute.kind = sandbox
    c.LockedExecute.hide = [str(folder), str(Path(dtta.__file__).parents[1] / source.FOLDER)]
    c.LimitOutput.max_lines = 300
    c.LimitOutput.max_traceback = 60
    c.NbGrader.logfile = ""
    return c


def grader(folder: Path, sandbox: str = "") -> NbGraderAPI:
    """nbgrader's own commands as functions, on a course folder. Each returns success, error and log."""
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    beside = str(Path(sys.executable).parent)  # nbgrader calls alembic by name; the environment need not be activated
    if beside not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside, os.environ.get("PATH", "")])
    return NbGraderAPI(config=settings(folder, sandbox))


def must(result: dict, what: str) -> None:
    """Raise what nbgrader says if a command of it failed."""
    if not result["success"]:
        said = [line for line in (result.get("log") or "").splitlines() if "ERROR" in line or "Error:" in line]
        raise CourseError(f"{what} failed: " + "\n".join(said or [result.get("error") or "no message"]))


def build(root: Path, folder: Path, names: Iterable[str] = (), solutions: bool = False) -> list[Assignment]:
    """Make or renew assignments in a course folder. What was submitted and graded there stays.

    Args:
        root: a checkout of the book.
        folder: the course folder; made if it is not there.
        names: "a1" and so on; none: all.
        solutions: also run the solutions, and keep them with their outputs.

    Raises:
        CourseError: a source that breaks a rule, a solution that fails, or a refusal of nbgrader.
    """
    assignments = [source.read(root, name) for name in (names or source.keys(root))]  # all faults first
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nbgrader_config.py"
    if not config.exists():  # a lecturer may have added to it
        config.write_text(CONFIG, encoding="utf-8")
    api = grader(folder)
    for assignment in assignments:
        path = folder / "source" / assignment.key / f"{assignment.name}.ipynb"
        write(assignment.notebook, path)
        must(api.generate_assignment(assignment.key, force=True), f"nbgrader generate_assignment {assignment.key}")
        if solutions:
            write(run(assignment), folder / "solutions" / path.name)
    return assignments


def run(assignment: Assignment) -> nbformat.NotebookNode:
    """The solution with its outputs."""
    notebook = nbformat.from_dict(assignment.notebook)
    client = NotebookClient(notebook, timeout=SOLUTION_SECONDS, kernel_name="python3")
    try:
        client.execute(env=os.environ | {"OMP_NUM_THREADS": "1"})  # as it is graded; small models gain nothing by more
    except Exception as error:
        raise CourseError(f"the solution of {assignment.name} fails: {error}") from error
    return notebook


def publish(root: Path, folder: Path, assignments: Iterable[Assignment]) -> list[Path]:
    """Copy the students' notebooks into the checkout's notebooks/assignments, to be committed."""
    made = []
    for assignment in assignments:
        to = root / "notebooks" / "assignments" / f"{assignment.name}.ipynb"
        to.parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / "release" / assignment.key / to.name, to)
        made.append(to)
    return made


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a valid notebook; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")

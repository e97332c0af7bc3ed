"""From the sources to a course folder for nbgrader: source/, release/, its settings and its gradebook.

course/
  course.toml                   deadlines, extensions, what late work loses
  nbgrader_config.py            the settings below, for those who type nbgrader commands themselves
  source/a1/a1_NAME.ipynb       with solutions and hidden tests: keep it to yourself
  keys/a1.md                    how to grade the answers in words: for graders only
  release/a1/a1_NAME.ipynb      what students get
  release_each/ADA/a1/...       what each gets, with each=...; seeds.csv says under which seed
  solutions/a1_NAME.ipynb       run, with outputs (only with solutions=True)
  gradebook.db                  what nbgrader knows of the cells and, later, the scores
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path

import nbformat
import nbgrader.api
import nbgrader.dbutil
from alembic.script import ScriptDirectory
from nbclient import NotebookClient
from nbgrader.apps import NbGraderAPI
from nbgrader.converters import Autograde, GenerateFeedback
from traitlets.config import Config

import dtta
from dtta.course.staff import dates, roster, source, variants
from dtta.course.staff.execute import LockedExecute
from dtta.course.staff.feedback import HideTests
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
    c.LockedExecute.hide = [str(folder), *hidden()]
    c.LockedExecute.seeds = variants.read(folder)
    c.GenerateFeedback.preprocessors = [HideTests, *GenerateFeedback.preprocessors.default()]
    c.LimitOutput.max_lines = 300
    c.LimitOutput.max_traceback = 60
    c.NbGrader.logfile = ""
    return c


def hidden() -> list[str]:
    """What no submission may see besides the course folder: the course's own code, and the checkout it is in."""
    root = Path(dtta.__file__).parents[1]
    return [str(root / "dtta" / "course"), *([str(root)] if (root / source.FOLDER).is_dir() else [])]


def grader(folder: Path, sandbox: str = "") -> NbGraderAPI:
    """nbgrader's own commands as functions, on a course folder. Each returns success, error and log."""
    logging.getLogger("traitlets").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # SQLAlchemy warns of how nbgrader adds submissions, which lecturers need not read.
    warnings.filterwarnings("ignore", "Object of type <Submitted", module="nbgrader")
    # nbgrader asks a program, which need not be on the PATH, for the version of its tables.
    nbgrader.api.get_alembic_version = ScriptDirectory(nbgrader.dbutil.ALEMBIC_DIR).get_current_head
    return NbGraderAPI(config=settings(folder, sandbox))


def must(result: dict, what: str) -> None:
    """Raise what nbgrader says if a command of it failed."""
    if not result["success"]:
        if why := re.search(r"NotGraded: (.*)", (result.get("log") or "") + (result.get("error") or "")):
            raise CourseError(why[1])
        said = [line for line in (result.get("log") or "").splitlines() if "ERROR" in line or "Error:" in line]
        last = (result.get("error") or "").strip().rpartition("\n")[2] or "no message"  # of a traceback
        raise CourseError(f"{what} failed: " + "\n".join(said or [last]))


def build(
    root: Path,
    folder: Path,
    names: Iterable[str] = (),
    solutions: bool = False,
    seed: int = 0,
    each: Path | None = None,
) -> list[Assignment]:
    """Make or renew assignments in a course folder. What was submitted and graded there stays.

    Args:
        root: a checkout of the book.
        folder: the course folder; made if it is not there.
        names: "a1" and so on; none: all.
        solutions: also run the solutions, and keep them with their outputs.
        seed: the variant of the data in checks, hidden tests and experiments.
        each: a roster: each student on it gets another variant.

    Raises:
        CourseError: a source that breaks a rule, a solution that fails, or a refusal of nbgrader.
    """
    assignments = [source.read(root, name, seed) for name in (names or source.keys(root))]  # all faults first
    people = roster.read(each) if each else []
    folder.mkdir(parents=True, exist_ok=True)
    seeds = variants.choose(folder, people, seed, each) if people else variants.read(folder)
    config = folder / "nbgrader_config.py"
    if not config.exists():  # a lecturer may have added to it
        config.write_text(CONFIG, encoding="utf-8")
    dates.write_example(folder)
    api = grader(folder)
    for assignment in assignments:
        path = folder / "source" / assignment.key / f"{assignment.name}.ipynb"
        write(assignment.notebook, path)
        keys = folder / "keys" / f"{assignment.key}.md"
        keys.parent.mkdir(exist_ok=True)
        keys.write_text(grading(assignment), encoding="utf-8")
        must(api.generate_assignment(assignment.key, force=True), f"nbgrader generate_assignment {assignment.key}")
        variants.release(folder, assignment.key, seeds)
        if solutions:
            write(run(assignment), folder / "solutions" / path.name)
    return assignments


def grading(assignment: Assignment) -> str:
    """The sheet for graders: of each answer in words the criteria that students see, and the key."""
    parts = [f"# For graders only: {assignment.title}"]
    for task in (task for task in assignment.tasks if task.manual):
        keys = [assignment.grading[name] for name in task.manual]
        parts += [f"## {task.number}: {task.title}", source.rubric(assignment, task), *keys]
    return "\n\n".join(parts) + "\n"


def run(assignment: Assignment) -> nbformat.NotebookNode:
    """The solution with its outputs."""
    notebook = nbformat.from_dict(assignment.notebook)
    client = NotebookClient(notebook, timeout=SOLUTION_SECONDS, kernel_name="python3")
    client.extra_arguments = ["--log-level=40"]  # errors only: the others are about the kernel
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

"""The sources of the assignments: which there are, what each task is worth, and the rules that all of them keep."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import jupytext
from nbformat import NotebookNode

LEVELS = "| criterion | 0 | 1 | 2 | 3 |"  # the head of a rubric: its points are the sum of the levels
SETUP = "SEED = check.variant(0)"
LARGE = 4  # points from which a task has a third graded step
PUBLIC = 0.4  # of an assignment's points, at most, are given by checks that students see
LEFT_BY_MACOS = {"__MACOSX", ".DS_Store"}
STUB = "...  # your code here"
TEXT_STUB = "*Your answer here.*"
FOLDER = Path("notebooks", "src", "assignments")

_TASK = re.compile(r"^## (Task|Part) (?P<number>\d+): (?P<title>.+)$", re.MULTILINE)
_FACTS = re.compile(
    r"^\*Difficulty (?P<difficulty>●{1,3}○{0,2}) · (?P<points>\d+) points? · (?P<minutes>\d+) minutes\*$", re.M
)
_TOTAL = re.compile(r"^\*\*(?P<points>\d+) points, about (?P<minutes>\d+) minutes\.\*\*", re.MULTILINE)
_REGION = re.compile(r"^[ \t]*### BEGIN (SOLUTION|HIDDEN TESTS)\n.*?^[ \t]*### END \1$", re.MULTILINE | re.DOTALL)


class CourseError(ValueError):
    """Something wrong with an assignment or a folder of the course: one sentence that says what to do."""


@dataclass
class Task:
    """One task: what its heading says, and its graded cells.

    Args:
        points: by grade id, of the cells that are graded.
        manual: the grade ids among them that a person grades.
    """

    number: int
    title: str
    difficulty: int
    minutes: int
    worth: int
    points: dict[str, int] = field(default_factory=dict)
    manual: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


@dataclass
class Assignment:
    """An assignment as its author wrote it, with solutions and hidden tests."""

    key: str  # "a1"
    name: str  # "a1_diffusion_loss", the notebook's
    title: str
    tasks: list[Task]
    notebook: NotebookNode
    grading: dict[str, str] = field(default_factory=dict)  # by grade id, how a person grades it; in no notebook

    @property
    def points(self) -> int:
        """The sum over the tasks."""
        return sum(task.worth for task in self.tasks)

    @property
    def minutes(self) -> int:
        """The sum over the tasks."""
        return sum(task.minutes for task in self.tasks)


def submissions(folder: Path, keys: Collection[str] = (), students: Collection[str] = ()) -> list[tuple[str, str]]:
    """Assignment and student of all that was handed in, submitted/NAME/a1/; with names, only of these.

    Raises:
        CourseError: nothing was handed in under one of the names.
    """
    paths = [path for path in (folder / "submitted").glob("*/*") if path.is_dir()]
    there = sorted((path.name, path.parent.name) for path in paths if not {path.name, path.parent.name} & LEFT_BY_MACOS)
    for names, known in ((keys, {key for key, _ in there}), (students, {student for _, student in there})):
        if unknown := set(names) - known:
            raise CourseError(f"nothing was handed in for {', '.join(sorted(unknown))}; see {folder / 'submitted'}")
    return [(k, s) for k, s in there if (not keys or k in keys) and (not students or s in students)]


def pages_module(root: Path) -> ModuleType:
    """Load tools/pages/project.py of a checkout, which gives each notebook its badge, install cell and metadata."""
    path = root / "tools" / "pages" / "project.py"
    if not path.exists() or not (root / FOLDER).is_dir():
        raise CourseError(
            f"{root} is no checkout of the book with {FOLDER}, which the package leaves out (it holds solutions); "
            "call this in a clone or an unpacked archive of the repository, or name its folder with --root"
        )
    spec = importlib.util.spec_from_file_location("project", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def keys(root: Path) -> list[str]:
    """a1, a2 and so on: one for each source."""
    pages_module(root)  # is it a checkout?
    found = [path.stem.partition("_")[0] for path in (root / FOLDER).glob("*.py")]
    return sorted(found, key=lambda key: (key[0], int(key[1:]) if key[1:].isdecimal() else 99))


def read(root: Path, key: str, seed: int = 0) -> Assignment:
    """An assignment, by "a1" or "a1_diffusion_loss", checked by the rules of book/authoring.md.

    Args:
        root: a checkout of the book.
        key: which one.
        seed: the variant of the data.

    Raises:
        CourseError: no such assignment, or a rule is broken; all that are, a sentence each.
    """
    pages = pages_module(root)
    paths = [path for path in (root / FOLDER).glob("*.py") if key in (path.stem, path.stem.partition("_")[0])]
    if len(paths) != 1:
        raise CourseError(f"no assignment {key!r}; there are {', '.join(keys(root))}")
    name = paths[0].stem
    notebook = jupytext.read(paths[0], fmt="py:percent")
    project = pages.Project(root)
    grading = {c.metadata["key"]: c.source for c in notebook.cells if "key" in c.metadata}
    notebook.cells = [cell for cell in notebook.cells if "key" not in cell.metadata]
    project.dress(notebook, f"assignments/{name}")
    pages.identify(notebook)
    for cell in notebook.cells:  # the id of a graded cell is its name: a lost name can be told from it
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's note on the source's blank lines
        if "nbgrader" in cell.metadata:
            cell["id"] = cell.metadata.nbgrader.get("grade_id", cell["id"])
            cell.metadata.nbgrader["cell_type"] = cell.cell_type
        if cell.get("id") == "setup":
            cell.source = cell.source.replace(SETUP, f"SEED = check.variant({seed})")
    first = notebook.cells[0].source
    title = first.splitlines()[0].removeprefix("# ").strip()
    assignment = Assignment(name.partition("_")[0], name, title, list(_tasks(notebook)), notebook, grading)
    if wrong := list(_problems(assignment)):
        raise CourseError("\n".join(f"{name}: {sentence}" for sentence in wrong))
    return assignment


def student_source(cell: NotebookNode) -> str:
    """A cell's text as students get it: no solution, no hidden tests."""
    stub = STUB if cell.cell_type == "code" else TEXT_STUB

    def replace(match: re.Match) -> str:
        indent = re.match(r"[ \t]*", match.group(0)).group(0)
        return indent + stub if match.group(1) == "SOLUTION" else ""

    return _REGION.sub(replace, cell.source)


def rubric(assignment: Assignment, task: Task) -> str:
    """The criteria and levels of a task that a person grades, as students see them; empty if there are none."""
    words = "\n".join(cell.source for cell in _by_task(assignment.notebook.cells).get(task.number, []))
    table = re.search(rf"^{re.escape(LEVELS)}\n(?:\|.*\n?)+", words, re.MULTILINE)
    return table[0].strip() if table else ""


def _tasks(notebook: NotebookNode) -> Iterator[Task]:
    task = None
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (heading := _TASK.search(cell.source)):
            if task:
                yield task
            facts = _FACTS.search(cell.source)
            numbers = facts.groupdict() if facts else {"difficulty": "", "points": 0, "minutes": 0}
            task = Task(
                int(heading["number"]),
                heading["title"],
                numbers["difficulty"].count("●"),
                int(numbers["minutes"]),
                int(numbers["points"]),
            )
        about = cell.metadata.get("nbgrader")
        if task and about:
            if about.get("solution"):
                task.answers.append(about.grade_id)
            if about.get("grade"):
                task.points[about.grade_id] = about.points
                if about.get("solution"):
                    task.manual.append(about.grade_id)
    if task:
        yield task


def _problems(assignment: Assignment) -> Iterator[str]:
    cells, tasks = assignment.notebook.cells, assignment.tasks
    if not 4 <= len(tasks) <= 7:
        yield f"has {len(tasks)} tasks ('## Task 1: title'); 4 to 7 are wanted"
    if [task.number for task in tasks] != list(range(1, len(tasks) + 1)):
        yield "tasks must be numbered 1, 2, 3 and so on"
    total = _TOTAL.search(cells[0].source)
    if not total or (int(total["points"]), int(total["minutes"])) != (assignment.points, assignment.minutes):
        yield f"its first cell must say '**{assignment.points} points, about {assignment.minutes} minutes.**'"
    ids = [cell.metadata.nbgrader.grade_id for cell in cells if "nbgrader" in cell.metadata]
    for repeated in {i for i in ids if ids.count(i) > 1}:
        yield f"the grade_id {repeated} stands twice"
    for task in tasks:
        if not task.difficulty:
            yield f"task {task.number}: below its heading must stand '*Difficulty ●○○ · 3 points · 10 minutes*'"
        if sum(task.points.values()) != task.worth:
            yield f"task {task.number}: its heading says {task.worth} points, its cells {sum(task.points.values())}"
        auto = [i for i in task.points if i not in task.manual]
        kinds = [i.rpartition("-")[2] for i in auto]
        steps = ["check", "hidden", "edge"] if sum(task.points[i] for i in auto) >= LARGE else ["check", "hidden"]
        if auto and kinds != steps:
            names = ", ".join(f"NAME-{step}" for step in steps)
            yield f"task {task.number}: needs the graded cells {names}, or only manual ones; has {', '.join(auto)}"
        if not task.points:
            yield f"task {task.number}: nothing in it is graded"
    public = sum(most for task in tasks for i, most in task.points.items() if i.endswith("-check"))
    if public > PUBLIC * assignment.points:
        yield f"{public} of {assignment.points} points are given by public checks; at most {PUBLIC:.0%} may be"
    if not any(SETUP.partition("(")[0] in cell.source for cell in cells if cell.get("id") == "setup"):
        yield f"its setup cell must contain the line {SETUP}"
    text = _by_task(cells)
    for task in tasks:
        words = "\n".join(cell.source for cell in text.get(task.number, []))
        if "<details><summary>Hint</summary>" not in words:
            yield f"task {task.number}: has no hint (<details><summary>Hint</summary>)"
        if task.manual and LEVELS not in words:
            yield f"task {task.number}: is graded by a person and has no rubric (a table {LEVELS})"
        for name in set(task.manual) - set(assignment.grading):
            yield f'{name}: is graded by a person and has no key (a markdown cell with key="{name}")'
    for cell in cells:
        about = cell.metadata.get("nbgrader", {})
        if about.get("solution") and "### BEGIN SOLUTION" not in cell.source:
            yield f"{about.grade_id}: an answer needs ### BEGIN SOLUTION and ### END SOLUTION"
        if about.get("grade_id", "").endswith(("-hidden", "-edge")) and "### BEGIN HIDDEN TESTS" not in cell.source:
            yield f"{about.grade_id}: needs ### BEGIN HIDDEN TESTS and ### END HIDDEN TESTS"
        if about.get("grade") and cell.cell_type == "code" and (value := _last_value(cell.source)):
            yield f"{about.grade_id}: must not end in a value, which nbgrader takes for points: write `_ = {value}`"
        if re.search("BEGIN (SOLUTION|HIDDEN)", _REGION.sub("", cell.source)):
            yield f"{about.get('grade_id', 'a cell')}: a region is not closed, or its marker does not stand alone"


def _last_value(code: str) -> str | None:
    """The expression in which a graded cell ends, if it is no public check: those have no value."""
    last = ast.parse(code).body[-1:]
    if not last or not isinstance(last[0], ast.Expr):
        return None
    text = ast.unparse(last[0])
    return None if re.fullmatch(r"check\.(\w+)\(\1\)", text) else text


def _by_task(cells: list[NotebookNode]) -> dict[int, list[NotebookNode]]:
    found: dict[int, list[NotebookNode]] = {}
    number = 0
    for cell in cells:
        if cell.cell_type == "markdown" and (heading := _TASK.search(cell.source)):
            number = int(heading["number"])
        found.setdefault(number, []).append(cell)
    return found

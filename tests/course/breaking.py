"""Solutions with one mistake, most of them written from the tasks and solutions by someone who had not read the checks.

broken/aN.py has a list for each task: what is wrong, a piece of the solution, what replaces it, and who
catches it: "check" (the public check), "hidden" (the hidden tests) or "both". The lecturers' list of them is made by

    python tests/course/breaking.py
"""

from __future__ import annotations

import contextlib
import io
import linecache
import runpy
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from trip import MARKER, ROOT

from dtta.course.judge import Wrong
from dtta.course.staff import source
from dtta.course.staff.source import Assignment

BROKEN = Path(__file__).parent / "broken"
TABLE = ROOT / "book" / "broken_solutions.md"
HEAD = """\
# Broken solutions

Do the checks catch what students really get wrong? Below, each task's solution has one mistake: a swapped axis, a
missing root, a timestep off by one, a missing `detach`. Most were written from the tasks and solutions, by someone who
had not read the checks; the checks missed 13 at first and were then corrected. `tests/course/test_course_answers.py`
tries all of them.

Students run the public check, which explains; the hidden tests run when the work is graded. A mistake that only the
hidden tests catch is a special case, of a kind that the task's text or the first line of the hidden tests names. This
list is made by `python tests/course/breaking.py` from `tests/course/broken/`. In its last column, *check* is the public
check, *hidden* the hidden tests.
"""


@dataclass(frozen=True)
class Broken:
    """One mistake: in the answer's cell of a task, `old` is replaced by `new`."""

    task: str
    what: str
    old: str
    new: str
    caught: str

    def apply(self, solution: str) -> str:
        """The solution with the mistake in it."""
        assert solution.count(self.old) == 1, f"{self.what}: {self.old!r} must stand in the solution exactly once"
        return solution.replace(self.old, self.new)


def broken(key: str) -> list[Broken]:
    """The broken solutions of an assignment."""
    tasks = runpy.run_path(str(BROKEN / f"{key}.py"))["BROKEN"]
    return [Broken(task, *mistake) for task, mistakes in tasks.items() for mistake in mistakes]


def cells(assignment: Assignment) -> dict[str, str]:
    """The code of an assignment's cells by grade id, as they stand when a solved notebook is graded."""
    found = [cell for cell in assignment.notebook.cells if cell.cell_type == "code" and "nbgrader" in cell.metadata]
    return {cell.metadata.nbgrader.grade_id: MARKER.sub("", cell.source) for cell in found}


def tried(code: dict[str, str], task: str, answer: str) -> dict[str, Exception]:
    """What the public check and the hidden tests of a task raise under an answer, by "check", "hidden" and "edge"."""
    name = f"<{task}-answer>"
    linecache.cache[name] = len(answer), None, answer.splitlines(keepends=True), name  # as a notebook's cells have it
    space = {}
    exec(code["setup"], space)
    exec(compile(answer, name, "exec"), space)
    raised = {}
    for part in (part for part in ("check", "hidden", "edge") if f"{task}-{part}" in code):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(code[f"{task}-{part}"], space)
        except Exception as error:
            raised[part] = error
    return raised


def caught(raised: dict[str, Exception]) -> str:
    """Who caught it: "check", "hidden" (a hidden test of either kind), "both" or "nobody"."""
    assert isinstance(raised.get("check", Wrong()), Wrong), f"the check itself fell over: {raised['check']!r}"
    return {(): "nobody", (True,): "check", (False,): "hidden"}.get(tuple({part == "check" for part in raised}), "both")


def table() -> str:
    """The list for lecturers: each mistake and the check that catches it."""
    lines, counts = [], Counter(mistake.caught for key in source.keys(ROOT) for mistake in broken(key))
    lines.append(
        f"{HEAD}\nOf {counts.total()} broken solutions the public checks catch {counts['check'] + counts['both']}, and "
        f"only the hidden tests catch the other {counts['hidden']}."
    )
    for key in source.keys(ROOT):
        assignment = source.read(ROOT, key)
        code, mistakes = cells(assignment), broken(key)
        lines += [f"\n## {assignment.title}\n", "| mistake in a function | caught by |", "|---|---|"]
        for mistake in mistakes:
            name = code[f"{mistake.task}-check"].partition("(")[0].removeprefix("check.")
            lines.append(f"| `{name}`: {mistake.what} | {mistake.caught} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    print(TABLE)

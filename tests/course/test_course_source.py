"""What students get: in step with the sources, without a line of the solutions, and helpful where it is unsolved."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import nbformat
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from trip import ROOT

from dtta.course import check
from dtta.course.staff import build, source
from dtta.course.staff.feedback import HideTests
from dtta.course.staff.source import STUB, TEXT_STUB, CourseError

PUBLISHED = ROOT / "notebooks" / "assignments"
KEYS = source.keys(ROOT)


def about(cell) -> dict:
    return cell.metadata.get("nbgrader", {})


def test_there_is_a_published_notebook_for_each_source_and_no_other():
    names = {source.read(ROOT, key).name for key in KEYS}
    assert {path.stem for path in PUBLISHED.glob("*.ipynb")} == names


def test_a_solution_is_run_with_one_thread_and_keeps_its_outputs():
    cell = nbformat.v4.new_code_cell("import os\nprint(os.environ['OMP_NUM_THREADS'], 6 * 7)")
    small = replace(source.read(ROOT, "a1"), notebook=nbformat.v4.new_notebook(cells=[cell]))
    ran = build.run(small)
    assert ran.cells[0].outputs[0].text == "1 42\n"
    assert "outputs" not in cell or not cell.outputs  # the source stays as it was
    broken = replace(small, notebook=nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")]))
    with pytest.raises(CourseError, match=r"the solution of a1_diffusion_loss fails: .*"):
        build.run(broken)


@pytest.mark.parametrize("key", KEYS)
def test_student_notebook_holds_no_solution_and_no_hidden_test(key):
    assignment = source.read(ROOT, key)
    student = nbformat.read(PUBLISHED / f"{assignment.name}.ipynb", as_version=4)
    text = nbformat.writes(student)
    assert "BEGIN SOLUTION" not in text and "BEGIN HIDDEN" not in text
    # A block of code in a task's text is a gift on purpose; everything else is looked through.
    shown = re.sub("```python.*?```", "", "\n".join(cell.source for cell in student.cells), flags=re.DOTALL)
    for cell in assignment.notebook.cells:
        for kind, region in re.findall(r"### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)### END", cell.source, re.DOTALL):
            for line in filter(None, map(str.strip, region.splitlines())):
                assert len(line) < 12 or line not in shown, f"{kind}: {line}"


@pytest.mark.parametrize("key", KEYS)
def test_every_line_of_a_stub_stands_in_its_solution_or_is_dots(key):
    assignment = source.read(ROOT, key)
    solutions = {about(c)["grade_id"]: c.source for c in assignment.notebook.cells if about(c).get("solution")}
    student = nbformat.read(PUBLISHED / f"{assignment.name}.ipynb", as_version=4)
    stubs = {about(c)["grade_id"]: c.source for c in student.cells if about(c).get("solution")}
    assert stubs.keys() == solutions.keys()
    for grade_id, stub in stubs.items():
        lines = [line for line in stub.splitlines() if line.strip() not in ("", STUB, TEXT_STUB)]
        assert set(lines) <= set(solutions[grade_id].splitlines())
        assert STUB in stub or TEXT_STUB in stub


@pytest.mark.parametrize("key", KEYS)
def test_each_rubric_adds_up_to_the_points_of_its_task(key):
    """Each criterion has levels 0 to 3, all described, and the highest levels are the points."""
    assignment = source.read(ROOT, key)
    for task in (task for task in assignment.tasks if task.manual):
        criteria = source.rubric(assignment, task).splitlines()[2:]
        assert all(re.fullmatch(r"\| \*\*[^|]+\*\* (\| [^|]+ ){4}\|", line) for line in criteria)
        assert 3 * len(criteria) == sum(task.points[cell] for cell in task.manual)


def test_public_checks_hold_at_most_two_fifths_of_the_points():
    public = total = 0
    for key in KEYS:
        for task in source.read(ROOT, key).tasks:
            total += task.worth
            public += sum(points for cell, points in task.points.items() if cell.endswith("-check"))
    assert public <= 0.4 * total


@pytest.mark.parametrize("key", KEYS)
def test_a_hint_holds_no_call_of_its_solution(key):
    assignment = source.read(ROOT, key)
    solution = "".join(cell.source for cell in assignment.notebook.cells if about(cell).get("solution"))
    words = "\n".join(cell.source for cell in assignment.notebook.cells if not about(cell))
    for hint in re.findall(r"<details><summary>Hint</summary>(.*?)</details>", words, re.DOTALL):
        for code in re.findall(r"`([^`\n]+\([^)`\n]+\)[^`\n]*)`", hint):
            assert re.sub(r"\s", "", code) not in re.sub(r"\s", "", solution) or code.startswith("build("), code


def test_a_variant_changes_the_setup_cell_and_the_data(tmp_path):
    first, second = (source.read(ROOT, "a1", seed).notebook.cells for seed in (0, 7))
    changed = [(a.source, b.source) for a, b in zip(first, second, strict=True) if a.source != b.source]
    assert len(changed) == 1 and "SEED = check.variant(7)" in changed[0][1]
    assert check.variant(7) == 7
    other = check.normal(3), check.numbers(297, 5)
    check.variant(0)
    assert not torch.equal(other[0], check.normal(3)) and other[1] != check.numbers(297, 5)
    assert torch.equal(check.normal(3), torch.randn(3, generator=check.generator()))
    assert len(set(check.numbers(297, 297))) == 297


def test_feedback_shows_the_kind_and_the_message_of_a_hidden_test_only():
    cell = next(c for c in source.read(ROOT, "a1").notebook.cells if about(c).get("grade_id") == "forward-hidden")
    secret = nbformat.v4.new_output(
        "error", ename="Wrong", evalue="✗ gives other numbers", traceback=["_tested.gives("]
    )
    bare = nbformat.v4.new_output("error", ename="AssertionError", evalue="", traceback=["assert _secret"])
    cell.outputs = [secret, bare]
    shown, _ = HideTests().preprocess_cell(cell, {}, 0)
    assert shown.source.startswith("# Hidden tests run here: other numbers of axes") and "_tested" not in str(shown)
    assert [output.traceback for output in shown.outputs] == [["✗ gives other numbers"], ["a hidden test failed"]]
    answer = nbformat.v4.new_code_cell("x = 1", outputs=[secret])
    assert HideTests().preprocess_cell(answer, {}, 0)[0] == answer


def test_every_check_is_used_by_an_assignment():
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / source.FOLDER).glob("*.py"))
    checks = {name for name, value in vars(check).items() if inspect.isfunction(value)}
    for name in checks - {"generator", "normal", "numbers", "variant"}:
        assert f"check.{name}({name})" in text


def test_the_project_reads_photographed_digits(tmp_path):
    """A digit of the course, printed dark on white with a margin and photographed a little grey, comes back alike."""
    text = (ROOT / source.FOLDER / "project_ablation.py").read_text(encoding="utf-8").replace("\n# ", "\n")
    (code,) = re.findall(r"```python\n(from pathlib.*?)```", text.replace("\n#\n", "\n\n"), re.DOTALL)
    space = {"torch": torch}
    exec(code, space)
    ink = torch.tensor(load_digits().images[12] / 16)
    page = torch.nn.functional.pad(
        230 - 190 * ink.repeat_interleave(20, 0).repeat_interleave(20, 1), [37] * 4, value=230
    )
    Image.fromarray(page.to(torch.uint8).numpy()).save(tmp_path / "2_ann.png")
    image, label = space["read_digit"](tmp_path / "2_ann.png")
    assert label == 2 and image.shape == (1, 1, 8, 8) and image.min() >= 0 and image.max() <= 1
    assert torch.corrcoef(torch.stack([image.flatten(), ink.flatten().float()]))[0, 1] > 0.8


GOOD = (ROOT / source.FOLDER / "a1_diffusion_loss.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("**26 points,", "**27 points,", r"its first cell must say '\*\*26 points, about 100 minutes"),
        ("●○○ · 3 points · 10", "●○○ · 4 points · 10", "task 1: its heading says 4 points, its cells 3"),
        ("## Task 2:", "## Task 7:", "tasks must be numbered"),
        ('"forward-hidden"', '"forward-check"', "the grade_id forward-check stands twice"),
        ("<details><summary>Hint</summary>", "<details><summary>Help</summary>", "task 1: has no hint"),
        ("| criterion | 0 |", "| marks | 0 |", "task 6: is graded by a person and has no rubric"),
        ('key="experiment-text"', 'key="other"', "experiment-text: is graded by a person and has no key"),
        ("SEED = check.variant(0)", "SEED = 0", "its setup cell must contain the line SEED = check.variant"),
        ('"timestep-edge"', '"timestep-more"', "task 4: needs the graded cells NAME-check, NAME-hidden, NAME-edge"),
        ("    ### BEGIN SOLUTION\n    a =", "    a =", "forward-answer: an answer needs ### BEGIN SOLUTION"),
        ("\n### END HIDDEN TESTS", "\n_tested.calls\n### END HIDDEN TESTS", "forward-hidden: must not end in a value"),
        ("    ### END SOLUTION\n\n\n# %%", "\n\n# %%", "forward-answer: a region is not closed"),
    ],
)
def test_a_source_that_breaks_a_rule_is_refused(tmp_path, old, new, message):
    for part in ("tools", "pyproject.toml"):
        (tmp_path / part).symlink_to(ROOT / part)
    folder = tmp_path / source.FOLDER
    folder.mkdir(parents=True)
    assert old in GOOD
    (folder / "a1_diffusion_loss.py").write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CourseError, match=message):
        source.read(tmp_path, "a1")


def test_what_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(CourseError, match="no assignment 'a99'; there are a1"):
        source.read(ROOT, "a99")
    with pytest.raises(CourseError, match="is no checkout of the book"):
        source.read(tmp_path, "a1")

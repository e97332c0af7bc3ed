"""dtta course doctor: what classrooms do to notebooks, and what it makes of it."""

from __future__ import annotations

import json
import random
import zipfile

import nbformat
import pytest
from editors import EDITORS
from nbformat.v4 import new_code_cell, new_markdown_cell
from trip import ROOT, solved

from dtta.course.staff import source
from dtta.course.staff.doctor import visit
from dtta.course.staff.mend import grade_id
from dtta.course.staff.source import CourseError

NAME = "a1_diffusion_loss.ipynb"
RELEASE = nbformat.read(ROOT / "notebooks" / "assignments" / NAME, as_version=4)
NAMES = [grade_id(cell) for cell in RELEASE.cells if grade_id(cell)]


@pytest.fixture
def course(tmp_path):
    """A course folder with one submission, the solution, to be spoilt."""
    release = tmp_path / "release" / "a1" / NAME
    release.parent.mkdir(parents=True)
    release.write_text(nbformat.writes(RELEASE), encoding="utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def solution():
    return solved(source.read(ROOT, "a1"), RELEASE)


def hand_in(course, text, name=NAME):
    path = course / "submitted" / "ann" / "a1" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else nbformat.writes(text), encoding="utf-8")
    return path


def mended(course):
    return nbformat.read(course / "submitted" / "ann" / "a1" / NAME, as_version=4)


def sentences(course, **options):
    return [finding.sentence for finding in visit(course, **options)]


def assert_whole(notebook, solution):
    """Every graded cell is there once, in order, as it was given out, and the answers are the student's."""
    nbformat.validate(notebook)
    cells = {grade_id(cell): cell for cell in notebook.cells if grade_id(cell)}
    assert [grade_id(cell) for cell in notebook.cells if grade_id(cell)] == NAMES
    for cell in solution.cells:
        if name := grade_id(cell):
            assert cells[name].source.strip() == cell.source.strip()
            original = next(c for c in RELEASE.cells if grade_id(c) == name)
            assert cells[name].metadata.nbgrader == original.metadata.nbgrader


def find(notebook, name):
    return next(cell for cell in notebook.cells if grade_id(cell) == name)


@pytest.mark.parametrize("editor", EDITORS)
@pytest.mark.parametrize("lost", ["none", "all", "half", "all, and ids"])
def test_notebooks_of_all_editors_come_back_whole(course, solution, editor, lost):
    notebook = nbformat.from_dict(solution)
    chance = random.Random(lost)
    for i, cell in enumerate(notebook.cells):
        if lost.startswith("all") or (lost == "half" and chance.random() < 0.5):
            cell.metadata.pop("nbgrader", None)
        if "ids" in lost:
            cell["id"] = f"x{i}"
    hand_in(course, EDITORS[editor](notebook))
    found = sentences(course)
    assert_whole(mended(course), solution)
    assert any("lost the metadata" in s for s in found) == (lost != "none")
    assert any("kernel" in s for s in found) == (editor != "colab")
    assert sentences(course) == [], "a second visit finds nothing"


def test_an_untouched_submission_is_left_as_it_is(course, solution):
    path = hand_in(course, solution)
    before = path.read_bytes()
    assert sentences(course) == []
    assert path.read_bytes() == before
    assert not (course / "before_doctor").exists()


def test_the_original_is_kept_and_a_dry_visit_changes_nothing(course, solution):
    notebook = nbformat.from_dict(solution)
    find(notebook, "loss-check").metadata.pop("nbgrader")
    path = hand_in(course, notebook)
    before = path.read_bytes()
    assert len(sentences(course, dry=True)) == 1
    assert path.read_bytes() == before
    visit(course)
    assert (course / "before_doctor" / "ann" / "a1" / NAME).read_bytes() == before


def test_edited_checks_are_the_original_again(course, solution):
    notebook = nbformat.from_dict(solution)
    find(notebook, "forward-check").source = "print('all is well')"
    edited = find(notebook, "schedule-check")
    edited.source, edited.metadata = "# mine\ncheck.linear_schedule(linear_schedule)", {}
    edited["id"] = "other"
    find(notebook, "loss-check").metadata.nbgrader["points"] = 100
    hand_in(course, notebook)
    found = sentences(course)
    assert_whole(mended(course), solution)
    assert {"forward-check was edited; it is the original again"} <= set(found)
    assert any("schedule-check" in s for s in found)
    assert any(s.startswith("loss-check had other metadata") for s in found)


def test_doubled_cells_keep_one_name(course, solution):
    notebook = nbformat.from_dict(solution)
    at = notebook.cells.index(find(notebook, "forward-answer"))
    stub = nbformat.from_dict(find(RELEASE, "forward-answer"))
    notebook.cells.insert(at, stub)  # the copy kept aside before writing
    notebook.cells.insert(at + 4, nbformat.from_dict(find(notebook, "forward-check")))
    hand_in(course, notebook)
    found = sentences(course)
    assert_whole(mended(course), solution)
    assert sum("stood 2 times" in s for s in found) == 2
    assert len(mended(course).cells) == len(notebook.cells), "nothing of the student's is thrown away"


def test_two_different_texts_are_left_to_a_person(course, solution):
    notebook = nbformat.from_dict(solution)
    copy = nbformat.from_dict(find(notebook, "experiment-text"))
    copy.source = "Another opinion."
    notebook.cells.append(copy)
    hand_in(course, notebook)
    assert any(
        "experiment-text stands 2 times with different answers; the last is graded" in s for s in sentences(course)
    )
    assert find(mended(course), "experiment-text").source == "Another opinion."


def test_missing_cells_come_back_where_they_were(course, solution):
    notebook = nbformat.from_dict(solution)
    notebook.cells = [c for c in notebook.cells if grade_id(c) not in ("rank-check", "rank-hidden", "loss-answer")]
    hand_in(course, notebook)
    found = sentences(course)
    assert [grade_id(c) for c in mended(course).cells if grade_id(c)] == NAMES
    assert "loss-answer, an answer, was missing; it is there again, as students got it" in found
    assert "rank-check, a check, was missing; it is there again, as students got it" in found


def test_a_check_before_its_answer_goes_behind_it(course, solution):
    notebook = nbformat.from_dict(solution)
    check = find(notebook, "loss-check")
    notebook.cells.remove(check)
    notebook.cells.insert(4, check)
    hand_in(course, notebook)
    assert "loss-check stood before loss-answer; it stands behind it now" in sentences(course)
    places = [grade_id(cell) for cell in mended(course).cells]
    assert places.index("loss-answer") < places.index("loss-check")


def test_a_turned_cell_and_a_strange_name(course, solution):
    notebook = nbformat.from_dict(solution)
    code = find(notebook, "schedule-answer")
    text = new_markdown_cell(code.source, metadata=code.metadata)
    notebook.cells[notebook.cells.index(code)] = text
    notebook.cells.append(new_code_cell("x = 1", metadata={"nbgrader": {"grade_id": "cell-99", "grade": True}}))
    hand_in(course, notebook)
    found = sentences(course)
    assert_whole(mended(course), solution)
    assert "schedule-answer was turned into a markdown cell; it is a code cell again" in found
    assert any("'cell-99'" in s for s in found)


@pytest.mark.parametrize("name", ["a1_diffusion_loss (2).ipynb", "Copy_of_a1.ipynb", "ann.ipynb.json"])
def test_a_renamed_file_gets_its_name_back(course, solution, name):
    hand_in(course, solution, name)
    hand_in(course, nbformat.v4.new_notebook(cells=[new_code_cell("1 + 1")]), "scratch.ipynb")
    assert f"was named {name}; now {NAME}" in sentences(course)
    assert_whole(mended(course), solution)


def test_files_that_nobody_can_choose_between_are_left(course, solution):
    hand_in(course, solution, "one.ipynb")
    hand_in(course, solution, "two.ipynb")
    (finding,) = visit(course)
    assert "several that could be it: one.ipynb, two.ipynb" in finding.sentence and not finding.mended


@pytest.mark.parametrize(("text", "words"), [("{", "is not a notebook"), ("[]", "is not a notebook")])
def test_what_is_no_notebook_is_said(course, text, words):
    hand_in(course, text)
    (finding,) = visit(course)
    assert words in finding.sentence and not finding.mended


def test_nothing_handed_in(course):
    (course / "submitted" / "ann" / "a1").mkdir(parents=True)
    assert sentences(course) == [f"has no notebook {NAME}, and no other that looks like it"]


def test_huge_outputs_are_left_out(course, solution):
    notebook = nbformat.from_dict(solution)
    find(notebook, "loss-answer").outputs = [nbformat.v4.new_output("stream", text="x" * 2_000_000)]
    path = hand_in(course, notebook)
    assert any("its outputs are left out" in s for s in sentences(course))
    assert path.stat().st_size < 100_000
    assert_whole(mended(course), solution)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("while True:\n    pass", "without a way out"),
        ("!pip install -U torch", "installs packages"),
        ("from google.colab import drive\ndrive.mount('/content')", "needs Google Colab"),
        ("x = input('go?')", "waits for input"),
        ("check.forward_process = lambda f: None", "meddles with the checks"),
        ("import os; os._exit(0)", "reaches for the system"),
    ],
)
def test_what_cannot_be_mended_is_named(course, solution, code, words):
    notebook = nbformat.from_dict(solution)
    notebook.cells.append(new_code_cell(code))
    path = hand_in(course, notebook)
    before = path.read_bytes()
    (finding,) = visit(course)
    assert words in finding.sentence and not finding.mended
    assert path.read_bytes() == before


def test_loops_with_a_way_out_are_no_symptom(course, solution):
    notebook = nbformat.from_dict(solution)
    notebook.cells.append(new_code_cell("while True:\n    if x:\n        break\n%matplotlib inline"))
    hand_in(course, notebook)
    assert sentences(course) == []


def test_old_formats_are_read(course, solution):
    text = json.loads(nbformat.writes(solution))
    for cell in text["cells"]:
        cell.pop("id")
    text["nbformat_minor"] = 4
    hand_in(course, json.dumps(text))
    visit(course)
    assert_whole(mended(course), solution)


def test_widgets_without_their_state_are_left_out(course, solution):
    notebook = nbformat.from_dict(solution)
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"a1b2": {"model_name": "Text"}}}
    hand_in(course, json.dumps(notebook))
    assert any("widgets without their state" in s for s in sentences(course))
    assert "widgets" not in mended(course).metadata
    assert_whole(mended(course), solution)


def test_half_a_character_is_replaced(course, solution):
    text = (
        json.dumps(nbformat.from_dict(solution))
        .replace("# Task 1", "\\ud83d # Task 1")
        .replace("10 minutes", "\\ude00")
    )
    hand_in(course, text.replace('"## Task', '"\\ud83d## Task', 1))
    assert any("half a character" in s for s in sentences(course))
    assert_whole(mended(course), solution)
    assert sentences(course) == []


@pytest.mark.parametrize("name", ["ann.zip", NAME])
def test_an_archive_is_unpacked(course, solution, name):
    path = hand_in(course, "", name)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"a1/{NAME}", nbformat.writes(solution))
        archive.writestr(f"__MACOSX/a1/._{NAME}", b"\x00\x05\x16\x07")
        archive.writestr("../../../evil.ipynb", "{}")
    before = path.read_bytes()
    assert any("is an archive; taken out of it" in s for s in sentences(course))
    assert_whole(mended(course), solution)
    assert (course / "before_doctor" / "ann" / "a1" / name).read_bytes() == before
    assert not list(course.parent.glob("evil.ipynb"))


def test_what_macos_leaves_is_no_submission(course, solution):
    path = hand_in(course, solution)
    (path.parent / f"._{NAME}").write_bytes(b"\x00\x05\x16\x07")
    (path.parent / "__MACOSX").mkdir()
    (course / "submitted" / "__MACOSX" / "a1").mkdir(parents=True)
    assert sentences(course) == []


@pytest.mark.parametrize("place", [0, 1])
def test_words_in_a_new_cell_are_the_answer(course, solution, place):
    notebook = nbformat.from_dict(solution)
    words = find(notebook, "experiment-text")
    words.source = find(RELEASE, "experiment-text").source
    at = notebook.cells.index(words) + place
    notebook.cells[at:at] = [
        new_markdown_cell("The middle range wins."),
        new_markdown_cell("At high t no digit is left."),
    ]
    hand_in(course, notebook)
    assert any("words in a new cell" in s for s in sentences(course))
    assert find(mended(course), "experiment-text").source == "The middle range wins.\n\nAt high t no digit is left."


def test_a_folder_that_is_no_course_is_refused(course, tmp_path, solution):
    with pytest.raises(CourseError, match="has no folder submitted/"):
        visit(tmp_path / "nowhere")
    hand_in(course, solution)
    (course / "release" / "a1" / NAME).unlink()
    with pytest.raises(CourseError, match="release has no notebook for a1; call: dtta course build a1 --to"):
        visit(course)

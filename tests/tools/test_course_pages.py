"""tools/pages/course.py and the guides: self-tests, assignments and their numbers, without a build of the book."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook, new_output

from dtta.course import check
from dtta.course.cli import add_commands
from tools.pages import course
from tools.pages.book import for_browser
from tools.pages.project import PageError, Project

ROOT = Path(__file__).parents[2]

PROJECT = Project(ROOT)
CHAPTERS = [name for name in PROJECT.pages_in_toc() if "01" <= name < "09"]
GUIDES = [ROOT / "book" / f"{name}.md" for name in ("students", "instructors", "authoring")]
GOOD = [
    {"id": f"one-{n}", "question": "Which?", "options": ["this", "that", "neither"], "answer": letter, "why": "So."}
    for n, letter in enumerate("abc")
]


def shown(name: str) -> str:
    """All that a page says: its text and its outputs, tables and lines."""
    words = []
    for cell in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
        if cell.source.startswith("## Test yourself"):
            break  # what follows is what this is compared with
        words.append(cell.source)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            words += [output.get("text", ""), data.get("text/plain", ""), data.get("text/markdown", "")]
            words.append(re.sub(r"<[^>]+>", " ", data.get("text/html", "")))
    return " ".join(words)


# --- self-tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_has_a_self_test_whose_numbers_stand_on_the_page(name):
    questions = course.quiz(PROJECT, name[:2])
    assert len(questions) == 3
    page = shown(name)
    for question in questions:
        right = question["options"]["abcd".index(question["answer"])]
        said = f"{question['question']} {right} {question['why']}"
        numbers = set(re.findall(r"\d+\.\d+|\d+(?=%)", said))
        absent = [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", page)]
        assert absent == [], f"{question['id']}: numbers that the page does not show"


def test_self_tests_differ_and_their_answers_stand_at_all_places():
    questions = [question for name in CHAPTERS for question in course.quiz(PROJECT, name[:2])]
    assert len(questions) == 24
    assert len({q["id"] for q in questions}) == len({q["question"] for q in questions}) == 24
    answers = [q["answer"] for q in questions]
    assert all(4 <= answers.count(letter) <= 8 for letter in "abcd")
    # The longest option must not give the answer away.
    longest = [max(q["options"], key=len) == q["options"]["abcd".index(q["answer"])] for q in questions]
    assert sum(longest) <= 10


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"answer": "d"}, "must be one letter of 'abc'"),
        ({"answer": "ab"}, "must be one letter of 'abc'"),
        ({"answer": ["a", "b"]}, "must be one letter of 'abc'"),
        ({"options": ["this", "that"]}, "has 2 options"),
        ({"options": list("abcde")}, "has 5 options"),
        ({"options": ["this", "This ", "that"]}, "an option appears twice"),
        ({"options": ["1", 2, "3"]}, "must be a list of texts"),
        ({"id": "Not an id"}, "an id is words"),
        ({"id": "one-1"}, "the id one-1 appears twice"),
        ({"why": ""}, "one line each"),
        ({"hint": "?"}, "needs answer, id, options, question, why"),
        ({"answer": "b"}, None),
    ],
)
def test_a_wrong_question_is_told(tmp_path, change, says):
    (tmp_path / "book" / "quizzes").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    file = tmp_path / "book" / "quizzes" / "01.yml"
    file.write_text(yaml.safe_dump([GOOD[0] | change, *GOOD[1:]]), encoding="utf-8")
    if says is None:
        assert len(course.quiz(Project(tmp_path), "01")) == 3
        return
    with pytest.raises(PageError, match=re.escape(says)) as error:
        course.quiz(Project(tmp_path), "01")
    assert "01.yml" in str(error.value)


def test_too_few_questions_and_answers_always_at_one_place_are_told(tmp_path):
    (tmp_path / "book" / "quizzes").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "book" / "quizzes" / "01.yml").write_text(
        yaml.safe_dump([q | {"answer": "a"} for q in GOOD[:2]]), encoding="utf-8"
    )
    with pytest.raises(PageError, match=r"has 2 questions(?s:.*)the answer is always a"):
        course.quiz(Project(tmp_path), "01")
    assert course.quiz(Project(tmp_path), "02") == []


# --- assignments ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known():
    return course.assignments(PROJECT)


@pytest.mark.parametrize("edition", ["plain", "book"])
@pytest.mark.parametrize("name", CHAPTERS)
def test_both_editions_end_in_the_self_test_and_the_assignment(name, edition, known):
    page = PROJECT.generate(name, edition)
    assert [cell.source.splitlines()[0] for cell in page.cells[-2:]] == ["## Test yourself", "## Assignment"]
    one = known[f"a{int(name[:2])}"]
    assert one.title in page.cells[-1].source and PROJECT.colab(f"assignments/{one.name}") in page.cells[-1].source
    assert (f"{one.points} points" in page.cells[-1].source) == (edition == "book")


def test_a_page_without_an_assignment_has_no_end():
    for name in ("09_online", "13_scenes", "about"):
        assert course.end(PROJECT, name, "book") == course.end(PROJECT, name, "plain") == []


def test_numbers_come_from_the_source(known):
    text = course._block(PROJECT, known["a1"])
    assert "26 points · about 100 minutes · 6 tasks · 9 of the points graded by a person" in text
    known["a1"].tasks[0].worth += 5
    try:
        assert "31 points · about 100 minutes" in course._block(PROJECT, known["a1"])
        assert "| 31 | 9 | 100 | 6 |" in course.table(PROJECT, known)
    finally:
        known["a1"].tasks[0].worth -= 5


def test_final_project_is_listed_in_both_guides(known):
    assert "Final project" in known["project"].title
    for guide in GUIDES[:2]:
        assert course.ASSIGNMENTS in guide.read_text(encoding="utf-8")
    assert f"assignments/{known['project'].name}.ipynb" in course.table(PROJECT, known)


# --- what a browser needs -------------------------------------------------------------------------------------------


def test_an_empty_corner_of_a_table_is_no_heading():
    table = '<table><thead><tr><th style="x"></th><th>gain</th></tr><tr><th>\n</th></tr></thead></table>'
    cell = new_code_cell("1", outputs=[new_output("display_data", {"text/html": table})])
    (made,) = for_browser(new_notebook(cells=[cell])).cells
    html = made.outputs[0].data["text/html"]
    assert html == '<table><thead><tr><td style="x"></td><th>gain</th></tr><tr><td></td></tr></thead></table>'


# --- guides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_commands_of_the_course_are_those_of_the_command_line(guide, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "course" / "submitted").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "course")
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    blocks = re.findall(r"^\s*```bash\n(.*?)```", guide.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    for line in [line for line in lines if line.startswith("dtta course")]:
        parser.parse_args(shlex.split(line, comments=True)[1:])
    options = set(
        re.findall(
            r"`(--(?:dry-run|student|again|sandbox|lms|solutions|publish|to|root))\b", guide.read_text(encoding="utf-8")
        )
    )
    commands = {name for line in lines if (name := line.partition("dtta course ")[2].split(" ")[0])}
    if guide.stem == "instructors":
        assert commands == {"build", "collect", "doctor", "grade", "report", "similar", "solutions"}
        assert {"--again", "--student", "--sandbox", "--solutions"} <= options


def test_message_in_the_students_guide_is_what_the_check_says():
    def mix_classes(logits, embeddings):
        return logits @ embeddings

    with pytest.raises(AssertionError) as error:
        check.mix_classes(mix_classes)
    assert f"```text\n{error.value}\n```" in (ROOT / "book" / "students.md").read_text(encoding="utf-8")


def test_limits_in_the_guides_are_those_of_the_sandbox():
    from dtta.course.judge import SECONDS
    from dtta.course.staff.execute import LockedExecute

    locked = LockedExecute()
    assert (locked.cell_seconds, locked.seconds, locked.megabytes, SECONDS) == (120, 600, 4096, 10)
    teachers, students = (
        (ROOT / "book" / f"{name}.md").read_text(encoding="utf-8") for name in ("instructors", "students")
    )
    assert "limit memory to 4 GB, a cell to two minutes and a notebook to ten" in teachers
    assert "Each cell may take two minutes and the whole notebook ten" in students
    assert "still ran after 10 s and was stopped" in students

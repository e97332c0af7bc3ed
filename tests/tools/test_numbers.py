"""notebooks/numbers.yml: every number in a lesson's prose is that of a stored result or of a printed output."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.pages import measured, numbers, values
from tools.pages.project import Project

PROJECT = Project(Path(__file__).parents[2])
ENTRIES = numbers.entries(PROJECT.notebooks / "numbers.yml")


@pytest.mark.parametrize("name", PROJECT.pages())
def test_the_numbers_of_a_page(name):
    page = numbers.Page(PROJECT.sources / f"{name}.py", PROJECT.notebooks / f"{name}.ipynb")
    problems = list(numbers.problems(page, ENTRIES[name]))
    assert not problems, "\n".join(problems)


def test_entries_are_of_pages():
    assert set(ENTRIES) == set(PROJECT.pages())


def test_what_is_measured_is_stored_and_used():
    labels = {label for entry in measured.entries(PROJECT).values() for label in entry}
    text = (PROJECT.notebooks / "numbers.yml").read_text(encoding="utf-8")
    used = set(re.findall(r'measured\("([\w-]+)"', text))
    assert labels == used == set(json.loads(values.MEASURED.read_text(encoding="utf-8")))


PROSE = """\
Under 24 shifts the gain is 2.5 points [1.0, 4.0], with 3 exceptions and $t = 500$ (page 13, 95% intervals).

1. About 97% are right: `x = 7.5`, see [page 04](04_segmentation) and ResNet18.
"""


@pytest.fixture
def page(tmp_path) -> numbers.Page:
    cells = [new_markdown_cell(PROSE), new_code_cell("t = 500  # 0.7")]
    jupytext.write(new_notebook(cells=cells), tmp_path / "a.py", fmt="py:percent")
    cells[1].outputs = [new_output("display_data", {"text/plain": "24 shifts: +2.51 [1.04, 3.97]\n97 of 100"})]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    return numbers.Page(tmp_path / "a.py", tmp_path / "a.ipynb")


RIGHT = [
    {"text": "the gain is # points [#, #]", "is": 'shown("shifts: # [#, #]")'},
    {"text": "About #% are", "is": '100 * shown("# of #")[0] / shown("# of #")[1]'},
]


def test_right_numbers_pass(page):
    assert list(numbers.problems(page, RIGHT)) == []


@pytest.mark.parametrize("shown", ["2.6 points", "2.50 points", "25 points", "−2.5 points"])
def test_a_wrong_number_fails(page, shown):
    page.prose = PROSE.replace("2.5 points", shown)
    (problem,) = numbers.problems(page, RIGHT)
    assert problem.endswith("gives 2.51, 1.04, 3.97") and shown.split()[0] in problem


@pytest.mark.parametrize("added", ["0.7", "7.5", "−3", "97%", "500 points", "[2, 24]", "77", "$y = 0.7$"])
def test_a_number_without_an_entry_fails(page, added):
    """A literal in code, or one of the page's outputs, is no evidence for a measured number."""
    page.prose += f"\nAnother is {added}.\n"
    problems = list(numbers.problems(page, RIGHT))
    assert problems and all("no entry in notebooks/numbers.yml" in text and "Another is" in text for text in problems)


def test_an_entry_of_prose_that_changed_fails(page):
    (problem,) = numbers.problems(page, [*RIGHT, {"text": "the loss is #", "is": "1"}])
    assert problem == "'the loss is #': 'the loss is #' occurs 0 times, not once"

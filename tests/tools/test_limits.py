"""tools/pages/limits.py: what a page may show, and ceilings that may only fall."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.pages import limits
from tools.pages.project import Project, write

ROOT = Path(__file__).parents[2]
TABLE = "<table><tr><th>a</th></tr>{}</table>".format("<tr><td>1</td></tr>" * 9)


@pytest.fixture
def site(tmp_path) -> Project:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return Project(tmp_path)


def page(project: Project, *cells, name: str = "01_a") -> Path:
    path = project.notebooks / f"{name}.ipynb"
    write(new_notebook(cells=[new_markdown_cell("# A"), *cells]), path)
    return path


def table() -> list:
    return [new_output("display_data", {"text/html": TABLE})]


@pytest.mark.parametrize(
    ("cells", "what", "count"),
    [
        ([new_code_cell(f"a = {n}") for n in range(11)], "visible code cells", 11),
        ([new_code_cell("a = 1\n" * 16)], "lines in a visible cell", 16),
        ([new_code_cell("a = " + "1" * 77)], "columns in a visible cell", 81),
        ([new_code_cell('figures.show(f, alt="x", caption="y")') for _ in range(5)], "figures", 5),
        ([new_code_cell('figures.show(f, alt="x")')], "figures without a caption", 1),
        ([new_code_cell("a", outputs=table()), new_code_cell("b", outputs=table())], "tables", 2),
        ([new_code_cell("a", outputs=table())], "rows in a table", 9),
        ([new_code_cell("a = {}[scale]")], "choices by scale", 1),
        ([new_code_cell('if scale == "mini": pass')], "choices by scale", 1),
    ],
)
def test_what_is_above_a_limit_is_named(site, cells, what, count):
    found = list(limits.check(site, page(site, *cells)))
    assert f"{what}: {count}, at most {limits.LIMITS[what]} (see tools/pages/limits.py)" in found


def test_folded_cells_and_figures_to_step_through_do_not_count(site):
    folded = new_code_cell("a = 1\n" * 30, metadata={"tags": ["hide-input"]})
    films = [new_code_cell('figures.animate(f, alt="x", caption="y")') for _ in range(5)]
    sliders = [new_code_cell('figures.explore(f, l, alt="x", caption="y")') for _ in range(5)]
    assert list(limits.check(site, page(site, folded, *films, *sliders))) == []
    (missing,) = limits.check(site, page(site, new_code_cell('figures.explore(f, l, alt="x")')))
    assert missing.startswith("figures without a caption: 1")


def test_a_ceiling_allows_what_is_there_and_falls_but_never_rises(site):
    path = page(site, new_code_cell("a = 1\n" * 20))
    file = limits.path_of(site)
    file.write_text(yaml.safe_dump({"01_a": {"lines in a visible cell": 20}}), encoding="utf-8")
    assert list(limits.check(site, path)) == []
    page(site, new_code_cell("a = 1\n" * 21))
    assert any("lines in a visible cell: 21, at most 20" in text for text in limits.check(site, path))
    assert limits.lower(site) == []  # a page above its ceiling does not raise it
    assert limits.ceilings(site) == {"01_a": {"lines in a visible cell": 20}}

    page(site, new_code_cell("a = 1\n" * 17))
    assert any("the ceiling is still 20" in text for text in limits.check(site, path))
    assert limits.lower(site) == ["01_a: lines in a visible cell: 20 -> 17"]
    assert list(limits.check(site, path)) == []
    page(site, new_code_cell("a = 1\n" * 15))
    assert limits.lower(site) == ["01_a: lines in a visible cell: 17 -> within 15"]
    assert limits.ceilings(site) == {} and list(limits.check(site, path)) == []
    assert "ceiling\n# may only fall" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("# Two words\n\n* and 3 more, *not* – dashes.", 7),
        ("A loss $L(x, c)$ of `f(x, y)` {cite:p}`a, b`.", 6),
        ("Before\n\n$$ a = b\n+ c $$\n\nafter", 2),
        ("[page 03](03_classification) and [the guide](https://a.b/c d)", 5),
        ("```{exercise} Title\n:label: a-b\n\nOne two.\n```\nthree", 3),
        ("````{dropdown} Answer\nOne.\n```bash\ndtta probe\n```\ntwo\n````\nthree", 3),
        ("```text\n1  {a}\n```\n:::{note}\nfour\n:::\nfive", 2),
    ],
)
def test_words_of_prose_are_counted_without_code_and_formulas(text, count):
    assert limits.words(text) == count


def test_lessons_that_are_too_long_together_are_named(site, monkeypatch):
    site.sources.mkdir(parents=True)
    for name in ("01_a", "02_b"):
        (site.sources / f"{name}.py").write_text("# %% [markdown]\n# # One two\n\n# %%\na = 1\n", encoding="utf-8")
    monkeypatch.setattr(limits, "WORDS", 4)
    assert list(limits.check_prose(site)) == []
    monkeypatch.setattr(limits, "WORDS", 3)
    (sentence,) = limits.check_prose(site)
    assert sentence.startswith("words in all lessons: 4, at most 3") and sentence.endswith("01_a 2, 02_b 2")


def test_the_books_pages_are_within_their_limits():
    project = Project(ROOT)
    found = {name: list(limits.check(project, project.notebooks / f"{name}.ipynb")) for name in project.pages()}
    assert found == {name: [] for name in project.pages()}
    assert set(limits.ceilings(project)) <= set(project.pages())
    assert list(limits.check_prose(project)) == []

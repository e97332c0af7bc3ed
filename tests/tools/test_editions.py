"""tools/pages/editions.py: the notebook for Colab has no MyST, the book's has numbered figures."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tools.pages import editions
from tools.pages.editions import EditionError, Plain, put_outputs
from tools.pages.project import Project

ROOT = Path(__file__).parents[2]
PROJECT = Project(ROOT)
PAGES = PROJECT.pages()
MYST = re.compile(r"\{[a-z][\w:-]*\}`|^ *(?:`{3,}|:{3,})\{|^\([\w-]+\)=\s*$|^:{3,}", re.MULTILINE)


def plain(text: str, numbers: dict[str, str] | None = None) -> str:
    return Plain(PROJECT, "03_classification", numbers or {})(text)


@pytest.mark.parametrize(
    ("myst", "markdown"),
    [
        ("{cite:p}`hu2022lora`", "([Hu et al., 2022](https://arxiv.org/abs/2106.09685))"),
        ("{cite:t}`hu2022lora`", "[Hu et al. (2022)](https://arxiv.org/abs/2106.09685)"),
        ("{cite:p}`radford2021clip`", "([Radford et al., 2021](https://arxiv.org/abs/2103.00020))"),
        ("{cite:t}`hart1996sphere`", "[Hart (1996)](https://doi.org/10.1007/s003710050084)"),
        ("see [page\n01](01_diffusion_loss)", f"see [page 01]({PROJECT.colab('01_diffusion_loss')})"),
        ("[`code`](02_conditions)", f"[`code`]({PROJECT.colab('02_conditions')})"),
        ("[guide](../book/students.md)", f"[guide]({PROJECT.book}/book/students.html)"),
        # evidence has the name of its lesson
        (
            "[evidence](../book/evidence/03_classification)",
            f"[evidence]({PROJECT.book}/book/evidence/03_classification.html)",
        ),
        ("[below](some-label)", "below"),
        ("[x](https://example.org/a_b)", "[x](https://example.org/a_b)"),
        ("as {numref}`teacher` shows", "as Figure 3.7 shows"),
        ("{term}`belief <belief>` and {math}`x_1`", "belief and $x_1$"),
        ("(label)=\n## Title", "## Title"),
        ("```bash\ndtta doctor  # {not} a [role](x)\n```", "```bash\ndtta doctor  # {not} a [role](x)\n```"),
        ("`d[0](x)` stays", "`d[0](x)` stays"),
        (":::{note}\nMind.\n:::", "> **Note.** Mind."),
    ],
)
def test_myst_becomes_plain_markdown(myst, markdown):
    assert plain(myst, {"teacher": "3.7"}) == markdown


def test_solutions_and_answers_are_closed_and_keep_their_text():
    text = "```{exercise}\n:label: few\n\nHow *few*?\n```\n\n"
    text += "```{solution} few\n:class: dropdown\n\nSix {cite:p}`hu2022lora`.\n```"
    made = plain(text)
    assert "**Exercise 3.1.**" in made and "How *few*?" in made
    solution = made[made.index("<details>") :]
    assert "<summary>Solution to exercise 3.1</summary>" in solution and "Six ([Hu et al., 2022]" in solution
    nested = ":::{div} box\n**1.** Why?\n\n```{dropdown} Answer\n**a.**\n```\n:::"
    assert re.fullmatch(
        r"\s*\*\*1\.\*\* Why\?\s*<details>\n<summary>Answer</summary>\n\n\*\*a\.\*\*\n\n</details>\s*", plain(nested)
    )


def test_a_paragraph_after_a_solution_has_a_gap():
    text = "```{dropdown} Answer\nSix.\n```\n\n"
    closed = "Six.\n\n</details>\n"
    assert f"{closed}<br>\n\n**Challenge.**" in plain(f"{text}**Challenge.** Go on.")
    assert f"{closed}<br>\n\n**Exercise 3.1.**" in plain(text + "```{exercise}\nWhy?\n```")
    for end in ("", "## Next\n\nMore.", text.replace("Six", "Seven")):
        assert "<br>" not in plain(text + end)


@pytest.mark.parametrize(
    ("myst", "message"),
    [
        ("{abbr}`x`", "no plain form"),
        ("```{tab-set}\nx\n```", "no plain form for the directive 'tab-set'"),
        ("```{note}\nx", "never closed"),
        ("{cite:p}`nobody1999`", "references.bib has no 'nobody1999'"),
        ("{numref}`gone`", "no figure is named 'gone'"),
        ("[x](../book/gone.md)", "leads to no page"),
    ],
)
def test_what_has_no_plain_form_is_an_error(myst, message):
    with pytest.raises(EditionError, match=re.escape(message)):
        plain(myst)


class Links(HTMLParser):
    """The links of a page, and how many <details> are open when the page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open = 0
        self.details = 0

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.details += tag == "details"
        self.open += tag == "details" and "open" in values


def exists(link: str) -> bool:
    """Return whether a link of ours leads to a notebook, a file, or a page of the book that has a source."""
    colab = PROJECT.colab("").removesuffix(".ipynb")
    for start, folder in ((colab, "notebooks/"), (f"{PROJECT.url}/blob/main/", ""), (f"{PROJECT.book}/", "")):
        if link.startswith(start):
            path = folder + link.removeprefix(start).partition("#")[0]
            return (ROOT / path.replace(".html", ".md")).is_file() and path.count(".") == 1
    ours = PROJECT.url.removeprefix("https://github.com/").partition("/")[0]
    return link.startswith(("https://", "#")) and f"{ours}/" not in link and f"{ours}." not in link


@pytest.mark.parametrize("name", PAGES)
def test_committed_notebook_is_plain_and_reads_well_without_sphinx(name):
    page = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    prose = [cell.source for cell in page.cells if cell.cell_type == "markdown"]
    assert [match[0] for text in prose for match in MYST.finditer(text)] == []
    assert page.cells[0].source.startswith(f"# {name[:2]}. ")
    html, _ = HTMLExporter(exclude_output=True).from_notebook_node(page)
    body = html[html.index("<body") :]
    shown = Links()
    shown.feed(body)
    assert [link for link in shown.links if not exists(link)] == [], "links that lead nowhere"
    assert shown.open == 0 and shown.details >= 1  # each page has an exercise
    assert "{cite" not in body and "{exercise" not in body and ":class:" not in body
    quiz = 3 if (ROOT / "book" / "quizzes" / f"{name[:2]}.yml").is_file() else 0
    source = (ROOT / "notebooks" / "src" / f"{name}.py").read_text(encoding="utf-8")
    closed = source.count("```{solution}") + source.count("```{dropdown}") + quiz
    assert shown.details == closed, "solutions, and answers of the self-test"
    captions = re.findall(r"<strong>Figure ([\d.]+)\.</strong>", body)
    assert captions == [f"{int(name[:2])}.{n}" for n in range(1, len(captions) + 1)] and captions


@pytest.mark.parametrize("name", PAGES)
def test_every_citation_in_a_committed_notebook_is_a_link(name):
    notebook, source = (ROOT / "notebooks" / file for file in (f"{name}.ipynb", f"src/{name}.py"))
    cells = nbformat.read(notebook, as_version=4).cells
    prose = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    cited = re.findall(r"\[[^\]]+(?:, | \()\d{4}\)?\]\(https://[^)\s]+\)", prose)
    roles = re.findall(r"\{cite:[pt]\}`([^`]+)`", source.read_text(encoding="utf-8"))
    assert len(cited) == sum(len(keys.split(",")) for keys in roles)


@pytest.mark.parametrize("name", PAGES)
def test_book_and_plain_notebook_have_the_same_code_and_figure_numbers(name):
    one, other = PROJECT.generate(name), PROJECT.generate(name, "book")
    code = [[cell.source for cell in page.cells if cell.cell_type == "code"] for page in (one, other)]
    assert code[0] == code[1]
    captions = [cell.source for cell in one.cells if editions.CAPTION in cell.metadata.get("tags", [])]
    figures = [c.metadata.mystnb.figure for c in other.cells if "figure" in c.metadata.get("mystnb", {})]
    assert captions == [figure.caption for figure in figures]
    assert len({figure.name for figure in figures}) == len(figures)


def test_caption_name_and_alt_of_a_figure():
    first = new_code_cell('figures.show(\n    fig, alt="A line " "that rises.", caption="It rises.", name="rise"\n)')
    second = new_code_cell('figures.animate(frames, alt="A film of a line.")')
    third = new_code_cell('figures.explore(frames, texts, alt="A line.", caption="It moves.", slider="t")')
    page = new_notebook(cells=[new_markdown_cell("# T"), first, new_code_cell("show(1)"), second, third])
    assert editions.figures(page, "04_x") == {
        1: editions.Figure("4.1", "It rises.", "rise"),
        3: editions.Figure("4.2", "A film of a line.", ""),
        4: editions.Figure("4.3", "It moves.", ""),
    }


@pytest.mark.parametrize(
    ("code", "same"),
    [("a = 1  # one", True), ("a = (\n    1\n)", True), ("a = 2", False), ("%pip install x", False)],
)
def test_outputs_are_kept_only_for_the_same_code(code, same):
    executed = new_notebook(cells=[new_code_cell("a = 1", execution_count=1)])
    page = new_notebook(cells=[new_markdown_cell("new prose"), new_code_cell(code)])
    assert put_outputs(page, executed) is same
    assert page.cells[1].execution_count == (1 if same else None)


@pytest.mark.parametrize(("change", "same"), [("caption='It falls.'", True), ("alt='A line that falls.'", False)])
def test_outputs_are_kept_when_only_the_caption_of_a_figure_changes(change, same):
    old = "figures.show(fig, alt='A line that rises.', caption='It rises.')"
    key = change.split("=")[0]
    new = re.sub(rf"{key}='[^']*'", change, old)
    page, executed = (new_notebook(cells=[new_code_cell(code)]) for code in (new, old))
    assert new != old and put_outputs(page, executed) is same

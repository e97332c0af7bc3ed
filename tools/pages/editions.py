"""Make two notebooks of a page: one in plain Markdown, for Colab and Jupyter, and one with MyST roles, for the book.

The source has MyST. Write there:

    {cite:p}`key`, {cite:t}`key`         a reference of book/references.bib
    [page 03](03_classification)         another page; [the guide](../book/students.md): a page of prose
    {numref}`teacher`                    "Figure 3.2", the figure shown with figures.show(..., name="teacher")
    ```{exercise}, ```{solution}, ```{dropdown}, :::{note} and other boxes

Figures are numbered by page. Their captions are the literal `caption` of ``figures.show``, ``explore`` or ``animate``,
or the alt text where there is none. Other constructs of MyST are an error here, since Colab would show their source.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tools.pages.project import INSTALL_TITLE

if TYPE_CHECKING:
    from tools.pages.project import Project

FOLDED = "hide-input"
FIGURE_CALLS = ("figures.show", "figures.explore", "figures.animate")
CAPTION = "caption"  # the tag of a cell with a caption, which the book leaves out
BOXES = {"note", "tip", "warning", "important", "hint", "seealso", "admonition"}
_FENCE = re.compile(r"^( *)(`{3,}|:{3,})\{([\w-]+)\} *(.*)$")
_CODE = re.compile(r"^ *(`{3,})(?!.*\{)")
_ROLE = re.compile(r"\{([a-z][a-z:]*)\}`([^`]+)`")
_LINK = re.compile(r"(?<!\!)\[([^\]]+)\]\(([^)\s]+)\)")
_TARGET = re.compile(r"^\(([\w-]+)\)=\s*$")
_CLOSED = re.compile(r"^</details>\n(?=\n+(?!</?details>|#)\S)", re.MULTILINE)  # a paragraph follows
_LEFT = re.compile(r"\{[a-z][\w:-]*\}`|^ *(?:`{3,}|:{3,})\{|^\([\w-]+\)=\s*$|^:{3,}", re.MULTILINE)


class EditionError(ValueError):
    """A construct that has no plain form; the message names it."""


# --- figures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """A figure of a page: its number such as "3.2", its caption, its name for references."""

    number: str
    caption: str
    name: str


def number_of(name: str) -> str:
    """Return the number of a page: "03" of "03_classification", or "" of a page without one."""
    number = name.partition("_")[0]
    return number if number.isdecimal() else ""


def figures(page: NotebookNode, name: str) -> dict[int, Figure]:
    """Return the figures of a page by the index of the code cell that shows them, numbered in order."""
    found: dict[int, Figure] = {}
    prefix = f"{int(number)}." if (number := number_of(name)) else ""
    for index, cell in enumerate(page.cells):
        call = figure_call(cell.source) if cell.cell_type == "code" else None
        if call is not None:
            texts = {k.arg: literal(k.value) for k in call.keywords}
            caption = texts.get("caption") or texts.get("alt") or ""
            found[index] = Figure(f"{prefix}{len(found) + 1}", caption, texts.get("name") or "")
    return found


def figure_call(source: str) -> ast.Call | None:
    """Return the call that shows the figure of a cell, if it has one."""
    if "figures." not in source:
        return None
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FIGURE_CALLS:
            return node
    return None


def literal(node: ast.expr) -> str:
    """Return a literal text in one line; "" if it is computed."""
    literal = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return " ".join(node.value.split()) if literal else ""


# --- from MyST to plain Markdown ------------------------------------------------------------------------------------


@cache
def _bibliography(path: Path) -> dict[str, tuple[str, str, str]]:
    """Return authors, year and address of each reference."""
    from pybtex.database import parse_file

    references = {}
    for key, entry in parse_file(str(path), bib_format="bibtex").entries.items():
        names = [" ".join(person.last_names) for person in entry.persons["author"]]
        names = [name.replace("{", "").replace("}", "") for name in names]
        authors = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
        references[key] = (authors, entry.fields["year"], _address(entry.fields))
    return references


def _address(fields: Mapping[str, str]) -> str:
    """Return the address of a reference: its url, or that of its arXiv number or DOI; "" if it has none."""
    starts = {"url": "", "eprint": "https://arxiv.org/abs/", "doi": "https://doi.org/"}
    return next((start + fields[name] for name, start in starts.items() if name in fields), "")


class Plain:
    """Rewrite MyST as plain Markdown.

    Args:
        numbers: name of a figure -> its number.
        name: of the page, for messages and the numbers of exercises.
    """

    def __init__(self, project: Project, name: str, numbers: dict[str, str]) -> None:
        self.project, self.name, self.numbers = project, name, numbers
        self.exercises: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        plain = "\n".join(self._blocks(text.splitlines()))
        plain = _CLOSED.sub("</details>\n<br>\n", plain)  # Colab and JupyterLab leave no gap there
        for match in _LEFT.finditer(_without_code(plain)):
            raise EditionError(f"{self.name}: no plain form for {match[0].strip()!r}; see tools/pages/editions.py")
        return plain

    def _blocks(self, lines: list[str]) -> Iterator[str]:
        prose: list[str] = []

        def flush() -> Iterator[str]:
            if prose:
                yield from self._inline("\n".join(prose)).split("\n")
                prose.clear()

        i = 0
        while i < len(lines):
            fence, code = _FENCE.match(lines[i]), _CODE.match(lines[i])
            if fence or code:
                mark = fence[2] if fence else code[1]
                end = next((j for j in range(i + 1, len(lines)) if lines[j].strip() == mark), None)
                if end is None:
                    raise EditionError(f"{self.name}: {lines[i].strip()!r} is never closed")
                yield from flush()
                if fence:
                    yield from self._box(fence[3], fence[4].strip(), textwrap.dedent("\n".join(lines[i + 1 : end])))
                else:
                    yield from lines[i : end + 1]
                i = end + 1
                continue
            if not _TARGET.match(lines[i]):
                prose.append(lines[i])
            i += 1
        yield from flush()

    def _box(self, kind: str, argument: str, body: str) -> Iterator[str]:
        lines, options = body.splitlines(), {}
        while lines and (option := re.match(r"^:([\w-]+): *(.*)$", lines[0])):
            options[option[1]] = option[2]
            lines.pop(0)
        inner = "\n".join(self._blocks(lines)).strip("\n")
        if kind == "exercise":
            number = f"{int(number_of(self.name) or 0)}.{len(self.exercises) + 1}"
            self.exercises[options.get("label", "")] = number
            title = f" ({self._inline(argument)})" if argument else ""
            yield from (f"**Exercise {number}{title}.**", "", inner)
        elif kind == "solution":
            yield from _details(f"Solution to exercise {self.exercises.get(argument, '')}".strip(), inner)
        elif kind == "dropdown":
            yield from _details(self._inline(argument), inner)
        elif kind == "div":
            yield from ("", inner, "")
        elif kind in BOXES:
            title = self._inline(argument) if argument else kind.capitalize()
            yield from ("> " + line if line else ">" for line in f"**{title}.** {inner}".splitlines())
        else:
            raise EditionError(f"{self.name}: no plain form for the directive {kind!r}; see tools/pages/editions.py")

    def _inline(self, text: str) -> str:
        return _outside_code(text, lambda part: _LINK.sub(self._link, part), lambda t: _ROLE.sub(self._role, t))

    def _role(self, match: re.Match) -> str:
        role, content = match[1], " ".join(match[2].split())
        if role in ("cite:p", "cite:t", "cite"):
            return self._cite(content, in_text=role == "cite:t")
        label = re.fullmatch(r"(.*?)\s*<([^>]+)>", content)
        words, target = (label[1], label[2]) if label else (content, content)
        if role == "numref":
            if target not in self.numbers:
                raise EditionError(f"{self.name}: no figure is named {target!r}")
            return f"Figure {self.numbers[target]}"
        if role == "ref":
            return f"exercise {self.exercises[target]}" if target in self.exercises else words
        if role == "doc":
            return self._reference(words, target)
        if role == "math":
            return f"${content}$"
        if role == "term":
            return words
        if role in ("download", "mod", "class", "func", "meth"):
            return f"`{words}`" if role != "download" else words
        return match[0]

    def _cite(self, keys: str, in_text: bool) -> str:
        references = _bibliography(self.project.root / "book" / "references.bib")
        cited = []
        for key in (key.strip() for key in keys.split(",")):
            if key not in references:
                raise EditionError(f"{self.name}: book/references.bib has no {key!r}")
            authors, year, address = references[key]
            words = f"{authors} ({year})" if in_text else f"{authors}, {year}"
            cited.append(f"[{words}]({address})" if address else words)
        return " and ".join(cited) if in_text else f"({'; '.join(cited)})"

    def _link(self, match: re.Match) -> str:
        words, target = match[1], match[2]
        if re.match(r"[a-z]+:", target):
            return match[0]
        return self._reference(words, target)

    def _reference(self, words: str, target: str) -> str:
        """Return a link to a page, or its words where the target is a place on this page."""
        file, _, _ = target.partition("#")
        stem = Path(file).name.removesuffix(".ipynb").removesuffix(".md")
        words = " ".join(words.split()) if words != target else stem
        if "book" not in Path(file).parts and (self.project.sources / f"{stem}.py").exists():
            return f"[{words}]({self.project.colab(stem)})"
        prose = [path for path in self.project.toc_files() if Path(path).name == stem and path.startswith("book/")]
        if prose:
            return f"[{words}]({self.project.book}/{prose[0]}.html)"  # the book fills the tables of the evidence
        if not file or ("/" not in file and "." not in file):
            return words  # a label of this page
        raise EditionError(f"{self.name}: [{words}]({target}) leads to no page of the book")


def _details(summary: str, inner: str) -> Iterator[str]:
    yield from ("<details>", f"<summary>{summary}</summary>", "", inner, "", "</details>")


def _outside_code(text: str, *rewrite: Callable[[str], str]) -> str:
    """Apply functions to a text, but not to its inline code, whose backticks do not follow a role."""
    links, roles = rewrite
    text = roles(text)
    parts = re.split(r"(`+[^`]+`+)", text)
    # A link may contain inline code: hide code behind marks while links are rewritten.
    marks = {f"\0{i}\0": part for i, part in enumerate(parts) if i % 2}
    hidden = "".join(f"\0{i}\0" if i % 2 else part for i, part in enumerate(parts))
    hidden = links(hidden)
    for mark, part in marks.items():
        hidden = hidden.replace(mark, part)
    return hidden


def _without_code(text: str) -> str:
    return re.sub(r"^( *)(`{3,})(?!\{).*?^ *\2`*$", "", text, flags=re.MULTILINE | re.DOTALL)


# --- the two notebooks ----------------------------------------------------------------------------------------------


def plain(project: Project, name: str, page: NotebookNode, end: list[str]) -> NotebookNode:
    """Return the notebook for Colab and Jupyter, with captions under its figures and `end` as its last cells."""
    shown = figures(page, name)
    rewrite = Plain(project, name, {figure.name: figure.number for figure in shown.values()})
    cells = []
    for index, cell in enumerate(page.cells):
        if cell.cell_type == "markdown":
            cell.source = rewrite(cell.source)
        elif FOLDED in cell.metadata.get("tags", []):
            cell.metadata["cellView"] = "form"  # Colab
            cell.metadata["jupyter"] = {"source_hidden": True}
        cells.append(cell)
        if index in shown:
            figure = shown[index]
            caption = f"**Figure {figure.number}.** {figure.caption}".strip()
            cells.append(new_markdown_cell(caption, metadata={"tags": [CAPTION]}))
    page.cells = cells + [new_markdown_cell(rewrite(text)) for text in end]
    _title(page, name)
    return page


def book(project: Project, name: str, page: NotebookNode, end: list[str]) -> NotebookNode:
    """Return the notebook for the book: MyST roles, and each figure's number and caption in its cell's metadata."""
    shown = figures(page, name)
    numbers = {figure.name: figure.number for figure in shown.values() if figure.name}

    def numref(match: re.Match) -> str:
        if match[1] not in numbers:
            raise EditionError(f"{name}: no figure is named {match[1]!r}")
        return f"{{ref}}`Figure {numbers[match[1]]} <{match[1]}>`"

    for index, cell in enumerate(page.cells):
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"\{numref\}`([\w-]+)`", numref, cell.source)
        elif index in shown:
            figure = shown[index]
            caption = f"**Figure {figure.number}.** {figure.caption}".strip()
            cell.metadata["mystnb"] = {
                "figure": {"caption": caption, "name": figure.name or f"figure-{name}-{figure.number}"}
            }
    page.cells += [new_markdown_cell(text, id=f"course-{n}") for n, text in enumerate(end)]
    _title(page, name)
    return page


def _title(page: NotebookNode, name: str) -> None:
    """Put the page's number before its title: the sidebar shows it too."""
    number, cell = number_of(name), page.cells[0]
    if number:
        cell.source = cell.source.replace("# ", f"# {number}. ", 1)


# --- outputs --------------------------------------------------------------------------------------------------------


def put_outputs(page: NotebookNode, executed: NotebookNode) -> bool:
    """Give a new notebook the outputs of one that ran; False, and nothing is done, if its code is another.

    Comments, line breaks and captions of figures may differ.
    """
    cells = [[cell for cell in one.cells if cell.cell_type == "code"] for one in (page, executed)]
    if len(cells[0]) != len(cells[1]):
        return False
    pairs = list(zip(*cells, strict=True))
    if not all(_same_code(new.source, old.source) for new, old in pairs):
        return False
    for new, old in pairs:
        new.outputs, new.execution_count = old.outputs, old.execution_count
    return True


def _same_code(one: str, other: str) -> bool:
    if one == other or (one.startswith(INSTALL_TITLE) and other.startswith(INSTALL_TITLE)):
        return True
    try:
        return _without_captions(one) == _without_captions(other)
    except SyntaxError:  # IPython's commands
        return False


def _without_captions(source: str) -> str:
    """Return the syntax tree without literal captions of figures, which no output contains."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in FIGURE_CALLS:
            node.keywords = [key for key in node.keywords if not (key.arg == "caption" and literal(key.value))]
    return ast.dump(tree)

"""Make a deck of slides from each page: its idea, questions to predict, figures, tables, take-aways and self-test.

A deck is one HTML file next to mathjax.js and needs no network. Arrow keys, Page Up and Page Down (what presenters
send) or a click change slides; f fills the screen; printing gives a page for each slide.
"""

from __future__ import annotations

import base64
import html
import importlib.util
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.pages import course
from tools.pages.editions import CAPTION, number_of
from tools.pages.project import PageError, Project, tags

TEMPLATE = Path(__file__).with_name("slides.html")
PREDICT = "**Predict, then run:**"
OPENINGS = ("**The idea.**", "**The result.**")


def build(project: Project, names: list[str], out: Path) -> list[Path]:
    """Write the decks of pages from notebooks/*.ipynb, and an index; return their paths.

    Raises PageError: a page has not been run and published.
    """
    pages = {}
    for name in names:
        path = project.notebooks / f"{name}.ipynb"
        if not path.exists():
            raise PageError(f"{name}: no notebook in {project.notebooks}; run and publish the page first")
        pages[name] = nbformat.read(path, as_version=4)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_mathjax(), out / "mathjax.js")
    paths = [_write(out / f"{name}.html", *deck(project, name, page)) for name, page in pages.items()]
    links = "".join(f'<li><a href="{path.name}">{html.escape(_title(pages[path.stem]))}</a></li>' for path in paths)
    return [_write(out / "index.html", "Slides", [_slide("", "Slides", f"<ul>{links}</ul>")]), *paths]


def _mathjax() -> Path:
    spec = importlib.util.find_spec("sphinx-mathjax-offline")  # which ships MathJax for the book, too
    if spec is None:
        raise PageError("sphinx-mathjax-offline is missing; the slides need: pip install '.[book]'")
    return Path(spec.origin).with_name("static") / "mathjax" / "tex-svg-full.js"


def _write(path: Path, title: str, slides: list[str]) -> Path:
    text = TEMPLATE.read_text(encoding="utf-8")
    text = text.replace("{{ title }}", html.escape(title)).replace("{{ slides }}", "\n".join(slides))
    path.write_text(text, encoding="utf-8")
    return path


def _title(page: NotebookNode) -> str:
    return page.cells[0].source.partition("\n")[0].removeprefix("# ").strip()


def deck(project: Project, name: str, page: NotebookNode) -> tuple[str, list[str]]:
    """Return the title of a page and its slides as HTML."""
    title = _title(page)
    slides = list(_slides(page, title))
    for n, question in enumerate(course.quiz(project, number_of(name)), 1):
        options = "".join(
            f"<li><b>{letter}.</b> {_inline(text)}</li>"
            for letter, text in zip("abcd", question["options"], strict=False)
        )
        answer = f"<b>{question['answer']}.</b> {_inline(question['why'])}"
        body = f"<p>{_inline(question['question'])}</p><ul class='options'>{options}</ul>"
        body += f"<details><summary>Answer</summary><p>{answer}</p></details>"
        slides.append(_slide("question", f"Test yourself, question {n}", body))
    return title, slides


def _slides(page: NotebookNode, title: str) -> Iterator[str]:
    heading = title
    for index, cell in enumerate(page.cells):
        if cell.cell_type == "code":
            following = page.cells[index + 1] if index + 1 < len(page.cells) else None
            caption = following.source if following and CAPTION in tags(following) else ""
            yield from _outputs(cell, heading, caption)
        elif not set(tags(cell)) & {"remove-cell", CAPTION}:
            for block in _blocks(cell.source):
                if block.startswith("#"):
                    heading, _, block = block.lstrip("# ").partition("\n")
                if heading in ("Test yourself", "Assignment", "Exercises", "Exercise", "References"):
                    continue
                if block.startswith(OPENINGS[0]):
                    yield _slide("title", title, _markdown(block.removeprefix(OPENINGS[0])), level=1)
                elif block.startswith(OPENINGS[1]):
                    yield _slide("", "The result", _markdown(block.removeprefix(OPENINGS[1])))
                elif PREDICT in block:
                    yield _slide("question", f"Predict: {heading}", _markdown(_question(block)))
                elif block.startswith("```text") or (heading == "Take-aways" and re.match(r"\s*[*-] ", block)):
                    yield _slide("", heading, _markdown(block))


def _question(block: str) -> str:
    """Return a block without the words that announce its question."""
    before, _, question = block.partition(PREDICT)
    return before + re.sub(r"^\W*\w", lambda first: first[0].upper(), question.lstrip())


def _blocks(text: str) -> list[str]:
    """Divide Markdown at blank lines, but not inside code or the lists of a block."""
    blocks: list[str] = []
    inside = False
    for part in re.split(r"\n{2,}", text.strip()):
        item, further = r"[*-] |\d+\. ", r"[*-] |\d+\. |  "
        if inside or (blocks and re.match(item, blocks[-1]) and re.match(further, part)):
            blocks[-1] += f"\n\n{part}"
        else:
            blocks.append(part)
        inside ^= part.count("```") % 2 == 1
    return blocks


def _outputs(cell: NotebookNode, heading: str, caption: str) -> Iterator[str]:
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data and caption:
            alt = html.escape(output.get("metadata", {}).get("image/png", {}).get("alt", ""), quote=True)
            source = "".join(data["image/png"].split())
            width, height = struct.unpack(">II", base64.b64decode(source[:32])[16:24])
            picture = f'<img alt="{alt}" src="data:image/png;base64,{source}">'
            picture = data.get("text/html", picture)  # with a slider
            words = f"<figcaption>{_inline(caption)}</figcaption>"
            shape = "tall" if width < 1.3 * height and "text/html" not in data else "wide"
            yield _slide("", heading, f'<figure class="{shape}">{picture}{words}</figure>')
        elif "dtta-table" in data.get("text/html", ""):
            yield _slide("", heading, data["text/html"])


def _slide(kind: str, title: str, body: str, level: int = 2) -> str:
    inner = body if body.startswith("<figure") else f"<div>{body}</div>"
    heading = f"<h{level}>{_inline(title)}</h{level}>"
    return f'<section class="{kind}">{heading}<div class="body">{inner}</div></section>'


def _parser():
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def tex(content: str, options: dict) -> str:
        left, right = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
        return f"{left}{html.escape(content)}{right}"

    return MarkdownIt("commonmark", {"html": True}).enable("table").use(dollarmath_plugin, renderer=tex)


def _markdown(text: str) -> str:
    return _parser().render(text)


def _inline(text: str) -> str:
    return _parser().renderInline(" ".join(text.split()))

"""Build the book strictly, from a staging copy of all its parts."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
from nbformat import NotebookNode

from dtta.pages.report import keep_whole
from tools.pages import course, evidence, interface, record
from tools.pages.check import check_page
from tools.pages.editions import put_outputs
from tools.pages.project import PageError, Project, clean, tags, write

RUNS = "<!-- runs -->"
SITEMAP = "http://www.sitemaps.org/schemas/sitemap/0.9"
_EMPTY_HEADING = re.compile(r"<th(?: scope=\"col\")?([^>]*)>\s*</th>")


def stage(project: Project, site: Path, notebooks: Path) -> None:
    """Copy the book's parts to `site`, so that a build leaves the source tree as it is."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(project.root / "book", site / "book")
    for path in (project.root / "_toc.yml", *project.root.glob("index.md")):
        shutil.copy(path, site)
    config = (project.root / "_config.yml").read_text(encoding="utf-8")
    addresses = {"<repository>": project.url, "<book>": project.book, "<path>": urlsplit(project.book).path}
    for mark, address in addresses.items():
        config = config.replace(mark, address)
    (site / "_config.yml").write_text(config, encoding="utf-8")
    assignments = course.assignments(project)
    for name in project.pages_in_toc():
        path = notebooks / f"{name}.ipynb"
        if not path.exists():
            raise PageError(f"{name}: no notebook in {notebooks}; run the page first")
        problems = check_page(project, path, committed=notebooks == project.notebooks)
        if problems:
            raise PageError("\n".join(problems))
        write(for_book(project, name, nbformat.read(path, as_version=4)), site / "notebooks" / path.name)
    handed_out = project.notebooks / "assignments"
    if handed_out.is_dir():  # readers download them; they are not pages of the book
        shutil.copytree(handed_out, site / "notebooks" / "assignments")
    if (site / "book" / "_static" / "live").is_dir():
        from tools.live.pack import pack  # imports torch, which most commands do not need

        pack(site / "book" / "_static" / "live")
    course.put_tables(project, site / "book", assignments)
    evidence.put_tables(site / "book" / "evidence")
    if (site / "book" / "cli.md").exists():
        interface.put_commands(site / "book" / "cli.md")
    status = site / "book" / "status.md"
    if status.exists():
        folders = {notebooks, *(project.build / "executed").glob("*")}
        records = [one for folder in sorted(folders) for one in record.read(folder)]
        text = status.read_text(encoding="utf-8")
        if RUNS not in text:
            raise PageError(f"book/status.md has no line {RUNS}, which the table of runs replaces")
        status.write_text(text.replace(RUNS, record.table(records)), encoding="utf-8")


def for_book(project: Project, name: str, executed: NotebookNode) -> NotebookNode:
    """Return the book's edition of a page with the outputs of its executed notebook.

    Raises PageError: the notebook's code is not that of the source.
    """
    injected = [cell for cell in executed.cells if "injected-parameters" in tags(cell)]
    executed.cells = [cell for cell in executed.cells if "injected-parameters" not in tags(cell)]
    page = project.generate(name, "book")
    if not put_outputs(page, clean(executed)):
        raise PageError(f"{name}: its code differs from its source: run the page again")
    if injected:  # the parameters of this run come after the defaults
        place = next(i for i, cell in enumerate(page.cells) if "parameters" in tags(cell))
        page.cells[place + 1 : place + 1] = injected
    return for_browser(page)


def for_browser(page: NotebookNode) -> NotebookNode:
    """Add what a browser needs and a notebook lacks, and return the page.

    Copy the alt text of a figure to the cell metadata, where myst-nb reads it; drop the caption of a figure that was
    not shown. Make the empty corner of a table a plain cell: a screen reader would announce a heading without words.
    Keep the intervals of a table on one line.
    """
    page.cells = [part for cell in page.cells for part in _figure_apart(cell)]
    for cell in page.cells:
        for output in cell.get("outputs", []):
            for about in output.get("metadata", {}).values():
                if isinstance(about, dict) and "alt" in about:
                    cell.metadata.setdefault("mystnb", {})["image"] = {"alt": about["alt"]}
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = _EMPTY_HEADING.sub(r"<td\1></td>", output.data["text/html"])
                if 'class="dtta-table"' in output.data["text/html"]:
                    output.data["text/html"] = keep_whole(output.data["text/html"])
    return page


def _is_image(output: NotebookNode) -> bool:
    return any(mime.startswith("image/") for mime in output.get("data", {}))


def _figure_apart(cell: NotebookNode) -> list[NotebookNode]:
    """Divide a cell so that its figure has a cell to itself: myst-nb gives every output of a cell the caption."""
    figure = cell.metadata.get("mystnb", {}).pop("figure", None)
    if not figure or not any(map(_is_image, cell.outputs)):
        return [cell]
    cells = []
    for image, outputs in itertools.groupby(cell.outputs, _is_image):
        part = nbformat.from_dict({**cell, "outputs": list(outputs)})
        if cells:  # the code is shown once
            part.id = f"{cell.id}-{len(cells)}"
            part.metadata["tags"] = ["remove-input"]
        if image:
            part.metadata["mystnb"] = {"figure": figure}
        cells.append(part)
    return cells


def build(project: Project, notebooks: Path, out: Path) -> Path:
    """Build the book strictly and return the folder of its HTML."""
    site, html = out / "site", out / "html"
    stage(project, site, notebooks)
    # The command next to the interpreter, so that the environment need not be activated.
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(site)]
    command += ["--all", "-W", "--keep-going", "-n", "-q"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, encoding="utf-8")
    if done.returncode:
        raise PageError(f"{done.stdout}\nthe strict book build failed; the warnings above say where")
    shutil.rmtree(html, ignore_errors=True)
    shutil.move(site / "_build" / "html", html)
    pages = "".join(f"<url><loc>{project.book}/{file}.html</loc></url>\n" for file in project.toc_files())
    sitemap = f'<?xml version="1.0" encoding="utf-8"?>\n<urlset xmlns="{SITEMAP}">\n{pages}</urlset>\n'
    (html / "sitemap.xml").write_text(sitemap, encoding="utf-8")
    return html

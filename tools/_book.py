"""The book: a staging copy of everything it is made of, and a strict build of it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import _course
import _record
import nbformat
from _check import check_page
from _pages import PageError, Project, clean, write
from nbformat import NotebookNode

RUNS = "<!-- runs -->"
_EMPTY_HEADING = re.compile(r"<th([^>]*)>\s*</th>")


def stage(project: Project, site: Path, notebooks: Path) -> None:
    """Copy the book's parts to `site`, so that a build leaves the source tree as it is."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(project.root / "book", site / "book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(project.root / name, site)
    known = _course.assignments(project)
    for name in project.pages_in_toc():
        path = notebooks / f"{name}.ipynb"
        if not path.exists():
            raise PageError(f"{name}: no notebook in {notebooks}; run the page first")
        if wrong := check_page(project, path, committed=notebooks == project.notebooks):
            raise PageError("\n".join(wrong))
        page = for_book(clean(nbformat.read(path, as_version=4)))
        write(_course.close(project, name, page, known), site / "notebooks" / path.name)
    if (handed_out := project.notebooks / "assignments").is_dir():  # to be downloaded; no pages of the book
        shutil.copytree(handed_out, site / "notebooks" / "assignments")
    _course.put_tables(project, site / "book", known)
    if (status := site / "book" / "status.md").exists():
        folders = {notebooks, *(project.build / "executed").glob("*")}
        records = [record for folder in sorted(folders) for record in _record.read(folder)]
        text = status.read_text()
        if RUNS not in text:
            raise PageError(f"book/status.md has no line {RUNS}, where the runs belong")
        status.write_text(text.replace(RUNS, _record.table(records)))


def for_book(page: NotebookNode) -> NotebookNode:
    """What a browser needs and a notebook lacks.

    A figure's alt text goes to the cell metadata, the one place where myst-nb reads it. A table's empty corner is no
    heading: a screen reader would announce one without words.
    """
    for cell in page.cells:
        for output in cell.get("outputs", []):
            for about in output.get("metadata", {}).values():
                if isinstance(about, dict) and "alt" in about:
                    cell.metadata.setdefault("mystnb", {})["image"] = {"alt": about["alt"]}
            if "text/html" in output.get("data", {}):
                output.data["text/html"] = _EMPTY_HEADING.sub(r"<td\1></td>", output.data["text/html"])
    return page


def build(project: Project, notebooks: Path, out: Path) -> Path:
    """Build the book strictly and return the folder of its HTML."""
    site, html = out / "site", out / "html"
    stage(project, site, notebooks)
    # Beside the interpreter: the environment need not be activated.
    command = [str(Path(sys.executable).with_name("jupyter-book")), "build", str(site)]
    command += ["--all", "-W", "--keep-going", "-n", "-q"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise PageError(f"{done.stdout}\nthe strict book build failed; the warnings above say where")
    shutil.rmtree(html, ignore_errors=True)
    shutil.move(site / "_build" / "html", html)
    return html

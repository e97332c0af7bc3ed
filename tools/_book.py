"""The book: a staging copy of everything it is made of, and a strict build of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import _record
import nbformat
from _check import check_page
from _pages import PageError, Project, clean, write

RUNS = "<!-- runs -->"


def stage(project: Project, site: Path, notebooks: Path) -> None:
    """Copy the book's parts to `site`, so that a build leaves the source tree as it is."""
    shutil.rmtree(site, ignore_errors=True)
    shutil.copytree(project.root / "book", site / "book")
    for name in ("_config.yml", "_toc.yml"):
        shutil.copy(project.root / name, site)
    for name in project.pages_in_toc():
        path = notebooks / f"{name}.ipynb"
        if not path.exists():
            raise PageError(f"{name}: no notebook in {notebooks}; run the page first")
        if wrong := check_page(project, path, committed=notebooks == project.notebooks):
            raise PageError("\n".join(wrong))
        write(alt_for_book(clean(nbformat.read(path, as_version=4))), site / "notebooks" / path.name)
    if (status := site / "book" / "status.md").exists():
        folders = {notebooks, *(project.build / "executed").glob("*")}
        records = [record for folder in sorted(folders) for record in _record.read(folder)]
        text = status.read_text()
        if RUNS not in text:
            raise PageError(f"book/status.md has no line {RUNS}, where the runs belong")
        status.write_text(text.replace(RUNS, _record.table(records)))


def alt_for_book(page: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Copy a figure's alt text to the cell metadata, the one place where myst-nb reads it."""
    for cell in page.cells:
        for output in cell.get("outputs", []):
            for about in output.get("metadata", {}).values():
                if isinstance(about, dict) and "alt" in about:
                    cell.metadata.setdefault("mystnb", {})["image"] = {"alt": about["alt"]}
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

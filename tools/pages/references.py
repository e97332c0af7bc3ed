"""Compare executed pages with references: committed pages of an earlier run on the same kind of device.

notebooks/references/<profile>/<device>/<page>.ipynb is an executed page without its images. nbval compares its outputs
with those of a new run, without running the page again; numbers may differ by the tolerance that dtta.pages.report
stores, times the reference's `factor` (metadata "dtta"). It is 1 when the reference is first collected; edit it by hand
if a device needs more. A page without a reference fails: look at what `collect` writes, and commit it.
"""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.pages import record
from tools.pages.project import PageError, clean, write
from tools.pages.run import run_and_compare
from tools.pages.tolerance import compared


def executed(folder: Path) -> list[dict]:
    """Return the records of the pages in a folder that ran to their end. Raises PageError: there are none."""
    records = [one for one in record.read(folder) if (folder / f"{one['page']}.ipynb").exists() and not one["failed"]]
    if not records:
        raise PageError(f"{folder} holds no page that ran to its end with a record; first: python tools/pages run")
    return records


def path_of(about: dict, references: Path) -> Path:
    """Return the file of a page's reference, from the record of a run."""
    device = re.sub(r"[^a-z0-9]+", "-", (about["device"] or "unknown").lower()).strip("-")
    return references / about["profile"] / device / f"{about['page']}.ipynb"


def read(path: Path) -> NotebookNode:
    """Return a reference. Raises PageError: the file is not one."""
    try:
        page = nbformat.read(path, as_version=4)
        nbformat.validate(page)
        float(page.metadata["dtta"]["factor"])
    except Exception as error:  # nbformat raises many kinds
        raise PageError(f"{path} is not a reference; write it again with: python tools/pages collect") from error
    return page


def collect(folder: Path, references: Path) -> list[Path]:
    """Write the pages of a folder as references and return the files. The factor of an earlier reference is kept."""
    paths = []
    for about in executed(folder):
        path = path_of(about, references)
        factor = read(path).metadata["dtta"]["factor"] if path.exists() else 1.0
        page = clean(nbformat.read(folder / f"{about['page']}.ipynb", as_version=4))
        for output in (output for cell in page.cells for output in cell.get("outputs", [])):
            for mime, text in output.get("data", {}).items():
                if mime.startswith("image/"):
                    output.data[mime] = ""
                elif mime.startswith("text/"):
                    output.data[mime] = compared(text)
        page.metadata["dtta"] = {key: about[key] for key in ("profile", "device", "commit")} | {"factor": factor}
        write(page, path)
        paths.append(path)
    return paths


def compare(folder: Path, references: Path) -> list[str]:
    """Return the pages of a folder without a reference, or that differ from it, a sentence each."""
    problems, comparable = [], []
    for about in executed(folder):
        name, path = about["page"], path_of(about, references)
        if not path.exists():
            where = f"{about['device']}, profile {about['profile']}"
            problems.append(f"{name}: no reference for {where}: look at the page, then commit it as {path}")
        elif _code(read(path)) != _code(nbformat.read(folder / f"{name}.ipynb", as_version=4)):
            problems.append(f"{name}: its code or parameters changed since {path}: look at the page, commit it again")
        else:
            comparable.append(path)
    if comparable and not run_and_compare(comparable, 1, DTTA_EXECUTED=str(folder.resolve())):
        problems.append("a page differs from its reference (see above)")
    return problems


def _code(page: NotebookNode) -> list[str]:
    return [cell.source for cell in page.cells if cell.cell_type == "code"]

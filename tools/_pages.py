"""The pages: which there are, how a source becomes a notebook, and how a notebook that ran becomes stable bytes."""

from __future__ import annotations

import ast
import hashlib
import tomllib
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

PROFILES = ("mini", "full")

COLAB_INSTALL = """\
# @title Google Colab only: install dtta (it does nothing elsewhere)
import sys

if "google.colab" in sys.modules:
    # Colab's torchao is older than Colab's peft accepts, and peft then refuses to work. Nothing here needs torchao.
    %pip uninstall -q -y torchao
    # All else that dtta needs is there already; --no-deps leaves it as it is.
    %pip install -q --no-deps "torchmetrics>=1.8,<2" lightning-utilities "adjustText>=1.3" "dtta @ git+{url}@{tag}"
"""


class PageError(Exception):
    """Something wrong with a page or its settings: one sentence for the person at the terminal."""


class Project:
    """The places and settings of a checkout.

    Args:
        root: the folder with pyproject.toml, _toc.yml and notebooks/.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.notebooks = self.root / "notebooks"
        self.sources = self.notebooks / "src"
        self.build = self.root / "_build"
        settings = tomllib.loads((self.root / "pyproject.toml").read_text())
        self.url = settings["project"]["urls"]["Repository"].rstrip("/")
        self.tag = settings["tool"]["dtta"]["colab-tag"]

    def pages(self, wanted: list[str] | tuple[str, ...] = ()) -> list[str]:
        """Names of the pages in reading order: all, or those wanted (03 and 03_classification both do)."""
        names = sorted(path.stem for path in self.sources.glob("*.py"))
        if not names:
            raise PageError("no page sources in notebooks/src")
        for want in wanted:
            if not any(_matches(name, want) for name in names):
                raise PageError(f"no page {want!r}; there are {', '.join(names)}")
        return [name for name in names if not wanted or any(_matches(name, want) for want in wanted)]

    def pages_in_toc(self) -> list[str]:
        """Names of the notebooks that the table of contents lists."""
        return [file.removeprefix("notebooks/") for file in self.toc_files() if file.startswith("notebooks/")]

    def toc_files(self) -> list[str]:
        """Every document of the table of contents, without its suffix."""
        found: list[str] = []

        def walk(node: object) -> None:
            if isinstance(node, dict):
                found.extend(value for key, value in node.items() if key in ("root", "file"))
                for value in node.values():
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)

        walk(yaml.safe_load((self.root / "_toc.yml").read_text()))
        return found

    def colab(self, name: str) -> str:
        """Where Colab opens a page."""
        repository = self.url.removeprefix("https://github.com/")
        return f"https://colab.research.google.com/github/{repository}/blob/main/notebooks/{name}.ipynb"

    def generate(self, name: str) -> NotebookNode:
        """The notebook of a page as it is before it runs."""
        page = jupytext.read(self.sources / f"{name}.py", fmt="py:percent")
        if not page.cells or page.cells[0].cell_type != "markdown" or not page.cells[0].source.startswith("# "):
            raise PageError(f"{name}: the first cell must be markdown that starts with '# Title'")
        self.dress(page, name)
        page.metadata["accelerator"], page.metadata["colab"]["gpuType"] = "GPU", "T4"
        parameters_of(page, name)
        return identify(page)

    def dress(self, page: NotebookNode, name: str) -> None:
        """Add what every notebook has: behind the title a Colab badge and an install cell, and the metadata."""
        badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({self.colab(name)})"
        # The book has its own Colab button, and its readers need no install cell: both are left out there.
        page.cells[1:1] = [
            new_markdown_cell(badge, metadata={"tags": ["remove-cell"]}),
            new_code_cell(
                COLAB_INSTALL.format(url=self.url, tag=self.tag).rstrip(),
                metadata={"cellView": "form", "tags": ["remove-cell"]},
            ),
        ]
        page.metadata = nbformat.from_dict(
            {
                "colab": {"name": f"{Path(name).name}.ipynb", "provenance": [], "toc_visible": True},
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            }
        )
        page.nbformat, page.nbformat_minor = 4, 5

    def settings(self, name: str, profile: str, extra: dict[str, object] | None = None) -> dict[str, object]:
        """Parameters of a page under a profile: those for "all" pages, its own, then the extra ones.

        Raises:
            PageError: a parameter that the page does not have, or a page that does not exist.
        """
        profiles = yaml.safe_load((self.notebooks / "profiles.yml").read_text()) or {}
        if profile not in profiles:
            raise PageError(f"no profile {profile!r} in notebooks/profiles.yml; there are {', '.join(profiles)}")
        chosen = profiles[profile] or {}
        if unknown := set(chosen) - {"all", *self.pages()}:
            raise PageError(f"profiles.yml, {profile}: no page {', '.join(sorted(unknown))}")
        values = {**(chosen.get("all") or {}), **(chosen.get(name) or {}), **(extra or {})}
        known = parameters_of(self.generate(name), name)
        if unknown := set(values) - known:
            raise PageError(
                f"{name}: unknown parameter {', '.join(sorted(unknown))}; the page has {', '.join(sorted(known))}"
            )
        return values


def _matches(name: str, want: str) -> bool:
    return want in (name, name.partition("_")[0]) or Path(want).stem == name


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def parameters_of(page: NotebookNode, name: str) -> set[str]:
    """Names that the page's parameters cell assigns."""
    cells = [cell for cell in page.cells if cell.cell_type == "code" and "parameters" in tags(cell)]
    if len(cells) != 1:
        raise PageError(f"{name}: need one code cell tagged parameters, found {len(cells)}")
    names = set()
    for node in ast.parse(cells[0].source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def clean(page: NotebookNode) -> NotebookNode:
    """What is worth keeping of a notebook that ran: no timings and traces of papermill, one text for each stream."""
    page = nbformat.from_dict(page)
    page.metadata.pop("papermill", None)
    page.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    for cell in page.cells:
        for key in ("papermill", "execution", "collapsed", "scrolled"):
            cell.metadata.pop(key, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]  # papermill adds an empty list
        if cell.cell_type == "code":
            cell.outputs = _merge_streams(cell.outputs)
    return identify(page)


def _merge_streams(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring pieces of a stream; where the kernel cut it is chance."""
    merged: list[NotebookNode] = []
    for output in outputs:
        before = merged[-1] if merged else None
        if before and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            merged.append(output)
    return merged


def identify(page: NotebookNode) -> NotebookNode:
    """Give each cell an id from its text, so that the same page has the same bytes."""
    seen: dict[str, int] = {}
    for cell in page.cells:
        digest = hashlib.sha256(f"{cell.cell_type} {cell.source}".encode()).hexdigest()[:10]
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return page


def write(page: NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.validate(page)
    path.write_text(nbformat.writes(page) + "\n")

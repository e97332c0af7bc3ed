"""List the pages, make notebooks from their sources, and turn an executed notebook into stable bytes.

The course loads this file by its path: it imports nothing from its package.
"""

from __future__ import annotations

import ast
import hashlib
import re
import tomllib
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

PROFILES = ("mini", "smoke", "full")

GPU_PAGES = ("11", "12")  # they ask Colab for a GPU, which the mini scale does not need
INSTALL_TITLE = "# @title Google Colab only: install dtta (it does nothing elsewhere)"
# What Colab lacks, and dtta itself.
COLAB_PACKAGES = '"torchmetrics>=1.8,<2" lightning-utilities "adjustText>=1.3" "dtta @ git+{url}@{ref}"'
COLAB_INSTALL = """\
{title}
import sys

if "google.colab" in sys.modules:
    # Colab's torchao is older than Colab's peft accepts, and peft then refuses to work. Nothing here needs torchao.
    %pip uninstall -q -y torchao
    # All else that dtta needs is there already; --no-deps leaves it as it is.
    %pip install -q --no-deps {packages}
"""
BRANCH = "main"
_NEXT_TO_IT = re.compile(r"\]\(\.\./(\w+)\.ipynb\)")
# Follows where the pages install a release: its tag may not be there yet, or not in a fork.
COLAB_FALLBACK = """\
    import importlib.util

    importlib.invalidate_caches()
    if importlib.util.find_spec("dtta") is None:
        print("{url} has no tag {ref}: installing the branch {branch} instead, which may differ from this page.")
        %pip install -q --no-deps {from_branch}
"""


class PageError(Exception):
    """A problem of a page or its settings; the message is shown without a traceback."""


class Project:
    """The folders and settings of a checkout.

    Args:
        root: the folder with pyproject.toml, _toc.yml and notebooks/.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.notebooks = self.root / "notebooks"
        self.sources = self.notebooks / "src"
        self.build = self.root / "_build"
        settings = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        self.url = settings["project"]["urls"]["Repository"].rstrip("/")
        self.book = settings["project"]["urls"]["Documentation"].rstrip("/")
        self.ref = settings["tool"]["dtta"]["colab-ref"]

    def pages(self, selection: list[str] | tuple[str, ...] = ()) -> list[str]:
        """Return the names of the pages in reading order: all, or a selection (03 or 03_classification)."""
        names = sorted(path.stem for path in self.sources.glob("*.py"))
        if not names:
            raise PageError("no page sources in notebooks/src")
        for text in selection:
            if not any(_matches(name, text) for name in names):
                raise PageError(f"no page {text!r}; there are {', '.join(names)}")
        return [name for name in names if not selection or any(_matches(name, text) for text in selection)]

    def pages_in_toc(self) -> list[str]:
        """Return the names of the notebooks that the table of contents lists."""
        return [file.removeprefix("notebooks/") for file in self.toc_files() if file.startswith("notebooks/")]

    def toc_files(self) -> list[str]:
        """Return every document of the table of contents, without its suffix."""
        files: list[str] = []

        def walk(node: object) -> None:
            if isinstance(node, dict):
                files.extend(value for key, value in node.items() if key in ("root", "file"))
                for value in node.values():
                    walk(value)
            elif isinstance(node, list):
                for value in node:
                    walk(value)

        walk(yaml.safe_load((self.root / "_toc.yml").read_text(encoding="utf-8")))
        return files

    def colab(self, name: str) -> str:
        """Return the address at which Colab opens a page."""
        repository = self.url.removeprefix("https://github.com/")
        return f"https://colab.research.google.com/github/{repository}/blob/{self.ref}/notebooks/{name}.ipynb"

    def install(self) -> str:
        """Return the cell that installs dtta on Colab, from where the badges of the pages lead to."""
        cell = COLAB_INSTALL + (COLAB_FALLBACK if self.ref != BRANCH else "")
        packages, from_branch = (COLAB_PACKAGES.format(url=self.url, ref=ref) for ref in (self.ref, BRANCH))
        values = {"title": INSTALL_TITLE, "packages": packages, "from_branch": from_branch}
        return cell.format(url=self.url, ref=self.ref, branch=BRANCH, **values).rstrip()

    def generate(self, name: str, edition: str = "plain") -> NotebookNode:
        """Return the notebook of a page before it runs: "plain", for Colab and Jupyter, or "book"."""
        from tools.pages import course, editions  # the course loads this file without its package

        page = jupytext.read(self.sources / f"{name}.py", fmt="py:percent")
        if not page.cells or page.cells[0].cell_type != "markdown" or not page.cells[0].source.startswith("# "):
            raise PageError(f"{name}: the first cell must be markdown that starts with '# Title'")
        self.dress(page, name)
        if name.startswith(GPU_PAGES):
            page.metadata["accelerator"], page.metadata["colab"]["gpuType"] = "GPU", "T4"
        parameters_of(page, name)
        end = course.end(self, name, edition)
        try:
            return identify(getattr(editions, edition)(self, name, page, end))
        except editions.EditionError as error:
            raise PageError(str(error)) from error

    def dress(self, page: NotebookNode, name: str) -> None:
        """Add a Colab badge and an install cell after the title, and the metadata of every notebook."""
        badge = f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({self.colab(name)})"
        for cell in page.cells:
            if cell.cell_type == "markdown":  # a file next to the notebook is not there on Colab
                cell.source = _NEXT_TO_IT.sub(lambda match: f"]({self.colab(match[1])})", cell.source)
        # The book has its own Colab button, and its readers need no install cell: it leaves out both.
        page.cells[1:1] = [
            new_markdown_cell(badge, metadata={"tags": ["remove-cell"]}),
            new_code_cell(self.install(), metadata={"cellView": "form", "tags": ["remove-cell"]}),
        ]
        page.metadata = nbformat.from_dict(
            {
                "colab": {"name": f"{Path(name).name}.ipynb", "provenance": [], "toc_visible": True},
                "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
                "language_info": {"name": "python", "pygments_lexer": "ipython3"},
            }
        )
        page.nbformat, page.nbformat_minor = 4, 5

    def _settings(self) -> dict:
        return yaml.safe_load((self.notebooks / "profiles.yml").read_text(encoding="utf-8")) or {}

    @property
    def problems(self) -> dict[str, str]:
        """Page -> the problem that it loads at full scale; pages that are the same at both scales are left out."""
        return self._settings().get("problems", {})

    def settings(self, name: str, profile: str, extra: dict[str, object] | None = None) -> dict[str, object]:
        """Return the parameters of a page under a profile: those of "all" pages, then of the page, then the extra ones.

        Raises:
            PageError: a parameter that the page does not have, or a page that does not exist.
        """
        profiles = {name: values for name, values in self._settings().items() if name in PROFILES}
        if profile not in profiles:
            raise PageError(f"no profile {profile!r} in notebooks/profiles.yml; there are {', '.join(profiles)}")
        chosen = profiles[profile] or {}
        unknown = set(chosen) - {"all", *self.pages()}
        if unknown:
            raise PageError(f"profiles.yml, {profile}: no page {', '.join(sorted(unknown))}")
        values = {**(chosen.get("all") or {}), **(chosen.get(name) or {}), **(extra or {})}
        parameters = parameters_of(self.generate(name), name)
        unknown = set(values) - parameters
        if unknown:
            raise PageError(
                f"{name}: unknown parameter {', '.join(sorted(unknown))}; the page has {', '.join(sorted(parameters))}"
            )
        return values


def _matches(name: str, text: str) -> bool:
    return text in (name, name.partition("_")[0]) or Path(text).stem == name


def tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def parameters_of(page: NotebookNode, name: str) -> set[str]:
    """Return the names that the parameters cell of a page assigns."""
    cells = [cell for cell in page.cells if cell.cell_type == "code" and "parameters" in tags(cell)]
    if len(cells) != 1:
        raise PageError(f"{name}: need one code cell tagged parameters, found {len(cells)}")
    names = set()
    for node in ast.parse(cells[0].source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def clean(page: NotebookNode) -> NotebookNode:
    """Return an executed notebook without the timings and metadata of papermill, and one output for each stream."""
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
    """Join consecutive pieces of a stream: the kernel splits it at random places."""
    merged: list[NotebookNode] = []
    for output in outputs:
        before = merged[-1] if merged else None
        if before and output.output_type == before.output_type == "stream" and output.name == before.name:
            before.text += output.text
        else:
            merged.append(output)
    return merged


def identify(page: NotebookNode) -> NotebookNode:
    """Derive the id of each cell from its text, so that equal pages have equal bytes."""
    seen: dict[str, int] = {}
    for cell in page.cells:
        digest = identity(cell)
        seen[digest] = seen.get(digest, 0) + 1
        cell["id"] = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return page


def identity(cell: NotebookNode) -> str:
    """Return the id that the text of a cell gives it."""
    return hashlib.sha256(f"{cell.cell_type} {cell.source}".encode()).hexdigest()[:10]


def write(page: NotebookNode, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.validate(page)
    path.write_text(nbformat.writes(page) + "\n", encoding="utf-8")

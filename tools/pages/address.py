"""The addresses of the repository and of the book: they come from [project.urls] in pyproject.toml.

Files that GitHub, PyPI, Colab or a reader opens as they are must spell them out. `problems` finds those that name
another repository or book; `change` gives all of them, and pyproject.toml, a new address.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat

from tools.pages.project import PageError, Project, identity

PLACEHOLDER = "diffusion-tta"  # the owner in the address until a repository is published
FOLDERS = (".github", "book", "dtta", "notebooks", "tools")
KINDS = {".cff", ".ipynb", ".json", ".md", ".py", ".toml", ".yml"}
MUST_NAME_IT = ("README.md", "CITATION.cff", ".zenodo.json")


def files(root: Path) -> Iterator[Path]:
    """Yield the text files of a checkout that may name its address."""
    yield from sorted(path for path in root.iterdir() if path.suffix in KINDS)
    for folder in FOLDERS:
        yield from sorted(path for path in (root / folder).rglob("*") if path.suffix in KINDS)


def repository(url: str) -> tuple[str, str]:
    """Return owner and name of https://github.com/OWNER/NAME. Raises PageError: it is another kind of address."""
    match = re.fullmatch(r"https://github\.com/([\w-]+)/([\w.-]+?)(?:\.git)?/?", url)
    if not match:
        raise PageError(f"{url!r} is not the address of a repository: write https://github.com/OWNER/NAME")
    return match[1], match[2]


def note(project: Project) -> str:
    """Return a sentence if the address is a placeholder, or another than that of the running workflow; else ""."""
    owner, name = repository(project.url)
    there = os.environ.get("GITHUB_REPOSITORY", "")
    command = "python tools/pages address https://github.com/OWNER/NAME"
    if there and there.lower() != f"{owner}/{name}".lower():
        return f"pyproject.toml names {project.url}, but this is {there}; change it with: {command}"
    if owner == PLACEHOLDER:
        return f"{project.url} is a placeholder: links, badges and Colab lead nowhere; change it with: {command}"
    return ""


def problems(project: Project) -> Iterator[str]:
    """Yield a sentence for each file that names another owner's repository or book, or lacks the address."""
    owner, name = repository(project.url)
    same = rf"(?:{re.escape(name)}|dtta)(?![\w-])"
    patterns = [
        re.compile(start + same)
        for start in (r"github(?:usercontent)?(?:\.com)?/([\w-]+)/", r"//([\w-]+)\.github\.io/")
    ]
    for path in files(project.root):
        text, where = path.read_text(encoding="utf-8"), path.relative_to(project.root)
        owners = {match[1].lower() for pattern in patterns for match in pattern.finditer(text)}
        if wrong := sorted(owners - {owner.lower()}):
            yield f"{where} names {', '.join(wrong)} in an address; pyproject.toml has {project.url}"
        elif str(where) in MUST_NAME_IT and project.url not in text:
            yield f"{where} does not name {project.url}"


def change(project: Project, url: str, book: str | None) -> list[Path]:
    """Give all files another address and return those that changed.

    Args:
        book: where the book will be; None: GitHub Pages of the new repository.
    """
    (old_owner, old_name), (owner, name) = repository(project.url), repository(url)
    host = f"{owner.lower()}.github.io"
    book = (book or (f"https://{host}" if name.lower() == host else f"https://{host}/{name}")).rstrip("/")
    if not re.fullmatch(r"https?://[\w.-]+(?:/[\w./-]*)?", book):
        raise PageError(f"{book!r} is not the address of a book: write https://HOST/PATH")
    forms = {f"github.com/{old_owner}/{old_name}": f"github.com/{owner}/{name}"}
    forms |= {f"github/{old_owner}/{old_name}": f"github/{owner}/{name}", project.book: book}  # Colab; the book
    forms |= {
        f"raw.githubusercontent.com/{old_owner}/{old_name}": f"raw.githubusercontent.com/{owner}/{name}"
    }  # pictures

    def new(text: str) -> str:
        for before, after in forms.items():
            if before in text:  # a search is much faster than the expression
                text = re.sub(rf"(?<![\w.-]){re.escape(before)}(?![\w-])", after, text)
        return text

    changed = []
    for path in files(project.root):
        text = path.read_text(encoding="utf-8")
        if new(text) == text:
            continue
        if path.suffix == ".ipynb":  # the id of a cell is made from its text
            page = nbformat.reads(text, as_version=4)
            for cell in page.cells:
                if new(cell.source) != cell.source:
                    cell.source = new(cell.source)
                    cell.id = identity(cell)
            text = nbformat.writes(page) + "\n"
        path.write_text(new(text), encoding="utf-8")
        changed.append(path)
    return changed

"""Rules for executed notebooks, beyond those of nbval and of a strict book build.

A strict build accepts a notebook with a stored error or without outputs; nbval accepts one that never ran, and compares
no images.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.pages import address, limits
from tools.pages.project import GPU_PAGES, PageError, Project, parameters_of, tags

SIZE_LIMIT = 3_000_000
_PATH = re.compile(
    r"(?<![\w/:.<])(?:/(?:home|root|tmp|usr|var|opt|mnt|work|workspace|content|private|Users|builds?)/[\w.]|[A-Z]:\\)[^\s'\"<]*"
)
_TOKEN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|AKIA[0-9A-Z]{16})"
)
_ADDRESS = re.compile(r"\b0x[0-9a-f]{8,}")
_NO_ALT = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt=.)[^>]*>")
_OPT_OUT = "nbval-ignore-output"
_FORBIDDEN = ("nbval-skip", "nbval-raises-exception", "raises-exception")
_REASON = re.compile(r"^\s*#\s*not compared: \S.{14,}$", re.MULTILINE)


def check_page(project: Project, path: Path, committed: bool) -> list[str]:
    """Return the problems of a notebook, a sentence each.

    Args:
        committed: the notebook is one for readers and must be exactly what its source gives; otherwise its parameters
            may differ.
    """
    problems = [f"{path.stem}: {sentence}" for sentence in _problems(project, path, committed)]
    return list(dict.fromkeys(problems))


def _problems(project: Project, path: Path, committed: bool) -> Iterator[str]:
    if path.stat().st_size > SIZE_LIMIT:
        yield f"is {path.stat().st_size / 1e6:.1f} MB; the limit is {SIZE_LIMIT / 1e6:g} MB"
    try:
        page = nbformat.read(path, as_version=4)
        nbformat.validate(page)
    except Exception as error:
        yield f"is not a valid notebook: {str(error).splitlines()[0]}"
        return
    yield from _metadata(page, path.stem)
    yield from _in_step(project, page, path.stem, committed)
    for i, cell in enumerate(page.cells, 1):
        yield from (f"cell {i}: {sentence}" for sentence in _cell(cell))
    counts = [cell.execution_count for cell in page.cells if cell.cell_type == "code"]
    if counts != list(range(1, len(counts) + 1)):
        yield f"cells did not run once each and in order: counts {counts}"


def _metadata(page: NotebookNode, name: str) -> Iterator[str]:
    if page.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "its kernel is not python3"
    if ("accelerator" in page.metadata) != name.startswith(GPU_PAGES):
        yield f"only pages {' and '.join(GPU_PAGES)} ask Colab for a GPU (metadata accelerator)"
    try:
        parameters_of(page, name)
    except PageError as error:
        yield str(error).removeprefix(f"{name}: ")


def _in_step(project: Project, page: NotebookNode, name: str, committed: bool) -> Iterator[str]:
    links = set(re.findall(r"colab-badge\.svg\)\]\((https://[^\s)]+)\)", _markdown(page)))
    if links != {project.colab(name)}:
        yield f"its Colab link is {', '.join(sorted(links)) or 'missing'}, not {project.colab(name)}"
    if not (project.sources / f"{name}.py").exists():
        yield f"has no source notebooks/src/{name}.py"
        return
    cells = [c for c in page.cells if committed or "injected-parameters" not in tags(c)]
    present = [(c.cell_type, c.source, tags(c)) for c in cells]
    expected = [(c.cell_type, c.source, tags(c)) for c in project.generate(name).cells]
    if present != expected:
        pairs = enumerate(zip(present, expected, strict=False))
        first = next((i for i, (a, b) in pairs if a != b), min(len(present), len(expected)))
        yield f"differs from its source from cell {first + 1} on: run and publish the page again"
    if committed and ("papermill" in page.metadata or any("papermill" in c.metadata for c in page.cells)):
        yield "carries papermill's metadata: publish it again"


def _markdown(page: NotebookNode) -> str:
    return "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")


def _cell(cell: NotebookNode) -> Iterator[str]:
    yield from _private(cell.source)
    if cell.cell_type == "markdown":
        if _NO_ALT.search(cell.source):
            yield "an image without alt text"
        return
    if cell.cell_type != "code":
        return
    if not cell.source.strip():
        yield "is empty"
    yield from _opt_outs(cell)
    images = 0
    for output in cell.outputs:
        if output.output_type == "error":
            yield f"ended in an error, {output.ename}"
        elif output.output_type == "stream":
            if output.name == "stderr":
                yield f"wrote to stderr: {output.text.strip().splitlines()[0] if output.text.strip() else ''}"
            yield from _private(output.text)
        else:
            for mime, data in output.data.items():
                if not mime.startswith("image/"):
                    yield from _private(str(data))
                    if _NO_ALT.search(str(data)) and mime in ("text/html", "text/markdown"):
                        yield "an image without alt text"
                    continue
                images += 1
                if mime == "image/svg+xml":
                    yield "an SVG figure, which nbval compares by its text: show it as PNG"
                if len(output.metadata.get(mime, {}).get("alt", "")) < 20:
                    yield "a figure without alt text: show it with dtta.pages.figures.show(fig, alt=...)"
    if images > 1:
        yield f"{images} figures in one cell, but the book keeps one alt text for each cell: split the cell"


def _opt_outs(cell: NotebookNode) -> Iterator[str]:
    comments = {line.lstrip("# ").strip().lower().replace("_", "-") for line in cell.source.splitlines() if "#" in line}
    marks = comments | set(tags(cell))
    if _OPT_OUT in marks and not _REASON.search(cell.source):
        yield "opts out of the comparison without a reason: add a comment '# not compared: why'"
    for mark in _FORBIDDEN:
        if mark in marks:
            yield f"the mark {mark} is not for pages"


def _private(text: str) -> Iterator[str]:
    for what, pattern in (("an absolute path", _PATH), ("an access token", _TOKEN), ("a memory address", _ADDRESS)):
        match = pattern.search(text)
        if match:
            shown = match[0] if what != "an access token" else match[0][:6] + "…"
            yield f"holds {what}: {shown}"


def check_folder(project: Project, folder: Path) -> list[str]:
    """Return the problems of all notebooks of a folder, missing notebooks included."""
    committed = folder.resolve() == project.notebooks
    problems = []
    if committed and sorted(project.pages_in_toc()) != project.pages():
        problems.append(f"_toc.yml lists {project.pages_in_toc()}, notebooks/src has {project.pages()}")
    if committed:
        problems += address.problems(project)
    present = {path.stem: path for path in sorted(folder.glob("*.ipynb"))}
    if committed:
        problems += [f"{name}: no notebook: run and publish it" for name in project.pages() if name not in present]
        problems += limits.check_prose(project)
    elif not present:
        problems.append(f"no notebooks in {folder}")
    for path in present.values():
        problems += check_page(project, path, committed)
        if committed and path.stem in project.pages():
            problems += [f"{path.stem}: {sentence}" for sentence in limits.check(project, path)]
    return problems

"""How much a page may show: visible code, figures, tables and, over all lessons, words; and ceilings.

A page keeps within LIMITS. notebooks/ceilings.yml lists pages that do not yet, with what they have today. A ceiling
may only fall: ``python tools/pages ceilings`` lowers each to the present count, and drops it within LIMITS.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
import yaml
from nbformat import NotebookNode

from tools.pages import editions
from tools.pages.project import Project, tags

LIMITS = {
    "visible code cells": 10,
    "lines in a visible cell": 15,
    "columns in a visible cell": 80,
    "figures": 4,  # figures.show; not explore and animate, where the reader steps through frames
    "figures without a caption": 0,
    "tables": 1,
    "rows in a table": 8,
    "choices by scale": 0,
}
WORDS = 15_000  # of prose in the Markdown cells of all lessons, exercises and their answers included
HIDDEN = {"hide-input", "hide-cell", "remove-cell", "remove-input"}
_BY_SCALE = re.compile(r"\[scale\]|\bscale [!=]= ")


def path_of(project: Project) -> Path:
    return project.notebooks / "ceilings.yml"


def ceilings(project: Project) -> dict[str, dict[str, int]]:
    """Return the ceilings by page; a page without an entry keeps within LIMITS."""
    path = path_of(project)
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}


def counts(project: Project, notebook: Path) -> dict[str, int]:
    """Return what an executed page shows, by the names of LIMITS."""
    page = nbformat.read(notebook, as_version=4)
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    visible = [cell for cell in code if not HIDDEN & set(tags(cell))]
    lines = [cell.source.splitlines() for cell in visible]
    calls = [call for cell in code if "%pip" not in cell.source for call in _figures(cell)]
    rows = [html.count("<tr") - 1 for html in _tables(code)]
    return {
        "visible code cells": len(visible),
        "lines in a visible cell": max(map(len, lines), default=0),
        "columns in a visible cell": max((len(line) for cell in lines for line in cell), default=0),
        "figures": sum(call.func.attr == "show" for call in calls),
        "figures without a caption": sum(not _captioned(call) for call in calls),
        "tables": len(rows),
        "rows in a table": max(rows, default=0),
        "choices by scale": sum(len(_BY_SCALE.findall(cell.source)) for cell in code),
    }


def _figures(cell: NotebookNode) -> Iterator[ast.Call]:
    call = editions.figure_call(cell.source)
    if call is not None:
        yield call


def _captioned(call: ast.Call) -> bool:
    return any(keyword.arg == "caption" and editions.literal(keyword.value) for keyword in call.keywords)


def _tables(code: list[NotebookNode]) -> Iterator[str]:
    for cell in code:
        for output in cell.outputs:
            yield from re.findall(r"<table.*?</table>", output.get("data", {}).get("text/html", ""), re.DOTALL)


def check(project: Project, notebook: Path) -> Iterator[str]:
    """Yield a sentence for each limit that a page exceeds, and for each ceiling that is higher than it needs to be."""
    name = notebook.stem
    allowed = ceilings(project).get(name, {})
    unknown = set(allowed) - set(LIMITS)
    if unknown:
        yield f"notebooks/ceilings.yml: no limit {', '.join(sorted(unknown))}; there are {', '.join(LIMITS)}"
    for what, count in counts(project, notebook).items():
        limit = LIMITS[what]
        ceiling = allowed.get(what, limit)
        if count > ceiling:
            yield f"{what}: {count}, at most {ceiling} (see tools/pages/limits.py)"
        elif what in allowed and (count < ceiling or ceiling <= limit):
            yield f"{what}: {count}, the ceiling is still {ceiling}; lower it: python tools/pages ceilings"


def words(text: str) -> int:
    """Count the words of prose in Markdown.

    Code blocks, displayed formulas, directive and option lines and addresses of links are not counted. A formula, a
    piece of code or a citation within a sentence is one word.
    """
    lines, blocks = [], []
    for line in text.splitlines():
        fence = re.match(r" *(?:`{3,}|:{3,})(.*)$", line)
        if fence and blocks and not fence[1].strip():
            blocks.pop()
        elif fence and "code" not in blocks:
            blocks.append("box" if fence[1].startswith("{") else "code")
        elif "code" not in blocks and not re.match(r" *:[\w-]+:", line):
            lines.append(line)
    prose = re.sub(r"\$\$.*?\$\$", " ", "\n".join(lines), flags=re.DOTALL)
    prose = re.sub(r"(?:\{[a-z:]+\})?`[^`]+`|\$[^$]+\$", " word ", prose)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    return sum(re.search(r"\w", word) is not None for word in prose.split())


def prose(project: Project) -> dict[str, int]:
    """Return the words of each lesson."""
    pages = {name: jupytext.read(project.sources / f"{name}.py", fmt="py:percent") for name in project.pages()}
    return {name: sum(words(c.source) for c in p.cells if c.cell_type == "markdown") for name, p in pages.items()}


def check_prose(project: Project) -> Iterator[str]:
    """Yield a sentence if the lessons together are too long."""
    by_page = prose(project)
    if (total := sum(by_page.values())) > WORDS:
        longest = ", ".join(f"{name} {by_page[name]}" for name in sorted(by_page, key=by_page.get, reverse=True)[:3])
        yield f"words in all lessons: {total}, at most {WORDS} (see tools/pages/limits.py); the longest: {longest}"


def lower(project: Project) -> list[str]:
    """Lower the ceilings to the present counts; return what changed. A page without ceilings gets none."""
    present = {path.stem: path for path in sorted(project.notebooks.glob("*.ipynb"))}
    changes, kept = [], {}
    for name, allowed in ceilings(project).items():
        now = counts(project, present[name]) if name in present else {}
        entry = {}
        for what, ceiling in allowed.items():
            count = min(ceiling, now.get(what, 0))
            if count > LIMITS[what]:
                entry[what] = count
            if entry.get(what) != ceiling:
                changes.append(f"{name}: {what}: {ceiling} -> {entry.get(what, f'within {LIMITS[what]}')}")
        if entry:
            kept[name] = entry
    head = "".join(f"# {line}\n" for line in (__doc__ or "").strip().splitlines()[2:])
    path_of(project).write_text(head + yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return changes

"""Compute numbers of the prose that no page prints: notebooks/measured.yml -> notebooks/measured.json."""

from __future__ import annotations

import ast
import io
import json
from contextlib import redirect_stdout

import jupytext
import matplotlib
import numpy as np
import yaml

from tools.pages.project import Project, tags


def measure(project: Project, name: str) -> None:
    """Run a page, then the code of each of its entries; write their numbers."""
    matplotlib.use("Agg")
    path = project.notebooks / "measured.json"
    for label, entry in (entries(project).get(name) or {}).items():
        if label == next(iter(entries(project)[name])) or "parameters" in entry:
            namespace = _run(project, name, entry.get("parameters", {}))
        *statements, last = ast.parse(entry["code"]).body
        exec(compile(ast.Module(statements, []), label, "exec"), namespace)
        numbers = eval(compile(ast.Expression(last.value), label, "eval"), namespace)
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        stored[label] = [float(f"{number:.6g}") for number in np.ravel(numbers)]
        lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(stored[key])}" for key in sorted(stored))
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def entries(project: Project) -> dict[str, dict[str, dict]]:
    """Return the code of notebooks/measured.yml by page and label."""
    return yaml.safe_load((project.notebooks / "measured.yml").read_text(encoding="utf-8"))


def _run(project: Project, name: str, parameters: dict[str, object]) -> dict:
    """Run the cells of a page; return its names."""
    namespace: dict = {"__name__": name}
    cells = jupytext.read(project.sources / f"{name}.py", fmt="py:percent").cells
    with redirect_stdout(io.StringIO()):  # a page displays its figures
        for cell in cells:
            if cell.cell_type == "code" and "remove-cell" not in tags(cell):
                exec(compile(cell.source, name, "exec"), namespace)
                if "parameters" in tags(cell):
                    namespace |= parameters
    return namespace

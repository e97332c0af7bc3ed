"""What a submission holds that nobody can mend, but that whoever grades it wants to know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from nbformat import NotebookNode

LOOKED_FOR = {
    r"^\s*[!%]\s*(pip|conda|apt)": "installs packages: there is no network while grading, and the line fails",
    r"^\s*[!%](?!\s*(pip|conda|apt|matplotlib|time|config))\w": "runs a shell or magic command",
    r"\bdrive\.mount\b|\bgoogle\.colab\b": "needs Google Colab; the cell fails elsewhere",
    r"\binput\s*\(": "waits for input; the cell fails",
    r"\bcheck\.\w+\s*=[^=]|^\s*check\s*=[^=]|setattr\(\s*check|sys\.modules|dtta\.course": "meddles with the checks",
    r"\bos\.(environ|kill|_exit)\b|\bsubprocess\b|\bos\.system\b": "reaches for the system",
}


def symptoms(notebook: NotebookNode, ours: set[str]) -> Iterator[str]:
    """Sentences about a student's own cells; `ours` are the texts of those that the student was given.

    They are hints for a person, found by their words: a clean list is no proof of good faith.
    """
    for i, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "code" or cell.source.strip() in ours or "@title Google Colab only" in cell.source:
            continue
        for pattern, words in LOOKED_FOR.items():
            if re.search(pattern, cell.source, re.MULTILINE):
                yield f"cell {i} {words}"
        if _endless(cell.source):
            yield f"cell {i} has a loop `while True` without a way out; the time limit will stop it"


def _endless(text: str) -> bool:
    try:
        tree = ast.parse(re.sub(r"^\s*[!%].*$", "", text, flags=re.MULTILINE))
    except SyntaxError:
        return False
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.While)]
    ways_out = (ast.Break, ast.Return, ast.Raise, ast.Yield)
    return any(
        isinstance(loop.test, ast.Constant)
        and loop.test.value
        and not any(isinstance(n, ways_out) for n in ast.walk(loop))
        for loop in loops
    )

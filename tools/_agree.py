"""Whether two texts of a page agree, within the tolerance that they state (dtta.pages.report)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

# The file alone: importing the package would load torch into every test process.
_spec = importlib.util.spec_from_file_location("report", Path(__file__).parents[1] / "dtta" / "pages" / "report.py")
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)


def agree(fresh: str, committed: str, factor: float = 1.0) -> bool:
    """Whether two texts agree: numbers within `factor` times the tolerance that the fresh one states, else exactly."""
    lines, old_lines = fresh.splitlines(), committed.splitlines()
    return len(lines) == len(old_lines) and all(
        new == old if limit is None else _agree(new, old, (factor * limit[0], int(factor * limit[1])))
        for new, old, limit in zip(lines, old_lines, report.tolerances(fresh), strict=True)
    )


def _agree(new: str, old: str, limit: tuple[float, int]) -> bool:
    numbers, old_numbers = report.NUMBER.findall(new), report.NUMBER.findall(old)
    # A number may gain a digit and shift the columns of a table, so white space counts once.
    words, old_words = (re.sub(r"\s+", " ", report.NUMBER.sub(" # ", text)) for text in (new, old))
    return words == old_words and all(map(_near, numbers, old_numbers, [limit] * len(numbers)))


def _near(a: str, b: str, limit: tuple[float, int]) -> bool:
    if a == b:
        return True
    decimals = len(a.partition(".")[2])
    if decimals != len(b.partition(".")[2]) or "e" in (a + b).lower():
        return False  # another format is another text, and a number with an exponent is a setting
    gap = abs(float(a.replace("−", "-")) - float(b.replace("−", "-")))
    return gap <= (limit[0] if decimals else limit[1]) + 1e-9

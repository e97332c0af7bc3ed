"""A pytest plugin (-p nbval_tolerance) that lets nbval compare numbers within the tolerance an output states.

nbval compares text exactly. Where the fresh output states a tolerance (dtta.report), its numbers are
compared with the committed ones within it; if all agree, the committed text takes the fresh text's
place and nbval's exact comparison passes. It judges everything else itself, except two things that it
misses: the number and kinds of the outputs (it skips images, so it would not miss a lost figure), and
the words of the opt-out, which `pages.py check` looks after.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from nbval.plugin import IPyNbCell, coalesce_streams

# The file alone: importing the package would load torch into every test process.
_spec = importlib.util.spec_from_file_location("report", Path(__file__).parents[1] / "dtta" / "report.py")
report = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(report)


def agree(fresh: str, committed: str) -> bool:
    """Whether two texts agree: numbers within the tolerance that the fresh one states, the rest exactly."""
    lines, old_lines = fresh.splitlines(), committed.splitlines()
    return len(lines) == len(old_lines) and all(
        new == old if limit is None else _agree(new, old, limit)
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


def _texts(output: dict) -> dict:
    """Where an output keeps its texts: its data, or itself under "text" for a stream."""
    return output.get("data", output)


def _kinds(outputs: list) -> list[tuple]:
    return [(o["output_type"], o.get("name"), tuple(sorted(o["data"])) if "data" in o else None) for o in outputs]


_compare = IPyNbCell.compare_outputs


def compare_outputs(self: IPyNbCell, test: list, ref: list, skip_compare: tuple | None = None) -> bool:
    test, ref = coalesce_streams(test), coalesce_streams(ref)
    if _kinds(test) != _kinds(ref):
        self.comparison_traceback = [f"other outputs than committed: {_kinds(test)} against {_kinds(ref)}"]
        return False
    for fresh, committed in zip(test, ref, strict=True):
        new, old = _texts(fresh), _texts(committed)
        for key in ("text", "text/plain", "text/html", "text/markdown"):
            if isinstance(new.get(key), str) and isinstance(old.get(key), str) and agree(new[key], old[key]):
                new[key] = old[key]
    return _compare(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = compare_outputs

"""Numbers on a page, with the tolerance within which they hold on another machine.

    report.line(f"accuracy {before:.1f}% -> {after:.1f}%", tolerance=0.7)
    report.table(frame, tolerance=0.7, caption="Gain by shift, in points")

Two processors do not agree in the last digits of a long computation, and a committed page is compared
with a fresh run word by word. So numbers that depend on them are rounded and their tolerance stands in
the output; the comparison (tools/nbval_tolerance.py) reads it there. It counts for numbers with a
decimal point. Whole numbers, such as counts and seeds, must agree exactly, unless `whole` is given.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

# Digits that hang on a word are part of its name (resnet18, 3x3), not a number.
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)(?!\.\d)")
_STATED = re.compile(
    r"decimals(?: in the (?P<lines>\d+ lines|line) above)? hold to ±(?P<decimals>[\d.e-]+)"
    r"(?:, whole numbers to ±(?P<whole>\d+),)? on other machines"
)


def tolerances(text: str) -> list[tuple[float, int] | None]:
    """The tolerance of each line of an output, for decimals and for whole numbers; None: exact."""
    lines = text.splitlines()
    limits: list[tuple[float, int] | None] = [None] * len(lines)
    for i, words in enumerate(lines):
        if found := _STATED.search(words):
            limit = float(found["decimals"]), int(found["whole"] or 0)
            if found["lines"] is None:  # a table: the statement covers all of it
                return [None if j == i else limit for j in range(len(lines))]
            count = 1 if found["lines"] == "line" else int(found["lines"].split()[0])
            limits[max(0, i - count) : i] = [limit] * min(count, i)
    return limits


def line(text: str, tolerance: float, whole: int = 0) -> None:
    """Print a text with rounded numbers and the tolerance within which they hold.

    Args:
        text: one line or more, its numbers already rounded. A number with an exponent (5e-3) is a
            setting: it must agree exactly.
        tolerance: of the numbers with a decimal point, in the unit in which they are printed.
        whole: the same for whole numbers; 0: they must agree exactly.

    Raises:
        ValueError: a number has digits that the tolerance makes meaningless, or no number has a tolerance.
    """
    _refuse_empty_digits(text, _digits(tolerance), tolerance)
    if not whole and not any("." in number for number in NUMBER.findall(text)):
        raise ValueError(f"no number with a decimal point in {text!r}: print() it, or give whole=")
    count = len(text.splitlines())
    where = "in the line above" if count == 1 else f"in the {count} lines above"
    print(f"{text}\n({_statement(tolerance, whole, where)})")


def table(
    rows: DataFrame | Iterable[Mapping],
    tolerance: float,
    caption: str = "",
    digits: int | None = None,
    whole: int = 0,
) -> None:
    """Show a table, its floats rounded, with the tolerance within which they hold.

    Args:
        rows: a data frame, or mappings from column name to value. An index with a name is shown as
            the first column; one without is not shown.
        tolerance: of the numbers with a decimal point, in the unit in which they are printed.
        caption: a heading.
        digits: after the point; None: as many as the tolerance leaves meaning to. 0 makes floats look
            like counts, so the tolerance then covers all whole numbers of the table.
        whole: tolerance of whole numbers; 0: they must agree exactly.

    Raises:
        ValueError: a text in a cell has digits that the tolerance makes meaningless, or no number has a tolerance.
    """
    import pandas as pd
    from IPython.display import display

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    digits = min(_digits(tolerance), 99 if digits is None else digits)
    cells = [[_cell(value, digits) for value in row] for row in frame.itertuples(index=False)]
    heads = [str(name) for name in frame.columns]
    right = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    texts = [text for row in cells for text in row]
    for text in texts:
        _refuse_empty_digits(text, digits, tolerance)
    if digits == 0:
        whole = max(whole, math.floor(tolerance))
    if not whole and not any("." in number for text in texts for number in NUMBER.findall(text)):
        raise ValueError("no number with a decimal point in the table: display it as it is, or give whole=")
    note = _statement(tolerance, whole)
    display(
        {
            "text/html": _html(heads, cells, right, caption, note),
            "text/plain": _text(heads, cells, right, caption, note),
        },
        raw=True,
    )


def gains(
    found: Mapping[str, Mapping[str, float]], tolerance: float, caption: str = "", digits: int | None = None
) -> None:
    """Show paired gains (see ``dtta.evaluation.statistics.paired_gain``), one a row, as `table` does."""
    columns = {"before": "before", "after": "after", "gain": "gain", "from": "low", "to": "high", "images": "images"}
    rows = [{"": name} | {head: gain[key] for head, key in columns.items()} for name, gain in found.items()]
    table(rows, tolerance, caption, digits)


def beside(
    rows: Iterable[tuple[str, float, str, Mapping[str, float]]],
    tolerance: float,
    caption: str = "",
    paper: str = "paper",
) -> None:
    """Show gains of a paper beside paired ones of ours, as `table` does, and whether they point the same way.

    Args:
        rows: a name and a gain in points there; a name and a gain here (see ``dtta.evaluation.statistics.paired_gain``).
        paper: what the first column is headed.
    """
    found = []
    for theirs, told, ours, gain in rows:
        shown = not gain["low"] <= 0 <= gain["high"]
        same = "agrees" if (told > 0) == (gain["gain"] > 0) else "disagrees"
        found.append(
            {
                paper: theirs,
                "its gain": told,
                "here": ours,
                "gain": gain["gain"],
                "from": gain["low"],
                "to": gain["high"],
            }
            | {"": same if shown else "nothing shown here"}
        )
    table(found, tolerance, caption)


def _statement(tolerance: float, whole: int, where: str = "") -> str:
    counts = f", whole numbers to ±{whole}," if whole else ""
    return f"decimals {where + ' ' if where else ''}hold to ±{tolerance:g}{counts} on other machines"


def _refuse_empty_digits(text: str, digits: int, tolerance: float) -> None:
    for number in NUMBER.findall(text):
        if "e" not in number.lower() and len(number.partition(".")[2]) > digits:
            raise ValueError(
                f"{number} has more digits than ±{tolerance:g} gives meaning to: round to {digits}, "
                "or write a setting that is exact with an exponent (5e-3)"
            )


def _digits(tolerance: float) -> int:
    """Digits after the point that a tolerance leaves meaning to; at least one, so that a number shows as a decimal."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a positive number, got {tolerance}")
    return max(1, math.ceil(-math.log10(tolerance)))


def _cell(value: object, digits: int) -> str:
    if not hasattr(value, "__float__") or isinstance(value, (bool, int)) or hasattr(value, "__index__"):
        return str(value)
    if math.isnan(float(value)):
        return "–"
    text = f"{float(value):.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text  # no "-0.0"


def _html(heads: list[str], cells: list[list[str]], right: list[bool], caption: str, note: str) -> str:
    def row(tag: str, values: list[str]) -> str:
        align = [' style="text-align: right"' if r else ' style="text-align: left"' for r in right]
        return "".join(f"<{tag}{a}>{html.escape(v)}</{tag}>" for v, a in zip(values, align, strict=True))

    return "\n".join(
        [
            '<div class="dtta-table"><table>',
            f"<caption>{html.escape(caption)}</caption>" if caption else "",
            f"<thead><tr>{row('th', heads)}</tr></thead>",
            "<tbody>",
            *(f"<tr>{row('td', values)}</tr>" for values in cells),
            f"</tbody></table><p><small>{note}</small></p></div>",
        ]
    )


def _text(heads: list[str], cells: list[list[str]], right: list[bool], caption: str, note: str) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]

    def row(values: list[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join(([caption] if caption else []) + [row(heads), *map(row, cells), f"({note})"])

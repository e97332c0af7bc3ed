"""Show numbers on a page together with their tolerance on another machine.

    report.line(f"accuracy {before:.1f}% -> {after:.1f}%", tolerance=0.7)
    report.table(frame, tolerance=0.7, caption="Gain by shift, in points")

Outputs of a committed page are compared with a fresh run's, and processors differ in the last digits. So each output
carries its tolerance in the display metadata, ``{"dtta": {"tolerance": 0.7, "whole": 0}}``, where
``tools/pages/tolerance.py`` reads it.
"""

from __future__ import annotations

import html
import math
import numbers
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pandas import DataFrame

METADATA = "dtta"  # the key of the tolerance in the display metadata
# Digits attached to a word are part of a name (resnet18, 3x3), not a number.
NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?!\w)(?!\.\d)")
# An interval with its mean (+2.5 [1.5, 3.5]), a number with its error (+2.5 ± 0.5), a word with a hyphen, or an option.
_WHOLE = re.compile(r"(?:[-+−]?[\d.]+ )?\[[^\[\]]+, [^\[\]]+\]|[-+−]?[\d.]+ ± [\d.]+|(?:--)?[\w.]+(?:-[\w.]+)+|--\w+")

WIDTH = 80  # columns of an output, which a box of the book holds; a page wraps longer lines
# A long line is not broken between a number and its interval, inside an interval, or between an option and its value.
_TOGETHER = re.compile(r"(?:\S+ )?\[[^\]\n]*\]|--[\w-]+ \S+")


def line(text: str, tolerance: float, whole: int = 0) -> None:
    """Show a text with rounded numbers and their tolerance.

    Args:
        text: lines with rounded numbers. One with an exponent (5e-3) is a setting and must be reproduced exactly.
            Lines of more than `WIDTH` columns are wrapped, but not the rows of a table (two spaces between columns).
        tolerance: of the numbers with a decimal point, in the unit in which they are printed.
        whole: tolerance of whole numbers, such as counts and seeds; 0: they must be reproduced exactly.

    Raises ValueError: a number has digits that the tolerance makes meaningless, or no number has a tolerance.
    """
    check_digits([text], tolerance)
    if not whole and not _has_decimals([text]):
        raise ValueError(f"no number with a decimal point in {text!r}: print() it, or give whole=")
    wrapped = "\n".join(map(_wrapped, text.split("\n")))
    _display({"text/plain": f"{wrapped}\n({_note([text], tolerance, whole)})"}, tolerance, whole)


def table(
    rows: DataFrame | Iterable[Mapping],
    tolerance: float,
    caption: str = "",
    digits: int | None = None,
    whole: int = 0,
) -> None:
    """Show a table with its floats rounded and whole numbers from 10,000 with commas, and their tolerance.

    `tolerance`, `whole` and errors as of `line`.

    Args:
        rows: of a data frame, an index with a name becomes the first column; one without is hidden.
        digits: number of digits after the decimal point; None: as many as are meaningful under the tolerance. With 0,
            floats look like counts, and the tolerance applies to all whole numbers of the table.
    """
    digits = min(_digits(tolerance), 99 if digits is None else digits)
    heads, cells, right = _columns(rows, digits)
    texts = [text for row in cells for text in row]
    check_digits(texts, tolerance, digits)
    if digits == 0:
        whole = max(whole, math.floor(tolerance))
    if not whole and not _has_decimals(texts):
        raise ValueError("no number with a decimal point in the table: display it without a tolerance, or give whole=")
    note = _note(texts, tolerance, whole)
    data = {
        "text/html": _html(heads, cells, right, caption, note),
        "text/plain": _text(heads, cells, right, caption, note),
    }
    _display(data, tolerance, whole)


def to_html(rows: DataFrame | Iterable[Mapping], digits: int = 1, caption: str = "", upright: bool = False) -> str:
    """Return a table as HTML, with its floats rounded, for a page of the book that does not run; see `table`.

    `upright`: the headings of numbers are turned by 90 degrees, so that more columns fit.
    """
    heads, cells, right = _columns(rows, digits)
    longest = [max(map(len, column)) for column in zip(*cells, strict=True)]
    classes = [' class="dtta-long"' if length > 60 else "" for length in longest]
    # In a notebook's output the theme does this: a table that scrolls sideways can be reached by the keyboard.
    css = "dtta-table dtta-upright" if upright else "dtta-table"
    text = _html(heads, cells, right, caption, "", classes).replace('"dtta-table"', f'"{css}" tabindex="0"', 1)
    return keep_whole(text)


def keep_whole(table: str) -> str:
    """Return a table's HTML for a narrow page: intervals, errors (±), options and words with a hyphen stay whole."""
    return "".join(
        part if part.startswith("<") else _WHOLE.sub(r'<span class="dtta-whole">\g<0></span>', part)
        for part in re.split(r"(<[^>]*>)", table)
    )


def _columns(rows: DataFrame | Iterable[Mapping], digits: int) -> tuple[list[str], list[list[str]], list[bool]]:
    """Return a table's headings, its cells as texts, and which columns have numbers."""
    import pandas as pd

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows))
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    heads = [str(name) for name in frame.columns]
    right = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    return heads, [[_cell(value, digits) for value in row] for row in frame.itertuples(index=False)], right


def gains(
    gains: Mapping[str, Mapping[str, float]], tolerance: float, caption: str = "", digits: int | None = None
) -> None:
    """Show paired gains by name (see ``dtta.evaluation.statistics.paired_gain``) as the rows of a `table`."""
    digits = min(_digits(tolerance), 99 if digits is None else digits)
    rows = [
        {"": name, "before": gain["before"], "after": gain["after"], "change": interval(gain, digits)}
        for name, gain in gains.items()
    ]
    table(rows, tolerance, caption, digits)


def interval(gain: Mapping[str, float] | Sequence[float], digits: int = 1) -> str:
    """Return a paired gain with its 95% interval as text: "+2.5 [1.5, 3.5]".

    `gain`: of ``dtta.evaluation.statistics.paired_gain``, or the differences of single images.
    """
    from dtta.evaluation.statistics import bootstrap_interval

    if not isinstance(gain, Mapping):
        low, high = bootstrap_interval(gain)
        gain = {"gain": sum(gain) / len(gain), "low": low, "high": high}
    mean, low, high = (round(float(gain[key]), digits) + 0.0 for key in ("gain", "low", "high"))  # no "-0.0"
    return f"{mean:+.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _display(data: dict[str, str], tolerance: float, whole: int) -> None:
    from IPython.display import display

    display(data, metadata={METADATA: {"tolerance": float(tolerance), "whole": int(whole)}}, raw=True)


def _wrapped(line: str) -> str:
    """Return a line with breaks at spaces, after a comma or semicolon where that is enough, if it is too long."""
    if len(line) <= WIDTH or "  " in line.strip():
        return line
    joined = _TOGETHER.sub(lambda match: match[0].replace(" ", "\xa0"), line)
    phrases = re.sub("(?<![,;]) ", "\xa0", joined)
    indent = line[: len(line) - len(line.lstrip())] + "  "
    options = {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}
    lines = textwrap.wrap(phrases, WIDTH, **options)
    if max(map(len, lines)) > WIDTH:
        lines = textwrap.wrap(joined, WIDTH, **options)
    return "\n".join(lines).replace("\xa0", " ")


def _note(texts: Iterable[str], tolerance: float, whole: int) -> str:
    decimals = _has_decimals(texts)
    counts = f", whole numbers by up to {whole}" if whole and decimals else ""
    return f"on another machine, values may differ by up to {tolerance if decimals else whole:g}{counts}"


def _has_decimals(texts: Iterable[str]) -> bool:
    return any("." in number for text in texts for number in NUMBER.findall(text))


def check_digits(texts: Iterable[str], tolerance: float, digits: int | None = None) -> None:
    """Raise ValueError if a number has digits that the tolerance makes meaningless, or more than `digits`."""
    digits = _digits(tolerance) if digits is None else digits
    for number in [number for text in texts for number in NUMBER.findall(text)]:
        if "e" not in number.lower() and len(number.partition(".")[2]) > digits:
            raise ValueError(
                f"{number} has more digits than are meaningful at ±{tolerance:g}: round to {digits}, "
                "or write a setting that is exact with an exponent (5e-3)"
            )


def _digits(tolerance: float) -> int:
    """Return the number of meaningful digits after the point; at least 1, so that a number shows as a decimal."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be a positive number, got {tolerance}")
    return max(1, math.ceil(-math.log10(tolerance)))


def _cell(value: object, digits: int) -> str:
    if isinstance(value, numbers.Integral) and abs(value) >= 10_000:
        return f"{int(value):,}"  # four digits need no comma
    if not hasattr(value, "__float__") or hasattr(value, "__index__"):
        return str(value)
    if math.isnan(float(value)):
        return "–"
    text = f"{float(value):.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text  # no "-0.0"


# Own code, since pandas' to_html has no caption and aligns all columns alike, and to_string aligns all texts right.
def _html(
    heads: list[str],
    cells: list[list[str]],
    right: list[bool],
    caption: str,
    note: str,
    classes: Sequence[str] | None = None,
) -> str:
    def row(tag: str, values: list[str], scope: str = "") -> str:
        align = ["right" if numeric else "left" for numeric in right]
        items = [
            f'<{tag}{scope}{kind} style="text-align: {side}">{html.escape(value)}</{tag}>'
            for value, side, kind in zip(values, align, classes or [""] * len(align), strict=True)
        ]
        return f"<tr>{''.join(items)}</tr>"

    title = [f"<caption>{html.escape(caption)}</caption>"] if caption else []
    head = ["<thead>", row("th", heads, ' scope="col"'), "</thead>"]
    body = ["<tbody>", *(row("td", values) for values in cells)]
    end = "</tbody></table>" + (f"<p><small>{note}</small></p>" if note else "") + "</div>"
    return "\n".join(['<div class="dtta-table"><table>', *title, *head, *body, end])


def _text(heads: list[str], cells: list[list[str]], right: list[bool], caption: str, note: str) -> str:
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]

    def row(values: list[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(padded).rstrip()

    return "\n".join(([caption] if caption else []) + [row(heads), *map(row, cells), f"({note})"])

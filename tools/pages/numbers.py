"""Compare the numbers in a lesson's prose with stored results and with what the lesson prints.

notebooks/numbers.yml lists, by page, a piece of the prose with # for each number, and a Python expression for them:

    05_depth:
      - text: 'improves # points [#, #] more'          # a space may be a line break
        is: gain("scenes-depth-test", "diffusion-tta", metric="SSIM")

An expression can use the functions of `Names`, np, math and partial. A number as shown must be the value rounded to its
digits. Measured numbers (with a decimal point, a sign, a percent sign, in brackets, or in points) need an entry. Other
whole numbers above 12 may also be printed by the page or be in its code. tests/tools/test_numbers.py checks all pages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from decimal import Decimal
from functools import cached_property
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import yaml

from tools.pages.editions import literal
from tools.pages.values import NUMBER, Names, find, read

POINTS = r"\s+points?\b"
UNIT = r"\s*(?:%|points?\b)"
COUNT = 12  # whole numbers up to this one are counts, such as "five steps", unless they have a unit
_EXERCISE = re.compile(r"```\{exercise\}.*?```", re.DOTALL)  # its numbers, except points, tell the reader what to do
_NOT_COMPARED = (
    r"^:[\w-]+:.*?$",  # options of a box
    r"(?:\{[a-z:]+\})?(`+)[^`]+?\1",  # code and references
    r"\$\$.*?\$\$",
    r"\[(?:pages?|evidence)?\s*\d+\]\([^)]*\)",
    r"(?<=\])\([^)]*\)",
    r"\b(?:pages?|evidence|exercises?|tables?|figures?|sections?|lines?|diffusion)"
    r"\s+\d+(?:\.\d+)?(?:,? (?:to|and) \d+)*",
    r"\*\*Time:\*\*[^.]*",
    r"^\d+\. ",
    r"δ < 1\.25",  # the name of a metric
    r"\b95%(?=\s+(?:\w+\s+)?interval)|(?<=intervals: )95%",
)
_MATHS = r"\\[A-Za-z]+|[\^_](?:\{[^}]*\}|\w)"


def fits(text: str, number: float) -> bool:
    """Return whether a number, rounded to the digits of its text, is what the text shows."""
    unit = 10.0 ** Decimal(re.sub("[, ]", "", text).replace("−", "-")).as_tuple().exponent
    return abs(read(text) - number) <= unit / 2 + 1e-9


class Page:
    """What a page says: its prose with captions and alternative texts, its code, and what it prints."""

    def __init__(self, source: Path, notebook: Path) -> None:
        cells = jupytext.read(source, fmt="py:percent").cells
        self.code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        self.prose = "\n\n".join(
            cell.source if cell.cell_type == "markdown" else "\n\n".join(_captions(cell.source)) for cell in cells
        )
        outputs = [o for cell in nbformat.read(notebook, as_version=4).cells for o in cell.get("outputs", ())]
        self.printed = "\n".join(o.get("text") or _text(o.get("data", {})) for o in outputs)

    @cached_property
    def asked(self) -> set[str]:
        """Numbers that exercises tell the reader to use, as printed."""
        return set(re.findall(NUMBER, " ".join(_EXERCISE.findall(self.prose))))

    @cached_property
    def whole(self) -> set[float]:
        """Whole numbers that the page prints or that its code has."""
        nodes = ast.walk(ast.parse(self.code))
        in_code = {node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is int}
        return in_code | {abs(read(text)) for text in re.findall(NUMBER, self.printed)}

    def uncovered(self, covered: Collection[int]) -> Iterator[str]:
        """Yield each number with its sentence that is at none of the covered places and needs an entry."""
        prose, maths = _compared(self.prose)
        for match in re.finditer(NUMBER, prose):
            text, (start, end) = match[0], match.span()
            unit, bracket = re.match(UNIT, prose[end:]), prose[start - 1 : start] == "[" or prose[end : end + 1] == "]"
            in_maths = any(a <= start < b for a, b in maths)
            measured = bool(unit) or "." in text or (not in_maths and (bracket or text[0] in "+−-"))
            number = abs(read(text))
            if start in covered or (not measured and (number <= COUNT or number in self.whole)):
                continue
            if not unit and not bracket and text in self.asked:
                continue
            if not unit and not bracket and number in (0, 1) and "." not in text:
                continue  # from −1 to 1
            begin = max(self.prose.rfind(mark, 0, start) for mark in (". ", ".\n", "\n\n")) + 1
            yield f"{text}{unit[0] if unit else ''} in: {' '.join(self.prose[begin : end + 60].split())}"


def _captions(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call):
            yield from (literal(k.value) for k in node.keywords if k.arg in ("alt", "caption"))


def _text(data: dict) -> str:
    return "" if "image/png" in data else data.get("text/plain", "")


def _compared(prose: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the prose with blanks for what is not compared, and the places of its formulas."""
    prose = _EXERCISE.sub(lambda m: re.sub(rf"{NUMBER}(?!{POINTS})", lambda n: _blank(n[0]), m[0]), prose)
    lines, code = [], False
    for line in prose.splitlines(keepends=True):
        fence = re.match(r" *```(.?)", line)
        if fence and (code or fence[1] not in ("", "{")):
            code = not code
        lines.append(_blank(line) if fence or code else line)
    prose = "".join(lines)
    for pattern in _NOT_COMPARED:
        prose = re.sub(pattern, lambda m: _blank(m[0]), prose, flags=re.DOTALL | re.MULTILINE | re.IGNORECASE)
    formulas = [match.span() for match in re.finditer(r"\$[^$]+\$", prose)]
    for a, b in formulas:
        prose = prose[:a] + re.sub(_MATHS, lambda m: _blank(m[0]), prose[a:b]) + prose[b:]
    return prose, formulas


def _blank(text: str) -> str:
    return re.sub(r"[^\n]", " ", text)


def entries(path: Path) -> dict[str, list[dict[str, str]]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def problems(page: Page, entries: list[dict[str, str]]) -> Iterator[str]:
    """Yield a sentence for each entry that does not hold, and for each number that needs one."""
    names = Names(page.code, page.printed)
    namespace = {name: getattr(names, name) for name in dir(names) if not name.startswith("_")}
    covered: set[int] = set()
    for entry in entries:
        try:
            place = find(entry["text"], page.prose)
            covered |= {place.start(group) for group in range(1, len(place.groups()) + 1)}
            result = eval(str(entry["is"]), dict(namespace))
            numbers = (np.hstack(result) if isinstance(result, list | tuple) else np.ravel(result)).tolist()
        except Exception as error:
            yield f"{entry['text']!r}: {error}"
            continue
        shown = place.groups()
        if len(shown) != len(numbers) or not all(map(fits, shown, numbers)):
            given = ", ".join(f"{number:.6g}" for number in numbers)
            yield f"{entry['text']!r} shows {', '.join(shown)}; {entry['is']} gives {given}"
    for number in page.uncovered(covered):
        yield f"no entry in notebooks/numbers.yml, and not printed: {number}"

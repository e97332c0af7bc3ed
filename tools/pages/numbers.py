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
import importlib
import inspect
import json
import math
import re
from collections.abc import Callable, Collection, Iterator
from decimal import Decimal
from functools import cached_property, partial
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import yaml

from dtta.evaluation.run import Row
from dtta.evaluation.statistics import value
from dtta.experiments import paper as cells
from dtta.experiments import stored
from dtta.pages.evidence import metrics_of, shifts_of
from tools.pages.editions import literal

MEASURED = Path(__file__).parents[2] / "notebooks" / "measured.json"
# Digits attached to a word or a file are part of a name (resnet18, B-32, ViT-L/16), not a number.
NUMBER = (
    r"(?<![\w.])(?<!\w-)(?<![A-Za-z]/)(?:(?<!\w)[+−-])?(?:\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)"
)
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
    r"\b(?:pages?|evidence|tables?|figures?|sections?|lines?|diffusion)\s+\d+(?:\.\d+)?(?:,? (?:to|and) \d+)*",
    r"\*\*Time:\*\*[^.]*",
    r"^\d+\. ",
    r"δ < 1\.25",  # the name of a metric
    r"\b95%(?=\s+(?:\w+\s+)?interval)|(?<=intervals: )95%",
)
_MATHS = r"\\[A-Za-z]+|[\^_](?:\{[^}]*\}|\w)"


def read(text: str) -> float:
    """Return the value of a number as printed."""
    return float(re.sub("[, ]", "", text).replace("−", "-"))


def fits(text: str, number: float) -> bool:
    """Return whether a number, rounded to the digits of its text, is what the text shows."""
    unit = 10.0 ** Decimal(re.sub("[, ]", "", text).replace("−", "-")).as_tuple().exponent
    return abs(read(text) - number) <= unit / 2 + 1e-9


def find(pattern: str, text: str) -> re.Match:
    """Return the only place of a piece of text with # for numbers. Raises ValueError: none, or several."""
    parts = (re.escape(part).replace(r"\ ", r"\s+") for part in pattern.split("#"))
    places = list(re.finditer(f"({NUMBER})".join(parts), text))
    if len(places) != 1:
        raise ValueError(f"{pattern!r} is there {len(places)} times, not once")
    return places[0]


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


class Names:
    """What an expression in numbers.yml can use. `shifts`: a name or several; None: all but "clean"."""

    np, math, partial = np, math, partial

    def __init__(self, page: Page) -> None:
        self._page = page

    def shown(self, text: str) -> np.ndarray:
        """Return the numbers at the # of a text that the page prints once."""
        return np.array([read(number) for number in find(text, self._page.printed).groups()])

    def in_code(self, text: str, function: str = "") -> np.ndarray:
        """Return the numbers at the # of a text in the page's code, or in the code of "module:function"."""
        code = inspect.getsource(self.constant(function)) if function else self._page.code
        return np.array([read(number) for number in find(text, code).groups()])

    @staticmethod
    def constant(name: str):
        """Return what "module:name" is."""
        module, _, attribute = name.partition(":")
        return getattr(importlib.import_module(module), attribute)

    def rows(
        self, table: str, run: str, shifts=None, only: Callable[[Row], bool] | None = None, like=None
    ) -> list[Row]:
        """Return the rows of a run, sorted; `like`: only those of images that this other run has too."""
        names = shifts_of(table, run) if shifts is None else [shifts] if isinstance(shifts, str) else shifts
        keys = None if like is None else {row.key for row in stored.rows(table, like)}
        rows = [row for row in stored.rows(table, run) if row.shift in names and (only is None or only(row))]
        return sorted((row for row in rows if keys is None or row.key in keys), key=lambda row: row.key)

    def right(self, table: str, run: str, *args, **options) -> np.ndarray:
        """Return which answers of a run are right; arguments as of `rows`."""
        return np.array([row.score > 0.5 for row in self.rows(table, run, *args, **options)])

    def gain(self, table: str, run: str, shifts=None, over=None, metric=None, **options) -> np.ndarray:
        """Return the paired gain of a run and its interval: gain, low, high; options as of ``stored.gain``."""
        names = shifts_of(table, run) if shifts is None else [shifts] if isinstance(shifts, str) else shifts
        metric = metrics_of(table)[metric] if isinstance(metric, str) else metric
        result = stored.gain(table, run, names, against=over, metric=metric, **options)
        return np.array([result[key] for key in ("gain", "low", "high")])

    def level(self, table: str, run: str, shifts=None, metric=None, **options) -> float:
        """Return the mean score of a run, times 100, or a metric."""
        rows = self.rows(table, run, shifts, **options)
        return value(rows, metrics_of(table)[metric])[0] if metric else 100 * np.mean([row.score for row in rows])

    @staticmethod
    def trials(table: str, run: str, **settings) -> list[dict]:
        """Return what was tried on validation images, as ``stored.trials``, with these settings."""
        return [t for t in stored.trials(table) if t["run"] == run and settings.items() <= t["settings"].items()]

    def trial(self, table: str, run: str, **settings) -> np.ndarray:
        """Return the gain and its interval that a run had on validation images with these settings."""
        (only,) = self.trials(table, run, **settings)
        return np.array([only[key] for key in ("gain", "low", "high")])

    def setting(self, table: str, run: str, name: str):
        """Return a setting of a stored run."""
        return stored.runs(table)[run].settings[name]

    def paper(self, cell: str) -> list[float]:
        """Return the paper's numbers without and with adaptation; a cell is "table1/convnext-tiny/imagenet-a"."""
        preset = cells.get(cell)
        return [preset.before, preset.paper]

    @staticmethod
    def measured(label: str) -> np.ndarray:
        """Return numbers of notebooks/measured.json, such as those of a solution; tools/pages/measured.py makes it."""
        return np.array(json.loads(MEASURED.read_text(encoding="utf-8"))[label])

    published = staticmethod(cells.published)


def entries(path: Path) -> dict[str, list[dict[str, str]]]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def problems(page: Page, entries: list[dict[str, str]]) -> Iterator[str]:
    """Yield a sentence for each entry that does not hold, and for each number that needs one."""
    names = Names(page)
    namespace = {name: getattr(names, name) for name in dir(names) if not name.startswith("_")}
    covered: set[int] = set()
    for entry in entries:
        try:
            place = find(entry["text"], page.prose)
            result = eval(str(entry["is"]), dict(namespace))
            numbers = (np.hstack(result) if isinstance(result, list | tuple) else np.ravel(result)).tolist()
        except Exception as error:
            yield f"{entry['text']!r}: {error}"
            continue
        covered |= {place.start(group) for group in range(1, len(place.groups()) + 1)}
        shown = place.groups()
        if len(shown) != len(numbers) or not all(map(fits, shown, numbers)):
            given = ", ".join(f"{number:.6g}" for number in numbers)
            yield f"{entry['text']!r} shows {', '.join(shown)}; {entry['is']} gives {given}"
    for number in page.uncovered(covered):
        yield f"no entry in notebooks/numbers.yml, and not printed: {number}"

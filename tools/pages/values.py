"""Values of the numbers in the lessons' prose: what an expression of notebooks/numbers.yml can use."""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dtta.evaluation.run import Row
from dtta.evaluation.statistics import value
from dtta.experiments import paper as cells
from dtta.experiments import stored
from dtta.pages.evidence import metrics_of, shifts_of

MEASURED = Path(__file__).parents[2] / "notebooks" / "measured.json"
# Digits attached to a word or a file are part of a name (resnet18, B-32, ViT-L/16), not a number.
NUMBER = (
    r"(?<![\w.])(?<!\w-)(?<![A-Za-z]/)(?:(?<!\w)[+−-])?(?:\d{1,3}(?:[, ]\d{3})+|\d+)(?:\.\d+)?(?:e-?\d+)?(?![\w]|\.\d)"
)


def read(text: str) -> float:
    """Return the value of a number as printed."""
    return float(re.sub("[, ]", "", text).replace("−", "-"))


def find(pattern: str, text: str) -> re.Match:
    """Return the only place of a piece of text with # for numbers. Raises ValueError: none, or several."""
    parts = (re.escape(part).replace(r"\ ", r"\s+") for part in pattern.split("#"))
    places = list(re.finditer(f"({NUMBER})".join(parts), text))
    if len(places) != 1:
        raise ValueError(f"{pattern!r} occurs {len(places)} times, not once")
    return places[0]


class Names:
    """What an expression in numbers.yml can use. `shifts`: a name or several; None: all but "clean"."""

    np, math, partial = np, math, partial

    def __init__(self, code: str, printed: str) -> None:
        self._code, self._printed = code, printed

    def shown(self, text: str) -> np.ndarray:
        """Return the numbers at the # of a text that the page prints once."""
        return np.array([read(number) for number in find(text, self._printed).groups()])

    def in_code(self, text: str, function: str = "") -> np.ndarray:
        """Return the numbers at the # of a text in the page's code, or in the code of "module:function"."""
        code = inspect.getsource(self.constant(function)) if function else self._code
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
        """Return numbers of notebooks/measured.json, which ``python tools/pages measure`` makes."""
        numbers = json.loads(MEASURED.read_text(encoding="utf-8"))
        if label not in numbers:
            raise ValueError(f"{label} is not in notebooks/measured.json; run: python tools/pages measure")
        return np.array(numbers[label])

    published = staticmethod(cells.published)

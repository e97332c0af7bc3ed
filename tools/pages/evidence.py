"""Fill the tables of the evidence pages, book/evidence/*.md, from the stored results when the book is built.

A line of its own in such a page becomes a table:

    <!-- evidence about TABLE -->              what was run, with which seeds, by which command
    <!-- evidence gains TABLE [METRIC] -->     every run's gain over its baseline
    <!-- evidence shifts TABLE [METRIC] -->    the same for each shift; both have a table for each number of images
    <!-- evidence selection TABLE -->          how settings were chosen
    <!-- evidence trials TABLE -->             every setting tried, with its gain on validation images
    <!-- evidence pairs TABLE -->              every run against every other
    <!-- evidence paper TABLE [METRIC] -->     the paper's cells that comparison.yml lists for the table
    <!-- evidence differences presets -->      what presets do differently from the paper
    <!-- evidence unavailable presets -->      cells of the paper that have no preset
    <!-- evidence verdicts -->                 how many of them, on all pages, got each verdict
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from tools.pages.project import PageError

if TYPE_CHECKING:
    from dtta.core.problem import Metric

MARK = re.compile(r"^<!-- evidence (\w+) ([\w-]+)(?: (.+?))? -->$", re.MULTILINE)
VERDICTS = "<!-- evidence verdicts -->"
OF_PRESETS = ("differences", "unavailable")  # kinds that need no stored table
SPLIT = ("gains", "shifts")  # a table for each number of images
TITLES = {"and φ": "180 timesteps, 180 noises, and φ"}  # of runs whose names in the stored results are unclear
FOLDED = {"pairs": "Every run against every other", "trials": "Every setting that was tried"}


def put_tables(folder: Path) -> None:
    """Replace the marks in the staged evidence pages. Raises PageError: an unknown table, metric or kind of table."""
    comparison = folder / "comparison.yml"
    cells = yaml.safe_load(comparison.read_text(encoding="utf-8")) if comparison.exists() else {}
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    for path, text in pages.items():
        if MARK.search(text) or VERDICTS in text:
            try:
                filled = MARK.sub(lambda mark: _block(mark[1], mark[2], mark[3], cells), text)
                if VERDICTS in filled:
                    filled = filled.replace(VERDICTS, _verdicts(pages.values(), cells))
            except (KeyError, FileNotFoundError) as error:
                raise PageError(f"book/evidence/{path.name}: {error.args[0]}") from error
            path.write_text(filled, encoding="utf-8")


def tables_of(page: Path) -> set[str]:
    """Return the stored tables that an evidence page shows."""
    return {mark[2] for mark in MARK.finditer(page.read_text(encoding="utf-8")) if mark[1] not in OF_PRESETS}


def _block(kind: str, table: str, metric_name: str | None, cells: dict) -> str:
    from dtta.experiments import paper, stored
    from dtta.pages import evidence, report

    if kind == "about":
        return _about(table)
    metric = _metric(table, metric_name)
    makers: dict[str, Callable[[], list[dict[str, object]]]] = {
        "gains": lambda: evidence.gains(table, metric),
        "shifts": lambda: evidence.by_shift(table, metric),
        "selection": lambda: _selection(stored.selection_table(table)),
        "trials": lambda: evidence.trials(table),
        "pairs": lambda: evidence.pairs(table),
        "paper": lambda: [
            line | {"paper": _title(line["paper"])} for line in evidence.compare_with_paper(table, cells[table], metric)
        ],
        "differences": paper.table_of_differences,
        "unavailable": lambda: [{"cell": what, "why": why} for what, why in paper.LEFT_OUT.items()],
    }
    if kind not in makers:
        raise KeyError(f"no evidence {kind!r}; there are about, {', '.join(makers)}")
    rows = [
        line | {key: TITLES.get(str(line[key]), line[key]) for key in ("run", "over") if key in line}
        for line in makers[kind]()
    ]
    if kind in SPLIT:
        return "\n\n".join(_by_images(rows, kind))
    html = report.to_html(rows, digits=1)
    if kind not in FOLDED:
        return html
    return f"````{{dropdown}} {FOLDED[kind]}: {len(rows)} row{'s' * (len(rows) != 1)}\n{html}\n````"


def _selection(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows of a selection table, without the gains at each value if no run varied one setting alone."""
    shown = any(line["gain at each"] for line in lines)
    lines = [line | {"gain at each": line["gain at each"] or "see below"} for line in lines]
    return [{key: line[key] for key in line if shown or key != "gain at each"} for line in lines]


def _title(preset: str) -> str:
    """Return a preset's name in words: "Table 1: resnet18, imagenet-c"."""
    table, *rest = preset.split("/")
    return f"{table.replace('table', 'Table ')}: {', '.join(rest)}"


def _by_images(rows: list[dict[str, object]], kind: str) -> Iterator[str]:
    """Yield a table for each number of images, so that no column compares runs on different images.

    Tables of shifts have the runs as columns if that makes the largest of them narrower.
    """
    import pandas as pd

    from dtta.pages import report

    tables = dict(list(pd.DataFrame(rows).set_index("run").groupby("images")))
    turned = kind == "shifts" and max(map(len, tables.values())) < len(rows[0]) - 2
    for size in sorted(tables, reverse=True):
        table = tables[size].drop(columns="images")
        yield f"Runs on {size:,} images:"
        yield report.to_html(table.T.rename_axis("shift") if turned else table, digits=1, upright=kind == "shifts")


def _metric(table: str, name: str | None) -> Metric | None:
    from dtta.pages import evidence

    if not name:
        return None
    metrics = evidence.metrics_of(table)
    if name not in metrics:
        raise KeyError(f"{table} has no metric {name!r}; it has {', '.join(metrics)}")
    return metrics[name]


def _verdicts(pages: Iterable[str], cells: dict) -> str:
    """Return the table of verdicts on all the cells of the paper that some page shows."""
    from dtta.pages import evidence, report

    shown = [mark for text in pages for mark in MARK.finditer(text) if mark[1] == "paper"]
    lines = [
        line for _, table, name in (mark.groups() for mark in shown)
        for line in evidence.compare_with_paper(table, cells[table], _metric(table, name))
    ]  # fmt: skip
    return report.to_html(evidence.verdicts(lines))


def _about(table: str) -> str:
    from dtta.experiments import stored

    about = stored.about(table)
    runs = stored.runs(table)
    rows = sum(len(stored.rows(table, run)) for run in runs)
    *others, last = map(str, about["seeds"])
    seeds = f"seeds {', '.join(others)} and {last}" if others else f"seed {last}"
    hours = sum(about["seconds"].values()) / 3600
    return (
        f"*{about['about'].rstrip('.')}.* {len(runs)} runs, {rows:,} scores, {seeds}; {hours:.1f} hours, "
        f"torch {about['torch']}. `{about['command']}` makes them again; "
        f"`dtta/experiments/results/{table}.csv` has the score of each image."
    )

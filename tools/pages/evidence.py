"""Fill the tables of the evidence pages, book/evidence/*.md, from the stored results when the book is built.

A line of its own in such a page becomes a table:

    <!-- evidence all TABLE [METRIC] -->       the seven below, with headings
    <!-- evidence about TABLE -->              what was run, with which seeds, by which command
    <!-- evidence names TABLE -->              what the names of its runs mean, from names.yml
    <!-- evidence gains TABLE [METRIC] -->     every run's gain over its baseline
    <!-- evidence shifts TABLE [METRIC] -->    the same for each shift; both have a table for each number of images
    <!-- evidence pairs TABLE [METRIC] -->     every run against every other with the same baseline
    <!-- evidence later TABLE -->              every run's gain on images after its streams, which it does not adapt to
    <!-- evidence selection TABLE -->          how settings were chosen
    <!-- evidence trials TABLE -->             every setting tried, with its gain on validation images
    <!-- evidence paper TABLE [METRIC] -->     the paper's cells that comparison.yml lists for the table
    <!-- evidence differences presets -->      what presets do differently from the paper
    <!-- evidence unavailable presets -->      cells of the paper that have no preset
    <!-- evidence verdicts -->                 how many of them, on all pages, got each verdict
    <!-- evidence claims -->                   the paper's claims and the comparisons that claims.yml lists for each
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from tools.pages.project import PageError

MARK = re.compile(r"^<!-- evidence (\w+) ([\w-]+)(?: (.+?))? -->$", re.MULTILINE)
START, VERDICTS, CLAIMS = "<!-- evidence", "<!-- evidence verdicts -->", "<!-- evidence claims -->"
YAML = {"comparison": dict, "names": dict, "claims": list}  # files next to the pages
OF_PRESETS = ("differences", "unavailable")  # kinds that need no stored table
SPLIT = ("gains", "shifts")  # a table for each number of images
FOLDED = {"pairs": "Pairs of runs with the same baseline", "trials": "Every setting that was tried"}
RUNS = ("run", "baseline", "compared with")  # columns with names of runs
ALL = """<!-- evidence about {0} -->

<!-- evidence names {0} -->

### Every run

{1} of the baseline (*before*) and of the run (*after*), mean over the shifts, and the gain with its 95% interval.

<!-- evidence gains {2} -->

### Every shift

Gain in points under each shift over the same baselines.

<!-- evidence shifts {2} -->

<!-- evidence pairs {2} -->

### Settings

Chosen on validation images, none of which is a test image; the gains here are on those images.

<!-- evidence selection {0} -->

<!-- evidence trials {0} -->"""


def put_tables(folder: Path) -> None:
    """Replace the marks in the staged evidence pages. Raises PageError: unknown table, metric, run, shift or mark."""
    from dtta.experiments.stored import FOLDER

    cells, names, claims = (_read(folder / f"{name}.yml", kind) for name, kind in YAML.items())
    unknown = [table for table in names if table not in {path.stem for path in FOLDER.glob("*.json")}]
    if unknown:
        raise PageError(f"book/evidence/names.yml: no stored results {unknown[0]}")
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    for path, text in pages.items():
        if START in text:
            try:
                filled = MARK.sub(lambda mark: _block(mark[1], mark[2], mark[3], cells, names), expand(text))
                if VERDICTS in filled:
                    filled = filled.replace(VERDICTS, _verdicts(pages.values(), cells))
                if CLAIMS in filled:
                    filled = filled.replace(CLAIMS, _claims(claims))
            except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
                raise PageError(f"book/evidence/{path.name}: {error.args[0]}") from error
            if START in filled:
                raise PageError(f"book/evidence/{path.name}: not understood: {filled[filled.index(START) :][:60]}")
            path.write_text(filled, encoding="utf-8")


def _read(path: Path, kind: type) -> Any:
    """Return the content of a YAML file, empty if there is none. Raises PageError: it has another form."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else kind()
    except yaml.YAMLError as error:
        raise PageError(f"book/evidence/{path.name}: {error}") from error
    if not isinstance(content, kind):
        raise PageError(f"book/evidence/{path.name} must be a {kind.__name__}")
    return content


def tables_of(page: Path) -> set[str]:
    """Return the stored tables that an evidence page shows."""
    return {mark[2] for mark in MARK.finditer(page.read_text(encoding="utf-8")) if mark[1] not in OF_PRESETS}


def expand(text: str) -> str:
    """Return a page with the marks and headings that its marks "all" stand for."""

    def marks(mark: re.Match) -> str:
        kind, table, metric = mark.groups()
        if kind != "all":
            return mark[0]
        name = metric or "accuracy"
        title = (
            f"{name} × 100" if name == "SSIM" else f"{name[0].upper() if name.isascii() else name[0]}{name[1:]} in %"
        )
        return ALL.format(table, title, f"{table} {metric or ''}".strip())

    return MARK.sub(marks, text)


def _block(kind: str, table: str, metric_name: str | None, cells: dict, names: dict) -> str:
    from dtta.experiments import paper, stored
    from dtta.pages import evidence, report

    if kind == "about":
        return _about(table)
    if kind == "names":
        return _names(table, names.get(table, {}))
    metric = evidence.metric_of(table, metric_name)
    makers: dict[str, Callable[[], list[dict[str, object]]]] = {
        "gains": lambda: evidence.gains(table, metric),
        "shifts": lambda: evidence.by_shift(table, metric),
        "later": lambda: evidence.after_streams(table),
        "selection": lambda: _selection(stored.selection_table(table)),
        "trials": lambda: evidence.trials(table),
        "pairs": lambda: evidence.pairs(table, metric),
        "paper": lambda: [
            line | {"paper": _title(line["paper"])} for line in evidence.compare_with_paper(table, cells[table], metric)
        ],
        "differences": paper.table_of_differences,
        "unavailable": lambda: [{"cell": what, "why": why} for what, why in paper.LEFT_OUT.items()],
    }
    if kind not in makers:
        raise KeyError(f"no evidence {kind!r}; there are all, about, names, {', '.join(makers)}")
    rows = [line | {key: _run(str(line[key])) for key in RUNS if key in line} for line in makers[kind]()]
    if kind in SPLIT:
        return "\n\n".join(_by_images(rows, kind))
    html = report.to_html(rows, digits=1)
    if kind not in FOLDED:
        return html
    return f"````{{dropdown}} {FOLDED[kind]}: {len(rows)} row{'s' * (len(rows) != 1)}\n{html}\n````"


def _run(name: str) -> str:
    """Return the name of a run in words; the stored names of the runs without adaptation begin with "none"."""
    if name == "and φ":
        return "180 timesteps, 180 noises, and φ"
    return name.replace("none", "no adaptation", 1) if name.split(",")[0] == "none" else name


def _names(table: str, names: dict[str, str]) -> str:
    """Return what parts of the runs' names mean, as a folded list. Raises KeyError: a part that no run's name has."""
    from dtta.experiments import stored

    runs = " | ".join(stored.runs(table))
    for part in map(str, names):
        if not re.search(re.sub(r"\bN\b", r"\\d+", re.escape(part)), runs):
            raise KeyError(f"names.yml: no run of {table} has {part!r} in its name")
    lines = "\n".join(f"* **{part}**: {meaning}" for part, meaning in names.items())
    return f"````{{dropdown}} What the names mean\n{lines}\n````" if lines else ""


def _selection(lines: list[dict[str, object]]) -> list[dict[str, object]]:
    """Return the rows of a selection table, without the gains at each value if no run varied one setting alone."""
    shown = any(line["gain at each"] for line in lines)
    lines = [line | {"gain at each": line["gain at each"] or "in the list below"} for line in lines]
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

    tables = dict(list(pd.DataFrame(rows).set_index("run").groupby(["images", "shifts"])))
    turned = kind == "shifts" and max(map(len, tables.values())) < len(rows[0]) - 3
    for size in sorted(tables, reverse=True):
        table = tables[size].drop(columns=["images", "shifts"]).dropna(axis="columns", how="all")
        yield "{} images under each of {} shifts:".format(*size)
        yield report.to_html(table.T.rename_axis("shift") if turned else table, digits=1, upright=kind == "shifts")


def _verdicts(pages: Iterable[str], cells: dict) -> str:
    """Return the table of verdicts on all the cells of the paper that some page shows."""
    from dtta.pages import evidence, report

    shown = [mark for text in pages for mark in MARK.finditer(text) if mark[1] == "paper"]
    lines = [
        line for _, table, name in (mark.groups() for mark in shown)
        for line in evidence.compare_with_paper(table, cells[table], evidence.metric_of(table, name))
    ]  # fmt: skip
    return report.to_html(evidence.verdicts(lines))


def _claims(claims: list[dict]) -> str:
    """Return the table of claims; each claim once, in the first of its rows. Raises as ``evidence.claims``."""
    from dtta.pages import evidence, report

    try:
        lines = evidence.claims(claims)
    except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
        raise KeyError(f"claims.yml: {error.args[0]}") from error
    for before, line in reversed(list(pairwise(lines))):
        if line["claim"] == before["claim"]:
            line["claim"] = ""
    return report.to_html(lines)


def _about(table: str) -> str:
    from dtta.experiments import stored

    about = stored.about(table)
    runs = stored.runs(table)
    plain = sum(run.method == "none" for run in runs.values())
    rows = sum(len(stored.rows(table, run)) for run in runs)
    *others, last = map(str, about["seeds"])
    seeds = f"seeds {', '.join(others)} and {last}" if others else f"seed {last}"
    hours = sum(about["seconds"].values()) / 3600
    return (
        f"*{about['about'].rstrip('.')}.* {len(runs) - plain} runs and {plain} of a network alone, {rows:,} scores "
        f"(with clean and later images), {seeds}; {hours:.1f} hours of CPU time, torch {about['torch']}. "
        f"To repeat: `{about['command']}`. All scores: `dtta/experiments/results/{table}.csv`."
    )

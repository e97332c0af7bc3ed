"""Results kept with the package, made by ``make results``: for each table its runs with their settings (.json), the
score of each image (.csv), and the settings tried on validation images (-settings.csv).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path

import pandas as pd

from dtta.core.problem import Metric
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import AFTER, Row, Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments.selection import describe, varied_settings
from dtta.problems.data.folders import cache_folder

FOLDER = Path(__file__).parent / "results"
COLUMNS = ("run", "shift", "severity", "index", "score", "seconds")
OPTIONAL = ("seed", "evaluations")  # columns that a file may have; all others are the metrics' sums


def results_folder() -> Path:
    """Return where a page keeps the results that it makes at full scale: results/ in $DTTA_CACHE or ~/.cache/dtta."""
    return cache_folder() / "results"


def about(table: str, folder: Path = FOLDER) -> dict:
    """Return what is stored about a table: its purpose, command, seeds, seconds, runs. Raises FileNotFoundError."""
    path = folder / f"{table}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no stored results {path}; make them with: dtta evaluate --table {table}")
    return json.loads(path.read_text(encoding="utf-8"))


def runs(table: str, folder: Path = FOLDER) -> dict[str, Run]:
    """Return the runs of a stored table by name. Raises FileNotFoundError: no such table."""
    return {name: Run(**run) for name, run in about(table, folder)["runs"].items()}


def baselines(table: str, folder: Path = FOLDER) -> dict[str, str]:
    """Return the run that each run of a table is compared with, where it is not "none"."""
    return {run: other for run, other in about(table, folder).get("baselines", {}).items() if other != "none"}


def seconds(table: str, folder: Path = FOLDER) -> dict[str, float]:
    """Return how long each run's rows took in all, its grid's included but not its baseline's; empty: no such table."""
    return about(table, folder)["seconds"] if (folder / f"{table}.json").is_file() else {}


def rows(table: str, run: str, folder: Path = FOLDER) -> list[Row]:
    """Return a run's rows by shift, then image. Raises FileNotFoundError: no such table; KeyError: no such run."""
    names = about(table, folder)["runs"]
    if run not in names:
        raise KeyError(f"{table} has no run {run!r}; it has {', '.join(names)}")
    path = folder / f"{table}.csv"
    status = path.stat()
    return _all_rows(path, status.st_mtime_ns, status.st_size).get(run, [])


@lru_cache(maxsize=64)
def _all_rows(path: Path, modified: int, size: int) -> dict[str, list[Row]]:
    """Read all rows of a file, by run. The time of its last change and its size are in the key of the cache."""
    frame = _read(path)
    names = [name for name in frame.columns if name not in (*COLUMNS, *OPTIONAL)]
    sums = [dict(zip(names, values, strict=True)) for values in frame[names].astype(float).to_numpy().tolist()]
    frame = frame.astype({"severity": int, "index": int, "score": float, "seconds": float})
    seeds = frame["seed"].astype(int).tolist() if "seed" in frame else [0] * len(frame)
    counts = frame["evaluations"] if "evaluations" in frame else [""] * len(frame)
    counts = [float(text) if text else None for text in counts]
    columns = [frame[name].tolist() for name in COLUMNS[1:]]
    every = [Row(*values) for values in zip(*columns, sums, seeds, counts, strict=True)]
    places = frame.groupby("run", sort=False).indices
    return {run: [every[place] for place in of_run] for run, of_run in places.items()}


def _read(path: Path) -> pd.DataFrame:
    """Read a CSV file as text, so that floats can be parsed exactly and "none" is a name, not a missing value."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def trials(table: str, folder: Path = FOLDER) -> list[dict]:
    """Return the settings tried on validation images: run, method, settings, before, after, gain, low, high, images.

    Raises FileNotFoundError: none were tried, or there is no such table.
    """
    path = folder / f"{table}-settings.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no settings were tried, {path}; make the table with: dtta evaluate --table {table}")
    frame = _read(path)
    numbers = {name: float for name in frame.columns if name not in ("run", "method", "settings", "images")}
    frame = frame.astype(numbers | {"images": int}).assign(settings=frame["settings"].map(json.loads))
    return frame.to_dict("records")


def selection_table(table: str, folder: Path = FOLDER) -> list[dict[str, object]]:
    """Return how the settings of a table's runs were chosen, a row for each run for which several were tried.

    A row has the values tried on validation images and the chosen ones, with the best ones if they differ; the gain of
    the chosen ones in points, its interval and the number of images; which are the lowest or highest tried (better ones
    may lie beyond); and the gain at each value if only one setting was varied. Raises as `trials`.
    """
    by_run: dict[str, list[dict]] = {}
    for trial in trials(table, folder):
        by_run.setdefault(trial["run"], []).append(trial)
    varied = {run: varied_settings(tried) for run, tried in by_run.items()}
    chosen = runs(table, folder)
    return [describe(run, chosen[run], by_run[run], settings) for run, settings in varied.items() if settings]


def save(
    table: str,
    runs: Mapping[str, tuple[Run, list[Row]]],
    folder: Path = FOLDER,
    trials: Sequence[dict] = (),
    **about,
) -> None:
    """Write a table: its runs and `about` as JSON, its rows and the settings that were tried as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {**about, "runs": {name: asdict(run) for name, (run, _) in runs.items()}}
    (folder / f"{table}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    lines = [
        dict(zip(COLUMNS, (name, r.shift, r.severity, r.index, f"{r.score:.5g}", f"{r.seconds:.4g}"), strict=True))
        | {"seed": r.seed, "evaluations": "" if r.evaluations is None else f"{r.evaluations:.6g}"}
        | {key: f"{value:.9g}" for key, value in r.sums.items()}
        for name, (_, rows) in runs.items()
        for r in rows
    ]
    frame = pd.DataFrame(lines)
    frame = frame.drop(columns=[name for name in OPTIONAL if not frame[name].any()])
    frame.to_csv(folder / f"{table}.csv", index=False, lineterminator="\n")
    if trials:
        frame = pd.DataFrame([trial | {"settings": json.dumps(trial["settings"])} for trial in trials])
        frame.to_csv(folder / f"{table}-settings.csv", index=False, lineterminator="\n")


def gain(
    table: str,
    run: str,
    shifts: Collection[str],
    against: str | None = None,
    metric: Metric | None = None,
    only: Callable[[Row], bool] | None = None,
    also: str | None = None,
    folder: Path = FOLDER,
) -> dict[str, float]:
    """Return the paired gain of a run over another, on the images of the shifts that both have (see ``paired_gain``).

    `against`: the other run; None: the table's baseline. `only`: leave out rows of which it is not true. `also`: leave
    out images that this third run does not have, to compare runs of different size on the same images.
    """
    if against is None:
        against = baselines(table, folder).get(run, "none")
    before, after = align(rows(table, against, folder), rows(table, run, folder), set(shifts))
    keys = None if also is None else {r.key for r in rows(table, also, folder)}
    pairs = [
        (b, a)
        for b, a in zip(before, after, strict=True)
        if (only is None or only(b)) and (keys is None or b.key in keys)
    ]
    return paired_gain([b for b, _ in pairs], [a for _, a in pairs], metric)


def evaluations(table: str, run: str, shifts: Collection[str], folder: Path = FOLDER) -> float:
    """Return the mean number of evaluations of the diffusion model for an image. Raises ValueError: not counted."""
    counts = [row.evaluations for row in rows(table, run, folder) if row.shift in shifts]
    if not counts or None in counts:
        raise ValueError(f"evaluations were not counted for {run}; make it again: dtta evaluate --table {table}")
    return sum(counts) / len(counts)


def at_quantile(table: str, run: str, shift: str, quantile: float, folder: Path = FOLDER) -> int:
    """Return the index of the image at a quantile (0: worst, 1: best) of a shift, by gain in score over "none"."""
    if not 0 <= quantile <= 1:
        raise ValueError(f"quantile must lie in 0 to 1, not {quantile!r}")
    before, after = align(rows(table, "none", folder), rows(table, run, folder), {shift})
    order = sorted((a.score - b.score, a.index) for b, a in zip(before, after, strict=True))
    return order[round(quantile * (len(order) - 1))][1]


def outcomes(
    table: str, run: str, shifts: Collection[str], seed: int | None = None, folder: Path = FOLDER
) -> dict[str, Row]:
    """Return a typical success, an image without change, and a typical harm, by rank: rows of a run, with its scores.

    "success" is the median of the images whose score rose over the run's baseline, "harm" the median of those whose
    score fell, "no change" the image whose score changed least; in a tie, the middle one. `seed`: of the table; None:
    the first. A kind of which there is no image is missing.
    """
    every = rows(table, run, folder)
    seed = every[0].seed if seed is None else seed
    baseline = rows(table, baselines(table, folder).get(run, "none"), folder)
    before, after = align(baseline, [r for r in every if r.seed == seed], shifts)
    changes = sorted(
        ((a.score - b.score, place) for place, (b, a) in enumerate(zip(before, after, strict=True))),
        key=lambda change: change[0],
    )
    least = min(abs(change) for change, _ in changes)
    kinds = {
        "success": [place for change, place in changes if change > least],
        "no change": [place for change, place in changes if abs(change) == least],
        "harm": [place for change, place in changes if change < -least],
    }
    return {kind: after[places[len(places) // 2]] for kind, places in kinds.items() if places}


def reproduce(
    table: str,
    run: str,
    images: int = 1,
    shifts: Collection[str] | None = None,
    seed: int | None = None,
    within: float = 0.0,
    folder: Path = FOLDER,
) -> tuple[int, int]:
    """Run a sample again; return how many of its scores are as stored, and the number of scores.

    Args:
        images: of each shift, the first ones; of a stream, the first ones in its order.
        shifts, seed: of the table's; None: all shifts, the first seed.
        within: two scores that differ by no more than this count as the same.

    Raises ValueError: the run has one stream through all shifts, no part of which can be run without the rest.
    """
    repeated = runs(table, folder)[run]
    if repeated.stream == "changing":
        raise ValueError(f"{run} goes through all shifts in one stream; a part of it is another stream")
    every = rows(table, run, folder)
    seed = every[0].seed if seed is None else seed
    scores = {r.key: r.score for r in every if r.seed == seed and not r.shift.startswith(AFTER)}
    sample: dict[tuple[str, int], list[int]] = {}
    for shift, severity, index, _ in scores:
        if shifts is None or shift in shifts:
            sample.setdefault((shift, severity), []).append(index)
    indices = {shift: numbers[:images] for (shift, _), numbers in sample.items()}
    fresh = evaluate(replace(repeated, seed=seed, forgetting_images=0), list(sample), indices, progress=False)
    same = [abs(scores[r.shift, r.severity, r.index, seed] - r.score) <= within + 1e-5 for r in fresh]
    return sum(same), len(same)


def align(first: list[Row], second: list[Row], shifts: Collection[str] = ()) -> tuple[list[Row], list[Row]]:
    """Return the rows of the images that both lists have, in the same order, of the given shifts (none: of all)."""
    by_key = {r.key: r for r in second if not shifts or r.shift in shifts}
    pairs = [(r, by_key[r.key]) for r in first if r.key in by_key]
    return [a for a, _ in pairs], [b for _, b in pairs]

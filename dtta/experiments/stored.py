"""Results kept with the package: what was run, with which settings, and each image's score.

``make results`` makes them; pages plot them, and tests run a sample of them again.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from dtta.core.problem import Metric
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import AFTER, Row, Run
from dtta.evaluation.statistics import paired_gain
from dtta.problems.data.folders import cache_folder

FOLDER = Path(__file__).parent / "results"
COLUMNS = ("run", "shift", "severity", "index", "score", "seconds")  # then a seed, and the sums, if there are any


def own_folder() -> Path:
    """Where a page keeps the results that it makes itself, at full scale: results/ in $DTTA_CACHE or ~/.cache/dtta."""
    return cache_folder() / "results"


def runs(table: str, folder: Path = FOLDER) -> dict[str, Run]:
    """The runs of a stored table, by the name a page calls them by."""
    path = folder / f"{table}.json"
    if not path.is_file():
        raise FileNotFoundError(f"no stored results {path}; make them with: {_command(table)}")
    return {name: Run(**run) for name, run in json.loads(path.read_text())["runs"].items()}


def baselines(table: str, folder: Path = FOLDER) -> dict[str, str]:
    """Which run each run of a table is compared with, where it is not "none"."""
    told = json.loads((folder / f"{table}.json").read_text()).get("baselines", {})
    return {run: other for run, other in told.items() if other != "none"}


def seconds(table: str, folder: Path = FOLDER) -> dict[str, float]:
    """How long the rows of each run took, those of its grid too, one after the other; empty if there is no such table.

    Where a run has a grid, the validation rows of what it is compared with come on top; they are made once for all.
    """
    path = folder / f"{table}.json"
    return json.loads(path.read_text())["seconds"] if path.is_file() else {}


@cache
def rows(table: str, run: str, folder: Path = FOLDER) -> list[Row]:
    """The rows of one run of a stored table, ordered by shift, then image.

    Raises:
        FileNotFoundError: no such table. KeyError: no such run in it.
    """
    if run not in (known := runs(table, folder)):
        raise KeyError(f"{table} has no run {run!r}; it has {', '.join(known)}")
    with (folder / f"{table}.csv").open() as file:
        reader = csv.DictReader(file)
        sums = [name for name in reader.fieldnames or () if name not in (*COLUMNS, "seed")]
        return [
            Row(
                r["shift"], int(r["severity"]), int(r["index"]), float(r["score"]), float(r["seconds"]),
                {name: float(r[name]) for name in sums}, int(r.get("seed", 0)),
            )
            for r in reader
            if r["run"] == run
        ]  # fmt: skip


def trials(table: str, folder: Path = FOLDER) -> list[dict]:
    """What was tried on validation images for a table: run, method, settings, before, after, gain, low, high, images.

    Raises:
        FileNotFoundError: nothing was, or there is no such table.
    """
    path = folder / f"{table}-settings.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no settings that were tried, {path}; make the table with: {_command(table)}")
    numbers = {"images": int} | dict.fromkeys(("before", "after", "gain", "low", "high"), float)
    with path.open() as file:
        found = list(csv.DictReader(file))
    return [
        r | {"settings": json.loads(r["settings"])} | {k: kind(r[k]) for k, kind in numbers.items() if k in r}
        for r in found
    ]


def selection_table(
    table: str, runs: Mapping[str, str] | None = None, folder: Path = FOLDER
) -> list[dict[str, object]]:
    """How the settings of a table's runs were chosen: a row for each run for which several were tried.

    A best value at the end of what was tried says that a better one may lie beyond it.

    Args:
        runs: some of them, and what a page calls each; None: all, by their own names.

    Returns:
        What was tried on validation images, with the gain at each value if one setting alone varied; what was chosen,
        and which of its numbers lie at an end; the gain there in points with its interval; how many images.

    Raises:
        FileNotFoundError: nothing was tried, or there is no such table.
    """
    found: dict[str, list[dict]] = {}
    for row in trials(table, folder):
        found.setdefault(row["run"], []).append(row)
    told = []
    for run, title in ({run: run for run in found} if runs is None else runs).items():
        of = found.get(run, [])
        values = {key: _apart(row["settings"].get(key) for row in of) for row in of for key in row["settings"]}
        varied = {key: each for key, each in values.items() if len(each) > 1}
        if not varied:
            continue
        best = max(of, key=lambda row: row["gain"])
        now = {key: best["settings"].get(key) for key in varied}
        each = ""
        if len(varied) == 1:
            ((key, order),) = varied.items()
            gains = {str(row["settings"].get(key)): row["gain"] for row in of}
            each = ", ".join(f"{gains[str(value)]:+.1f}" for value in order)
        ends = {key: _end(now[key], order) for key, order in varied.items()}
        told.append(
            {
                "": title,
                "tried": "; ".join(f"{key} {', '.join(map(_text, order))}" for key, order in varied.items()),
                "gain at each": each,
                "chosen": ", ".join(f"{key} {_text(value)}" for key, value in now.items()),
                "at an end": ", ".join(f"{key}: {end}" for key, end in ends.items() if end),
                "gain": best["gain"],
                "from": best["low"],
                "to": best["high"],
                "images": best["images"],
            }
        )
    return told


def _apart(values: Iterable[object]) -> list:
    """Different values, numbers by size."""
    found = []
    for value in values:
        if value not in found:
            found.append(value)
    return sorted(found) if all(map(_number, found)) else found


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _end(value: object, values: Sequence) -> str:
    if not all(map(_number, values)):
        return ""
    return {values[0]: "lowest", values[-1]: "highest"}.get(value, "")


def _text(value: object) -> str:
    """A setting in a table: small numbers with an exponent, which says that they are exact (see ``dtta.pages.report``)."""
    if isinstance(value, list):
        return "/".join(map(_text, value))
    if not _number(value) or value == round(value, 1):
        return "–" if value is None else f"{value:g}" if _number(value) else str(value)
    digits, exponent = f"{value:.6e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def _command(table: str) -> str:
    return f"dtta evaluate --table {table}"


def save(table: str, runs: dict[str, tuple[Run, list[Row]]], folder: Path = FOLDER, **about) -> None:
    """Write a table: its runs and `about` as JSON, its rows as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    rows.cache_clear()
    _against.cache_clear()
    told = {**about, "runs": {name: asdict(run) for name, (run, _) in runs.items()}}
    (folder / f"{table}.json").write_text(json.dumps(told, indent=2) + "\n")
    seeds = ["seed"] if any(r.seed for _, found in runs.values() for r in found) else []
    sums = list(next(found for _, found in runs.values())[0].sums)
    with (folder / f"{table}.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*COLUMNS, *seeds, *sums])
        for name, (_, found) in runs.items():
            for r in found:
                told = [name, r.shift, r.severity, r.index, f"{r.score:.5g}", f"{r.seconds:.4g}"]
                writer.writerow(told + [r.seed for _ in seeds] + [f"{r.sums[k]:.9g}" for k in sums])


def gain(
    table: str,
    run: str,
    shifts: Collection[str],
    against: str | None = None,
    metric: Metric | None = None,
    first: int | None = None,
    only: Callable[[Row], bool] | None = None,
    also: str | None = None,
    folder: Path = FOLDER,
) -> dict[str, float]:
    """The paired gain of a run over another, on the images that both hold under the shifts (see ``paired_gain``).

    Args:
        against: the other run; None: the one that the table compares it with.
        first: only images with numbers below this. only: only rows of which this is true.
        also: only images that this run holds too, so that runs on fewer images can be compared on the same ones.
    """
    against = _against(table, folder).get(run, "none") if against is None else against
    before, after = align(rows(table, against, folder), rows(table, run, folder), set(shifts))
    wanted = None if also is None else {r.key for r in rows(table, also, folder)}
    kept = [
        i
        for i, r in enumerate(before)
        if (first is None or r.index < first) and (only is None or only(r)) and (wanted is None or r.key in wanted)
    ]
    return paired_gain([before[i] for i in kept], [after[i] for i in kept], metric)


def compare(
    table: str,
    pairs: Iterable[tuple[str, str]],
    shifts: Collection[str],
    title: Callable[[str], str] = str,
    folder: Path = FOLDER,
) -> dict[str, dict[str, float]]:
    """One run against another on the same images (see `gain`), for all pairs of which the table holds both.

    Args:
        pairs: a run, and that against which it stands.
        title: a run's name -> what a page calls it.
    """
    known = runs(table, folder)
    return {
        f"{title(one)}, against {title(other)}": gain(table, one, shifts, against=other, folder=folder)
        for one, other in pairs
        if {one, other} <= set(known)
    }


def at_quantile(table: str, run: str, shift: str, place: float, folder: Path = FOLDER) -> int:
    """The number of the image that stands at `place` (0: worst, 1: best) of a shift, ordered by gain in score."""
    if not 0 <= place <= 1:
        raise ValueError(f"place must lie in 0 to 1, not {place!r}")
    before, after = align(rows(table, "none", folder), rows(table, run, folder), {shift})
    order = sorted((b.score - a.score, b.index) for a, b in zip(before, after, strict=True))
    return order[round(place * (len(order) - 1))][1]


def summary(
    table: str, runs: Sequence[str], shifts: Sequence[str], metric: Metric | None = None, **options
) -> list[dict[str, object]]:
    """For each run its gain over no adaptation: under the shifts, on clean images, under the shift it does worst at.

    Args:
        shifts: families; "clean" is added. metric, options: see `gain`.
    """
    found = []
    for run in runs:
        g, clean = (
            gain(table, run, shifts, metric=metric, **options),
            gain(table, run, ["clean"], metric=metric, **options),
        )
        each = {shift: gain(table, run, [shift], metric=metric, **options)["gain"] for shift in shifts}
        worst = min(each, key=each.__getitem__)
        found.append(
            {
                "method": run,
                "images": g["images"],
                "after": g["after"],
                "gain": g["gain"],
                "from": g["low"],
                "to": g["high"],
                "clean, gain": clean["gain"],
                "worst shift, gain": each[worst],
                "worst shift": worst.replace("_", " "),
            }
        )
    return found


def reproduce(
    table: str,
    run: str,
    images: int = 1,
    shifts: Collection[str] | None = None,
    seed: int | None = None,
    within: float = 0.0,
    folder: Path = FOLDER,
) -> tuple[int, int]:
    """Run a sample again: how many of its scores are as stored, and of how many.

    Args:
        images: of each shift, the first ones; of a stream, its first ones in their order.
        shifts: some of the table's; None: all. seed: one of the table's; None: its first.
        within: two scores that are no further apart than this count as the same.

    Raises:
        ValueError: the run's streams go through all shifts, so that none of them begins anew.
    """
    if (known := runs(table, folder)[run]).stream == "changing":
        raise ValueError(f"{run} goes through all shifts in one stream; a part of it is another stream")
    found = rows(table, run, folder)
    seed = found[0].seed if seed is None else seed
    kept = {r.key: r.score for r in found if r.seed == seed and not r.shift.startswith(AFTER)}
    sample: dict[tuple[str, int], list[int]] = {}
    for shift, severity, index, _ in kept:
        if shifts is None or shift in shifts:
            sample.setdefault((shift, severity), []).append(index)
    numbers = {shift: indices[:images] for (shift, _), indices in sample.items()}
    fresh = evaluate(replace(known, seed=seed, forgetting_images=0), list(sample), numbers, progress=False)
    same = [abs(kept[r.shift, r.severity, r.index, seed] - r.score) <= within + 1e-5 for r in fresh]
    return sum(same), len(same)


_against = cache(baselines)  # `gain` has an argument of that name


def align(first: list[Row], second: list[Row], shifts: set[str] | None = None) -> tuple[list[Row], list[Row]]:
    """The rows of the images that both lists hold, in the same order, of the given shifts (None: all)."""
    other = {r.key: r for r in second}
    wanted = [r for r in first if not shifts or r.shift in shifts]
    pairs = [(r, other[r.key]) for r in wanted if r.key in other]
    return [a for a, _ in pairs], [b for _, b in pairs]

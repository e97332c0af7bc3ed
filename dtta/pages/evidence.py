"""Tables of the stored results behind a lesson: every run, shift by shift, in pairs, and next to the paper.

Each function returns rows for ``report.table`` or ``report.to_html``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dtta.core.problem import Metric
from dtta.evaluation.run import AFTER, SHIFTED, Row
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import stored
from dtta.experiments.paper import presets
from dtta.experiments.stored import FOLDER

CLEAN = "clean"


def shifts_of(table: str, run: str = "none", folder: Path = FOLDER) -> list[str]:
    """Return the shifts of a run in the order of its rows, without "clean" and the clean images after a stream."""
    names = dict.fromkeys(row.shift for row in stored.rows(table, run, folder))
    return [name for name in names if name != CLEAN and not name.startswith(AFTER)]


def metrics_of(table: str, folder: Path = FOLDER) -> dict[str, Metric]:
    """Return the metrics of a table's problem whose sums are stored with its rows; empty: its score is the metric."""
    import dtta

    if not stored.rows(table, "none", folder)[0].sums:
        return {}
    return dtta.load(stored.runs(table, folder)["none"].problem).metrics


def metric_of(table: str, name: str | None, folder: Path = FOLDER) -> Metric | None:
    """Return a table's metric by its name; None: the problem's score. Raises KeyError: no such metric."""
    metrics = metrics_of(table, folder) if name else {}
    if name and name not in metrics:
        raise KeyError(f"{table} has no metric {name!r}; it has {', '.join(metrics)}")
    return metrics.get(name)


def gains(table: str, metric: Metric | None = None, folder: Path = FOLDER) -> list[dict[str, object]]:
    """Return each run's paired gain over its baseline: mean over the shifts with its interval, and on clean images.

    "images": of each shift. "evaluations" of the diffusion model per image, if they were counted in all runs.
    """
    references, lines = stored.baselines(table, folder), []
    counted = _counted(table, folder)
    for run in _methods(table, folder):
        shifts = shifts_of(table, run, folder)
        if not shifts:
            continue
        against = references.get(run, "none")
        gain = stored.gain(table, run, shifts, against=against, metric=metric, folder=folder)
        line = {"run": run, "gain": gain["gain"], "low": gain["low"], "high": gain["high"]}
        line |= {"before": gain["before"], "after": gain["after"]}
        rows = [stored.rows(table, name, folder) for name in (against, run)]
        line["gain on clean"] = _mean_gain(*rows, CLEAN, metric)
        if counted:
            line["evaluations"] = stored.evaluations(table, run, shifts, folder)
        if references:  # else all have the same baseline
            line["baseline"] = against
        lines.append(line | {"images": gain["images"] // len(shifts), "shifts": len(shifts)})
    return lines


def after_streams(table: str, folder: Path = FOLDER) -> list[dict[str, object]]:
    """Return each run's gain on later images, which it does not adapt to: clean ones, and ones of the stream's shift.

    The parameters are those at the end of a shift's stream, or of its block of a stream. Runs without such images, and
    streams of clean images, are left out.
    """
    references, lines = stored.baselines(table, folder), []
    for run in _methods(table, folder):
        names = {AFTER + shift + end for shift in shifts_of(table, run, folder) for end in ("", SHIFTED)}
        names &= {row.shift for row in stored.rows(table, run, folder)}
        shifted = {name for name in names if name.endswith(SHIFTED)}
        for kind, group in (("clean", names - shifted), ("same shift", shifted)):
            if group:
                gain = stored.gain(table, run, group, against=references.get(run, "none"), folder=folder)
                line = {"run": run, "gain": gain["gain"], "low": gain["low"], "high": gain["high"]}
                lines.append(line | {"before": gain["before"], "after": gain["after"], "later images": kind})
    return lines


def _counted(table: str, folder: Path) -> bool:
    """Return whether the evaluations of every run were counted."""
    counts = [[row.evaluations for row in stored.rows(table, run, folder)] for run in _methods(table, folder)]
    return all(None not in numbers and any(numbers) for numbers in counts)


def _methods(table: str, folder: Path) -> list[str]:
    """Return a table's runs without the networks alone."""
    return [name for name, run in stored.runs(table, folder).items() if run.method != "none"]


def _mean_gain(before: list[Row], after: list[Row], shift: str, metric: Metric | None) -> float:
    """Return the gain under one shift without its interval; NaN if no image has both rows."""
    before, after = stored.align(before, after, {shift})
    return paired_gain(before, after, metric, resamples=1)["gain"] if before else float("nan")


def by_shift(table: str, metric: Metric | None = None, folder: Path = FOLDER) -> list[dict[str, object]]:
    """Return each run's gain over its baseline under each shift, in points; "images" of each, number of "shifts"."""
    references, lines = stored.baselines(table, folder), []
    shifts = shifts_of(table, folder=folder)
    for run in _methods(table, folder):
        over = references.get(run, "none")
        rows = [stored.rows(table, name, folder) for name in (over, run)]
        plain = stored.runs(table, folder)[over].method == "none"
        line: dict[str, object] = {"run": run if plain else f"{run} (over {over})"}
        for shift in (CLEAN, *shifts):
            line[shift.replace("_", " ")] = _mean_gain(*rows, shift, metric)
        images = len(stored.align(*rows, set(shifts))[0]) // len(shifts)
        lines.append(line | {"images": images, "shifts": len(shifts)})
    return lines


def pairs(table: str, metric: Metric | None = None, folder: Path = FOLDER, least: int = 2) -> list[dict[str, object]]:
    """Return every pair of runs with the same baseline: the gain of one over the other on the images that both have.

    Mean over the shifts, with its interval. The run with the higher mean comes first. The number of comparisons is in
    the length of the list: about one in twenty intervals misses the true difference.
    """
    references = stored.baselines(table, folder)
    runs, lines = _methods(table, folder), []
    for place, run in enumerate(runs):
        for other in runs[:place]:
            if references.get(run) != references.get(other):
                continue
            shifts = set(shifts_of(table, run, folder))
            rows = [stored.rows(table, name, folder) for name in (other, run)]
            before, after = stored.align(*rows, shifts)
            if len(before) < least:
                continue
            gain = paired_gain(before, after, metric)
            names, sign = ((run, other), 1) if gain["gain"] >= 0 else ((other, run), -1)
            low, high = sorted((sign * gain["low"], sign * gain["high"]))
            line = {"run": names[0], "compared with": names[1], "gain": sign * gain["gain"], "low": low, "high": high}
            lines.append(line | {"images × shifts": gain["images"]})
    return sorted(lines, key=lambda line: -line["gain"])


def trials(table: str, folder: Path = FOLDER) -> list[dict[str, object]]:
    """Return every setting that was tried on validation images, with its gain there."""
    lines = []
    for trial in stored.trials(table, folder):
        settings = ", ".join(f"{key} {value}" for key, value in trial["settings"].items())
        line = {"run": trial["run"], "gain": trial["gain"], "low": trial["low"], "high": trial["high"]}
        lines.append(line | {"settings": settings, "images × shifts": trial["images"]})
    return lines


VERDICTS = (
    "same sign",
    "opposite sign",
    "our interval contains zero",
    "the paper's effect is too small to tell",
)


def verdict(paper_gain: float, paper_error: float, gain: Mapping[str, float]) -> str:
    """Compare the sign of a gain of the paper with that of ours; the sizes are not compared.

    "the paper's effect is too small to tell": at most twice its standard error (NaN: unknown).
    """
    if paper_gain == 0 or abs(paper_gain) <= 2 * paper_error:
        return "the paper's effect is too small to tell"
    if gain["low"] <= 0 <= gain["high"]:
        return "our interval contains zero"
    return "same sign" if (paper_gain > 0) == (gain["gain"] > 0) else "opposite sign"


def standard_error(before: float, after: float, images: int) -> float:
    """Return an upper bound of the standard error, in points, of the difference of two accuracies in %.

    The paper gives no intervals. For two accuracies on the same images the errors are positively correlated, so that
    of independent samples is an upper bound.
    """
    return 100 * (sum(p * (1 - p) for p in (before / 100, after / 100)) / images) ** 0.5


def compare_with_paper(
    table: str, cells: Sequence[Mapping[str, str]], metric: Metric | None = None, folder: Path = FOLDER
) -> list[dict[str, object]]:
    """Return the paper's cells next to the corresponding runs, without those where ours has nothing to gain.

    `cells`: "paper", the name of a preset (see ``dtta.experiments.paper``); "run" and "shift" of the stored table.
    """
    lines = []
    for cell in cells:
        preset = presets()[cell["paper"]]
        gain = stored.gain(table, cell["run"], {cell["shift"]}, metric=metric, folder=folder)
        accuracy = metric is None
        error = standard_error(preset.before, preset.paper, preset.images) if accuracy else float("nan")
        line = {"paper": cell["paper"], "verdict": verdict(preset.paper - preset.before, error, gain)}
        line |= {"paper's gain": preset.paper - preset.before, "our gain": gain["gain"]}
        line |= {"low": gain["low"], "high": gain["high"]}
        line |= {"run": cell["run"], "shift": cell["shift"].replace("_", " ")}
        if gain["before"] < 100:
            lines.append(line)
    return lines


def claims(entries: Sequence[Mapping], folder: Path = FOLDER) -> list[dict[str, object]]:
    """Return comparisons of runs that bear on the paper's claims, next to what they say about each.

    `entries`: with "claim" and "comparisons"; see `compare_runs`. Raises as it does.
    """
    return [
        {"claim": entry["claim"]} | compare_runs(**comparison, folder=folder)
        for entry in entries
        for comparison in entry["comparisons"]
    ]


def compare_runs(
    text: str,
    table: str,
    run: str,
    over: str | None = None,
    metric: str | None = None,
    shift: str | None = None,
    sign: int = 1,
    folder: Path = FOLDER,
) -> dict[str, object]:
    """Return the gain of a run, and whether its sign is the one that a claim expects.

    Args:
        text: what is compared. over: the other run; None: the run's baseline.
        metric: the name of one of the problem's; None: its score. shift: a single one; None: mean over the shifts.
        sign: of the gain in the claim, 1 or -1.

    Raises KeyError: unknown table, run, metric or shift. ValueError: another sign.
    """
    if sign not in (1, -1):
        raise ValueError(f"the sign of {text!r} must be 1 or -1, not {sign!r}")
    shifts = [CLEAN, *shifts_of(table, run, folder)]
    if shift not in (None, *shifts):
        raise KeyError(f"{run} of {table} has no shift {shift!r}; it has {', '.join(shifts)}")
    measure = metric_of(table, metric, folder)
    gain = stored.gain(table, run, [shift] if shift else shifts[1:], over, measure, folder=folder)
    low, high = sorted(sign * gain[end] for end in ("low", "high"))
    word = "as claimed" if low > 0 else "opposite" if high < 0 else "not established"
    return {"here": text, "gain": gain["gain"], "low": gain["low"], "high": gain["high"], "verdict": word}


def verdicts(lines: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Count the verdicts in lines of `compare_with_paper`: a line for each table of the paper, and one for all.

    "our results": on how many different results of ours the verdicts on its cells rest.
    """
    heads = dict(
        zip(VERDICTS, ("same sign", "opposite sign", "ours contains zero", "the paper's too small"), strict=True)
    )
    groups: dict[str, list[Mapping[str, object]]] = {}
    for line in lines:
        groups.setdefault(str(line["paper"]).split("/")[0], []).append(line)
    counts = []
    for _, group in sorted(groups.items()):
        verdict_of = Counter(line["verdict"] for line in group)
        count = {"cells": len(group), "our results": len({(line["run"], line["shift"]) for line in group})}
        counts.append(count | {head: verdict_of[word] for word, head in heads.items()})
    names = [name.replace("table", "Table ") for name in sorted(groups)]
    counts.append({key: sum(count[key] for count in counts) for key in counts[0]} if counts else {})
    return [{"paper": name} | count for name, count in zip([*names, "all"], counts, strict=True)]

"""The choice among the settings tried for a run, and that choice in words: values tried, edges of the grid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product

from dtta.evaluation.run import Run


def combinations(grid: dict | list[dict]) -> list[dict]:
    """Return every combination of a grid's values, or of several grids', one after the other."""
    every = []
    for part in [grid] if isinstance(grid, dict) else grid:
        values = [value if isinstance(value, list) else [value] for value in part.values()]
        every += [dict(zip(part, combination, strict=True)) for combination in product(*values)]
    return every


def varied_settings(trials: Sequence[dict]) -> dict[str, list]:
    """Return the settings that differ between trials, with their values: numbers by size, others as tried."""
    varied = {}
    for key in dict.fromkeys(key for trial in trials for key in trial["settings"]):
        values = []
        for trial in trials:
            value = trial["settings"].get(key)
            if value not in values:
                values.append(value)
        if len(values) > 1:
            varied[key] = sorted(values) if all(map(_is_number, values)) else values
    return varied


def describe(title: str, run: Run, trials: Sequence[dict], varied: Mapping[str, list]) -> dict[str, object]:
    """Return a run's row of ``stored.selection_table``, which says what is in it; `run`: with its chosen settings."""
    used = next(trial for trial in trials if trial["settings"] == run.settings)
    best = max(trials, key=lambda trial: trial["gain"])
    chosen = {key: used["settings"].get(key) for key in varied}
    better = f" (best: {_all_text(best, varied)}, {best['gain']:+.1f})" if best["gain"] > used["gain"] else ""
    gains = ""
    if len(varied) == 1:
        ((key, values),) = varied.items()
        by_value = {str(trial["settings"].get(key)): trial["gain"] for trial in trials}
        gains = ", ".join(f"{by_value[str(value)]:+.1f}" for value in values)
    count = f"{len(trials)} of: " if len(varied) > 1 else ""  # not all combinations need to be tried
    edges = {key: _edge(chosen[key], values) for key, values in varied.items()}
    return {
        "run": title,
        "gain": used["gain"],
        "low": used["low"],
        "high": used["high"],
        "chosen": _all_text(used, varied) + better,
        "settings tried": count + "; ".join(f"{key} {', '.join(map(_text, values))}" for key, values in varied.items()),
        "gain at each": gains,
        "lowest or highest tried": ", ".join(f"{key}: {edge}" for key, edge in edges.items() if edge),
        "images × shifts": used["images"],
    }


def _all_text(trial: dict, keys: Iterable[str]) -> str:
    return ", ".join(f"{key} {_text(trial['settings'].get(key))}" for key in keys)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _edge(value: object, values: Sequence) -> str:
    if not all(map(_is_number, values)):
        return ""
    return {values[0]: "lowest", values[-1]: "highest"}.get(value, "")


def _text(value: object) -> str:
    """Return a setting as text; numbers below 0.0001 with an exponent."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return "/".join(map(_text, value))
    if not _is_number(value):
        return str(value)
    if abs(value) >= 1e-4 or value == 0:
        return f"{value:g}"
    digits, exponent = f"{value:.6e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def best_run(run: Run, trials: list[dict], choose: str = "best") -> Run:
    """Return a run with settings among those tried; as it is if none were.

    `choose`: "best": the highest gain; "cheapest": the fewest evaluations among those that are not shown to lose (the
    upper end of the gain's interval is 0 or more), the higher gain first; the highest gain if all lose.
    """
    if not trials:
        return run
    equal = [trial for trial in trials if trial["high"] >= 0] if choose == "cheapest" else []
    if equal:
        trial = min(equal, key=lambda trial: (trial["evaluations"], -trial["gain"]))
    else:
        trial = max(trials, key=lambda trial: trial["gain"])
    return replace(run, settings=trial["settings"])

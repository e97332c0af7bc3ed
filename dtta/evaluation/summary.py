"""The result of an evaluation as a small file next to its rows, and the table of all such files (``dtta report``)."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from dtta.evaluation.run import Run
from dtta.problems.data.folders import named_in_errors

FORMATS = ("text", "markdown", "csv")
ENDING = ".summary.json"
LIBRARIES = ("torch", "diffusers", "transformers", "timm")


@dataclass(frozen=True)
class Summary:
    """A run compared with no adaptation, shift by shift.

    Args:
        metric: of which the numbers are values, in its unit.
        gains: the result of ``gains_of_shifts``.
        seconds, about: for each image and process; device, versions and commit.
        preset: the name of the paper's cell, if the run is one.
    """

    run: Run
    metric: str
    severity: int
    gains: dict[str, dict[str, float]]
    seconds: float
    about: dict[str, str]
    preset: str | None = None


def of_gains(
    run: Run, gains: dict[str, dict], metric: str, severity: int, seconds: float, preset: str | None = None
) -> Summary:
    """Return the summary of a run from its gains, which are rounded to four digits."""
    rounded = {
        shift: {key: int(v) if key == "images" else round(float(v), 4) for key, v in gain.items()}
        for shift, gain in gains.items()
    }
    return Summary(run, metric, severity, rounded, round(seconds, 4), about_here(), preset)


@cache
def about_here() -> dict[str, str]:
    """Return the device, the libraries' versions and the commit, as far as they are available."""
    from dtta.problems.device import device_name  # imports torch, of which ``dtta report`` needs nothing

    about = {"device": device_name(), **{name: version(name) for name in ("dtta", *LIBRARIES)}}
    root = Path(__file__).parents[2]
    if (root / ".git").exists():  # a checkout of this project, not an installed package inside another one
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
        try:
            done = subprocess.run(git, capture_output=True, check=False, encoding="utf-8")
        except OSError:
            return about
        about["commit"] = done.stdout.strip() or "unknown"
    return about


def write(summary: Summary, path: Path) -> Path:
    """Write a summary next to the rows in `path`; return its path."""
    target = path.with_name(path.stem + ENDING)
    temporary = target.with_suffix(".part")
    with named_in_errors(target):
        temporary.write_text(json.dumps(asdict(summary), indent=1) + "\n", encoding="utf-8")
        temporary.replace(target)
    return target


def read(folder: Path) -> list[Summary]:
    """Return a folder's summaries, sorted by name. Raises FileNotFoundError: none there; ValueError: one is damaged."""
    files = sorted(folder.rglob(f"*{ENDING}")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder} holds no summaries; make one with: dtta evaluate ... --out {folder}")
    summaries = []
    for file in files:
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            summaries.append(Summary(**record | {"run": Run(**record["run"])}))
        except (TypeError, KeyError, ValueError) as error:
            raise ValueError(f"{file} is damaged; delete it and give the command that made it again") from error
    return summaries


def by_preset(folder: Path) -> dict[str, Summary]:
    """Return the summaries in a folder that are cells of the paper's tables, by name; none if there is no folder."""
    if not folder.is_dir() or not any(folder.rglob(f"*{ENDING}")):
        return {}
    return {s.preset: s for s in read(folder) if s.preset}


def table(summaries: Iterable[Summary]) -> tuple[list[str], list[list[str]]]:
    """Return heads and cells, a line for each run and shift."""
    heads = ["problem", "network", "method", "shift", "metric", "before", "after", "gain", "95% interval", "images"]
    cells = []
    for s in summaries:
        for shift, g in s.gains.items():
            names = [s.run.problem, s.run.network or "usual", s.run.method, shift.replace("_", " "), s.metric]
            numbers = [f"{g['before']:.2f}", f"{g['after']:.2f}", f"{g['gain']:+.2f}"]
            cells.append([*names, *numbers, f"[{g['low']:+.2f}, {g['high']:+.2f}]", str(g["images"])])
    return heads, cells


def formatted(heads: list[str], cells: list[list[str]], kind: str = "text") -> str:
    """Return a table as text, Markdown or CSV (`kind`, one of FORMATS). Raises ValueError: unknown format."""
    if kind not in FORMATS:
        raise ValueError(f"the format must be one of {', '.join(FORMATS)}, not {kind!r}")
    if kind == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([heads, *cells])
        return text.getvalue().rstrip()
    if kind == "markdown":
        lines = [heads, ["---"] * len(heads), *cells]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in (heads, *cells))

"""The problems' settings by default: what the runs that the tables name in `defaults` have chosen."""

from __future__ import annotations

import json
from pathlib import Path

from dtta.experiments import spec, stored
from dtta.problems import chosen


def choices() -> dict[str, list[dict]]:
    """Return for each problem the settings chosen in the stored tables, with what they were chosen for, and where."""
    by_problem: dict[str, list[dict]] = {}
    for table in spec.names():
        fast = spec.defaults(table, "fast")
        names = [*spec.defaults(table), *fast]
        runs = stored.runs(table) if names and (stored.FOLDER / f"{table}.json").is_file() else {}
        for name in names if runs else ():
            run = runs[name]
            about = {key: getattr(run, key) for key in ("method", "network", "diffusion", "batch", "settings")}
            about |= {"fast": True} if name in fast else {}
            by_problem.setdefault(run.problem, []).append(about | {"table": table, "run": name})
    return by_problem


def write(path: Path = chosen.FILE) -> None:
    """Write them to the file that the problems read, one choice a line."""
    problems = [
        f"{json.dumps(problem)}: [\n" + ",\n".join(f"  {json.dumps(choice)}" for choice in of_problem) + "\n]"
        for problem, of_problem in choices().items()
    ]
    path.write_text("{\n" + ",\n".join(problems) + "\n}\n", encoding="utf-8")

"""dtta evaluate --table: make a whole table of the book, or what a file says."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from dtta.cli.options import gain_line
from dtta.evaluation.distributed import Single
from dtta.problems.data.folders import output_folder

OPTIONS = ("table", "only", "store", "workers", "precision", "compile", "together", "out")


def add_options(command: ArgumentParser) -> None:
    """Add the options of a table to ``evaluate``."""
    text = "make a whole table of the book, all of them, or what a file says; in float32, unless --precision is given"
    command.add_argument("--table", metavar="NAME", help=text)
    command.add_argument("--only", action="append", metavar="NAME", help="one run of the table; may be repeated")
    command.add_argument("--store", type=output_folder, help="folder for the table (default: inside the package)")


def run(options: Namespace, processes: Single) -> None:
    """Make one table, or all, and print it. Raises ValueError: no such table or run, or --only with all tables."""
    from dtta.experiments import spec, stored

    store = options.store or output_folder(stored.FOLDER)
    if options.table != "all":
        _make(options.table, options, store, processes)
        return
    if options.only:
        raise ValueError("--only is for one table")
    names = spec.names()
    print(_duration("all tables", sum(sum(stored.seconds(name, store).values()) for name in names), options.workers))
    for name in names:
        _make(name, options, store, processes)


def _make(name: str, options: Namespace, store: Path, processes: Single) -> None:
    from dtta.experiments import runner, spec, stored
    from dtta.problems.registry import load

    # float32 unless requested: the stored rows must be reproducible on any machine
    precision = "float32" if options.precision == "auto" else options.precision
    table = processes.in_turn(lambda: spec.read(name, precision=precision))
    seconds = stored.seconds(table.name, store)
    if seconds:
        print(_duration(table.name, sum(seconds.values()), options.workers))
    rows = options.out or Path("runs/tables")
    group = processes if processes.count > 1 else None
    speed = (options.compile, options.together)
    missing = runner.make(table, options.workers, options.only, rows, store, group, *speed)
    if missing:
        print(f"the rows are done; the table is stored when these are too: {', '.join(missing)} (leave out --only)")
        return
    print(f"\n{table.about}\nmean over {len(table.shifts)} shifts; gain with its 95% paired bootstrap interval\n")
    print(f"{'run':30} {'before':>7} {'after':>7} {'gain':>7}   interval")
    problem = load(table.problem)
    metric = problem.metrics.get(problem.metric)
    for entry_name, entry in table.entries.items():
        if entry.run.method != "none":
            gain = stored.gain(table.name, entry_name, table.shifts, entry.baseline, metric, folder=store)
            print(gain_line(f"{entry_name:30}", gain, 1 if metric is None else 2))


def _duration(what: str, seconds: float, workers: int) -> str:
    return f"{what}: about {seconds / 60 / workers:.0f} minutes with {workers} at work, if no row exists yet"

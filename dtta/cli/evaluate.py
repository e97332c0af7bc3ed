"""dtta evaluate: a method compared with no adaptation on the same images, a cell of the paper's tables, or a table."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from dtta.cli import options as shared
from dtta.cli import table
from dtta.evaluation import distributed
from dtta.experiments import paper

if TYPE_CHECKING:
    from dtta.core.problem import Metric, Problem
    from dtta.evaluation.run import Row

DEFAULTS = dict(problem="digits", method="diffusion-tta", shift="clean", severity=3, images=100, batch=1)
PRESET_OPTIONS = ("problem", "network", "diffusion", "method", "shift", "severity", "images", "metric", "batch")


def add_command(commands) -> None:
    """Add ``evaluate`` and its options to the commands."""
    text = "a method against no adaptation on the same images, paired"
    command = shared.new_command(commands, "evaluate", run, text)
    shared.add_shift_options(command)
    shared.add_method_options(command)
    command.add_argument("--images", type=int, help="how many images of the split (default: 100)")
    command.add_argument("--preset", metavar="NAME", help="a cell of the paper's tables, or list: their names")
    batch = "images that the method receives at once (default: 1); for more, settings chosen for 16 where there are any"
    command.add_argument("--batch", type=int, help=batch)
    command.add_argument("--by-class", action="store_true", help="images sorted by class, as the released code has")
    command.set_defaults(**dict.fromkeys(DEFAULTS))  # None: not given, so that a preset can fill it
    command.add_argument("--split", default="test", help="validation or test (default: test)")
    command.add_argument("--metric", help="one of the problem's metrics to show by shift (default: its main one)")
    workers = "processes (default: 2); under accelerate launch the launcher's are used"
    command.add_argument("--workers", type=int, default=2, help=workers)
    shared.add_speed_options(command)
    command.add_argument("--out", type=Path, help="folder for the rows; a run that was stopped continues from there")
    table.add_options(command)


def run(options: Namespace) -> None:
    """Run the command, alone or as one of several processes; only the first one prints."""
    if options.preset == "list":
        print(listing())
        return
    preset = fill_in(options)
    command = table.run if options.table else compare
    processes = distributed.join()
    with redirect_stdout(sys.stdout if distributed.is_first() else io.StringIO()):
        command(options, processes or distributed.Single())
        if preset:
            without = "" if preset.before is None else f", without adaptation {preset.before:.1f}"
            print(f"the paper's {preset.name}: {preset.paper:.1f}{without}")
            if preset.open:
                print(f"not stated there: {preset.open}")
    if processes:
        processes.shutdown()


def fill_in(options: Namespace) -> paper.Preset | None:
    """Replace options not given (None) by the preset's or the defaults; return it. Raises ValueError: no such one."""
    preset = paper.get(options.preset) if options.preset else None
    for name in PRESET_OPTIONS if preset else ():
        if getattr(options, name) is None:
            setattr(options, name, getattr(preset, name))
    if preset and options.method == preset.method:
        options.set = [*(f"{name}={str(value).lower()}" for name, value in preset.settings.items()), *options.set]
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return preset


def listing() -> str:
    """Return all cells, one a line: name, the paper's numbers, what it leaves open; then what cannot be run and why."""
    lines = [f"{'preset':44} {'before':>7} {'paper':>6}   what the paper leaves open"]
    for preset in paper.presets().values():
        before = "" if preset.before is None else f"{preset.before:.1f}"
        lines.append(f"{preset.name:44} {before:>7} {preset.paper:6.1f}   {preset.open}".rstrip())
    return "\n".join([*lines, "", *(f"not available: {what}: {why}" for what, why in paper.LEFT_OUT.items())])


def compare(options: Namespace, processes: distributed.Single) -> None:
    """Print and store the paired gains of a method over no adaptation. Raises ValueError: unknown names, bad values."""
    from dtta.evaluation import summary
    from dtta.evaluation.evaluate import evaluate
    from dtta.evaluation.run import Run

    settings = shared.settings_of(options.set)
    problem = processes.in_turn(lambda: _checked_problem(options, settings))
    precision = shared.precision_for(problem, options.precision)
    shifts = _shifts(options, problem)
    cells = [(shift, options.severity) for shift in shifts]
    name = shared.file_name(options.preset or options.problem)
    rows = {}
    for method, given in {"none": {}, options.method: settings}.items():
        run = Run(
            method, options.problem, options.network, options.diffusion,
            {**problem.settings.get(method, {}), **given}, options.split, options.seed, options.classes,
            batch=1 if method == "none" else options.batch,
            by_class=options.by_class, precision=precision, as_released=options.as_released,
        )  # fmt: skip
        file = f"{name}-{shared.file_name(method)}-{options.split}.jsonl"
        path = options.out / file if options.out else None
        workers = 1 if method == "none" else options.workers
        rows[method] = evaluate(
            run, cells, range(options.images), path, workers, processes=processes, compile=options.compile
        )
    before, after = rows["none"], rows[options.method]
    _print_gains(options, problem, shifts, before, after)
    settings = ", ".join(f"{name}={value}" for name, value in run.settings.items())
    print(f"settings: {settings or 'none'}; all others are the defaults of {options.method}")
    if options.out and processes.first:
        metric = options.metric or problem.metric
        result = summary.of_rows(run, before, after, problem.metrics.get(metric), metric, options.preset)
        print(f"summary in {summary.write(result, path)}; a table of all in the folder: dtta report {options.out}")


def _checked_problem(options: Namespace, settings: dict) -> Problem:
    """Load the problem and check all names and ranges before any work."""
    from dtta.methods.registry import build

    problem = shared.load_problem(options)
    available = problem.size(options.split)
    if not 1 <= options.images <= available:
        raise ValueError(f"--images must be between 1 and {available}, the size of the {options.split} split")
    if options.metric not in (None, problem.metric, *problem.metrics):
        choice = ", ".join(problem.metrics) or f"only {problem.metric}, which need not be named"
        raise ValueError(f"{problem.name} has no metric {options.metric!r}; it has {choice}")
    build(problem, options.method, **settings)
    problem.image(0, _shifts(options, problem)[0], options.severity, options.split)
    return problem


def _shifts(options: Namespace, problem: Problem) -> list[str]:
    return ["clean", *problem.shifts] if options.shift == "all" else [options.shift]


def _print_gains(options: Namespace, problem: Problem, shifts: list[str], before: list[Row], after: list[Row]) -> None:
    metric = problem.metrics.get(options.metric or problem.metric)
    name = f"{problem.metric} in %" if metric is None else options.metric or problem.metric
    print(f"\n{options.method} against no adaptation, {name}, {options.images} {options.split} images")
    print(f"severity {options.severity}, seed {options.seed}; gain with its 95% paired bootstrap interval\n")
    print(f"{'shift':20} {'before':>7} {'after':>7} {'gain':>7}   interval")
    for shift in shifts:
        pair = [[row for row in rows if row.shift == shift] for rows in (before, after)]
        print(_gain_line(shift, *pair, metric))
    if len(shifts) > 1:
        pair = [[row for row in rows if row.shift != "clean"] for rows in (before, after)]
        print(_gain_line("mean", *pair, metric))
    if problem.metrics and not options.metric:
        print("\nother metrics, over all of these, each in its unit (see the book)")
        for other in [m for m in problem.metrics if m != problem.metric]:
            print(_gain_line(other, before, after, problem.metrics[other]))
    print(f"\n{sum(r.seconds for r in after) / len(after):.2f} s per image and process")


def _gain_line(name: str, before: list[Row], after: list[Row], metric: Metric | None) -> str:
    from dtta.evaluation.statistics import paired_gain

    return shared.gain_line(name, paired_gain(before, after, metric), 1 if metric is None else 2)

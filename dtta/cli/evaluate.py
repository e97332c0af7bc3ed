"""dtta evaluate: a method compared with no adaptation on the same images, a cell of the paper's tables, or a table."""

from __future__ import annotations

import io
import sys
from argparse import Namespace
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from dtta.cli import options as shared
from dtta.cli import table
from dtta.evaluation import distributed
from dtta.experiments import paper
from dtta.problems.data.folders import output_folder
from dtta.problems.registry import is_own

if TYPE_CHECKING:
    from dtta.core.problem import Problem
    from dtta.evaluation.run import Row

DEFAULTS = dict(problem="digits", method="diffusion-tta", shift="clean", severity=3, batch=1, shuffle=False)
IMAGES = 100  # that are evaluated by default, of problems that are not the user's own
PRESET_OPTIONS = (
    "problem", "network", "diffusion", "method", "shift", "severity", "images", "metric", "batch", "shuffle",
)  # fmt: skip


def add_command(commands) -> None:
    """Add ``evaluate`` and its options to the commands."""
    text = "a method against no adaptation on the same images, paired"
    command = shared.new_command(commands, "evaluate", run, text)
    shared.add_shift_options(command)
    shared.add_method_options(command)
    text = "how many images of the split (default: 100; of your own all), or the folder or CSV file of your own"
    command.add_argument("--images", type=shared.images, metavar="N or PATH", help=text)
    text = "a cell of the paper's tables; list: their names; differences: what they do otherwise than the paper"
    command.add_argument("--preset", metavar="NAME", help=text)
    text = "images that the method receives at once (default: 1); for more, settings chosen for 16 where there are any"
    command.add_argument("--batch", type=shared.whole(1), help=text)
    order = command.add_mutually_exclusive_group()
    order.add_argument("--by-class", action="store_true", help="images sorted by class, as the released code has")
    order.add_argument("--shuffle", action="store_true", help="images in an order drawn by the seed")
    command.set_defaults(**dict.fromkeys(DEFAULTS))  # None: not given, so that a preset can fill it
    command.add_argument("--split", default="test", help="validation or test (default: test)")
    command.add_argument("--metric", help="one of the problem's metrics to show by shift (default: its main one)")
    workers = "processes (default: 1 on a GPU, else 2); under accelerate launch the launcher's are used"
    command.add_argument("--workers", type=shared.whole(1), help=workers)
    shared.add_speed_options(command)
    text = """images (online: streams) adapted at the same time, each with a copy of the weights, where the method
        allows it; rows do not depend on it (default: the fastest number, found on the first images and printed)"""
    command.add_argument("--together", type=shared.whole(1), help=text)
    text = "folder for the rows; a run that was stopped continues from there"
    command.add_argument("--out", type=output_folder, help=text)
    table.add_options(command)


def run(options: Namespace) -> None:
    """Run the command, alone or as one of several processes; only the first one prints."""
    if options.preset in ("list", "differences"):
        print(listing() if options.preset == "list" else differences())
        return
    if options.table:
        shared.refuse(options, vars(options).keys() - {*table.OPTIONS, "run", "default"}, "with --table")
    else:
        shared.refuse(options, ("only", "store"), "without --table")
    preset = fill_in(options)
    if options.workers is None:
        from torch.cuda import is_available

        options.workers = 1 if is_available() else 2
    command = table.run if options.table else compare
    processes = distributed.join()
    with redirect_stdout(sys.stdout if distributed.is_first() else io.StringIO()):
        command(options, processes or distributed.Single())
        if preset:
            without = "" if preset.before is None else f", without adaptation {preset.before:.1f}"
            print(f"the paper's {preset.name}: {preset.paper:.1f}{without}")
            print("\n".join(["what differs from the paper or its code:", *map(_in_words, preset.differences)]))
    if processes:
        processes.shutdown()


def fill_in(options: Namespace) -> paper.Preset | None:
    """Replace options not given (None) by the preset's or the defaults; return it. Raises ValueError: no such one."""
    preset = paper.get(options.preset) if options.preset else None
    if options.by_class:
        options.shuffle = False
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
    """Return all cells, one a line: name, the paper's numbers, what differs; then what cannot be run and why."""
    lines = [f"{'preset':44} {'before':>7} {'paper':>6}   what differs from the paper or its code"]
    for preset in paper.presets().values():
        before = "" if preset.before is None else f"{preset.before:.1f}"
        differing = ", ".join(difference.what for difference in preset.differences)
        lines.append(f"{preset.name:44} {before:>7} {preset.paper:6.1f}   {differing}")
    return "\n".join([*lines, "", *(f"not available: {what}: {why}" for what, why in paper.LEFT_OUT.items())])


def differences() -> str:
    """Return what the presets do otherwise than the paper or its code, with reasons."""
    rows = paper.table_of_differences()
    return "\n".join(
        f"{row['method']}\n{_in_words(d)}\n    why: {d.why}" for row, d in zip(rows, paper.DIFFERENCES, strict=True)
    )


def _in_words(difference: paper.Difference) -> str:
    return f"  {difference.what}: {difference.theirs}; here: {difference.ours}"


def compare(options: Namespace, processes: distributed.Single) -> None:
    """Print and store the paired gains of a method over no adaptation. Raises ValueError: unknown names, bad values."""
    from dtta.evaluation import summary
    from dtta.evaluation.evaluate import evaluate
    from dtta.evaluation.run import Run
    from dtta.evaluation.statistics import gains_of_shifts
    from dtta.methods.registry import usual_settings

    settings = shared.settings_of(options)
    problem = processes.in_turn(lambda: _checked_problem(options, settings, processes.first))
    precision = shared.precision_for(problem, options.precision)
    cells = [(shift, options.severity) for shift in _shifts(options, problem)]
    name = shared.file_name(options.preset or options.problem)
    rows = {}
    settings = usual_settings(problem, options.method, options.fast) | settings
    for method, given in {"none": {}, options.method: settings}.items():
        run = Run(
            method, options.problem, options.network, options.diffusion,
            given, options.split, options.seed, options.classes,
            batch=1 if method == "none" else options.batch,
            by_class=options.by_class, precision=precision, as_released=options.as_released, shuffle=options.shuffle,
            keep_size=options.keep_size, options=options.loading or None,
        )  # fmt: skip
        file = f"{name}-{shared.file_name(method)}-{options.split}.jsonl"
        path = options.out / file if options.out else None
        workers = 1 if method == "none" else options.workers
        rows[method] = evaluate(
            run, cells, range(options.images), path, workers,
            processes=processes, compile=options.compile, problem=problem, together=options.together,
        )  # fmt: skip
    before, after = rows["none"], rows[options.method]
    metric = options.metric or problem.metric
    gains = gains_of_shifts(before, after, problem.metrics.get(metric))
    seconds = sum(row.seconds for row in after) / len(after)
    _print_gains(options, problem, gains, before, after)
    settings = ", ".join(f"{name}={value}" for name, value in run.settings.items())
    print(f"\nsettings: {settings or 'none'}; all others are the defaults of {options.method}")
    evaluations = sum(row.evaluations or 0 for row in after) / len(after)
    print(f"{seconds:.2f} s per image and process, {evaluations:.1f} evaluations of the diffusion model per image")
    if options.out and processes.first:
        result = summary.of_gains(run, gains, metric, options.severity, seconds, options.preset)
        print(f"summary in {summary.write(result, path)}; a table of all in the folder: dtta report {options.out}")


def _checked_problem(options: Namespace, settings: dict, first: bool) -> Problem:
    """Load the problem and check all names and ranges before any work."""
    from dtta.methods.registry import build

    problem = shared.load_problem(options)
    if not problem.labelled:
        where = f"{options.problem} has" if options.problem != "own" else "there are"
        raise ValueError(f"{where} no labels, so that nothing can be evaluated; adapt to the pictures with dtta adapt")
    available = problem.size(options.split)
    if options.images is None:
        options.images = available if is_own(options.problem) else IMAGES
    if not 1 <= options.images <= available:
        raise ValueError(f"--images must be between 1 and {available}, the size of the {options.split} split")
    if options.metric not in (None, problem.metric, *problem.metrics):
        choice = ", ".join(problem.metrics) or f"only {problem.metric}, which need not be named"
        raise ValueError(f"{problem.name} has no metric {options.metric!r}; it has {choice}")
    build(problem, options.method, options.fast, **settings)
    if options.compile:
        shared.check_compiler(problem)
    if first:
        _warn_of_missing_images(options, problem)
    problem.image(0, _shifts(options, problem)[0], options.severity, options.split)
    return problem


def _warn_of_missing_images(options: Namespace, problem: Problem) -> None:
    """Print one sentence if a data set has fewer images than were published; the numbers are then of other images."""
    from dtta.problems.data.folders import IncompleteError
    from dtta.problems.registry import module

    check = getattr(module(options.problem), "check_data", None)
    try:
        if check and options.split == "test":
            check(options.problem, [(shift, options.severity) for shift in _shifts(options, problem)])
    except IncompleteError as error:
        print(f"dtta: {error}", file=sys.stderr)


def _shifts(options: Namespace, problem: Problem) -> list[str]:
    return ["clean", *problem.shifts] if options.shift == "all" else [options.shift]


def _print_gains(options: Namespace, problem: Problem, gains: dict[str, dict], *rows: list[Row]) -> None:
    from dtta.evaluation.statistics import paired_gain

    name, digits = options.metric or problem.metric, 2
    if name not in problem.metrics:
        name, digits = f"{problem.metric} in %", 1
    print(f"\n{options.method} against no adaptation, {name}, {options.images} {options.split} images")
    print(f"severity {options.severity}, seed {options.seed}; gain with its 95% paired bootstrap interval\n")
    print(f"{'shift':20} {'before':>7} {'after':>7} {'gain':>7}   interval")
    for shift, gain in gains.items():
        print(shared.gain_line(shift, gain, digits))
    if problem.metrics and not options.metric:
        print("\nother metrics, over all of these, each in its unit (see the book)")
        for other, metric in problem.metrics.items():
            if other != problem.metric:
                print(shared.gain_line(other, paired_gain(*rows, metric), 2))

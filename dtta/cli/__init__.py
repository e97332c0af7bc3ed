"""The command line: dtta adapt, evaluate, report, train, bench, doctor, fetch."""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path

import torch
from tqdm.auto import tqdm

import dtta
from dtta.cli import doctor
from dtta.core.precision import native
from dtta.core.problem import Problem
from dtta.evaluation import distributed as ranks
from dtta.evaluation import summary
from dtta.evaluation.evaluate import evaluate, image_generator
from dtta.evaluation.run import PRECISIONS, Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import paper as presets
from dtta.experiments import runner as tables
from dtta.experiments import spec as experiments
from dtta.experiments import stored
from dtta.methods.registry import METHODS, build
from dtta.problems import PROBLEMS, load, recipes_of
from dtta.problems.data import download as fetch
from dtta.problems.training.weights import WeightsError

EXAMPLES = """examples:
  dtta adapt --index 12 --shift fog --severity 3     adapt to a test image under fog, draw what happened
  dtta adapt scans/ --problem digits                 adapt to each image of a folder
  dtta evaluate --shift contrast --severity 3        Diffusion-TTA against no adaptation, paired
  dtta evaluate --shift all --method ensemble        another method, every shift
  dtta evaluate --problem scenes-clip --classes 50   CLIP under a text-to-image model, fifty names
  dtta adapt x.png --problem scenes-clip --classes "red ball, blue box"     names of your own
  dtta evaluate --table loss                         a whole table of the book: settings tried, runs, seeds
  dtta evaluate --preset table1/resnet18/imagenet-a  a cell of the paper's tables; list: their names
  dtta doctor imagenet                               what this machine lacks for a problem
  accelerate launch -m dtta evaluate --out rows ...  on all GPUs; started again, it goes on where it was
  dtta report rows                                   the table of all evaluations in a folder
  dtta train digits                                  make the shipped weights again, from nothing
  dtta bench --diffusion dit                         the fast loop against the naive one
  dtta bench --case dit-256 --case sd-512            the same at published sizes, on a GPU; random weights
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 after one sentence on stderr."""
    options = parser().parse_args(arguments)
    try:
        options.run(options)
    except (ValueError, IndexError, OSError, FloatingPointError, WeightsError, ranks.RankError) as error:
        told = error.strerror if isinstance(error, OSError) and " " in (error.strerror or "") else error
        print(f"dtta: {told}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("dtta: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    """The options of all commands."""
    top = argparse.ArgumentParser(
        "dtta",
        description="Diffusion-TTA: test-time adaptation by generative feedback.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=dtta.__version__)
    commands = top.add_subparsers(required=True, metavar="command")

    adapt = _command(commands, "adapt", _adapt, "adapt to an image, or to each of a folder; print and draw the beliefs")
    adapt.add_argument("image", nargs="?", type=Path, help="an image file, or a folder of them")
    adapt.add_argument("--index", type=int, help="instead of a file: the number of a test image of the problem")
    _shift_options(adapt)
    _method_options(adapt)
    adapt.add_argument("--out", type=Path, default=Path("."), help="folder for the figures (default: here)")

    usual = dict(problem="digits", method="diffusion-tta", shift="clean", severity=3, images=100, batch=1)
    with_preset = presets.before(_evaluate, **usual)
    evaluate_ = _command(commands, "evaluate", with_preset, "a method against no adaptation on the same images, paired")
    _shift_options(evaluate_)
    _method_options(evaluate_)
    evaluate_.add_argument("--images", type=int, default=100, help="how many images of the split (default: 100)")
    evaluate_.add_argument("--preset", metavar="NAME", help="a cell of the paper's tables, or list: their names")
    evaluate_.add_argument("--batch", type=int, help="images that the method is given at once (default: 1)")
    evaluate_.add_argument("--by-class", action="store_true", help="images sorted by class, as the released code has")
    evaluate_.set_defaults(**dict.fromkeys(usual))  # None: not given
    evaluate_.add_argument("--split", default="test", help="validation or test (default: test)")
    evaluate_.add_argument(
        "--metric", help="of the problem's metrics, the one to show by shift (default: its main one)"
    )
    evaluate_.add_argument(
        "--workers", type=int, default=2, help="processes (default: 2); under accelerate launch those that it starts"
    )
    _speed_options(evaluate_)
    evaluate_.add_argument("--out", type=Path, help="folder for the rows; a run that was stopped goes on from there")
    evaluate_.add_argument(
        "--table", metavar="NAME",
        help="make a whole table of the book, all of them, or what a file of yours says; in float32, unless "
        "--precision names another",
    )  # fmt: skip
    evaluate_.add_argument("--only", action="append", metavar="NAME", help="one run of the table; may be repeated")
    evaluate_.add_argument(
        "--store", type=Path, default=stored.FOLDER, help="folder for the finished table (default: beside the package)"
    )

    report = _command(commands, "report", summary.report, "the table of all evaluations in a folder")
    report.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="given to evaluate as --out")
    report.add_argument("--format", choices=summary.FORMATS, default="text", help="default: text")

    train = _command(commands, "train", _train, "make a problem's weights anew, from nothing; goes on where it stopped")
    train.add_argument("problem", help=f"one of: {', '.join(PROBLEMS)}")
    train.add_argument("--only", action="append", metavar="NAME", help="one model of the problem; may be repeated")
    train.add_argument("--to", type=Path, default=Path("weights"), help="folder to write (default: weights)")
    train.add_argument("--steps", type=int, help="fewer steps than the recipe, to try it out")

    bench = _command(commands, "bench", _bench, "seconds for one step: fast loop, naive loop, arithmetic floor")
    _problem_options(bench)
    bench.add_argument(
        "--case", action="append", metavar="NAME",
        help="instead of a problem: networks of published size with random weights, such as dit-256, dit-256-joint "
        "(the diffusion model moves too) or sd-512; may be repeated",
    )  # fmt: skip
    bench.add_argument("--samples", type=int, help="pairs (t, noise) in each step (default: 48; of a case: 180)")
    bench.add_argument("--steps", type=int, default=5, help="of a case (default: 5)")
    bench.add_argument("--micro-batch", type=int, default=12, help="pairs in one pass of the naive loop (default: 12)")
    _speed_options(bench)
    bench.add_argument("--out", type=Path, help="a .json file for what was measured of the cases")

    check = _command(commands, "doctor", doctor.command, "what this machine lacks for a problem, and how long it takes")
    check.add_argument("problem", help=f"one of: {', '.join(PROBLEMS)}")
    check.add_argument("--network", help="task network, a name or a folder")
    check.add_argument("--diffusion", help="diffusion model, a name or a folder")
    check.add_argument("--quick", action="store_true", help="without timing an image")

    get = _command(commands, "fetch", fetch.command, "download a public data set into the data folder; it goes on")
    get.add_argument("names", nargs="+", metavar="NAME", help=f"one of: {', '.join(fetch.ARCHIVES)}")

    from dtta.course.cli import add_commands  # its commands import what they need when they run

    add_commands(commands)
    return top


def _command(commands, name, run, text) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def _problem_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--problem", default="digits", help=f"one of: {', '.join(PROBLEMS)} (default: digits)")
    command.add_argument("--network", help="task network; a wrong name lists the problem's")
    command.add_argument("--diffusion", help="diffusion model; a wrong name lists the problem's")
    command.add_argument(
        "--classes", type=_classes, help="of an open vocabulary: how many names, or your own, with commas between them"
    )


def _method_options(command: argparse.ArgumentParser) -> None:
    _problem_options(command)
    command.add_argument("--method", default="diffusion-tta", help=f"one of: {', '.join(METHODS)}")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="a setting of the method, such as lr=0.01 or steps=10; default: those chosen on validation images",
    )  # fmt: skip
    command.add_argument("--seed", type=int, default=0, help="of shift, timesteps and noise (default: 0)")


def _shift_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--shift", default="clean", help="clean, all, or one of the problem's (a wrong name lists them)"
    )
    command.add_argument("--severity", type=int, default=3, help="1 (mild) to 5 (hard); default: 3")


def _speed_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--precision", choices=("auto", *PRECISIONS), default="auto",
        help="of the diffusion model; auto: bfloat16 or float16 where a GPU has it natively, else float32",
    )  # fmt: skip
    command.add_argument("--compile", action="store_true", help="compile the diffusion model's blocks first")


def _settings(pairs: list[str]) -> dict:
    """NAME=VALUE pairs; values are numbers, true, false, none or words."""
    words = {"true": True, "false": False, "none": None}
    settings = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set takes NAME=VALUE, not {pair!r}")
        for kind in (int, float, lambda v: words.get(v.lower(), v)):
            try:
                settings[name.replace("-", "_")] = kind(value)
                break
            except ValueError:
                continue
    return settings


def _classes(text: str) -> int | list[str]:
    return int(text) if text.isdecimal() else [name.strip() for name in text.split(",")]


def _adapt(options) -> None:
    from dtta.pages import figures  # matplotlib is slow to import; other commands do without

    problem = load(options.problem, options.network, options.diffusion, options.classes)
    method = build(problem, options.method, **_settings(options.set))
    if (options.image is None) == (options.index is None):
        raise ValueError("give an image file, a folder of them, or --index for one of the problem's test images")
    if options.index is not None:
        x, label = problem.image(options.index, options.shift, options.severity, seed=options.seed)
        truth = f", true class {problem.classes[label]}" if problem.task == "classification" else ""
        print(f"test image {options.index}, {options.shift}{truth}")
        images = {f"{options.problem}-{options.index}-{options.shift}": x}
    else:
        label = None
        images = {path.stem: read_image(path, problem) for path in _image_files(options.image)}
    options.out.mkdir(parents=True, exist_ok=True)
    steps = getattr(method, "steps", 1)
    with tqdm(total=steps * len(images), desc="adapting", unit="step") as bar:
        if isinstance(method, dtta.DiffusionTTA):
            method.on_step = lambda step: bar.update()
        for name, x in images.items():
            with torch.no_grad():
                before = problem.model(x)
            after = method(x, image_generator(options.seed, options.index or 0))
            if not isinstance(method, dtta.DiffusionTTA):
                bar.update(steps)
            x, before, after = x.cpu(), before.cpu(), after.cpu()
            path = options.out / f"{name}-adapted.png"
            losses = [step.loss.item() for step in getattr(method, "history", [])]
            figures.adaptation(problem, x, before, after, label, losses).savefig(path, dpi=150)
            bar.write(f"{name}: figure in {path}\n{_told(problem, before, after, label)}")


def _told(problem: Problem, before: torch.Tensor, after: torch.Tensor, label: torch.Tensor | None) -> str:
    """What changed: beliefs, shares of the picture, or depths; and the metrics where the truth is known."""
    if problem.task == "depth":
        lines = [f"{'depth':>20} {'before':>8} {'after':>8}"]
        for name, function in {"nearest": torch.amin, "mean": torch.mean, "furthest": torch.amax}.items():
            lines.append(f"{name:>20} {function(before):8.2f} {function(after):8.2f}")
    else:
        kind = "class" if problem.task == "classification" else "share of picture"
        lines = [f"{kind:>20} {'before':>8} {'after':>8}"]
        if problem.task == "segmentation":  # how much of the picture each class takes
            before_, after_ = (
                y.argmax(1).flatten().bincount(minlength=len(problem.classes)) / y[0, 0].numel()
                for y in (before, after)
            )
        else:
            before_, after_ = before.softmax(1)[0], after.softmax(1)[0]
        for j in torch.maximum(before_, after_).argsort(descending=True)[: 7 if problem.task == "segmentation" else 5]:
            lines.append(f"{problem.classes[j]:>20} {before_[j]:8.1%} {after_[j]:8.1%}")
    if label is not None and problem.metrics:
        both = [problem.sums(y, label) | {"images": 1} for y in (before, after)]
        for name in list(problem.metrics)[:4]:
            lines.append(f"{name:>20} {problem.metrics[name](both[0]):8.2f} {problem.metrics[name](both[1]):8.2f}")
    return "\n".join(lines)


def _image_files(path: Path) -> list[Path]:
    if path.is_dir():
        kinds = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in kinds)
        if not files:
            raise ValueError(f"the folder {path} holds no images ({', '.join(sorted(kinds))})")
        if len({p.stem for p in files}) < len(files):
            raise ValueError(f"images in {path} share a name but for its ending; their figures would too: rename them")
        return files
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    return [path]


def read_image(path: Path, problem: Problem) -> torch.Tensor:
    """An image file as (1, C, H, W) in [0, 1], of the problem's channels and size, on the device of its models."""
    from PIL import Image, UnidentifiedImageError
    from torchvision.transforms.v2 import functional as T

    channels, *size = problem.shape
    try:
        with Image.open(path) as file:
            image = file.convert("L" if channels == 1 else "RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} is not a readable image ({error})") from error
    x = T.to_dtype(T.resize(T.pil_to_tensor(image), size, antialias=True), torch.float32, scale=True)[None]
    return x.to(next(problem.model.parameters()).device)


def _evaluate(options) -> None:
    together = ranks.join()
    command = _table if options.table else _compare
    if together is None:
        command(options, None)
        return
    try:
        with together.failing(), redirect_stdout(sys.stdout if together.first else io.StringIO()):
            command(options, together)
    finally:
        together.leave()


def _compare(options, together: ranks.Ranks | None) -> None:
    problem = load(options.problem, options.network, options.diffusion, options.classes)
    shifts = ["clean", *problem.shifts] if options.shift == "all" else [options.shift]
    available = problem.size(options.split)
    if not 1 <= options.images <= available:
        raise ValueError(f"--images must lie between 1 and {available}, the {options.split} split")
    if options.metric not in (None, problem.metric, *problem.metrics):
        known = ", ".join(problem.metrics) or f"{problem.metric} alone, which needs no naming"
        raise ValueError(f"{problem.name} has no metric {options.metric!r}; it has {known}")
    metric = problem.metrics.get(options.metric or problem.metric)
    cells = [(shift, options.severity) for shift in shifts]
    rows, precision = {}, _precision(options.precision, problem)
    for method, settings in {"none": {}, options.method: _settings(options.set)}.items():
        build(problem, method, **settings)  # unknown names fail here, before any work
        problem.image(0, shifts[0], options.severity, options.split)
        run = Run(
            method, options.problem, options.network, options.diffusion,
            {**problem.settings.get(method, {}), **settings}, options.split, options.seed, options.classes,
            1 if method == "none" else options.batch, by_class=options.by_class, precision=precision,
        )  # fmt: skip
        name = (options.preset or options.problem).replace("/", "-")
        path = options.out / f"{name}-{method}-{options.split}.jsonl" if options.out else None
        workers = 1 if method == "none" else options.workers
        rows[method] = evaluate(
            run, cells, range(options.images), path, workers, ranks=together, compile=options.compile
        )
    name = f"{problem.metric} in %" if metric is None else options.metric or problem.metric
    print(f"\n{options.method} against no adaptation, {name}, {options.images} {options.split} images")
    print(f"a shift, severity {options.severity}, seed {options.seed}; gain with its 95% paired bootstrap interval\n")
    print(f"{'shift':20} {'before':>7} {'after':>7} {'gain':>7}   interval")
    names, digits = list(rows), 1 if metric is None else 2
    for shift in [*shifts, "mean"] if len(shifts) > 1 else shifts:
        parts = [
            [r for r in rows[m] if shift == r.shift or (shift == "mean" and r.shift != "clean")]
            for m in (names[0], names[-1])
        ]
        print(_gain_line(shift, paired_gain(*parts, metric), digits))
    if problem.metrics and not options.metric:
        print("\nother metrics, over all of these, each in its unit (see the book)")
        for other in [m for m in problem.metrics if m != problem.metric]:
            print(_gain_line(other, paired_gain(rows[names[0]], rows[names[-1]], problem.metrics[other]), digits))
    print(f"\n{sum(r.seconds for r in rows[options.method]) / len(rows[options.method]):.2f} s per image and process")
    if options.out and (together is None or together.first):
        named = options.metric or problem.metric
        told = summary.of_rows(run, rows["none"], rows[options.method], metric, named, options.preset)
        print(f"summary in {summary.write(told, path)}; a table of all in the folder: dtta report {options.out}")


def _precision(asked: str, problem: Problem) -> str:
    return native(next(problem.diffusion.parameters()).device) if asked == "auto" else asked


def _table(options, together: ranks.Ranks | None) -> None:
    if options.table == "all":
        if options.only:
            raise ValueError("--only is for one table")
        names = experiments.names()
        total = sum(sum(stored.seconds(name, options.store).values()) for name in names)
        print(_time("all tables", total, options.workers))
        for name in names:
            _one_table(name, options, together)
    else:
        _one_table(options.table, options, together)


def _time(what: str, seconds: float, workers: int) -> str:
    return f"{what}: about {seconds / 60 / workers:.0f} minutes with {workers} at work, if nothing of it is done"


def _one_table(name: str, options, together: ranks.Ranks | None) -> None:
    # float32 unless it is asked for: the rows that are stored must come out again on any machine
    table = experiments.read(name, precision="float32" if options.precision == "auto" else options.precision)
    if seconds := stored.seconds(table.name, options.store):
        print(_time(table.name, sum(seconds.values()), options.workers))
    rows = options.out or Path("runs/tables")
    missing = tables.make(table, options.workers, options.only, rows, options.store, together, options.compile)
    if missing:
        print(f"the rows are done; the table is stored when these are too: {', '.join(missing)} (leave out --only)")
        return
    print(f"\n{table.about}\nmean over {len(table.shifts)} shifts; gain with its 95% paired bootstrap interval\n")
    print(f"{'run':30} {'before':>7} {'after':>7} {'gain':>7}   interval")
    problem = load(table.problem)
    metric = problem.metrics.get(problem.metric)
    for name, entry in table.entries.items():
        if entry.run.method != "none":
            g = stored.gain(table.name, name, table.shifts, entry.against, metric, folder=options.store)
            print(_gain_line(f"{name:30}", g, 1 if metric is None else 2))


def _gain_line(name: str, gain: dict[str, float], digits: int) -> str:
    before, after, difference, low, high = (gain[k] for k in ("before", "after", "gain", "low", "high"))
    values = f"{before:7.{digits}f} {after:7.{digits}f} {difference:+7.{digits}f}"
    return f"{name:20} {values}   [{low:+.{digits}f}, {high:+.{digits}f}]"


def _train(options) -> None:
    from dtta.problems.training.recipes import train

    train(options.problem, recipes_of(options.problem), options.to, options.only, options.steps)
    print(f"done; to use the new weights: export DTTA_WEIGHTS={options.to}")


def _bench(options) -> None:
    from dtta.profiling.loops import bench, cases

    if options.case:
        cases(options)
        return
    problem = load(options.problem, options.network, options.diffusion, options.classes)
    samples = 48 if options.samples is None else options.samples
    precision = _precision(options.precision, problem)
    timing = bench(
        problem, samples, options.micro_batch, precision=precision, compile=options.compile,
        fast_micro_batch=options.micro_batch,
    )  # fmt: skip
    print(f"one step on one image: {samples} pairs (t, noise), {options.micro_batch} in one pass, {precision},")
    print(f"{torch.get_num_threads()} threads, diffusion model frozen\n\n{timing}")


if __name__ == "__main__":
    sys.exit(main())

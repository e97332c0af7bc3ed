"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dtta.core.plugins import listing
from dtta.evaluation.run import PRECISIONS
from dtta.methods.registry import METHODS, check_settings
from dtta.problems.data.folders import one_line
from dtta.problems.registry import PROBLEMS, is_own, load

if TYPE_CHECKING:
    from dtta.core.problem import Problem


class Parser(ArgumentParser):
    """A parser that raises ValueError where argparse prints its usage and exits."""

    def error(self, message: str):
        raise ValueError(f"{message}; see {self.prog} --help")


def new_command(commands, name: str, run: Callable[[Namespace], None], text: str) -> ArgumentParser:
    """Add a command to the parser's; return its own parser."""
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + "." * (text[-1] != "?"))
    command.set_defaults(run=run, default=command.get_default)
    return command


def refuse(options: Namespace, names: Iterable[str], where: str) -> None:
    """Raise ValueError if any of these options is given, because it has no effect `where`."""
    for name in names:
        if getattr(options, name) != options.default(name):
            raise ValueError(f"--{name.replace('_', '-')} has no effect {where}; leave it out")


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return a type for argparse: a whole number from `low` to `high`."""
    accepted = f"a whole number of at least {low}" if high is None else f"a whole number from {low} to {high}"

    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= (int(text) if high is None else high):
            raise ArgumentTypeError(f"must be {accepted}, not {text!r}")
        return int(text)

    return parse


def add_problem_options(command: ArgumentParser) -> None:
    """Add the options that ``load_problem`` reads."""
    text = (
        f"one of: {listing(PROBLEMS)}; or a folder or CSV file of your own pictures, with --network and --diffusion; "
        "default: digits, but your own if --network or --diffusion is a folder or a name that digits does not have"
    )
    command.add_argument("--problem", default="digits", help=text)
    text = "task network; a wrong name lists the problem's; of your own: a folder, or a name of timm"
    command.add_argument("--network", help=text)
    text = "diffusion model; a wrong name lists the problem's; of your own: a folder with a pipeline of diffusers"
    command.add_argument("--diffusion", help=text)
    text = (
        "how many names of an open vocabulary, or names of your own with commas between, or a text file with one a line"
    )
    command.add_argument("--classes", type=_classes, help=text)
    text = "load network and diffusion model the way the authors' released code has them"
    command.add_argument("--as-released", action="store_true", help=text)
    text = "of ImageNet-C: use its files of 224 pixels as they are, instead of the paper's resize to 232 and crop"
    command.add_argument("--keep-size", action="store_true", help=text)
    text = "of your own pictures: a further argument of dtta.problem, such as far=80 or validation=0"
    command.add_argument("--option", action="append", default=[], metavar="NAME=VALUE", help=text)


def add_method_options(command: ArgumentParser) -> None:
    """Add the options of a method on a problem."""
    add_problem_options(command)
    command.add_argument("--method", default="diffusion-tta", help=f"one of: {listing(METHODS)}")
    text = (
        "a setting of the method, such as lr=0.01 or layers=10,11; default: the problem's, which for digits and scenes "
        "were chosen on validation images and at full scale are mostly the paper's, or else the method's"
    )
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    text = "start from the settings chosen for few evaluations of the diffusion model; --set changes them"
    command.add_argument("--fast", action="store_true", help=text)
    text = "of shift, timesteps and noise (default: 0)"
    command.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help=text)


def add_shift_options(command: ArgumentParser) -> None:
    """Add the options of a distribution shift."""
    text = "clean, all, or one of the problem's (a wrong name lists them)"
    command.add_argument("--shift", default="clean", help=text)
    command.add_argument("--severity", type=whole(1, 5), default=3, help="1 (mild) to 5 (hard); default: 3")


def add_speed_options(command: ArgumentParser) -> None:
    """Add the options of the diffusion model's precision and compilation."""
    text = "of the diffusion model; auto: bfloat16 or float16 where a GPU has it natively, else float32"
    command.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=text)
    text = "compile the diffusion model's blocks before the first image; default: on a GPU, after it, if that works"
    command.add_argument("--compile", action=BooleanOptionalAction, help=text)


def images(text: str) -> int | str:
    """Return the value of --images: a whole number is how many, anything else a folder or CSV file of your own."""
    return whole(1)(text) if text.removeprefix("-").isdecimal() else text


def load_problem(options: Namespace) -> Problem:
    """Load the problem that the options name; print what was inferred of one of your own. Raises ValueError.

    The options are changed as in `resolve`; ``options.loading`` is the ``options`` of ``dtta.load``.
    """
    resolve(options)
    further = _pairs("--option", options.option)
    loaded = load(
        options.problem, options.network, options.diffusion, options.classes, options.as_released, options.keep_size,
        getattr(options, "batch", 1), further,
    )  # fmt: skip
    options.loading = further | ({"fingerprint": loaded.fingerprint} if loaded.fingerprint else {})
    if loaded.inferred:
        print(loaded.inferred)
    return loaded


def _is_own(options: Namespace) -> bool:
    """Return whether the options name a problem of your own, or pieces of one, which digits, the default, lacks."""
    if isinstance(getattr(options, "images", None), str) or is_own(options.problem):
        return True
    pieces = [piece for piece in (options.network, options.diffusion) if piece]
    return options.problem == "digits" and any("/" in piece or Path(piece).is_dir() for piece in pieces)


def resolve(options: Namespace) -> None:
    """Name a problem of your own, if the options mean one, by absolute paths, which mean the same everywhere."""
    if not _is_own(options):
        return
    source = getattr(options, "images", None)
    if isinstance(source, str):
        if options.problem != "digits":
            raise ValueError(
                "--images names pictures of your own; leave --problem out, or give their path as --problem"
            )
        options.problem, options.images = source, None
    elif options.problem == "digits":
        options.problem = "own"
    if options.problem != "own":
        options.problem = absolute(options.problem)
    for name in ("network", "diffusion"):
        value = getattr(options, name)
        if value and Path(value).expanduser().is_dir():
            setattr(options, name, absolute(value))
    if options.network is None or options.diffusion is None:
        what = "network" if options.network is None else "diffusion"
        raise ValueError(f"pictures and models of your own need --network and --diffusion; --{what} is missing")


def absolute(path: str | Path) -> str:
    """Return a path as the same one from any folder; ~ is expanded."""
    return str(Path(path).expanduser().resolve())


def precision_for(problem: Problem, precision: str) -> str:
    """Return the precision of the diffusion model: "auto" becomes what its device has natively."""
    from dtta.core.precision import native

    return native(next(problem.diffusion.parameters()).device) if precision == "auto" else precision


def check_compiler(problem: Problem) -> None:
    """Raise ValueError if torch cannot compile for the device of the problem's diffusion model."""
    import torch

    zero = torch.zeros(1, device=next(problem.diffusion.parameters()).device)
    try:
        torch.compile(lambda x: x + 1)(zero)
    except Exception as error:
        remedy = "install a C++ compiler, such as g++, or leave it out"
        raise ValueError(f"--compile does not work here ({one_line(error)}); {remedy}") from error


def settings_of(options: Namespace) -> dict[str, object]:
    """Parse the NAME=VALUE pairs of --set: numbers, true, false, none, words, or several of them with commas between.

    Raises ValueError: not such a pair, or not a setting of the method or of its type.
    """
    settings = _pairs("--set", options.set)
    check_settings(options.method, settings)
    return settings


def _pairs(option: str, pairs: Iterable[str]) -> dict[str, object]:
    values: dict[str, object] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        if not name or not text:
            raise ValueError(f"{option} takes NAME=VALUE, not {pair!r}")
        parts = [_value(part) for part in text.split(",")]
        values[name.replace("-", "_")] = parts if len(parts) > 1 else parts[0]
    return values


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def file_name(name: str) -> str:
    """Return a problem's, method's or preset's name as part of a file name: "my.module:build" -> "my.module-build".

    Of a path, such as that of a problem of your own, it is the last part without its ending.
    """
    if Path(name).is_absolute():
        return Path(name).stem
    return name.replace("/", "-").replace(":", "-")


def gain_line(name: str, gain: dict[str, float], digits: int) -> str:
    """Return a line of a table: before, after, gain and its interval (see ``dtta.evaluation.statistics``)."""
    before, after, difference, low, high = (gain[key] for key in ("before", "after", "gain", "low", "high"))
    values = f"{before:7.{digits}f} {after:7.{digits}f} {difference:+7.{digits}f}"
    return f"{name:20} {values}   [{low:+.{digits}f}, {high:+.{digits}f}]"


def _classes(text: str) -> int | list[str]:
    if text.removeprefix("-").isdecimal():
        return int(text)
    file = Path(text).expanduser()
    if file.is_file() or (file.suffix == ".txt" and "," not in text):
        from dtta.problems.own.images import read_names

        try:
            return read_names(file)
        except ValueError as error:
            raise ArgumentTypeError(str(error)) from error
    return [name.strip() for name in text.split(",")]

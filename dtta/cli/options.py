"""Options that several commands share, and what they stand for."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from dtta.core.plugins import listing
from dtta.evaluation.run import PRECISIONS
from dtta.methods.registry import METHODS, check_settings
from dtta.problems.data.folders import one_line
from dtta.problems.registry import PROBLEMS, load

if TYPE_CHECKING:
    from dtta.core.problem import Problem


class Parser(ArgumentParser):
    """A parser that raises ValueError where argparse prints its usage and exits."""

    def error(self, message: str):
        raise ValueError(f"{message}; see {self.prog} --help")


def new_command(commands, name: str, run: Callable[[Namespace], None], text: str) -> ArgumentParser:
    """Add a command to the parser's; return its own parser."""
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
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
    command.add_argument("--problem", default="digits", help=f"one of: {listing(PROBLEMS)} (default: digits)")
    command.add_argument("--network", help="task network; a wrong name lists the problem's")
    command.add_argument("--diffusion", help="diffusion model; a wrong name lists the problem's")
    text = "of an open vocabulary: how many class names, or names of your own separated by commas"
    command.add_argument("--classes", type=_classes, help=text)
    text = "load network and diffusion model the way the authors' released code has them"
    command.add_argument("--as-released", action="store_true", help=text)
    text = "of ImageNet-C: use its files of 224 pixels as they are, instead of the paper's resize to 232 and crop"
    command.add_argument("--keep-size", action="store_true", help=text)


def add_method_options(command: ArgumentParser) -> None:
    """Add the options of a method on a problem."""
    add_problem_options(command)
    command.add_argument("--method", default="diffusion-tta", help=f"one of: {listing(METHODS)}")
    text = (
        "a setting of the method, such as lr=0.01 or layers=10,11; default: the problem's, which for digits and scenes "
        "were chosen on validation images and at full scale are mostly the paper's, or else the method's"
    )
    command.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
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


def load_problem(options: Namespace) -> Problem:
    """Load the problem that the options name. Raises ValueError: see ``dtta.load``."""
    return load(
        options.problem, options.network, options.diffusion, options.classes, options.as_released, options.keep_size,
        getattr(options, "batch", 1),
    )  # fmt: skip


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
    settings = {}
    for pair in options.set:
        name, _, text = pair.partition("=")
        if not name or not text:
            raise ValueError(f"--set takes NAME=VALUE, not {pair!r}")
        values = [_value(part) for part in text.split(",")]
        settings[name.replace("-", "_")] = values if len(values) > 1 else values[0]
    check_settings(options.method, settings)
    return settings


def _value(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def file_name(name: str) -> str:
    """Return a problem's, method's or preset's name as part of a file name: "my.module:build" -> "my.module-build"."""
    return name.replace("/", "-").replace(":", "-")


def gain_line(name: str, gain: dict[str, float], digits: int) -> str:
    """Return a line of a table: before, after, gain and its interval (see ``dtta.evaluation.statistics``)."""
    before, after, difference, low, high = (gain[key] for key in ("before", "after", "gain", "low", "high"))
    values = f"{before:7.{digits}f} {after:7.{digits}f} {difference:+7.{digits}f}"
    return f"{name:20} {values}   [{low:+.{digits}f}, {high:+.{digits}f}]"


def _classes(text: str) -> int | list[str]:
    return int(text) if text.removeprefix("-").isdecimal() else [name.strip() for name in text.split(",")]

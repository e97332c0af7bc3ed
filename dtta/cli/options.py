"""Options that several commands share, and what they stand for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

from dtta.core.plugins import listing
from dtta.evaluation.run import PRECISIONS
from dtta.methods.registry import METHODS
from dtta.problems.registry import PROBLEMS, load

if TYPE_CHECKING:
    from dtta.core.problem import Problem


def new_command(commands, name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    """Add a command to the parser's; return its own parser."""
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=run)
    return command


def add_problem_options(command: argparse.ArgumentParser) -> None:
    """Add the options that ``load_problem`` reads."""
    command.add_argument("--problem", default="digits", help=f"one of: {listing(PROBLEMS)} (default: digits)")
    command.add_argument("--network", help="task network; a wrong name lists the problem's")
    command.add_argument("--diffusion", help="diffusion model; a wrong name lists the problem's")
    command.add_argument(
        "--classes",
        type=_classes,
        help="of an open vocabulary: how many class names, or names of your own separated by commas",
    )
    command.add_argument(
        "--as-released",
        action="store_true",
        help="load network and diffusion model the way the authors' released code has them",
    )


def add_method_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a method on a problem."""
    add_problem_options(command)
    command.add_argument("--method", default="diffusion-tta", help=f"one of: {listing(METHODS)}")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method, such as lr=0.01 or steps=10; default: the problem's, which for digits and scenes "
        "were chosen on validation images and at full scale are mostly the paper's, or else the method's",
    )
    command.add_argument("--seed", type=int, default=0, help="of shift, timesteps and noise (default: 0)")


def add_shift_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a distribution shift."""
    text = "clean, all, or one of the problem's (a wrong name lists them)"
    command.add_argument("--shift", default="clean", help=text)
    command.add_argument("--severity", type=int, default=3, help="1 (mild) to 5 (hard); default: 3")


def add_speed_options(command: argparse.ArgumentParser) -> None:
    """Add the options of the diffusion model's precision and compilation."""
    command.add_argument(
        "--precision",
        choices=("auto", *PRECISIONS),
        default="auto",
        help="of the diffusion model; auto: bfloat16 or float16 where a GPU has it natively, else float32",
    )
    command.add_argument("--compile", action="store_true", help="compile the diffusion model's blocks first")


def load_problem(options: argparse.Namespace) -> Problem:
    """Load the problem that the options name. Raises ValueError: see ``dtta.load``."""
    further = {"as_released": True} if options.as_released else {}
    further |= {"batch": options.batch} if getattr(options, "batch", 1) != 1 else {}
    return load(options.problem, options.network, options.diffusion, options.classes, **further)


def precision_for(problem: Problem, precision: str) -> str:
    """Return the precision of the diffusion model: "auto" becomes what its device has natively."""
    from dtta.core.precision import native

    return native(next(problem.diffusion.parameters()).device) if precision == "auto" else precision


def settings_of(pairs: list[str]) -> dict[str, object]:
    """Parse NAME=VALUE pairs; values are numbers, true, false, none or words. Raises ValueError: not such a pair."""
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


def file_name(name: str) -> str:
    """Return a problem's, method's or preset's name as part of a file name: "my.module:build" -> "my.module-build"."""
    return name.replace("/", "-").replace(":", "-")


def gain_line(name: str, gain: dict[str, float], digits: int) -> str:
    """Return a line of a table: before, after, gain and its interval (see ``dtta.evaluation.statistics``)."""
    before, after, difference, low, high = (gain[key] for key in ("before", "after", "gain", "low", "high"))
    values = f"{before:7.{digits}f} {after:7.{digits}f} {difference:+7.{digits}f}"
    return f"{name:20} {values}   [{low:+.{digits}f}, {high:+.{digits}f}]"


def _classes(text: str) -> int | list[str]:
    return int(text) if text.isdecimal() else [name.strip() for name in text.split(",")]

"""dtta train: train a problem's models from scratch."""

from __future__ import annotations

from argparse import Namespace

from dtta.cli.options import new_command, whole
from dtta.core.plugins import listing
from dtta.problems.data.folders import output_folder
from dtta.problems.registry import PROBLEMS, recipes_of


def add_command(commands) -> None:
    """Add ``train`` and its options to the commands."""
    text = "train a problem's models from scratch; continues where it stopped"
    command = new_command(commands, "train", run, text)
    command.add_argument("problem", help=f"one of: {listing(PROBLEMS)}")
    command.add_argument("--only", action="append", metavar="NAME", help="one model of the problem; may be repeated")
    command.add_argument("--to", type=output_folder, default="weights", help="folder to write (default: weights)")
    command.add_argument("--steps", type=whole(1), help="fewer steps than the recipe, to try it out")


def run(options: Namespace) -> None:
    """Train and write the weights."""
    from dtta.problems.training.recipes import train

    train(options.problem, recipes_of(options.problem), options.to, options.only, options.steps)
    print(f"done; to use the new weights: export DTTA_WEIGHTS={options.to}")

"""dtta report: the table of all evaluations in a folder."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from dtta.cli.options import new_command
from dtta.evaluation import summary


def add_command(commands) -> None:
    """Add ``report`` and its options to the commands."""
    command = new_command(commands, "report", run, "the table of all evaluations in a folder")
    command.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="given to evaluate as --out")
    command.add_argument("--format", choices=summary.FORMATS, default="text", help="default: text")


def run(options: Namespace) -> None:
    """Print the table of all summaries in the folders."""
    summaries = [entry for folder in options.folders for entry in summary.read(folder)]
    print(summary.formatted(*summary.table(summaries), options.format))

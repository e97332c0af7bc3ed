"""dtta fetch: download a public data set into the data folder."""

from __future__ import annotations

from argparse import Namespace

from dtta.cli.options import new_command


def add_command(commands) -> None:
    """Add ``fetch`` and its options to the commands."""
    text = "download a public data set into the data folder; continues where it stopped"
    command = new_command(commands, "fetch", run, text)
    command.add_argument("names", nargs="+", metavar="NAME", help="such as imagenet-a; a wrong name lists all")


def run(options: Namespace) -> None:
    """Download each data set."""
    from dtta.problems.data.download import ARCHIVES, fetch

    for name in sorted(options.names, key=lambda name: name in ARCHIVES):  # a wrong name is reported first
        print(f"{name} is in {fetch(name)}")

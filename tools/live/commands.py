"""Make the files of the book's live page.

python tools/live fetch           the runtime from npm -> the environment, once; `make setup` does it
python tools/live pack FOLDER     runtime, graphs, weights and test images -> FOLDER/*.js; the book's build does it
python tools/live export          the digit models -> tools/live/graphs/*.onnx, to be committed
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dtta.cli.options import Parser
from tools.pages.project import PageError


def main(arguments: list[str] | None = None) -> None:
    """Run a command; exit with status 2 after an error of the user."""
    parser = Parser(prog="python tools/live", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("fetch", help="download the runtime, unless it is there")
    sub = commands.add_parser("pack", help="write what the page loads")
    sub.add_argument("folder", type=Path)
    commands.add_parser("export", help="export the models; needs the packages onnx and onnxscript")
    args = parser.parse_args(arguments)
    from tools.live import pack  # after the options have been checked: it loads torch

    try:
        if args.command == "export":
            from tools.live import graphs

            print(*graphs.export(), sep="\n")
        else:
            print(*([pack.fetch()] if args.command == "fetch" else pack.pack(args.folder)), sep="\n")
    except (PageError, OSError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)

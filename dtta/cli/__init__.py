"""The command line, one file for each command in ``COMMANDS``, with ``add_command(commands)`` and ``run(options)``.

May import everything; torch, diffusers and matplotlib, which are slow to import, inside the functions that run.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from io import TextIOWrapper

import dtta
from dtta.cli import adapt, bench, doctor, evaluate, fetch, probe, report, train
from dtta.cli.options import Parser
from dtta.course import cli as course
from dtta.evaluation import distributed
from dtta.problems.data.folders import one_line

COMMANDS = (probe, adapt, evaluate, report, train, bench, doctor, fetch)
EXAMPLES = """examples:
  dtta probe --problem scenes-clip                   is the diffusion model sensitive to the condition, at which t?
  dtta adapt --index 12 --shift fog --severity 3     adapt to a test image under fog, draw what happened
  dtta adapt scans/ --problem digits                 adapt to each image of a folder
  dtta evaluate --shift contrast --severity 3        Diffusion-TTA against no adaptation, paired
  dtta evaluate --shift all --method ensemble        another method, every shift
  dtta evaluate --method my.module:build             a method of your own, from the current folder
  dtta evaluate --images photos/ --network ./net --diffusion ./dit --classes classes.txt   your own models and pictures
  dtta adapt x.png --network ./net --diffusion ./dit --classes classes.txt                 the same for one picture
  dtta evaluate --problem scenes-clip --classes 50   CLIP with a text-to-image model, fifty class names
  dtta adapt x.png --problem scenes-clip --classes "red ball, blue box"     class names of your own
  dtta evaluate --table loss                         a whole table of the book: choice of settings, runs, seeds
  dtta evaluate --preset table1/resnet18/imagenet-a  a cell of the paper's tables; list: their names
  dtta doctor imagenet                               what this machine lacks for a problem
  accelerate launch -m dtta evaluate --out rows ...  on all GPUs; started again, it continues
  dtta report rows                                   the table of all evaluations in a folder
  dtta train digits                                  train the shipped weights from scratch
  dtta bench --diffusion dit                         the fast loop against the naive one
  dtta bench --case dit-256 --case sd-512            the same at published sizes, on a GPU; random weights
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status: 0; 2 after one sentence on stderr; 130 if interrupted."""
    if os.getcwd() not in sys.path:  # for problems and methods of the user's own; spawned processes inherit it
        sys.path.append(os.getcwd())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # write \u03b8 where the locale's encoding lacks θ
            stream.reconfigure(errors="backslashreplace")
    try:
        options = parser().parse_args(arguments)
        options.run(options)
    except KeyboardInterrupt:
        if distributed.is_first():
            print("dtta: interrupted; finished work is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whatever reads the output has enough of it, such as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        message = explanation(error)
        if message is None:
            raise
        if distributed.is_first() or not isinstance(error, distributed.StoppedError):
            print(f"dtta: {message}", file=sys.stderr)
        return 2
    return 0


def explanation(error: Exception) -> str | None:
    """Return the sentence for the user, or None for an error that is a bug."""
    names = {kind.__name__ for kind in type(error).__mro__}  # by name, so that nothing needs to be imported
    if isinstance(error, OSError):
        return _of_file(error)
    if isinstance(error, ImportError):
        remedy = "pip uninstall torchao, which dtta does not need" if "torchao" in str(error) else "install it"
        return f"a library is missing or too old ({one_line(error)}): {remedy}"
    if names & {"MemoryError", "OutOfMemoryError"} or "can't allocate memory" in str(error):
        return f"memory ran out ({one_line(error)}): try --set micro_batch=1, a smaller --batch or --workers 1"
    if "BrokenProcessPool" in names:
        return "a worker was killed, perhaps for lack of memory; finished rows are kept: try again with --workers 1"
    if names & {"ValueError", "IndexError", "FloatingPointError", "ArgumentTypeError", "StoppedError", "WeightsError"}:
        return str(error)
    return None


def _of_file(error: OSError) -> str:
    """Return a sentence with the file's name and a remedy, unless the error's message is one already."""
    standard = os.strerror(error.errno) if error.errno else None
    if error.strerror != standard or standard is None:
        return error.strerror or one_line(error)
    remedies = {errno.ENOSPC: "make room on the disk", errno.EDQUOT: "make room on the disk"}
    denied = dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions or name another place")
    remedy = (remedies | denied).get(error.errno, "check this path")
    return f"{error.filename or 'a file'} cannot be read or written ({standard}): {remedy}"


def parser() -> Parser:
    """Return the parser of all commands."""
    top = Parser(
        "dtta",
        description="Diffusion-TTA: test-time adaptation by generative feedback.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=dtta.__version__)
    commands = top.add_subparsers(required=True, metavar="command")
    for command in COMMANDS:
        command.add_command(commands)
    course.add_commands(commands)
    return top

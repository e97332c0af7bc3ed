"""The command line of the course: dtta course build. What it needs comes with pip install "dtta[course]"."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_commands(commands) -> None:
    """Register ``course`` and its own commands among those of ``dtta``."""
    text = "build the assignments, and mend, grade and report what students hand in"
    course = commands.add_parser("course", help=text, description=text[0].upper() + text[1:] + ".")
    own = course.add_subparsers(required=True, metavar="command")

    build = _command(own, "build", _build, "make assignments: students' notebooks, and a course folder for nbgrader")
    build.add_argument("names", nargs="*", metavar="ASSIGNMENT", help="a1, a2 and so on (default: all)")
    build.add_argument("--to", type=Path, default=Path("course"), help="the course folder (default: course)")
    build.add_argument("--root", type=Path, default=Path(), help="a checkout of the book (default: here)")
    build.add_argument("--solutions", action="store_true", help="also run the solutions, for you alone: TO/solutions")
    build.add_argument(
        "--publish", action="store_true", help="also copy the students' notebooks to notebooks/assignments"
    )


def _command(commands, name, run, text) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.set_defaults(run=_with_packages(run))
    return command


def _with_packages(run):
    """The command, with one clear sentence where the extra is not installed."""

    def guarded(options) -> None:
        try:
            run(options)
        except ModuleNotFoundError as error:
            raise ValueError(f'{error.name} is missing; the course needs: pip install "dtta[course]"') from error

    return guarded


def _build(options) -> None:
    from dtta.course.staff import build

    made = build.build(options.root, options.to, options.names, options.solutions)
    for assignment in made:
        print(f"{assignment.key}  {assignment.points:3d} points, {assignment.minutes:3d} minutes: {assignment.title}")
    print(f"students' notebooks: {options.to / 'release'}")
    print(f"with solutions and hidden tests, for you alone: {options.to / 'source'}")
    if options.publish:
        for path in build.publish(options.root, options.to, made):
            print(path)

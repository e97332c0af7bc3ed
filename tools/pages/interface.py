"""Fill the page of the command line, book/cli.md, from the parser of dtta when the book is built."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

COMMANDS = "<!-- commands -->"


def put_commands(page: Path) -> None:
    """Replace the mark in the staged page by a section for each command."""
    from dtta.cli import parser

    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(COMMANDS, "\n".join(sections(parser()))), encoding="utf-8")


def sections(parser: argparse.ArgumentParser, level: int = 1) -> Iterator[str]:
    """Yield lines of Markdown: of a parser its description and options, then the same of its commands."""
    if level > 1:
        yield from (f"{'#' * level} {parser.prog}", "", _plain(parser.description or ""), "")
    for action in parser._actions:  # argparse has no public list of them
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            names = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            choices = f"{{{','.join(map(str, action.choices))}}}" if action.choices else ""
            value = action.metavar or choices or action.dest.upper()
            takes_value = action.option_strings and action.nargs != 0
            usage = f"{names} {value}" if takes_value else names
            yield from (f"`{usage}`", f": {_plain((action.help or '') % (vars(action) | {'prog': parser.prog}))}", "")
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from sections(command, level + 1)


def _plain(text: str) -> str:
    """Return a text in one line without anything that Markdown would read as markup, and its options as code."""
    escaped = re.sub(r"([\\`*_{}\[\]<>$|~])", r"\\\1", " ".join(text.split()))
    return re.sub(r"(?<![\w-])--\w[\w-]*", r"`\g<0>`", escaped)  # elsewhere two hyphens become a dash

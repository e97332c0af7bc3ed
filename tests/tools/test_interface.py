"""The reference: the page of the command line names every option, and every public name has a docstring."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import ModuleType

import dtta
from dtta.cli import parser
from tools.pages.interface import COMMANDS, put_commands, sections


def test_the_page_of_the_command_line_has_every_option_of_every_command(tmp_path):
    page = tmp_path / "cli.md"
    page.write_text(f"# Commands\n\n{COMMANDS}\n", encoding="utf-8")
    put_commands(page)
    text = page.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^###? (dtta [\w ]+)$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert len(sections) > 12
    for name, section in sections.items():
        helps = help_of(name.split()[1:])
        assert set(re.findall(r"^  (--[\w-]+)", helps, re.MULTILINE)) <= set(re.findall(r"--[\w-]+", section)), name
    assert {"dtta adapt", "dtta evaluate", "dtta course grade"} <= set(sections)


def test_options_and_choices_are_shown_as_they_are_typed():
    lines = list(sections(parser()))
    assert "`--lms {moodle,canvas}`" in lines
    assert not [line for line in lines if line.startswith(":") and re.search(r"(?<!`)--", line)], "shown as a dash"
    assert any("with `--network` and `--diffusion`" in line for line in lines)


def help_of(words: list[str]) -> str:
    """Return what `dtta WORDS --help` prints."""
    command = parser()
    for word in words:
        (choices,) = [action.choices for action in command._actions if word in (action.choices or ())]
        command = choices[word]
    return command.format_help()


def public_names(module: ModuleType):
    """Yield the public classes, functions and methods that a module defines; a method may inherit its docstring."""
    yield module.__name__, module
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", "") != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            yield f"{module.__name__}.{name}", value
        if inspect.isclass(value):
            for method, member in vars(value).items():
                named = inspect.isfunction(member) and member.__name__ == method  # no default of a field
                if not method.startswith("_") and (named or isinstance(member, property)):
                    yield f"{module.__name__}.{name}.{method}", getattr(value, method)


def test_every_public_name_has_a_docstring():
    names = [info.name for info in pkgutil.walk_packages(dtta.__path__, "dtta.") if info.name != "dtta.__main__"]
    found = [entry for name in names for entry in public_names(importlib.import_module(name))]
    assert len(found) > 800
    assert sorted(name for name, value in found if not inspect.getdoc(value)) == []

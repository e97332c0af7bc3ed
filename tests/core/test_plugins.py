"""Names of methods and problems: short names, import strings, entry points of installed packages."""

from __future__ import annotations

import sys

import pytest

from dtta.core import plugins

TABLE = {"sine": "math:sin"}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An importable package outside the repository, installed with an entry point."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "parts.py").write_text("def build(problem):\n    return problem\n\nNUMBER = 3\n", encoding="utf-8")
    (folder / "broken.py").write_text("import a_library_that_is_not_installed\n", encoding="utf-8")
    about = tmp_path / "elsewhere-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n", encoding="utf-8")
    (about / "entry_points.txt").write_text(
        "[dtta.methods]\nfrom-elsewhere = elsewhere.parts:build\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "elsewhere"]:
        del sys.modules[name]


def find(name: str):
    return plugins.find("method", name, TABLE, "dtta.methods")


def test_a_short_name_an_import_string_and_an_entry_point(package):
    assert find("sine")(0.0) == 0.0
    assert find("elsewhere.parts:build")(7) == 7
    assert find("from-elsewhere")(7) == 7


@pytest.mark.parametrize(("name", "message"), [
    ("cosine", "unknown method 'cosine'; choose from sine, from-elsewhere, or package.module:function of your own"),
    ("nowhere.parts:build", "method 'nowhere.parts:build': there is no module 'nowhere' in the current folder"),
    ("elsewhere.part:build", "there is no module 'elsewhere.part' in the current folder or among installed packages"),
    ("elsewhere.parts:built", "the module elsewhere.parts has no function 'built'"),
    ("elsewhere.parts:NUMBER", "NUMBER in elsewhere.parts is not a function"),
    ("elsewhere.parts:", "must have the form package.module:function"),
    (":build", "must have the form package.module:function"),
    ("elsewhere.parts:a.b", "must have the form package.module:function"),
])  # fmt: skip
def test_one_sentence_says_which_part_was_not_found(package, name, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        find(name)


def test_an_import_that_fails_inside_a_module_is_shown_as_it_is(package):
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_installed"):
        find("elsewhere.broken:build")

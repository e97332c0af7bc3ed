"""Problems by name, by import string and by entry point; the folders of data and of the cache."""

from __future__ import annotations

import subprocess
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

import dtta
from dtta.cli import main
from dtta.problems import load, module, recipes_of
from dtta.problems.data.folders import cache_folder, data_folder
from dtta.problems.training import weights

PACKAGE = """
from dataclasses import replace

from dtta.problems import load

NUMBER = 7

def plain():
    return load("digits")

def chosen(network=None, diffusion=None, classes=None, as_released=False):
    return replace(load("digits", network, diffusion), metric=f"{network} {diffusion} {classes} {as_released}")

def several(name):
    return replace(load("digits"), name=name)
"""


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A package outside dtta that can be imported, and an installed distribution with an entry point for it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    for name, text in {
        "plugged/__init__.py": "",
        "plugged/problems.py": PACKAGE,
        "plugged/broken.py": "import plugged_needs_this",
        "plugged/wrong.py": "def f(:",
        "plugged/trained.py": PACKAGE + "\ndef recipes(name): return {'net': name}\n",
        "plugged/again.py": "from plugged.problems import plain\nRECIPES = {'net': 1}\n",
        "plugged-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: plugged\nVersion: 1\n",
        "plugged-1.dist-info/entry_points.txt": "[dtta.problems]\nshort = plugged.problems:chosen\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    invalidate_caches()
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "plugged"]:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["plugged.problems:chosen", "short"])
def test_arguments_reach_a_problem_of_your_own(package, name):
    assert dtta.load(name).metric == "None None None False"
    assert dtta.load(name, "vit", "dit", 3, as_released=True).metric == "vit dit 3 True"
    assert module(name).NUMBER == 7


def test_a_function_takes_only_the_arguments_it_names(package):
    assert load("plugged.problems:plain").task == "classification"
    assert load("plugged.problems:several").name == "plugged.problems:several"
    for option in (dict(network="vit"), dict(diffusion="dit"), dict(as_released=True), dict(keep_size=True)):
        with pytest.raises(ValueError, match=f"plain has no choice of {next(iter(option))}; leave it out"):
            load("plugged.problems:plain", **option)
    with pytest.raises(ValueError, match=r"the classes of plugged\.problems:plain are fixed"):
        load("plugged.problems:plain", classes=3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "unknown problem 'nothing'; choose from digits, .*, short, or package.module:function of your own"),
        ("nothing.here:problem", "there is no module 'nothing'"),
        ("plugged.nothing:problem", "there is no module 'plugged.nothing'"),
        ("plugged.problems:nothing", "the module plugged.problems has no function 'nothing'"),
        ("plugged.problems:NUMBER", "NUMBER in plugged.problems is not a function"),
        ("plugged.wrong:problem", r"plugged.wrong cannot be imported \(SyntaxError"),
        ("plugged.problems:", "must have the form package.module:function"),
        (":problem", "must have the form package.module:function"),
    ],
)
@pytest.mark.parametrize("function", [load, module, recipes_of])
def test_wrong_names_are_one_sentence(package, name, message, function):
    with pytest.raises(ValueError, match=message):
        function(name)


def test_a_missing_import_inside_a_module_is_shown(package):
    with pytest.raises(ModuleNotFoundError, match="plugged_needs_this"):
        load("plugged.broken:problem")


def test_only_problems_with_recipes_are_trained(package, tmp_path, capsys):
    assert recipes_of("plugged.problems:plain") == {}
    assert recipes_of("plugged.again:plain") == {"net": 1}  # of the module that is named, not the function's
    assert recipes_of("plugged.trained:plain") == {"net": "plugged.trained:plain"}
    assert main(["train", "plugged.problems:plain", "--to", str(tmp_path / "weights")]) == 2
    assert "there is nothing to train for plugged.problems:plain" in capsys.readouterr().err


def test_mini_problems_have_no_released_variant():
    with pytest.raises(ValueError, match="digits has no choice of as_released; leave it out"):
        load("digits", as_released=True)


@pytest.mark.parametrize(
    ("function", "variable", "default"),
    [
        (data_folder, "DTTA_DATA", ".cache/dtta/data"),
        (cache_folder, "DTTA_CACHE", ".cache/dtta"),
        (weights.folder, "DTTA_WEIGHTS", Path(dtta.__file__).parent / "weights"),
    ],
)
def test_folders_come_from_variables_with_the_home_folder_expanded(function, variable, default, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv(variable, raising=False)
    assert function() == Path("/home/someone", default)
    for value, path in {"": Path("/home/someone", default), "~/x": "/home/someone/x", "/data/x": "/data/x"}.items():
        monkeypatch.setenv(variable, value)
        assert function() == Path(path)


def test_names_and_archives_are_listed_without_heavy_imports():
    code = (
        "import sys; from dtta.problems import PROBLEMS; from dtta.problems.data.download import ARCHIVES; "
        "print([m for m in ('torch', 'diffusers', 'huggingface_hub') if m in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8").stdout == "[]\n"
    )

"""A student's first run: the notebook alone in an empty folder, dtta from its built wheel, nothing solved yet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile

import nbformat
import pytest
from trip import ROOT

from dtta.course.staff import source

KEYS = source.keys(ROOT)
# Cells run as a kernel runs them, up to the first that fails; what that one shows comes back.
RUN = """
import contextlib, io, json, sys
from IPython.core.interactiveshell import InteractiveShell

import dtta
found = {"dtta": dtta.__file__}
shell = InteractiveShell.instance(colors="nocolor")
for key, cells in json.load(open(sys.argv[1])).items():
    shell.reset()
    for grade_id, text in cells:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            done = shell.run_cell(text)
        if not done.success:
            found[key] = [grade_id, out.getvalue()]
            break
    else:
        found[key] = ["", "ran to its end"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def first_runs(tmp_path_factory):
    """Where dtta came from, and for each assignment the cell that stopped and all that it said."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ["pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"]:
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "dtta", folder / "dtta", ignore=shutil.ignore_patterns("__pycache__"))
    for made in ("out", "installed", "empty"):
        (folder / made).mkdir()
    build = "from setuptools.build_meta import build_wheel; build_wheel('out')"
    subprocess.run([sys.executable, "-c", build], cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "out").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    cells = {}
    for key in KEYS:
        path = ROOT / "notebooks" / "assignments" / f"{source.read(ROOT, key).name}.ipynb"
        cells[key] = [
            (cell.metadata.get("nbgrader", {}).get("grade_id", ""), cell.source)
            for cell in nbformat.read(path, as_version=4).cells
            if cell.cell_type == "code"
        ]
    (folder / "cells.json").write_text(json.dumps(cells), encoding="utf-8")
    paths = {"PYTHONPATH": str(folder / "installed"), "IPYTHONDIR": str(folder), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder / "cells.json")],
        cwd=folder / "empty",
        env={**os.environ, **paths},
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("dtta") == str(folder / "installed" / "dtta" / "__init__.py")
    assert not list((folder / "empty").iterdir())
    return found


@pytest.mark.parametrize("key", KEYS)
def test_a_blank_notebook_runs_until_its_first_task_which_says_what_to_do(key, first_runs):
    first = source.read(ROOT, key).tasks[0]
    grade_id, said = first_runs[key]
    assert grade_id == next(iter(first.points))
    assert grade_id.endswith("-check")
    assert "is not written yet. Replace `...` in its cell by your code" in said
    assert "Traceback" not in said and len(said.splitlines()) == 1

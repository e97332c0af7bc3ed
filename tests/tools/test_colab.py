"""Pages that ran as on Colab against the committed ones (tools/pages/colab.py); .ci/colab itself runs in CI."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools.pages import colab
from tools.pages.project import Project

ROOT = Path(__file__).parents[2]
TOLERANCE = {"dtta": {"tolerance": 0.5, "whole": 0}}


def page(text: str = "gain 8.1 points", image: bool = True, code: str = "show()", exact: bool = False) -> NotebookNode:
    install = new_code_cell("install()", metadata={"tags": ["remove-cell"]})
    install.outputs = [new_output("stream", text=f"pip says {text}")]
    cell = new_code_cell(code)
    metadata = {} if exact else TOLERANCE
    cell.outputs = [new_output("display_data", {"text/plain": text}, metadata=metadata)]
    cell.outputs += [new_output("stream", name="stderr", text="a warning of an older library")] if image else []
    figure = new_code_cell("plot()")
    figure.outputs = [new_output("display_data", {"image/png": "iVBO", "text/plain": "A plot."})] if image else []
    made = new_notebook(cells=[install, cell, figure])
    for second, one in enumerate(made.cells):
        one.metadata["papermill"] = {"end_time": f"2026-11-29T12:00:{second * 7:02d}.500000"}
    return made


@pytest.mark.parametrize(
    ("fresh", "found"),
    [
        (page(), []),
        (page("gain 8.5 points"), []),
        (page("gain 9.5 points"), ["cell 2 shows\ngain 9.5 points\nnot\ngain 8.1 points"]),
        (page("gain 8.5 points", exact=True), ["cell 2 shows\ngain 8.5 points\nnot\ngain 8.1 points"]),
        (page(image=False), ["cell 3 shows [], not ['image/png', 'text/plain']"]),
        (page(code="show(1)"), ["cell 2 has other code"]),
    ],
)
def test_differences_are_those_beyond_the_tolerance(fresh, found):
    assert list(colab.differences(fresh, page())) == found


def test_pieces_of_a_stream_are_compared_as_one():
    pages = [page(), page(), page()]
    for made, pieces in zip(pages, (["a\n", "b\n"], ["a\nb\n"], ["a\n", "c\n"]), strict=True):
        made.cells[1].outputs += [new_output("stream", text=text) for text in pieces]
    pages[0].cells[1].outputs.insert(-1, new_output("stream", name="stderr", text="a warning"))
    assert list(colab.differences(pages[0], pages[1])) == []
    assert list(colab.differences(pages[2], pages[1])) == ["cell 2 shows\na\nc\n\nnot\na\nb\n"]


def test_seconds_are_those_from_the_install_to_the_first_figure():
    assert colab.seconds_to_first_figure(page()) == 14
    assert colab.seconds_to_first_figure(page(image=False)) is None


def test_the_script_reads_the_address_and_the_ref_of_the_pages_and_runs_all_that_need_no_models_of_the_reader():
    project = Project(ROOT)
    script = (ROOT / ".ci/colab").read_text(encoding="utf-8")
    (numbers,) = re.findall(r"set -- (.*)", script)
    assert numbers.split() == [name[:2] for name in project.pages() if name[:2] <= "10"]
    lines = "\n".join(line for line in script.splitlines() if line.startswith(("url=", "ref=")))
    done = subprocess.run(["bash", "-c", f"{lines}\necho $url $ref"], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.stdout.split() == [project.url, project.ref]


def test_what_pip_clones_has_no_history_even_from_a_shallow_checkout(tmp_path):
    """A clone without blobs of a shallow repository would ask for its missing parents without end."""
    script = (ROOT / ".ci/colab").read_text(encoding="utf-8")
    commands = re.findall(r"^git init -q --bare.*?^rm -f.*?$", script, re.MULTILINE | re.DOTALL)

    def git(*words: str, cwd: Path = tmp_path) -> str:
        settings = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
        return subprocess.run(
            ["git", *settings, *words], cwd=cwd, check=True, capture_output=True, encoding="utf-8"
        ).stdout

    git("init", "-q", "source")
    for text in ("first", "second"):
        (tmp_path / "source/file").write_text(text, encoding="utf-8")
        git("add", "file", cwd=tmp_path / "source")
        git("commit", "-q", "-m", text, cwd=tmp_path / "source")
    git("clone", "-q", "--depth=1", (tmp_path / "source").as_uri(), "shallow")
    git("checkout", "-q", "--detach", cwd=tmp_path / "shallow")
    lines = "\n".join(["set -eu", f"work={shlex.quote(str(tmp_path))} ref=main", *commands])
    subprocess.run(["bash", "-c", lines], cwd=tmp_path / "shallow", check=True)
    assert git("rev-parse", "--is-shallow-repository", cwd=tmp_path / "repository").strip() == "false"
    assert git("log", "--all", "--format=%D|%P", cwd=tmp_path / "repository").split() == ["HEAD", "->", "main|"]
    assert git("show", "main:file", cwd=tmp_path / "repository") == "second"

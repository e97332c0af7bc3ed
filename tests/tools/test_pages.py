"""tools/pages: running, publishing, checking and comparing pages, on a small project in tests/fixtures/site."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from filelock import FileLock
from IPython.core.inputtransformer2 import TransformerManager
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tools.pages import book, commands
from tools.pages.check import check_folder, check_page
from tools.pages.project import PageError, Project, clean, write
from tools.pages.run import CHECKOUT, environment

HERE = Path(__file__).parents[1]
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
ALT = "A single grey pixel, for the tests."


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def call(root: Path, *arguments: str) -> None:
    commands.execute(["--root", str(root), *map(str, arguments)])


@pytest.fixture
def site(tmp_path) -> Path:
    """A fresh copy of the small project."""
    return Path(shutil.copytree(HERE / "fixtures" / "site", tmp_path / "the site"))


@pytest.fixture(scope="session")
def ran(tmp_path_factory, worker_id) -> Path:
    """The small project with its page run and published; made once, whatever the number of processes."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "ran"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            making = root.with_name("making")
            shutil.copytree(HERE / "fixtures" / "site", making)
            call(making, "run", "--profile", "mini")
            call(making, "publish")
            making.rename(root)
    return root


@pytest.fixture
def published(ran, tmp_path) -> Path:
    """A copy of it, to be spoilt."""
    return Path(shutil.copytree(ran, tmp_path / "published"))


def executed_without_kernel(project: Project, name: str = "01_good") -> nbformat.NotebookNode:
    """A notebook as if it had run: counts and one figure."""
    page = project.generate(name)
    for count, cell in enumerate((c for c in page.cells if c.cell_type == "code"), 1):
        cell.execution_count = count
    figure = new_output("display_data", {"image/png": PNG, "text/plain": ALT}, metadata={"image/png": {"alt": ALT}})
    page.cells[-1].outputs = [figure]
    return page


# --- from source to notebook ----------------------------------------------------------------------------------------


def test_generated_page_opens_on_colab_and_installs_dtta_there(site):
    project = Project(site)
    page = project.generate("01_good")
    assert page.cells[0].source.startswith("# 01. A good page")
    link = "https://colab.research.google.com/github/someone/somewhere/blob/v9.9.9/notebooks/01_good.ipynb"
    assert link in page.cells[1].source
    install = page.cells[2].source
    assert 'if "google.colab" in sys.modules:' in install
    assert re.findall(r"^    %pip (.*)$", install, re.MULTILINE) == [
        "uninstall -q -y torchao",
        'install -q --no-deps "torchmetrics>=1.8,<2" lightning-utilities "adjustText>=1.3" '
        '"dtta @ git+https://github.com/someone/somewhere@v9.9.9"',
    ]
    assert page.metadata.kernelspec.name == "python3"
    assert "accelerator" not in page.metadata  # nothing on this page needs a GPU
    assert nbformat.writes(page) == nbformat.writes(project.generate("01_good"))


@pytest.mark.parametrize("released", [True, False])
def test_install_cell_takes_the_branch_and_says_so_where_there_is_no_tag(site, released, monkeypatch, capsys):
    lines = []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if released else None)
    code = TransformerManager().transform_cell(Project(site).install())
    exec(code, {"get_ipython": lambda: SimpleNamespace(run_line_magic=lambda magic, line: lines.append(line))})
    assert [line.rpartition("@")[2] for line in lines[1:]] == (['v9.9.9"'] if released else ['v9.9.9"', 'main"'])
    assert ("has no tag v9.9.9: installing the branch main instead" in capsys.readouterr().out) != released


def test_page_without_title_or_parameters_is_refused(site):
    source = site / "notebooks" / "src" / "01_good.py"
    text = source.read_text(encoding="utf-8")
    source.write_text(text.replace("# # A good page", "# A page"), encoding="utf-8")
    with pytest.raises(PageError, match="01_good: the first cell must be markdown that starts with '# Title'"):
        call(site, "run")
    source.write_text(text.replace(' tags=["parameters"]', ""), encoding="utf-8")
    with pytest.raises(PageError, match="01_good: need one code cell tagged parameters, found 0"):
        call(site, "run")


# --- running --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "m=1"], "01_good: unknown parameter m; the page has n, scale"),
        (["-p", "n"], "-p takes key=value, got 'n'"),
        (["07"], "no page '07'; there are 01_good"),
        (["--out", "notebooks"], "a page never runs in place"),
        (["--out", "notebooks/src"], "a page never runs in place"),
    ],
)
def test_wrong_call_stops_before_anything_runs(site, monkeypatch, arguments, message):
    monkeypatch.chdir(site)
    before = files(site)
    with pytest.raises(PageError, match=re.escape(message)):
        call(site, "run", *arguments)
    assert files(site) == before


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ("mini: {all: {typo: 1}}", "01_good: unknown parameter typo"),
        ("mini: {01_good: {typo: 1}}", "01_good: unknown parameter typo"),
        ("mini: {01_gone: {n: 1}}", "profiles.yml, mini: no page 01_gone"),
        ("full: {}", "no profile 'mini' in notebooks/profiles.yml"),
    ],
)
def test_wrong_profile_stops_before_anything_runs(site, profiles, message):
    (site / "notebooks" / "profiles.yml").write_text(profiles, encoding="utf-8")
    with pytest.raises(PageError, match=re.escape(message)):
        call(site, "run")
    assert not (site / "_build").exists()


def test_profile_and_extra_parameters_add_up(site):
    project = Project(site)
    assert project.settings("01_good", "mini") == {}
    assert project.settings("01_good", "full") == {"scale": "full", "n": 7}
    assert project.settings("01_good", "full", {"n": 1}) == {"scale": "full", "n": 1}


def test_run_leaves_the_sources_alone_and_passes_the_check(ran):
    sources = HERE / "fixtures" / "site"
    assert {k: v for k, v in files(ran).items() if k in files(sources)} == files(sources)
    project = Project(ran)
    assert check_folder(project, ran / "_build" / "executed" / "mini") == []
    assert check_folder(project, ran / "notebooks") == []
    page = nbformat.read(ran / "notebooks" / "01_good.ipynb", as_version=4)
    assert page.cells[4].outputs[0].text == "mini 3 1 1 0\n"
    assert "papermill" not in nbformat.writes(page)


def test_failed_run_keeps_its_notebook_names_page_and_cell_and_lets_the_others_finish(site, capsys):
    (site / "notebooks" / "src" / "02_fails.py").write_text(
        '# %% [markdown]\n# # Fails\n\n# %% tags=["parameters"]\nn = 1\n\n'
        "# %%\nimport os\nprint('files here:', os.listdir('.'))\n\n# %%\n1 / 0\n",
        encoding="utf-8",
    )
    (site / "notebooks" / "src" / "03_quick.py").write_text(
        '# %% [markdown]\n# # Quick\n\n# %% tags=["parameters"]\nn = 1\n', encoding="utf-8"
    )
    with pytest.raises(PageError) as stop:
        call(site, "run", "02", "03", "-p", "n=2")
    message = str(stop.value)
    assert "02_fails: code cell 5 ('1 / 0') failed: ZeroDivisionError: division by zero" in message
    kept = site / "_build" / "executed" / "mini" / "02_fails.ipynb"
    assert str(kept) in message
    assert "files here: []" in kept.read_text(encoding="utf-8")  # pages run in an empty folder
    assert kept.with_name("03_quick.ipynb").exists()
    assert re.search(r"02_fails +\d+\.\d s  FAILED", capsys.readouterr().out)
    with pytest.raises(PageError):
        call(site, "publish", "02")
    # a run with other parameters is a run, but not the page that readers open
    with pytest.raises(PageError, match="03_quick: differs from its source from cell 5 on"):
        call(site, "publish", "03")
    assert not list((site / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
def test_ref_changes_badge_and_install_cell_and_keeps_the_outputs(published):
    path = published / "notebooks" / "01_good.ipynb"
    before = nbformat.read(path, as_version=4)
    call(published, "ref", "v10.0.0")
    after = nbformat.read(path, as_version=4)
    assert "/blob/v10.0.0/notebooks/" in after.cells[1].source
    assert "@v10.0.0" in after.cells[2].source
    assert not re.search("v9.9.9", path.read_text(encoding="utf-8"))
    assert [cell.get("outputs") for cell in before.cells] == [cell.get("outputs") for cell in after.cells]
    with pytest.raises(PageError, match="'v1 x' is not a tag or branch"):
        call(published, "ref", "v1 x")


def test_two_runs_publish_the_same_bytes(published):
    before = (published / "notebooks" / "01_good.ipynb").read_bytes()
    call(published, "run")
    call(published, "publish")
    assert (published / "notebooks" / "01_good.ipynb").read_bytes() == before


def test_clean_joins_streams_and_ids_depend_on_the_text_alone():
    def page(*texts):
        cell = new_code_cell("print(1)", execution_count=1, outputs=[new_output("stream", text=t) for t in texts])
        return new_notebook(cells=[cell, new_markdown_cell("twice"), new_markdown_cell("twice")])

    one, two = clean(page("a\n", "b\n")), clean(page("a\nb\n"))
    assert nbformat.writes(one) == nbformat.writes(two)
    assert len({cell.id for cell in one.cells}) == 3


# --- our own check --------------------------------------------------------------------------------------------------


def _stream(text, name="stdout"):
    return lambda page, path: page.cells[-1].outputs.append(new_output("stream", text=text, name=name))


def _source(index, text):
    def spoil(page, path):
        page.cells[index].source = text(page.cells[index].source) if callable(text) else text

    return spoil


def _html(text):
    return lambda page, path: page.cells[-1].outputs.append(new_output("display_data", {"text/html": text}))


def _figure(mime, metadata):
    def spoil(page, path):
        page.cells[-1].outputs = [new_output("display_data", {mime: PNG}, metadata={mime: metadata})]

    return spoil


def _set(index, key, value):
    return lambda page, path: page.cells[index].__setitem__(key, value)


DEFECTS = {
    "never ran": (_set(-1, "execution_count", None), "cells did not run once each and in order"),
    "ran twice": (_set(-1, "execution_count", 9), "cells did not run once each and in order"),
    "error": (
        lambda page, path: page.cells[-1].outputs.append(
            new_output("error", ename="KeyError", evalue="", traceback=[])
        ),
        "ended in an error, KeyError",
    ),
    "stderr": (_stream("careful\n", "stderr"), "wrote to stderr: careful"),
    "path": (_stream("saved in /home/me/runs/a.txt"), "holds an absolute path: /home/me/runs/a.txt"),
    "windows path": (_stream(r"saved in C:\Users\me"), "holds an absolute path"),
    "path in html": (_html("<td>/tmp/xyz</td>"), "holds an absolute path: /tmp/xyz"),
    "token": (_stream("hf_" + "A" * 30), "holds an access token: hf_AAA…"),
    "address": (_stream("<Figure at 0x7f0011223344>"), "holds a memory address"),
    "too large": (_stream("x" * 3_000_001), "is 3.0 MB; the limit is 3 MB"),
    "no alt": (_figure("image/png", {}), "a figure without alt text"),
    "short alt": (_figure("image/png", {"alt": "plot"}), "a figure without alt text"),
    "svg": (_figure("image/svg+xml", {"alt": ALT}), "an SVG figure"),
    "two figures": (lambda p, _: p.cells[-1].outputs.append(p.cells[-1].outputs[0]), "2 figures in one cell"),
    "html image": (_html('<img src="data:,">'), "an image without alt text"),
    "markdown image": (_source(0, lambda s: s + "\n![](a.png)"), "an image without alt text"),
    "other source": (_source(4, lambda s: s + "\nprint(1)"), "differs from its source from cell 5 on"),
    "cell lost": (lambda page, path: page.cells.pop(), "differs from its source from cell 8 on"),
    "colab link": (_source(1, lambda s: s.replace("someone", "nobody")), "its Colab link is"),
    "no colab link": (_source(1, "gone"), "its Colab link is missing"),
    "parameters": (lambda page, path: page.cells[3].metadata.tags.clear(), "need one code cell tagged parameters"),
    "kernel": (lambda page, path: page.metadata.kernelspec.update(name="julia"), "its kernel is not python3"),
    "accelerator": (lambda page, path: page.metadata.update(accelerator="GPU"), "only pages 11 and 12 ask Colab"),
    "papermill": (lambda page, path: page.metadata.update(papermill={}), "carries papermill's metadata"),
    "opt-out": (_set(4, "metadata", {"tags": ["nbval-ignore-output"]}), "opts out of the comparison without a reason"),
    "opt-out comment": (
        _source(4, lambda s: "# NBVAL_IGNORE_OUTPUT\n" + s),
        "opts out of the comparison without a reason",
    ),
    "skip": (_source(4, lambda s: "# NBVAL_SKIP\n" + s), "the mark nbval-skip is not for pages"),
    "raises": (_set(4, "metadata", {"tags": ["raises-exception"]}), "the mark raises-exception is not for pages"),
    "empty cell": (_source(4, " "), "is empty"),
    "broken file": (lambda page, path: path.write_text("{", encoding="utf-8"), "is not a valid notebook"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_check_catches(site, defect):
    project = Project(site)
    path = site / "notebooks" / "01_good.ipynb"
    page = executed_without_kernel(project)
    write(page, path)
    assert check_page(project, path, committed=True) == []
    spoil, message = DEFECTS[defect]
    spoil(page, path)
    if defect != "broken file":
        path.write_text(nbformat.writes(page), encoding="utf-8")
    found = check_page(project, path, committed=True)
    assert any(message in sentence for sentence in found), found


def test_check_allows_an_opt_out_with_its_reason_and_harmless_slashes(site):
    source = site / "notebooks" / "src" / "01_good.py"
    text = "# %%\n# NBVAL_IGNORE_OUTPUT\n# not compared: the time depends on the machine\nprint('3 s')\n"
    source.write_text(source.read_text(encoding="utf-8") + text, encoding="utf-8")
    project, path = Project(site), site / "notebooks" / "01_good.ipynb"
    page = executed_without_kernel(project)
    harmless = "a/b and/or https://example.org/home/x and <td>/</td> 1/2\n"
    page.cells[-1].outputs.append(new_output("stream", text=harmless))
    write(page, path)
    assert check_page(project, path, committed=True) == []


def test_check_catches_missing_pages_sources_and_chapters(site):
    project, path = Project(site), site / "notebooks" / "01_good.ipynb"
    assert check_folder(project, project.notebooks) == ["01_good: no notebook: run and publish it"]
    write(executed_without_kernel(project), path)
    shutil.copy(path, path.with_name("09_orphan.ipynb"))
    shutil.copy(project.sources / "01_good.py", project.sources / "02_new.py")
    found = "\n".join(check_folder(project, project.notebooks))
    assert "09_orphan: has no source notebooks/src/09_orphan.py" in found
    assert "_toc.yml lists ['01_good'], notebooks/src has ['01_good', '02_new']" in found
    assert "02_new: no notebook: run and publish it" in found
    with pytest.raises(PageError, match="09_orphan"):
        call(site, "check")


# --- nbval with the tolerance ---------------------------------------------------------------------------------------

PRINTED = "seed 3.1\n"
DATA = {"text/plain": "accuracy 71.3% of 300", "text/html": "<p>accuracy 71.3% of 300</p>"}
FIGURE = {"image/png": PNG, "text/plain": "a figure"}
FIGURE["text/html"] = f'<img src="data:image/png;base64,{PNG}" alt="a figure"><script>\nplay()</script>'


def _change(old, new):
    """Replace a text in the printed line and in both forms of the line with a tolerance."""

    def edit(outputs):
        outputs[0].text = outputs[0].text.replace(old, new)
        outputs[1].data = {mime: text.replace(old, new) for mime, text in outputs[1].data.items()}

    return edit


def _replace_html(output, old, new):
    output.data["text/html"] = output.data["text/html"].replace(old, new)


EDITS = {  # changes of the committed outputs, and whether the comparison then passes
    "same": (lambda outputs: None, True),
    "inside": (_change("71.3", "71.6"), True),
    "outside": (_change("71.3", "72.6"), False),
    "whole inside": (_change("300", "302"), True),
    "whole outside": (_change("300", "303"), False),
    "words": (_change("accuracy", "score"), False),
    "exact": (_change("seed 3.1", "seed 3.2"), False),
    "html outside": (lambda outputs: outputs[1].data.update({"text/html": "<p>accuracy 72.6% of 300</p>"}), False),
    "no tolerance": (lambda outputs: outputs[1].update(metadata={}), False),
    "other tolerance": (lambda outputs: outputs[1].metadata.dtta.update(tolerance=5.0), False),
    "missing": (lambda outputs: outputs.pop(), False),
    "extra": (lambda outputs: outputs.append(new_output("stream", text="more\n", name="stderr")), False),
    "image lost": (lambda outputs: outputs[2].data.pop("image/png"), False),
    "other image in html": (lambda outputs: _replace_html(outputs[2], PNG, PNG[:40] + PNG[40:].swapcase()), True),
    "other script in html": (lambda outputs: _replace_html(outputs[2], "play()", "pause()"), True),
    "other words in html": (lambda outputs: _replace_html(outputs[2], "a figure", "another"), False),
    "other image": (lambda outputs: outputs[2].data.update({"image/png": PNG[:40] + PNG[40:].swapcase()}), True),
}


@pytest.mark.slow
def test_nbval_fails_on_every_edit_outside_the_tolerance(tmp_path):
    """One notebook: a kernel's start takes longer than all cells."""
    metadata = {"dtta": {"tolerance": 0.5, "whole": 2}}
    source = f"""from IPython.display import display
print({PRINTED!r}, end="")
display({DATA!r}, metadata={metadata!r}, raw=True)
display({FIGURE!r}, raw=True)"""
    cells = []
    for count, (edit, _) in enumerate(EDITS.values(), 1):
        outputs = [
            new_output("stream", text=PRINTED),
            new_output("display_data", dict(DATA), metadata=json.loads(json.dumps(metadata))),
            new_output("display_data", dict(FIGURE)),
        ]
        edit(outputs)
        cells.append(new_code_cell(source, execution_count=count, outputs=outputs))
    page = new_notebook(cells=cells)
    page.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(page, tmp_path / "edits.ipynb")
    plugins = ["--nbval", "-p", "tools.pages.nbval_plugin", "-p", "no:cacheprovider"]
    env = {**environment(), "PYTHONPATH": str(CHECKOUT)}
    (tmp_path / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", *plugins, "-rA", tmp_path]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=False, encoding="utf-8")
    passed = {int(number) for number in re.findall(r"^PASSED .*::Cell (\d+)", done.stdout, re.MULTILINE)}
    assert passed == {number for number, (_, good) in enumerate(EDITS.values()) if good}, done.stdout


@pytest.mark.slow
def test_verify_fails_the_edited_cell_of_a_published_page_only(published, capfd):
    path = published / "notebooks" / "01_good.ipynb"
    inside = path.read_text(encoding="utf-8").replace("accuracy 71.3%", "accuracy 71.6%")
    path.write_text(inside.replace("mini 3 1 1 0", "mini 3 1 1 5"), encoding="utf-8")
    with pytest.raises(PageError, match="a fresh run does not give the committed outputs"):
        call(published, "verify")
    shown = capfd.readouterr().out
    assert "mini 3 1 1 5" in shown and "71.6" not in shown
    assert "1 failed, 4 passed" in shown


# --- the book's staging copy ----------------------------------------------------------------------------------------


def test_stage_gives_the_book_each_figures_alt_text(site):
    project = Project(site)
    write(executed_without_kernel(project), site / "notebooks" / "01_good.ipynb")
    before = files(site)
    book.stage(project, site / "_build" / "site", project.notebooks)
    staged = nbformat.read(site / "_build" / "site" / "notebooks" / "01_good.ipynb", as_version=4)
    assert staged.cells[-1].metadata.mystnb.image.alt == ALT
    assert {k: v for k, v in files(site).items() if not k.startswith("_build")} == before


def test_build_without_executed_pages_says_so(site):
    with pytest.raises(PageError, match=r"01_good: no notebook in .*; run the page first"):
        call(site, "build")


@pytest.mark.slow
def test_build_is_strict(site):
    project = Project(site)
    write(executed_without_kernel(project), site / "notebooks" / "01_good.ipynb")
    call(site, "build", "--committed")
    html = (site / "_build" / "html" / "notebooks" / "01_good.html").read_text(encoding="utf-8")
    assert f'alt="{ALT}"' in html
    (site / "book" / "intro.md").write_text(
        "# Introduction\n\nA page: {doc}`../notebooks/02_gone`.\n", encoding="utf-8"
    )
    with pytest.raises(PageError, match="unknown document"):
        call(site, "build", "--committed")


def test_the_commands_start_without_torch():
    """It takes longer to import than most of them to run."""
    code = "import sys; import tools.pages.commands; print({'torch', 'diffusers', 'matplotlib'} & set(sys.modules))"
    options = dict(cwd=CHECKOUT, capture_output=True, check=True, encoding="utf-8")
    assert subprocess.run([sys.executable, "-c", code], **options).stdout == "set()\n"

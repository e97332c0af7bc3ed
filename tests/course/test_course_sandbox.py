"""Where submissions run: what a stranger's code can and cannot do there, and that ending early earns no points."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import nbformat
import psutil
import pytest
import torch
from nbconvert.exporters import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from dtta.course.runner import transforms, values
from dtta.course.staff import execute, grade, harmless, sandbox
from dtta.course.staff.execute import LockedExecute
from dtta.course.staff.remote import NotGraded
from dtta.course.staff.source import FOLDER, CourseError

ROOT = Path(__file__).resolve().parents[2]
KIND = next(filter(sandbox.works, sandbox.KINDS), "none")
HERE = [kind for kind in sandbox.KINDS if sandbox.works(kind)]

REACH = """
import os, pathlib, socket
places = [{places}]
print("seen:", [p for p in places if os.path.isdir(p) and os.listdir(p)])
for place in [*places, "/etc", "/usr", "/dev", "/dev/shm", {package!r}]:
    try:
        open(os.path.join(place, "dtta-was-here"), "w").write("x")
        print("wrote", place)
    except OSError:
        pass
try:
    socket.create_connection(("127.0.0.1", {port}), 2)
    print("connected")
except OSError:
    print("no network")
print("writable:", [p for p in ("/", "/dev", "/proc/sys", "/sys") if not os.statvfs(p).f_flag & os.ST_RDONLY])
print("secret" in os.environ.get("DTTA_SECRET", ""))
print(os.getuid())
pathlib.Path("mine").write_text("may write here")
"""


def run(cells, kind, **limits):
    notebook = new_notebook(cells=[new_code_cell(text) for text in cells])
    LockedExecute(kind=kind, **limits).preprocess(notebook, {})
    return notebook.cells


def said(cell):
    return "".join(o.get("text", "") + o.get("evalue", "") + str(o.get("data", "")) for o in cell.outputs)


def failed(cell):
    return any(output.output_type == "error" for output in cell.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", HERE)
def test_a_strangers_code_is_kept_in(kind, tmp_path, monkeypatch):
    course = tmp_path / "course"
    course.mkdir()
    (course / "gradebook.db").write_text("all scores", encoding="utf-8")
    monkeypatch.setenv("DTTA_SECRET", "secret")
    with socket.create_server(("127.0.0.1", 0)) as server:  # a port that would answer
        port = server.getsockname()[1]
        places = (course, ROOT / FOLDER, Path.home() / ".ssh", tmp_path, "/run", "/var", "/home")
        places = ", ".join(repr(str(p)) for p in places)
        reach = REACH.format(places=places, package=str(ROOT / "dtta"), port=port)
        hide = [str(course), str(ROOT / FOLDER)]
        loops = ["while True:\n    pass", "while True:\n    print('x' * 1000)"]
        cells = run(
            [reach, *loops, "x = bytearray(10**10)", "6 * 7", "import os\nos._exit(0)", "pass"],
            kind,
            hide=hide,
            cell_seconds=8,
            megabytes=2000,
        )
    lines = said(cells[0]).split("\n")
    assert lines[:5] == ["seen: []", "wrote /dev/shm", "no network", "writable: []", "False"]
    assert not Path("/dev/shm/dtta-was-here").exists(), "what it has there is a folder of its own"
    if os.geteuid() == 0:
        assert lines[5] == str(sandbox.NOBODY)
    assert failed(cells[1])
    assert failed(cells[2]) and len(said(cells[2])) < 200_000
    assert "MemoryError" in str(cells[3].outputs)
    assert "42" in said(cells[4]), "what went wrong in one cell does not stop the others"
    assert failed(cells[5]), "a cell that did not come to its end has failed"
    assert not failed(cells[6])
    assert not list(tmp_path.rglob("dtta-was-here")) and not (ROOT / "dtta" / "dtta-was-here").exists()


MANY = """
import os, time
for _ in range({many}):
    if not os.fork():
        x = bytearray(os.urandom(10)) * {size}
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "megabytes", "words"),
    [
        (MANY.format(many=150, size=1), 4000, "more than 100 processes"),
        (MANY.format(many=4, size=10**8), 3000, "more than 3000 MB of memory"),
        (
            "for i in range(12):\n    open(f'{i}', 'wb').truncate(95 * 2**20)\nimport time; time.sleep(60)",
            4000,
            "more than 1000 MB on disk",
        ),
        (
            "for i in range(12):\n    open(f'/dev/shm/{i}', 'wb').truncate(95 * 2**20)\nimport time; time.sleep(60)",
            4000,
            "more than 1000 MB on disk",
        ),
    ],
    ids=["processes", "memory", "disk", "shared memory"],
)
def test_many_small_takers_are_stopped_together(cell, megabytes, words):
    """No process of these takes more than it may; nothing that they started is left behind."""
    if "/dev/shm" in cell and KIND not in ("bubblewrap", "unshare"):
        pytest.skip("containers limit /dev/shm by themselves; without a sandbox it is the machine's")
    started, before = time.monotonic(), set(psutil.Process().children(recursive=True))
    cells = run([cell, "print(6 * 7)"], KIND, cell_seconds=50, megabytes=megabytes)
    assert time.monotonic() - started < 90
    assert failed(cells[0]) and words in said(cells[0])
    assert said(cells[1]) == "42\n", "the next cell runs as if nothing had been"
    assert set(psutil.Process().children(recursive=True)) <= before


def test_what_cannot_run_is_not_graded(monkeypatch):
    monkeypatch.setattr(sandbox, "command", lambda *_: ["sh", "-c", "echo no torch here >&2; exit 1"])
    with pytest.raises(NotGraded, match="the sandbox does not start: no torch here"):
        run(["pass"], "none")
    with pytest.raises(grade.NoSandbox, match=r"nothing was graded, .* 'none': .*no torch here"):
        grade._probe("none")


def test_a_submission_whose_sandbox_ends_is_run_once_more(monkeypatch):
    """What ended it may have been an accident. If not, the cells that did not run have failed."""
    made = []

    class Broken:
        ended = "out of memory"

        def __init__(self, *_):
            made.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def cell(self, *_):
            return [], "the submission's processes ended: out of memory"

    monkeypatch.setattr(execute, "Runner", Broken)
    (cell,) = run(["pass"], "none")
    assert len(made) == 2 and failed(cell) and "out of memory" in said(cell)


@pytest.mark.slow
@pytest.mark.parametrize("how", [".pth", "PYTHONPATH"])
def test_libraries_may_come_from_anywhere(how, tmp_path):
    """An environment with nothing of its own, in a folder that is hidden, and no program on the PATH."""
    venv.create(tmp_path / "env")
    libraries = sysconfig.get_path("purelib")
    (folder,) = (tmp_path / "env").glob("lib/python3*/site-packages")
    paths = [str(ROOT)]
    if how == ".pth":
        (folder / "shared.pth").write_text(f"{libraries}\n", encoding="utf-8")
    else:
        paths.append(libraries)
    code = "import nbgrader.api\nfrom dtta.course.staff import build, grade\nbuild.grader('.')\n"
    code += f"print(nbgrader.api.get_alembic_version(), grade._probe({KIND!r}))"
    done = subprocess.run(
        [tmp_path / "env" / "bin" / "python", "-c", code],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": os.pathsep.join(paths), "HOME": str(Path.home())},
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    assert re.search(r"^[0-9a-f]{12} True$", done.stdout, re.MULTILINE), done.stderr


@pytest.mark.parametrize("program", ["docker", "podman"])
def test_containers_get_no_network_and_limits(program, tmp_path, monkeypatch):
    """No container engine runs in this test: a program of its name writes down how it is called."""
    fake = tmp_path / "bin" / program
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/called\n', encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
    sandbox.works.cache_clear()
    sandbox.choose.cache_clear()
    try:
        assert sandbox.choose() == program, "a container is preferred"
        assert (tmp_path / "called").read_text(encoding="utf-8") == "image inspect dtta-course\n"
        argv = sandbox.command(program, tmp_path, [], ["-m", "x"], 1000)
        if os.geteuid() == 0:
            assert f"--user {sandbox.NOBODY}:{sandbox.NOBODY}" in " ".join(argv)
        subprocess.run(argv, check=True)
        called = (tmp_path / "called").read_text(encoding="utf-8").splitlines()[-1]
        for part in ("run --rm", "--network none", "--memory 1000m", "--pids-limit", "--read-only", "--cap-drop ALL"):
            assert part in called
        assert called.endswith("dtta-course python -m x")
        assert called.count("--volume") == 1 and f"--volume {tmp_path}:{tmp_path}" in called
    finally:
        sandbox.works.cache_clear()
        sandbox.choose.cache_clear()


def test_without_a_sandbox_nothing_runs_unless_asked_for(monkeypatch):
    monkeypatch.setattr(sandbox, "works", lambda kind: False)
    sandbox.choose.cache_clear()
    try:
        with pytest.raises(CourseError, match=r"there is no sandbox here .* say --sandbox none"):
            sandbox.choose()
        with pytest.raises(CourseError, match="'docker' does not work here"):
            sandbox.choose("docker")
        assert sandbox.choose("none") == "none"
    finally:
        sandbox.choose.cache_clear()


def test_no_script_of_a_submission_reaches_a_page():
    """Neither in words, outputs, pictures, attachments nor in what belongs to the whole notebook."""
    bad = "alert(1)"
    words = new_markdown_cell(
        f"If $a <b$, then **c** <https://x.org>. <details><summary>More</summary>x</details>\n\n"
        f"> a <script>{bad}</script>\n\n<img src=x onerror={bad}> <IMG SRC=x ONERROR={bad}> <svg/onload={bad}> "
        f"<b onclick={bad}>b</b> <a href='j:{bad}'>",
        attachments={"a.png": {"image/png": "aGk=", "text/html": bad}, f'"{bad}': {"image/png": "aGk="}},
    )
    shows = f"from IPython.display import *\ndisplay(HTML('<script>{bad}</script>'))\ndisplay(Javascript('{bad}'))\n"
    shows += f"display({{'image/png': '\" onerror={bad} \"', 'image/svg+xml': '<svg onload={bad}/>'}}, raw=True)"
    notebook = new_notebook(cells=[words, new_code_cell(shows)], metadata={"title": f"<script>{bad}</script>"})
    LockedExecute(kind="none").preprocess(notebook, {})
    nbformat.validate(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    shown = re.sub(r'<div class="[^"]*highlight.*?</pre>', "", page, flags=re.DOTALL)  # the code, which is escaped
    tags = re.findall(r"<[A-Za-z!/?][^>]*>", shown)
    assert not [tag for tag in tags if bad in tag] and f"<script>{bad}" not in page
    assert "<blockquote>" in page and "<summary>More</summary>" in page and 'href="https://x.org"' in page
    assert {name: list(data) for name, data in words.attachments.items()} == {
        "picture-0": ["image/png"],
        "picture-1": ["image/png"],
    }


@pytest.mark.parametrize(
    "words",
    [
        "[x](javascript:alert(1))",
        "[x]( <javascript:alert(1)>)",
        "[x](java&#115;cript:alert(1))",
        "[x](JavaScript:alert(1))",
        "[![](https://x.org/a.png)](javascript:alert(1))",
        "[x][1]\n\n[1]: javascript:alert(1)",
        "[x][1]\n\n[1]:\n  vbscript:alert(1)",
        "[x](data:text/html,alert(1))",
        "<javascript:alert(1)>",
    ],
)
def test_no_link_of_a_submission_runs_a_script(words):
    cell = new_markdown_cell(words + "\n\n[good](https://x.org/a_(b)) and [here](#part)")
    notebook = new_notebook(cells=[cell])
    harmless.clean(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    links = re.findall(r'(?:href|src)="([^"]*)"', page[page.index("<body") :])
    assert not [link for link in links if "alert" in link]
    assert {"https://x.org/a_(b)", "#part"} <= set(links)


@pytest.mark.parametrize("kind", ["png", "gif", "webp", "bmp"])
@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.png", "(attachment:a.png)"),
        ("image (1).png", "(<attachment:image (1).png>)"),
        ("image (1).png", "(attachment:image%20(1).png)"),
    ],
)
def test_a_picture_in_an_answer_is_shown_or_left_out(kind, name, written):
    cell = new_markdown_cell(f"See ![my figure]{written} and ![lost](attachment:lost.png).")
    cell.attachments = {name: {f"image/{kind}": "aGk="}}
    notebook = new_notebook(cells=[cell])
    harmless.clean(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert (f"data:image/{kind};base64,aGk=" in page) == (kind != "bmp")
    assert "my figure" in page and "lost" in page


@pytest.mark.parametrize("kind", ["bubblewrap", "unshare"])
def test_what_is_hidden_stays_hidden_in_an_environment_behind_a_link(kind, tmp_path, monkeypatch):
    real, link = tmp_path / "data" / "env", tmp_path / "env"
    (real / "lib" / "course").mkdir(parents=True)
    link.symlink_to(real)
    monkeypatch.setattr("sys.prefix", str(link))
    words = " ".join(sandbox.command(kind, tmp_path, [real / "lib" / "course"], []))
    for path in (link, real):
        assert re.search(rf"tmpfs (tmpfs )?{path}/lib/course\b", words), "covered under both names"


def test_the_gradient_of_a_call_can_be_mapped_alone():
    """torch.func.jacrev maps the gradients, not the call."""
    x, w = torch.randn(3), torch.randn(4, 3)
    jacobian = torch.func.jacrev(lambda v: transforms.call(lambda a: (w @ a).tanh(), (v,), {}))(x)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(lambda v: (w @ v).tanh(), x))


def test_a_tensor_that_arrives_is_no_view():
    """As in a notebook: torch's message on changing a leaf in place differs for views."""
    reader = values.Reader(None, [torch.ones(6).numpy().tobytes()], [])
    made = reader.tree(["value", ["float32", [2, 3], 0], True])
    assert not made._is_view() and made.requires_grad and torch.equal(made, torch.ones(2, 3))


def test_a_course_is_built_where_no_limits_can_be_set():
    """Windows has no module resource; only grading needs it."""
    code = "import sys, psutil, torch, IPython; sys.modules['resource'] = None; from dtta.course.staff import build"
    subprocess.run([sys.executable, "-c", code], check=True)

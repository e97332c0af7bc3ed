"""A lecturer in nbgrader's formgrader: clicks to an answer in words, gives points and a comment, and grades again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from trip import ROOT, SANDBOX

from dtta.cli import main
from dtta.course.staff import build, dates, grade

NAME = "a1_words"


def words(text: str) -> nbformat.NotebookNode:
    """A notebook with one answer in words, worth four points."""
    about = {"grade": True, "grade_id": "why", "locked": False, "points": 4, "schema_version": 3, "solution": True}
    answer = new_markdown_cell(text, id="why", metadata={"nbgrader": {**about, "task": False, "cell_type": "markdown"}})
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return new_notebook(cells=[new_code_cell("print(6 * 7)", id="run"), answer], metadata=kernel)


@pytest.fixture
def course(tmp_path):
    build.write(words("### BEGIN SOLUTION\nBecause.\n### END SOLUTION"), tmp_path / "source" / "a1" / f"{NAME}.ipynb")
    (tmp_path / "nbgrader_config.py").write_text(build.CONFIG, encoding="utf-8")
    build.must(build.grader(tmp_path).generate_assignment("a1", force=True), "generate_assignment")
    build.write(words("Noise hides it."), tmp_path / "submitted" / "ada" / "a1" / f"{NAME}.ipynb")
    assert main(["course", "grade", str(tmp_path), "--sandbox", SANDBOX]) == 0
    return tmp_path


@pytest.fixture
def server(course):
    """Jupyter in the course folder, as a lecturer starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True", "--ServerApp.port_retries=0"]
    command += ["--ServerApp.jpserver_extensions={'jupyterlab': False, 'jupyter_lsp': False}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1"}
    with (course / "server.log").open("w", encoding="utf-8") as log:
        running = subprocess.Popen(command, cwd=course, env=environment, stdout=log, stderr=log)
        address = f"http://127.0.0.1:{port}/formgrader"
        try:
            for _ in range(240):
                try:
                    urllib.request.urlopen(f"{address}/gradebook", timeout=30)
                    break
                except OSError:
                    assert running.poll() is None, (course / "server.log").read_text(encoding="utf-8")
                    time.sleep(0.5)
            yield address
        finally:
            running.kill()  # it runs no kernel; asked to stop, it can take long on a busy machine
            running.wait()


def saved(address: str):
    """Recognise the answer to a change that the page sends to this address."""
    return lambda response: address in response.url and response.request.method == "PUT"


@pytest.mark.slow
@pytest.mark.browser
def test_points_given_in_the_formgrader_stay_when_the_submission_is_graded_again(course, server, browser):
    assert [score.points for score in grade.scores(course, "a1")] == [None]
    page = browser.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"{server}/gradebook")
    page.get_by_role("link", name="a1", exact=True).click()
    page.get_by_role("link", name=NAME, exact=True).click()
    page.get_by_role("link", name="Submission #1").click()
    page.wait_for_load_state("networkidle")  # the page saves changes only after it has read the present points
    field = page.locator("input.score")
    assert "Noise hides it." in page.inner_text("body") and field.input_value() == ""
    with page.expect_response(saved("/api/grade/")):
        field.fill("3")
        field.press("Tab")
    with page.expect_response(saved("/api/comment/")):
        page.locator("textarea.comment").fill("Which noise level?")
        page.locator("textarea.comment").blur()
    page.reload()
    page.wait_for_function("document.querySelector('input.score').value === '3'")
    page.close()
    assert [score.points for score in grade.scores(course, "a1")] == [3]

    assert main(["course", "grade", str(course), "--sandbox", SANDBOX, "--again"]) == 0
    assert [score.points for score in grade.scores(course, "a1")] == [3]
    assert "Which noise level?" in next((course / "feedback").rglob("*.html")).read_text(encoding="utf-8")
    (total,) = dates.totals(course, "a1", grade.scores(course, "a1"), dates.read(course))
    assert (total.raw, total.points, total.note) == (3, 3, "")

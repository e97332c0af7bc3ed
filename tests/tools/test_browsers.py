"""Runs without Chromium: tests in a browser are left out and named, or fail if a browser is required."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]


@pytest.fixture
def pytest_without_chromium(tmp_path):
    """Return a function that runs two tests, one of them in a browser, with a PATH that has no browser."""
    (tmp_path / "test_small.py").write_text(
        "import browsers, pytest\n\ndef test_other(): pass\n\n"
        "@pytest.mark.browser\ndef test_page(): assert browsers.path(), browsers.MISSING\n",
        encoding="utf-8",
    )
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nmarkers = browser: needs Chromium\naddopts = -ra\n", encoding="utf-8"
    )

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
        environment = {"PATH": str(tmp_path), "PYTHONPATH": str(TESTS), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        environment |= variables
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "xdist",
            "-p",
            "browsers",
            "-p",
            "no:cacheprovider",
            *arguments,
        ]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8")

    return run


def test_without_chromium_the_last_lines_name_the_tests_left_out(pytest_without_chromium):
    done = pytest_without_chromium("-n", "1")  # as make test does, in other processes
    assert done.returncode == 0, done.stdout + done.stderr
    *_, left_out, how, result = done.stdout.strip().splitlines()
    assert left_out == "test_small.py: 1 tests, which open the built pages in a browser"
    assert "apt-get install chromium" in how
    assert "1 passed, 1 skipped" in result


def test_where_a_browser_is_required_its_absence_is_an_error(pytest_without_chromium):
    done = pytest_without_chromium(DTTA_REQUIRE_BROWSER="1")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout and "apt-get install chromium" in done.stdout


def test_with_a_browser_every_test_runs(pytest_without_chromium):
    done = pytest_without_chromium(CHROMIUM="/usr/bin/true")
    assert "2 passed" in done.stdout and "left out" not in done.stdout

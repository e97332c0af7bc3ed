"""A pytest plugin: leave out the tests marked `browser` if Chromium is missing, and say so at the end of the run.

With DTTA_REQUIRE_BROWSER=1, as .ci/run sets it, they run and fail instead.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter

import pytest

COMMANDS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
MISSING = "Chromium is missing; install it (apt-get install chromium) or name a browser in CHROMIUM"


def path() -> str | None:
    """Return the browser's command; None: there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, COMMANDS)), None)


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium, one for all tests of a process: Playwright cannot be started twice in it."""
    from playwright.sync_api import sync_playwright

    assert path(), MISSING
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path(), args=FLAGS, headless=True)
        yield opened
        opened.close()


def pytest_collection_modifyitems(items):
    if path() is None and os.environ.get("DTTA_REQUIRE_BROWSER") != "1":
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=MISSING))


@pytest.hookimpl(wrapper=True, tryfirst=True)  # after pytest's own summary
def pytest_terminal_summary(terminalreporter):
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    files = Counter(report.nodeid.partition("::")[0] for report in skipped if MISSING in str(report.longrepr))
    if files:
        terminalreporter.section("tests left out", yellow=True)
        for file, count in files.items():
            terminalreporter.line(f"{file}: {count} tests, which open the built pages in a browser")
        terminalreporter.line(f"{MISSING}.")

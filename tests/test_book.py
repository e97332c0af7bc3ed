"""The built book, opened in headless Chromium: what a reader meets on a screen of 1280 and of 390 pixels."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from _pages import Project  # noqa: E402

PROJECT = Project(ROOT)
DOCUMENTS = PROJECT.toc_files()
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="session")
def html(tmp_path_factory, worker_id) -> Path:
    """The book, built strictly from the committed notebooks; once, whatever the number of processes."""
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "book"
    with FileLock(f"{out}.lock"):
        if not (out / "html").exists():
            command = [sys.executable, ROOT / "tools" / "pages.py", "build", "--committed", "--out", out]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr
    return out / "html"


@pytest.fixture(scope="session")
def address(html):
    """The book as a web server on this machine gives it out."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(html)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    assert path, "these tests need Chromium; install it (apt-get install chromium) or name it in CHROMIUM"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS, headless=True)
        yield opened
        opened.close()


class Visit:
    """A page opened at a width, with everything that went wrong on the way."""

    def __init__(self, browser: Browser, address: str, document: str, width: int, scheme: str = "light") -> None:
        self.page: Page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page.set_default_timeout(120_000)
        self.complaints: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"script error: {error}"))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("response", lambda r: r.ok or r.status == 304 or self.complaints.append(f"{r.status}: {r.url}"))
        self.page.on("request", lambda r: self._outside(r.url, address))
        self.page.goto(f"{address}/{document}.html", wait_until="networkidle")
        # Formulas are set after loading; nothing below may look before.
        self.page.evaluate("async () => { await window.MathJax?.startup?.promise }")

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text}")

    def _outside(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.complaints.append(f"needs the network: {url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_) -> None:
        self.page.close()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_page_loads_with_its_figures_and_formulas(browser, address, document):
    with Visit(browser, address, document, 1280) as visit:
        page = visit.page
        assert page.locator("article h1").count() == 1
        page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        images = page.evaluate("[...document.images].map(i => [i.currentSrc || i.src, i.naturalWidth, i.alt])")
        assert [source for source, width, _ in images if not width] == [], "images that do not load"
        assert [source for source, _, alt in images if not alt.strip()] == [], "images without alt text"
        formulas = page.locator("article .math").count()
        assert page.locator("article .math mjx-container").count() == formulas, "formulas that are not set"
        assert page.locator("mjx-merror, article .problematic").count() == 0
        assert visit.complaints == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_page_reads_well_at_390_pixels(browser, address, document):
    with Visit(browser, address, document, 390) as visit:
        width = visit.page.evaluate("document.documentElement.scrollWidth")
        wide = visit.page.evaluate(
            """() => [...document.querySelectorAll('article *')].filter(element => {
                for (let box = element.parentElement; box; box = box.parentElement)
                    if (getComputedStyle(box).overflowX !== 'visible' && box.localName !== 'html') return false;
                return element.getBoundingClientRect().right > innerWidth + 1;
            }).map(element => element.outerHTML.slice(0, 120))"""
        )
        assert width <= 390, f"the page scrolls sideways to {width} px: {wide[:3]}"
        size = visit.page.evaluate("parseFloat(getComputedStyle(document.querySelector('article p')).fontSize)")
        assert size >= 14
        assert visit.complaints == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_colab_button_is_on_notebook_pages_and_leads_to_the_notebook(browser, address, document):
    with Visit(browser, address, document, 1280) as visit:
        links = visit.page.evaluate("[...document.querySelectorAll('a[href*=\"colab.research\"]')].map(a => a.href)")
        name = document.removeprefix("notebooks/")
        assert set(links) == ({PROJECT.colab(name)} if name != document else set())


@pytest.mark.parametrize("name", PROJECT.pages_in_toc())
def test_figures_have_the_alt_text_their_cell_gave(browser, address, name):
    notebook = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text())
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    given = [output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    assert given, "a page without a figure"
    with Visit(browser, address, f"notebooks/{name}", 1280) as visit:
        assert visit.page.evaluate("[...document.querySelectorAll('.cell_output img')].map(i => i.alt)") == given


BRIGHTNESS = """element => {
    const [r, g, b] = getComputedStyle(document.querySelector(element))[PROPERTY].match(/[\\d.]+/g).map(Number);
    return (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}"""


def brightness(page: Page, element: str, kind: str) -> float:
    return page.evaluate(BRIGHTNESS.replace("PROPERTY", f"'{kind}'"), element)


@pytest.mark.parametrize("document", [DOCUMENTS[0], f"notebooks/{PROJECT.pages_in_toc()[0]}"])
def test_dark_mode_follows_the_reader_and_the_button(browser, address, document):
    with Visit(browser, address, document, 1280, scheme="dark") as visit:
        page = visit.page
        assert brightness(page, "body", "backgroundColor") < 0.2
        assert brightness(page, "article p", "color") > 0.6
        seen = {page.evaluate("document.documentElement.dataset.theme")}
        for _ in range(3):  # the button goes round: system, light, dark
            page.locator("button.theme-switch-button:visible").first.click()
            seen.add(page.evaluate("document.documentElement.dataset.theme"))
            if page.evaluate("document.documentElement.dataset.theme") == "light":
                assert brightness(page, "body", "backgroundColor") > 0.9
                assert brightness(page, "article p", "color") < 0.4
        assert seen == {"dark", "light"}
        assert visit.complaints == []


def test_every_page_can_be_reached_from_the_first(browser, address):
    with Visit(browser, address, DOCUMENTS[0], 1280) as visit:
        links = visit.page.evaluate("[...document.querySelectorAll('.bd-sidebar-primary a')].map(a => a.href)")
        assert {f"{address}/{document}.html" for document in DOCUMENTS} <= {
            link.partition("#")[0] for link in links
        } | {f"{address}/{DOCUMENTS[0]}.html"}


def test_index_leads_to_the_introduction(browser, address):
    with Visit(browser, address, "index", 1280) as visit:
        visit.page.wait_for_url(f"{address}/{DOCUMENTS[0]}.html")

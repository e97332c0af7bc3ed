"""The built book, opened in headless Chromium: what a reader meets on a screen of 1280 and of 390 pixels."""

from __future__ import annotations

import functools
import http.server
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from bs4 import BeautifulSoup
from filelock import FileLock
from playwright.sync_api import Browser, Page

from dtta.course.staff import source
from tools.pages import course
from tools.pages.project import Project

ROOT = Path(__file__).parents[2]
PROJECT = Project(ROOT)
DOCUMENTS = PROJECT.toc_files()
ASSIGNMENTS = {one.name: one for one in course.assignments(PROJECT).values()}
PAGES = [f"notebooks/{name}" for name in PROJECT.pages_in_toc()]
CHAPTERS = {name: f"a{int(name[:2])}" for name in PROJECT.pages_in_toc() if "01" <= name < "09"}

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="session")
def html(tmp_path_factory, worker_id) -> Path:
    """Build the book strictly from the committed notebooks, once for all test processes."""
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id == "master" else base.parent) / "book"
    with FileLock(f"{out}.lock"):
        if not (out / "html").exists():
            command = [sys.executable, ROOT / "tools" / "pages", "build", "--committed", "--out", out]
            done = subprocess.run(command, capture_output=True, check=False, encoding="utf-8")
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
        self.page.goto(f"{address}/{document}.html", wait_until="load")
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


def colab_links(document: str) -> set[str]:
    """The page and its assignment; of a guide, all assignments."""
    name = document.removeprefix("notebooks/")
    guides = ("book/students", "book/instructors")
    mine = [a for a in ASSIGNMENTS.values() if a.key == CHAPTERS.get(name) or document in guides]
    links = {PROJECT.colab(f"assignments/{one.name}") for one in mine}
    return links | {PROJECT.colab(name)} if name != document else links


def alt_texts(document: str) -> list[str]:
    """Those that the cells of a page gave to their figures."""
    if document not in PAGES:
        return []
    notebook = json.loads((ROOT / f"{document}.ipynb").read_text(encoding="utf-8"))
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    given = [output["metadata"]["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    assert given, "a page without a figure"
    return given


CUT_OFF = """() => [...document.querySelectorAll('article :is(pre, .dtta-table, .pst-scrollable-table-container)')]
    .filter(box => box.offsetParent && box.scrollWidth > box.clientWidth + 1)
    .map(box => box.innerText.trim().slice(0, 60))"""
# What reaches beyond an edge; an element inside a box that scrolls or is clipped does not.
BEYOND = """edge => [...document.querySelectorAll('article *')].filter(element => {
    for (let box = element.parentElement; box; box = box.parentElement)
        if (getComputedStyle(box).overflowX !== 'visible' && box.localName !== 'html') return false;
    return element.getBoundingClientRect().right > edge + 1;
}).map(element => element.outerHTML.slice(0, 120))"""

# A table may scroll in its box, but its caption is to be read without scrolling.
CUT_CAPTIONS = """edge => [...document.querySelectorAll('.dtta-table caption')]
    .filter(caption => caption.getBoundingClientRect().right > edge + 1)
    .map(caption => caption.innerText.slice(0, 60))"""


def check_figures(page: Page, name: str) -> None:
    """Figures have numbers and captions, set-up is folded, and the page has its number in title and sidebar."""
    cells = PROJECT.generate(name, "book").cells
    captions = [c.metadata.mystnb.figure.caption for c in cells if "figure" in c.metadata.get("mystnb", {})]
    shown = page.evaluate("[...document.querySelectorAll('.cell_output figcaption')].map(c => c.innerText)")
    numbers = [text.replace("*", "").partition(". ")[0] for text in captions]
    assert [text.strip().partition(". ")[0] for text in shown] == numbers
    folded = page.locator("article details.above-input")
    assert folded.count() and not folded.first.evaluate("box => box.open")
    assert page.locator("article h1").inner_text().startswith(f"{name[:2]}. ")
    assert f"{name[:2]}. " in page.locator(".bd-sidebar-primary").inner_text()


def check_chapter(page: Page, address: str, html: Path, name: str) -> None:
    """A chapter ends in its self-test and its assignment, and the keyboard opens answers."""
    questions = course.quiz(PROJECT, name[:2])
    one = source.read(ROOT, CHAPTERS[name])
    heads = page.evaluate("[...document.querySelectorAll('article h2')].map(h => h.firstChild.textContent)")
    assert heads[-2:] == ["Test yourself", "Assignment"]
    assert page.locator(".dtta-question").count() == len(questions) == 3
    for box, question in zip(page.locator(".dtta-question").all(), questions, strict=True):
        assert box.locator("li").count() == len(question["options"])
        answer = box.locator("details")
        assert not answer.locator("p").is_visible(), "the answer is to be seen before one has asked for it"
        answer.locator("summary").focus()
        page.keyboard.press("Enter")
        assert answer.locator("p").is_visible()
        assert answer.locator("strong").inner_text() == f"{question['answer']}."
    solution = page.locator(".admonition.solution").first  # that of the exercise, above
    assert not solution.locator("section p").first.is_visible()
    solution.locator("button").focus()
    page.keyboard.press("Enter")
    solution.locator("section p").first.wait_for(state="visible", timeout=5000)
    words = page.locator(".dtta-assignment").inner_text()
    facts = (one.title, f"{one.points} points", f"about {one.minutes} minutes", f"{len(one.tasks)} tasks")
    assert [fact for fact in facts if fact not in words] == []
    assert page.locator(".dtta-assignment li").count() == len(one.tasks)
    link = page.locator(".dtta-assignment a", has_text="Download the notebook").evaluate("a => a.href")
    handed_out = ROOT / "notebooks" / "assignments" / f"{one.name}.ipynb"
    if handed_out.exists():
        copy = html / link.removeprefix(f"{address}/")
        assert copy.read_bytes() == handed_out.read_bytes()
    else:
        assert link == f"{PROJECT.url}/raw/main/notebooks/assignments/{one.name}.ipynb"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_page_loads_whole_and_fits_and_axe_finds_nothing(browser, address, html, document):
    """One visit for all that can be seen without changing the page, since to open it takes most of the time."""
    with Visit(browser, address, document, 1280) as visit:
        page = visit.page
        assert page.locator("article h1").count() == 1
        page.evaluate("document.querySelectorAll('img').forEach(image => { image.loading = 'eager' })")
        page.wait_for_function("[...document.images].every(image => image.complete)")
        images = page.evaluate("[...document.images].map(i => [i.currentSrc || i.src, i.naturalWidth, i.alt])")
        assert [source for source, width, _ in images if not width] == [], "images that do not load"
        assert [source for source, _, alt in images if not alt.strip()] == [], "images without alt text"
        assert page.evaluate("[...document.querySelectorAll('.cell_output img')].map(i => i.alt)") == alt_texts(
            document
        )
        formulas = page.locator("article .math").count()
        assert page.locator("article .math mjx-container").count() == formulas, "formulas that are not set"
        assert page.locator("mjx-merror, article .problematic").count() == 0
        links = page.evaluate("[...document.querySelectorAll('a[href*=\"colab.research\"]')].map(a => a.href)")
        assert set(links) == colab_links(document)
        name = document.removeprefix("notebooks/")
        if document in PAGES:
            check_figures(page, name)
        if name in CHAPTERS:
            check_chapter(page, address, html, name)

        page.set_viewport_size({"width": 390, "height": 900})
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390, f"the page scrolls sideways to {width} px: {page.evaluate(BEYOND, 390)[:3]}"
        assert page.evaluate(CUT_CAPTIONS, 390) == [], "captions of tables that are cut off"
        assert page.evaluate("parseFloat(getComputedStyle(document.querySelector('article p')).fontSize)") >= 14

        page.set_viewport_size({"width": 1280, "height": 900})
        page.evaluate(OPEN_ALL)
        assert page.evaluate(CUT_OFF) == []
        right = page.evaluate("document.querySelector('article').getBoundingClientRect().right")
        wide = [text for text in page.evaluate(BEYOND, right) if text.startswith("<table")]
        assert wide == [], "tables that neither fit nor scroll in their own box"
        assert visit.complaints == []
        if document in KINDS:
            if document.startswith("book/api/"):
                page.evaluate(ONE_SECTION)
            assert violations(page) == {}


@pytest.mark.parametrize(
    ("document", "box"), [("notebooks/01_diffusion_loss", "pre"), ("book/evidence/presets", ".dtta-table td")]
)
def test_a_box_that_is_cut_off_is_found(browser, address, document, box):
    with Visit(browser, address, document, 1280) as visit:
        assert visit.page.evaluate(CUT_OFF) == []
        visit.page.evaluate(f"""() => document.querySelectorAll('article {box}').forEach(box => {{
            box.style.whiteSpace = 'pre'; box.style.maxWidth = 'none'; box.textContent = 'x'.repeat(200); }})""")
        assert visit.page.evaluate(CUT_OFF)


@pytest.mark.parametrize("document", ["book/students", "book/instructors"])
def test_guides_list_every_assignment(browser, address, document):
    with Visit(browser, address, document, 1280) as visit:
        rows = visit.page.evaluate(
            "[...document.querySelector('article table').rows].map(r => [...r.cells].map(c => c.innerText.trim()))"
        )
        by_key = {row[0].partition(":")[0]: row for row in rows[1:-1]}
        assert list(by_key) == [one.key for one in ASSIGNMENTS.values()]
        for one in ASSIGNMENTS.values():
            by_hand = sum(task.points[cell] for task in one.tasks for cell in task.manual)
            assert by_key[one.key][1:5] == [str(n) for n in (one.points, by_hand, one.minutes, len(one.tasks))]


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


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("place", ["from a server", "from a folder"])
def test_sliders_of_a_page_show_another_frame_and_say_what_it_is(browser, address, html, place, width):
    start = address if place == "from a server" else html.as_uri()
    with Visit(browser, start, "notebooks/01_diffusion_loss", width) as visit:
        boxes = visit.page.locator(".dtta-frames").all()
        assert len(boxes) == 2
        for box in boxes:
            slider, image = box.get_by_role("slider"), box.locator("img")
            before = (image.get_attribute("src"), slider.get_attribute("aria-valuetext"))
            slider.focus()
            visit.page.keyboard.press("ArrowRight")
            after = (image.get_attribute("src"), slider.get_attribute("aria-valuetext"))
            assert before[0] != after[0] and before[1] != after[1]
            assert box.locator("output").inner_text() == after[1]
            assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
        assert visit.complaints == []


# --- the live page; tests/tools/test_live.py tests what it computes -------------------------------------------------


def seen(page: Page) -> list[int]:
    """Pixels that the models see, from 0 to 255."""
    return page.evaluate("""() => {
        const copy = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
        copy.drawImage(document.querySelector('[data-part="seen"]'), 0, 0);
        return [...copy.getImageData(0, 0, 8, 8).data].filter((_, i) => i % 4 === 0);
    }""")


def test_live_page_draws_by_mouse_and_keyboard_and_a_link_restores_it_without_the_models(browser, html):
    with Visit(browser, html.as_uri(), "book/live", 390) as visit:
        page = visit.page
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.wait_for_load_state("networkidle")  # to reload earlier would stop what still loads
        page.reload()
        files = [url.rpartition("/")[2] for url in requests if "/live/" in url]
        assert sorted(files) == ["corruptions.js", "data.js", "engine.js", "live.css", "page.js"]
        assert sum((html / "_static" / "live" / file).stat().st_size for file in files) < 100_000
        assert page.locator("[data-do=adapt]").inner_text().startswith("Load the models (")
        star = page.locator("[data-part=bars]").text_content().partition("★")[2][0]
        assert page.locator("[name=image]:checked").get_attribute("aria-label").endswith(f", a {star}")
        page.get_by_label("Draw", exact=True).check()
        page.locator("[name=shift]").select_option("")
        paper = page.locator(".live-paper")
        paper.scroll_into_view_if_needed()
        box = paper.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 20)
        page.mouse.up()
        stroke = seen(page)
        rows = [stroke[8 * k : 8 * k + 8] for k in range(8)]
        assert min(map(max, rows)) > 0 == max(row[0] + row[-1] for row in rows), "scaled and centred"
        paper.focus()
        for key in ("Space", "Shift+ArrowRight", "Shift+ArrowRight", "Space", "ArrowDown"):
            page.keyboard.press(key)
        assert page.locator("[data-part=cursor]").text_content() == "column 25, row 6, pen up"
        drawing = seen(page)
        assert drawing != stroke
        page.locator("[name=label]").select_option("7")
        page.locator("[name=shift]").select_option("rotation")
        page.locator(".live-settings summary").click()
        page.get_by_label("Pairs per step").fill("0")
        page.keyboard.press("Tab")
        assert page.get_by_role("alert").inner_text() == "Pairs per step must be a whole number from 1 to 96."
        page.get_by_label("Pairs per step").fill("8")
        page.keyboard.press("Tab")
        assert not page.get_by_role("alert").inner_text()
        state, link = seen(page), page.url
        assert state != drawing
        page.get_by_role("button", name="One it leaves").click()
        assert seen(page) != state and page.url != link
        page.goto(link)
        assert seen(page) == state
        assert page.locator("[name=label]").input_value() == "7"
        assert page.get_by_label("Pairs per step").input_value() == "8"
        page.goto(link.replace("b=8", "b=x"))
        assert "b=x" in page.get_by_role("alert").inner_text()
        assert visit.complaints == []


def test_live_page_names_a_missing_file_then_adapts_and_says_what_changed(browser, address):
    with Visit(browser, address, "book/live", 1280) as visit:
        page = visit.page
        page.route("**/models.js", lambda route: route.abort())
        page.locator("[data-do=adapt]").click()
        page.wait_for_function("document.querySelector('#live-wrong').textContent")
        assert "models.js" in page.get_by_role("alert").inner_text()
        page.unroute("**/models.js")
        visit.complaints.clear()
        page.locator("[data-do=adapt]").click()
        verdicts = []
        for name in ("One it leaves", "One where it fails", "One it corrects"):
            page.wait_for_function("document.querySelector('.live-summary').textContent")
            verdicts.append(page.locator(".live-verdict").inner_text().partition(": ")[0])
            if name == "One it corrects":
                break
            page.get_by_role("button", name=name).click()
        assert verdicts[0] == "✓ Corrected" and verdicts[1].startswith("= Unchanged") and verdicts[2] == "✗ Made wrong"
        assert page.locator(".live-summary").inner_text().startswith("Made wrong. Before adaptation the answer is ")
        rows = page.evaluate("[...document.querySelectorAll('.live-result tbody tr')].map(r => r.cells[3].innerText)")
        assert rows == ["0", "120, with gradients", "240", "240"]
        bars = page.locator("[data-part=bars]")
        last = bars.inner_html()
        page.locator("[name=step]").press("ArrowLeft")
        assert page.locator("[data-part=step]").inner_text() == "4 of 5" and page.url.endswith("k=4")
        assert bars.inner_html() != last
        assert visit.complaints == []
        page.set_viewport_size({"width": 390, "height": 900})
        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.evaluate(OPEN_ALL)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert violations(page) == {}


def test_every_page_can_be_reached_from_the_first(browser, address):
    with Visit(browser, address, DOCUMENTS[0], 1280) as visit:
        links = visit.page.evaluate("[...document.querySelectorAll('.bd-sidebar-primary a')].map(a => a.href)")
        assert {f"{address}/{document}.html" for document in DOCUMENTS} <= {
            link.partition("#")[0] for link in links
        } | {f"{address}/{DOCUMENTS[0]}.html"}


def test_search_engines_and_links_to_the_book_find_each_page_at_its_address(html):
    sitemap = (html / "sitemap.xml").read_text(encoding="utf-8")
    assert re.findall("<loc>(.*?)</loc>", sitemap) == [f"{PROJECT.book}/{document}.html" for document in DOCUMENTS]
    for document in DOCUMENTS:
        head = BeautifulSoup((html / f"{document}.html").read_text(encoding="utf-8"), "html.parser").head
        about = {tag.get("property", tag.get("name")): tag.get("content") for tag in head.find_all("meta")}
        address = f"{PROJECT.book}/{document}.html"
        assert [tag["href"] for tag in head.find_all("link", rel="canonical")] == [address]
        assert about["og:url"] == address and about["og:title"]
        assert len(about["description"]) > 20 and about["description"] == about["og:description"]
        picture = about["og:image"].removeprefix(f"{PROJECT.book}/")
        assert (html / picture).is_file() and about["og:image:alt"]


def test_page_of_a_wrong_address_finds_its_files_at_any_depth(html):
    start = f"{urlsplit(PROJECT.book).path}/"
    page = BeautifulSoup((html / "404.html").read_text(encoding="utf-8"), "html.parser")
    links = [tag.get("href") or tag.get("src") for tag in page.find_all(["a", "link", "script", "img"])]
    ours = [link.partition("#")[0].partition("?")[0] for link in links if link and "://" not in link and link[0] != "#"]
    assert len(ours) > len(DOCUMENTS)
    assert [link for link in ours if not (html / link.removeprefix(start)).exists() or link[0] != "/"] == []


# --- accessibility --------------------------------------------------------------------------------------------------

# One page of each kind; a kind is a template, or content that no other page has.
KINDS = [
    "index",
    "book/instructors",
    "book/students",
    "book/references",
    "book/status",
    "book/live",
    "book/api",
    "book/api/profiling",
    "book/evidence/10_beyond",
    "notebooks/01_diffusion_loss",
    "notebooks/08_weights",
]
# Without transitions: half faded in, a text has half its contrast.
OPEN_ALL = """() => {
    const still = '<style>* { transition: none !important; animation: none !important }</style>';
    document.head.insertAdjacentHTML('beforeend', still);
    document.querySelectorAll('details').forEach(box => { box.open = true });
    document.querySelectorAll('.toggle-hidden button').forEach(button => button.click());
}"""
# Over the whole of its hundreds of entries, all alike, axe takes half a minute.
ONE_SECTION = "() => document.querySelectorAll('article section section ~ section').forEach(part => part.remove())"


def violations(page: Page, *rules: str) -> dict[str, list[str]]:
    """What axe finds, by rule: where, and what it says. Without rules named, by all of them."""
    options = {"resultTypes": ["violations"]} | ({"runOnly": list(rules)} if rules else {})
    found = Axe().run(page, options=options).response["violations"]
    return {
        v["id"]: [f"{n['target'][-1]}: {(n['any'] + n['all'] + n['none'])[0]['message']}" for n in v["nodes"]][:5]
        for v in found
    }


def test_axe_finds_nothing_on_the_page_of_the_search(browser, address):
    with Visit(browser, address, "search", 1280) as visit:
        assert violations(visit.page) == {}


@pytest.mark.parametrize("document", ["book/instructors", "notebooks/01_diffusion_loss"])
def test_axe_finds_nothing_in_the_dark_and_on_a_small_screen(browser, address, document):
    with Visit(browser, address, document, 390, scheme="dark") as visit:
        visit.page.evaluate(OPEN_ALL)
        assert violations(visit.page, "color-contrast", "scrollable-region-focusable", "target-size") == {}


BREAK = """() => {
    const article = document.querySelector('article section');
    document.querySelector('.cell_output img').removeAttribute('alt');
    article.insertAdjacentHTML('beforeend', `
        <h5>Two levels down</h5><p style="color: #bbb; background: #fff">Pale</p><a href="#top"></a>
        <button></button><div style="overflow: auto; height: 2em"><p>a</p><p>b</p><p>c</p></div>`);
}"""


def test_axe_finds_what_is_broken(browser, address):
    with Visit(browser, address, "notebooks/01_diffusion_loss", 1280) as visit:
        visit.page.evaluate(BREAK)
        wanted = {"image-alt", "heading-order", "color-contrast", "link-name", "button-name"}
        assert set(violations(visit.page)) == wanted | {"scrollable-region-focusable"}

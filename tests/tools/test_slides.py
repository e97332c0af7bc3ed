"""Decks of slides: what they take from a page, that they need no network, and that nothing is cut off on a screen."""

from __future__ import annotations

import re

import nbformat
import pytest
from bs4 import BeautifulSoup

from tools.pages import course, slides
from tools.pages.project import PageError, Project
from tools.pages.run import CHECKOUT

PROJECT = Project(CHECKOUT)


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    out = tmp_path_factory.mktemp("slides")
    slides.build(PROJECT, PROJECT.pages(["01", "08"]), out)
    return out


@pytest.mark.parametrize("name", ["01_diffusion_loss", "08_weights"])
def test_a_deck_has_the_idea_every_figure_every_question_and_the_take_aways(decks, name):
    page = nbformat.read(PROJECT.notebooks / f"{name}.ipynb", as_version=4)
    deck = BeautifulSoup((decks / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    titles = [heading.get_text() for heading in deck.select("section > h1, section > h2")]
    text = "\n".join(cell.source for cell in page.cells)
    assert len(deck.select("h1")) == 1 and titles[0].startswith(name[:2])
    figures = [cell for cell in page.cells if "caption" in cell.metadata.get("tags", [])]
    assert len(deck.select("figcaption")) == len(figures) > 3
    assert all(image["alt"] for image in deck.select("figure > img"))
    assert sum(title.startswith("Predict: ") for title in titles) == text.count("**Predict, then run:**") > 0
    assert titles.count("Take-aways") == 1
    assert sum(title.startswith("Test yourself") for title in titles) == len(course.quiz(PROJECT, name[:2])) == 3
    assert not re.search(r"[*]{2}|[$]", deck.select("section")[0].get_text())  # Markdown is rendered


def test_a_deck_loads_nothing_from_a_network_and_the_index_lists_it(decks):
    for path in decks.glob("*.html"):
        deck = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
        loaded = [tag.get("src") or tag.get("href") for tag in deck.select("[src], link[href]")]
        assert loaded and all(value.startswith("data:") or (decks / value).is_file() for value in loaded if value)
    links = [a["href"] for a in BeautifulSoup((decks / "index.html").read_text(encoding="utf-8"), "html.parser")("a")]
    assert links == ["01_diffusion_loss.html", "08_weights.html"]


def test_a_page_that_was_never_published_is_one_sentence(tmp_path, monkeypatch):
    project = Project(CHECKOUT)
    project.notebooks = tmp_path
    with pytest.raises(PageError, match="03_classification: no notebook in"):
        slides.build(project, ["03_classification"], tmp_path / "out")


@pytest.mark.browser
def test_no_slide_is_cut_off_at_1280_by_720_and_keys_turn_them(decks, browser):
    cut = """() => { const body = document.querySelector("section.now .body");
      return Math.max(body.scrollHeight - body.clientHeight, body.scrollWidth - body.clientWidth); }"""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_default_timeout(60_000)
    failed = []
    page.on("requestfailed", lambda request: failed.append(request.url))
    for path in sorted(decks.glob("0*.html")):
        page.goto(path.as_uri())
        page.wait_for_selector("mjx-container", state="attached")
        count = page.locator("section").count()
        for number in range(1, count + 1):
            assert page.locator("section.now").count() == 1 and page.inner_text("#number") == f"{number} / {count}"
            assert page.evaluate(cut) <= 1, f"{path.name}, slide {number}"
            page.keyboard.press("ArrowRight")
        assert page.inner_text("#number") == f"{count} / {count}"
    page.close()
    assert not failed

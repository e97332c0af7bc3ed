"""Figures that the reader steps through: what reaches the notebook, and what its controls do in a browser."""

from __future__ import annotations

import html
import json
import re
from base64 import b64decode
from io import BytesIO

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image
from playwright.sync_api import expect

from dtta.pages import figures

LABELS = ["t = 0: loss 0.31", "t = 500: loss < 0.20", "t = 999: loss 0.01"]
ALT = 'A grey square, "lighter" in each of three frames.'


pytestmark = pytest.mark.usefixtures("closed")


def squares() -> list:
    frames = []
    for level in (0.2, 0.6, 0.9):
        fig, ax = plt.subplots(figsize=(2, 1))
        ax.imshow(torch.full((4, 4), level).numpy(), vmin=0, vmax=1)
        frames.append(fig)
    return frames


def decode(address: str) -> Image.Image:
    """Return the image of a data address, or of base 64."""
    return Image.open(BytesIO(b64decode(address.rpartition(",")[2]))).convert("L")


def test_a_notebook_gets_all_frames_and_a_picture_for_readers_without_scripts(displayed):
    figures.explore(squares(), LABELS, alt=ALT, slider="timestep t", start=1, tolerance=0.02)
    ((data, metadata),) = displayed
    settings = json.loads(html.unescape(re.search('data-frames="([^"]*)"', data["text/html"])[1]))
    assert settings["labels"] == LABELS and settings["slider"] == "timestep t"
    shown = re.search(r'<img src="([^"]*)" alt="([^"]*)"', data["text/html"])
    assert html.unescape(shown[2]) == ALT
    assert settings["frames"][1] == "", "the frame in the page is not stored twice"
    frames = [decode(frame or shown[1]) for frame in settings["frames"]]
    assert {frame.size for frame in frames} == {(320, 160)}
    assert [frame.getpixel((160, 80)) for frame in frames] == [51, 153, 230]
    assert decode(data["image/png"]).tobytes() == frames[1].tobytes(), "the frame that is shown first, unchanged"
    assert metadata == {"image/png": {"alt": ALT, "width": 160}, "dtta": {"tolerance": 0.02, "whole": 0}}
    assert data["text/plain"].splitlines() == [f"Figure: {ALT}", *LABELS]
    assert not plt.get_fignums()


def test_two_calls_give_equal_outputs(displayed):
    for _ in range(2):
        figures.explore(squares(), LABELS, alt=ALT)
    assert displayed[0] == displayed[1]


def test_an_animation_has_numbers_or_the_titles_of_its_figures_and_shows_the_last(displayed):
    titled = squares()
    for severity, fig in enumerate(titled):
        fig.suptitle(f"severity {severity}")
    for frames in (squares(), titled):
        figures.animate(frames, alt=ALT, seconds=0.1)
    (first, metadata), (second, _) = displayed
    assert first["text/plain"].splitlines()[1:] == ["picture 1 of 3", "picture 2 of 3", "picture 3 of 3"]
    assert second["text/plain"].splitlines()[1:] == ["severity 0", "severity 1", "severity 2"]
    assert decode(first["image/png"]).getpixel((160, 80)) == 230
    assert "dtta" not in metadata


@pytest.mark.parametrize(
    ("frames", "labels", "alt", "tolerance", "message"),
    [
        (0, [], ALT, None, "at least one frame"),
        (3, LABELS[:2], ALT, None, "got 3 and 2 labels"),
        (3, LABELS, "short", None, "describe the figure"),
        (3, LABELS, ALT, 0.2, "0.31 has more digits"),
    ],
)
def test_what_cannot_be_shown_is_refused(frames, labels, alt, tolerance, message):
    with pytest.raises(ValueError, match=message):
        figures.explore(squares()[:frames], labels, alt=alt, tolerance=tolerance)


# --- in a browser ---------------------------------------------------------------------------------------------------


@pytest.fixture
def visit(browser, displayed, tmp_path):
    """Return a function that opens a file with two figures, one second for each frame, and gives the second one."""

    def visit(**options):
        for slider in ("first", "second"):
            figures.explore(squares(), LABELS, alt=ALT, slider=slider, seconds=1)
        file = tmp_path / "page.html"
        file.write_text("<!doctype html>" + "".join(data["text/html"] for data, _ in displayed), encoding="utf-8")
        page = browser.new_page(**options)
        page.clock.install(time=0)
        page.goto(file.as_uri())
        return page.locator(".dtta-frames").nth(1)

    yield visit
    for context in browser.contexts:
        context.close()


@pytest.mark.browser
def test_the_keyboard_moves_the_slider_and_a_screen_reader_gets_the_label(visit):
    box = visit()
    expect(box.locator("input")).to_have_count(1)
    slider, image, label = box.get_by_role("slider", name="second"), box.locator("img"), box.locator("output")
    expect(label).to_have_text(LABELS[2])
    last = image.get_attribute("src")
    slider.focus()
    for key, index in (("Home", 0), ("ArrowRight", 1), ("End", 2), ("ArrowLeft", 1)):
        box.page.keyboard.press(key)
        expect(slider).to_have_attribute("aria-valuetext", LABELS[index])
        expect(label).to_have_text(LABELS[index])
        expect(label).to_have_attribute("aria-live", "off")  # the slider's text is read already
        assert (image.get_attribute("src") == last) == (index == 2)
    expect(box.page.locator("output").first).to_have_text(LABELS[2])  # the other figure stays


@pytest.mark.browser
def test_buttons_step_and_play_once_to_the_end(visit):
    box = visit()
    label = box.locator("output")
    for name, index in (("Next", 2), ("Previous", 1), ("Previous", 0), ("Previous", 0), ("Next", 1)):
        box.get_by_role("button", name=name).click()
        expect(label).to_have_text(LABELS[index])
        expect(label).to_have_attribute("aria-live", "polite")
    clock, play = box.page.clock, box.locator("button", has_text=re.compile("Play|Pause"))
    clock.pause_at(60_000)
    play.click()
    expect(play).to_have_text("Pause")
    clock.run_for(1000)
    expect(label).to_have_text(LABELS[2])
    expect(play).to_have_text("Play")
    clock.run_for(9000)
    expect(label).to_have_text(LABELS[2])  # it does not start again by itself
    play.click()
    expect(label).to_have_text(LABELS[0])
    clock.run_for(1000)
    expect(label).to_have_text(LABELS[1])
    play.click()
    clock.run_for(9000)
    expect(label).to_have_text(LABELS[1])
    expect(play).to_have_text("Play")


@pytest.mark.browser
def test_less_motion_leaves_out_the_button_to_play(visit):
    box = visit(reduced_motion="reduce")
    expect(box.get_by_role("button", name="Next")).to_be_visible()
    expect(box.get_by_text("Play")).to_be_hidden()


@pytest.mark.browser
def test_without_scripts_there_is_the_picture_and_no_control(visit):
    box = visit(java_script_enabled=False)
    expect(box.locator("img")).to_be_visible()
    assert box.locator("input, button").count() == 0

"""README and introduction: the snippet prints the output shown; numbers and pictures are the stored results."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

import dtta
from dtta.experiments import stored
from tools.pages.pictures import draw

ROOT = Path(__file__).parents[2]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "index.md")}


@pytest.mark.parametrize("name", TEXTS)
def test_the_snippet_prints_what_the_text_shows(name):
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", TEXTS[name], re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(code, {})
    words, shown = re.split(r"\d+%", printed.getvalue()), re.split(r"\d+%", output)
    assert words == shown
    for a, b in zip(re.findall(r"(\d+)%", printed.getvalue()), re.findall(r"(\d+)%", output), strict=True):
        assert abs(int(a) - int(b)) <= 1  # processors round differently


@pytest.mark.parametrize(
    ("problem", "run", "metric", "texts"),
    [
        ("digits", "diffusion-tta", "", ["README.md", "index.md"]),
        ("digits", "ensemble", "", ["README.md", "index.md"]),
        ("scenes-segmentation", "diffusion-tta", "mean IoU", ["README.md"]),
        ("scenes-depth", "diffusion-tta", "SSIM", ["README.md"]),
        ("scenes-clip", "diffusion-tta", "", ["README.md"]),
    ],
)
def test_numbers_are_the_stored_results(problem, run, metric, texts):
    table = f"{problem}-test"
    shifts = {row.shift for row in stored.rows(table, run)} - {"clean"}
    result = stored.gain(table, run, shifts, metric=dtta.load(problem).metrics[metric] if metric else None)
    for name in texts:
        text = TEXTS[name]
        assert f"{result['gain']:.1f} " in text
        assert re.search(rf"{result['low']:.1f} to\s+{result['high']:.1f}", text), f"{name}: {result}"
        if run == "diffusion-tta":
            assert re.search(rf"{result['before']:.1f}\D+{result['after']:.1f}", text), f"{name}: {result}"


def test_pictures_are_those_of_the_stored_results(tmp_path):
    hero, method, film = draw(tmp_path)
    shown = ROOT / "book" / "_static"
    assert method.read_bytes() == (shown / method.name).read_bytes()
    for picture in (hero, film):
        with Image.open(picture) as new, Image.open(shown / picture.name) as committed:
            pairs = zip(ImageSequence.Iterator(new), ImageSequence.Iterator(committed), strict=True)
            changes = [np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in pairs]
            assert len(changes) == (6 if picture == film else 1) and max(changes) < 1  # of 255


def test_the_lines_of_algorithm_1_that_code_cites_are_printed_on_page_03():
    page = (ROOT / "notebooks" / "src" / "03_classification.py").read_text(encoding="utf-8")
    (block,) = re.findall(r"^# ```text\n((?:# .+\n)+?)# ```$", page, re.MULTILINE)
    numbers = [int(number) for number in re.findall(r"^# (\d+) ", block, re.MULTILINE)]  # a line may take two rows
    assert numbers == list(range(1, 10))
    for source in (page, (ROOT / "dtta" / "core" / "tta.py").read_text(encoding="utf-8")):
        cited = {int(number) for number in re.findall(r"# line (\d)", source)}
        assert {3, 4, 5, 6} <= cited <= set(numbers)

"""Pictures of every kind as a viewer shows them, maps as numbers; one sentence for what cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dtta.problems.data.images import centered, image_files, image_tensor, open_image, open_map

RED, GREEN = (255, 0, 0), (0, 255, 0)


def two(mode: str, left, right) -> Image.Image:
    """A picture of two pixels side by side."""
    image = Image.new(mode, (2, 1), right)
    image.putpixel((0, 0), left)
    return image


def grey(kind: type, left: float, right: float) -> Image.Image:
    return Image.fromarray(np.array([[left, right]], dtype=kind))


def turned(orientation: int) -> dict:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return dict(exif=exif)


PALETTE = two("RGB", RED, GREEN).quantize(2)
FRAMES = dict(save_all=True, append_images=[two("RGB", GREEN, RED)])
KINDS = {  # what is saved, how, and the levels of its pixels as a viewer shows them
    "turned.png": (two("RGB", RED, GREEN), turned(3), [(0, 1, 0), (1, 0, 0)]),
    "sixteen-turned.tif": (grey(np.uint16, 0, 65535), turned(3), [(1, 1, 1), (0, 0, 0)]),
    "see-through.png": (two("RGBA", (255, 0, 0, 0), (0, 0, 0, 51)), {}, [(1, 1, 1), (0.8, 0.8, 0.8)]),
    "see-through-grey.png": (two("LA", (0, 0), (0, 255)), {}, [(1, 1, 1), (0, 0, 0)]),
    "see-through-palette.gif": (PALETTE, dict(transparency=PALETTE.getpixel((0, 0))), [(1, 1, 1), (0, 1, 0)]),
    "see-through-colour.png": (two("RGB", RED, GREEN), dict(transparency=RED), [(1, 1, 1), (0, 1, 0)]),
    "palette.PNG": (PALETTE, {}, [(1, 0, 0), (0, 1, 0)]),
    "ink.tif": (two("CMYK", (0, 0, 0, 255), (255, 0, 0, 0)), {}, [(0, 0, 0), (0, 1, 1)]),
    "one-bit.png": (two("1", 0, 1), {}, [(0, 0, 0), (1, 1, 1)]),
    "sixteen.png": (grey(np.uint16, 300, 65535), {}, [(300 / 65535,) * 3, (1, 1, 1)]),
    "float.TIFF": (grey(np.float32, 0.25, 0.001), {}, [(0.25,) * 3, (0.001,) * 3]),
    "animation.gif": (two("RGB", RED, GREEN), FRAMES, [(1, 0, 0), (0, 1, 0)]),
    "pages.tif": (two("RGB", RED, GREEN), FRAMES, [(1, 0, 0), (0, 1, 0)]),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_is_read_as_a_viewer_shows_it(name, tmp_path):
    image, options, levels = KINDS[name]
    image.save(tmp_path / name, **options)
    (path,) = image_files(tmp_path)
    expected = torch.tensor(levels, dtype=torch.float32).T[:, None]
    torch.testing.assert_close(image_tensor(open_image(path)), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("float.tif", grey(np.float32, 0, 255), "has float32 numbers from 0 to 255 as pixels; scale them to"),
        ("nan.tif", grey(np.float32, 0, np.nan), "has float32 numbers from nan to nan as pixels"),
        ("long.tif", grey(np.int32, -1, 70000), "has int32 numbers from -1 to 70000 as pixels"),
        ("empty.png", b"", "is not a readable image .*download or copy it again"),
        ("large.png", Image.new("1", (20000, 10000)), "is not a readable image .*exceeds limit.*; shrink it"),
    ],
)
def test_what_cannot_be_read_gets_one_sentence(name, content, message, tmp_path):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        content.save(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} {message}"):
        open_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "webp", "bmp"])
def test_a_truncated_picture_is_refused(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a.{kind} is not a readable image"):
        open_image(path)


def test_hidden_files_and_folders_are_no_pictures(tmp_path):
    for name in ("b.JPG", "a.png", "._a.png", ".hidden.png", "__MACOSX/._a.png", "c.png/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPG"]


def test_a_map_keeps_its_numbers(tmp_path):
    for image in (grey(np.uint16, 7, 65535), grey(np.uint8, 0, 3), PALETTE, two("1", 0, 1)):
        image.save(tmp_path / "map.png", **turned(3))
        assert np.array_equal(open_map(tmp_path / "map.png"), np.asarray(image))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 64, 64), (3, 8, 12)])
def test_a_problem_without_files_gets_the_centre_square_in_its_size(shape):
    """A picture of that size is unchanged; of another, the centre square is resized."""
    channels, height, width = shape
    pixels = np.random.default_rng(0).integers(0, 256, (width, width, 3), dtype=np.uint8)
    exact = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    cut = slice((width - height) // 2, (width + height) // 2)
    expected = torch.from_numpy(np.array(exact)).float().view(width, width, -1).movedim(2, 0)[:, cut] / 255
    torch.testing.assert_close(centered(exact, shape), expected)
    wide = Image.new("RGB", (width + 20, width))
    wide.paste(exact, (10, 0))
    torch.testing.assert_close(centered(wide, shape), expected)
    assert centered(wide.resize((50, 30)), shape).shape == shape

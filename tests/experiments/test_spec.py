"""Experiment files: what a file may say, what it extends, and messages about what is wrong in it."""

from __future__ import annotations

import pytest
from small_table import TEXT

from dtta.experiments import spec

GRID = "grid = { lr = [0.01, 1.0], t_min = [0.0, 0.5] }"


def table(tmp_path, text=TEXT, **options) -> spec.Table:
    path = tmp_path / "few.toml"
    path.write_text(text, encoding="utf-8")
    return spec.read(path, **options)


def test_a_file_is_read(tmp_path):
    few = table(tmp_path)
    assert (few.name, few.problem, few.shifts, few.severity, few.validation_images, few.seeds) == (
        "few", "small_table:problem", ("fog", "contrast"), 3, 2, (0, 4),
    )  # fmt: skip
    assert list(few.entries) == ["none", "diffusion-tta", "few images", "tent, two at once"]
    grid = few.entries["diffusion-tta"].grid
    assert grid == tuple({"lr": lr, "t_min": t_min} for lr in (0.01, 1.0) for t_min in (0.0, 0.5))
    assert few.entries["few images"].run.settings == {"samples": 2, "steps": 2}
    assert (few.entries["few images"].test_images, few.entries["none"].test_images) == (2, 3)
    tent = few.entries["tent, two at once"].run  # settings of the problem and of the file
    assert (tent.method, tent.batch, tent.settings) == ("tent", 2, {"steps": 2, "lr": 0.1})


def test_seeds_and_with_a_pool_shifts_have_different_images(tmp_path):
    few = table(tmp_path)
    assert few.image_indices(2, 0) == {"clean": [0, 1], "fog": [0, 1], "contrast": [0, 1]}
    assert few.image_indices(2, 4) == {"clean": [3, 4], "fog": [3, 4], "contrast": [3, 4]}
    spread = table(tmp_path, "pool = 6\n" + TEXT)
    assert spread.image_indices(2, 0) == {"clean": [0, 1], "fog": [2, 3], "contrast": [4, 5]}
    assert spread.image_indices(2, 4) == {"clean": [6, 7], "fog": [8, 9], "contrast": [10, 11]}


def test_lists_as_settings_and_a_grid_with_nothing_in_it(tmp_path):
    text = """
    about = "Lists" \nproblem = "small_table:problem" \ntest_images = 1 \nvalidation_images = 1
    [runs.none]
    [runs.diffusion-classifier]
    grid = [{ samples = [[1, 2], [2, 4]], keep = 3 }, {}]
    """
    grid = ({"samples": [1, 2], "keep": 3}, {"samples": [2, 4], "keep": 3}, {})
    assert table(tmp_path, text).entries["diffusion-classifier"].grid == grid


def test_a_file_extends_another_one(tmp_path):
    """By path, on the same problem: what is not named stays; runs are left out, replaced and added."""
    table(tmp_path)
    text = """
    extends = "few.toml"
    test_images = 1
    limits = { steps = 1, views = 2 }
    settings = { lr = 0.5, steps = 3 }
    leave_out = ["none, again", "few images"]

    [runs."tent, two at once"]
    method = "tent"
    settings = { steps = 4 }

    [runs.memo]
    """
    path = tmp_path / "extension.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"leave_out: unknown none, again; choose from diffusion-tta, few images"):
        spec.read(path)
    path.write_text(text.replace('"none, again", ', ""), encoding="utf-8")
    small = spec.read(path)
    assert (small.name, small.seeds, small.validation_images, small.max_test_images) == ("extension", (0, 4), 2, 1)
    assert list(small.entries) == ["none", "diffusion-tta", "tent, two at once", "memo"]
    assert small.entries["diffusion-tta"].run.settings == {"lr": 0.5, "samples": 2, "steps": 1}
    assert len(small.entries["diffusion-tta"].grid) == 4
    assert small.entries["tent, two at once"].run.settings == {"steps": 1}  # 4 in the file
    assert small.entries["tent, two at once"].run.batch == 1
    assert small.entries["memo"].run.settings == {"views": 2}  # more by default


def test_runs_start_from_the_files_settings_but_from_another_problems_own(tmp_path):
    """`start` replaces all settings of the problem for a method; here its steps for TENT."""
    start = 'start = { tent = { optimizer = "sgd" }, diffusion-tta = { t_max = 0.9 } }'
    few = table(tmp_path, TEXT.replace("seeds = [0, 4]", start))
    assert few.entries["tent, two at once"].run.settings == {"optimizer": "sgd", "lr": 0.1}
    assert few.entries["few images"].run.settings == {"t_max": 0.9, "samples": 2, "steps": 2}
    extension = {"extends": f"{tmp_path / 'few.toml'}", "settings": {"lr": 0.5}}
    assert spec.read(extension).entries["diffusion-tta"].run.settings["t_max"] == 0.9
    other = spec.read(extension | {"problem": "small_table:problem"})
    assert other.entries["tent, two at once"].run.settings == {"steps": 2, "lr": 0.1}
    assert other.entries["diffusion-tta"].run.settings == {"lr": 0.5, "samples": 2, "steps": 1}


def test_an_extension_without_validation_images_has_no_grids(tmp_path):
    table(tmp_path)
    small = spec.read({"extends": f"{tmp_path / 'few.toml'}", "validation_images": 0}, precision="bfloat16")
    assert small.name == "few" and small.precision == "bfloat16"
    assert not any(entry.grid for entry in small.entries.values())
    assert {entry.run.precision for entry in small.entries.values()} == {"bfloat16"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about = "A table to try things out"', "", "about is missing"),
        ("test_images = 3", "image = 3", "unknown image; choose from about,"),
        ("[runs.none]", "[runs.nonne]", "nonne: unknown method 'nonne'; choose from none,"),
        ("[runs.none]", "[runs.none]\nbatches = 2", "none: unknown batches; choose from as_released,"),
        ("steps = 1 }", "step = 1 }", "has no setting 'step'"),
        ("t_min = [0.0, 0.5]", "low = [0.0, 0.5]", "diffusion-tta: .*has no setting 'low'"),
        ("t_min = [0.0, 0.5]", "t_min = [0.0, 1.5]", "the range of t"),
        ('extends = "diffusion-tta"', 'extends = "tent, two at once"', "extends 'tent, two at once', which is no run"),
        ('extends = "diffusion-tta"', 'extends = "diffusion-tta"\nbaseline = "x"', "its baseline is 'x'"),
        ("validation_images = 2", "validation_images = 0", "a grid needs validation_images"),
        ("batch = 2", "batch = 0", "batch must be a whole number"),
        ("test_images = 3", "test_images = ", "is not TOML"),
        ("test_images = 3", "test_images = 300", "needs 600 test images, 2 seeds in all; there are"),
        ("test_images = 3", "limits = { steps = 1 }", "unknown limits"),
        ("test_images = 3", "test_images = 0", "few.toml: test_images must be at least 1, not 0"),
        ("test_images = 3", 'test_images = "3"', "few.toml: test_images must be a whole number, not '3'"),
        ("test_images = 3", "test_images = 3\nseverity = 9", "few.toml: severity: unknown 9; choose from 1, 2"),
        (
            'problem = "small_table:problem"',
            'problem = "digts"',
            "few.toml: unknown problem 'digts'; choose from",
        ),
        ("batch = 2", "batch = [2]", r"batch must be a whole number, not \[2\]"),
        ("lr = [0.01, 1.0]", "lr = [0.01, true]", "lr of diffusion-tta must be a number, not True"),
        ('shifts = ["fog", "contrast"]', 'shifts = "fog"', "shifts must be a list of words, not 'fog'"),
        ('shifts = ["fog", "contrast"]', 'shifts = ["rain"]', "few.toml: shifts: unknown rain; choose from"),
        ("seeds = [0, 4]", 'defaults = ["tent"]', "defaults: unknown tent; choose from diffusion-tta, few"),
        (
            "seeds = [0, 4]",
            "start = { tent = { step = 1 } }",
            "start, tent: unknown step; choose from answer_before_step",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        table(tmp_path, TEXT.replace(old, new, 1))


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.toml and no table of that name"):
        spec.read(tmp_path / "nothing.toml")


def test_the_tables_that_choose_a_problems_settings_come_first():
    first = [name.endswith("-test") for name in spec.names()]
    assert first == sorted(first, reverse=True) and sum(first) == 4
    assert {"loss", "weights", "online", "beyond"} < set(spec.names())

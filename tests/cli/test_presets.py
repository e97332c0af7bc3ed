"""Presets on the command line: what they fill in, and how they are listed."""

from __future__ import annotations

import pytest

from dtta.cli import main, parser
from dtta.cli.evaluate import fill_in
from dtta.experiments.paper import LEFT_OUT, get, presets
from dtta.methods.registry import METHODS


def filled(line: str):
    options = parser().parse_args(["evaluate", *line.split()])
    fill_in(options)
    return options


def test_given_options_overrule_the_preset_and_the_rest_are_defaults():
    usual = filled("")
    preset = filled("--preset table1/vit-b-32/imagenet-r --images 7 --set lr=1 --severity 2")
    other = filled("--shift fog")
    assert (usual.problem, usual.method, usual.shift, usual.severity) == ("digits", "diffusion-tta", "clean", 3)
    assert (usual.batch, other.shift) == (1, "fog")
    assert (preset.problem, preset.network, preset.images, preset.severity) == ("imagenet-r", "vit-b-32", 7, 2)
    assert preset.set[-1] == "lr=1" and "optimizer=sgd" in preset.set and "adapt_diffusion=true" in preset.set
    assert filled("--preset table1/vit-b-32/imagenet-r --method tent").set == []


def test_presets_are_listed_with_what_is_left_out(capsys):
    assert main(["evaluate", "--preset", "list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*presets(), *LEFT_OUT))
    assert main(["evaluate", "--preset", "table1/resnet18/imagenet-b"]) == 2
    assert "did you mean table1/resnet18/imagenet" in capsys.readouterr().err
    with pytest.raises(ValueError, match="--preset list shows all"):
        get("xyz")
    assert {preset.method for preset in presets().values()} <= set(METHODS)

"""A table of the book on another problem, and what a page runs on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import small_table
import timm
import tiny
import torch
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from dtta.core.lora import add_lora, lora_updates
from dtta.core.parameters import select
from dtta.experiments import stored
from dtta.experiments import transfer as module
from dtta.experiments.limits import with_settings
from dtta.experiments.transfer import announce, open_page, transfer
from dtta.problems.networks.wrappers import Classifier

TEXT = (
    small_table.TEXT
    + """
[runs."another network"]
extends = "diffusion-tta"
network = "vit"

[runs."the same network"]
extends = "another network"

[runs."another diffusion model"]
extends = "diffusion-tta"
diffusion = "dit"

[runs.forgetting]
method = "tent"
forgetting_images = 40
settings = { steps = 4 }

[runs.eata]

[runs."after eata"]
extends = "eata"
"""
)
ALWAYS = ["none", "diffusion-tta", "few images", "tent, two at once", "forgetting"]
PROBLEM, SMALLER = "small_table:problem", "small_table:without_validation"


@pytest.fixture
def make(tmp_path):
    """A function that makes the table on another problem, and returns its runs and the folder."""
    path = tmp_path / "few.toml"
    path.write_text(TEXT, encoding="utf-8")
    small_table.loaded.clear()

    def make(problem=SMALLER, **options):
        folder = transfer(str(path), problem, 1, tmp_path / "out", shifts=["fog"], **options)
        assert folder == tmp_path / "out"
        return stored.runs("few", folder), folder

    return make


def test_a_table_on_another_problem(make):
    """Runs that need what the problem lacks are left out, with all that extend them; no grid is tried."""
    runs, folder = make()
    assert list(runs) == ALWAYS
    assert runs["few images"].settings == {"samples": 2, "steps": 2}
    assert {(run.problem, run.precision) for run in runs.values()} == {(SMALLER, "float32")}  # a CPU's
    assert {(r.shift, r.index) for r in stored.rows("few", "few images", folder)} == {("clean", 0), ("fog", 1)}
    assert not (folder / "few-settings.csv").exists()
    assert runs["forgetting"].forgetting_images == 1 and runs["forgetting"].settings == {"steps": 4}


def test_a_table_with_other_networks_limits_seeds_and_validation_images(make):
    options = dict(network="this", networks={"vit": "that"}, limits={"steps": 1, "samples": 1, "anchors": 2})
    runs, folder = make(PROBLEM, **options, validation_images=1, seeds=[0, 7], leave_out=["few images"])
    expected = [*ALWAYS[:-1], "another network", "the same network", "forgetting", "eata", "after eata"]
    assert list(runs) == [name for name in expected if name != "few images"]
    networks = [runs[name].network for name in ("diffusion-tta", "another network", "the same network")]
    assert networks == ["this", "that", "that"]
    assert {run.settings.get("steps", 1) for run in runs.values()} == {1}
    assert runs["diffusion-tta"].settings["samples"] == 1
    assert len(stored.trials("few", folder)) == 4
    assert {r.seed for r in stored.rows("few", "none", folder)} == {0, 7}
    assert {network for network, _ in small_table.loaded} == {"this", "that"}  # the default may not be reachable


def test_a_table_with_other_diffusion_models_and_precision(make):
    runs, _ = make(diffusion="small", diffusions={"dit": "large"}, precision="bfloat16", settings={"steps": 1})
    assert {run.precision for run in runs.values()} == {"bfloat16"}
    assert [runs[name].diffusion for name in ("diffusion-tta", "another diffusion model")] == ["small", "large"]
    assert {diffusion for _, diffusion in small_table.loaded} == {"small", "large"}
    assert runs["few images"].settings["steps"] == 2  # the file's, not that of `settings`


@pytest.mark.parametrize("settings", [None, {"steps": 3}])
def test_a_page_opens_stored_results_at_mini_scale_and_makes_them_at_full_scale(settings, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(module, "announce", lambda problem, *names: calls.append(names))
    monkeypatch.setattr(module, "transfer", lambda *a, **o: calls.append((a, o)) or tmp_path)
    options = dict(network="n", networks={"vit": "v"}, diffusion="d", limits={"samples": 2}, settings=settings)
    problem, shifts, folder = open_page("mini", ["a"], PROBLEM, SMALLER, 3, 5, results="r", **options)
    assert (sorted(problem.sizes), shifts, folder) == (["test", "validation"], list(problem.shifts), stored.FOLDER)
    assert calls == [("n", "d")]
    problem, shifts, folder = open_page(
        "full", ["a", "b"], PROBLEM, SMALLER, 3, 5, shifts=["fog"], results="r", **options
    )
    assert (sorted(problem.sizes), shifts, folder) == (["test"], ["fog"], tmp_path)
    assert calls[2:] == [((table, SMALLER, 3, "r"), options | dict(shifts=["fog"], seeds=[5])) for table in "ab"]
    assert problem.settings.get("diffusion-tta", {}).get("steps") == (settings or {}).get("steps")
    with pytest.raises(ValueError, match='scale must be "mini" or "full"'):
        open_page("half", ["a"], PROBLEM, SMALLER, 3, 5)


def test_limits_lower_defaults_too_and_lists_stay_in_proportion():
    problem = with_settings(tiny.problem(), {"samples": 4, "views": 2}, samples=[8, 24], lr=0.5)
    assert problem.settings["diffusion-tta"] == {"samples": [1, 4], "lr": 0.5}
    assert problem.settings["diffusion-classifier"] == {"samples": 4}  # 48 by default
    assert problem.settings["memo"] == {"views": 2}
    assert "none" not in problem.settings
    small = with_settings(tiny.problem(settings={"dusa": {"samples": 3}}), {"samples": 4})
    assert small.settings["dusa"] == {"samples": 3}


def test_a_page_prints_what_it_runs_on_unless_that_is_its_mini_world(capsys):
    announce(replace(tiny.problem(), name="digits"))
    assert capsys.readouterr().out == ""
    announce(replace(tiny.problem(), name="ade20k"), diffusion="folder")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "full scale: ade20k, segformer-b0 under folder" and "mini world" in second


@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet18", 16), ("convnext_atto", 24), ("vit_tiny_patch16_224", 36), ("torchvision", 4), ("convnext", 6)],
)
def test_lora_finds_its_place_in_full_scale_classifiers(name, layers):
    if name == "torchvision":
        network = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)
    elif name == "convnext":
        network = ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 2)])
    else:
        network = timm.create_model(name)
    model = add_lora(Classifier(network), rank=1)
    assert len(lora_updates(model)) == layers
    size = 32 if name == "torchvision" else 224
    model(torch.rand(1, 3, size, size)).sum().backward()
    assert all(p.grad is not None for p in select(model, "lora"))

"""A table of the book on another problem."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import tiny
import torch
from torchvision.models import VisionTransformer

from dtta.core.lora import add_lora, lora_updates
from dtta.core.parameters import select
from dtta.evaluation import evaluate as evaluation
from dtta.experiments import runner as tables
from dtta.experiments import spec as experiments
from dtta.experiments import stored
from dtta.experiments import transfer as module
from dtta.experiments.transfer import announce, elsewhere, starting
from dtta.problems.networks.wrappers import Classifier
from dtta.problems.training.weights import WeightsError

TEXT = """
about = "A table to try things out"
problem = "tiny"
images = 3
tried = 2

[runs.none]

[runs.diffusion-tta]
settings = { samples = 2, steps = 1 }
grid = { lr = [0.01, 1.0], low = [0.0, 0.5] }

[runs."few images"]
like = "diffusion-tta"
images = 2
settings = { steps = 2 }

[runs."tent, two at once"]
method = "tent"
batch = 2
settings = { lr = 0.1 }

[runs."another network"]
like = "diffusion-tta"
network = "vit"

[runs."like that"]
like = "another network"

[runs."another diffusion model"]
like = "diffusion-tta"
diffusion = "dit"

[runs.forgetting_images]
method = "tent"
forgetting_images = 40
settings = { steps = 4 }
"""


@pytest.mark.parametrize("start", [None, {"steps": 3}])
def test_what_a_page_opens_at_each_scale(start, tmp_path, monkeypatch):
    """At mini scale what is stored with the package; at full scale tables made now, from the settings asked for."""
    loaded, asked = [], []
    monkeypatch.setattr(module, "load", lambda *names: loaded.append(names) or replace(tiny.problem(), name=names[0]))
    monkeypatch.setattr(module, "announce", lambda *names: loaded.append(names[1:]))
    monkeypatch.setattr(module, "elsewhere", lambda *a, **o: asked.append((a, o)) or tmp_path)
    options = dict(networks={"": None, "vit": "v"}, diffusion="d", most={"samples": 2}, results="r", start=start)
    problem, shifts, folder = module.opened("mini", ["a"], "m", "f", 3, 5, **options)
    assert (problem.name, shifts, folder, asked) == ("m", list(problem.shifts), stored.FOLDER, [])
    assert loaded == [("m", None, "d"), (None, "d")]
    problem, shifts, folder = module.opened("full", ["a", "b"], "m", "f", 3, 5, shifts=["fog"], **options)
    assert (problem.name, shifts, folder) == ("f", ["fog"], tmp_path)
    assert [told[0] for told in asked] == [("a", "f", 3, "r"), ("b", "f", 3, "r")]
    assert asked[0][1] == dict(
        shifts=["fog"], seeds=[5], networks={"": "", "vit": "v"}, diffusions={"": "d"}, most={"samples": 2}, start=start
    )
    assert problem.settings.get("diffusion-tta", {}).get("steps") == (start or {}).get("steps")
    with pytest.raises(ValueError, match='scale must be "mini" or "full"'):
        module.opened("half", ["a"], "m", "f", 3, 5)


def test_a_table_on_another_problem(tmp_path, monkeypatch):
    """Runs that need what the problem lacks are left out, with what builds on them; nothing is tried unless asked."""
    loaded = []

    def load(*names):
        loaded.append(names)
        return tiny.problem(settings={"tent": {"steps": 2}})

    for place in (experiments, tables, evaluation, module):
        monkeypatch.setattr(place, "load", load)
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    (tmp_path / "few.toml").write_text(TEXT)

    def made(folder, **options):
        told = elsewhere("few", "other", 1, tmp_path / folder, shifts=["fog"], **options)
        assert told == tmp_path / folder
        return stored.runs("few", told)

    runs = made("a")
    assert list(runs) == ["none", "diffusion-tta", "few images", "tent, two at once", "forgetting_images"]
    assert runs["few images"].settings == {"samples": 2, "steps": 2}
    assert {(run.problem, run.precision) for run in runs.values()} == {("other", "float32")}  # a CPU's
    assert {(r.shift, r.index) for r in stored.rows("few", "few images", tmp_path / "a")} == {("clean", 0), ("fog", 1)}
    assert not (tmp_path / "a" / "few-settings.csv").exists()
    assert runs["forgetting_images"].forgetting_images == 1 and runs["forgetting_images"].settings == {"steps": 4}

    runs = made("b", networks={"": "this", "vit": "that"}, most={"steps": 1, "samples": 1}, tried=1, seeds=[0, 7])
    assert list(runs) == [
        "none",
        "diffusion-tta",
        "few images",
        "tent, two at once",
        "another network",
        "like that",
        "forgetting_images",
    ]
    assert [runs[name].network for name in ("few images", "another network", "like that")] == ["this", "that", "that"]
    assert {run.settings.get("steps", 1) for run in runs.values()} == {1}
    assert runs["diffusion-tta"].settings["samples"] == 1
    assert len(stored.trials("few", tmp_path / "b")) == 4
    assert {r.seed for r in stored.rows("few", "none", tmp_path / "b")} == {0, 7}
    assert ("other", "this", None, None) in loaded

    runs = made("c", diffusions={"": "small", "dit": "large"}, precision="bfloat16")
    assert {run.precision for run in runs.values()} == {"bfloat16"}
    assert [runs[name].diffusion for name in ("diffusion-tta", "another diffusion model")] == ["small", "large"]


@pytest.mark.parametrize("kind", ["network", "diffusion"])
def test_nothing_but_the_models_that_were_named_is_loaded(kind, tmp_path, monkeypatch):
    """The problem's usual ones may lie on a hub that cannot be reached."""
    place = {"network": 1, "diffusion": 2}[kind]

    def load(*names):
        if len(names) <= place or names[place] != "own":
            raise WeightsError("it cannot be reached")
        return tiny.problem()

    for where in (experiments, tables, evaluation, module):
        monkeypatch.setattr(where, "load", load)
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    (tmp_path / "few.toml").write_text(TEXT)
    folder = elsewhere("few", "other", 1, tmp_path / "a", shifts=["fog"], tried=1, **{f"{kind}s": {"": "own"}})
    assert {getattr(run, kind) for run in stored.runs("few", folder).values()} == {"own"}


def test_what_a_method_says_by_default_is_cut_too_and_stages_stay_in_proportion():
    problem = starting(tiny.problem(), {"samples": 4, "views": 2}, samples=[8, 24], lr=0.5)
    assert problem.settings["diffusion-tta"] == {"samples": [1, 4], "lr": 0.5}
    assert problem.settings["diffusion-classifier"] == {"samples": 4}  # 48 of its own
    assert problem.settings["memo"] == {"views": 2}
    assert "none" not in problem.settings
    small = starting(tiny.problem(settings={"dusa": {"samples": 3}}), {"samples": 4})
    assert small.settings["dusa"] == {"samples": 3}


def test_without_validation_images_eata_is_left_out(tmp_path, monkeypatch):
    whole = tiny.problem()
    for sizes, wanted in ((whole.sizes, ["none", "eata", "tent"]), ({"test": 4}, ["none", "tent"])):
        for place in (experiments, tables, evaluation, module):
            monkeypatch.setattr(place, "load", lambda *names, sizes=sizes: replace(whole, sizes=sizes))
        monkeypatch.setattr(experiments, "FOLDER", tmp_path)
        text = 'about = "x"\nproblem = "tiny"\nimages = 1\n[runs.none]\n[runs.eata]\n[runs.tent]\n'
        (tmp_path / "few.toml").write_text(text)
        folder = elsewhere("few", "other", 1, tmp_path / f"{len(sizes)}", shifts=["fog"], most={"anchors": 2})
        assert list(stored.runs("few", folder)) == wanted


def test_a_page_says_what_it_runs_on_unless_that_is_its_mini_world(capsys):
    announce(replace(tiny.problem(), name="digits"))
    assert capsys.readouterr().out == ""
    announce(replace(tiny.problem(), name="ade20k"), diffusion="folder")
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "full scale: ade20k, segformer-b0 under folder" and "mini world" in told[1]


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet18", 16), ("convnext_atto", 24), ("vit_tiny_patch16_224", 36), ("torchvision", 4)]
)
def test_lora_finds_its_place_in_full_scale_classifiers(name, layers):
    if name == "torchvision":
        network = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)
    else:
        network = timm.create_model(name)
    model = add_lora(Classifier(network), rank=1)
    assert len(lora_updates(model)) == layers
    size = 32 if name == "torchvision" else 224
    model(torch.rand(1, 3, size, size)).sum().backward()
    assert all(p.grad is not None for p in select(model, "lora"))

"""The presets: names that exist, the paper's numbers, and a run of one on stand-ins."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial
from statistics import mean

import huggingface_hub
import pytest
import stand_ins
import torch

import dtta
from dtta.cli import main
from dtta.evaluation import summary
from dtta.experiments.paper import DIFFERENCES, get, presets, published, table_of_differences
from dtta.methods.registry import build, methods_for, settings_of
from dtta.problems import PROBLEMS, module
from dtta.problems.corruptions import IMAGE_SHIFTS
from dtta.problems.data import dense
from dtta.problems.data.hub import checkpoints
from dtta.problems.data.imagenet import CORRUPTIONS
from dtta.problems.full import imagenet, latent_maps, nyuv2
from dtta.problems.training import weights

ALL = list(presets().values())


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    stand_ins.classifier(root / "resnet"), stand_ins.dit(root / "dit")
    stand_ins.imagenet(root / "data")
    return root


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_every_name_in_it_exists(preset):
    here = module(preset.problem)
    tasks = {"dtta.problems.full.ade20k": "segmentation", "dtta.problems.full.nyuv2": "depth"}
    assert preset.problem in PROBLEMS
    assert preset.network in {*here.NETWORKS, "densedepth"}
    assert preset.diffusion in {None, "latent", *here.DIFFUSIONS}
    assert preset.method in methods_for(tasks.get(PROBLEMS[preset.problem], "classification"))
    assert set(preset.settings) <= set(settings_of(preset.method))
    assert preset.shift in {"clean", *(CORRUPTIONS if preset.problem == "imagenet-c" else IMAGE_SHIFTS)}
    assert preset.images > 0 and 0 < preset.paper < 100 and preset.severity in (1, 5)


def test_the_numbers_are_the_papers():
    """Every table is there; and what its text says of them: mean gains of Table 2, the largest of Table 1."""
    counts = {table: sum(p.name.startswith(f"table{table}/") for p in ALL) for table in (1, 2, 3, 4, 5, 6, 8)}
    assert counts == {1: 3 * 6 * 3, 2: 4 * 5 * 3, 3: 3 * 6 + 6, 4: 2 * 6, 5: 4, 6: 7 * 2, 8: 3}
    gains = {"resnet50": 14.1, "vit-b-32": 11.9, "convnext-tiny": 27.0, "convnext-large": 22.8}
    for network, gain in gains.items():
        cells = [p for p in ALL if p.name.startswith(f"table2/{network}/") and p.method == "diffusion-tta"]
        assert mean(p.paper - p.before for p in cells) == pytest.approx(gain, abs=0.06)
        assert all(p.settings["episodic"] is False for p in cells)
    means = {("resnet50", "tent"): 27.5, ("vit-b-32", "cotta"): 38.2, ("convnext-large", "tent"): 46.5}
    for (network, method), expected in means.items():
        cells = [p for p in ALL if p.name.startswith(f"table2/{network}/") and p.method == method]
        assert mean(p.paper for p in cells) == pytest.approx(expected, abs=0.06)
    first = [p for p in ALL if p.name.startswith("table1/") and p.method == "diffusion-tta"]
    assert max(first, key=lambda p: p.paper - p.before).name == "table1/resnet18/imagenet"
    assert all(p.paper > p.before for p in first)
    assert presets()["table1/resnet18/imagenet"].images == 3000


STAND_INS = {
    "imagenet-networks": stand_ins.classifier,
    "imagenet-diffusions": stand_ins.dit,
    "open-vocabulary-networks": stand_ins.clip,
    "open-vocabulary-diffusions": stand_ins.stable_diffusion,
    "ade20k-networks": partial(stand_ins.segformer, classes=150),
    "nyuv2-encoders": stand_ins.densenet,
    "autoencoders": lambda folder: stand_ins.vae().save_pretrained(folder),
}
SIZES = dict(size=32, widths=[8, 16], blocks=1, groups=4, embedding=3, encoder="densenet")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """All that the presets name, where they look for it: the hub's cache, converted and trained weights, data."""
    root = tmp_path_factory.mktemp("world")
    data = stand_ins.nyuv2(stand_ins.ade20k(stand_ins.objectnet(stand_ins.imagenet(root / "data")), classes=150))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("food101", "pets", "aircraft"):
            getattr(stand_ins, name)(data, stand_ins.NAMES[name], each=1)
        stand_ins.cifar100(data, patch, stand_ins.NAMES["cifar100"], each=1)
        stand_ins.flowers102(data, patch, classes=102, each=1)
        stand_ins.devkit(data)
        patch.setenv("DTTA_DATA", str(data))
        patch.setenv("DTTA_WEIGHTS", str(root / "weights"))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(root / "cache"))
        patch.setattr(imagenet, "VIT_B_32", stand_ins.VIT)
        patch.chdir(root)
        for table, make in STAND_INS.items():
            for checkpoint in checkpoints(table).values():
                if not checkpoint.conversion:
                    stand_ins.cached(root / "cache", checkpoint, make)
        stand_ins.convnext(root / "convnext-tiny"), stand_ins.convnext(root / "convnext-large")
        stand_ins.vision_transformer(root / "vit-b-32"), stand_ins.densenet(root / "densenet")
        (root / "vit-b-32" / "config.json").unlink()
        for name, classes in {"ade20k": 150, "nyuv2": 0}.items():
            (dense.folder(name) / "settings.json").write_text(json.dumps(SIZES), encoding="utf-8")
            weights.save(latent_maps.build(name, classes), {}, weights.path_of(name, "latent"))
        weights.save(nyuv2.densedepth(), {}, weights.path_of("nyuv2", "densedepth"))

        once = cache(dtta.load)  # many presets share a problem

        def load(*names, **options):
            options.pop("options", None)  # of pictures of one's own
            problem = once(*names[:7], **options)
            return replace(problem, model=deepcopy(problem.model), diffusion=deepcopy(problem.diffusion))

        patch.setattr("dtta.cli.options.load", load), patch.setattr("dtta.evaluation.scorer.load", load)
        yield


@pytest.mark.parametrize("preset", ALL, ids=lambda preset: preset.name)
def test_every_preset_starts(preset, world, tmp_path, capsys):
    """By its name alone, on one or two images and with fewer pairs; its settings, order and images reach the run."""
    accepted = settings_of(preset.method)
    little = dict(samples=2, steps=2, micro_batch=100, rank=2, views=2)
    little = {k: n for k, n in little.items() if k in accepted}
    options = [text for name, value in little.items() for text in ("--set", f"{name}={value}")]
    images = "1" if preset.method == "diffusion-classifier" else "2"  # with a thousand classes each takes seconds
    out = ["--images", images, "--workers", "1", "--out", str(tmp_path)]
    assert main(["evaluate", "--preset", preset.name, *out, *options]) == 0
    ours = summary.by_preset(tmp_path)[preset.name].run
    assert preset.settings | little == {k: v for k, v in ours.settings.items() if k in preset.settings | little}
    assert (ours.batch, ours.shuffle, ours.as_released, ours.keep_size) == (preset.batch, preset.shuffle, False, False)
    assert ours.shuffle == (preset.method in ("tent", "cotta") or preset.name.startswith("table2"))
    printed = capsys.readouterr().out
    assert all(f"{d.what}: {d.theirs}; here: {d.ours}" in printed for d in preset.differences) and preset.differences


def test_differences_are_listed_with_a_reason(capsys):
    """Each concerns a preset and is in the table once; what it says of settings is true."""
    assert main(["evaluate", "--preset", "differences"]) == 0
    printed = capsys.readouterr().out
    for d in DIFFERENCES:
        concerned = [p for p in ALL if d.concerns(p)]
        assert {p.method for p in concerned} == set(d.methods) and d.what in printed and d.why in printed
        assert {int(p.name[5]) for p in concerned} == set(d.tables)
    ours = {(p.name, d.what): d.ours for p in ALL for d in p.differences}
    assert "rank 16" in ours["table3/clip-b-32/pets", "LoRA of CLIP"]
    assert get("table3/clip-b-32/pets").settings["rank"] == 16
    assert "64" in ours["table2/resnet50/fog/tent", "batch and settings of this method"]
    assert get("table2/resnet50/fog/tent").batch == 64
    assert len(table_of_differences()) == len(DIFFERENCES) == printed.count("why:")


@pytest.mark.parametrize("data", ["imagenet", "imagenet-a"])
def test_tent_and_cotta_have_their_authors_settings_for_imagenet(hub, data, monkeypatch):
    """By preset and, but that they go along the stream, by the problem alone."""
    monkeypatch.setenv("DTTA_DATA", str(hub / "data"))
    for method, rate in (("tent", 2.5e-4), ("cotta", 0.01)):
        preset = presets()[f"table1/resnet18/{data}/{method}"]
        here = [difference.ours for difference in preset.differences]
        assert any("batches of 64, its authors' settings for ImageNet" in text for text in here)
        assert preset.batch == 64
        for settings in (preset.settings, {}):
            problem = dtta.load(data, str(hub / "resnet"), str(hub / "dit"))
            built = build(problem, method, **settings)
            assert type(built.optimizer) is torch.optim.SGD
            (group,) = built.optimizer.param_groups
            assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (rate, 0.9, True, 0)
            assert built.prior == 0 and (built.episodic is False or not settings)
            assert built.answer_before_step is not built.episodic
            if method == "cotta":
                assert (built.threshold, built.restore, built.momentum, built.views) == (0.1, 0.001, 0.999, 32)
                assert built.as_released


def test_what_others_published_is_read_as_they_averaged_it():
    """Each row's mean over the corruptions is the stated mean, so that an error in copying would show."""
    table = published("DUSA table 1")
    assert {tuple(row) for row in table.values()} == {tuple(next(iter(table.values())))} and len(table) == 11
    for values in table.values():
        *families, (name, stated) = values.items()
        assert name == "mean" and len(families) == len(CORRUPTIONS)
        assert mean(value for _, value in families) == pytest.approx(stated, abs=0.06)
    gain = {n: table[f"{n}, Diffusion-TTA"]["mean"] - table[f"{n}, none"]["mean"] for n in ("ConvNeXt-L", "ViT-B/16")}
    assert gain == pytest.approx({"ConvNeXt-L": 10.6, "ViT-B/16": 18.8}, abs=0.06)
    with pytest.raises(KeyError, match=r"published\.csv has no 'table 9'"):
        published("table 9")


def test_one_runs_on_stand_ins(hub, monkeypatch, capsys, tmp_path):
    """And its summary is found under its name, as page 12 shows it next to the paper's number."""
    monkeypatch.setenv("DTTA_DATA", str(hub / "data"))
    own = ["--network", str(hub / "resnet"), "--diffusion", str(hub / "dit"), "--images", "2", "--workers", "1"]
    little = ["--set", "samples=2", "--set", "steps=1"]
    out = ["--out", str(tmp_path / "rows")]
    assert summary.by_preset(tmp_path / "rows") == {}
    assert main(["evaluate", "--preset", "table2/resnet50/gauss", *own, *little, *out]) == 0
    told = capsys.readouterr().out
    assert "gaussian_noise" in told and "severity 5" in told and "2 test images" in told
    assert "the paper's table2/resnet50/gauss: 19.0, without adaptation 6.3" in told
    assert "the number of images: not stated" in told
    (name, found), *others = summary.by_preset(tmp_path / "rows").items()
    assert (name, list(found.gains), others) == ("table2/resnet50/gauss", ["gaussian_noise"], [])
    assert found.gains["gaussian_noise"]["images"] == 2 and found.run.settings["samples"] == 2
    assert main(["evaluate", "--preset", "table1/resnet18/imagenet-a/tent", *own]) == 0
    assert "tent against no adaptation" in capsys.readouterr().out

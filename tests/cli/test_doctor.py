"""dtta doctor: what is there, what is missing, and how long an image takes."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import stand_ins

from dtta.cli import doctor, main
from dtta.problems import PROBLEMS
from dtta.problems.data.hub import Location, is_cached, require
from dtta.problems.data.imagenet import LAYOUTS
from dtta.problems.full import open_vocabulary
from dtta.problems.full.imagenet import load_dit
from dtta.problems.training.weights import WeightsError


@pytest.fixture(autouse=True)
def nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path / "weights"))


def findings(capsys, *arguments, missing: bool) -> dict[str, str]:
    """Run the command, whose status says whether anything is missing; return marks and texts, by their subjects."""
    with pytest.raises(SystemExit) if missing else nullcontext() as stop:
        main(["doctor", *map(str, arguments)])
    assert not missing or stop.value.code == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(tuple(doctor.MARKS.values()))]
    return {line[9:22].strip(): line[:8].strip() + " " + line[22:] for line in lines}


@pytest.mark.parametrize("name", [name for name in PROBLEMS if "digits" not in name and "scenes" not in name])
def test_on_a_bare_machine_everything_is_missing(name, capsys):
    report = findings(capsys, name, missing=True)
    assert all(report[what].startswith("MISSING") for what in ("network", "diffusion", "data"))
    assert "unknown: it can be timed when nothing is missing" in report["time"]
    trained = name.startswith("own")
    remedy = f"dtta train {name} --only latent" if trained else "GB; it is downloaded at first use"
    assert remedy in report["diffusion"]


def test_with_everything_in_place_an_image_is_timed(tmp_path, capsys, monkeypatch):
    stand_ins.imagenet(tmp_path / "data")
    monkeypatch.setitem(LAYOUTS, "imagenet", replace(LAYOUTS["imagenet"], images=1000))
    network, diffusion = stand_ins.classifier(tmp_path / "resnet"), stand_ins.dit(tmp_path / "dit")
    command = ["imagenet", "--network", network, "--diffusion", diffusion]
    report = findings(capsys, *command, missing=False)
    assert all(report[what].startswith("ok") for what in ("network", "diffusion", "data"))
    assert "s for an image, 5 steps of 180 pairs" in report["time"]
    weights = tmp_path / "dit/vae/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    report = findings(capsys, *command, missing=True)
    needed = "has no model.safetensors or diffusion_pytorch_model.safetensors in: vae"
    assert report["diffusion"].startswith("MISSING") and report["diffusion"].endswith(needed)
    with pytest.raises(WeightsError, match=r"it has diffusion_pytorch_model\.fp16\.safetensors, but no .* a variant"):
        load_dit(str(diffusion))


def test_an_index_needs_all_of_its_files(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}', encoding="utf-8"
    )
    (tmp_path / "1.safetensors").touch()
    assert not is_cached(Location(str(tmp_path)))
    (tmp_path / "2.safetensors").touch()
    assert is_cached(Location(str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "make", "short"),
    [
        ("imagenet", stand_ins.imagenet, "999 of 50,000 images and 999 of 1,000 classes;"),
        (
            "imagenet-a",
            stand_ins.imagenet,
            "200 of 7,500 images; to get it again: delete it, then dtta fetch imagenet-a",
        ),
        ("objectnet", stand_ins.objectnet, "6 of 18,574 images;"),
        ("ade20k", stand_ins.ade20k, "4 of 20,210 training images with maps and 4 of 2,000 test images with maps;"),
        ("nyuv2", stand_ins.nyuv2, "4 of 50,688 training images with maps and 3 of 654 test images with maps;"),
        ("open-vocabulary-pets", stand_ins.pets, "6 of 3,680 validation images and 5 of 3,669 test images;"),
    ],
)
def test_incomplete_data_do_not_pass_as_complete(name, make, short, tmp_path, capsys):
    make(tmp_path / "data")
    for removed in (
        "val/n01440764/0.png",
        "nyu_data/data/nyu2_test/00002_depth.png",
        "oxford-iiit-pet/images/pug_12.jpg",
    ):
        (tmp_path / "data" / removed).unlink(missing_ok=True)
    report = findings(capsys, name, "--quick", missing=True)["data"]
    assert report.startswith("MISSING") and "is incomplete, it has only " in report and short in report, report


def test_what_has_to_be_converted_says_how(capsys):
    command = ["imagenet", "--network", "vit-b-32", "--diffusion", "dit-xl-2-512", "--quick"]
    report = findings(capsys, *command, missing=True)
    assert "save_file(vit_b_32(weights='IMAGENET1K_V1')" in report["network"]
    assert "save_pretrained('dit-xl-2-512')" in report["diffusion"]
    assert "not requested" in report["time"]


def test_the_hubs_cache_counts(monkeypatch):
    asked = require("network", None, open_vocabulary.NETWORKS)
    assert doctor.checkpoint(asked).good is False
    cached = {(asked.location.path, "model.safetensors", asked.location.checkpoint.revision)}

    def look(repository, file, revision=None):
        return "/somewhere" if (repository, file, revision) in cached else None

    monkeypatch.setattr("dtta.problems.data.hub.try_to_load_from_cache", look)
    assert doctor.checkpoint(asked).good and doctor.checkpoint(asked).text.endswith("in the cache")


def test_mini_problems_need_their_weights(capsys, monkeypatch):
    assert "make it with: dtta train digits" in findings(capsys, "digits", "--quick", missing=True)["weights"]
    monkeypatch.delenv("DTTA_WEIGHTS")
    assert findings(capsys, "digits", "--quick", missing=False)["weights"].startswith("ok")
    assert main(["doctor", "nothing"]) == 2
    assert "unknown problem 'nothing'" in capsys.readouterr().err


def test_too_little_memory_or_disk_is_said(monkeypatch):
    assert doctor.memory(1e6).good is False
    assert doctor.disk(1e9).good is False
    assert doctor.disk(0).good is None


def test_evaluate_says_what_is_missing_before_any_work(tmp_path, capsys):
    stand_ins.imagenet(tmp_path / "data")
    network, diffusion = stand_ins.classifier(tmp_path / "resnet"), stand_ins.dit(tmp_path / "dit")
    command = [
        "evaluate",
        "--network",
        str(network),
        "--diffusion",
        str(diffusion),
        "--method",
        "tent",
        "--images",
        "1",
    ]
    assert main([*command, "--problem", "imagenet-a"]) == 0
    printed = capsys.readouterr()
    assert "dtta: imagenet-a in " in printed.err and "it has only 200 of 7,500 images; to get it" in printed.err
    assert main([*command, "--problem", "imagenet-c", "--shift", "all", "--severity", "5"]) == 2
    printed = capsys.readouterr()
    assert "it contains no shot_noise/5, which is in noise.tar" in printed.err and "against" not in printed.out

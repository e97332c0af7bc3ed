"""dtta doctor: what is there, what is missing, and how long an image takes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import stand_ins

from dtta.cli import doctor, main
from dtta.problems import PROBLEMS
from dtta.problems.data.hub import require
from dtta.problems.full import open_vocabulary


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


def test_with_everything_in_place_an_image_is_timed(tmp_path, capsys):
    stand_ins.imagenet(tmp_path / "data")
    network, diffusion = stand_ins.classifier(tmp_path / "resnet"), stand_ins.dit(tmp_path / "dit")
    command = ["imagenet", "--network", network, "--diffusion", diffusion]
    report = findings(capsys, *command, missing=False)
    assert all(report[what].startswith("ok") for what in ("network", "diffusion", "data"))
    assert "s for an image, 5 steps of 180 pairs" in report["time"]
    (tmp_path / "dit/vae/diffusion_pytorch_model.safetensors").unlink()
    report = findings(capsys, *command, missing=True)
    assert report["diffusion"].startswith("MISSING") and report["diffusion"].endswith("has no safetensors in: vae")


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

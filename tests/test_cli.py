"""The command line: what it prints and draws, and one clear sentence for each bad input."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import torch
from PIL import Image

from dtta.cli import main

QUICK = ["--set", "steps=1", "--set", "samples=2"]


def refused(capsys, *arguments) -> str:
    """Run a command that must fail; return its one sentence."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    sentence = captured.err.strip().splitlines()[-1]
    assert sentence.startswith("dtta: ")
    assert "Traceback" not in captured.err
    return sentence


def test_adapt_prints_both_beliefs_and_draws_them(tmp_path, capsys):
    assert main(["adapt", "--index", "3", "--shift", "fog", "--out", str(tmp_path), *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "true class" in printed and "before" in printed and "after" in printed
    shares = [float(p) for p in re.findall(r"([\d.]+)%", printed)]
    assert len(shares) == 10 and all(0 <= p <= 100 for p in shares)
    with Image.open(tmp_path / "digits-3-fog-adapted.png") as figure:
        assert figure.width > 600


def test_adapt_takes_files_and_folders(tmp_path, capsys):
    for i in range(2):
        pixels = torch.randint(0, 255, (20, 20), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{i}.png")
    assert main(["adapt", str(tmp_path / "0.png"), "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert main(["adapt", str(tmp_path), "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-adapted.png", "1-adapted.png"]


def test_adapt_with_every_method(tmp_path):
    for method in ("none", "ensemble", "logits", "diffusion-classifier"):
        quick = [] if method == "none" else ["--set", "samples=2"]
        assert main(["adapt", "--index", "0", "--method", method, "--out", str(tmp_path), *quick]) == 0


def test_evaluate_prints_a_paired_table_and_goes_on(tmp_path, capsys):
    command = ["evaluate", "--shift", "contrast", "--images", "3", "--workers", "1", "--out", str(tmp_path), *QUICK]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert re.search(r"contrast +\d+\.\d +\d+\.\d +[+-]\d+\.\d +\[", first)
    (kept,) = tmp_path.glob("*diffusion-tta*")
    written = kept.read_text()
    assert len(written.splitlines()) == 4
    assert main(command) == 0
    assert kept.read_text() == written  # nothing was run again


def test_evaluate_all_shifts_ends_with_their_mean(capsys):
    assert main(["evaluate", "--shift", "all", "--images", "1", "--workers", "1", "--method", "none"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "[" in line]
    assert lines[0][0] == "clean" and lines[-1][0] == "mean" and len(lines) == 14
    before = [float(line[1]) for line in lines]
    assert before[-1] == pytest.approx(sum(before[1:-1]) / 12, abs=0.06)  # of the shifts, without clean
    assert before[-1] != pytest.approx(sum(before[:-1]) / 13, abs=0.06)


def test_bench_prints_ratio_and_floor(capsys):
    assert main(["bench", "--samples", "4", "--micro-batch", "2"]) == 0
    printed = capsys.readouterr().out
    ratio = float(re.search(r"naive / fast = ([\d.]+)", printed)[1])
    share = float(re.search(r"floor / fast = ([\d.]+)", printed)[1])
    difference = float(re.search(r"gradients differ by (\S+)", printed)[1])
    assert ratio > 0 and share > 0 and difference < 1e-5


def test_train_writes_weights_that_load(tmp_path, capsys, monkeypatch):
    assert main(["train", "digits", "--only", "vit", "--steps", "2", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "digits" / "vit.json").exists()
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    assert "make it with: dtta train digits --only resnet" in refused(capsys, "adapt", "--index", "0")
    from dtta.problems.digits import NETWORKS, load_model

    load_model("vit", NETWORKS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt"], "give an image file"),
        (["adapt", "x.png", "--index", "1"], "give an image file"),
        (["adapt", "no-such-file.png"], "no file no-such-file.png"),
        (["adapt", "--index", "5000"], "images 0 to 499, not 5000"),
        (["adapt", "--index", "0", "--problem", "numbers"], "unknown problem 'numbers'; choose from digits"),
        (["adapt", "--index", "0", "--network", "vgg"], "has resnet, vit, not 'vgg'"),
        (["adapt", "--index", "0", "--diffusion", "gan"], "not 'gan'"),
        (["adapt", "--index", "0", "--method", "magic"], "unknown method 'magic'"),
        (["adapt", "--index", "0", "--shift", "rain"], "unknown shift 'rain'"),
        (["adapt", "--index", "0", "--shift", "fog", "--severity", "6"], "severity must be"),
        (["adapt", "--index", "0", "--set", "speed=3"], "speed"),
        (["adapt", "--index", "0", "--set", "lr"], "NAME=VALUE"),
        (["adapt", "--index", "0", "--set", "steps=0"], "at least 1"),
        (["evaluate", "--shift", "rain"], "unknown shift 'rain'"),
        (["evaluate", "--shift", "all", "--severity", "0"], "severity must be"),
        (["evaluate", "--images", "0"], "between 1 and 500"),
        (["evaluate", "--split", "holdout"], "unknown split 'holdout'"),
        (["train", "numbers"], "unknown problem 'numbers'"),
        (["train", "digits", "--only", "vgg"], "unknown model 'vgg'"),
        (["bench", "--samples", "0"], "at least 1"),
    ],
)
def test_bad_input_gets_one_sentence(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in refused(capsys, *arguments)


def test_two_images_of_one_name_are_refused(tmp_path, capsys):
    for kind in ("png", "bmp"):
        Image.new("L", (8, 8)).save(tmp_path / f"a.{kind}")
    assert "share a name" in refused(capsys, "adapt", tmp_path, "--out", tmp_path / "out")


def test_unreadable_images_and_empty_folders(tmp_path, capsys):
    assert "holds no images" in refused(capsys, "adapt", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert "not a readable image" in refused(capsys, "adapt", tmp_path / "broken.png")


def test_damaged_weights(tmp_path, capsys, monkeypatch):
    from dtta.problems import weights

    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    for name in ("resnet", "unet"):
        for kind in (".safetensors", ".json"):
            original = weights.path_of("digits", name, weights.Path(weights.__file__).parent.parent / "weights")
            copy = weights.path_of("digits", name, tmp_path).with_suffix(kind)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(original.with_suffix(kind).read_bytes())
    with (tmp_path / "digits" / "unet.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    assert "is damaged: its checksum" in refused(capsys, "adapt", "--index", "0")


def test_help_teaches():
    command = [sys.executable, "-m", "dtta", "--help"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ}).stdout
    assert "dtta adapt --index 12 --shift fog" in printed and "evaluate" in printed and "bench" in printed

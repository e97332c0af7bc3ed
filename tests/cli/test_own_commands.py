"""Your own network, diffusion model and pictures from the command line: adapt, evaluate, resume, pair, doctor."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import stand_ins

from dtta.cli import main
from dtta.evaluation.journal import read
from dtta.evaluation.run import Run

MODELS = ("--network", "./net", "--diffusion", "./dit", "--classes", "classes.txt")
LITTLE = ("--set", "steps=1", "--set", "samples=2")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return stand_ins.own_pieces(tmp_path)


def run(*arguments) -> int:
    return main([*map(str, arguments)])


def rows_of(file: Path):
    with file.open(encoding="utf-8") as lines:
        record = json.loads(next(lines))
    return read(file, Run(**record)), record


def test_adapt_draws_a_figure_for_each_picture_of_each_class_folder(here, capsys):
    assert run("adapt", "photos/", *MODELS, *LITTLE, "--out", "out") == 0
    assert len(list((here / "out").glob("*-adapted.png"))) == 21
    assert (here / "out/Äpfel und Birnen-0-adapted.png").exists()
    assert capsys.readouterr().out.startswith("network: net (timm): 32 x 32 pixels")


def test_adapt_needs_no_data_set(here, capsys):
    assert run("adapt", "photos/hund/0.png", *MODELS, *LITTLE) == 0
    out = capsys.readouterr().out
    assert "pictures" not in out and "before" in out and (here / "0-adapted.png").exists()
    assert run("adapt", "--index", 1, "--problem", "photos", *MODELS, *LITTLE) == 0
    assert "true class" in capsys.readouterr().out
    assert run("adapt", "--index", 1, *MODELS) == 2
    assert "--index is the number of a picture of a problem" in capsys.readouterr().err


def test_evaluate_pairs_resumes_and_notices_changed_pictures(here, capsys, monkeypatch):
    command = ("evaluate", "--images", "photos/", *MODELS, *LITTLE, "--shift", "fog", "--workers", 1, "--out", "rows")
    assert run(*command) == 0
    assert "14 test images" in capsys.readouterr().out
    none, tta = (here / f"rows/photos-{method}-test.jsonl" for method in ("none", "diffusion-tta"))
    (before, record), (after, _) = rows_of(none), rows_of(tta)
    assert before.keys() == after.keys() and len(after) == 14
    assert record["problem"] == str(here / "photos") and record["network"] == str(here / "net")
    assert record["classes"] == stand_ins.OWN_NAMES

    lines = tta.read_text(encoding="utf-8").splitlines(keepends=True)
    tta.write_text("".join(lines[:6]) + lines[6][:9], encoding="utf-8")  # stopped in the middle of a row
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")  # the same pieces by other paths
    paths = ("--network", "../net", "--diffusion", here / "dit", "--classes", "../classes.txt")
    again = ("evaluate", "--problem", "../photos", *paths, *LITTLE, "--shift", "fog", "--workers", 1)
    assert run(*again, "--out", here / "rows") == 0
    resumed, _ = rows_of(tta)
    assert {cell: row.score for cell, row in resumed.items()} == {cell: row.score for cell, row in after.items()}
    assert [row.seconds for row in list(resumed.values())[:5]] == [row.seconds for row in list(after.values())[:5]]

    stand_ins.picture(99).save(here / "photos/hund/new.png")
    assert run(*again, "--out", here / "rows") == 2
    assert "holds rows of another run" in capsys.readouterr().err


@pytest.mark.reproduction  # test_own_readme.py starts workers too
def test_workers_and_single_processes_compute_the_same_rows(here):
    command = ["evaluate", "--images", "photos", *MODELS, *LITTLE, "--option", "validation=0", "--shift", "contrast"]
    assert run(*command, "--workers", 1, "--out", "rows1") == 0
    line = [sys.executable, "-m", "dtta", *command, "--workers", "2", "--out", "rows2"]
    subprocess.run(line, check=True, capture_output=True)
    scores = {}
    for workers in ("1", "2"):
        rows, record = rows_of(here / f"rows{workers}/photos-diffusion-tta-test.jsonl")
        assert record["options"]["validation"] == 0 and len(rows) == 21
        scores[workers] = {cell: row.score for cell, row in rows.items()}
    assert scores["1"] == scores["2"]


def test_images_is_a_number_or_a_path(here, capsys):
    assert run("evaluate", "--problem", "photos", "--images", 2, *MODELS, *LITTLE, "--workers", 1) == 0
    assert "2 test images" in capsys.readouterr().out


def test_doctor_reports_on_your_own_pieces(here, capsys):
    assert run("doctor", "photos", *MODELS, "--quick") == 0
    out = capsys.readouterr().out
    assert str(here / "net") in out and f"in {here / 'photos'}" in out and "nothing is missing" in out
    assert run("doctor", *MODELS, "--quick") == 0
    (here / "dit/vae/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SystemExit):
        run("doctor", *MODELS, "--quick")
    assert "in: vae" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "sentence"),
    {
        "evaluate --images photos --network ./net": "--diffusion is missing",
        "evaluate --images photos --problem imagenet": "leave --problem out",
        "evaluate --images nowhere --network ./net --diffusion ./dit": "there is no folder or file",
        "evaluate --images photos/hund --network ./net --diffusion ./dit --classes classes.txt": "no labels",
        "evaluate --images photos --network ./net --diffusion ./dit --classes missing.txt": "missing.txt cannot",
        "evaluate --images photos --network ./net --diffusion ./dit --classes a,b": "7 classes, and there are 2",
        "evaluate --images photos --network ./net --diffusion ./nowhere": "'./nowhere'",
        "evaluate --images photos --network ./net --diffusion ./dit --option speed=3": "no choice of speed",
        "evaluate --images photos --network ./net --diffusion ./dit --option validation=all": "must be a share",
        "evaluate --images photos --network ./net --diffusion ./dit --option validation": "--option takes NAME=VALUE",
        "evaluate --images 0": "must be a whole number of at least 1",
        "evaluate --problem photos --images 99 --network ./net --diffusion ./dit --classes classes.txt": "1 and 14",
        "adapt photos/hund/0.png --network ./net --diffusion ./dit": "names of the network's 7 classes are not known",
        "adapt --index 0 --option near=1": "digits has no choice of near",
    }.items(),
)
def test_wrong_lines_are_refused_in_one_sentence(here, capsys, line, sentence):
    assert main(line.split()) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1 and error.startswith("dtta: ")

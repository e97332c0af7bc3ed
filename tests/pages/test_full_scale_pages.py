"""Every page at full scale, on tiny random checkpoints and generated data, from an empty folder and the wheel alone.

What comes out is far too little to say anything: each page's code runs to its end, on the problem that it names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import stand_ins
import wheels
from filelock import FileLock
from test_open_vocabulary_page import LITTLE

from dtta.experiments import stored
from tools.pages.check import check_page
from tools.pages.project import Project
from tools.pages.run import run_page

PROJECT = Project(wheels.ROOT)
MOST = {"steps": 1, "samples": 2, "micro_batch": 2, "views": 2, "anchors": 2}
FEW = dict(images=1, shifts=["gaussian_noise", "fog"], most=MOST)
# Of each page: the problem, its network and diffusion model; the tables that it makes; parameters that make it short.
IMAGENET = ("imagenet", "classifier", "dit")
PAGES = {
    "01_diffusion_loss": (IMAGENET, (), dict(images=3, pairs=4)),
    "02_conditions": (IMAGENET, (), dict(images=3, pairs=2)),
    "03_classification": (IMAGENET, ("digits-test", "teachers"), FEW | dict(vit="vit", live=1)),
    "04_segmentation": (("ade20k", "segformer", "controlled"), ("scenes-segmentation-test",), FEW | dict(listeners=2)),
    "05_depth": (("nyuv2", "glpn", "controlled"), ("scenes-depth-test",), FEW | dict(listeners=2, probed=1)),
    # With Food101: test_open_vocabulary_page.py. Pets have other data and another sentence.
    "06_open_vocabulary": (
        ("open-vocabulary-pets", "clip", "sd"),
        ("open-vocabulary-pets-test",),
        dict(images=1, shifts=["contrast", "fog"], counts=[2, 3], listeners=2, overrides=LITTLE, data="pets"),
    ),
    "07_loss_ablations": (IMAGENET, ("loss",), FEW | dict(pictures=2, draws=2)),
    "08_weights": (IMAGENET, ("weights",), FEW | dict(vit="vit", steps=2)),
    "09_online": (IMAGENET, ("online",), FEW | dict(vit="vit", images=4, length=3, live=2)),
    "10_beyond": (IMAGENET, ("beyond", "stopping"), FEW | dict(asked=1, pairs=4)),
    "11_full_scale": (None, (), dict(images=2, cases=["dit-toy", "dit-toy-joint"], steps=1, samples=4)),
    "12_scenes": (None, (), dict(counted=20, measured=2)),
}


@pytest.fixture(scope="session")
def world(tmp_path_factory, worker_id) -> Path:
    """hub/, data/ and site/ (the wheel), made once, whatever the number of processes."""
    base = tmp_path_factory.getbasetemp()
    root = (base if worker_id == "master" else base.parent) / "world"
    with FileLock(f"{root}.lock"):
        if not root.exists():
            making = root.with_name("world-making")
            hub, data, build = making / "hub", making / "data", making / "build"
            build.mkdir(parents=True)
            wheels.unpack(wheels.build(build), making / "site")
            shutil.rmtree(build)
            (
                stand_ins.classifier(hub / "classifier"),
                stand_ins.vision_transformer(hub / "vit"),
                stand_ins.dit(hub / "dit"),
            )
            stand_ins.segformer(hub / "segformer", 150), stand_ins.glpn(hub / "glpn")
            stand_ins.controlled(hub / "controlled")
            stand_ins.clip(hub / "clip"), stand_ins.stable_diffusion(hub / "sd")
            data.mkdir()
            stand_ins.imagenet(data, ["imagenet"]), stand_ins.ade20k(data, 150), stand_ins.nyuv2(data)
            stand_ins.pets(data)
            making.rename(root)
    return root


def test_every_page_is_run():
    assert list(PAGES) == PROJECT.pages()


def test_the_checkout_is_hidden(world, tmp_path):
    """Without the wheel beside it there is no dtta, though this environment has it installed from the checkout."""
    shutil.copy(world / "site" / "sitecustomize.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import torch, dtta"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, check=False,
    encoding="utf-8")  # fmt: skip
    assert done.returncode and done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'dtta'"


def outputs(path: Path) -> str:
    """What a notebook printed and the text of its tables and figures."""
    found = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    return "\n".join(o.text if o.output_type == "stream" else o.data["text/plain"] for o in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_runs_at_full_scale_from_the_wheel_alone(name, world, tmp_path, monkeypatch):
    told = tmp_path / "told"
    monkeypatch.setenv("PYTHONPATH", str(world / "site"))
    monkeypatch.setenv("DTTA_DATA", str(world / "data"))
    monkeypatch.setenv("DTTA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DTTA_TEST_TOLD", str(told))
    problem, tables, extra = PAGES[name]
    extra = dict(extra)
    if problem:
        problem, network, diffusion = problem[0], str(world / "hub" / problem[1]), str(world / "hub" / problem[2])
        extra |= dict(network=network, diffusion=diffusion)
    if "vit" in extra:
        extra["vit"] = str(world / "hub" / "vit")
    settings = PROJECT.settings(name, "full", extra)
    assert settings["scale"] == "full"
    assert run_page(PROJECT, name, "full", settings, tmp_path) is None

    wrong = check_page(PROJECT, tmp_path / f"{name}.ipynb", committed=False)
    assert [sentence for sentence in wrong if "absolute path" not in sentence] == []  # the checkpoints' own
    used = told.read_text(encoding="utf-8").splitlines()
    assert used and {Path(path).parents[1] for path in used} == {world / "site"}

    text = outputs(tmp_path / f"{name}.ipynb")
    if problem is None:
        assert text.count("full scale: ") == 1
        return
    assert text.count(f"full scale: {problem}, {network} under {diffusion}\n") == 1
    assert not re.search(r": False$", text, re.MULTILINE)  # what is computed by hand
    folder = tmp_path / "cache" / "results"
    assert {path.stem for path in folder.glob("*.json")} == set(tables)
    for table in tables:
        for run, known in stored.runs(table, folder).items():
            assert known.problem == problem and known.diffusion == diffusion, run
            assert known.network in (network, extra.get("vit")), run
            assert {row.shift.removeprefix("after ") for row in stored.rows(table, run, folder)} <= {
                "clean",
                *extra["shifts"],
            }
        assert {"fog", "clean"} <= {row.shift for row in stored.rows(table, "none", folder)}

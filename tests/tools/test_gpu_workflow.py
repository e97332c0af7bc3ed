"""A dry run of gpu.yml without a GPU: its own commands, with stand-ins for make, the GPU, checkpoints and data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stand_ins
import yaml

from dtta.cli import parser
from dtta.problems.data.hub import checkpoints
from tools.pages import prepare
from tools.pages.project import Project

ROOT = Path(__file__).resolve().parents[2]
PROJECT = Project(ROOT)
JOBS = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text(encoding="utf-8"))["jobs"]
PARTS = (".ci", "notebooks/src", "notebooks/profiles.yml", "tools", "pyproject.toml", "_toc.yml", "book")
PAGE = "01_diffusion_loss"


class Runner:
    """A checkout on a machine with stand-ins, and what the jobs find in their environment."""

    def __init__(self, folder: Path) -> None:
        self.checkout, fake = folder / "checkout", folder / "bin"
        for part in PARTS:
            (self.checkout / part).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, self.checkout / part)
        (self.checkout / ".venv").symlink_to(Path(os.path.abspath(sys.executable)).parents[1])
        fake.mkdir()
        for command in (fake / "make", self.checkout / ".ci/gpu"):
            command.write_text("#!/bin/sh\n", encoding="utf-8")
            command.chmod(0o755)
        data, cache = folder / "data", folder / "hub" / "hub"
        data.mkdir()
        stand_ins.imagenet(data, ["imagenet"])
        for image in [path for path in (data / "val").rglob("*") if path.is_file()]:  # complete: 50 of each class
            for number in range(49):
                os.link(image, image.with_stem(f"{image.stem}_{number}"))
        network, diffusion = checkpoints("imagenet-networks"), checkpoints("imagenet-diffusions")
        stand_ins.cached(cache, network["resnet18"], stand_ins.classifier)
        stand_ins.cached(cache, diffusion["dit-xl-2-256"], stand_ins.dit)
        self.variables = {
            "PAGES": PAGE[:2], "PROFILE": "smoke", "PAGE": PAGE, "HF_HOME": str(folder / "hub"), "DTTA_DATA": str(data),
            "GITHUB_OUTPUT": str(folder / "output"), "DTTA_CACHE": str(folder / "cache"),
            "PATH": f"{fake}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        }  # fmt: skip

    def run(self, job: str, which: str = "") -> subprocess.CompletedProcess:
        """Run the commands of a job in order, or those with a word, until one fails, as GitHub does."""
        assert set(JOBS[job].get("env", {})) <= set(self.variables), "a variable that this test does not set"
        done = None
        for step in JOBS[job]["steps"]:
            if which in step.get("run", "") and (not done or not done.returncode or "if" in step) and "run" in step:
                last = subprocess.run(
                    ["bash", "-e", "-c", step["run"]], cwd=self.checkout, env=os.environ | self.variables,
                    capture_output=True, check=False, encoding="utf-8",
                )  # fmt: skip
                done = last if not done or not done.returncode else done
        return done


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Runner:
    return Runner(tmp_path_factory.mktemp("runner"))


@pytest.mark.slow
def test_jobs_run_compare_and_offer_a_reference(runner):
    assert runner.run("list").returncode == 0
    lines = Path(runner.variables["GITHUB_OUTPUT"]).read_text(encoding="utf-8").splitlines()
    assert lines == [f'pages=["{PAGE}"]', "profile=smoke"]
    first = runner.run("data")
    assert first.returncode == 0, first.stderr
    assert "--- imagenet" in first.stdout and "nothing is missing" in first.stdout

    stopped = runner.run("page")  # the whole job: there is no reference yet
    assert stopped.returncode == 2 and f"{PAGE}: no reference for CPU" in stopped.stderr, stopped.stderr
    (offered,) = runner.checkout.glob("_build/executed/references/smoke/*/*.ipynb")
    text = (runner.checkout / f"_build/executed/smoke/{PAGE}.ipynb").read_text(encoding="utf-8")
    assert "full scale: imagenet, " in text
    committed = runner.checkout / "notebooks" / offered.relative_to(runner.checkout / "_build/executed")
    committed.parent.mkdir(parents=True)
    shutil.copy(offered, committed)
    again = runner.run("page", "compare")
    assert again.returncode == 0, again.stdout + again.stderr


def test_the_data_job_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    (sentence,) = prepare.prepare(PROJECT, [PAGE, "03_classification"], "smoke")  # both need imagenet
    assert sentence.startswith("imagenet: ") and "data" in sentence and "cannot be used" in sentence


def test_bench_is_a_command():
    (command,) = (s["run"] for s in JOBS["bench"]["steps"] if "dtta bench" in s.get("run", ""))
    parser().parse_args(command.split()[1:])


@pytest.mark.parametrize("profile", ["smoke", "full"])
def test_profiles_and_problems_fit_the_pages(profile):
    pages = PROJECT.pages()
    assert all(PROJECT.settings(name, profile)["scale"] == "full" for name in pages)
    assert set(PROJECT.problems) <= set(pages)
    for name, problem in PROJECT.problems.items():
        source = (PROJECT.sources / f"{name}.py").read_text(encoding="utf-8")
        assert f'"{problem}"' in source or "open-vocabulary-{data}" in source


def test_the_matrix_lists_every_page():
    done = subprocess.run([ROOT / ".ci/pages"], capture_output=True, check=True, encoding="utf-8")
    assert json.loads(done.stdout.removeprefix("pages=")) == PROJECT.pages()
    wrong = subprocess.run([ROOT / ".ci/pages"], env=os.environ | {"PAGES": "99"}, capture_output=True, check=False)
    assert wrong.returncode and b"99" in wrong.stderr

"""Pages at full scale, on tiny random checkpoints and generated data, from an empty folder and the wheel alone.

They run in one kernel, one after the other: importing torch and diffusers takes longer than most of them. What comes
out is far too little to say anything: each page's code runs to its end, on the problem that it names. Pages 00 and 13
compute the same at both scales and are run only by test_committed_pages.py, from the checkout.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import stand_ins
import wheels
from filelock import FileLock
from jupyter_client import KernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.evaluation.streams import stream_of
from dtta.experiments import stored
from tools.pages.check import check_page
from tools.pages.project import Project, write
from tools.pages.run import CELL_TIMEOUT, environment

PROJECT = Project(wheels.ROOT)
MOST = {"steps": 1, "samples": 2, "micro_batch": 100, "views": 2, "anchors": 2}
FEW = dict(images=1, shifts=["gaussian_noise", "fog"], most=MOST)
# Too few steps and samples to improve anything: the test only checks that the page's code runs to its end.
LITTLE = {
    "diffusion-tta": dict(steps=2, samples=2, micro_batch=2, rank=2),
    "tent": dict(rank=2),
    "tpt": dict(views=4),
    "diffusion-classifier": dict(samples=3),
    "ensemble": dict(samples=3),
}
# Of each page: the problem, its network and diffusion model; the tables that it makes; parameters that make it short.
IMAGENET = ("imagenet", "classifier", "dit")
PAGES = {
    "01_diffusion_loss": (IMAGENET, (), dict(images=3, pairs=4)),
    "02_conditions": (IMAGENET, (), dict(images=3, pairs=2)),
    "03_classification": (IMAGENET, ("digits-test", "teachers"), FEW | dict(vit="vit", live=1)),
    "04_segmentation": (
        ("ade20k", "segformer", "controlled"),
        ("scenes-segmentation-test",),
        FEW | dict(validation_images=2),
    ),
    "05_depth": (("nyuv2", "glpn", "controlled"), ("scenes-depth-test",), FEW | dict(validation_images=2, probed=1)),
    "06_open_vocabulary": (
        ("open-vocabulary-pets", "clip", "sd"),
        ("open-vocabulary-pets-test",),
        dict(images=1, shifts=["contrast", "fog"], counts=[2, 3], validation_images=2, overrides=LITTLE, data="pets"),
    ),
    "07_loss_ablations": (IMAGENET, ("loss",), FEW | dict(pictures=2, draws=2)),
    "08_weights": (IMAGENET, ("weights",), FEW | dict(vit="vit", steps=2)),
    "09_online": (IMAGENET, ("online",), FEW | dict(vit="vit", images=4, length=3, live=2)),
    "10_beyond": (IMAGENET, ("beyond", "stopping", "forward", "distillation"), FEW | dict(pairs=4)),
    "11_own": (None, (), dict(pictures=16)),
    "12_full_scale": (None, (), dict(images=2, cases=["dit-toy", "dit-toy-joint"], steps=1, samples=4)),
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


FRESH = """\
import os, sys
for name in [name for name in sys.modules if name.partition(".")[0] == "dtta"]:
    del sys.modules[name]
os.chdir({empty!r})
os.environ["DTTA_CACHE"] = {cache!r}
%reset -f
"""


@pytest.fixture(scope="session")
def kernel_and_origins(world, tmp_path_factory):
    """A kernel that finds only the wheel's dtta, and the file to which it writes where it found it."""
    origins = tmp_path_factory.mktemp("kernel") / "origins"
    variables = {"PYTHONPATH": world / "site", "DTTA_DATA": world / "data", "DTTA_TEST_ORIGINS": origins}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=environment() | {name: str(value) for name, value in variables.items()})
    yield manager, origins
    manager.shutdown_kernel(now=True)


def execute(kernel: KernelManager, notebook: NotebookNode) -> None:
    client = NotebookClient(notebook, km=kernel, timeout=CELL_TIMEOUT["mini"])
    try:
        client.execute()
    finally:
        client.kc.stop_channels()


def run_in(kernel: KernelManager, name: str, settings: dict, page: Path) -> None:
    """Run a page in an empty folder, with cache/ next to it, without names or modules of dtta from earlier pages."""
    empty, cache = page.parent / "empty", page.parent / "cache"
    empty.mkdir()
    fresh = FRESH.format(empty=str(empty), cache=str(cache))
    execute(kernel, nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(fresh)]))
    write(PROJECT.generate(name), page)
    notebook = parameterize_notebook(load_notebook_node(str(page)), settings)
    execute(kernel, notebook)
    nbformat.write(notebook, page)


def test_every_page_with_a_full_scale_is_run():
    assert set(PROJECT.pages()) - set(PAGES) == {"00_diffusion_model", "13_scenes"}


def test_the_checkout_is_hidden(world, tmp_path):
    """Without the wheel beside it there is no dtta, though this environment has it installed from the checkout."""
    shutil.copy(world / "site" / "sitecustomize.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", "import torch, dtta"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True, check=False,
    encoding="utf-8")  # fmt: skip
    assert done.returncode and done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'dtta'"


def outputs(path: Path) -> list[tuple[str, str]]:
    """Return the kind of each output of a notebook (figure, table or text) and its words; a cell's texts are joined."""
    bar = "application/vnd.jupyter.widget-view+json"  # of progress, where ipywidgets is installed
    kinds = []
    for cell in nbformat.read(path, as_version=4).cells:
        texts = []
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if set(data) == {"text/plain"}:
                texts.append(data["text/plain"])
            elif bar not in data:
                kinds.append((min(data), data["text/plain"]))
        if texts:
            kinds.append(("stream", "\n".join(texts)))
    return kinds


def stop_after_one_image(problem: str, models: dict, folder: Path) -> None:
    """Write the rows of a run that was stopped after its first image, with 99 seconds as a mark."""
    path = folder / problem / "none.jsonl"
    (first,) = evaluate(Run("none", problem, **models), [("clean", 3)], [0], path, progress=False)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(f'"seconds": {first.seconds}', '"seconds": 99.0'), encoding="utf-8")


def check_open_vocabulary(page: Path, problem: str, models: dict, folder: Path) -> None:
    """Page 06 has the outputs of the committed one that suit its scale, and resumed the rows that it found."""
    full, mini = outputs(page), outputs(PROJECT.notebooks / page.name)
    kinds, texts = Counter(kind for kind, _ in full), [text for _, text in full]
    assert kinds == Counter(kind for kind, _ in mini) + Counter(["stream"])  # what it runs on
    # what is computed by hand: logits, condition, no change by LoRA, gradients of A and B
    assert [text.count("True") for text in texts if "True" in text] == [1, 1, 1, 2]
    assert not [text for text in texts if any(word in text for word in ("False", "portrait", "nan"))]
    table = f"{problem}-test"
    assert {len(stored.rows(table, run, folder)) for run in stored.runs(table, folder)} == {3}
    assert [r.seconds for r in stored.rows(table, "none", folder)].count(99.0) == 1
    assert {r.index for r in stored.rows(table, "tpt", folder)} == {0, 1, 2}
    assert stored.runs(table, folder)["none, 2 names"] == Run("none", problem, **models, settings={}, classes=2)
    assert not {"none, 3 names", "diffusion-tta, 3 names"} & set(stored.runs(table, folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_page_runs_at_full_scale_from_the_wheel_alone(name, world, kernel_and_origins, tmp_path, monkeypatch):
    kernel, origins = kernel_and_origins
    origins.unlink(missing_ok=True)
    monkeypatch.setenv("DTTA_DATA", str(world / "data"))
    monkeypatch.setenv("DTTA_CACHE", str(tmp_path / "cache"))
    problem, tables, extra = PAGES[name]
    page, folder = tmp_path / f"{name}.ipynb", tmp_path / "cache" / "results"
    extra = dict(extra)
    if problem:
        problem, network, diffusion = problem[0], str(world / "hub" / problem[1]), str(world / "hub" / problem[2])
        models = dict(network=network, diffusion=diffusion)
        extra |= models
    if "vit" in extra:
        extra["vit"] = str(world / "hub" / "vit")
    if name == "06_open_vocabulary":
        stop_after_one_image(problem, models, folder)
    settings = PROJECT.settings(name, "full", extra)
    assert settings["scale"] == "full"
    run_in(kernel, name, settings, page)

    wrong = check_page(PROJECT, page, committed=False)
    assert [sentence for sentence in wrong if "absolute path" not in sentence] == []  # the checkpoints' own
    used = origins.read_text(encoding="utf-8").splitlines()
    assert used and {Path(path).parents[1] for path in used} == {world / "site"}

    text = "\n".join(words for _, words in outputs(page))
    if problem is None:
        assert text.count("full scale: ") == 1
        return
    assert text.count(f"full scale: {problem}, {network} under {diffusion}\n") == 1
    assert not re.search(r": False$", text, re.MULTILINE)  # what is computed by hand
    assert {path.stem for path in folder.glob("*.json")} == set(tables)
    for table in tables:
        for run, known in stored.runs(table, folder).items():
            assert known.problem == problem and known.diffusion == diffusion, run
            assert known.network in (network, extra.get("vit")), run
            assert {stream_of(row.shift) for row in stored.rows(table, run, folder)} <= {
                "clean",
                *extra["shifts"],
            }
        assert {"fog", "clean"} <= {row.shift for row in stored.rows(table, "none", folder)}
    if name == "06_open_vocabulary":
        check_open_vocabulary(page, problem, models, folder)

"""Problems and methods of a user's own package, by import string: in workers, under a launcher, after a stop."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dtta.cli import main

PROBLEM = """
import torch
from diffusers import DDPMScheduler, UNet2DModel
from dtta.core.conditions import ClassMixture
from dtta.core.diffusion import ClassUNet
from dtta.core.problem import Problem


def draw(split, index, shift, severity, seed):
    image = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(index))
    return image if shift == "clean" else 1 - image, torch.tensor(index % 3)


def tiny():
    torch.manual_seed(0)
    shape = dict(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, num_class_embeds=3)
    blocks = dict(down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",))
    network = UNet2DModel(sample_size=8, in_channels=1, out_channels=1, **shape, **blocks)
    diffusion = ClassUNet(network, DDPMScheduler())
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    return Problem(
        name="tiny", task="classification", classes=("a", "b", "c"), model=model, diffusion=diffusion,
        condition=ClassMixture(lambda: diffusion.class_embeddings), draw=draw, sizes={"test": 12}, shape=(1, 8, 8),
        shifts=("noise",), metric="accuracy", score=lambda y, label: y.softmax(1)[0, label].item(),
    )
"""
METHOD = """
import torch


class Noisy(torch.nn.Module):
    def __init__(self, model, scale):
        super().__init__()
        self.model, self.scale = model, scale

    @torch.no_grad()
    def forward(self, image, generator=None):
        return self.model(image + self.scale * torch.randn(image.shape, generator=generator))


def build(problem, *, scale=1.0):
    return Noisy(problem.model, scale)
"""
NAMES = ["--problem", "mine.problems:tiny", "--method", "mine.methods:build", "--set", "scale=0.5"]
COMMAND = ["evaluate", *NAMES, "--images", "8", "--shift", "all"]
# Without GPUs as with them: only "--multi_gpu" starts several processes, and ours check what is available.
LAUNCHER = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
            "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The user's folder, with a package that is not installed."""
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "problems.py").write_text(PROBLEM, encoding="utf-8")
    (package / "methods.py").write_text(METHOD, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    forget()  # a module of that name from another test
    yield tmp_path
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def rows(out: Path) -> list[dict]:
    (file,) = out.glob("mine.problems-tiny-mine.methods-build-test.jsonl")
    return [json.loads(line) | {"seconds": 0} for line in file.read_text(encoding="utf-8").splitlines()[1:]]


def gains(printed: str) -> list[str]:
    return [line for line in printed.splitlines() if "[" in line or "against" in line]


def start(*call: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    return subprocess.run(call, env=environment, capture_output=True, timeout=300, check=False, encoding="utf-8")


def test_a_package_in_the_current_folder(folder, capsys):
    """With -P, Python itself does not look in the current folder; the workers are spawned; then it continues."""
    assert main([*COMMAND, "--workers", "1", "--out", "one"]) == 0
    printed = gains(capsys.readouterr().out)
    expected = rows(Path("one"))
    assert len(expected) == 16 and len({row["score"] for row in expected}) == 16
    two = start(sys.executable, "-P", "-m", "dtta", *COMMAND, "--workers", "2", "--out", "two")
    assert two.returncode == 0, two.stderr
    assert rows(Path("two")) == expected and gains(two.stdout) == printed
    (file,) = Path("two").glob("*build-test.jsonl")
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(lines[:5]), encoding="utf-8")
    assert main([*COMMAND, "--workers", "1", "--out", "two"]) == 0
    assert rows(Path("two")) == expected
    assert file.read_text(encoding="utf-8").startswith("".join(lines[:5]))


@pytest.mark.slow
def test_under_a_launcher(folder, capsys):
    """The table of one process, printed once; an error is reported once."""
    assert main([*COMMAND, "--workers", "1", "--out", "one"]) == 0
    printed = gains(capsys.readouterr().out)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    call = [*LAUNCHER, "--main_process_port", port, "-m", "dtta"]
    two = start(*call, *COMMAND, "--out", "two")
    assert two.returncode == 0, two.stderr
    assert rows(Path("two")) == rows(Path("one")) and gains(two.stdout) == printed
    assert sorted(path.suffix for path in Path("two").iterdir()) == [".json", ".jsonl", ".jsonl"]
    wrong = start(*call, "evaluate", "--problem", "mine.problems:absent", "--out", "two")
    assert wrong.returncode != 0
    assert wrong.stderr.count("dtta: ") == 1 and "has no function 'absent'" in wrong.stderr


@pytest.mark.parametrize(("names", "message"), [
    (["--problem", "nothing.here:tiny"], "problem 'nothing.here:tiny': there is no module 'nothing' in the current"),
    (["--problem", "mine.absent:tiny"], "problem 'mine.absent:tiny': there is no module 'mine.absent' in the current"),
    (["--problem", "mine.problems:absent"], "the module mine.problems has no function 'absent'"),
    (["--problem", "mine.problems:"], "the problem 'mine.problems:' must have the form package.module:function"),
    (["--method", "mine.methods:absent"], "method 'mine.methods:absent': the module mine.methods has no function"),
    ([*NAMES, "--set", "speed=1"], "mine.methods:build has no setting 'speed'; choose from scale"),
    ([*NAMES, "--network", "resnet"], "mine.problems:tiny has no choice of network"),
])  # fmt: skip
def test_a_wrong_import_string_gets_one_sentence(folder, capsys, names, message):
    assert main(["evaluate", "--images", "1", "--workers", "1", *names]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("dtta: ") and message in printed and "\n" not in printed

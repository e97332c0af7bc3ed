"""README's section "Your own network and images", as it is printed, from the built wheel in an empty folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stand_ins
import wheels

SECTION = "## Your own network and images"


def blocks() -> dict[str, str]:
    """Return the section's code by language."""
    text = (wheels.ROOT / "README.md").read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    return dict(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL))


def test_the_snippet_is_short_and_names_what_a_visitor_has():
    code = blocks()
    assert list(code) == ["python", "bash"] and all(block.count("\n") <= 15 for block in code.values())
    assert "dtta.problem(" in code["python"] and code["bash"].count("\ndtta") == 1  # two lines


@pytest.mark.slow
def test_it_runs_on_a_folder_of_pictures_with_seven_classes(tmp_path, monkeypatch):
    for name in ("build", "bin", "here"):
        (tmp_path / name).mkdir()
    site = wheels.unpack(wheels.build(tmp_path / "build"), tmp_path / "site")
    command = tmp_path / "bin/dtta"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m dtta "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    here, origins = tmp_path / "here", tmp_path / "origins"
    stand_ins.own_pieces(here)
    for folder in sorted((here / "photos").iterdir())[3:]:  # pictures of three classes are enough
        shutil.rmtree(folder)
    (here / "net").rename(here / "my-network"), (here / "dit").rename(here / "my-dit")
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "DTTA_TEST_ORIGINS": str(origins),
        "HF_HUB_OFFLINE": "1",
    }
    code = blocks()
    for line in ([sys.executable, "-c", code["python"]], ["sh", "-ec", code["bash"]]):
        done = subprocess.run(line, cwd=here, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr[-2000:]
        assert "network: my-network (timm): 32 x 32 pixels" in done.stdout
        assert "pictures: 9, with a class each: 6 test, 3 validation" in done.stdout
    assert "diffusion-tta against no adaptation, accuracy in %, 6 test images" in done.stdout
    assert len(list((here / "figures").glob("*.png"))) == 9
    assert {path.name for path in (here / "rows").glob("*.jsonl")} == {
        "photos-none-test.jsonl",
        "photos-diffusion-tta-test.jsonl",
    }
    assert {Path(line).parents[1] for line in origins.read_text(encoding="utf-8").splitlines()} == {site}

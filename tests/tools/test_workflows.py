"""What the workflows' linters (actionlint, zizmor) cannot check."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import yaml

from tools.pages.project import COLAB_INSTALL

ROOT = Path(__file__).resolve().parents[2]


def test_no_pull_request_reaches_the_gpu_runner():
    """The code of a pull request may come from anyone."""
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        workflow = yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)  # YAML 1.1 would read `on` as true
        hosts = [job["runs-on"] for job in workflow["jobs"].values()]
        if any(host != "ubuntu-latest" for host in hosts):
            assert set(workflow["on"]) <= {"schedule", "push", "workflow_dispatch"}
            assert set(workflow["on"].get("push", {})) <= {"tags"}


def test_the_matrix_lists_every_page():
    line = subprocess.run([ROOT / ".ci/pages"], capture_output=True, check=True, encoding="utf-8").stdout
    name, _, pages = line.strip().partition("=")
    assert name == "pages"
    assert json.loads(pages) == sorted(path.stem for path in (ROOT / "notebooks/src").glob("*.py"))


def test_colabs_job_installs_what_the_install_cell_installs():
    script = (ROOT / ".ci/colab").read_text(encoding="utf-8")
    for line in re.findall(r"%pip (.*)$", COLAB_INSTALL, re.MULTILINE):
        command = line.replace('"dtta @ git+{url}@{tag}"', ".")
        assert f"python3 -m pip {command}\n" in script

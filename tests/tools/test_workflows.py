"""What the workflows' linters (actionlint, zizmor) cannot check."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

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

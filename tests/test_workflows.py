"""The GitHub workflows: valid, pinned, and with no more rights than they need."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))


def test_there_is_a_workflow():
    assert [path.name for path in WORKFLOWS] == ["ci.yml"]


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.name)
def path(request) -> Path:
    return request.param


@pytest.fixture
def workflow(path) -> dict:
    return yaml.load(path.read_text(), yaml.BaseLoader)  # YAML 1.1 would read `on` as true


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_schema(path):
    # the schema is the one that check-jsonschema brings along; nothing is downloaded
    check = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(path)]
    done = subprocess.run([sys.executable, "-m", *check], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_check_finds_faults(tmp_path):
    (tmp_path / "bad.yml").write_text("on: push\njobs: {a: {runs-on: x, steps: [{use: y}]}}\n")
    check = ["check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(tmp_path / "bad.yml")]
    assert subprocess.run([sys.executable, "-m", *check], capture_output=True).returncode == 1


def test_every_action_is_pinned_by_commit_with_its_version_beside_it(path):
    used = re.findall(r"uses:\s*(.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


def test_rights(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow["on"]) <= {"push", "pull_request", "workflow_dispatch", "schedule"}
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert int(job["timeout-minutes"]) <= 60
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"
        # an expression inside a script would run whatever a pull request's title says
        assert "${{" not in step.get("run", "")
        assert "secrets." not in str(step)


def test_it_runs_what_everyone_runs(workflow):
    assert [step["run"] for step in steps(workflow) if "run" in step] == [".ci/run"]
    assert {"push", "pull_request"} <= set(workflow["on"])
    assert workflow["concurrency"]["cancel-in-progress"] == "true"


def test_it_tests_the_oldest_python_that_pyproject_admits_and_colabs(workflow):
    for job in workflow["jobs"].values():
        assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]

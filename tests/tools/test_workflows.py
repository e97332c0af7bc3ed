"""The GitHub workflows: valid, pinned, and with no more rights than they need."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))


LONGEST = {"ci.yml": 60, "gpu.yml": 360, "release.yml": 30}  # minutes for a job
# Rights beyond reading the repository, for each job that needs one.
RIGHTS = {"release": {"contents": "write"}, "pypi": {"id-token": "write"}}


def test_there_are_workflows():
    assert [path.name for path in WORKFLOWS] == list(LONGEST)


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


def test_rights(workflow, path):
    assert workflow["permissions"] == {"contents": "read"}
    assert set(workflow["on"]) <= {"push", "pull_request", "workflow_dispatch", "schedule"}
    for name, job in workflow["jobs"].items():
        assert job.get("permissions") == (RIGHTS.get(name) if path.name == "release.yml" else None)
        assert int(job["timeout-minutes"]) <= LONGEST[path.name]
    for step in steps(workflow):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"
        # an expression inside a script would run whatever a pull request's title says
        assert "${{" not in step.get("run", "")
        assert "secrets." not in str(step)


def read(name: str) -> dict:
    return yaml.load((ROOT / ".github/workflows" / name).read_text(), yaml.BaseLoader)


def test_it_runs_what_everyone_runs():
    workflow = read("ci.yml")
    *before, last = [step["run"] for step in workflow["jobs"]["test"]["steps"] if "run" in step]
    assert last == ".ci/run"
    assert all(line.startswith("sudo sysctl -w ") for line in before)  # what only the machine's owner can allow
    assert {"push", "pull_request"} <= set(workflow["on"])
    assert workflow["concurrency"]["cancel-in-progress"] == "true"


def test_it_tests_the_oldest_python_that_pyproject_admits_and_colabs():
    assert read("ci.yml")["jobs"]["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]


# --- a release -----------------------------------------------------------------------------------------------------


def test_only_a_tag_makes_a_release_and_only_after_its_wheel_was_tested():
    workflow = read("release.yml")
    assert workflow["on"] == {"push": {"tags": ["v*"]}}
    assert workflow["jobs"]["release"]["needs"] == "build"
    assert workflow["jobs"]["pypi"]["needs"] == "release"
    assert workflow["jobs"]["pypi"]["if"] == "vars.PUBLISH_TO_PYPI == 'true'"


# --- the GPU --------------------------------------------------------------------------------------------------------


def test_no_pull_request_reaches_the_gpu_runner():
    workflow = read("gpu.yml")
    assert set(workflow["on"]) == {"schedule", "push", "workflow_dispatch"}  # weekly, on tags, by hand
    assert set(workflow["on"]["push"]) == {"tags"}
    for name, job in workflow["jobs"].items():
        where = job["runs-on"]
        assert where == ("ubuntu-latest" if name == "list" else "${{ vars.GPU_RUNNER }}")
        assert "vars.GPU_RUNNER != ''" in job.get("if", "") or job["needs"] == "list"  # without a runner: nothing
    for path in WORKFLOWS:
        if path.name != "gpu.yml":
            assert "GPU_RUNNER" not in path.read_text()


def test_every_page_runs_at_full_scale_and_is_kept_also_on_failure():
    job = read("gpu.yml")["jobs"]["page"]
    assert job["strategy"]["fail-fast"] == "false"
    runs = [step["run"] for step in job["steps"] if "run" in step]
    assert '.venv/bin/python tools/pages.py run "$PAGE" --profile full' in runs
    assert ".venv/bin/python tools/metrics.py compare _build/executed/full" in runs
    (kept,) = [step for step in job["steps"] if "upload-artifact" in step.get("uses", "")]
    assert kept["if"] == "always()" and kept["with"]["path"] == "_build/executed"
    (cache,) = [step for step in job["steps"] if "actions/cache" in step.get("uses", "")]
    assert job["env"]["HF_HOME"].endswith(cache["with"]["path"])


def test_the_matrix_lists_every_page():
    told = subprocess.run([ROOT / ".ci/pages"], capture_output=True, text=True, check=True).stdout
    name, _, pages = told.strip().partition("=")
    assert name == "pages"
    assert json.loads(pages) == sorted(path.stem for path in (ROOT / "notebooks/src").glob("*.py"))


def test_colabs_job_installs_what_the_install_cell_installs():
    sys.path.insert(0, str(ROOT / "tools"))
    from _pages import COLAB_INSTALL

    script = (ROOT / ".ci/colab").read_text()
    for line in re.findall(r"%pip (.*)$", COLAB_INSTALL, re.MULTILINE):
        wanted = line.replace('"dtta @ git+{url}@{tag}"', ".")
        assert f"python3 -m pip {wanted}\n" in script

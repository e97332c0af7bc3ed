"""What the workflows' linters (actionlint, zizmor) cannot check, and what the release workflow compares."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import dtta
from tools import release

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = {  # YAML 1.1 would read `on` as true
    path.name: yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)
    for path in (ROOT / ".github/workflows").glob("*.yml")
}


def test_no_pull_request_reaches_the_gpu_runner():
    """The code of a pull request may come from anyone."""
    for workflow in WORKFLOWS.values():
        if any("GPU_RUNNER" in job["runs-on"] for job in workflow["jobs"].values()):
            assert set(workflow["on"]) <= {"schedule", "push", "workflow_dispatch"}
            assert workflow["on"]["push"]["branches"] == ["main"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_rights_are_read_only_but_in_jobs_that_run_nothing_of_the_repository(name):
    """A job that may write, or prove who it is, checks out no code; the one that pushes the lock runs `make lock`."""
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        uses = [step.get("uses", "") for step in job["steps"]]
        if "permissions" in job and name != "lock.yml":
            assert not any(use.startswith("actions/checkout@") for use in uses)
        assert all(job.get("timeout-minutes") for job in workflow["jobs"].values())


def test_dependabot_configuration_is_valid():
    check = ["check_jsonschema", "--builtin-schema", "vendor.dependabot", ".github/dependabot.yml"]
    done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


# --- a release ------------------------------------------------------------------------------------------------------


@pytest.fixture
def released(tmp_path) -> Path:
    """The files that name a version, as the commit of a release has them."""
    (tmp_path / "dtta").mkdir()
    for name in ("pyproject.toml", "CITATION.cff", "CHANGELOG.md", "dtta/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    change(tmp_path / "CHANGELOG.md", "## Unreleased", f"## {dtta.__version__} - 2026-02-03")
    change(tmp_path / "CITATION.cff", "\nlicense:", '\ndate-released: "2026-02-03"\nlicense:')
    change(tmp_path / "pyproject.toml", 'colab-ref = "main"', f'colab-ref = "v{dtta.__version__}"')
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_release_in_step_has_the_notes_of_the_changelog(released):
    notes, problems = release.check(released, f"v{dtta.__version__}")
    assert problems == []
    assert notes.startswith("### Added") and "\n## " not in notes


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("CHANGELOG.md", "2026-02-03", "2026-02-04", "CHANGELOG.md has no heading '## {v} - 2026-02-03'"),
        ("CITATION.cff", "\nversion: ", "\nversion: 9", "the version in CITATION.cff is v9{v}, the tag is v{v}"),
        ("CITATION.cff", "date-released", "date", "CITATION.cff has no date-released"),
        ("dtta/__init__.py", "__version__ = \"", "__version__ = \"9", "the version in dtta/__init__.py is v9{v}"),
        ("pyproject.toml", "colab-ref = \"v", "colab-ref = \"u", "colab-ref in pyproject.toml"),
    ],
)  # fmt: skip
def test_a_release_out_of_step_stops(released, file, old, new, message):
    change(released / file, old, new)
    _, problems = release.check(released, f"v{dtta.__version__}")
    assert len(problems) == 1 and message.format(v=dtta.__version__) in problems[0]


def test_the_command_of_the_workflow_refuses_an_unreleased_checkout():
    done = subprocess.run([sys.executable, ROOT / "tools/release.py", "v0.0.0"], capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "the tag is v0.0.0" in done.stderr and not done.stdout


def test_zenodo_and_citation_agree():
    zenodo = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    for key in ("title", "license", "keywords"):
        assert zenodo[key] == citation[key]
    assert [one["name"] for one in zenodo["creators"]] == [one["name"] for one in citation["authors"]]
    related = [one["identifier"] for one in zenodo["related_identifiers"]]
    assert related == [citation["references"][0]["identifiers"][0]["value"], citation["repository-code"]]

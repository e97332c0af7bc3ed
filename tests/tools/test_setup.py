"""Installation: the list of dependencies, its lock, conda, Colab, make, the repository's address, the README."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import nbformat
import pytest
import wheels
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from setuptools.command.egg_info import FileList

import dtta
from tools.pages import address, commands
from tools.pages.project import PageError, Project

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CORE = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
EXTRAS = {
    extra: [Requirement(line) for line in lines] for extra, lines in PROJECT["project"]["optional-dependencies"].items()
}
EVERY = [*CORE, *(requirement for lines in EXTRAS.values() for requirement in lines)]


def pins(path: Path) -> dict[str, list[Version]]:
    """Return name -> versions; more than one version if the lock depends on the version of Python."""
    versions: dict[str, list[Version]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            versions.setdefault(canonicalize_name(requirement.name), []).append(Version(specifier.version))
    return versions


# --- one list -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("requirement", EVERY, ids=lambda r: r.name)
def test_lock_holds_every_requirement_inside_its_range(requirement):
    versions = pins(ROOT / "requirements.lock").get(canonicalize_name(requirement.name))
    assert versions, f"{requirement.name} is not in requirements.lock; call: make lock"
    for version in versions:
        assert version in requirement.specifier, f"{requirement.name} {version} is locked, outside {requirement}"


def test_lock_names_no_index_and_no_path():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"://|--|(?<!\w)/\w|file:|@", "\n".join(text.splitlines()[2:]))


def test_torch_and_torchvision_work_together():
    # wheels of different builds import, or fail, only when a compiled operator is called
    import torch
    from torchvision.ops import nms

    assert nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5).tolist() == [0]


def test_conda_installs_this_project_with_its_extras_and_lists_nothing_itself():
    read = [yaml.safe_load((ROOT / f).read_text(encoding="utf-8")) for f in ("environment.yml", "environment-gpu.yml")]
    *packages, last = read[1]["dependencies"]
    assert [re.split("[=<>]", package)[0] for package in packages] == ["python", "pip"]
    assert last == {"pip": ["--constraint requirements.lock", "-e .[book,live,course,test]"]}
    assert read[0]["dependencies"][-1]["pip"].pop(0) == "--extra-index-url https://download.pytorch.org/whl/cpu"
    assert read[0] == read[1]
    assert set(EXTRAS) == {"book", "live", "course", "test"}
    version = packages[0].removeprefix("python=")
    assert version + ".0" in Requirement("python" + PROJECT["project"]["requires-python"]).specifier


def imports(path: Path) -> set[str]:
    """Return the top-level names that a file imports, at any depth."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize(
    ("folder", "declared"),
    [
        ("dtta", CORE),
        ("dtta/course/staff", [*CORE, *EXTRAS["course"]]),
        ("dtta/course/runner", [*CORE, *EXTRAS["course"]]),
        ("notebooks/src", CORE),
        ("tools", EVERY),
        ("tests", EVERY),
    ],
)
def test_every_import_is_declared(folder, declared):
    apart = {"staff", "runner"} if folder == "dtta" else set()
    files = [path for path in (ROOT / folder).rglob("*.py") if not apart & set(path.parts)]
    own = {"dtta", "google", "tests", "tools", *(path.stem for path in files)}  # google.colab: on Colab only
    declared = {canonicalize_name(requirement.name) for requirement in declared}
    owners = packages_distributions()
    for path in files:
        for name in imports(path) - own - set(sys.stdlib_module_names):
            packages = {canonicalize_name(package) for package in owners.get(name, [])}
            assert packages & declared, (
                f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml does not declare"
            )


# --- Colab: the pages install dtta there, and what Colab does not ship, with --no-deps ------------------------------

COLAB = pins(ROOT / "tests/colab_2026_08.txt")


def installed_on_colab() -> dict[str, Requirement]:
    """Return what the install cell of the pages installs, by name."""
    (line,) = re.findall(r"%pip install -q --no-deps (.*)$", Project(ROOT).install(), re.MULTILINE)
    found = [Requirement(part) for part in shlex.split(line)]
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def needs(name: str) -> set[str]:
    """Return the names of the packages that an installed package needs, without its extras."""
    found = [Requirement(line) for line in distribution(name).requires or []]
    return {canonicalize_name(r.name) for r in found if not r.marker or r.marker.evaluate({"extra": ""})}


@pytest.mark.parametrize("requirement", CORE, ids=lambda r: r.name)
def test_colab_has_or_gets_every_core_dependency_inside_its_range(requirement):
    name = canonicalize_name(requirement.name)
    if name in COLAB:
        assert COLAB[name][0] in requirement.specifier
    else:
        assert name in installed_on_colab(), f"Colab does not ship {name}, and the pages do not install it there"
        assert installed_on_colab()[name].specifier == requirement.specifier


def test_what_the_pages_install_on_colab_works_without_its_dependencies():
    """They are pure Python, and Colab ships what they need, or needs it for what it ships, or the pages install it."""
    extra = set(installed_on_colab()) - {"dtta"}
    assert extra == {"torchmetrics", "lightning-utilities", "adjusttext"}
    shipped = [r.name for r in CORE if canonicalize_name(r.name) in COLAB]
    there = set(COLAB).union(extra, *map(needs, shipped))
    for name in extra:
        assert needs(name) <= there
        assert not [path for path in distribution(name).files if path.suffix in {".so", ".pyd", ".dylib"}]


def test_colab_and_the_locked_versions_of_python_are_admitted():
    admitted = Requirement("python" + PROJECT["project"]["requires-python"]).specifier
    assert {"3.11.2", "3.12.0", "3.13.15"} == set(admitted.filter(["3.10.9", "3.11.2", "3.12.0", "3.13.15"]))


def test_pages_open_and_install_on_colab_at_the_branch_or_at_this_release():
    assert PROJECT["tool"]["dtta"]["colab-ref"] in ("main", f"v{dtta.__version__}")


# --- the package ----------------------------------------------------------------------------------------------------


def test_wheel_holds_all_code_weights_cards_tables_and_experiments(tmp_path):
    wheel = wheels.build(tmp_path)
    held = set(zipfile.ZipFile(wheel).namelist())
    kinds = {".py", ".json", ".csv", ".toml", ".safetensors"}
    wanted = {str(path.relative_to(ROOT)) for path in (ROOT / "dtta").rglob("*") if path.suffix in kinds}
    assert {Path(name).suffix for name in wanted} == kinds
    assert wanted <= held
    metadata = zipfile.ZipFile(wheel).read(f"dtta-{dtta.__version__}.dist-info/METADATA").decode()
    assert "License-Expression: Apache-2.0" in metadata


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout, but an unpacked sdist")
def test_sdist_holds_every_file_of_the_checkout_and_nothing_that_git_ignores(monkeypatch):
    """Its tests can run, then: they read the book, the pages, the tools and the workflows."""
    monkeypatch.chdir(ROOT)
    files = FileList()
    for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            files.process_template_line(line)
    tracked = subprocess.run(["git", "ls-files"], check=True, capture_output=True, encoding="utf-8").stdout
    missing = set(tracked.splitlines()) - set(files.files)
    assert missing <= {"pyproject.toml", "MANIFEST.in", "LICENSE"}, "setuptools adds these"
    command = ["git", "ls-files", "--others", "--ignored", "--exclude-standard"]
    ignored = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    assert sorted(set(ignored.splitlines()) & set(files.files)) == []


def test_licences_and_citation():
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "creativecommons.org/licenses/by/4.0" in (ROOT / "LICENSE-TEXT").read_text(encoding="utf-8")
    check = ["check_jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"]
    done = subprocess.run([sys.executable, "-m", *check], cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == dtta.__version__
    assert citation["license"] == PROJECT["project"]["license"]


# --- make, with a Python that only pretends -------------------------------------------------------------------------

# It answers the Makefile as the file `plan` next to it says, and logs what it is asked to install.
PYTHON = """#!/bin/sh
here='{here}'
case "$*" in
  *version_info*) grep -q old "$here"/plan && exit 1 ;;
  *ensurepip*) grep -q bare "$here"/plan && exit 1 ;;
  *"-m venv "*) mkdir -p .venv/bin && cp "$here"/python .venv/bin/python; grep -q novenv "$here"/plan && exit 1 ;;
  *requirements.lock*) echo lock >>"$here"/log; grep -q broken "$here"/plan && exit 1 ;;
  *editable*) echo dtta >>"$here"/log ;;
esac
exit 0
"""


def script(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def clone(tmp_path):
    """Return a function that calls make in an empty clone: make(plan, target) -> the finished process."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ["Makefile", "pyproject.toml", "requirements.lock"]:
        shutil.copy(ROOT / name, folder)
    fake = folder / "fake"
    fake.mkdir()
    python = script(fake / "python", PYTHON.format(here=fake))

    def make(plan: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        (fake / "plan").write_text(plan, encoding="utf-8")
        command = [shutil.which("make"), f"PYTHON='{python}'", *arguments]
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
        return subprocess.run(command, cwd=folder, capture_output=True, env=clean | environment, encoding="utf-8")

    make.folder, make.log = folder, fake / "log"
    return make


def test_make_setup_installs_once_and_again_after_a_change(clone):
    assert clone("", "setup").returncode == 0
    assert clone("", "setup").returncode == 0
    assert clone.log.read_text(encoding="utf-8").split() == ["lock", "dtta"]
    assert (clone.folder / ".venv/requirements.lock").read_bytes() == (ROOT / "requirements.lock").read_bytes()
    later = (clone.folder / ".venv/.installed").stat().st_mtime + 2
    os.utime(clone.folder / "pyproject.toml", (later, later))
    assert clone("", "setup").returncode == 0
    assert clone.log.read_text(encoding="utf-8").split() == ["lock", "dtta"] * 2


def test_make_setup_for_the_cpu_takes_its_build_of_torch_and_no_cuda(clone):
    assert "--torch-backend=cpu" in clone("", "setup", "TORCH=cpu").stdout
    names = set(pins(clone.folder / ".venv/requirements.lock"))
    assert set(pins(ROOT / "requirements.lock")) - names == {n for n in pins(ROOT / "requirements.lock") if cuda(n)}
    assert {"torch", "torchvision"} <= names


def cuda(name: str) -> bool:
    return name.startswith(("nvidia-", "cuda-")) or name == "triton"


def test_failed_install_is_not_taken_for_a_good_one(clone):
    assert clone("", "setup").returncode == 0
    later = (clone.folder / ".venv/.installed").stat().st_mtime + 2
    os.utime(clone.folder / "requirements.lock", (later, later))
    assert clone("broken", "setup").returncode != 0
    assert not (clone.folder / ".venv/.installed").exists()
    assert clone("", "setup").returncode == 0
    assert clone.log.read_text(encoding="utf-8").split() == ["lock", "dtta", "lock", "lock", "dtta"]


def test_make_setup_says_what_is_missing(clone):
    old, bare = clone("old", "setup"), clone("bare", "setup")
    assert old.returncode != 0
    assert "No Python 3.11 or newer" in old.stderr
    assert "apt-get install python3" in old.stderr
    assert bare.returncode != 0
    assert "apt-get install python3-venv" in bare.stderr
    assert clone("novenv", "setup").returncode != 0
    assert not (clone.folder / ".venv").exists(), "half an environment is left behind"


@pytest.mark.parametrize("status", [0, 3])
def test_ci_run_ends_as_make_test_ends(tmp_path, status):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/run", tmp_path / ".ci/run")
    assert os.access(ROOT / ".ci/run", os.X_OK)
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    script(bin_ / "make", f'#!/bin/sh\n[ "$* $DTTA_REQUIRE_BROWSER" = "test 1" ] || exit 9\nexit {status}\n')
    script(bin_ / "chromium", "#!/bin/sh\n")
    (tmp_path / ".fonts").mkdir()
    (tmp_path / ".fonts/a.ttf").touch()
    environment = {"PATH": f"{bin_}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": sys.executable}
    assert subprocess.run([tmp_path / ".ci/run"], env=environment).returncode == status


# --- the repository's address ---------------------------------------------------------------------------------------


def test_every_file_names_the_address_and_the_ref_in_pyproject():
    """Colab opens the pages, and pip installs dtta there, from this address."""
    project = Project(ROOT)
    assert list(address.problems(project)) == []
    name = project.url.rpartition("/")[2]
    for path in ROOT.glob("notebooks/**/*.ipynb"):  # the badge, and what the install cell installs
        text = path.read_text(encoding="utf-8")
        refs = set(re.findall(rf"{re.escape(name)}(?:@|/blob/)([\w.-]+)(?=/notebooks|\\\")", text))
        assert refs == {project.ref}, path


def test_a_fork_changes_its_address_everywhere_with_one_command(tmp_path, monkeypatch, capsys):
    for path in [*address.files(ROOT), ROOT / "book/references.bib"]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    old = Project(ROOT)
    commands.execute(["--root", str(tmp_path), "address", "https://github.com/Me/my-tta"])
    assert "files name https://github.com/Me/my-tta" in capsys.readouterr().out
    fork = Project(tmp_path)
    assert (fork.url, fork.book) == ("https://github.com/Me/my-tta", "https://me.github.io/my-tta")
    places = (old.url.removeprefix("https://github.com"), old.book.removeprefix("https://"))
    left = [path for path in address.files(tmp_path) if any(p in path.read_text(encoding="utf-8") for p in places)]
    assert left == []
    for name in fork.pages()[::5]:  # as if made from their sources at the new address
        made, page = fork.generate(name), nbformat.read(tmp_path / f"notebooks/{name}.ipynb", as_version=4)
        assert [(cell.id, cell.source) for cell in page.cells] == [(cell.id, cell.source) for cell in made.cells]

    wrong = tmp_path / "README.md"
    wrong.write_text(wrong.read_text(encoding="utf-8").replace("/Me/", "/You/"), encoding="utf-8")
    assert list(address.problems(fork)) == ["README.md names you in an address; pyproject.toml has " + fork.url]
    for url in ("https://example.org/me/x", "github.com/me/x"):
        with pytest.raises(PageError, match="write https://github"):
            commands.execute(["--root", str(tmp_path), "address", url])


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout, but an unpacked sdist")
def test_no_file_that_the_command_leaves_as_it_is_names_the_address():
    project = Project(ROOT)
    name = project.url.removeprefix("https://github.com/")
    book = project.book.removeprefix("https://")
    places = (f"github.com/{name}", f"github/{name}", f"githubusercontent.com/{name}", book)
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, encoding="utf-8")
    others = [path for path in map(ROOT.joinpath, listed.stdout.split("\0")) if path.is_file()]
    contents = {path: path.read_bytes().lower() for path in set(others) - set(address.files(ROOT))}
    assert len(contents) > 100
    assert [path for path, text in contents.items() if any(place.lower().encode() in text for place in places)] == []


@pytest.mark.parametrize(
    ("url", "book"),
    [
        ("https://github.com/Me/tta.git", "https://me.github.io/tta/"),
        ("https://github.com/Me/me.github.io", "https://me.github.io/"),  # GitHub publishes it without a folder
    ],
)
def test_the_book_of_a_fork_is_where_github_publishes_it(tmp_path, url, book):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    address.change(Project(tmp_path), url, None)
    assert f'Documentation = "{book}"' in (tmp_path / "pyproject.toml").read_text(encoding="utf-8")


def test_the_build_says_that_the_address_is_a_placeholder_or_another_repository(monkeypatch):
    project = Project(ROOT)
    owner, name = address.repository(project.url)
    monkeypatch.setenv("GITHUB_REPOSITORY", f"{owner}/{name}".upper())
    monkeypatch.setattr(address, "PLACEHOLDER", owner)
    assert "is a placeholder" in address.note(project)
    monkeypatch.setattr(address, "PLACEHOLDER", "")
    assert address.note(project) == ""
    monkeypatch.setenv("GITHUB_REPOSITORY", f"not-{owner}/{name}")
    assert f"but this is not-{owner}/{name}" in address.note(project)


# --- commands in the Makefile, the workflows and the guides ----------------------------------------------------------


def test_commands_of_the_pages_are_understood():
    files = [ROOT / "Makefile", ROOT / ".ci/colab", *ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("book/*.md")]
    lines = [
        line
        for path in files
        for line in re.findall(r"^.*tools/pages ([a-z].*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(lines) > 10
    for line in lines:
        line = line.replace("$PROFILE", "smoke")
        words = re.split("[`,;]|  ", line)[0]  # without the sentence around a command, or its explanation
        commands.parser().parse_args(shlex.split(words, comments=True))


# --- README ---------------------------------------------------------------------------------------------------------


def test_readme_code_runs_and_adapts(capsys):
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Adapt a model")[1].split("\n## ")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 8
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "before" in shown
    assert "after" in shown
    assert len(names["tta"].history) == 5


def test_readme_names_only_what_exists_and_reads_right_on_pypi():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((.*?)\)", text)
    assert [link for link in links if not link.startswith("https://")] == [], "PyPI has no files to link to"
    assert [link for link in re.findall(r"!\[.*?\]\((.*?)\)", text) if "/blob/" in link] == [], "a page, no picture"
    links = re.findall(r"(?:/blob/main/|usercontent\.com/[\w-]+/\w+/main/)([^)]*)", text)
    assert len(links) > 15
    assert [link for link in links if not (ROOT / link).exists()] == []
    targets = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= set(targets)
    for image in re.findall(r"!\[(.*?)\]", text):
        assert image, "a picture without alt text"


def test_readme_commands_are_understood(tmp_path, monkeypatch):
    from dtta.cli import parser

    (tmp_path / "classes.txt").write_text("a\nb\n", encoding="utf-8")
    (tmp_path / "course/submitted/ann/a1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:dtta|accelerate .* -m dtta) (.*)$", text, re.MULTILINE)
    assert len(lines) > 10
    for line in lines:
        parser().parse_args(shlex.split(line, comments=True))
    assert text.index("source .venv/bin/activate") < text.index("\ndtta "), "the command is only in .venv"

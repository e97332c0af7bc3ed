"""Records of runs, the status page that shows them, and the comparison of a run with references."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools.live import pack
from tools.pages import book, commands, references
from tools.pages import record as records
from tools.pages.project import Project, write

SITE = Path(__file__).parents[1] / "fixtures" / "site"
ROOT = Path(__file__).parents[2]
LINE = "accuracy {:.1f}% of 40 images"
LIMITS = {"tolerance": 0.7, "whole": 2}


def record(folder: Path, page: str = "01_good", **changes) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "page": page, "profile": "full", "failed": False, "seconds": 12.3, "device": "NVIDIA A10G", "memory": 2.5,
        "gpu_memory": 7.25, "versions": {"torch": "2.11.0"}, "commit": "abcdef", "date": "2026-01-02",
    } | changes  # fmt: skip
    (folder / f"{page}.record.json").write_text(json.dumps(about), encoding="utf-8")
    return about


def executed(folder: Path, number: float, of: int = 40, page: str = "01_good", more: str = "3.14", **changes) -> Path:
    """Write a page that showed these numbers and a figure, and its record."""
    record(folder, page, **changes)
    text = LINE.format(number).replace("40", str(of))
    picture = {"image/png": "iVBORw0KGgo=", "text/plain": "a figure", "text/html": "<img src='data:;base64,AAAA'>"}
    outputs = [
        new_output("display_data", {"text/plain": text}, metadata={"dtta": LIMITS}),
        new_output("display_data", picture),
        new_output("stream", name="stdout", text=f"no tolerance: {more}\n"),
    ]
    cells = [new_code_cell(str(n), execution_count=n, outputs=[one]) for n, one in enumerate(outputs, 1)]
    write(new_notebook(cells=cells), folder / f"{page}.ipynb")
    return folder


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_a_record_of_what_it_took(tmp_path):
    """The record holds the memory of the kernel: here a page that allocates a gibibyte."""
    (tmp_path / "notebooks/src").mkdir(parents=True)
    shutil.copy(SITE / "pyproject.toml", tmp_path)
    (tmp_path / "notebooks/profiles.yml").write_text("mini: {}\n", encoding="utf-8")
    (tmp_path / "notebooks/src/01_good.py").write_text(
        '# %% [markdown]\n# # Memory\n\n# %% tags=["parameters"]\nn = 1 << 30\n\n# %%\nkept = bytearray(n)\n',
        encoding="utf-8",
    )
    commands.main(["--root", str(tmp_path), "run"])
    (about,) = records.read(tmp_path / "_build/executed/mini")
    assert about["page"] == "01_good" and about["profile"] == "mini" and not about["failed"]
    assert about["commit"] == "unknown" and about["versions"]["torch"] and about["seconds"] > 0
    assert 1 < about["memory"] < 2 and about["device"] and about["date"]


def test_a_kernel_without_a_record_gives_null(tmp_path):
    records.write(tmp_path / "01_a.ipynb", tmp_path / "nothing", ROOT, "full", 3.21, True)
    (about,) = records.read(tmp_path)
    assert about["memory"] is None and about["device"] is None and about["failed"] and about["seconds"] == 3.2
    assert "01_a (failed)" in records.table([about]) and "unknown" in records.table([about])


def test_the_status_page_shows_every_run(tmp_path):
    runs = [record(tmp_path), record(tmp_path, "02_b"), record(tmp_path, "01_c", gpu_memory=None, profile="mini")]
    full, mini = records.table(runs).split("**mini**")
    for part in ("**full**", "NVIDIA A10G", "torch 2.11.0", "commit `abcdef`"):
        assert full.count(part) == 1  # once for all pages that ran alike
    assert "| 01_good | 12 s | 2.50 GiB | 7.25 GiB |\n| 02_b | 12 s |" in full
    assert full.count("*Memory* is") == 1 and "*Memory*" not in records.table([])
    assert "| 01_c | 12 s | 2.50 GiB | – |" in mini and "02_b" not in mini
    assert "No run is recorded" in records.table([])


def test_a_build_puts_the_records_into_the_book(tmp_path, monkeypatch):
    project = Project(ROOT)
    monkeypatch.setattr(project, "build", tmp_path / "_build")
    monkeypatch.setattr(project, "pages_in_toc", list)
    monkeypatch.setattr(pack, "pack", lambda folder: [])  # it needs the runtime, which comes from npm
    record(project.build / "executed" / "full")
    record(project.build / "executed" / "mini", "02_b", profile="mini", device="CPU")
    book.stage(project, tmp_path / "site", project.build / "executed" / "mini")
    text = (tmp_path / "site/book/status.md").read_text(encoding="utf-8")
    assert "**full**, on NVIDIA A10G" in text and "| 01_good | 12 s |" in text
    assert "**mini**, on CPU" in text and "| 02_b | 12 s |" in text
    assert book.RUNS not in text and text.count("02_b") == 1
    assert "book/status" in project.toc_files()


# --- references -----------------------------------------------------------------------------------------------------


def call(*arguments) -> int:
    """Call the command and return its exit status."""
    try:
        commands.main([str(a) for a in arguments])
    except SystemExit:
        return 1
    return 0


CASES = {  # page: a fresh number, images and text; the factor; whether they agree with 71.2, 40 and 3.14
    "01_same": (dict(number=71.2), 1.0, True),
    "02_near": (dict(number=71.8), 1.0, True),
    "03_far": (dict(number=72.1), 1.0, False),
    "04_factor": (dict(number=72.1), 2.0, True),
    "05_beyond": (dict(number=72.9), 2.0, False),
    "06_images": (dict(number=71.2, of=42), 1.0, True),
    "07_more": (dict(number=71.2, of=43), 1.0, False),
    "08_more": (dict(number=71.2, of=43), 1.5, True),
    "09_text": (dict(number=71.2, more="3.15"), 1.0, False),
}


def test_pages_agree_with_their_references_within_tolerance_and_factor(tmp_path, capfd):
    folder, committed = tmp_path / "run", tmp_path / "references"
    for page in CASES:
        executed(folder, 71.2, page=page)
    assert call("compare", folder, "--references", committed) == 1
    message = capfd.readouterr().err
    assert message.count("no reference for NVIDIA A10G, profile full: look at the page") == len(CASES)
    assert call("collect", folder, "--references", committed) == 0
    for page, (fresh, factor, _) in CASES.items():
        path = committed / "full" / "nvidia-a10g" / f"{page}.ipynb"
        text = path.read_text(encoding="utf-8")
        assert "AAA" not in text and "iVBOR" not in text  # images are not kept
        path.write_text(text.replace('"factor": 1.0', f'"factor": {factor}'), encoding="utf-8")
        executed(folder, page=page, **fresh)
    capfd.readouterr()
    assert call("compare", folder, "--references", committed) == 1
    shown = capfd.readouterr()
    wrong = {page for page in CASES if f"FAILED {page}.ipynb" in shown.out}
    assert "a page differs from its reference" in shown.err
    assert wrong == {page for page, (_, _, agrees) in CASES.items() if not agrees}
    assert call("collect", folder, "--references", committed) == 0
    assert references.read(committed / "full/nvidia-a10g/05_beyond.ipynb").metadata["dtta"]["factor"] == 2.0


def test_each_profile_and_device_has_its_references_and_other_code_needs_another(tmp_path, capsys):
    committed = tmp_path / "references"
    for device, profile in (("NVIDIA A10G", "full"), ("Tesla T4", "full"), ("Tesla T4", "smoke")):
        folder = executed(tmp_path / device / profile, 71.2, device=device, profile=profile)
        assert call("collect", folder, "--references", committed) == 0
    files = [str(path.relative_to(committed)) for path in sorted(committed.rglob("*.ipynb"))]
    assert files == [f"{place}/01_good.ipynb" for place in ("full/nvidia-a10g", "full/tesla-t4", "smoke/tesla-t4")]
    path = committed / files[0]
    other = references.read(path)
    other.cells[0].source = "4"
    write(other, path)
    assert call("compare", tmp_path / "NVIDIA A10G/full", "--references", committed) == 1
    assert "01_good: its code or parameters changed since" in capsys.readouterr().err
    path.write_text("{", encoding="utf-8")
    assert call("compare", tmp_path / "NVIDIA A10G/full", "--references", committed) == 1
    assert "01_good.ipynb is not a reference; write it again with" in capsys.readouterr().err


def test_a_page_that_failed_is_not_a_reference(tmp_path, capsys):
    executed(tmp_path / "run", 71.2, failed=True)
    assert call("collect", tmp_path / "run", "--references", tmp_path / "references") == 1
    assert "holds no page that ran to its end with a record" in capsys.readouterr().err
    assert not (tmp_path / "references").exists()


def test_committed_references_can_be_read():
    for path in (ROOT / "notebooks/references").rglob("*.ipynb"):
        about = references.read(path).metadata["dtta"] | {"page": path.stem}
        assert references.path_of(about, ROOT / "notebooks/references") == path

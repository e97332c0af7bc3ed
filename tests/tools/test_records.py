"""Records of runs, the status page that shows them, and the comparison of a run's numbers with a reference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

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


def executed(folder: Path, *numbers: float, page: str = "01_good", **changes) -> None:
    """Write a page that showed these numbers, and its record."""
    record(folder, page, **changes)
    data = [{"text/plain": LINE.format(n)} for n in numbers]
    outputs = [new_output("display_data", one, metadata={"dtta": LIMITS}) for one in data]
    cells = [new_code_cell("1", outputs=[output]) for output in outputs]
    cells.append(new_code_cell("1", outputs=[new_output("stream", name="stdout", text="no tolerance: 3.14\n")]))
    write(new_notebook(cells=cells), folder / f"{page}.ipynb")


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
    assert "| 01_c | 12 s | 2.50 GiB | – |" in mini and "02_b" not in mini
    assert "No run is recorded" in records.table([])


def test_a_build_puts_the_records_into_the_book(tmp_path, monkeypatch):
    project = Project(ROOT)
    monkeypatch.setattr(project, "build", tmp_path / "_build")
    monkeypatch.setattr(project, "pages_in_toc", list)
    record(project.build / "executed" / "full")
    record(project.build / "executed" / "mini", "02_b", profile="mini", device="CPU")
    book.stage(project, tmp_path / "site", project.build / "executed" / "mini")
    text = (tmp_path / "site/book/status.md").read_text(encoding="utf-8")
    assert "**full**, on NVIDIA A10G" in text and "| 01_good | 12 s |" in text
    assert "**mini**, on CPU" in text and "| 02_b | 12 s |" in text
    assert book.RUNS not in text and text.count("02_b") == 1
    assert "book/status" in project.toc_files()


# --- numbers against a reference ------------------------------------------------------------------------------------


def call(*arguments) -> int:
    """Call the command and return its exit status."""
    try:
        commands.main([str(a) for a in arguments])
    except SystemExit:
        return 1
    return 0


def test_numbers_are_collected_and_agree_with_themselves(tmp_path, capsys):
    folder, references = tmp_path / "run", tmp_path / "references"
    executed(folder, 71.2, 33.0)
    assert call("compare", folder, "--references", references) == 0
    assert "01_good: no reference for NVIDIA A10G yet" in capsys.readouterr().out
    assert call("collect", folder, "--references", references) == 0
    kept = json.loads((references / "nvidia-a10g.json").read_text(encoding="utf-8"))
    assert kept["device"] == "NVIDIA A10G" and kept["factor"] == 1.0
    outputs = [{"text": LINE.format(n)} | LIMITS for n in (71.2, 33.0)]
    assert kept["pages"]["01_good"] == {"commit": "abcdef", "outputs": outputs}
    assert call("compare", folder, "--references", references) == 0
    assert "the numbers agree" in capsys.readouterr().out


@pytest.mark.parametrize(("numbers", "factor", "status"), [
    ((71.8, 33.0), 1.0, 0), ((72.1, 33.0), 1.0, 1), ((72.1, 33.0), 2.0, 0), ((72.9, 33.0), 2.0, 1),
    ((71.2,), 1.0, 1), ((71.2, 33.0, 5.0), 1.0, 1),
])  # fmt: skip
def test_the_factor_of_a_device_multiplies_the_tolerance(tmp_path, numbers, factor, status):
    folder, references = tmp_path / "run", tmp_path / "references"
    executed(folder, 71.2, 33.0)
    call("collect", folder, "--references", references)
    path = references / "nvidia-a10g.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"factor": factor}), encoding="utf-8")
    executed(folder, *numbers)
    assert call("compare", folder, "--references", references) == status


@pytest.mark.parametrize(("images", "factor", "status"), [(42, 1.0, 0), (43, 1.0, 1), (43, 1.5, 0), (44, 1.5, 1)])
def test_whole_numbers_may_leave_a_reference_by_their_own_tolerance(tmp_path, images, factor, status):
    folder, path = tmp_path / "run", tmp_path / "references/nvidia-a10g.json"
    executed(folder, 71.2)
    call("collect", folder, "--references", path.parent)
    text = path.read_text(encoding="utf-8").replace("of 40", f"of {images}")
    path.write_text(text.replace('"factor": 1.0', f'"factor": {factor}'), encoding="utf-8")
    assert call("compare", folder, "--references", path.parent) == status


def test_what_is_outside_its_tolerance_is_shown(tmp_path, capsys):
    folder, references = tmp_path / "run", tmp_path / "references"
    executed(folder, 71.2)
    call("collect", folder, "--references", references)
    executed(folder, 80.0)
    assert call("compare", folder, "--references", references) == 1
    message = capsys.readouterr().err
    assert "01_good on NVIDIA A10G: output 1 is outside its tolerance" in message
    assert "80.0%" in message and "71.2%" in message


def test_each_device_and_page_has_numbers_of_its_own(tmp_path):
    references = tmp_path / "references"
    for device, number in (("NVIDIA A10G", 70.0), ("Tesla T4", 50.0)):
        for page in ("01_good", "02_other"):
            executed(tmp_path / device / page, number, page=page, device=device)
            assert call("collect", tmp_path / device / page, "--references", references) == 0
    assert sorted(p.name for p in references.iterdir()) == ["nvidia-a10g.json", "tesla-t4.json"]
    assert sorted(json.loads((references / "tesla-t4.json").read_text(encoding="utf-8"))["pages"]) == [
        "01_good",
        "02_other",
    ]
    executed(tmp_path / "swapped", 70.0, device="Tesla T4")
    assert call("compare", tmp_path / "swapped", "--references", references) == 1


@pytest.mark.parametrize(
    "text",
    [
        "{",
        '{"factor": 1}',
        '{"factor": "x", "pages": {}}',
        '{"factor": 1, "pages": {"a": 1}}',
        '{"factor": 1, "pages": {"a": {"outputs": ["accuracy 71.2%"]}}}',
    ],
)
def test_a_damaged_reference_is_named(tmp_path, capsys, text):
    executed(tmp_path / "run", 71.2)
    (tmp_path / "references").mkdir()
    (tmp_path / "references/nvidia-a10g.json").write_text(text, encoding="utf-8")
    assert call("compare", tmp_path / "run", "--references", tmp_path / "references") == 1
    assert "nvidia-a10g.json is not a reference; write it again with" in capsys.readouterr().err


def test_a_page_that_failed_is_not_a_reference(tmp_path, capsys):
    executed(tmp_path / "run", 71.2, failed=True)
    assert call("collect", tmp_path / "run", "--references", tmp_path / "references") == 1
    assert "holds no page that ran to its end with a record" in capsys.readouterr().err
    assert not (tmp_path / "references").exists()


def test_committed_references_can_be_read():
    for path in (ROOT / "notebooks/references").glob("*.json"):
        device = json.loads(path.read_text(encoding="utf-8"))["device"]
        assert references.path_of(device, path.parent) == path and references.read(device, path.parent)

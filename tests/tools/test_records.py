"""Records of runs, the status page that shows them, and the comparison of a run's numbers with a reference."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import _book
import _record
import metrics
import pages
from _pages import Project, write

SITE = Path(__file__).parents[1] / "fixtures" / "site"
ROOT = Path(__file__).parents[2]
LINE = "accuracy {:.1f}% of 40 images\n(decimals in the line above hold to ±0.7 on other machines)"


def record(folder: Path, page: str = "01_good", **changes) -> dict:
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "page": page, "profile": "full", "failed": False, "seconds": 12.3, "device": "NVIDIA A10G", "memory": 2.5,
        "gpu_memory": 7.25, "versions": {"torch": "2.11.0"}, "commit": "abcdef", "date": "2026-01-02",
    } | changes  # fmt: skip
    (folder / f"{page}.record.json").write_text(json.dumps(found))
    return found


def executed(folder: Path, *numbers: float, page: str = "01_good", **changes) -> None:
    """A page that printed these numbers, with its record."""
    record(folder, page, **changes)
    outputs = [new_output("stream", name="stdout", text=LINE.format(n)) for n in numbers]
    cells = [new_code_cell("1", outputs=[output]) for output in outputs]
    cells.append(new_code_cell("1", outputs=[new_output("stream", name="stdout", text="no tolerance: 3.14\n")]))
    write(new_notebook(cells=cells), folder / f"{page}.ipynb")


# --- records --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run_leaves_a_record_of_what_it_took(tmp_path):
    """The memory is the kernel's own: a page that holds a gibibyte says so."""
    for name in ("pyproject.toml", "notebooks/profiles.yml", "notebooks/src/01_good.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((SITE / name).read_bytes())
    with (tmp_path / "notebooks/src/01_good.py").open("a") as page:
        page.write("\n# %%\nkept = bytearray(1 << 30)\n")
    pages.main(["--root", str(tmp_path), "run"])
    (found,) = _record.read(tmp_path / "_build/executed/mini")
    assert found["page"] == "01_good" and found["profile"] == "mini" and not found["failed"]
    assert found["commit"] == "unknown" and found["versions"]["torch"] and found["seconds"] > 0
    assert 1 < found["memory"] < 2 and found["device"] and found["date"]


def test_a_kernel_that_told_nothing_leaves_what_is_known(tmp_path):
    _record.write(tmp_path / "01_a.ipynb", tmp_path / "nothing", ROOT, "full", 3.21, True)
    (found,) = _record.read(tmp_path)
    assert found["memory"] is None and found["device"] is None and found["failed"] and found["seconds"] == 3.2
    assert "01_a (failed)" in _record.table([found]) and "unknown" in _record.table([found])


def test_the_status_page_shows_every_run(tmp_path):
    runs = [record(tmp_path), record(tmp_path, "02_b"), record(tmp_path, "01_c", gpu_memory=None, profile="mini")]
    full, mini = _record.table(runs).split("**mini**")
    for part in ("**full**", "NVIDIA A10G", "torch 2.11.0", "commit `abcdef`"):
        assert full.count(part) == 1  # once for all pages that ran alike
    assert "| 01_good | 12 s | 2.50 GiB | 7.25 GiB |\n| 02_b | 12 s |" in full
    assert "| 01_c | 12 s | 2.50 GiB | – |" in mini and "02_b" not in mini
    assert "No run is recorded" in _record.table([])


def test_a_build_puts_the_records_into_the_book(tmp_path, monkeypatch):
    project = Project(ROOT)
    monkeypatch.setattr(project, "build", tmp_path / "_build")
    monkeypatch.setattr(project, "pages_in_toc", list)
    record(project.build / "executed" / "full")
    record(project.build / "executed" / "mini", "02_b", profile="mini", device="CPU")
    _book.stage(project, tmp_path / "site", project.build / "executed" / "mini")
    text = (tmp_path / "site/book/status.md").read_text()
    assert "**full**, on NVIDIA A10G" in text and "| 01_good | 12 s |" in text
    assert "**mini**, on CPU" in text and "| 02_b | 12 s |" in text
    assert _book.RUNS not in text and text.count("02_b") == 1
    assert "book/status" in project.toc_files()


# --- numbers against a reference ------------------------------------------------------------------------------------


def call(*arguments) -> int:
    return metrics.main([str(a) for a in arguments])


def test_numbers_are_collected_and_agree_with_themselves(tmp_path, capsys):
    folder, references = tmp_path / "run", tmp_path / "references"
    executed(folder, 71.2, 33.0)
    assert call("compare", folder, "--references", references) == 0
    assert "01_good: no reference for NVIDIA A10G yet" in capsys.readouterr().out
    assert call("collect", folder, "--references", references) == 0
    kept = json.loads((references / "nvidia-a10g.json").read_text())
    assert kept["device"] == "NVIDIA A10G" and kept["factor"] == 1.0
    assert kept["pages"]["01_good"] == {"commit": "abcdef", "outputs": [LINE.format(71.2), LINE.format(33.0)]}
    assert call("compare", folder, "--references", references) == 0
    assert "the numbers agree" in capsys.readouterr().out


@pytest.mark.parametrize(("numbers", "factor", "status"), [
    ((71.8, 33.0), 1.0, 0), ((72.1, 33.0), 1.0, 1), ((72.1, 33.0), 2.0, 0), ((72.9, 33.0), 2.0, 1),
    ((71.2,), 1.0, 1), ((71.2, 33.0, 5.0), 1.0, 1),
])  # fmt: skip
def test_numbers_may_leave_a_reference_by_their_tolerance_times_the_devices_factor(tmp_path, numbers, factor, status):
    folder, references = tmp_path / "run", tmp_path / "references"
    executed(folder, 71.2, 33.0)
    call("collect", folder, "--references", references)
    path = references / "nvidia-a10g.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"factor": factor}))
    executed(folder, *numbers)
    assert call("compare", folder, "--references", references) == status


def test_what_left_its_tolerance_is_shown(tmp_path, capsys):
    folder, references = tmp_path / "run", tmp_path / "references"
    executed(folder, 71.2)
    call("collect", folder, "--references", references)
    executed(folder, 80.0)
    assert call("compare", folder, "--references", references) == 1
    told = capsys.readouterr().err
    assert "01_good on NVIDIA A10G: output 1 left its tolerance" in told and "80.0%" in told and "71.2%" in told


def test_each_device_and_page_has_numbers_of_its_own(tmp_path):
    references = tmp_path / "references"
    for device, number in (("NVIDIA A10G", 70.0), ("Tesla T4", 50.0)):
        for page in ("01_good", "02_other"):
            executed(tmp_path / device / page, number, page=page, device=device)
            assert call("collect", tmp_path / device / page, "--references", references) == 0
    assert sorted(p.name for p in references.iterdir()) == ["nvidia-a10g.json", "tesla-t4.json"]
    assert sorted(json.loads((references / "tesla-t4.json").read_text())["pages"]) == ["01_good", "02_other"]
    executed(tmp_path / "swapped", 70.0, device="Tesla T4")
    assert call("compare", tmp_path / "swapped", "--references", references) == 1


@pytest.mark.parametrize(
    "text", ["{", '{"factor": 1}', '{"factor": "x", "pages": {}}', '{"factor": 1, "pages": {"a": 1}}']
)
def test_a_damaged_reference_is_named(tmp_path, capsys, text):
    executed(tmp_path / "run", 71.2)
    (tmp_path / "references").mkdir()
    (tmp_path / "references/nvidia-a10g.json").write_text(text)
    assert call("compare", tmp_path / "run", "--references", tmp_path / "references") == 1
    assert "nvidia-a10g.json is not a reference; make it again with" in capsys.readouterr().err


def test_a_page_that_failed_is_not_a_reference(tmp_path, capsys):
    executed(tmp_path / "run", 71.2, failed=True)
    assert call("collect", tmp_path / "run", "--references", tmp_path / "references") == 1
    assert "holds no page that ran to its end with a record" in capsys.readouterr().err
    assert not (tmp_path / "references").exists()


def test_committed_references_can_be_read():
    for path in (ROOT / "notebooks/references").glob("*.json"):
        device = json.loads(path.read_text())["device"]
        assert metrics.file_of(device, path.parent) == path and metrics.reference(device, path.parent)

"""A table of the book on another problem."""

from __future__ import annotations

import tiny

from dtta import elsewhere as module
from dtta import evaluate as evaluation
from dtta import stored, tables
from dtta.elsewhere import elsewhere

TEXT = """
about = "A table to try things out"
problem = "tiny"
images = 3
tried = 2

[runs.none]

[runs.diffusion-tta]
settings = { samples = 2, steps = 1 }
grid = { lr = [0.01, 1.0], low = [0.0, 0.5] }

[runs."few images"]
like = "diffusion-tta"
images = 2
settings = { steps = 2 }

[runs."tent, two at once"]
method = "tent"
batch = 2
settings = { lr = 0.1 }

[runs."another network"]
like = "diffusion-tta"
network = "vit"

[runs."like that"]
like = "another network"

[runs."another diffusion model"]
like = "diffusion-tta"
diffusion = "dit"

[runs.recalled]
method = "tent"
recalled = 40
settings = { steps = 4 }
"""


def test_a_table_on_another_problem(tmp_path, monkeypatch):
    """Runs that need what the problem lacks are left out, with what builds on them; nothing is tried unless asked."""
    loaded = []

    def load(*names):
        loaded.append(names)
        return tiny.problem(settings={"tent": {"steps": 2}})

    for place in (tables, evaluation, module):
        monkeypatch.setattr(place, "load", load)
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    (tmp_path / "few.toml").write_text(TEXT)

    def made(folder, **options):
        told = elsewhere("few", "other", 1, tmp_path / folder, shifts=["fog"], **options)
        assert told == tmp_path / folder
        return stored.names("few", told)

    runs = made("a")
    assert list(runs) == ["none", "diffusion-tta", "few images", "tent, two at once", "recalled"]
    assert runs["few images"].settings == {"samples": 2, "steps": 2}
    assert {(run.problem, run.precision) for run in runs.values()} == {("other", "float32")}  # a CPU's
    assert {(r.shift, r.index) for r in stored.rows("few", "few images", tmp_path / "a")} == {("clean", 0), ("fog", 1)}
    assert not (tmp_path / "a" / "few-settings.csv").exists()
    assert runs["recalled"].recalled == 1 and runs["recalled"].settings == {"steps": 4}

    runs = made("b", networks={"": "this", "vit": "that"}, most={"steps": 1, "samples": 1}, tried=1, seeds=[0, 7])
    assert list(runs) == [
        "none",
        "diffusion-tta",
        "few images",
        "tent, two at once",
        "another network",
        "like that",
        "recalled",
    ]
    assert [runs[name].network for name in ("few images", "another network", "like that")] == ["this", "that", "that"]
    assert {run.settings.get("steps", 1) for run in runs.values()} == {1}
    assert runs["diffusion-tta"].settings["samples"] == 1
    assert len(stored.tried("few", tmp_path / "b")) == 4
    assert {r.seed for r in stored.rows("few", "none", tmp_path / "b")} == {0, 7}
    assert ("other", "this", None, None) in loaded

    runs = made("c", diffusions={"": "small", "dit": "large"}, precision="bfloat16")
    assert {run.precision for run in runs.values()} == {"bfloat16"}
    assert [runs[name].diffusion for name in ("diffusion-tta", "another diffusion model")] == ["small", "large"]

"""Page 06 at full scale on tiny checkpoints and generated data, from a run that was stopped after its first image."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nbformat
import pytest
import stand_ins

from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.experiments import stored
from tools.pages.check import check_page
from tools.pages.project import Project
from tools.pages.run import run_page

ROOT = Path(__file__).parents[2]


PROBLEM = "open-vocabulary-food101"
# Too few steps and samples to improve anything: the test only checks that the page's code runs to its end.
LITTLE = {
    "diffusion-tta": dict(steps=2, samples=2, micro_batch=2, rank=2),
    "tent": dict(rank=2),
    "tpt": dict(views=4),
    "diffusion-classifier": dict(samples=3),
    "ensemble": dict(samples=3),
}


def outputs(path: Path) -> list[tuple[str, str]]:
    """Return the kind of each output of a notebook (figure, table or text) and its words; a cell's texts are joined."""
    bar = "application/vnd.jupyter.widget-view+json"  # of progress, where ipywidgets is installed
    kinds = []
    for cell in nbformat.read(path, as_version=4).cells:
        texts = []
        for output in cell.get("outputs", []):
            data = output.get("data", {"text/plain": output.get("text", "")})
            if set(data) == {"text/plain"}:
                texts.append(data["text/plain"])
            elif bar not in data:
                kinds.append((min(data), data["text/plain"]))
        if texts:
            kinds.append(("stream", "\n".join(texts)))
    return kinds


@pytest.mark.slow
def test_the_page_runs_at_full_scale_and_resumes_its_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    stand_ins.food101(tmp_path)
    models = dict(
        network=str(stand_ins.clip(tmp_path / "clip")), diffusion=str(stand_ins.stable_diffusion(tmp_path / "sd"))
    )
    rows, problem = tmp_path / "results", PROBLEM
    before = Run("none", problem, **models)  # a run that was stopped after its first image
    path = rows / problem / "none.jsonl"
    (first,) = evaluate(before, [("clean", 3)], [0], path, progress=False)
    path.write_text(
        path.read_text(encoding="utf-8").replace(f'"seconds": {first.seconds}', '"seconds": 99.0'), encoding="utf-8"
    )

    project, name, few = Project(ROOT), "06_open_vocabulary", dict(shifts=["contrast", "fog"], counts=[2, 3])
    extra = dict(**models, **few, images=1, listeners=2, overrides=LITTLE, results=str(rows))
    assert run_page(project, name, "full", project.settings(name, "full", extra), tmp_path) is None
    wrong = check_page(project, tmp_path / f"{name}.ipynb", committed=False)
    assert [sentence for sentence in wrong if "absolute path" not in sentence] == []  # the checkpoints' own

    full, mini = outputs(tmp_path / f"{name}.ipynb"), outputs(ROOT / "notebooks" / f"{name}.ipynb")
    kinds, texts = Counter(kind for kind, _ in full), [text for _, text in full]
    # what was held out; cards, seen and unseen (three tables), what was tried, temperatures (two); stored and true
    only_mini = {"image/png": 2, "text/html": 7, "stream": 1}
    assert kinds + Counter(only_mini) == Counter(kind for kind, _ in mini)
    assert [text.count("True") for text in texts if "True" in text] == [1, 2, 1]  # what is computed by hand
    assert not [text for text in texts if any(word in text for word in ("False", "portrait", "nan"))]

    table = f"{problem}-test"
    assert {len(stored.rows(table, run, rows)) for run in stored.runs(table, rows)} == {3}
    assert [r.seconds for r in stored.rows(table, "none", rows)].count(99.0) == 1
    assert {r.index for r in stored.rows(table, "tpt", rows)} == {0, 1, 2}
    assert stored.runs(table, rows)["none, 2 names"] == Run("none", problem, **models, settings={}, classes=2)
    assert not {"none, 3 names", "diffusion-tta, 3 names"} & set(stored.runs(table, rows))

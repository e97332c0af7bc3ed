"""dtta.pages.evidence and tools/pages/evidence.py: tables of the stored results, compared with stored.gain."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from bs4 import BeautifulSoup

from dtta.experiments import stored
from dtta.experiments.paper import presets
from dtta.pages import evidence
from tools.pages import evidence as pages
from tools.pages.project import PageError, Project

ROOT = Path(__file__).parents[2]
TABLE = "stopping"  # the smallest


def test_a_run_that_others_are_compared_with_has_its_own_line():
    assert [line["run"] for line in evidence.gains("forward")] == ["adaptation", "posterior", "posterior, race", "fast"]


def test_gains_name_the_baselines_if_they_differ():
    assert [line["baseline"] for line in evidence.gains("forward")] == ["none", "none", "posterior", "adaptation"]
    assert all("baseline" not in line for line in evidence.gains(TABLE))


def test_gains_have_the_evaluations_that_were_counted():
    for line in evidence.gains("forward"):
        assert line["evaluations"] == stored.evaluations("forward", line["run"], evidence.shifts_of("forward"))
    assert all("evaluations" not in line for line in evidence.gains(TABLE))


def test_tables_begin_with_the_gain_and_its_interval_which_a_phone_shows():
    for lines in (evidence.gains(TABLE), evidence.trials(TABLE), stored.selection_table(TABLE)):
        assert list(lines[0])[:4] == ["run", "gain", "low", "high"]


def test_verdicts_are_counted_by_table_and_in_all():
    words = ("same sign", "same sign", "opposite sign", "the paper's effect is too small to tell")
    papers = ("table2/a/fog", "table1/b/c", "table2/a/snow", "table2/b/fog")
    runs = ("a", "b", "b", "b")
    lines = [dict(paper=paper, verdict=word, run=run, shift="fog")
             for paper, word, run in zip(papers, words, runs, strict=True)]  # fmt: skip
    first, second, whole = evidence.verdicts(lines)
    assert (first["paper"], first["cells"], first["same sign"], first["opposite sign"]) == ("Table 1", 1, 1, 0)
    assert (second["paper"], second["cells"], second["same sign"], second["opposite sign"]) == ("Table 2", 3, 1, 1)
    assert whole == {
        "paper": "all", "cells": 4, "our results": 3, "same sign": 2, "opposite sign": 1, "ours contains zero": 0,
        "the paper's too small": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> dict[str, str]:
    """The evidence pages with their tables, except the long ones of pairs."""
    folder = tmp_path_factory.mktemp("evidence")
    for path in (ROOT / "book" / "evidence").glob("*.*"):
        text = re.sub("<!-- evidence pairs .*-->", "", pages.expand(path.read_text(encoding="utf-8")))
        (folder / path.name).write_text(text, encoding="utf-8")
    pages.put_tables(folder)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}


@pytest.mark.parametrize("kind", pages.SPLIT)
def test_no_table_has_gains_on_different_images(kind):
    """The table "loss" has two, one for each number of images, and each run is in that of its images."""
    images = {line["run"]: line["images"] for line in evidence.gains("loss")}
    first, many, second, few = pages._block(kind, "loss", None, {}, {}).split("\n\n")
    assert (first, second) == tuple(f"{n} images under each of 12 shifts:" for n in (24, 12))
    for table, size in ((many, 24), (few, 12)):
        words = re.sub("</?span[^>]*>", "", table)
        names = {run for run in images if f">{pages._run(run)}</t" in words}
        assert names == {run for run in images if images[run] == size}


def test_tables_of_shifts_have_the_shorter_list_as_columns():
    for name, corner in ((TABLE, "shift"), ("weights", "run")):
        table = BeautifulSoup(pages._block("shifts", name, None, {}, {}), "html.parser")
        heads, *lines = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]
        assert heads[0] == corner
        values = {frozenset((line[0], head)): text for line in lines for head, text in zip(heads, line, strict=True)}
        for line in evidence.by_shift(name):
            assert values[frozenset((line["run"], "pixelate"))] == f"{line['pixelate']:.1f}"


def test_the_page_of_verdicts_counts_every_cell_that_a_page_shows(shown):
    rows = re.findall(r"<td[^>]*>Table \d: ", "".join(text for name, text in shown.items() if name[0].isdigit()))
    (total,) = re.findall(r"<td[^>]*>all</td><td[^>]*>(\d+)</td>", shown["paper.md"])
    assert int(total) == len(rows) > 60


def test_gains_are_those_of_the_stored_results_and_leave_no_run_out():
    lines = {line["run"]: line for line in evidence.gains(TABLE)}
    assert set(lines) == set(stored.runs(TABLE)) - {"none"}
    shifts = evidence.shifts_of(TABLE)
    assert "clean" not in shifts and len(shifts) == 12
    for run, line in lines.items():
        gain = stored.gain(TABLE, run, shifts)
        assert [line[key] for key in ("gain", "low", "high")] == [gain[key] for key in ("gain", "low", "high")]
        assert line["images"] * line["shifts"] == gain["images"]
        assert line["gain on clean"] == pytest.approx(stored.gain(TABLE, run, ["clean"])["gain"])


def test_gain_by_shift_averages_to_the_gain():
    shifts = [shift.replace("_", " ") for shift in evidence.shifts_of(TABLE)]
    means = {line["run"]: sum(line[s] for s in shifts) / len(shifts) for line in evidence.by_shift(TABLE)}
    assert means == {line["run"]: pytest.approx(line["gain"]) for line in evidence.gains(TABLE)}


def test_every_pair_is_there_once_with_the_higher_mean_first():
    lines = evidence.pairs(TABLE)
    runs = [run for run in stored.runs(TABLE) if run != "none"]
    assert {frozenset((line["run"], line["compared with"])) for line in lines} == {frozenset(runs)} and len(lines) == 1
    (line,) = lines
    gain = stored.gain(TABLE, line["run"], evidence.shifts_of(TABLE), against=line["compared with"])
    assert line["gain"] == pytest.approx(gain["gain"]) and line["gain"] >= 0
    assert line["low"] == pytest.approx(gain["low"]) and line["high"] == pytest.approx(gain["high"])


def test_pairs_have_the_metric_of_the_other_tables():
    """The mean over images of their IoU is another number than the IoU over the pixels of all images."""
    table, metric = "scenes-segmentation-test", evidence.metrics_of("scenes-segmentation-test")["mean IoU"]
    gains = {line["run"]: line["gain"] for line in evidence.gains(table, metric) if line["images"] == 24}
    pairs = [line for line in evidence.pairs(table, metric) if {line["run"], line["compared with"]} <= set(gains)]
    assert len(pairs) == 6
    for line in pairs:
        assert line["gain"] == pytest.approx(gains[line["run"]] - gains[line["compared with"]])


def test_the_metric_of_a_mark_is_that_of_its_table(monkeypatch):
    monkeypatch.setattr(evidence, "pairs", lambda table, metric: [{"run": "a", "gain": metric}])
    monkeypatch.setattr(evidence, "metric_of", lambda table, name: name)
    assert ">mean IoU<" in pages._block("pairs", "scenes-segmentation-test", "mean IoU", {}, {})


def test_numbers_in_the_texts_of_evidence_are_those_of_the_runs():
    clean = [row for row in stored.rows("weights", "all, vit") if row.shift == "clean"]
    assert len(clean) == 24 and round(100 / len(clean), 1) == 4.2  # page 08
    names = yaml.safe_load((ROOT / "book" / "evidence" / "names.yml").read_text(encoding="utf-8"))
    settings = stored.runs("loss")["diffusion-tta"].settings
    text = "{samples} pairs with t from the middle half, {steps} steps, learning rate {lr:g}"
    assert names["loss"]["diffusion-tta"] == text.format(**settings)
    assert (settings["t_min"], settings["t_max"]) == (0.25, 0.75)
    for table, run, words in (("digits-test", "diffusion-tta, online", "30 images"), ("online", "online", "16 images")):
        rows = [row for row in stored.rows(table, run) if row.shift == "fog" and row.seed == 0]
        assert f"{len(rows)} images" == words and words in names[table]["online"]


def test_parts_of_names_must_occur_in_the_runs_of_their_table():
    names = {"N samples": "pairs", "rate": "of learning"}
    text = pages._block("names", "loss", None, {}, {"loss": names})
    assert "* **N samples**: pairs" in text and "What the names mean" in text
    assert pages._block("names", "loss", None, {}, {}) == ""
    with pytest.raises(KeyError, match="no run of loss has 'N names' in its name"):
        pages._block("names", "loss", None, {}, {"loss": {"N names": ""}})


@pytest.mark.parametrize(
    ("paper", "error", "low", "high", "words"),
    [
        (-6.0, 1.0, 9.0, 17.0, "opposite sign"),
        (6.0, 1.0, 9.0, 17.0, "same sign"),
        (-6.0, 1.0, -9.0, -1.0, "same sign"),
        (1.9, 1.0, 9.0, 17.0, "the paper's effect is too small to tell"),
        (0.0, float("nan"), 9.0, 17.0, "the paper's effect is too small to tell"),
        (6.0, 1.0, -1.0, 17.0, "our interval contains zero"),
    ],
)
def test_verdict(paper, error, low, high, words):
    assert evidence.verdict(paper, error, {"gain": (low + high) / 2, "low": low, "high": high}) == words


def test_papers_cells_are_its_presets():
    (line,) = evidence.compare_with_paper(
        "digits-test",
        [{"paper": "table1/resnet18/imagenet-c", "run": "diffusion-tta", "shift": "gaussian_noise"},
         {"paper": "table1/resnet18/imagenet", "run": "diffusion-tta", "shift": "clean"}],
    )  # fmt: skip
    preset = presets()["table1/resnet18/imagenet-c"]
    assert line["paper's gain"] == preset.paper - preset.before  # the clean digits are at 100%: no line
    assert evidence.standard_error(50, 50, 100) == pytest.approx(100 * (0.5 / 100) ** 0.5)


def test_marks_become_tables_and_wrong_ones_are_named(tmp_path):
    page = tmp_path / "01_a.md"
    page.write_text(f"# A\n\n<!-- evidence about {TABLE} -->\n\n<!-- evidence gains {TABLE} -->\n", encoding="utf-8")
    pages.put_tables(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "<!-- evidence" not in text and text.count("<tr>") == len(stored.runs(TABLE))
    page.write_text(f"# A\n\n<!-- evidence all {TABLE} -->\n", encoding="utf-8")
    pages.put_tables(tmp_path)
    text = page.read_text(encoding="utf-8")
    assert "<!-- evidence" not in text and "### Settings" in text and "Accuracy in % of the baseline" in text
    wrong = [
        (f"every {TABLE}", "no evidence 'every'"),
        ("gains gone", "no stored results"),
        ("gains", "not understood"),
        (f"gains {TABLE} IoU", "no metric 'IoU'"),
    ]
    for mark, words in wrong:
        page.write_text(f"<!-- evidence {mark} -->\n", encoding="utf-8")
        with pytest.raises(PageError, match=re.escape("book/evidence/01_a.md: ") + f".*{words}"):
            pages.put_tables(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("names", "gone: {a: b}", "names.yml: no stored results gone"),
        ("names", f"{TABLE}: {{tent: b}}", "no run of stopping has 'tent' in its name"),
        ("names", "- a", "names.yml must be a dict"),
        ("claims", "[", "claims.yml: while parsing"),
        ("claims", "[{claim: a, comparisons: [{text: a, table: gone, run: a}]}]", "claims.yml: .*no stored results"),
        ("claims", f"[{{claim: a, comparisons: [{{text: a, table: {TABLE}, run: gone}}]}}]", "claims.yml: .*gone"),
        (
            "claims",
            f"[{{claim: a, comparisons: [{{text: a, table: {TABLE}, run: chosen rule, shift: dark}}]}}]",
            "claims.yml: chosen rule of stopping has no shift 'dark'",
        ),
        (
            "claims",
            f"[{{claim: a, comparisons: [{{text: a, table: {TABLE}, run: chosen rule, ovre: none}}]}}]",
            "claims.yml: .*unexpected keyword argument 'ovre'",
        ),
        (
            "claims",
            f"[{{claim: a, comparisons: [{{text: a, table: {TABLE}, run: chosen rule, sign: 0}}]}}]",
            "claims.yml: the sign of 'a' must be 1 or -1, not 0",
        ),
    ],
)
def test_wrong_names_in_the_files_next_to_the_pages_are_named(tmp_path, name, text, words):
    (tmp_path / "01_a.md").write_text(f"<!-- evidence names {TABLE} -->\n<!-- evidence claims -->\n", encoding="utf-8")
    (tmp_path / f"{name}.yml").write_text(text, encoding="utf-8")
    with pytest.raises(PageError, match=words):
        pages.put_tables(tmp_path)


@pytest.mark.parametrize(
    ("metric", "title"),
    [("SSIM", "SSIM × 100"), ("mean IoU", "Mean IoU in %"), ("δ < 1.25", "δ < 1.25 in %"), ("AbsRel", "AbsRel in %")],
)
def test_titles_keep_the_spelling_of_metrics(metric, title):
    assert f"\n{title} of the baseline" in pages.expand(f"<!-- evidence all scenes-depth-test {metric} -->")


def test_unclear_names_of_runs_are_replaced_and_a_list_of_one_row_says_so(shown):
    page = shown["07_loss_ablations.md"]
    assert ">180 timesteps, 180 noises, and φ<" in page and ">and φ<" not in page
    assert ">no adaptation, vit<" in shown["08_weights.md"] and ">none" not in shown["08_weights.md"]
    assert "same baseline: 1 row\n" in pages._block("pairs", TABLE, None, {}, {})


def test_gains_that_no_column_has_are_in_the_list_below(shown):
    assert ">in the list below<" in shown["03_classification.md"]
    assert not re.search(r"<th[^>]*>gain at each</th>", pages._block("selection", "forward", None, {}, {}))


def test_every_stored_table_is_on_one_evidence_page():
    listed = [ROOT / f"{file}.md" for file in Project(ROOT).toc_files() if file.startswith("book/evidence/")]
    assert sorted(listed) == sorted((ROOT / "book" / "evidence").glob("*.md"))
    shown = [table for page in listed for table in pages.tables_of(page)]
    assert sorted(shown) == sorted(path.stem for path in stored.FOLDER.glob("*.json") if f"{path.stem}.csv" in FILES)


FILES = {path.name for path in stored.FOLDER.glob("*.csv")}


def test_claims_have_the_verdict_of_their_interval_and_sign(shown):
    table, metric = "scenes-depth-test", evidence.metrics_of("scenes-depth-test")["SSIM"]
    run = {"text": "a", "table": table, "run": "diffusion-tta", "metric": "SSIM"}
    online = run | {"run": "diffusion-tta, online", "over": "diffusion-tta"}
    unclear = run | {"run": "diffusion-tta, all timesteps"}
    comparisons = [run, run | {"sign": -1}, online, online | {"sign": -1}, unclear, run | {"shift": "clean"}]
    lines = evidence.claims([{"claim": "first", "comparisons": comparisons}])
    words = ["as claimed", "opposite", "opposite", "as claimed", "not established", "opposite"]
    assert [line["verdict"] for line in lines] == words
    gain = stored.gain(table, "diffusion-tta, online", evidence.shifts_of(table), "diffusion-tta", metric)
    assert [lines[2][key] for key in ("gain", "low", "high")] == [gain[key] for key in ("gain", "low", "high")]
    assert shown["paper.md"].count(">1. Three tasks<") == 1


def test_a_claim_is_compared_with_the_baseline_of_its_run():
    line = evidence.compare_runs("a", "weights", "all, vit")
    assert line["gain"] == stored.gain("weights", "all, vit", evidence.shifts_of("weights"), "none, vit")["gain"]


def test_gains_after_streams_are_on_images_that_no_run_adapts_to():
    lines = {(line["run"], line["later images"]): line for line in evidence.after_streams("distillation")}
    rows = [stored.rows("distillation", run) for run in ("none", "teacher")]
    for kind, shifted in (("clean", False), ("same shift", True)):
        means = [
            100
            * np.mean([r.score for r in part if re.match("after (?!clean)", r.shift) and ("," in r.shift) == shifted])
            for part in rows
        ]
        line = lines["teacher", kind]
        assert (line["before"], line["after"]) == (pytest.approx(means[0]), pytest.approx(means[1]))
    assert not any(run == "posterior" for run, _ in lines) and evidence.after_streams(TABLE) == []


def test_a_baseline_that_adapts_is_named_in_the_table_of_shifts():
    runs = [line["run"] for line in evidence.by_shift("forward")]
    assert runs == ["adaptation", "posterior", "posterior, race (over posterior)", "fast (over adaptation)"]

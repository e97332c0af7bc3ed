"""Stored tables: what is saved is what is read, and a missing table says what makes it."""

from __future__ import annotations

import math
import re

import pytest

from dtta.evaluation.run import Row, Run
from dtta.experiments import stored

ROWS = [Row("clean", 3, 0, 1.0, 0.5), Row("fog", 3, 0, 0.0, 0.25), Row("fog", 3, 1, 1.0, 0.25)]


def test_round_trip(tmp_path):
    run = Run("logits", settings={"lr": 0.1})
    stored.save("table", {"none, or not": (run, ROWS), "b": (Run("none"), ROWS[:1])}, tmp_path, command="make it")
    assert stored.runs("table", tmp_path)["none, or not"] == run
    assert stored.rows("table", "none, or not", tmp_path) == ROWS
    assert stored.rows("table", "b", tmp_path) == ROWS[:1]
    header = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",") == list(stored.COLUMNS)


def test_a_table_saved_again_is_read_again(tmp_path):
    for score in (0.25, 0.5, 0.75):
        stored.save("table", {"a": (Run("none"), [Row("fog", 3, 0, score, 0.1, seed=7)])}, tmp_path)
        assert stored.rows("table", "a", tmp_path) == [Row("fog", 3, 0, score, 0.1, seed=7)]


def test_sums_are_stored_next_to_the_scores(tmp_path):
    sums = [{"both sky": 1024.0, "SSIM": 0.12345}, {"both sky": 0.0, "SSIM": float("nan")}]
    rows = [Row("fog", 3, i, 0.5, 0.25, s) for i, s in enumerate(sums)]
    stored.save("table", {"a": (Run("none"), rows), "b": (Run("none"), rows[:1])}, tmp_path)
    header = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.split(",") == [*stored.COLUMNS, "both sky", "SSIM"]
    first, last = stored.rows("table", "a", tmp_path)
    assert first == rows[0] and stored.rows("table", "b", tmp_path) == rows[:1]
    assert last.sums["both sky"] == 0 and math.isnan(last.sums["SSIM"])


def test_evaluations_are_stored_where_they_were_counted(tmp_path):
    rows = [Row("fog", 3, i, 1.0, 0.5, evaluations=count) for i, count in enumerate((12.0, 0.0, 7.5))]
    stored.save("table", {"a": (Run("none"), rows), "b": (Run("none"), ROWS)}, tmp_path)
    assert stored.rows("table", "a", tmp_path) == rows and stored.rows("table", "b", tmp_path) == ROWS
    assert stored.evaluations("table", "a", {"fog"}, tmp_path) == 6.5
    with pytest.raises(ValueError, match="not counted for b; make it again: dtta evaluate --table table"):
        stored.evaluations("table", "b", {"fog"}, tmp_path)


def test_aligned_rows_are_those_of_both_lists():
    first, second = stored.align(ROWS, [ROWS[2], ROWS[0]])
    assert first == second == [ROWS[0], ROWS[2]]
    assert stored.align(ROWS, ROWS, {"fog"})[0] == ROWS[1:]


def test_missing_table_and_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dtta evaluate --table table"):
        stored.runs("table", tmp_path)
    stored.save("table", {"a": (Run("none"), ROWS)}, tmp_path)
    with pytest.raises(KeyError, match="has no run 'z'; it has a"):
        stored.rows("table", "z", tmp_path)
    for read in (stored.trials, stored.selection_table):
        with pytest.raises(FileNotFoundError, match=r"dtta evaluate --table table"):
            read("table", folder=tmp_path)


def test_a_gain_is_over_the_images_of_both_runs(tmp_path):
    before = [Row("fog", 3, i, 0.0, 0.1) for i in range(6)] + [Row("snow", 3, 0, 1.0, 0.1)]
    after = [Row("fog", 3, i, float(i > 1), 0.1) for i in range(4)] + [Row("snow", 3, 0, 0.0, 0.1)]
    table = {"none": (Run("none"), before), "after": (Run("none"), after), "other": (Run("none"), after[::-1])}
    stored.save("t", table, tmp_path, baselines={"after": "none", "other": "after"})
    gain = stored.gain("t", "after", {"fog"}, folder=tmp_path)
    assert (gain["before"], gain["after"], gain["gain"], gain["images"]) == (0, 50, 50, 4)
    assert stored.gain("t", "after", {"fog", "snow"}, folder=tmp_path)["gain"] == pytest.approx(20)
    assert stored.gain("t", "none", {"fog"}, against="after", folder=tmp_path)["gain"] == -50
    assert stored.baselines("t", tmp_path) == {"other": "after"}
    assert stored.gain("t", "other", {"fog"}, folder=tmp_path)["before"] == 50
    even = stored.gain("t", "after", {"fog"}, only=lambda row: row.index % 2 == 0, folder=tmp_path)
    assert (even["gain"], even["images"]) == (50, 2)
    assert stored.gain("t", "none", {"fog"}, against="none", also="after", folder=tmp_path)["images"] == 4


def test_images_at_quantiles_of_the_gain(tmp_path):
    before = [Row("fog", 3, i, 0.5, 0.1) for i in range(5)]
    after = [Row("fog", 3, i, 0.5 + gain, 0.1) for i, gain in enumerate((0.1, -0.2, 0.3, 0.0, 0.2))]
    stored.save("t", {"none": (Run("none"), before), "after": (Run("none"), after)}, tmp_path)
    assert [stored.at_quantile("t", "after", "fog", q, tmp_path) for q in (0, 0.5, 0.75, 1)] == [1, 0, 4, 2]
    with pytest.raises(ValueError, match="quantile must lie in 0 to 1"):
        stored.at_quantile("t", "after", "fog", 75, tmp_path)


def test_success_no_change_and_harm_are_chosen_by_rank(tmp_path):
    before = [Row("fog", 3, i, 0.5, 0.1) for i in range(8)]
    changes = (0.1, -0.2, 0.3, 0.01, 0.2, -0.3, -0.1, -0.02)
    after = [Row("fog", 3, i, 0.5 + change, 0.1) for i, change in enumerate(changes)]
    stored.save("t", {"none": (Run("none"), before), "after": (Run("none"), after)}, tmp_path)
    kinds = stored.outcomes("t", "after", {"fog"}, folder=tmp_path)
    assert {kind: row.index for kind, row in kinds.items()} == {"success": 4, "no change": 3, "harm": 6}


def test_a_run_that_harms_nothing_has_no_example_of_harm(tmp_path):
    before = [Row("fog", 3, i, 0.0, 0.1) for i in range(3)]
    after = [Row("fog", 3, i, float(i == 2), 0.1) for i in range(3)]
    stored.save("t", {"none": (Run("none"), before), "after": (Run("none"), after)}, tmp_path)
    kinds = stored.outcomes("t", "after", {"fog"}, folder=tmp_path)
    assert {kind: row.index for kind, row in kinds.items()} == {"success": 2, "no change": 1}


def test_the_selection_table_names_the_values_tried_and_the_edges_of_the_grid(tmp_path):
    """Numbers by size, whatever the order of the file; what the run used, and the best if that is another."""
    tried = [
        ("rates", dict(lr=0.02, steps=5), 1.0), ("rates", dict(lr=0.005, steps=5), 2.0),
        ("rates", dict(lr=30.0, steps=5), -1.25),
        ("both", dict(lr=0.1, mix=True, tau="none"), 0.5), ("both", dict(lr=1.0, mix=False, tau="none"), 3.0),
        ("both", dict(lr=0.5, mix=True, tau=1.0), 3.0), ("both", dict(lr=0.5), 2.0),
        ("one", dict(lr=0.1), 1.0),
    ]  # fmt: skip
    trials = [
        {"run": run, "method": "m", "settings": settings, "gain": gain, "low": 0, "high": 4, "images": 96}
        for run, settings, gain in tried
    ]
    chosen = {"rates": trials[1], "both": trials[4], "one": trials[7]}
    runs = {name: (Run("m", settings=trial["settings"]), ROWS) for name, trial in chosen.items()}
    stored.save("t", {"none": (Run("none"), ROWS), **runs}, tmp_path, trials)
    assert stored.trials("t", tmp_path) == trials
    rates, both = stored.selection_table("t", folder=tmp_path)
    assert rates == {
        "run": "rates", "settings tried": "lr 0.005, 0.02, 30", "gain at each": "+2.0, +1.0, -1.2",
        "chosen": "lr 0.005", "lowest or highest tried": "lr: lowest", "gain": 2.0, "low": 0.0, "high": 4.0,
        "images × shifts": 96,
    }  # fmt: skip
    assert both["settings tried"] == "4 of: lr 0.1, 0.5, 1; mix True, False, –; tau none, 1, –"
    assert (both["chosen"], both["lowest or highest tried"]) == ("lr 1, mix False, tau none", "lr: highest")
    assert both["gain at each"] == ""

    runs["rates"] = Run("m", settings=trials[0]["settings"]), ROWS
    stored.save("t", {"none": (Run("none"), ROWS), **runs}, tmp_path, trials)
    rates = stored.selection_table("t", folder=tmp_path)[0]
    assert re.fullmatch(r"lr \S+ \(best: lr \S+, \+2\.0\)", rates["chosen"]) and rates["gain"] == 1.0
    assert rates["lowest or highest tried"] == ""

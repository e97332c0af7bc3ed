"""Stored tables: what is saved is what is read, and a missing table says what makes it."""

from __future__ import annotations

import csv
import json
import math

import pytest

from dtta.evaluation.run import Row, Run
from dtta.experiments import stored

ROWS = [Row("clean", 3, 0, 1.0, 0.5), Row("fog", 3, 0, 0.0, 0.25), Row("fog", 3, 1, 1.0, 0.25)]


def test_round_trip(tmp_path):
    run = Run("logits", settings={"lr": 0.1})
    stored.save("table", {"a": (run, ROWS), "b": (Run("none"), ROWS[:1])}, tmp_path, command="make it")
    assert stored.runs("table", tmp_path)["a"] == run
    assert stored.rows("table", "a", tmp_path) == ROWS
    assert stored.rows("table", "b", tmp_path) == ROWS[:1]


def test_sums_are_stored_beside_the_scores(tmp_path):
    """Counts and fractions come back; a table of rows without sums has no such columns."""
    sums = [{"both sky": 1024.0, "SSIM": 0.12345}, {"both sky": 0.0, "SSIM": float("nan")}]
    rows = [Row("fog", 3, i, 0.5, 0.25, s) for i, s in enumerate(sums)]
    stored.save("table", {"a": (Run("none"), rows), "b": (Run("none"), rows[:1])}, tmp_path)
    assert (tmp_path / "table.csv").read_text().splitlines()[0].split(",") == [*stored.COLUMNS, "both sky", "SSIM"]
    assert stored.rows("table", "a", tmp_path)[0] == rows[0]
    assert stored.rows("table", "b", tmp_path) == rows[:1]
    last = stored.rows("table", "a", tmp_path)[1].sums
    assert last["both sky"] == 0 and math.isnan(last["SSIM"])
    stored.save("plain", {"a": (Run("none"), ROWS)}, tmp_path)
    assert (tmp_path / "plain.csv").read_text().splitlines()[0].split(",") == list(stored.COLUMNS)
    assert all(r.sums == {} for r in stored.rows("plain", "a", tmp_path))


def test_shared_keeps_what_both_have():
    a, b = stored.align(ROWS, [ROWS[2], ROWS[0]])
    assert a == b == [ROWS[0], ROWS[2]]
    assert stored.align(ROWS, ROWS, {"fog"})[0] == ROWS[1:]


def test_missing_table_and_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dtta evaluate --table table"):
        stored.runs("table", tmp_path)
    stored.save("table", {"a": (Run("none"), ROWS)}, tmp_path)
    with pytest.raises(KeyError, match="has no run 'z'; it has a"):
        stored.rows("table", "z", tmp_path)


def test_gain_is_that_of_the_images_both_hold(tmp_path):
    before = [Row("fog", 3, i, 0.0, 0.1) for i in range(6)] + [Row("snow", 3, 0, 1.0, 0.1)]
    after = [Row("fog", 3, i, float(i > 1), 0.1) for i in range(4)] + [Row("snow", 3, 0, 0.0, 0.1)]
    stored.save("t", {"none": (Run("none"), before), "after": (Run("none"), after)}, tmp_path)
    found = stored.gain("t", "after", {"fog"}, folder=tmp_path)
    assert (found["before"], found["after"], found["gain"], found["images"]) == (0, 50, 50, 4)
    assert stored.gain("t", "after", {"fog"}, first=3, folder=tmp_path)["gain"] == pytest.approx(100 / 3)
    assert stored.gain("t", "after", {"fog", "snow"}, folder=tmp_path)["gain"] == pytest.approx(20)
    assert stored.gain("t", "none", {"fog"}, against="after", folder=tmp_path)["gain"] == -50
    even = stored.gain("t", "after", {"fog"}, only=lambda row: row.index % 2 == 0, folder=tmp_path)
    assert (even["gain"], even["images"]) == (50, 2)
    same = stored.gain("t", "none", {"fog"}, against="none", also="after", folder=tmp_path)
    assert same["images"] == 4


def test_pairs_are_compared_where_the_table_holds_both(tmp_path):
    rows = {
        name: [Row("clean", 3, i, float(i < right), 0.1) for i in range(count)]
        for name, right, count in (("none", 0, 4), ("a", 3, 4), ("b", 1, 3))
    }
    stored.save(
        "small", {name: (Run(name if name == "none" else "tent"), found) for name, found in rows.items()}, tmp_path
    )
    found = stored.compare("small", [("a", "b"), ("a", "c"), ("b", "none")], ["clean"], str.upper, tmp_path)
    assert list(found) == ["A, against B", "B, against NONE"]
    assert found["A, against B"] == stored.gain("small", "a", ["clean"], against="b", folder=tmp_path)
    assert (found["A, against B"]["gain"], found["A, against B"]["images"]) == (pytest.approx(200 / 3), 3)


def test_a_summary_names_the_worst_shift(tmp_path):
    before = [Row(s, 3, i, 0.5, 0.1) for s in ("clean", "fog", "light_snow") for i in range(4)]
    after = [Row(r.shift, 3, r.index, {"clean": 0.25, "fog": 1.0, "light_snow": 0.5}[r.shift], 0.1) for r in before]
    stored.save("t", {"none": (Run("none"), before), "after": (Run("none"), after)}, tmp_path)
    (row,) = stored.summary("t", ["after"], ["fog", "light_snow"], folder=tmp_path)
    assert (row["method"], row["images"], row["gain"], row["clean, gain"]) == ("after", 8, 25, -25)
    assert (row["worst shift"], row["worst shift, gain"]) == ("light snow", 0)
    assert row["from"] == row["to"] == 25


def test_what_stands_where_and_what_was_tried(tmp_path):
    before = [Row("fog", 3, i, 0.5, 0.1) for i in range(5)]
    after = [Row("fog", 3, i, 0.5 + gain, 0.1) for i, gain in enumerate((0.1, -0.2, 0.3, 0.0, 0.2))]
    stored.save("t", {"none": (Run("none"), before), "after": (Run("none"), after)}, tmp_path)
    places = [stored.at_quantile("t", "after", "fog", place, tmp_path) for place in (0, 0.5, 0.75, 1)]
    assert places == [1, 0, 4, 2]
    with pytest.raises(ValueError, match="place must lie in 0 to 1"):
        stored.at_quantile("t", "after", "fog", 75, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"dtta evaluate --table t"):
        stored.trials("t", tmp_path)
    (tmp_path / "t-settings.csv").write_text('run,method,settings,gain\n"tent, slow",tent,"{""lr"": 0.1}",-2.5\n')
    row = {"run": "tent, slow", "method": "tent", "settings": {"lr": 0.1}, "gain": -2.5}
    assert stored.trials("t", tmp_path) == [row]


def test_choices_say_what_was_tried_and_what_lies_at_an_end(tmp_path):
    """Numbers by size, whatever the order of the file; the first of two equal gains, as in ``experiments.best``."""
    tried = [
        ("rates", dict(lr=0.02, steps=5), 1.0), ("rates", dict(lr=0.005, steps=5), 2.0),
        ("rates", dict(lr=30.0, steps=5), -1.25),
        ("both", dict(lr=0.1, own=True, tau="none"), 0.5), ("both", dict(lr=1.0, own=False, tau="none"), 3.0),
        ("both", dict(lr=0.5, own=True, tau=1.0), 3.0), ("both", dict(lr=0.5), 2.0),
        ("one", dict(lr=0.1), 1.0),
    ]  # fmt: skip
    lines = [
        {"run": run, "method": "m", "settings": json.dumps(settings), "gain": gain, "low": 0, "high": 4, "images": 96}
        for run, settings, gain in tried
    ]
    with (tmp_path / "t-settings.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        writer.writeheader()
        writer.writerows(lines)
    rates, both = stored.selection_table("t", folder=tmp_path)
    assert rates == {
        "": "rates", "tried": "lr 5e-3, 2e-2, 30", "gain at each": "+2.0, +1.0, -1.2", "chosen": "lr 5e-3",
        "at an end": "lr: lowest", "gain": 2.0, "from": 0.0, "to": 4.0, "images": 96,
    }  # fmt: skip
    assert both["tried"] == "lr 0.1, 0.5, 1; own True, False, –; tau none, 1, –"
    assert (both["chosen"], both["at an end"], both["gain at each"]) == ("lr 1, own False, tau none", "lr: highest", "")
    (named,) = stored.selection_table("t", {"none": "nothing", "both": "two"}, tmp_path)
    assert named == both | {"": "two"}
    with pytest.raises(FileNotFoundError, match=r"dtta evaluate --table u"):
        stored.selection_table("u", folder=tmp_path)

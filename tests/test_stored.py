"""Stored tables: what is saved is what is read, and a missing table says what makes it."""

from __future__ import annotations

import pytest

from dtta import stored
from dtta.evaluate import Row, Run

ROWS = [Row("clean", 3, 0, 1.0, 0.5), Row("fog", 3, 0, 0.0, 0.25), Row("fog", 3, 1, 1.0, 0.25)]


def test_round_trip(tmp_path):
    run = Run("logits", settings={"lr": 0.1})
    stored.save("table", {"a": (run, ROWS), "b": (Run("none"), ROWS[:1])}, tmp_path, command="make it")
    assert stored.names("table", tmp_path)["a"] == run
    assert stored.rows("table", "a", tmp_path) == ROWS
    assert stored.rows("table", "b", tmp_path) == ROWS[:1]


def test_shared_keeps_what_both_have():
    a, b = stored.shared(ROWS, [ROWS[2], ROWS[0]])
    assert a == b == [ROWS[0], ROWS[2]]
    assert stored.shared(ROWS, ROWS, {"fog"})[0] == ROWS[1:]


def test_missing_table_and_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="remake_results"):
        stored.names("table", tmp_path)
    stored.save("table", {"a": (Run("none"), ROWS)}, tmp_path)
    with pytest.raises(KeyError, match="has no run 'z'; it has a"):
        stored.rows("table", "z", tmp_path)

"""Several processes at one evaluation: the table of one process, also after some were killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from tiny_runs import ONLINE, SHIFTS, TTA, quiet, run

from dtta.evaluation import distributed, journal
from dtta.evaluation.run import Row, Run

FORK = multiprocessing.get_context("fork")  # a process that inherits all imports
IMAGES = 6


def as_written(rows: list[Row]) -> list[tuple]:
    return [(*row.cell, row.score) for row in rows]


def one_process(run: Run) -> list[tuple]:
    return as_written(quiet(run, SHIFTS, range(IMAGES)))


def _child(rank: int, count: int, port: int, path: Path, run: Run, shifts, before) -> None:
    """One process of `count`; its rows, or the error it ends with, go to a file."""
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="1")
    os.environ["OMP_NUM_THREADS"] = "1"  # or Accelerate sets the threads, and sums are rounded differently
    torch.set_num_threads(1)
    before(rank)
    processes = distributed.join()
    try:
        answer = as_written(quiet(run, shifts, range(IMAGES), path, processes=processes))
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    path.with_name(f"answer-{rank}.json").write_text(json.dumps(answer), encoding="utf-8")
    os._exit(0)  # leave pytest's clean-up to the parent


def answers(count: int, path: Path, run: Run, shifts=SHIFTS, before=lambda rank: None) -> list:
    """Return what each of the processes returned: rows, a sentence, or None if it was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = [(rank, count, port, path, run, shifts, before) for rank in range(count)]
    processes = [FORK.Process(target=_child, args=each, daemon=True) for each in arguments]
    for process in processes:
        process.start()
    results = []
    for rank, process in enumerate(processes):
        process.join(60)
        assert process.exitcode in (0, -signal.SIGKILL)
        file = path.with_name(f"answer-{rank}.json")
        answer = json.loads(file.read_text(encoding="utf-8")) if process.exitcode == 0 else None
        results.append([tuple(row) for row in answer] if isinstance(answer, list) else answer)
    return results


def kept(path: Path) -> list[tuple]:
    """Return the rows in the only file of rows, in its order."""
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith("answer")] == [path.name]
    return as_written([Row(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()[1:]])


@pytest.mark.parametrize(("count", "settings"), [(3, TTA), (2, ONLINE)])
def test_several_processes_give_the_table_of_one(tmp_path, count, settings):
    """They share images, or whole streams, and the file has the order of one process."""
    path, expected = tmp_path / "rows.jsonl", one_process(run(settings=settings))
    assert answers(count, path, run(settings=settings)) == [expected] * count
    assert kept(path) == expected


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_another_number_of_processes_continues(tmp_path, first, then):
    path, expected = tmp_path / "rows.jsonl", one_process(run())
    answers(first, path, run(), SHIFTS[:1])
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:4]), encoding="utf-8")
    journal.file_of(path, 1).write_text(
        lines[0] + lines[5] + lines[6][:-9], encoding="utf-8"
    )  # and a row that was cut off
    journal.file_of(path, 7).write_text(lines[0][:20], encoding="utf-8")  # a file cut off in its first line
    assert answers(then, path, run()) == [expected] * then
    assert sorted(kept(path)) == sorted(expected)


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [TTA, ONLINE])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_killed_while_it_writes_a_row_loses_no_other_row(tmp_path, victim, settings):
    """The others stop too; the same command continues, whatever process was killed."""
    path, expected = tmp_path / "rows.jsonl", one_process(run(settings=settings))
    append, calls = journal.append, []

    def half_a_row(file: Path, row: Row) -> None:
        calls.append(row)
        if len(calls) < 3:
            append(file, row)
            return
        with file.open("ab") as half:
            half.write(json.dumps(asdict(row)).encode()[:30])
        os.kill(os.getpid(), signal.SIGKILL)

    def before(rank: int) -> None:
        if rank == victim:
            journal.append = half_a_row

    results = answers(2, path, run(settings=settings), before=before)
    assert results[victim] is None
    assert results[1 - victim].startswith("StoppedError: another process has stopped; all rows are kept")
    rows = [
        line for file in tmp_path.glob("rows*.jsonl") for line in file.read_text(encoding="utf-8").split("\n")[1:-1]
    ]
    assert len(rows) == 2 + IMAGES  # those of the other process, and two whole ones
    assert answers(2, path, run(settings=settings)) == [expected] * 2
    assert sorted(kept(path)) == sorted(expected)
    if settings == TTA:
        before_and_after = zip(
            sorted(rows), sorted(set(rows) & set(path.read_text(encoding="utf-8").splitlines())), strict=True
        )
        assert all(a == b for a, b in before_and_after)  # to the byte, seconds included


def test_an_error_in_one_process_stops_all(tmp_path):
    def full(path, row):
        raise OSError(28, "the disk is full")

    def before(rank: int) -> None:
        if rank == 1:
            journal.append = full

    first, second = answers(2, tmp_path / "rows.jsonl", run(), before=before)
    assert first.startswith("StoppedError: another process has stopped; all rows are kept")
    assert second == "OSError: [Errno 28] the disk is full"


def test_files_of_something_else_are_refused_by_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("my notes\n", encoding="utf-8")
    first, second = answers(2, path, run())
    assert first.startswith("ValueError: ") and "holds rows of another run" in first
    assert second == "StoppedError: the first process has stopped"
    assert path.read_text(encoding="utf-8") == "my notes\n"


def test_several_processes_need_a_file_for_their_rows():
    class Two(distributed.Single):
        count = 2

    with pytest.raises(ValueError, match="need a folder for their rows"):
        quiet(run(), SHIFTS, range(2), processes=Two())


def test_a_command_without_a_launcher_is_a_single_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.join() is None

"""Several processes at one evaluation: the table of one, whenever they are killed and however many come next."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import tiny
import torch

from dtta.cli import main
from dtta.evaluation import distributed as ranks
from dtta.evaluation import evaluate as module
from dtta.evaluation import journal
from dtta.evaluation.distributed import RankError
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Row, Run

SHIFTS = [("clean", 3), ("fog", 2)]
TTA = dict(steps=1, samples=2, lr=0.5)
FORK = multiprocessing.get_context("fork")  # a process that inherits the tiny problem, and all imports
IMAGES = 6


@pytest.fixture(autouse=True)
def tiny_problem(monkeypatch):
    def load(name, network=None, diffusion=None, classes=None):
        problem = tiny.problem()
        object.__setattr__(problem, "score", lambda output, label: output.softmax(1)[0, label].item())
        return problem

    monkeypatch.setattr(module, "load", load)


def run(**settings) -> Run:
    return Run("diffusion-tta", problem="tiny", settings=TTA | settings)


def as_written(rows: list[Row]) -> list[tuple]:
    return [(*row.cell, row.score) for row in rows]


def one_process(wanted: Run, shifts=SHIFTS) -> list[tuple]:
    return as_written(evaluate(wanted, shifts, range(IMAGES), progress=False))


def _child(rank: int, count: int, port: int, path: Path, wanted: Run, shifts, before) -> None:
    """One process of `count`; its rows, or the sentence it ends with, go to a file."""
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count))
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="1")
    os.environ["OMP_NUM_THREADS"] = "1"  # or Accelerate gives each process its share of the cores, and sums round anew
    torch.set_num_threads(1)
    answer = path.with_name(f"answer-{rank}.json")
    before(rank)
    together = ranks.join()
    try:
        told = as_written(evaluate(wanted, shifts, range(IMAGES), path, progress=False, ranks=together))
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
    answer.write_text(json.dumps(told))
    if together:
        together.leave()
    os._exit(0)  # nothing of pytest's is cleaned up twice


def start(count: int, path: Path, wanted: Run, shifts=SHIFTS, before=lambda rank: None) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = [(rank, count, port, path, wanted, shifts, before) for rank in range(count)]
    processes = [FORK.Process(target=_child, args=each, daemon=True) for each in given]
    for process in processes:
        process.start()
    return processes


def answers(count: int, path: Path, *args, **options) -> list:
    """What each of the processes gave: rows, or a sentence."""
    for process in start(count, path, *args, **options):
        process.join(60)
        assert process.exitcode == 0
    told = [json.loads(path.with_name(f"answer-{rank}.json").read_text()) for rank in range(count)]
    return [[tuple(row) for row in each] if isinstance(each, list) else each for each in told]


def kept(path: Path) -> list[tuple]:
    """The rows in the one file that is left, in its order."""
    assert [p.name for p in path.parent.iterdir() if not p.name.startswith(("answer", "."))] == [path.name]
    return as_written([Row(**json.loads(line)) for line in path.read_text().splitlines()[1:]])


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_give_the_table_of_one(tmp_path, count):
    path, expected = tmp_path / "rows.jsonl", one_process(run())
    assert answers(count, path, run()) == [expected] * count
    assert kept(path) == expected


def test_streams_are_shared_whole(tmp_path):
    path, online = tmp_path / "rows.jsonl", run(episodic=False)
    expected = one_process(online)
    assert answers(2, path, online) == [expected] * 2
    assert kept(path) == expected


def test_a_slow_process_holds_up_nobody(tmp_path):
    """It gets as many images as it can do: here next to none."""

    def before(rank):
        original = module._Scorer.rows

        def rows(self, cells):
            if rank == 1:
                time.sleep(1.5)
            else:
                (tmp_path / "done-by-0").open("a").write("x")
            return original(self, cells)

        module._Scorer.rows = rows

    begun = time.monotonic()
    path = tmp_path / "work" / "rows.jsonl"
    path.parent.mkdir()
    assert answers(2, path, run(), before=before)[0] == one_process(run())
    assert time.monotonic() - begun < 6 * 1.5  # half of the images each would take nine seconds
    assert len((tmp_path / "done-by-0").read_text()) >= 2 * IMAGES - 3


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2), (3, 2)])
def test_it_goes_on_with_another_number_of_processes(tmp_path, first, then):
    path, expected = tmp_path / "rows.jsonl", one_process(run())
    answers(first, path, run(), SHIFTS[:1])
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    journal.file_of(path, 1).write_text(lines[0] + lines[5] + lines[6][:-9])  # and a row that was cut off
    journal.file_of(path, 7).write_text(lines[0][:20])  # a file that was not begun
    told = answers(then, path, run())
    assert told == [expected] * then
    assert sorted(kept(path)) == sorted(expected)


def test_killed_anywhere_twenty_times_the_rows_are_the_same(tmp_path):
    """By SIGKILL, at random moments and in random places of writing: between the bytes of a row, before it is safe,
    while files are put together. One to three processes at a time."""
    chance, expected, deaths, streams = Random(0), {}, 0, run(episodic=False)
    for wanted in (run(), streams):
        expected[wanted.online] = one_process(wanted)
    path = {online: tmp_path / str(online) / "rows.jsonl" for online in expected}

    def before_dying_in(place: str, after: int):
        """The process kills itself in the middle of the call number `after` of a function."""
        left = [after]

        def dying(function):
            def call(*args, **options):
                left[0] -= 1
                if left[0] == 0:
                    if place == "half":  # half of a row gets as far as the disk
                        with args[0].open("ab") as file:
                            file.write(journal._line(asdict(args[1]))[: chance.randrange(1, 40)])
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **options)

            return call

        def before(rank):
            if rank == victim:
                owner, name = {
                    "half": (journal, "append"), "fsync": (os, "fsync"), "unlink": (Path, "unlink"),
                    "replace": (Path, "replace"), "begin": (journal, "begin"),
                }[place]  # fmt: skip
                setattr(owner, name, dying(getattr(owner, name)))

        return before

    def on_disk(folder: Path) -> set[str]:
        whole = [line for file in folder.glob("rows*.jsonl") for line in file.read_text().split("\n")[1:-1]]
        return {json.dumps(json.loads(line) | {"seconds": 0}) for line in whole}

    places, launches = ["half", "fsync", "replace", "half", "unlink", "begin", None], 0
    while deaths < 20:
        launches += 1
        assert launches < 100
        wanted = (run(), streams)[launches % 2]
        here, count, place = path[wanted.online], chance.choice([1, 2, 2, 3]), chance.choice(places)
        victim = 0 if place in ("replace", "unlink") else chance.randrange(count)
        here.parent.mkdir(exist_ok=True)
        had = on_disk(here.parent)
        before = before_dying_in(place, chance.randrange(1, 4)) if place else (lambda rank: None)
        processes = start(count, here, wanted, before=before)
        if place is None:
            time.sleep(chance.uniform(0.02, 0.3))
            os.kill(processes[victim].pid, signal.SIGKILL)
        processes[victim].join(20)
        dead = processes[victim].exitcode == -signal.SIGKILL
        for process in processes:
            if dead:
                process.kill()  # as the launcher does with the others
            process.join(20)
        deaths += dead
        if not wanted.online:
            assert had <= on_disk(here.parent)  # nothing that was written is lost or changed
        if not dead:  # it got to the end; begin again
            assert sorted(kept(here)) == sorted(expected[wanted.online])
            for file in here.parent.iterdir():
                file.unlink()
    for online, rows in expected.items():
        wanted = streams if online else run()
        assert as_written(evaluate(wanted, SHIFTS, range(IMAGES), path[online], progress=False)) == rows
        assert sorted(kept(path[online])) == sorted(rows)


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_what_stops_one_process_stops_all_with_a_sentence(tmp_path):
    def before(rank):
        if rank == 1:
            journal.append = lambda path, row: (_ for _ in ()).throw(OSError(28, "the disk is full"))

    first, second = answers(2, tmp_path / "rows.jsonl", run(), before=before)
    assert first == "RankError: process 1 has stopped: [Errno 28] the disk is full"
    assert second == "OSError: [Errno 28] the disk is full"


def test_a_process_that_was_killed_where_no_launcher_watches_is_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "BEAT", 0.2)
    monkeypatch.setattr(ranks, "SILENT", 3)
    append = journal.append

    def before(rank):
        if rank == 1:
            journal.append = lambda path, row: append(path, row) or os.kill(os.getpid(), signal.SIGKILL)

    path, expected = tmp_path / "rows.jsonl", one_process(run())
    processes = start(2, path, run(), before=before)
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL]
    told = json.loads((tmp_path / "answer-0.json").read_text())
    assert told.startswith("RankError: process 1 has given no sign of life for 3 seconds; all rows are kept")
    assert answers(2, path, run()) == [expected] * 2
    assert kept(path) == expected


def test_files_of_something_else_are_refused_by_all(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("my notes\n")
    first, second = answers(2, path, run())
    assert first.startswith("ValueError: ") and "holds rows of another run" in first
    assert second.startswith("RankError: process 0 has stopped: ") and "holds rows of another run" in second
    assert path.read_text() == "my notes\n"


def test_when_the_first_process_is_gone_the_others_say_so(tmp_path):
    def before(rank):
        if rank == 0:
            journal.append = lambda path, row: os.kill(os.getpid(), signal.SIGKILL)

    first, second = start(2, tmp_path / "rows.jsonl", run(), before=before)
    second.join(30)
    assert first.exitcode == -signal.SIGKILL and second.exitcode == 0
    assert "the first process is gone; give the same command again" in (tmp_path / "answer-1.json").read_text()


def test_several_processes_need_a_place_for_their_rows():
    class Two:
        first, rank, count = True, 0, 2

    with pytest.raises(ValueError, match="need a folder for their rows"):
        evaluate(run(), SHIFTS, range(2), progress=False, ranks=Two())


def test_a_command_that_was_started_alone_is_alone(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert ranks.join() is None


def test_errors_between_processes_are_told_once():
    told = {}

    class Store:
        def set(self, key, value):
            told[key] = value

    together = object.__new__(ranks.Ranks)
    together.rank, together._store = 3, Store()
    with pytest.raises(ValueError, match="why"), together.failing():
        raise ValueError("why")
    assert told == {"failed": "process 3 has stopped: why"}
    with pytest.raises(RankError), together.failing():
        raise RankError("process 1 has stopped: who knows")
    assert told == {"failed": "process 3 has stopped: why"}


LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--nproc-per-node", "2", "--master-port"],
    # Without GPUs as with them: only "--multi_gpu" starts several processes on its own, and ours ask what is there.
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port"],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_command_under_a_launcher(launcher, tmp_path, capsys, monkeypatch):
    """The whole way: the shipped digits, the table of one process, told once."""
    monkeypatch.undo()
    command = ["evaluate", "--shift", "fog", "--images", "4", "--set", "steps=1", "--set", "samples=2"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script, out = tmp_path / "noted.py", tmp_path / "two"
    script.write_text(
        "import os, pathlib, runpy\n"
        "pathlib.Path(f\"{os.environ['RANK']}-of-{os.environ['WORLD_SIZE']}\").touch()\n"
        "runpy.run_module('dtta', run_name='__main__')\n"
    )
    name, *options = LAUNCHERS[launcher]
    call = [sys.executable, "-m", name, *options, str(port), str(script), *command, "--out", str(out)]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(call, cwd=tmp_path, env=quiet, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*-of-*")) == ["0-of-2", "1-of-2"]
    assert main([*command, "--workers", "1", "--out", str(tmp_path / "one")]) == 0

    def told(text):
        lines = text.splitlines()
        return [line for line in lines if "s per image" not in line and not line.startswith("summary")]

    assert told(done.stdout) == told(capsys.readouterr().out)
    assert done.stdout.count("\nfog") == 1

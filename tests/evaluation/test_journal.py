"""The file of rows: a run that was stopped continues, and no row is lost."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
from tiny_runs import ONLINE, SHIFTS, TTA, Stop, quiet, run, scores

from dtta.evaluation import journal


def test_files_of_older_versions_can_be_read(tmp_path):
    """Written before rows had sums, and before runs had `as_released`."""
    path = tmp_path / "rows.jsonl"
    rows = quiet(run("none", {}), SHIFTS, range(2), path=path)
    older = path.read_text(encoding="utf-8").replace(', "sums": {}', "").replace(', "as_released": false', "")
    assert "sums" not in older and "as_released" not in older
    path.write_text(older, encoding="utf-8")
    assert quiet(run("none", {}), SHIFTS, range(2), path=path) == rows
    assert path.read_text(encoding="utf-8") == older
    with pytest.raises(ValueError, match="holds rows of another run"):
        quiet(run("none", {}, as_released=True), SHIFTS, range(2), path=path)


def test_a_stopped_run_keeps_its_rows_and_goes_on(tmp_path, counted):
    path = tmp_path / "new" / "rows.jsonl"
    expected = scores(quiet(run(), SHIFTS, range(4)))
    counted.update(calls=[], stop=3)
    with pytest.raises(Stop):
        quiet(run(), SHIFTS, range(4), path=path)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + 3
    assert json.loads(lines[0])["method"] == "diffusion-tta"
    counted.update(calls=[], stop=None)
    rows = quiet(run(), SHIFTS, range(4), path=path)
    assert len(counted["calls"]) == 8 - 3
    assert scores(rows) == expected
    assert len(path.read_text(encoding="utf-8").splitlines()) == 9
    counted.update(calls=[])
    assert quiet(run(), SHIFTS, range(4), path=path) == rows
    assert not counted["calls"]
    assert [r.index for r in quiet(run(), [("fog", 2)], [2, 1], path=path)] == [2, 1]  # a part of it, in this order
    assert not counted["calls"]
    more = quiet(run(), SHIFTS, range(5), path=path)
    assert len(counted["calls"]) == 2
    assert len(more) == 10


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_off_is_done_again(tmp_path, counted, cut):
    path = tmp_path / "rows.jsonl"
    rows = quiet(run(), SHIFTS, range(3), path=path)
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[:-cut], encoding="utf-8")
    counted.update(calls=[])
    assert scores(quiet(run(), SHIFTS, range(3), path=path)) == scores(rows)
    assert counted["calls"] == [("fog", 2, 2)]
    assert len(path.read_text(encoding="utf-8").splitlines()) == len(whole.splitlines())
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def test_a_file_cut_off_in_its_first_line_starts_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    quiet(run("none", {}), SHIFTS, range(2), path=path)
    whole = path.read_text(encoding="utf-8")
    for text in ("", whole[:10]):
        path.write_text(text, encoding="utf-8")
        quiet(run("none", {}), SHIFTS, range(2), path=path)
        assert path.read_text(encoding="utf-8").splitlines()[0] == whole.splitlines()[0]
        assert len(path.read_text(encoding="utf-8").splitlines()) == 5


def test_the_temporary_file_of_a_killed_command_is_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = quiet(run("none", {}), SHIFTS, range(2), path=path)
    path.with_name("rows.part").write_bytes(path.read_bytes()[:100])
    assert quiet(run("none", {}), SHIFTS, range(2), path=path) == rows
    assert not path.with_name("rows.part").exists()


@pytest.mark.parametrize("where", ["middle", "not text", "another kind"])
def test_a_damaged_row_is_named_and_nothing_is_lost(tmp_path, where):
    path = tmp_path / "rows.jsonl"
    rows = quiet(run(), SHIFTS, range(3), path=path)
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = {"middle": lines[2][:20] + b"\n", "not text": b"\xff\xfe\x00\n", "another kind": b'{"a": 1}\n'}[where]
    path.write_bytes(b"".join([*lines[:2], damaged, *lines[3:]]))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3, is damaged; delete this line, and its image is"):
        quiet(run(), SHIFTS, range(3), path=path)
    assert path.read_bytes() == before
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))  # as the message says
    assert scores(quiet(run(), SHIFTS, range(3), path=path)) == scores(rows)


def test_rows_of_two_runs_in_one_file_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    quiet(run(), SHIFTS, [0], path=path)
    before = path.read_bytes()
    path.write_bytes(before + before.replace(b'"seed": 0', b'"seed": 1'))
    with pytest.raises(ValueError, match=rf"rows.jsonl, line {before.count(10) + 1}, begins another run; delete it"):
        quiet(run(), SHIFTS, [0], path=path)


def test_a_full_disk_gets_a_sentence_and_loses_nothing(tmp_path):
    """The system's own limit on a file's size, in the middle of a row."""
    path = tmp_path / "rows.jsonl"
    expected = scores(quiet(run(), SHIFTS, range(3), path=tmp_path / "whole.jsonl"))
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    limit = sum(map(len, lines[:4])) + 30

    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        try:
            quiet(run(), SHIFTS, range(3), path=path)
        except OSError as error:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            (tmp_path / "message").write_text(error.strerror, encoding="utf-8")
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    message = (tmp_path / "message").read_text(encoding="utf-8")
    assert (
        message.startswith(f"cannot write {path}: ") and "All rows before this one are kept: make room, then" in message
    )
    assert len(path.read_bytes().splitlines()) == 4 and path.read_bytes().endswith(b"\n")  # and no half row
    assert scores(quiet(run(), SHIFTS, range(3), path=path)) == expected


@pytest.mark.parametrize("call", ["begin", "append", "write"])
def test_no_space_left_in_any_place(tmp_path, monkeypatch, call):
    """The error of a full disk, wherever it is raised: one sentence, and the file is unchanged."""
    path, online = tmp_path / "rows.jsonl", run(settings=ONLINE)
    if call != "begin":
        quiet(online, SHIFTS[:1], range(2), path=path)
    before = path.read_bytes() if path.exists() else b""

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "begin":
            patch.setattr(Path, "write_bytes", full)
        else:
            patch.setattr(os, "fsync", full)
        images = range(3 if call == "write" else 2)  # a longer stream starts again, and the file is replaced
        with pytest.raises(OSError, match=r"the disk is full\. All rows before this one are kept: make room, then"):
            quiet(online, SHIFTS, images, path=path)
    assert (path.read_bytes() if path.exists() else b"") == before
    assert not list(tmp_path.glob("*.part"))
    assert scores(quiet(online, SHIFTS, images, path=path)) == scores(quiet(online, SHIFTS, images))


def test_two_commands_do_not_write_one_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    with journal.lock(path), pytest.raises(ValueError, match=r"another command is writing .*; wait for it, or choose"):
        quiet(run(), SHIFTS, [0], path=path)
    assert not path.exists()
    assert len(quiet(run(), SHIFTS, [0], path=path)) == 2


@pytest.mark.parametrize("other", [
    run(seed=1), run(split="validation"), run(settings=TTA | dict(lr=0.1)), run("none", {}), run(diffusion="dit"),
])  # fmt: skip
def test_a_file_of_another_run_is_refused_and_left_alone(tmp_path, other):
    path = tmp_path / "rows.jsonl"
    quiet(run(), SHIFTS, [0], path=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="holds rows of another run; choose another file or delete it"):
        quiet(other, SHIFTS, [0], path=path)
    assert path.read_bytes() == before


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n", encoding="utf-8")
    with pytest.raises(ValueError, match="holds rows of another run"):
        quiet(run(), SHIFTS, [0], path=path)
    assert path.read_text(encoding="utf-8") == "my notes\n"


def test_rows_of_another_run_can_be_set_aside(tmp_path):
    """Files of all processes, repeatedly, and none of the run itself, even if cut off in its first line."""
    path, other = tmp_path / "rows.jsonl", run(seed=1)
    assert journal.archive(path, run()) == []
    quiet(run(), SHIFTS, [0], path=path)
    before = path.read_bytes()
    journal.create(journal.file_of(path, 1), run())
    assert journal.archive(path, run()) == []
    with journal.lock(path), pytest.raises(ValueError, match="another command is writing"):
        journal.archive(path, other)
    moved = journal.archive(path, other)
    assert [p.name for p in moved] == ["rows.jsonl.before1", "rows.rank1.jsonl.before1"]
    assert moved[0].read_bytes() == before and sorted(tmp_path.iterdir()) == sorted(moved)
    assert len(quiet(other, SHIFTS, [0], path=path)) == 2
    assert [p.name for p in journal.archive(path, run())] == ["rows.jsonl.before2"]
    path.write_bytes(before.partition(b"\n")[0])  # cut off in the first line, as a full disk leaves it
    assert journal.archive(path, run()) == [] and path.exists()
    assert [p.name for p in journal.archive(path, other)] == ["rows.jsonl.before3"]

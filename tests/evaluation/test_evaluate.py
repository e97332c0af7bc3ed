"""Evaluation: rows that depend on nothing but the image, runs that go on after a stop, paired intervals."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import resource
import signal
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtta.evaluation import evaluate as module
from dtta.evaluation import journal
from dtta.evaluation.evaluate import evaluate, image_generator
from dtta.evaluation.run import Row, Run, spread
from dtta.evaluation.statistics import bootstrap_interval, paired_gain, value
from dtta.methods.registry import build
from dtta.problems import PROBLEMS
from dtta.problems import module as module_of
from dtta.problems.metrics import DEPTH_METRICS, segmentation_metrics

SHIFTS = [("clean", 3), ("fog", 2)]
TTA = dict(steps=1, samples=4, lr=0.5)


@pytest.fixture(autouse=True)
def tiny_problem(monkeypatch):
    """The name "tiny" stands for a problem of random models, the true class's probability as its score."""

    def load(name, network=None, diffusion=None, classes=None):
        if name.startswith("tiny-"):
            return tiny.dense_problem(name.removeprefix("tiny-"))
        assert name == "tiny"
        problem = tiny.problem(diffusion or "unet")
        object.__setattr__(problem, "score", lambda output, label: output.softmax(1)[0, label].item())
        return problem

    monkeypatch.setattr(module, "load", load)


def run(method="diffusion-tta", settings=TTA, **options) -> Run:
    return Run(method, problem="tiny", settings=settings, **options)


def quiet(*args, **options) -> list[Row]:
    return evaluate(*args, progress=False, **options)


def scores(rows: list[Row]) -> dict:
    return {(r.shift, r.severity, r.index): r.score for r in rows}


# --- rows ------------------------------------------------------------------------------------------------


def test_a_row_is_the_method_on_the_image():
    """Against the same thing done by hand."""
    rows = quiet(run(seed=5), SHIFTS, [4, 2])
    assert [(r.shift, r.severity, r.index) for r in rows] == [
        ("clean", 3, 4), ("clean", 3, 2), ("fog", 2, 4), ("fog", 2, 2),
    ]  # fmt: skip
    for row in rows:
        problem = tiny.problem()
        image, label = problem.image(row.index, row.shift, row.severity, "test", seed=5)
        output = build(problem, "diffusion-tta", **TTA)(image, image_generator(5, row.index))
        assert row.score == output.softmax(1)[0, label].item()
        assert row.seconds >= 0


def test_rows_do_not_depend_on_the_order_or_on_the_others():
    forth = scores(quiet(run(), SHIFTS, range(4)))
    back = scores(quiet(run(), SHIFTS[::-1], [3, 2, 1, 0]))
    assert forth == back
    assert len(set(forth.values())) == 8
    alone = scores(quiet(run(), [("fog", 2)], [3]))
    assert alone["fog", 2, 3] == forth["fog", 2, 3]


def test_images_may_come_from_an_iterator():
    rows = quiet(run("none", {}), iter(SHIFTS), iter(range(3)))
    assert len(rows) == 6


def test_each_shift_may_have_images_of_its_own():
    images = {"clean": iter([0, 3]), "fog": [2], "blur": [1]}
    rows = quiet(run(), [*SHIFTS, ("fog", 4)], images)
    assert [(r.shift, r.severity, r.index) for r in rows] == [
        ("clean", 3, 0), ("clean", 3, 3), ("fog", 2, 2), ("fog", 4, 2),
    ]  # fmt: skip
    assert scores(rows).items() <= scores(quiet(run(), [*SHIFTS, ("fog", 4)], range(4))).items()
    with pytest.raises(ValueError, match="no images are given for fog"):
        quiet(run(), SHIFTS, {"clean": [0]})


@given(st.integers(1, 15), st.integers(1, 40), st.integers(0, 40))
def test_spread_images_differ_within_a_shift_and_cover_all(shifts, count, more):
    total, names = count + more, [f"shift {k}" for k in range(shifts)]
    images = spread(names, count, total)
    assert list(images) == names
    for numbers in images.values():
        assert len(set(numbers)) == len(numbers) == count
        assert all(0 <= i < total for i in numbers)
    gap = -(-total // shifts)  # no two shifts start farther apart
    if count >= gap:
        assert set().union(*images.values()) == set(range(total))


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_rows_keep_the_sums_that_the_metrics_need(tmp_path, task):
    """In memory, on disk and after a stop: those of the method's answer."""
    path, problem = tmp_path / "rows.jsonl", tiny.dense_problem(task)
    dense = Run("none", problem=f"tiny-{task}")
    rows = quiet(dense, SHIFTS, range(3), path=path)
    for row in rows:
        image, truth = problem.image(row.index, row.shift, row.severity)
        with torch.no_grad():
            output = problem.model(image)
        assert row.sums == problem.sums(output, truth)
        assert row.score == problem.score(output, truth)
        assert row.sums
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    again = quiet(dense, SHIFTS, range(3), path=path)
    assert [r.sums for r in again] == [r.sums for r in rows]
    assert [Row(**json.loads(line)).sums for line in path.read_text().splitlines()[1:]] == [r.sums for r in rows]


def test_rows_written_before_there_were_sums_can_be_read(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = quiet(run("none", {}), SHIFTS, range(2), path=path)
    path.write_text(path.read_text().replace(', "sums": {}', ""))
    assert "sums" not in path.read_text()
    assert quiet(run("none", {}), SHIFTS, range(2), path=path) == rows


def test_seed_split_and_diffusion_model_are_used():
    cells = [("gaussian_noise", 3)], range(3)
    first = scores(quiet(run(), *cells))
    for other in (run(seed=1), run(split="validation"), run(diffusion="dit")):
        assert all(first[k] != v for k, v in scores(quiet(other, *cells)).items())


def test_generators_belong_to_image_and_seed():
    def first(seed, index):
        return torch.rand((), generator=image_generator(seed, index)).item()

    assert first(0, 1) == first(0, 1)
    assert len({first(s, i) for s in range(5) for i in range(5)}) == 25


@pytest.mark.parametrize(("what", "message"), [
    (dict(method="magic"), "unknown method"),
    (dict(settings=dict(rate=1)), "has no setting 'rate'"),
    (dict(split="holdout"), "holdout"),
])  # fmt: skip
def test_unknown_names(what, message):
    with pytest.raises((ValueError, KeyError), match=message):
        quiet(run(**what), SHIFTS, [0])


@pytest.mark.parametrize(("shifts", "images"), [([], [0]), (SHIFTS, [])])
def test_nothing_to_do_is_an_error(shifts, images):
    with pytest.raises(ValueError, match="nothing to evaluate"):
        quiet(run("none", {}), shifts, images)


@pytest.mark.parametrize(("shifts", "images", "error", "message"), [
    ([("snow", 3)], [0], ValueError, "unknown shift 'snow'"),
    ([("fog", 9)], [0], ValueError, "severity must be"),
    ([("fog", 3)], [12], IndexError, "images 0 to 11, not 12"),
    ([("fog", 3)], [-1], IndexError, "images 0 to 11, not -1"),
])  # fmt: skip
def test_unknown_cells(shifts, images, error, message):
    with pytest.raises(error, match=message):
        quiet(run("none", {}), shifts, images)


# --- stopping and going on --------------------------------------------------------------------------------


class Stop(Exception):
    pass


@pytest.fixture
def counted(monkeypatch):
    """Counts scored cells; raises at cell number `stop`."""
    state = {"calls": [], "stop": None}
    original = module._Scorer.rows

    def score(self, cells):
        if len(state["calls"]) == state["stop"]:
            raise Stop
        state["calls"] += cells
        return original(self, cells)

    monkeypatch.setattr(module._Scorer, "rows", score)
    return state


def test_a_stopped_run_keeps_its_rows_and_goes_on(tmp_path, counted):
    path = tmp_path / "new" / "rows.jsonl"
    expected = scores(quiet(run(), SHIFTS, range(4)))
    counted.update(calls=[], stop=3)
    with pytest.raises(Stop):
        quiet(run(), SHIFTS, range(4), path=path)
    lines = path.read_text().splitlines()
    assert len(lines) == 1 + 3
    assert json.loads(lines[0])["method"] == "diffusion-tta"
    counted.update(calls=[], stop=None)
    rows = quiet(run(), SHIFTS, range(4), path=path)
    assert len(counted["calls"]) == 8 - 3
    assert scores(rows) == expected
    assert len(path.read_text().splitlines()) == 9
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
    whole = path.read_text()
    path.write_text(whole[:-cut])
    counted.update(calls=[])
    assert scores(quiet(run(), SHIFTS, range(3), path=path)) == scores(rows)
    assert counted["calls"] == [("fog", 2, 2)]
    assert len(path.read_text().splitlines()) == len(whole.splitlines())
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_a_file_cut_off_in_its_first_line_starts_again(tmp_path):
    path = tmp_path / "rows.jsonl"
    quiet(run("none", {}), SHIFTS, range(2), path=path)
    whole = path.read_text()
    for text in ("", whole[:10]):
        path.write_text(text)
        quiet(run("none", {}), SHIFTS, range(2), path=path)
        assert path.read_text().splitlines()[0] == whole.splitlines()[0]
        assert len(path.read_text().splitlines()) == 5


def test_what_a_killed_command_had_not_put_in_place_is_taken_away(tmp_path):
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
    with pytest.raises(ValueError, match=r"rows.jsonl, line 3, is damaged; delete this line, and its image is done"):
        quiet(run(), SHIFTS, range(3), path=path)
    assert path.read_bytes() == before
    path.write_bytes(b"".join([*lines[:2], *lines[3:]]))  # as told
    assert scores(quiet(run(), SHIFTS, range(3), path=path)) == scores(rows)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path):
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
            (tmp_path / "told").write_text(error.strerror)
        os._exit(0)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    told = (tmp_path / "told").read_text()
    assert told.startswith(f"cannot write {path}: ") and "All rows before this one are kept: make room, then" in told
    assert len(path.read_bytes().splitlines()) == 4 and path.read_bytes().endswith(b"\n")  # and no half row
    assert scores(quiet(run(), SHIFTS, range(3), path=path)) == expected


@pytest.mark.parametrize("call", ["begin", "append", "write"])
def test_no_space_left_in_any_place(tmp_path, monkeypatch, call):
    """The error of a full disk, wherever it comes: a sentence, and what was there is there."""
    path, online = tmp_path / "rows.jsonl", run(settings=TTA | dict(episodic=False))
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
        wanted = range(3 if call == "write" else 2)  # a longer stream begins anew: the file is written anew
        with pytest.raises(OSError, match=r"the disk is full\. All rows before this one are kept: make room, then"):
            quiet(online, SHIFTS, wanted, path=path)
    assert (path.read_bytes() if path.exists() else b"") == before
    assert not list(tmp_path.glob("*.part"))
    assert scores(quiet(online, SHIFTS, wanted, path=path)) == scores(quiet(online, SHIFTS, wanted))


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
    path.write_text("my notes\n")
    with pytest.raises(ValueError, match="holds rows of another run"):
        quiet(run(), SHIFTS, [0], path=path)
    assert path.read_text() == "my notes\n"


def test_rows_of_another_run_can_be_set_aside(tmp_path):
    """Of all processes, as often as it takes, and nothing of the run itself, begun or cut off in its first line."""
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


def test_a_stream_is_one_shift():
    """Weights are carried from image to image, and each shift starts from the original ones."""
    online = run(settings=TTA | dict(episodic=False))
    together = quiet(online, SHIFTS, range(3))
    assert scores(together) == {k: v for shift in SHIFTS for k, v in scores(quiet(online, [shift], range(3))).items()}
    for row, alone in zip(together, quiet(run(), SHIFTS, range(3)), strict=True):
        assert (row.score == alone.score) is (row.index == 0)
    assert scores(quiet(online, SHIFTS, [2, 1, 0])) != scores(together)


@pytest.mark.parametrize("episodic", [True, False])
def test_batches_are_adapted_to_at_once(episodic):
    """Against the same thing done by hand; the last batch is smaller."""
    settings = TTA | dict(episodic=episodic)
    rows = quiet(run(settings=settings, batch=2), SHIFTS, range(3))
    for shift, severity in SHIFTS:
        problem = tiny.problem()
        method = build(problem, "diffusion-tta", **settings)
        pairs = [problem.image(i, shift, severity) for i in range(3)]
        outputs = [
            *method(torch.cat([pairs[0][0], pairs[1][0]]), image_generator(0, 0)).split(1),
            method(pairs[2][0], image_generator(0, 2)),
        ]
        expected = [y.softmax(1)[0, label].item() for y, (_, label) in zip(outputs, pairs, strict=True)]
        assert [r.score for r in rows if r.shift == shift] == expected
    with pytest.raises(ValueError, match="batch must be a whole number of at least 1, not 0"):
        run(batch=0)


def test_stored_batches_are_read_again_if_they_are_the_same(tmp_path, counted):
    path, batches = tmp_path / "rows.jsonl", run(batch=2)
    expected = scores(quiet(batches, SHIFTS, range(5), path=path))
    counted.update(calls=[])
    assert scores(quiet(batches, SHIFTS, range(5), path=path)) == expected
    assert len(quiet(batches, SHIFTS, range(4), path=path)) == 8
    assert not counted["calls"]
    with pytest.raises(ValueError, match="holds another stream"):
        quiet(batches, SHIFTS, range(3), path=path)


def test_some_methods_are_online_unless_told_otherwise():
    for method in ("cotta", "eata", "sar", "dusa"):
        assert Run(method).online and not Run(method, settings=dict(episodic=True)).online
    for method in ("diffusion-tta", "tent", "memo", "ttt-mae", "none", "batch-norm"):
        assert not Run(method).online
    assert Run("tent", settings=dict(episodic=False)).online


@pytest.mark.parametrize("problem", PROBLEMS)
def test_no_problem_says_what_is_online(problem):
    """It would not be known here."""
    settings = getattr(module_of(problem), "SETTINGS", {})
    assert not [name for name, chosen in settings.items() if "episodic" in chosen]


ONLINE = TTA | dict(episodic=False)


def by_hand(run: Run, parts: list[tuple[str, int, list[int]]], forgetting_images: list[int]) -> list[float]:
    """Scores of one stream: the parts' images adapted to in turn, after each part clean images that are not."""
    problem = module.load("tiny")
    method, found = build(problem, run.method, **run.settings), []
    for shift, severity, numbers in parts:
        for i in numbers:
            x, label = problem.image(i, shift, severity, seed=run.seed)
            found.append(problem.score(method(x, image_generator(run.seed, i)), label))
        for i in forgetting_images:
            x, label = problem.image(i)
            found.append(problem.score(method.model(x), label))
    return found


def test_weights_are_carried_through_a_stream_that_changes(forked):
    shifts = [*SHIFTS, ("fog", 4), ("contrast", 3)]
    orders = {}
    for seed in (0, 1, 2):
        changing = run(settings=ONLINE, stream="changing", seed=seed)
        rows = quiet(changing, shifts, range(2))
        assert [r.key[:3] for r in rows] == [(*shift, i) for shift in shifts for i in range(2)]  # as asked
        order = Random(seed).sample(shifts, len(shifts))
        expected = by_hand(changing, [(*shift, [0, 1]) for shift in order], [])
        assert [scores(rows)[(*shift, i)] for shift in order for i in range(2)] == pytest.approx(expected)
        assert scores(rows) != scores(quiet(replace(changing, stream="apart"), shifts, range(2)))
        assert scores(quiet(changing, shifts, range(2), workers=2)) == scores(rows)
        orders[seed] = tuple(order)
    assert len(set(orders.values())) > 1


def test_clean_images_are_answered_by_what_a_shift_has_left():
    recalling = run(settings=ONLINE, forgetting_images=2)
    problem = module.load("tiny")
    last = [problem.size("test") - 2, problem.size("test") - 1]
    rows = quiet(recalling, SHIFTS, range(3))
    wanted = [
        (name, s, i) for shift, s in SHIFTS for name, n in ((shift, range(3)), (f"after {shift}", last)) for i in n
    ]
    assert [r.key[:3] for r in rows] == wanted
    for k, shift in enumerate(SHIFTS):
        expected = by_hand(recalling, [(*shift, [0, 1, 2])], last)
        assert [r.score for r in rows[5 * k : 5 * k + 5]] == pytest.approx(expected)
    for method in ("tent", "none"):
        settings = dict(episodic=False, batch_statistics=False) if method == "tent" else {}
        rows = quiet(run(method, settings, forgetting_images=1), SHIFTS[:1], range(2))
        assert [r.shift for r in rows] == ["clean", "clean", "after clean"]
    with pytest.raises(ValueError, match="nothing to recall with"):
        quiet(run("diffusion-classifier", dict(samples=2), forgetting_images=1), SHIFTS, range(2))
    with pytest.raises(ValueError, match="are to be forgetting_images"):
        quiet(replace(recalling, forgetting_images=10**6), SHIFTS, range(2))


def test_a_stopped_stream_with_recalled_images_goes_on(tmp_path):
    recalling, path = run(settings=ONLINE, forgetting_images=2), tmp_path / "rows.jsonl"
    expected = scores(quiet(recalling, SHIFTS, range(3)))
    quiet(recalling, SHIFTS[:1], range(3), path=path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # one of those forgetting_images is missing
    assert scores(quiet(recalling, SHIFTS, range(3), path=path)) == expected
    assert scores(quiet(recalling, SHIFTS, range(3), path=path)) == expected


def test_images_sorted_by_class():
    problem = module.load("tiny")
    labels = {i: int(problem.image(i)[1]) for i in range(6)}
    order = sorted(range(6), key=labels.__getitem__)
    assert order != list(range(6))
    rows = quiet(run(settings=ONLINE, by_class=True), SHIFTS[1:], range(6))
    assert [r.index for r in rows] == order
    assert [r.score for r in rows] == pytest.approx(by_hand(run(settings=ONLINE), [("fog", 2, order)], []))


@pytest.mark.parametrize(
    "options",
    [
        dict(stream="river"),
        dict(forgetting_images=-1),
        dict(forgetting_images=1.5),
        dict(batch=0),
        dict(precision="half"),
    ],
)
def test_runs_that_cannot_be(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        run(**options)


def test_a_stopped_stream_starts_again(tmp_path, counted):
    """The weights that a stream had reached are not on disk, so it cannot go on; those before it are kept."""
    online = run(settings=TTA | dict(episodic=False))
    path = tmp_path / "rows.jsonl"
    expected = scores(quiet(online, SHIFTS, range(3)))
    counted.update(calls=[], stop=5)
    with pytest.raises(Stop):
        quiet(online, SHIFTS, range(3), path=path)
    assert len(path.read_text().splitlines()) > 4  # the second stream was begun
    counted.update(calls=[], stop=None)
    assert scores(quiet(online, SHIFTS, range(3), path=path)) == expected
    assert len(counted["calls"]) == 3
    assert len(path.read_text().splitlines()) == 7
    assert not list(tmp_path.glob("*.part"))
    counted.update(calls=[])
    assert scores(quiet(online, SHIFTS, range(3), path=path)) == expected
    assert len(quiet(online, SHIFTS[:1], range(2), path=path)) == 2  # a shorter stream is the beginning of a longer one
    assert not counted["calls"]
    with pytest.raises(ValueError, match="holds another stream"):
        quiet(online, SHIFTS, [2, 1, 0], path=path)
    assert len(path.read_text().splitlines()) == 7
    assert len(quiet(online, SHIFTS[1:], range(4), path=path)) == 4  # a longer one begins anew
    assert len(counted["calls"]) == 4


# --- processes --------------------------------------------------------------------------------------------


@pytest.fixture
def forked(monkeypatch):
    """Processes that inherit the tiny problem, instead of fresh ones that import everything for half a minute."""
    asked = []

    def get_context(kind):
        asked.append(kind)
        return fork

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(module.multiprocessing, "get_context", get_context)
    return asked


def test_two_processes_give_the_rows_of_one(tmp_path, forked):
    one = quiet(run(), SHIFTS, range(10))
    assert not forked
    path = tmp_path / "rows.jsonl"
    two = quiet(run(), SHIFTS, range(10), path=path, workers=2)
    assert forked == ["spawn"]  # forking a process that runs threads, or holds a GPU, can hang
    assert scores(two) == scores(one)
    assert [r.index for r in two] == [r.index for r in one]
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 21
    assert [Row(**line) for line in lines[1:]] == two
    assert pickle.loads(pickle.dumps(run())) == run()  # as it goes to a spawned process


def test_an_error_in_a_process_is_told_and_rows_before_it_stay(tmp_path, forked):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(IndexError, match="images 0 to 11, not 12"):
        quiet(run("none", {}), [("fog", 2)], range(13), path=path, workers=2)
    assert 1 < len(path.read_text().splitlines()) <= 13


def test_processes_share_whole_streams(forked):
    online = run(settings=TTA | dict(episodic=False))
    streams = [*SHIFTS, *((shift, 5) for shift, _ in SHIFTS)]
    assert scores(quiet(online, streams, range(3), workers=2)) == scores(quiet(online, streams, range(3)))
    assert forked


# --- intervals --------------------------------------------------------------------------------------------


def rows_of(values) -> list[Row]:
    return [Row("fog", 3, i, float(v), 0.0) for i, v in enumerate(values)]


def test_paired_gain_against_the_normal_approximation():
    """On 400 pairs the bootstrap interval is mean ± 1.96 standard errors of the differences."""
    rng = np.random.default_rng(0)
    before = rng.random(400) < 0.6
    after = before ^ (rng.random(400) < np.where(before, 0.05, 0.3))
    gain = paired_gain(rows_of(before), rows_of(after))
    difference = 100 * (after.astype(float) - before)
    error = 1.96 * difference.std(ddof=1) / 20
    assert gain["images"] == 400
    assert gain["before"] == pytest.approx(100 * before.mean())
    assert gain["after"] == pytest.approx(100 * after.mean())
    assert gain["gain"] == pytest.approx(difference.mean())
    assert gain["low"] == pytest.approx(difference.mean() - error, abs=0.3)
    assert gain["high"] == pytest.approx(difference.mean() + error, abs=0.3)
    swapped = paired_gain(rows_of(after), rows_of(before))
    assert swapped["gain"] == pytest.approx(-gain["gain"])
    assert gain == paired_gain(rows_of(before), rows_of(after))  # its chance is seeded


def test_pairing_is_what_makes_the_interval_narrow():
    """The same gain for every image leaves no doubt, however different the images are."""
    before = np.random.default_rng(0).random(50)
    gain = paired_gain(rows_of(before), rows_of(before + 0.1))
    assert gain["low"] == pytest.approx(10)
    assert gain["high"] == pytest.approx(10)


@pytest.mark.parametrize("other", [
    rows_of([1, 0]), rows_of([1, 0, 1])[::-1], [Row("fog", 2, i, 1.0, 0.0) for i in range(3)],
    [Row("blur", 3, i, 1.0, 0.0) for i in range(3)], [],
])  # fmt: skip
def test_other_images_are_not_paired(other):
    with pytest.raises(ValueError, match="the same images, in the same order"):
        paired_gain(rows_of([1, 0, 1]), other)


def test_nothing_is_not_paired():
    with pytest.raises(ValueError, match="the same images"):
        paired_gain([], [])


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """300 samples of 60 values of known mean: 95% of intervals should hold it (binomial error 1.3%)."""
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.exponential(2.0, 60), resamples=500)
        held += low < 2.0 < high
    assert 0.89 <= held / 300 <= 0.985


def test_the_interval_is_seeded_and_uses_its_resamples():
    values = np.random.default_rng(0).random(30)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values)
    assert bootstrap_interval(values, resamples=500) != bootstrap_interval(values)


def test_an_image_under_many_shifts_counts_as_one_image():
    """Four copies of each image's gain know no more than one: the interval must not shrink."""
    gains = np.random.default_rng(1).normal(size=40)
    once = bootstrap_interval(gains)
    copies = bootstrap_interval(np.tile(gains, 4), groups=np.tile(np.arange(40), 4))
    assert copies == pytest.approx(once)
    naive = bootstrap_interval(np.tile(gains, 4))
    assert naive[1] - naive[0] < 0.7 * (once[1] - once[0])


# --- metrics of a data set ---------------------------------------------------------------------------------

SEGMENTATION = segmentation_metrics(tuple("abc"))
MEAN_IOU = SEGMENTATION["mean IoU"]


def counts_of(seed: int, shifts: dict[str, list[int]]) -> list[Row]:
    """Random counts of three classes for each image."""
    rng, rows = np.random.default_rng(seed), []
    for shift, images in shifts.items():
        for i in images:
            sums = {}
            for name in "abc":
                both, missed, wrong = (float(n) for n in rng.integers(0, 30, 3))
                sums |= {f"true {name}": both + missed, f"called {name}": both + wrong, f"both {name}": both}
            rows.append(Row(shift, 3, i, 0.0, 0.0, sums))
    return rows


def errors_of(values, shift: str = "fog") -> list[Row]:
    return [Row(shift, 3, i, float(v), 0.0, {"SSIM": float(v)}) for i, v in enumerate(values)]


def pooled(rows: list[Row]) -> float:
    """Mean IoU of each shift, counted in plain loops, averaged over shifts."""
    values = []
    for shift in dict.fromkeys(r.shift for r in rows):
        own = [r.sums for r in rows if r.shift == shift]
        each = []
        for name in "abc":
            true, called, both = (sum(s[f"{part} {name}"] for s in own) for part in ("true", "called", "both"))
            each.append(100 * both / (true + called - both))
        values.append(sum(each) / 3)
    return sum(values) / len(values)


@given(st.integers(0, 1000))
def test_value_is_the_metric_of_each_shift_averaged_over_shifts(seed):
    rows = counts_of(seed, {"fog": [4, 1, 2], "blur": [1, 7]})
    assert value(rows, MEAN_IOU) == pytest.approx([pooled(rows)])
    assert value(rows[::-1], MEAN_IOU) == pytest.approx([pooled(rows)])
    severities = [replace(r, shift="fog", severity=1 + (r.shift == "blur")) for r in rows]
    assert value(severities, MEAN_IOU) == pytest.approx([pooled(rows)])  # a severity is a shift of its own


def test_a_weight_is_how_often_an_image_counts():
    rows = counts_of(0, {"fog": [4, 1, 2]})
    images, weight = np.array([1, 2, 4]), np.array([[1, 1, 1], [2, 0, 1]])
    expected = [pooled(rows), pooled([rows[0], rows[1], rows[1]])]
    assert value(rows, MEAN_IOU, images, weight) == pytest.approx(expected)


@given(st.integers(0, 1000))
def test_the_gain_in_a_metric_is_that_of_the_whole_data_set(seed):
    shifts = {"fog": [0, 1, 2, 3], "blur": [2, 3, 4]}
    before, after = counts_of(seed, shifts), counts_of(seed + 1, shifts)
    gain = paired_gain(before, after, MEAN_IOU)
    assert (gain["before"], gain["after"]) == pytest.approx((pooled(before), pooled(after)))
    assert gain["gain"] == pytest.approx(pooled(after) - pooled(before))
    assert gain["images"] == 7
    assert gain["low"] <= gain["high"]
    assert all(type(gain[name]) is float for name in ("before", "after", "gain", "low", "high"))
    assert gain == paired_gain(before, after, MEAN_IOU)


def test_the_same_gain_for_every_image_leaves_no_doubt():
    values = np.random.default_rng(0).random(50)
    gain = paired_gain(errors_of(values), errors_of(values + 0.1), DEPTH_METRICS["SSIM"])
    assert [gain[name] for name in ("gain", "low", "high")] == pytest.approx([10, 10, 10])
    same = counts_of(0, {"fog": list(range(9))})
    assert [paired_gain(same, same, MEAN_IOU)[name] for name in ("gain", "low", "high")] == [0, 0, 0]


def test_a_metric_that_is_a_mean_has_the_interval_of_the_mean():
    """Both ways to resample agree, to the chance of 2000 resamples."""
    rng = np.random.default_rng(3)
    before = rng.random(80)
    pair = errors_of(before), errors_of(before + rng.normal(0.1, 0.2, 80))
    mean, metric = paired_gain(*pair), paired_gain(*pair, DEPTH_METRICS["SSIM"])
    assert metric["gain"] == pytest.approx(mean["gain"])
    width = mean["high"] - mean["low"]
    assert metric["low"] == pytest.approx(mean["low"], abs=0.08 * width)
    assert metric["high"] == pytest.approx(mean["high"], abs=0.08 * width)
    assert metric["low"] < metric["gain"] < metric["high"]
    assert metric != paired_gain(*pair, DEPTH_METRICS["SSIM"], seed=1)
    assert metric != paired_gain(*pair, DEPTH_METRICS["SSIM"], resamples=500)


def test_images_under_several_shifts_are_resampled_together():
    """Four copies of each image know no more than one; as images of their own they would."""
    pair = [counts_of(seed, {"fog": list(range(30))}) for seed in (0, 1)]
    once = paired_gain(*pair, MEAN_IOU)
    copies = [[replace(r, shift=s) for s in ("fog", "blur", "jpeg", "shear") for r in rows] for rows in pair]
    together = paired_gain(*copies, MEAN_IOU)
    assert [together[k] for k in ("gain", "low", "high")] == pytest.approx([once[k] for k in ("gain", "low", "high")])
    apart = [[replace(r, index=i) for i, r in enumerate(rows)] for rows in copies]
    naive = paired_gain(*apart, MEAN_IOU)
    assert naive["high"] - naive["low"] < 0.7 * (once["high"] - once["low"])


def test_which_numbers_the_images_have_does_not_matter():
    """Only those that were evaluated are resampled, not the numbers between them."""
    pair = [counts_of(seed, {"fog": [0, 1, 2, 3, 4], "blur": [2, 3]}) for seed in (0, 1)]
    far = [[replace(r, index=7 + 40 * r.index) for r in rows] for rows in pair]
    assert paired_gain(*far, MEAN_IOU) == paired_gain(*pair, MEAN_IOU)


def test_a_resample_may_leave_a_shift_without_images():
    """Its mean is then over the other shifts, and nothing is said about it."""
    pair = [counts_of(seed, {"fog": [0], "blur": list(range(1, 8))}) for seed in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gain = paired_gain(*pair, MEAN_IOU)
        assert gain["gain"] == pytest.approx(pooled(pair[1]) - pooled(pair[0]))
        assert gain["low"] < gain["gain"] < gain["high"]
        without = value(pair[0], MEAN_IOU, np.arange(8), np.array([[0, 1, 1, 1, 1, 1, 1, 1]]))
        assert without == pytest.approx([pooled(pair[0][1:])])
        depth = [Row(s, 3, i, 0.0, 0.0, {"SSIM": 0.1 * i}) for s, i in (("fog", 0), ("blur", 1), ("blur", 2))]
        assert np.isfinite(list(paired_gain(depth, depth, DEPTH_METRICS["SSIM"]).values())).all()


def test_a_metric_of_something_that_no_image_shows_is_nan():
    rows = [replace(r, sums={k: 0.0 if k.endswith("c") else v for k, v in r.sums.items()}) for r in
            counts_of(0, {"fog": [0, 1], "blur": [1, 2]})]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gain = paired_gain(rows, rows, SEGMENTATION["IoU c"])
    assert all(np.isnan(gain[name]) for name in ("before", "after", "gain", "low", "high"))


# --- the shipped models -----------------------------------------------------------------------------------


def test_end_to_end_on_the_shipped_digits(monkeypatch):
    """With the package's own weights, through the front door: clean digits are right and stay right."""
    monkeypatch.undo()
    settings = dict(steps=2, samples=16, timesteps="stratified")
    before = quiet(Run("none"), [("clean", 3)], range(20))
    after = quiet(Run("diffusion-tta", settings=settings), [("clean", 3)], range(20))
    gain = paired_gain(before, after)
    assert gain["before"] >= 90
    assert gain["after"] >= 90

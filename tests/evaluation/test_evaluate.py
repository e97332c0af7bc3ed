"""Evaluation: a row depends only on its image, whatever else is evaluated and by how many processes."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import time

import psutil
import pytest
import tiny
import tiny_problems
import torch
from tiny_runs import ONLINE, SHIFTS, TTA, quiet, run, scores

from dtta.evaluation import evaluate as module
from dtta.evaluation import scorer
from dtta.evaluation.evaluate import image_generator
from dtta.evaluation.run import Row, Run
from dtta.evaluation.scorer import FastestNumber
from dtta.evaluation.statistics import paired_gain
from dtta.experiments.runner import workforce
from dtta.methods.registry import build
from dtta.methods.together import Together


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


@pytest.mark.parametrize(("method", "settings"), [
    ("diffusion-tta", TTA), ("diffusion-tta", ONLINE), ("tent", {}), ("tent", dict(batch_statistics=False)),
    ("none", {}), ("diffusion-tta", TTA | dict(ensemble=True)),
])  # fmt: skip
def test_rows_do_not_depend_on_the_number_of_images_adapted_together(method, settings, tmp_path, forked):
    """Nor do they after a stop, with several processes, or where the number is found by time."""
    expected = pytest.approx(scores(quiet(run(method, settings), SHIFTS, range(5))), abs=1e-5)
    assert scores(quiet(run(method, settings), SHIFTS, range(5), together=3)) == expected
    assert scores(quiet(run(method, settings), SHIFTS, range(5), together=None)) == expected
    path = tmp_path / "rows.jsonl"
    quiet(run(method, settings), SHIFTS, range(2), path, together=2)
    assert scores(quiet(run(method, settings), SHIFTS, range(5), path, workers=2, together=None)) == expected


def test_images_of_all_shifts_and_whole_streams_are_adapted_together(monkeypatch):
    sizes = []
    call = Together.__call__
    monkeypatch.setattr(Together, "__call__", lambda self, x, g: sizes.append(len(x)) or call(self, x, g))
    quiet(run(), SHIFTS, range(5), together=4)
    assert sizes == [4, 3, 3]  # ten images, nearly the same number each
    sizes.clear()
    quiet(run(settings=ONLINE), SHIFTS, range(3), together=4)
    assert sizes == [2, 2, 2]  # two streams of three
    sizes.clear()
    for streamed in (dict(stream="changing"), dict(batch=2)):
        quiet(run(settings=ONLINE, **streamed), SHIFTS, range(3), together=4)
    quiet(run(settings=ONLINE), SHIFTS, {"clean": range(3), "fog": range(2)}, together=4)
    assert sizes == [2, 2]  # streams of different lengths begin again, one by one


def test_the_fastest_number_of_images():
    """Twice as many as long as it takes less time for each; the first image is not timed."""
    search = FastestNumber(16)
    times = {1: 10.0, 2: 8.0, 4: 7.0, 8: 6.9, 16: 1.0}
    search.add(100.0)
    tried = []
    while not search.final:
        tried.append(search.number)
        search.add(times[search.number])
    assert (tried, search.number) == ([1, 2, 4, 8], 8)
    assert FastestNumber(1).final


def test_the_fastest_number_is_printed_and_so_is_why_images_are_adapted_one_by_one(capfd):
    evaluate = module.evaluate
    evaluate(run(), SHIFTS, range(12), together=None)
    assert "images at the same time, the fastest number" in capfd.readouterr().err
    evaluate(run("memo", {}), SHIFTS, range(2), together=None)
    assert "memo: one by one: MarginalEntropy takes one image at a time" in capfd.readouterr().err


def test_fewer_images_if_memory_runs_out(monkeypatch, capfd):
    sizes = []
    call = Together.__call__

    def limited(self, images, generators):
        sizes.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return call(self, images, generators)

    expected = pytest.approx(scores(quiet(run(), SHIFTS, range(5))), abs=1e-5)
    monkeypatch.setattr(Together, "__call__", limited)
    assert scores(module.evaluate(run(), SHIFTS, range(5), together=5)) == expected
    assert sizes == [5, 2, 2, 2, 2, 2]
    assert "2 images at the same time, for want of memory" in capfd.readouterr().err


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


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_rows_keep_the_sums_that_the_metrics_need(tmp_path, task):
    """In memory, on disk and after a stop: those of the method's answer."""
    path, problem = tmp_path / "rows.jsonl", tiny.dense_problem(task)
    dense = Run("none", problem=f"tiny_problems:{task}")
    rows = quiet(dense, SHIFTS, range(3), path=path)
    for row in rows:
        image, truth = problem.image(row.index, row.shift, row.severity)
        with torch.no_grad():
            output = problem.model(image)
        assert row.sums == problem.sums(output, truth)
        assert row.score == problem.score(output, truth)
        assert row.sums
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-2]), encoding="utf-8")
    again = quiet(dense, SHIFTS, range(3), path=path)
    assert [r.sums for r in again] == [r.sums for r in rows]
    assert [Row(**json.loads(line)).sums for line in path.read_text(encoding="utf-8").splitlines()[1:]] == [
        r.sums for r in rows
    ]


def test_seed_split_and_diffusion_model_are_used():
    cells = [("gaussian_noise", 3)], range(3)
    first = scores(quiet(run(), *cells))
    for other in (run(seed=1), run(split="validation"), run(diffusion="dit")):
        assert all(first[k] != v for k, v in scores(quiet(other, *cells)).items())


def test_models_as_released_are_requested_from_the_problem(monkeypatch):
    options = []

    def load(*names, **given):
        options.append(given)
        return tiny_problems.classification()

    monkeypatch.setattr(scorer, "load", load)
    for released in (False, True):
        quiet(run("none", {}, as_released=released), SHIFTS, [0])
    assert [given["as_released"] for given in options] == [False, True]


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


def test_two_processes_give_the_rows_of_one(tmp_path, forked):
    one = quiet(run(), SHIFTS, range(10))
    assert not forked
    path = tmp_path / "rows.jsonl"
    two = quiet(run(), SHIFTS, range(10), path=path, workers=2)
    assert forked == ["spawn"]  # forking a process that runs threads, or holds a GPU, can hang
    assert scores(two) == scores(one)
    assert [r.index for r in two] == [r.index for r in one]
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 21
    assert [Row(**line) for line in lines[1:]] == two
    assert pickle.loads(pickle.dumps(run())) == run()  # as it goes to a spawned process


@pytest.mark.parametrize("table", [False, True])
def test_workers_end_when_their_parent_is_killed(forked, tmp_path, table):
    endless = run(settings=TTA | dict(steps=10**7))

    def parent():
        if not table:
            quiet(endless, SHIFTS, range(10), workers=2)
        with workforce(2) as work:
            work([(endless, SHIFTS, range(10), tmp_path / f"{k}.jsonl") for k in range(2)], "endless")

    process = multiprocessing.get_context("fork").Process(target=parent)
    process.start()
    workers, deadline = [], time.monotonic() + 60
    while len(workers) < 2 and time.monotonic() < deadline:
        workers = psutil.Process(process.pid).children()
        time.sleep(0.1)
    process.kill()
    process.join()
    deadline = time.monotonic() + 30
    try:
        while (left := [w for w in workers if running(w)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert len(workers) == 2 and not left
    finally:
        for worker in filter(running, workers):
            worker.kill()


def running(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE  # what ended, although nobody has asked for its status
    except psutil.NoSuchProcess:
        return False


def test_an_error_in_a_process_is_told_and_rows_before_it_stay(tmp_path, forked):
    path = tmp_path / "rows.jsonl"
    with pytest.raises(IndexError, match="images 0 to 11, not 12"):
        quiet(run("none", {}), [("fog", 2)], range(13), path=path, workers=2)
    assert 1 < len(path.read_text(encoding="utf-8").splitlines()) <= 13


def test_end_to_end_on_the_shipped_digits():
    """With the package's own weights, through the front door: clean digits are right and stay right."""
    settings = dict(steps=2, samples=16, timesteps="stratified")
    before = quiet(Run("none"), [("clean", 3)], range(20))
    after = quiet(Run("diffusion-tta", settings=settings), [("clean", 3)], range(20))
    gain = paired_gain(before, after)
    assert gain["before"] >= 90
    assert gain["after"] >= 90

"""Evaluation: rows that depend on nothing but the image, runs that go on after a stop, paired intervals."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import numpy as np
import pytest
import tiny
import torch

from dtta import evaluate as module
from dtta.evaluate import Row, Run, bootstrap_interval, evaluate, image_generator, paired_gain
from dtta.methods import build

SHIFTS = [("clean", 3), ("fog", 2)]
TTA = dict(steps=1, samples=4, lr=0.5)


@pytest.fixture(autouse=True)
def tiny_problem(monkeypatch):
    """The name "tiny" stands for a problem of random models, the last class's probability as its score."""

    def load(name, network=None, diffusion=None):
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
    (dict(method="tent"), "unknown method"),
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
    original = module._Scorer.__call__

    def score(self, cell):
        if len(state["calls"]) == state["stop"]:
            raise Stop
        state["calls"].append(cell)
        return original(self, cell)

    monkeypatch.setattr(module._Scorer, "__call__", score)
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


def test_a_stopped_stream_starts_again(tmp_path, counted):
    """Online adaptation carries weights from image to image; those are not on disk, so it cannot go on."""
    online = run(settings=TTA | dict(episodic=False))
    path = tmp_path / "rows.jsonl"
    expected = scores(quiet(online, SHIFTS, range(3)))
    assert expected != scores(quiet(run(), SHIFTS, range(3)))
    counted.update(calls=[], stop=4)
    with pytest.raises(Stop):
        quiet(online, SHIFTS, range(3), path=path)
    counted.update(calls=[], stop=None)
    assert scores(quiet(online, SHIFTS, range(3), path=path)) == expected
    assert len(counted["calls"]) == 6
    assert len(path.read_text().splitlines()) == 7
    counted.update(calls=[])
    assert scores(quiet(online, SHIFTS, range(3), path=path)) == expected
    assert not counted["calls"]
    assert len(quiet(online, SHIFTS[:1], range(3), path=path)) == 3
    assert not counted["calls"]
    with pytest.raises(ValueError, match="holds another stream"):  # another order is another stream
        quiet(online, SHIFTS, [2, 1, 0], path=path)
    assert len(path.read_text().splitlines()) == 7
    assert scores(quiet(online, SHIFTS, [2, 1, 0])) != expected


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


def test_a_stream_takes_one_process(forked):
    online = run(settings=TTA | dict(episodic=False))
    assert scores(quiet(online, SHIFTS, range(3), workers=2)) == scores(quiet(online, SHIFTS, range(3)))
    assert not forked


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

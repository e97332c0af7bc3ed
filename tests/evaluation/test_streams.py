"""Online runs: parameters carried along streams, batches, forgetting."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest
import tiny
import tiny_problems
import torch
from tiny_runs import ONLINE, SHIFTS, TTA, Stop, quiet, run, scores

from dtta.evaluation.evaluate import image_generator
from dtta.evaluation.run import Run
from dtta.evaluation.statistics import paired_gain
from dtta.methods.registry import build


def test_a_stream_is_one_shift():
    """Weights are carried from image to image, and each shift starts from the original ones."""
    online = run(settings=ONLINE)
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
        assert Run(method, settings={}).online and not Run(method, settings=dict(episodic=True)).online
    for method in ("diffusion-tta", "tent", "memo", "ttt-mae", "none", "batch-norm"):
        assert not Run(method, settings={}).online
    assert Run("tent", settings=dict(episodic=False)).online
    with pytest.raises(ValueError, match=r"the settings are not known yet: see Run\.resolve"):
        assert Run("tent").online


def test_a_run_without_settings_has_the_problems_which_may_make_it_online(monkeypatch):
    """Given settings are all that differ from the method's defaults."""
    problem = tiny_problems.classification
    usual = {"diffusion-tta": ONLINE, "cotta": {"episodic": True}}
    monkeypatch.setattr(tiny_problems, "classification", lambda: replace(problem(), settings=usual))
    assert scores(quiet(run(settings=None), SHIFTS, range(3))) == scores(quiet(run(settings=ONLINE), SHIFTS, range(3)))
    assert not run("cotta", None).resolve(tiny_problems.classification()).online
    method = run(settings=dict(lr=0.25)).build(tiny_problems.classification())
    assert (method.steps, method.episodic, method.samples) == (5, True, 180)


def by_hand(run: Run, parts: list[tuple[str, int, list[int]]], forgetting_images: list[int]) -> list[float]:
    """Scores of one stream: the parts' images adapted to in turn, after each part clean images that are not."""
    problem = tiny_problems.classification()
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
    forgetting = run(settings=ONLINE, forgetting_images=2)
    problem = tiny_problems.classification()
    last = [problem.size("test") - 2, problem.size("test") - 1]
    rows = quiet(forgetting, SHIFTS, range(3))
    expected_keys = [
        (name, s, i) for shift, s in SHIFTS for name, n in ((shift, range(3)), (f"after {shift}", last)) for i in n
    ]
    assert [r.key[:3] for r in rows] == expected_keys
    for k, shift in enumerate(SHIFTS):
        expected = by_hand(forgetting, [(*shift, [0, 1, 2])], last)
        assert [r.score for r in rows[5 * k : 5 * k + 5]] == pytest.approx(expected)
    for method in ("tent", "none"):
        settings = dict(episodic=False, batch_statistics=False) if method == "tent" else {}
        rows = quiet(run(method, settings, forgetting_images=1), SHIFTS[:1], range(2))
        assert [r.shift for r in rows] == ["clean", "clean", "after clean"]
    with pytest.raises(ValueError, match="carries nothing from image to image"):
        quiet(run("diffusion-classifier", dict(samples=2), forgetting_images=1), SHIFTS, range(2))
    with pytest.raises(ValueError, match="has only 12 images for 1000000 forgetting_images"):
        quiet(replace(forgetting, forgetting_images=10**6), SHIFTS, range(2))


def test_images_of_the_shift_are_answered_by_what_a_stream_of_it_has_left():
    kept = run(settings=ONLINE, forgetting_images=2, retention=True)
    problem = tiny_problems.classification()
    last = [problem.size("test") - 2, problem.size("test") - 1]
    rows = quiet(kept, SHIFTS, range(3))
    for k, (shift, severity) in enumerate(SHIFTS):
        method = build(problem, kept.method, **kept.settings)
        method.reset()
        for i in range(3):
            method(problem.image(i, shift, severity)[0], image_generator(0, i))
        pairs = [problem.image(i, shift, severity) for i in last]
        expected = [problem.score(method.predict(x), label) for x, label in pairs]
        part = rows[7 * k : 7 * k + 7]
        assert [r.shift for r in part] == [shift] * 3 + [f"after {shift}"] * 2 + [f"after {shift}, shifted"] * 2
        assert [r.score for r in part[5:]] == pytest.approx(expected)
        method.reset()
    assert scores(quiet(replace(kept, retention=False), SHIFTS, range(3))).items() <= scores(rows).items()


def test_a_stopped_stream_with_forgetting_images_goes_on(tmp_path):
    forgetting, path = run(settings=ONLINE, forgetting_images=2, retention=True), tmp_path / "rows.jsonl"
    expected = scores(quiet(forgetting, SHIFTS, range(3)))
    quiet(forgetting, SHIFTS[:1], range(3), path=path)
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(lines[:-1]), encoding="utf-8")  # one of the forgetting images is missing
    assert scores(quiet(forgetting, SHIFTS, range(3), path=path)) == expected
    assert scores(quiet(forgetting, SHIFTS, range(3), path=path)) == expected


def test_images_sorted_by_class():
    problem = tiny_problems.classification()
    labels = {i: int(problem.image(i)[1]) for i in range(6)}
    order = sorted(range(6), key=labels.__getitem__)
    assert order != list(range(6))
    rows = quiet(run(settings=ONLINE, by_class=True), SHIFTS[1:], range(6))
    assert [r.index for r in rows] == order
    assert [r.score for r in rows] == pytest.approx(by_hand(run(settings=ONLINE), [("fog", 2, order)], []))


def test_images_shuffled_with_the_seed(tmp_path, forked, counted):
    """The same order for every method, stream and process; another one for another seed; a stopped run goes on."""
    orders = {}
    for seed in (0, 1):
        online = run(settings=ONLINE, shuffle=True, seed=seed)
        orders[seed] = Random(seed).sample(range(6), 6)
        streams = [*SHIFTS, ("clean", 5), ("fog", 5)]
        rows = quiet(online, streams, range(6))
        assert [r.index for r in rows] == orders[seed] * 4 != [*range(6)] * 4
        expected = by_hand(run(settings=ONLINE, seed=seed), [("fog", 2, orders[seed])], [])
        assert [r.score for r in rows[6:12]] == pytest.approx(expected)
        before = quiet(run("none", {}, shuffle=True, seed=seed), streams, range(6))
        assert paired_gain(before, rows)["images"] == 24
        assert scores(quiet(online, streams, range(6), workers=2)) == scores(rows)
    assert orders[0] != orders[1] and forked
    path, counted["stop"] = tmp_path / "rows.jsonl", len(counted["calls"]) + 8
    with pytest.raises(Stop):
        quiet(online, streams, range(6), path=path)
    counted["stop"] = None
    assert scores(quiet(online, streams, range(6), path=path)) == scores(rows)
    batches = quiet(run(batch=4, shuffle=True), SHIFTS[:1], range(6))
    assert [r.index for r in batches] == orders[0]
    with pytest.raises(ValueError, match="by_class sorts the images and shuffle mixes them; choose one"):
        run(by_class=True, shuffle=True)


def test_a_stopped_stream_starts_again(tmp_path, counted):
    """The weights that a stream had reached are not on disk, so it cannot go on; those before it are kept."""
    online = run(settings=ONLINE)
    path = tmp_path / "rows.jsonl"
    expected = scores(quiet(online, SHIFTS, range(3)))
    counted.update(calls=[], stop=5)
    with pytest.raises(Stop):
        quiet(online, SHIFTS, range(3), path=path)
    assert len(path.read_text(encoding="utf-8").splitlines()) > 4  # the second stream was begun
    counted.update(calls=[], stop=None)
    assert scores(quiet(online, SHIFTS, range(3), path=path)) == expected
    assert len(counted["calls"]) == 3
    assert len(path.read_text(encoding="utf-8").splitlines()) == 7
    assert not list(tmp_path.glob("*.part"))
    counted.update(calls=[])
    assert scores(quiet(online, SHIFTS, range(3), path=path)) == expected
    assert len(quiet(online, SHIFTS[:1], range(2), path=path)) == 2  # a shorter stream is the beginning of a longer one
    assert not counted["calls"]
    with pytest.raises(ValueError, match="holds another stream"):
        quiet(online, SHIFTS, [2, 1, 0], path=path)
    assert len(path.read_text(encoding="utf-8").splitlines()) == 7
    assert len(quiet(online, SHIFTS[1:], range(4), path=path)) == 4  # a longer one begins anew
    assert len(counted["calls"]) == 4


def test_processes_share_whole_streams(forked):
    online = run(settings=ONLINE)
    streams = [*SHIFTS, *((shift, 5) for shift, _ in SHIFTS)]
    assert scores(quiet(online, streams, range(3), workers=2)) == scores(quiet(online, streams, range(3)))
    assert forked

"""The comparison of images at once with one by one: it times what it says, and its sample of runs is representative."""

from __future__ import annotations

import time
from collections import Counter

import pytest
import tiny

from dtta.experiments import spec, speed, stored


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_the_ratio_is_that_of_the_work():
    ratio = speed.compare(lambda: busy(0.02), lambda: busy(0.01), images=2, repeats=3)
    assert ratio.ratio == pytest.approx(0.5, rel=0.2)
    assert ratio.one_by_one == pytest.approx(0.01, rel=0.2)


def test_both_parts_are_timed_on_all_images(monkeypatch):
    problem = tiny.problem()
    evaluated = []
    loss = problem.diffusion.loss
    monkeypatch.setattr(problem.diffusion, "loss", lambda z0, *rest: evaluated.append(len(z0)) or loss(z0, *rest))
    ratios = speed.bench_together(problem, samples=6, images=4, repeats=1)
    assert len(ratios) == 2 and all(ratio.one_by_one > 0 and ratio.together > 0 for ratio in ratios)
    assert Counter(evaluated) == {6: 12, 24: 3}  # the first time not timed


def test_runs_are_sampled_in_proportion_to_their_seconds():
    count = 60
    total = sum(sum(stored.seconds(table).values()) for table in spec.names())
    sampled = list(speed.sampled_runs(count))
    assert len(sampled) == count
    for (table, name), times in Counter((table, name) for table, name, *_ in sampled).items():
        assert abs(times - count * stored.seconds(table)[name] / total) < 1
    assert all(shifts and run == stored.runs(table)[name] for table, name, run, shifts in sampled)


def test_the_rows_of_a_stored_run_are_timed(monkeypatch):
    run = stored.runs("loss")["1 sample"]
    loss = "loss", "1 sample", run, ("contrast",)
    monkeypatch.setattr(speed, "sampled_runs", lambda count: [loss][:count])
    [(table, name, ratio)] = speed.bench_results(1, images=3, repeats=1)
    assert (table, name) == loss[:2] and ratio.ratio > 0

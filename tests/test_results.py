"""What is stored: runs that are what the tables' files say, settings that did best, scores that a run gives again."""

from __future__ import annotations

import pytest

import dtta
from dtta import stored, tables
from dtta.evaluate import AFTER, evaluate
from dtta.problems import module

SCENES = ("scenes-segmentation", "scenes-depth", "scenes-clip")


@pytest.mark.parametrize("name", tables.names())
def test_a_stored_table_is_what_its_file_says(name):
    table = tables.read(name)
    grids = any(entry.grid for entry in table.entries.values())
    tried, runs, settings = stored.tried(table.name) if grids else [], {}, []
    for name, entry in table.entries.items():
        run = tables.start(table, name, runs)
        settings += [(name, run.method, run.settings | own) for own in entry.grid]
        runs[name] = tables.best(run, [row for row in tried if row["run"] == name])
    assert [(row["run"], row["method"], row["settings"]) for row in tried] == settings
    assert list(stored.names(table.name).items()) == list(runs.items())
    against = {name: e.against for name, e in table.entries.items() if e.run.method != "none"}
    assert stored.against(table.name) == {name: other for name, other in against.items() if other != "none"}
    size = dtta.load(table.problem).size("test")
    for name, run in runs.items():
        wanted = []
        for seed in table.seeds:
            numbers = table.numbers(table.entries[name].images, seed)
            recalled = {AFTER + shift: range(size - run.recalled, size) for shift in numbers}
            wanted += [(s, table.severity, i, seed) for s, of in (numbers | recalled).items() for i in of]
        assert sorted(row.key for row in stored.rows(table.name, name)) == sorted(wanted)


@pytest.mark.parametrize("problem", ["digits", *SCENES])
def test_a_problems_settings_are_those_of_its_table(problem):
    runs = stored.names(f"{problem}-test")
    assert {method: runs[method].settings for method in module(problem).SETTINGS} == module(problem).SETTINGS


@pytest.mark.parametrize("problem", SCENES)
@pytest.mark.parametrize("name", ["none", "diffusion-tta"])
def test_stored_scores_are_what_a_run_gives(problem, name):
    """On two images of four shifts; another processor may round otherwise."""
    kept = {(r.shift, r.index): r for r in stored.rows(f"{problem}-test", name)}
    images = {
        s: [i for shift, i in kept if shift == s][:2] for s in ("clean", "contrast", "depth_fog", "gaussian_noise")
    }
    run = stored.names(f"{problem}-test")[name]
    fresh = evaluate(run, [(shift, 3) for shift in images], images, progress=False)
    assert len(fresh) == 8
    assert sum(abs(kept[r.shift, r.index].score - r.score) < 0.02 for r in fresh) >= 7
    for row in fresh:
        assert row.sums.keys() == kept[row.shift, row.index].sums.keys()


@pytest.mark.parametrize("problem", SCENES)
def test_the_bar_at_least_200_images_under_every_shift(problem):
    rows = stored.rows(f"{problem}-test", "diffusion-tta")
    assert len({r.index for r in rows}) >= 200
    assert {r.shift for r in rows} == {"clean", *dtta.load(problem).shifts}


@pytest.mark.parametrize("problem", ["scenes-segmentation", "scenes-depth"])
def test_the_bar_diffusion_tta_gains_on_shifted_scenes(problem):
    loaded = dtta.load(problem)
    gain = stored.gain(f"{problem}-test", "diffusion-tta", set(loaded.shifts), metric=loaded.metrics[loaded.metric])
    assert gain["low"] > 0

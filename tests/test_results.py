"""What is stored: runs that are what the tables' files say, settings that did best, scores that a run gives again."""

from __future__ import annotations

import pytest

import dtta
from dtta import stored, tables
from dtta.evaluate import AFTER
from dtta.problems import module
from dtta.problems.scenes.words import VOCABULARY

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
    shifts = ("clean", "contrast", "depth_fog", "gaussian_noise")
    same, count = stored.agreement(f"{problem}-test", name, 2, shifts, within=0.02)
    assert count == 8 and same >= 7


QUICK = dict.fromkeys(("digits-test", "teachers", "loss", "weights", "online", "beyond", "stopping"), 0.5)


@pytest.mark.parametrize(("table", "seconds"), [*QUICK.items(), ("scenes-clip-test", 2)])
def test_each_run_of_a_table_gives_its_stored_scores_again(table, seconds):
    """On one image under two shifts, of every run that takes less a row; another processor may round otherwise."""
    same = count = 0
    for name, run in stored.names(table).items():
        batch = run.batch if run.stream == "apart" else 0
        if batch and sum(r.seconds for r in stored.rows(table, name)) < seconds * len(stored.rows(table, name)):
            found = stored.agreement(table, name, batch, ("contrast", "gaussian_noise"))
            same, count = same + found[0], count + found[1]
    assert count >= 2 * 3 and same >= 0.95 * count


@pytest.mark.parametrize("problem", SCENES)
def test_the_bar_at_least_200_different_images_and_every_shift(problem):
    """Not every image under every shift: see ``dtta.evaluate.spread``."""
    rows = stored.rows(f"{problem}-test", "diffusion-tta")
    assert len({r.index for r in rows}) >= 200
    assert {r.shift for r in rows} == {"clean", *dtta.load(problem).shifts}


@pytest.mark.parametrize("problem", ["scenes-segmentation", "scenes-depth"])
def test_the_bar_diffusion_tta_gains_on_shifted_scenes(problem):
    loaded = dtta.load(problem)
    gain = stored.gain(f"{problem}-test", "diffusion-tta", set(loaded.shifts), metric=loaded.metrics[loaded.metric])
    assert gain["low"] > 0


@pytest.mark.parametrize("kind", [True, False], ids=["seen", "unseen"])
def test_the_bar_diffusion_tta_gains_on_shifted_portraits(kind):
    problem = dtta.load("scenes-clip")
    names = len(problem.classes)
    rows = stored.rows("scenes-clip-test", "diffusion-tta")
    assert all(problem.image(r.index)[1] == r.index % names for r in rows[:names])  # so a row tells its name
    gain = stored.gain(
        "scenes-clip-test",
        "diffusion-tta",
        set(problem.shifts),
        only=lambda row: VOCABULARY[row.index % names].seen is kind,
    )
    assert gain["low"] > 0 and gain["images"] >= 150

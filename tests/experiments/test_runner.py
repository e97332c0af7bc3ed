"""Tables of results: how settings are chosen, what is stored, and resuming where a run stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import small_table
from small_table import SHIFTS, TEXT

from dtta import cli
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import runner, spec, stored
from dtta.experiments.selection import best_run

GRID = "grid = { lr = [0.01, 1.0], t_min = [0.0, 0.5] }"


def make(tmp_path, text=TEXT, only=None, rows="rows", out="out", **options) -> list[str]:
    path = tmp_path / "few.toml"
    path.write_text(text, encoding="utf-8")
    return runner.make(spec.read(path), 1, only, tmp_path / rows, tmp_path / out, **options)


def without_seconds(path) -> list[list[str]]:
    return [line.split(",")[:5] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The small table, made once."""
    folder = tmp_path_factory.mktemp("made")
    assert make(folder) == []
    return folder


@pytest.fixture
def copy(made, tmp_path):
    """A copy of the table and of its rows, to change."""
    for folder in ("out", "rows/few"):
        (tmp_path / folder).mkdir(parents=True)
        for path in (made / folder).iterdir():
            (tmp_path / folder / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_precision_compiled_blocks_and_images_together_reach_every_row(tmp_path, monkeypatch):
    calls = []

    def watched(run, *args, compile=False, together=1):
        calls.append((run.precision, compile, together))
        return evaluate(run, *args)  # compiling is slow, and tested in the room of the diffusion models

    monkeypatch.setattr(runner, "evaluate", watched)
    (tmp_path / "few.toml").write_text(TEXT, encoding="utf-8")
    table = spec.read(tmp_path / "few.toml", precision="bfloat16")
    runner.make(table, 1, rows=tmp_path / "rows", out=tmp_path / "out", compile=True, together=4)
    assert set(calls) == {("bfloat16", True, 4)}
    assert {run.precision for run in stored.runs("few", tmp_path / "out").values()} == {"bfloat16"}


def trial(name, evaluations, gain, high):
    return dict(settings={"name": name}, evaluations=evaluations, gain=gain, high=high)


def test_the_cheapest_settings_that_are_not_shown_to_lose():
    trials = [
        trial("loses", 3, -4.0, -0.5), trial("cheapest", 15, -0.7, 0.0), trial("as cheap, worse", 15, -0.8, 2.0),
        trial("best", 120, 2.0, 3.0),
    ]  # fmt: skip
    for choose, name in (("cheapest", "cheapest"), ("best", "best")):
        assert best_run(Run("none"), trials, choose).settings == {"name": name}
    assert best_run(Run("none"), trials[:1], "cheapest").settings == {"name": "loses"}
    assert best_run(Run("none"), [], "cheapest") == Run("none")


def test_evaluations_are_counted_for_rows_and_trials(made):
    trials = stored.trials("few", made / "out")
    assert [trial["evaluations"] for trial in trials] == [2.0] * 4  # 1 step of 2 pairs
    counts = {name: stored.evaluations("few", name, SHIFTS, made / "out") for name in ("none", "few images")}
    assert counts == {"none": 0, "few images": 4}


def test_settings_are_the_best_on_validation_images(made):
    trials = stored.trials("few", made / "out")
    assert [r["run"] for r in trials] == ["diffusion-tta"] * 4
    cells = [(shift, 3) for shift in SHIFTS]

    def validated(method, settings):
        run = Run(method, "small_table:problem", settings=settings, split="validation")
        return evaluate(run, cells, range(2), progress=False)

    for trial in trials:
        gain = paired_gain(validated("none", {}), validated("diffusion-tta", trial["settings"]))
        assert (trial["gain"], trial["low"]) == (round(gain["gain"], 2), round(gain["low"], 2))
    best = max(trials, key=lambda trial: trial["gain"])["settings"]
    runs = stored.runs("few", made / "out")
    assert runs["diffusion-tta"].settings == best
    assert runs["few images"].settings == best | {"steps": 2}  # the chosen settings, overridden by its own


def test_an_entrys_settings_hold_whatever_was_chosen_for_the_one_it_extends(tmp_path):
    """Even a setting that the other entry started from."""
    text = TEXT.replace(GRID, "grid = { steps = [2, 3] }")
    make(tmp_path, text.replace("settings = { steps = 2 }", "settings = { steps = 1 }"))
    runs = stored.runs("few", tmp_path / "out")
    assert runs["diffusion-tta"].settings["steps"] in (2, 3)
    assert runs["few images"].settings["steps"] == 1


def test_what_is_stored_is_what_a_run_gives(made):
    cells = [(shift, 3) for shift in ("clean", *SHIFTS)]
    for name, run in stored.runs("few", made / "out").items():
        rows = stored.rows("few", name, made / "out")
        count = 2 if name == "few images" else 3
        assert len(rows) == 3 * count * 2
        for seed in (0, 4):
            numbers = range(count) if seed == 0 else range(3, 3 + count)  # each seed has different images
            fresh = evaluate(replace(run, seed=seed), cells, numbers, progress=False)
            scores = {(r.shift, r.index): r.score for r in rows if r.seed == seed}
            for row in fresh:
                assert scores[row.shift, row.index] == pytest.approx(row.score, rel=1e-4)
    about = json.loads((made / "out" / "few.json").read_text(encoding="utf-8"))
    assert about["command"] == "dtta evaluate --table few"
    assert (about["about"], about["seeds"]) == ("A table to try things out", [0, 4])
    assert stored.gain("few", "few images", {"fog"}, folder=made / "out")["images"] == 4  # two images, two seeds


def test_a_sample_that_is_run_again_shows_a_wrong_stored_score(tmp_path):
    make(tmp_path, TEXT + '\n[runs.changing]\nmethod = "tent"\nstream = "changing"\nsettings = { episodic = false }\n')
    out = tmp_path / "out"
    assert stored.reproduce("few", "diffusion-tta", 2, folder=out) == (6, 6)  # clean images and two shifts
    assert stored.reproduce("few", "diffusion-tta", 3, ["fog"], 4, folder=out) == (3, 3)
    assert stored.reproduce("few", "tent, two at once", 2, folder=out) == (6, 6)
    path = out / "few.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("diffusion-tta,fog,"))
    cells = lines[first].split(",")
    lines[first] = ",".join([*cells[:4], str(float(cells[4]) + 0.1), *cells[5:]])
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert stored.reproduce("few", "diffusion-tta", 2, folder=out) == (5, 6)
    assert stored.reproduce("few", "diffusion-tta", 2, within=0.2, folder=out) == (6, 6)
    with pytest.raises(ValueError, match="goes through all shifts in one stream"):
        stored.reproduce("few", "changing", folder=out)


def test_nothing_is_done_twice_and_one_run_can_be_made_again(copy):
    before = without_seconds(copy / "out" / "few.csv")
    small_table.scored.clear()
    make(copy)
    assert not small_table.scored and without_seconds(copy / "out" / "few.csv") == before
    for path in (copy / "rows" / "few").glob("few-images-*"):
        path.unlink()
    make(copy, only=["few images"])
    assert len(small_table.scored) == 2 * 3 * 2
    assert without_seconds(copy / "out" / "few.csv") == before
    with pytest.raises(ValueError, match="few has no run sent; it has none, diffusion-tta"):
        make(copy, only=["sent"])


def test_a_table_in_the_packages_folder_updates_the_problems_settings(copy, monkeypatch):
    calls = []
    monkeypatch.setattr(runner.defaults, "write", lambda: calls.append("write"))
    make(copy)
    assert not calls
    monkeypatch.setattr(stored, "FOLDER", copy / "out")
    make(copy)
    assert calls == ["write"]


def test_runs_with_different_numbers_of_validation_images(tmp_path):
    """Each gain is over the run's own images, though all are compared with the same baseline."""
    text = TEXT.replace('method = "tent"', 'method = "tent"\nvalidation_images = 3\ngrid = { steps = [1, 2] }')
    text = text.replace("validation_images = 2\n", "", 1)
    text = text.replace("[runs.diffusion-tta]", "[runs.diffusion-tta]\nvalidation_images = 1")
    assert make(tmp_path, text) == []
    trials = stored.trials("few", tmp_path / "out")
    counts = [(trial["run"], trial["images"]) for trial in trials]
    assert counts == [("diffusion-tta", 2)] * 4 + [("tent, two at once", 6)] * 2
    assert make(tmp_path, text, ["none"], "new") == []  # the others are stored as the file describes them


def test_the_seconds_of_a_run_include_its_grid_and_are_replaced_when_it_is_made_again(tmp_path, monkeypatch):
    def seconds_at(seconds: float, text: str, only=None) -> list[float]:
        def timed(*args, **options):
            return [replace(row, seconds=seconds) for row in evaluate(*args, **options)]

        monkeypatch.setattr(runner, "evaluate", timed)
        make(tmp_path, text, only, rows=f"{seconds}")
        return list(stored.seconds("few", tmp_path / "out").values())

    tested, tried = [18, 18, 12, 18], 4 * 2 * 2  # images x cells x seeds; settings x images x shifts
    assert seconds_at(1.0, TEXT) == [tested[0], tested[1] + tried, *tested[2:]]
    assert seconds_at(2.0, TEXT, ["tent, two at once"]) == [18, 34, 12, 36]
    longer = TEXT.replace("lr = [0.01, 1.0]", "lr = [0.01, 1.0, 2.0]")
    assert seconds_at(3.0, longer, ["diffusion-tta", "few images"]) == [18, 3 * (18 + 6 * 2 * 2), 36, 36]
    assert seconds_at(4.0, longer.split('[runs."few')[0], ["none"]) == [72, 126]  # removed runs are not counted


def test_a_run_that_diverges_is_named_and_finished_ones_are_kept(tmp_path):
    """At such a rate nothing is finite after a step."""
    text = f'{TEXT}\n[runs."too fast"]\nextends = "diffusion-tta"\nsettings = {{ lr = 1e30 }}\n'
    with pytest.raises(FloatingPointError, match=r"too-fast-0: .*lower the.* rate.*, or take it out of the table"):
        make(tmp_path, text)
    rows = (tmp_path / "rows" / "few" / "diffusion-tta-4.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 1 + 3 * len(["clean", *SHIFTS])


def test_one_run_made_again_is_stored_with_the_others(copy, monkeypatch):
    """Without the files of their rows and without their grids; the result is the same as if all were made."""
    changed = TEXT.replace("settings = { lr = 0.1 }", "settings = { lr = 0.2 }")
    make(copy, changed, rows="all", out="whole")
    methods = []
    monkeypatch.setattr(runner, "evaluate", lambda run, *a, **o: methods.append(run.method) or evaluate(run, *a, **o))
    assert make(copy, changed, ["tent, two at once"], "new") == []
    assert methods == ["tent"] * 2  # two seeds
    one, whole = copy / "out", copy / "whole"
    assert without_seconds(one / "few.csv") == without_seconds(whole / "few.csv")
    assert (one / "few-settings.csv").read_text(encoding="utf-8") == (whole / "few-settings.csv").read_text(
        encoding="utf-8"
    )
    assert stored.runs("few", one) == stored.runs("few", whole)


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("seeds = [0, 4]", "seeds = [0, 5]", ["none", "diffusion-tta", "few images"]),
        ("settings = { steps = 2 }", "settings = { steps = 3 }", ["few images"]),
        ("lr = [0.01, 1.0]", "lr = [0.01, 2.0]", ["diffusion-tta", "few images"]),
        ("validation_images = 2", "validation_images = 3", ["diffusion-tta", "few images"]),
    ],
)
def test_a_stored_run_that_differs_from_the_file_is_not_used(copy, old, new, missing):
    before = (copy / "out" / "few.csv").read_text(encoding="utf-8")
    assert old in TEXT
    assert make(copy, TEXT.replace(old, new), ["tent, two at once"], "new") == missing
    assert (copy / "out" / "few.csv").read_text(encoding="utf-8") == before


def test_after_another_choice_the_runs_that_extend_it_are_made_again(copy, caplog):
    """The rows of before are kept under another name."""
    before = {path.name: path.read_text(encoding="utf-8") for path in (copy / "rows" / "few").glob("*-0.jsonl")}
    assert make(copy, TEXT.replace(GRID, "grid = { lr = [0.02], t_min = [0.25] }"), ["diffusion-tta"]) == []
    runs = stored.runs("few", copy / "out")
    assert runs["few images"].settings == {"lr": 0.02, "t_min": 0.25, "samples": 2, "steps": 2}
    assert "held rows of other settings; they are kept in" in caplog.text
    for name in ("diffusion-tta-0.jsonl", "few-images-0.jsonl"):
        assert (copy / "rows" / "few" / f"{name}.before1").read_text(encoding="utf-8") == before[name]
    assert not list((copy / "rows" / "few").glob("none-*.before1"))  # nothing of it has changed


def test_a_table_by_the_command_line(made, tmp_path, capsys):
    (tmp_path / "few.toml").write_text(TEXT, encoding="utf-8")
    folders = ["--out", str(tmp_path / "rows"), "--store", str(tmp_path / "out"), "--workers", "1"]
    command = ["evaluate", "--table", str(tmp_path / "few.toml"), *folders]
    assert cli.main([*command, "--only", "few images"]) == 0
    assert "tent, two at once (leave out --only)" in capsys.readouterr().out
    assert not (tmp_path / "out" / "few.csv").exists()
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "A table to try things out" in lines
    gain = stored.gain("few", "few images", SHIFTS, folder=tmp_path / "out")
    (line,) = (line for line in lines if line.startswith("few images"))
    assert [float(x) for x in line.split()[2:5]] == [round(gain[k], 1) for k in ("before", "after", "gain")]
    assert cli.main([*command, "--only", "sent"]) == 2
    assert "few has no run sent" in capsys.readouterr().err


def test_all_tables_by_the_command_line(made, tmp_path, capsys, monkeypatch):
    """With the time that the stored rows took; the tables that choose a problem's settings come first."""
    monkeypatch.setattr(spec, "FOLDER", tmp_path)
    rows, store = tmp_path / "rows", tmp_path / "out"
    store.mkdir()
    about = json.loads((made / "out" / "few.json").read_text(encoding="utf-8")) | {
        "seconds": {"none": 400, "sent": 200}
    }
    for name in ("few", "few-test"):
        (tmp_path / f"{name}.toml").write_text(TEXT, encoding="utf-8")
        (rows / name).mkdir(parents=True)
        for path in (made / "rows" / "few").iterdir():
            (rows / name / path.name).write_bytes(path.read_bytes())
        (store / f"{name}.json").write_text(json.dumps(about), encoding="utf-8")
    command = ["evaluate", "--table", "all", "--out", str(rows), "--store", str(store), "--workers", "1"]
    assert cli.main(command) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "minutes" in line]
    assert [line.split(" minutes")[0] for line in lines] == [
        "all tables: about 20", "few-test: about 10", "few: about 10",
    ]  # fmt: skip
    assert len(list(store.glob("*.csv"))) == 4
    assert cli.main([*command, "--only", "none"]) == 2
    assert "--only is for one table" in capsys.readouterr().err

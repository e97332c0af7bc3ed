"""Tables from files: what a file may say, how settings are chosen, what is stored, going on where a run stopped."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny

from dtta import cli, problems
from dtta.evaluation import evaluate as evaluation
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import runner as tables
from dtta.experiments import spec as experiments
from dtta.experiments import stored

TEXT = """
about = "A table to try things out"
problem = "tiny"
shifts = ["fog", "contrast"]
images = 3
tried = 2
seeds = [0, 4]

[runs.none]

[runs.diffusion-tta]
settings = { samples = 2, steps = 1 }
grid = { lr = [0.01, 1.0], low = [0.0, 0.5] }

[runs."few images"]
like = "diffusion-tta"
images = 2
settings = { steps = 2 }

[runs."tent, two at once"]
method = "tent"
batch = 2
settings = { lr = 0.1 }
"""
SHIFTS = ["fog", "contrast"]


@pytest.fixture(autouse=True)
def tiny_problem(monkeypatch):
    """The name "tiny" stands for a problem of random models, the true class's probability as its score."""

    def load(name, network=None, diffusion=None, classes=None):
        assert name == "tiny"
        problem = tiny.problem(settings={"tent": {"steps": 2}})
        object.__setattr__(problem, "score", lambda output, label: output.softmax(1)[0, label].item())
        return problem

    for place in (evaluation, experiments, tables):
        monkeypatch.setattr(place, "load", load)


def table(tmp_path, text=TEXT) -> experiments.Table:
    path = tmp_path / "few.toml"
    path.write_text(text)
    return experiments.read(path)


def made(tmp_path, text=TEXT, **options) -> None:
    tables.make(table(tmp_path, text), 1, rows=tmp_path / "rows", out=tmp_path / "out", **options)


def test_a_file_is_read_as_it_says(tmp_path):
    few = table(tmp_path)
    assert (few.name, few.problem, few.shifts, few.severity, few.tried, few.seeds) == (
        "few", "tiny", ("fog", "contrast"), 3, 2, (0, 4),
    )  # fmt: skip
    assert list(few.entries) == ["none", "diffusion-tta", "few images", "tent, two at once"]
    grid = few.entries["diffusion-tta"].grid
    assert grid == tuple({"lr": lr, "low": low} for lr in (0.01, 1.0) for low in (0.0, 0.5))
    assert few.entries["few images"].run.settings == {"samples": 2, "steps": 2}
    assert (few.entries["few images"].images, few.entries["none"].images) == (2, 3)
    tent = few.entries["tent, two at once"].run
    assert (tent.method, tent.batch, tent.settings) == (
        "tent",
        2,
        {"steps": 2, "lr": 0.1},
    )  # the problem's, and its own
    assert few.numbers(2, 0) == {"clean": [0, 1], "fog": [0, 1], "contrast": [0, 1]}
    assert few.numbers(2, 4) == {"clean": [3, 4], "fog": [3, 4], "contrast": [3, 4]}
    spread = table(tmp_path, "of = 6\n" + TEXT)
    assert spread.numbers(2, 0) == {"clean": [0, 1], "fog": [2, 3], "contrast": [4, 5]}
    assert spread.numbers(2, 4) == {"clean": [6, 7], "fog": [8, 9], "contrast": [10, 11]}


def test_precision_and_compiled_blocks_reach_every_row(tmp_path, monkeypatch):
    asked, path = [], tmp_path / "few.toml"
    path.write_text(TEXT)
    original = tables.evaluate

    def watched(run, *args, compile=False, **options):
        asked.append((run.precision, compile))
        return original(run, *args, **options)  # a compiler is slow to start, and has tests of its own

    monkeypatch.setattr(tables, "evaluate", watched)
    half = experiments.read(path, precision="bfloat16")
    tables.make(half, 1, rows=tmp_path / "rows", out=tmp_path / "out", compile=True)
    assert set(asked) == {("bfloat16", True)}
    assert {run.precision for run in stored.runs("few", tmp_path / "out").values()} == {"bfloat16"}
    with pytest.raises(ValueError, match="precision must be one of"):
        experiments.read(path, precision="int8")


def test_settings_are_the_best_on_validation_images(tmp_path):
    made(tmp_path)
    tried = stored.trials("few", tmp_path / "out")
    assert [r["run"] for r in tried] == ["diffusion-tta"] * 4
    cells = [(shift, 3) for shift in SHIFTS]

    def validated(method, settings):
        return evaluate(Run(method, "tiny", settings=settings, split="validation"), cells, range(2), progress=False)

    for row in tried:
        gain = paired_gain(validated("none", {}), validated("diffusion-tta", row["settings"]))
        assert (row["gain"], row["low"]) == (round(gain["gain"], 2), round(gain["low"], 2))
    best = max(tried, key=lambda row: row["gain"])["settings"]
    runs = stored.runs("few", tmp_path / "out")
    assert runs["diffusion-tta"].settings == best
    assert runs["few images"].settings == best | {"steps": 2}  # what was chosen, and its own


def test_what_an_entry_says_for_itself_stands_whatever_was_chosen(tmp_path):
    """Also where it is the setting that the other entry started from."""
    text = TEXT.replace("grid = { lr = [0.01, 1.0], low = [0.0, 0.5] }", "grid = { steps = [2, 3] }")
    made(tmp_path, text.replace("settings = { steps = 2 }", "settings = { steps = 1 }"))
    runs = stored.runs("few", tmp_path / "out")
    assert runs["diffusion-tta"].settings["steps"] in (2, 3)
    assert runs["few images"].settings["steps"] == 1


def test_settings_that_are_lists_and_a_grid_of_nothing(tmp_path):
    text = """
    about = "Lists" \nproblem = "tiny" \nimages = 1 \ntried = 1
    [runs.none]
    [runs.diffusion-classifier]
    grid = [{ samples = [[1, 2], [2, 4]], keep = 3 }, {}]
    """
    few = table(tmp_path, text)
    grid = ({"samples": [1, 2], "keep": 3}, {"samples": [2, 4], "keep": 3}, {})
    assert few.entries["diffusion-classifier"].grid == grid


def test_what_is_stored_is_what_a_run_gives(tmp_path):
    made(tmp_path)
    cells = [(shift, 3) for shift in ("clean", *SHIFTS)]
    for name, run in stored.runs("few", tmp_path / "out").items():
        rows = stored.rows("few", name, tmp_path / "out")
        count = 2 if name == "few images" else 3
        assert len(rows) == 3 * count * 2
        for seed in (0, 4):
            numbers = range(count) if seed == 0 else range(3, 3 + count)  # each seed has images of its own
            fresh = evaluate(Run(**vars(run) | {"seed": seed}), cells, numbers, progress=False)
            kept = {(r.shift, r.index): r.score for r in rows if r.seed == seed}
            for row in fresh:
                assert kept[row.shift, row.index] == pytest.approx(row.score, rel=1e-4)
    about = json.loads((tmp_path / "out" / "few.json").read_text())
    assert about["command"] == "dtta evaluate --table few"
    assert (about["about"], about["seeds"]) == ("A table to try things out", [0, 4])
    gain = stored.gain("few", "few images", {"fog"}, folder=tmp_path / "out")
    assert gain["images"] == 4  # two images, two seeds


def test_a_sample_run_again_tells_a_stored_score_that_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(stored, "evaluate", evaluate)
    text = TEXT + '\n[runs.changing]\nmethod = "tent"\nstream = "changing"\nsettings = { episodic = false }\n'
    made(tmp_path, text)
    out = tmp_path / "out"

    def agreement(**options):
        stored.rows.cache_clear()
        return stored.reproduce("few", "diffusion-tta", folder=out, **options)

    assert agreement(images=2) == (6, 6)  # clean images and two shifts
    assert agreement(images=3, shifts=["fog"], seed=4) == (3, 3)
    assert stored.reproduce("few", "tent, two at once", 2, folder=out) == (6, 6)
    path = out / "few.csv"
    lines = path.read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("diffusion-tta,fog,"))
    cells = lines[first].split(",")
    lines[first] = ",".join([*cells[:4], str(float(cells[4]) + 0.1), *cells[5:]])
    path.write_text("\n".join(lines) + "\n")
    assert agreement(images=2) == (5, 6)
    assert agreement(images=2, within=0.2) == (6, 6)
    with pytest.raises(ValueError, match="goes through all shifts in one stream"):
        stored.reproduce("few", "changing", folder=out)


def test_nothing_is_done_twice_and_one_row_can_be_made_again(tmp_path, monkeypatch):
    made(tmp_path)
    first = (tmp_path / "out" / "few.csv").read_text()
    calls = []
    original = evaluation._Scorer.rows
    monkeypatch.setattr(evaluation._Scorer, "rows", lambda self, cells: calls.append(cells) or original(self, cells))
    made(tmp_path)
    assert not calls
    assert (tmp_path / "out" / "few.csv").read_text() == first
    for path in (tmp_path / "rows" / "few").glob("few-images-*"):
        path.unlink()
    made(tmp_path, only=["few images"])
    assert len(calls) == 2 * 3 * 2
    again = (tmp_path / "out" / "few.csv").read_text()
    assert [line.split(",")[:5] for line in again.splitlines()] == [line.split(",")[:5] for line in first.splitlines()]
    with pytest.raises(ValueError, match="few has no run sent; it has none, diffusion-tta"):
        made(tmp_path, only=["sent"])


def test_a_run_with_validation_images_of_its_own(tmp_path):
    """Each gain is over its own images, though all are compared with the same run."""
    said = TEXT.replace('method = "tent"', 'method = "tent"\ntried = 3\ngrid = { steps = [1, 2] }')
    said = said.replace("tried = 2\n", "", 1).replace("[runs.diffusion-tta]", "[runs.diffusion-tta]\ntried = 1")
    few = table(tmp_path, said)
    assert [entry.tried for entry in few.entries.values()] == [0, 1, 0, 3]
    tables.make(few, 1, rows=tmp_path / "rows", out=tmp_path / "out")
    tried = stored.trials("few", tmp_path / "out")
    assert [(row["run"], row["images"]) for row in tried] == [("diffusion-tta", 2)] * 4 + [("tent, two at once", 6)] * 2
    assert tables.make(few, 1, ["none"], tmp_path / "new", tmp_path / "out") == []  # the others are as the file says


def test_the_time_of_a_run_counts_its_grid_and_one_made_again_takes_what_it_takes_now(tmp_path, monkeypatch):
    original = evaluation._Scorer.rows

    def took(seconds: float, text: str, **options) -> list[float]:
        def rows(self, cells):
            return [replace(row, seconds=seconds) for row in original(self, cells)]

        monkeypatch.setattr(evaluation._Scorer, "rows", rows)
        tables.make(table(tmp_path, text), 1, rows=tmp_path / f"{seconds}", out=tmp_path / "out", **options)
        return list(stored.seconds("few", tmp_path / "out").values())

    tested, tried = [18, 18, 12, 18], 4 * 2 * 2  # images, cells, seeds; settings, images, shifts
    assert took(1.0, TEXT) == [tested[0], tested[1] + tried, *tested[2:]]
    assert took(2.0, TEXT, only=["tent, two at once"]) == [18, 34, 12, 36]
    longer = TEXT.replace("lr = [0.01, 1.0]", "lr = [0.01, 1.0, 2.0]")
    assert took(3.0, longer, only=["diffusion-tta", "few images"]) == [18, 3 * (18 + 6 * 2 * 2), 36, 36]
    assert took(4.0, longer.split('[runs."few')[0], only=["none"]) == [72, 126]  # what is gone counts no more


def test_a_run_that_diverges_is_named_and_what_was_done_stays(tmp_path):
    """At a rate like this nothing is finite after a step."""
    text = f'{TEXT}\n[runs."too fast"]\nlike = "diffusion-tta"\nsettings = {{ lr = 1e30 }}\n'
    with pytest.raises(FloatingPointError, match=r"too-fast-0: .*lower the rate.*, or take it out of the table"):
        tables.make(table(tmp_path, text), 1, rows=tmp_path / "rows", out=tmp_path / "out")
    kept = (tmp_path / "rows" / "few" / "diffusion-tta-4.jsonl").read_text().splitlines()
    assert len(kept) == 1 + 3 * len(["clean", *SHIFTS])


def test_one_row_made_again_goes_into_the_stored_table_beside_the_others(tmp_path, monkeypatch):
    """Neither the rows' files nor the grids of the others are needed for it; what comes out is as if all were made."""
    made(tmp_path)
    changed = TEXT.replace("settings = { lr = 0.1 }", "settings = { lr = 0.2 }")
    tables.make(table(tmp_path, changed), 1, rows=tmp_path / "all", out=tmp_path / "whole")
    few, asked, original = table(tmp_path, changed), [], tables.evaluate
    monkeypatch.setattr(tables, "evaluate", lambda run, *a, **o: asked.append(run.method) or original(run, *a, **o))
    assert tables.make(few, 1, ["tent, two at once"], tmp_path / "new", tmp_path / "out") == []
    assert asked == ["tent"] * 2  # two seeds
    for ending in (".csv", "-settings.csv"):
        one, other = ((tmp_path / folder / f"few{ending}").read_text() for folder in ("out", "whole"))
        without = [[line.split(",")[:5] for line in text.splitlines()] for text in (one, other)]  # all but the time
        assert without[0] == without[1] if ending == ".csv" else one == other
    one, other = (json.loads((tmp_path / f / "few.json").read_text()) for f in ("out", "whole"))
    assert one["runs"] == other["runs"] and one["against"] == other["against"]


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("seeds = [0, 4]", "seeds = [0, 5]", ["none", "diffusion-tta", "few images"]),
        ("settings = { steps = 2 }", "settings = { steps = 3 }", ["few images"]),
        ("lr = [0.01, 1.0]", "lr = [0.01, 2.0]", ["diffusion-tta", "few images"]),
        ("tried = 2", "tried = 3", ["diffusion-tta", "few images"]),
    ],
)
def test_a_row_that_is_not_as_the_file_says_is_not_taken_from_the_store(tmp_path, old, new, missing):
    made(tmp_path)
    before = (tmp_path / "out" / "few.csv").read_text()
    assert old in TEXT
    few = table(tmp_path, TEXT.replace(old, new))
    found = tables.make(few, 1, ["tent, two at once"], tmp_path / "new", tmp_path / "out")
    assert found == missing
    assert (tmp_path / "out" / "few.csv").read_text() == before


def test_a_choice_made_again_makes_those_again_that_start_from_it(tmp_path, caplog):
    """A grid with another best setting: what is like it is made from it anew, and the rows of before are not lost."""
    made(tmp_path)
    old = {path.name: path.read_text() for path in (tmp_path / "rows" / "few").glob("*-0.jsonl")}
    few = table(tmp_path, TEXT.replace("lr = [0.01, 1.0], low = [0.0, 0.5]", "lr = [0.02], low = [0.25]"))
    assert tables.make(few, 1, ["diffusion-tta"], tmp_path / "rows", tmp_path / "out") == []
    runs = stored.runs("few", tmp_path / "out")
    assert runs["few images"].settings == {"lr": 0.02, "low": 0.25, "samples": 2, "steps": 2}
    assert "held rows of other settings; they are kept in" in caplog.text
    for name in ("diffusion-tta-0.jsonl", "few-images-0.jsonl"):
        assert (tmp_path / "rows" / "few" / f"{name}.before1").read_text() == old[name]
    assert not list((tmp_path / "rows" / "few").glob("none-*.before1"))  # nothing of it has changed


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('about = "A table to try things out"', "", "about is missing"),
        ("images = 3", "image = 3", "unknown image; choose from about,"),
        ("[runs.none]", "[runs.nonne]", "nonne: unknown method 'nonne'; choose from none,"),
        ("[runs.none]", "[runs.none]\nbatches = 2", "none: unknown batches; choose from against,"),
        ("steps = 1 }", "step = 1 }", "has no setting 'step'"),
        ("low = [0.0, 0.5]", "lw = [0.0, 0.5]", "has no setting 'lw'"),
        ("low = [0.0, 0.5]", "low = [0.0, 1.5]", "the range of t"),
        ('like = "diffusion-tta"', 'like = "tent, two at once"', "which does not stand above it"),
        ('like = "diffusion-tta"', 'like = "diffusion-tta"\nagainst = "x"', "compared with 'x'"),
        ("tried = 2", "tried = 0", "a grid needs `tried`"),
        ("batch = 2", "batch = 0", "batch must be a whole number"),
        ("images = 3", "images = ", "is not TOML"),
        ("images = 3", "images = 300", "needs 600 test images, 2 seeds in all; there are"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message):
        table(tmp_path, TEXT.replace(old, new, 1))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*nothing.toml"):
        experiments.read(tmp_path / "nothing.toml")


def test_by_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "load", experiments.load)
    (tmp_path / "few.toml").write_text(TEXT)
    folders = ["--out", str(tmp_path / "rows"), "--store", str(tmp_path / "out"), "--workers", "1"]
    command = ["evaluate", "--table", str(tmp_path / "few.toml"), *folders]
    assert cli.main([*command, "--only", "few images"]) == 0
    assert "stored when these are too: tent, two at once (leave out --only)" in capsys.readouterr().out
    assert not (tmp_path / "out" / "few.csv").exists()
    assert cli.main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "A table to try things out"
    g = stored.gain("few", "few images", SHIFTS, folder=tmp_path / "out")
    (line,) = (found for found in lines if found.startswith("few images"))
    assert [float(x) for x in line.split()[2:5]] == [round(g[k], 1) for k in ("before", "after", "gain")]
    path = tmp_path / "out" / "few.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"none": 400, "sent": 200}}))
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("few: about 10 minutes with 1 at work")
    assert cli.main([*command, "--only", "sent"]) == 2
    assert "few has no run sent" in capsys.readouterr().err


@pytest.mark.parametrize("name", experiments.names())
def test_every_table_of_the_book_is_read(name, monkeypatch):
    monkeypatch.setattr(experiments, "load", problems.load)
    table = experiments.read(name)
    assert table.name == name and table.about and "none" in table.entries


def test_the_tables_that_choose_a_problems_settings_come_first():
    names = experiments.names()
    first = [name.endswith("-test") for name in names]
    assert first == sorted(first, reverse=True) and sum(first) == 4
    assert {"loss", "weights", "online", "beyond"} < set(names)


def test_all_tables_by_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cli, "load", experiments.load)
    monkeypatch.setattr(experiments, "FOLDER", tmp_path)
    for name in ("few", "few-test"):
        (tmp_path / f"{name}.toml").write_text(TEXT)
    store = tmp_path / "out"
    command = ["evaluate", "--table", "all", "--out", str(tmp_path / "rows"), "--store", str(store), "--workers", "1"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.startswith("all tables: about 0 minutes with 1 at work")
    assert {path.name for path in store.glob("*.csv")} == {
        f"{n}{s}.csv" for n in ("few", "few-test") for s in ("", "-settings")
    }
    for path in store.glob("*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"none": 400, "sent": 200}}))
    assert cli.main(command) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if "minutes" in line]
    assert [line.split(" minutes")[0] for line in told] == [
        "all tables: about 20", "few-test: about 10", "few: about 10",
    ]  # fmt: skip
    assert cli.main([*command, "--only", "none"]) == 2
    assert "--only is for one table" in capsys.readouterr().err

"""The command line: what it prints and draws, and one clear sentence for each bad input."""

from __future__ import annotations

import csv
import functools
import json
import re
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import pytest
import tiny
import tiny_problems
import torch
from PIL import Image

from dtta.cli import evaluate, main
from dtta.cli.adapt import read_image
from dtta.evaluation.run import Run
from dtta.methods import build, marginal_entropy
from dtta.pages import figures
from dtta.problems import load

matplotlib.use("Agg")
QUICK = ["--set", "steps=1", "--set", "samples=2"]


def printed_by(capsys, command: str, *arguments) -> str:
    """Run a command that must succeed; return what it prints."""
    assert main([*command.split(), *map(str, arguments)]) == 0
    return capsys.readouterr().out


def table_in(printed: str, mark: str) -> dict[str, list[str]]:
    """Return the columns of those lines that contain a mark, by the lines' names."""
    return {line[:20].strip(): line[20:].split() for line in printed.splitlines() if mark in line}


def totals(problem, shift: str, count: int) -> dict:
    """Return the sums that the metrics need, of the first images as the network predicts them."""
    with torch.no_grad():
        each = [problem.sums(problem.model(x), y) for x, y in (problem.image(i, shift) for i in range(count))]
    return {name: sum(e[name] for e in each) for name in each[0]} | {"images": count}


def refused(capsys, *arguments) -> str:
    """Run a command that must fail; return its one sentence."""
    assert main([str(a) for a in arguments]) == 2
    captured = capsys.readouterr()
    sentence = captured.err.strip().splitlines()[-1]
    assert sentence.startswith("dtta: ")
    assert "Traceback" not in captured.err
    return sentence


def test_adapt_prints_both_beliefs_and_draws_them(tmp_path, capsys):
    printed = printed_by(capsys, "adapt --index 3 --shift fog --out", tmp_path, *QUICK)
    assert "true class" in printed and "before" in printed and "after" in printed
    shares = [float(p) for p in re.findall(r"([\d.]+)%", printed)]
    assert len(shares) == 10 and all(0 <= p <= 100 for p in shares)
    with Image.open(tmp_path / "digits-3-fog-adapted.png") as figure:
        assert figure.width > 600


def test_commands_and_functions_start_from_the_same_settings(tmp_path, capsys, monkeypatch):
    """Those of the problem; evaluate prints them, and takes those chosen for batches for a batch."""
    built = []

    @functools.wraps(memo := marginal_entropy.build_memo)
    def record(problem, **settings):
        built.append(settings)
        return memo(problem, **settings)

    monkeypatch.setattr(marginal_entropy, "build_memo", record)
    build(problem := load("digits"), "memo")
    Run("memo").build(problem)
    printed_by(capsys, "adapt --index 0 --method memo --out", tmp_path)
    printed = printed_by(capsys, "evaluate --method memo --images 1")
    assert len(built) >= 4 and all(settings == problem.settings["memo"] for settings in built)
    assert "\nsettings: views=32, lr=0.00025, prior=256; all others are the defaults of memo\n" in printed
    printed = printed_by(capsys, "evaluate --method eata --images 2 --batch 2 --set lr=0.5")
    assert "\nsettings: lr=0.5, similarity=0.4, beta=1.0; all others" in printed


def test_the_seed_of_adapt_decides_noise_and_shift(tmp_path, capsys):
    """On a file it seeds the pairs (t, noise); without adaptation it seeds the shift."""
    Image.linear_gradient("L").save(tmp_path / "a.png")

    file = [tmp_path / "a.png", *QUICK, "--set", "lr=1"]
    shifted = ["--index", "3", "--shift", "gaussian_noise", "--severity", "5", "--method", "none"]
    for arguments in (file, shifted):
        given = [*arguments, "--out", tmp_path / "out", "--seed"]
        first, again, other = (table_in(printed_by(capsys, "adapt", *given, seed), "%") for seed in (0, 0, 1))
        assert first == again
        assert first != other


def test_adapt_takes_files_and_folders(tmp_path, capsys):
    for i in range(2):
        pixels = torch.randint(0, 255, (20, 20), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).convert("RGB").save(tmp_path / f"{i}.png")
    assert main(["adapt", str(tmp_path / "0.png"), "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert main(["adapt", str(tmp_path), "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["0-adapted.png", "1-adapted.png"]


def test_beliefs_before_adaptation_are_the_networks_own_also_online(tmp_path, capsys):
    """The second picture of a folder is printed with the belief that it has when it is alone; no figure stays open."""
    for i in range(2):
        Image.effect_noise((20, 20), 60 + 60 * i).save(tmp_path / f"{i}.png")
    options = ["--out", tmp_path / "out", *QUICK, "--set", "episodic=false", "--set", "lr=0.5"]
    both = printed_by(capsys, "adapt", tmp_path, *options)
    alone = printed_by(capsys, "adapt", tmp_path / "1.png", *options)

    def before(printed):
        lines = printed.partition("1-adapted.png")[2].splitlines()[2:]
        return {line.split()[0]: line.split()[1] for line in lines if "%" in line}

    shared = before(both).keys() & before(alone).keys()
    assert shared and all(before(both)[name] == before(alone)[name] for name in shared)
    assert not plt.get_fignums()


def test_a_reader_that_has_enough_is_no_error(tmp_path):
    command = f"{sys.executable} -m dtta evaluate --preset list | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, check=False, encoding="utf-8")
    assert done.stdout.startswith("preset") and not done.stderr


def test_an_image_goes_where_the_models_are(tmp_path):
    """The meta device holds no numbers, but is a device that is not the CPU."""
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    problem = tiny.problem()
    problem.model.to("meta")
    assert read_image(tmp_path / "a.png", problem).device.type == "meta"


def test_adapt_with_every_method(tmp_path):
    for method in ("none", "ensemble", "logits", "diffusion-classifier", "tent"):
        quick = [] if method in ("none", "tent") else ["--set", "samples=2"]
        assert main(["adapt", "--index", "0", "--method", method, "--out", str(tmp_path), *quick]) == 0


def test_evaluate_prints_a_paired_table_and_goes_on(tmp_path, capsys):
    command = ["evaluate --shift contrast --images 3 --workers 1 --out", tmp_path, *QUICK]
    first = printed_by(capsys, *command)
    assert re.search(r"contrast +\d+\.\d +\d+\.\d +[+-]\d+\.\d +\[", first)
    (kept,) = tmp_path.glob("*diffusion-tta*.jsonl")
    written = kept.read_text(encoding="utf-8")
    assert len(written.splitlines()) == 4
    printed_by(capsys, *command)
    assert kept.read_text(encoding="utf-8") == written  # nothing was run again
    assert not list(tmp_path.glob(".*"))


def test_report_tables_what_evaluations_left(tmp_path, capsys):
    """The numbers that evaluate printed, from the summaries alone, in each format."""
    printed = {}
    for shift in ("fog", "contrast"):
        command = f"evaluate --shift {shift} --images 3 --workers 1 --out"
        printed |= table_in(printed_by(capsys, command, tmp_path / shift, *QUICK), "[")
    rows = list(csv.DictReader(printed_by(capsys, "report --format csv", tmp_path).splitlines()))
    assert [row["shift"] for row in rows] == ["contrast", "fog"]
    for row in rows:
        before, after, gain = (float(n) for n in printed[row["shift"]][:3])
        assert [float(row[k]) for k in ("before", "after", "gain")] == pytest.approx([before, after, gain], abs=0.051)
        assert (row["problem"], row["method"], row["metric"], row["images"]) == (
            "digits", "diffusion-tta", "accuracy", "3",
        )  # fmt: skip
    folders = tmp_path / "fog", tmp_path / "contrast"
    head, rule, *lines = printed_by(capsys, "report --format markdown", *folders).splitlines()
    assert head.startswith("| problem |") and set(rule) <= set("| -") and len(lines) == 2 and "| fog |" in lines[0]
    assert printed_by(capsys, "report", tmp_path).count("digits") == 2
    assert "holds no summaries; make one with" in refused(capsys, "report", tmp_path / "elsewhere")
    (file,) = (tmp_path / "fog").glob("*.summary.json")
    file.write_text(file.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    assert "is damaged; delete it and give the command that made it again" in refused(capsys, "report", tmp_path)


def test_evaluate_all_shifts_ends_with_their_mean(capsys):
    lines = table_in(printed_by(capsys, "evaluate --shift all --images 1 --workers 1 --method none"), "[")
    assert next(iter(lines)) == "clean" and [*lines][-1] == "mean" and len(lines) == 14
    before = [float(columns[0]) for columns in lines.values()]
    assert before[-1] == pytest.approx(sum(before[1:-1]) / 12, abs=0.06)  # of the shifts, without clean
    assert before[-1] != pytest.approx(sum(before[:-1]) / 13, abs=0.06)


def test_the_main_metric_may_be_named(capsys):
    command = "evaluate --shift fog --images 2 --workers 1 --method none"
    usual, named = (printed_by(capsys, command, *metric).splitlines() for metric in ([], ["--metric", "accuracy"]))
    assert usual[:-1] == named[:-1]  # but for the seconds


# --- a number, or several, for each pixel --------------------------------------------------------------


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_adapt_prints_maps_and_their_metrics(tmp_path, capsys, task):
    problem = tiny.dense_problem(task)
    x, truth = problem.image(3, "fog")
    with torch.no_grad():
        before = problem.model(x)
    command = f"adapt --problem tiny_problems:{task} --index 3 --shift fog --out"
    table = table_in(printed_by(capsys, command, tmp_path, *QUICK), " ")
    sums = problem.sums(before, truth) | {"images": 1}
    for name in list(problem.metrics)[:4]:
        assert float(table[name][0]) == pytest.approx(problem.metrics[name](sums), abs=0.006, nan_ok=True)
    if task == "depth":
        depths = [float(table[name][0]) for name in ("nearest", "mean", "furthest")]
        assert depths == pytest.approx([f(before).item() for f in (torch.amin, torch.mean, torch.amax)], abs=0.006)
    else:
        for j, name in enumerate(problem.classes):
            share = (before.argmax(1) == j).float().mean().item()
            assert float(table[name][0].rstrip("%")) == pytest.approx(100 * share, abs=0.06)
    with Image.open(tmp_path / f"tiny_problems-{task}-3-fog-adapted.png") as figure:
        assert figure.width > figure.height


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_adapt_to_a_picture_whose_truth_is_unknown(tmp_path, capsys, task):
    Image.new("RGB", (30, 20), (200, 90, 40)).save(tmp_path / "a.png")
    command = f"adapt --problem tiny_problems:{task}"
    printed = printed_by(capsys, command, tmp_path / "a.png", "--out", tmp_path, *QUICK)
    assert "before" in printed
    assert not any(name in printed for name in tiny.dense_problem(task).metrics)
    assert (tmp_path / "a-adapted.png").exists()


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_what_adaptation_did_to_a_map_is_drawn(task):
    """Image, truth if there is one, before, after and where it moved; the loss if there is one."""
    problem = tiny.dense_problem(task)
    x, truth = problem.image(0)
    with torch.no_grad():
        before, after = problem.model(x), problem.model(x.flip(3))
    for label, losses, panels in ((truth, [0.3, 0.2], 6), (truth, [], 5), (None, [0.3], 5), (None, [], 4)):
        fig = figures.adaptation(problem, x, before, after, label, losses)
        assert isinstance(fig, matplotlib.figure.Figure)
        assert len(fig.axes) == panels
        assert sum(bool(ax.images) for ax in fig.axes) == panels - bool(losses)
        assert fig.axes[0].images[0].get_array().shape == (8, 8, 3)
        if losses:
            assert fig.axes[-1].lines[0].get_ydata().tolist() == losses


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize("method", ["none", "augmentation"])
def test_evaluate_prints_every_metric(capsys, tmp_path, task, method):
    problem = tiny.dense_problem(task)
    command = f"evaluate --problem tiny_problems:{task} --shift fog --images 3 --workers 1 --method {method} --out"
    printed = printed_by(capsys, command, tmp_path)
    lines = table_in(printed, "[")
    assert lines.keys() == {"fog", *problem.metrics} - {problem.metric}
    sums = totals(problem, "fog", 3)
    for name, line in lines.items():
        expected = problem.metrics[problem.metric if name == "fog" else name](sums)
        assert float(line[0]) == pytest.approx(expected, abs=0.006, nan_ok=True)
    assert f"{method} against no adaptation, {problem.metric}, 3 test images" in printed
    kept = (tmp_path / f"tiny_problems-{task}-{method}-test.jsonl").read_text(encoding="utf-8")
    assert next(iter(sums)) in kept


@pytest.mark.parametrize(("task", "metric"), [("segmentation", "IoU b"), ("depth", "AbsRel")])
def test_evaluate_shows_the_metric_that_is_asked_for(capsys, task, metric):
    problem = tiny.dense_problem(task)
    command = f"evaluate --problem tiny_problems:{task} --images 2 --workers 1 --method none"
    printed = printed_by(capsys, command, "--shift", "all", "--metric", metric)
    lines = table_in(printed, "[")
    assert list(lines) == ["clean", *problem.shifts, "mean"]
    assert float(lines["clean"][0]) == pytest.approx(problem.metrics[metric](totals(problem, "clean", 2)), abs=0.006)
    assert "other metrics" not in printed
    assert f"none against no adaptation, {metric}, 2 test images" in printed
    sentence = refused(capsys, *command.split(), "--metric", "accuracy")
    assert f"{problem.name} has no metric 'accuracy'; it has {', '.join(problem.metrics)}" in sentence


@pytest.mark.parametrize(("task", "method"), [("segmentation", "ensemble"), ("depth", "tent")])
def test_methods_of_another_task_are_refused(capsys, task, method):
    command = ["--problem", f"tiny_problems:{task}", "--method", method]
    for given in (["evaluate", "--images", "2"], ["adapt", "--index", "0"]):
        assert f"{method} does not suit {task}" in refused(capsys, *given, *command)


def test_bench_prints_ratios_with_the_state_of_tf32(capsys):
    printed = printed_by(capsys, "bench --samples 4 --micro-batch 2")
    ratios = r"TF32.*\n  naive / eager = ([\d.]+)\n  matrix product / eager = ([\d.]+)\n"
    ratio, share = map(float, re.search(ratios, printed).groups())
    difference = float(re.search(r"gradients differ by (\S+),", printed)[1])
    assert ratio > 0 and share > 0 and difference < 1e-5
    assert max(map(len, printed.splitlines())) <= 60


def test_cases_are_printed_and_kept(tmp_path, capsys):
    out = tmp_path / "new" / "bench.json"
    command = "bench --case dit-toy --case sd-toy-joint --precision bfloat16 --steps 1 --samples 6 --out"
    printed = printed_by(capsys, command, out)
    kept = json.loads(out.read_text(encoding="utf-8"))
    assert [case["case"] for case in kept] == ["dit-toy", "sd-toy-joint"]
    for case in kept:
        assert f"{case['case']}: 1 steps of 6 pairs, bfloat16, random weights" in printed
        assert case["cosine"] > 0.999 and case["evaluations"] == 6 and case["precision"] == "bfloat16"
        assert case["torch"] and case["device"] and "TF32" in case["tf32"]
        assert min(case["naive"], case["eager"], case["matmul"]) > 0
    assert "unknown networks 'vgg'; choose from dit-256" in refused(capsys, "bench", "--case", "vgg")


def test_train_writes_weights_that_load(tmp_path, capsys, monkeypatch):
    printed_by(capsys, "train digits --only vit --steps 2 --to", tmp_path)
    assert (tmp_path / "digits" / "vit.json").exists()
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    assert "make it with: dtta train digits --only resnet" in refused(capsys, "adapt", "--index", "0")
    from dtta.problems import digits
    from dtta.problems.training import weights

    weights.ready("digits", digits.NETWORKS, "vit")


def test_two_images_of_one_name_are_refused(tmp_path, capsys):
    for kind in ("png", "bmp"):
        Image.new("L", (8, 8)).save(tmp_path / f"a.{kind}")
    assert "share a name" in refused(capsys, "adapt", tmp_path, "--out", tmp_path / "out")


def test_unreadable_images_and_empty_folders(tmp_path, capsys):
    (tmp_path / "._a.png").write_bytes(b"macOS leaves such files in archives")
    assert "holds no images" in refused(capsys, "adapt", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert "not a readable image" in refused(capsys, "adapt", tmp_path / "broken.png")


def test_damaged_weights(tmp_path, capsys, monkeypatch):
    from dtta.problems.training import weights

    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    for name in ("resnet", "unet"):
        for kind in (".safetensors", ".json"):
            original = weights.path_of("digits", name, weights.Path(weights.__file__).parents[2] / "weights")
            copy = weights.path_of("digits", name, tmp_path).with_suffix(kind)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(original.with_suffix(kind).read_bytes())
    with (tmp_path / "digits" / "unet.safetensors").open("r+b") as file:
        file.seek(5000)
        file.write(b"\xff\xff")
    assert "is damaged: its checksum" in refused(capsys, "adapt", "--index", "0")


# --- what is imported ---------------------------------------------------------------------------------

LIGHT = ["--help", "--version", "report ROWS", "report --help", "fetch --help", "evaluate --help", "adapt --help",
         "evaluate --preset list", "train --help", "doctor --help", "bench --help"]  # fmt: skip
WATCH = """
import json, sys
from dtta.cli import main
for line in sys.argv[1:]:
    try:
        assert main(line.split()) == 0
    except SystemExit as stop:
        assert stop.code == 0
    slow = {name.partition(".")[0] for name in sys.modules} & {"torch", "diffusers", "transformers", "matplotlib"}
    print("imported by", line, sorted(slow))
"""


def test_commands_that_compute_nothing_import_neither_torch_nor_diffusers(tmp_path, capsys):
    assert main(["evaluate", "--images", "2", "--method", "none", "--workers", "1", "--out", str(tmp_path)]) == 0
    lines = [line.replace("ROWS", str(tmp_path)) for line in LIGHT]
    done = subprocess.run([sys.executable, "-c", WATCH, *lines], capture_output=True, check=False, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("imported by")] == [
        f"imported by {line} []" for line in lines
    ]
    assert "dtta adapt --index 12 --shift fog" in done.stdout and "95% interval" in done.stdout


def test_the_compiler_is_not_imported_by_a_plain_evaluation():
    """torchvision and diffusers import parts of torch._dynamo; the compiler behind it is for those who compile."""
    code = """
import sys
from dtta.cli import main
assert main("evaluate --images 1 --workers 1 --set steps=1 --set samples=1".split()) == 0
print("compiler:", "torch._inductor.compile_fx" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, encoding="utf-8")
    assert "compiler: False" in done.stdout


def test_one_evaluation_loads_its_problem_once(monkeypatch, capsys):
    loads, original = [], tiny_problems.classification
    monkeypatch.setattr(tiny_problems, "classification", lambda: loads.append(1) or original())
    command = "evaluate --problem tiny_problems:classification --images 2 --workers 1 --set steps=1 --set samples=2"
    assert main(command.split()) == 0
    assert len(loads) == 1


@pytest.mark.parametrize(("gpu", "expected"), [(True, 1), (False, 2)])
def test_one_process_on_a_gpu_unless_workers_are_given(monkeypatch, gpu, expected):
    seen = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(evaluate, "compare", lambda options, processes: seen.append(options.workers))
    assert main(["evaluate"]) == main(["evaluate", "--workers", "3"]) == 0
    assert seen == [expected, 3]

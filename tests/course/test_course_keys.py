"""What graders are told: every statement of a key holds for what the reference prints under five variants."""

from __future__ import annotations

import re

import nbformat
import pytest
from references import SEEDS, digest, reports_digest, stored
from trip import ROOT

from dtta.course.staff import build, source

KEYS = source.keys(ROOT)


def numbers(lines: list[str], last: int) -> list[list[float]]:
    """The last numbers of each line."""
    return [[float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e-?\d+)?", line)[-last:]] for line in lines]


def a1(lines):
    low, middle, high = (row[0] for row in numbers(lines, 2))
    yield "The middle range finds the true class in at least 19 of 20 images.", middle >= 19
    yield "The high range finds it in at least 18 of 20 images, far above the 2 of chance.", high >= 18
    yield "The low range is the worst of the three.", low < min(middle, high)


def a2(lines):
    parts = [re.match(r"temperature (\d), (\S+) on the (\w+) class: (\S+)", line).groups() for line in lines]
    size = {(int(temperature), where, p): float(value) for temperature, p, where, value in parts}
    falls = [size[1, "wrong", p] / size[1, "wrong", "0.999"] for p in ("0.9", "0.99")]
    vanishes = 70 <= falls[0] <= 100
    yield (
        "Without a temperature the gradient of a wrong belief falls by a factor of 70 to 100 from 0.9 to 0.999.",
        vanishes,
    )
    law = 9 <= falls[1] <= 11
    yield "Without a temperature it falls by 9 to 11 from 0.99 to 0.999, as 1 - p does.", law
    wrong, true = (size[3, where, "0.999"] / size[1, where, "0.999"] for where in ("wrong", "true"))
    gains, costs = 35 <= wrong <= 70, 70 <= true <= 350
    yield "With the temperature the gradient at 0.999 on a wrong class is 35 to 70 times as large.", gains
    yield "With the temperature the gradient at 0.999 on the true class is 70 to 350 times as large.", costs


def a3(lines):
    (before, after, *noise), (right, turned, *rotation) = numbers(lines, 4)
    yield (
        "Under Gaussian noise the whole interval is above zero: a gain is established.",
        min(noise) > 0 and after > before,
    )
    yield "Under rotation no gain is established: the interval contains zero or is below it.", rotation[0] <= 0
    small = -8 <= turned - right <= 1
    yield "Under rotation the change is at most one digit up and at most eight digits down.", small


def a4(lines):
    contrast_low, contrast_high, noise_low, noise_high = (row[0] for row in numbers(lines, 2))
    both = min(contrast_low, contrast_high) > 50
    yield "Under contrast descent raises the true class at more than half of the wrong pixels, in both ranges.", both
    less = noise_low < 50
    yield "Under Gaussian noise the low timesteps raise the true class at less than half of the wrong pixels.", less
    lower = contrast_low > contrast_high
    yield "Under contrast the low timesteps are better than the high ones at the wrong pixels.", lower
    better = noise_high > noise_low
    yield "Under Gaussian noise the high timesteps are better than the low ones at the wrong pixels.", better


def a5(lines):
    rows = dict(zip(("times 1.3", "times 2", "blurred", "mirrored"), numbers(lines, 3), strict=True))
    errors, losses = ({name: row[i] for name, row in rows.items()} for i in (0, 1))
    yield "By AbsRel, doubled distances are the worst error.", max(errors, key=errors.get) == "times 2"
    order = sorted(losses, key=losses.get, reverse=True)
    yield "By the diffusion loss, mirrored is the worst and blurred the second.", order[:2] == ["mirrored", "blurred"]
    mild = order[-1] == "times 1.3" and losses["times 1.3"] <= 0.5
    yield (
        "By the diffusion loss, a factor of 1.3 is the mildest error: it raises the loss by at most 0.5 thousandths.",
        mild,
    )


def a6(lines):
    rows = {
        tuple(re.match(r"layer (\d), (\w)", line).groups()): row
        for line, row in zip(lines, numbers(lines, 2), strict=True)
    }
    ratios = [rows[layer, "v"][0] / rows[layer, "q"][0] for layer in "0123"]
    yield (
        "Relative to their weights the values change three to twenty-five times as much as the queries, in all layers.",
        min(ratios) >= 3 and max(ratios) <= 25,
    )
    first = {name: row[1] for name, row in rows.items()}
    yield "The first singular value holds more than half of the squared size in every layer.", min(first.values()) > 0.5
    weakest = min(first, key=first.get)
    yield (
        "The update with the weakest first direction is that of the values of layer 0 or layer 1, at 0.61 to 0.67.",
        weakest in {("0", "v"), ("1", "v")} and 0.61 <= first[weakest] <= 0.67,
    )


def a7(lines):
    rows = numbers(lines, 6)
    ratios = [row[0] / row[-1] for row in rows]
    yield (
        "From 1 to 48 pairs the noise falls by a factor of 6 to 9, near √48 = 6.9, in every row.",
        all(6 <= ratio <= 9 for ratio in ratios),
    )
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    lower = all(a > b for l2, l1 in pairs for a, b in zip(l2, l1, strict=True))
    factor = [l2[0] / l1[0] for l2, l1 in pairs]
    yield (
        "L1 is less noisy than L2 on every digit, by a factor of 1.08 to 2.9 for one pair.",
        lower and min(factor) >= 1.08 and max(factor) <= 2.9,
    )


def a8(lines):
    rows = {
        (shift, way): [int(n) for n in re.findall(r"\d+", counts)]
        for shift, way, counts in (re.match(r"(\w+), (\w+): (.*)", line).groups() for line in lines)
    }  # kept, of how many, corrected, of how many
    contrast = [rows["contrast", way] for way in ("all", "norm", "logits")]
    turned = [rows["rotation", way] for way in ("all", "norm", "logits")]
    kept = all(row[0] == row[1] for row in contrast)
    yield "Under low contrast all three ways keep every digit that was right.", kept
    most = contrast[2][2] >= max(contrast[0][2], contrast[1][2])
    yield "Under low contrast the logits from zero correct at least as many as the other two ways.", most
    least = turned[2][0] <= min(turned[0][0], turned[1][0])
    yield "Under rotation the logits from zero keep no more than the other two ways.", least
    yield "Under rotation all parameters and the norm layers give the same two counts.", turned[0] == turned[1]


CLAIMS = {claims.__name__: claims for claims in (a1, a2, a3, a4, a5, a6, a7, a8)}


@pytest.mark.parametrize("key", sorted(CLAIMS))
def test_every_statement_of_a_key_holds_in_five_variants(key):
    made = stored(key)
    assert made["code"] == digest(key), f"call: python tests/course/references.py {key}"
    text = " ".join(" ".join(source.read(ROOT, key).grading.values()).split())
    for seed in SEEDS:
        for sentence, holds in CLAIMS[key](made[str(seed)]):
            assert sentence in text, f"the key of {key} must say: {sentence}"
            assert holds, f"variant {seed}: {sentence}\n" + "\n".join(made[str(seed)])
    said = {sentence for sentence, _ in CLAIMS[key](made["0"])}
    bullets = re.findall(r"^\* (.+(?:\n  .+)*)", "\n".join(source.read(ROOT, key).grading.values()), re.MULTILINE)
    assert {" ".join(bullet.split()) for bullet in bullets} <= said, "each statement of a key is checked"


def test_the_sample_reports_quote_real_runs_and_their_marks_add_up():
    page = (ROOT / "book" / "project_reports.md").read_text(encoding="utf-8")
    made = stored("reports")
    assert made["code"] == reports_digest(), "call: python tests/course/references.py reports"
    for name in ("good", "poor"):
        assert "```text\n" + "\n".join(made[name]) + "\n```" in page
    for table in re.findall(r"\| criterion \|.*?\*\*sum\*\* \| \*\*(?:\d+)", page, re.DOTALL):
        marks, total = re.findall(r"^\| [^|*]+ \| (\d) \|", table, re.MULTILINE), int(table.rpartition("**")[2])
        assert len(marks) == 10 and sum(map(int, marks)) == total


def test_every_experiment_has_a_key_that_is_checked():
    graded = {key for key in KEYS if key != "project" and any(task.manual for task in source.read(ROOT, key).tasks)}
    assert graded == set(CLAIMS)


@pytest.mark.parametrize("key", KEYS)
def test_the_key_is_on_the_graders_sheet_and_in_no_notebook(key):
    assignment = source.read(ROOT, key)
    sheet = build.grading(assignment)
    students = (ROOT / "notebooks" / "assignments" / f"{assignment.name}.ipynb").read_text(encoding="utf-8")
    text = nbformat.writes(assignment.notebook) + students
    for task in (task for task in assignment.tasks if task.manual):
        assert source.rubric(assignment, task) in sheet
        for name in task.manual:
            for line in assignment.grading[name].splitlines():
                assert line in sheet and (len(line) < 20 or line not in text)

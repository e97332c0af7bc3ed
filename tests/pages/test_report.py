"""Lines and tables carry their tolerance, and the comparison of outputs applies it."""

from __future__ import annotations

import pytest
from nbformat.v4 import new_output

from dtta.evaluation.statistics import bootstrap_interval
from dtta.pages import report
from tools.pages.tolerance import agree, tolerance_of

LINE = "seed 3\naccuracy {} of 300 resnet18\nrate 1e-3"


@pytest.fixture
def displayed(monkeypatch):
    """Return a function that gives the last output as a notebook stores it."""
    outputs = []

    def display(data, metadata, raw):
        assert raw
        outputs.append(new_output("display_data", data, metadata=metadata))

    monkeypatch.setattr("IPython.display.display", display)
    return lambda: outputs[-1]


@pytest.mark.parametrize(
    ("fresh", "committed", "same"),
    [
        (LINE.format("71.3"), LINE.format("71.3"), True),
        (LINE.format("71.3"), LINE.format("71.8"), True),
        (LINE.format("71.3"), LINE.format("71.9"), False),
        (LINE.format("9.9"), LINE.format(" 10.2"), True),
        (LINE.format("-0.1"), LINE.format("0.2"), True),
        (LINE.format("−0.3"), LINE.format("0.4"), False),
        (LINE.format("71.3"), LINE.format("71.30"), False),
        (LINE.format("71.3"), LINE.format("71"), False),
        (LINE.format("71.3"), LINE.format("71.3").replace("300", "301"), False),
        (LINE.format("71.3"), LINE.format("71.3").replace("resnet18", "resnet19"), False),
        (LINE.format("71.3"), LINE.format("71.3").replace("accuracy", "Accuracy"), False),
        (LINE.format("71.3"), LINE.format("71.3").replace("seed 3", "seed 4"), False),
        (LINE.format("71.3"), LINE.format("71.3").replace("1e-3", "2e-3"), False),
        (LINE.format("71.3"), LINE.format("71.3") + "\nmore", False),
        ("<td>71.3</td><td>300</td>", "<td>71.7</td><td>300</td>", True),
        ("<td>71.3</td><td>300</td>", "<td>72.7</td><td>300</td>", False),
    ],
)
def test_numbers_agree_within_the_tolerance_and_words_exactly(fresh, committed, same):
    assert agree(fresh, committed, tolerance=0.5) is same
    assert agree(fresh, fresh, tolerance=0.5)


@pytest.mark.parametrize(
    ("whole", "committed", "same"), [(0, 300, True), (0, 301, False), (2, 302, True), (2, 297, False)]
)
def test_whole_numbers_agree_within_their_own_tolerance(whole, committed, same):
    assert agree("71.3% of 300", f"71.3% of {committed}", tolerance=50, whole=whole) is same
    assert not agree("60,300", "61,300", tolerance=50, whole=2)


def test_line_shows_its_tolerance_and_stores_it(displayed):
    report.line("repaired 40 of 300, 13.3%", tolerance=0.5, whole=2)
    output = displayed()
    assert output.data == {
        "text/plain": "repaired 40 of 300, 13.3%\n"
        "(on another machine, values may differ by up to 0.5, whole numbers by up to 2)"
    }
    assert tolerance_of(output) == {"tolerance": 0.5, "whole": 2}
    report.line("repaired 40 of 300", tolerance=0.5, whole=2)
    assert displayed().data["text/plain"].endswith("\n(on another machine, values may differ by up to 2)")
    report.line("accuracy 71.3%\nloss 0.2", tolerance=0.5)
    assert tolerance_of(displayed()) == {"tolerance": 0.5, "whole": 0}
    assert displayed().data["text/plain"].splitlines()[:2] == ["accuracy 71.3%", "loss 0.2"]


LONG = "later images: teacher {} [-6.0, -1.7], difference +0.9 [-0.9, 2.8]; clean images: teacher -4.3 [-5, 1]"
WRAPPED = LONG.replace("2.8]; ", "2.8];\n  ")


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (LONG.format("-3.8"), WRAPPED.format("-3.8")),
        (f"gains:\n  {LONG}".format("-3.8"), "gains:\n  " + WRAPPED.format("-3.8").replace("\n", "\n  ")),
        ("accuracy 71.3\n\nof 300", "accuracy 71.3\n\nof 300"),
        # between words where there is no comma, but not before an interval, in it, or in an option
        (f"{'word ' * 14}teacher -3.8 [-6.0, -1.7] end", f"{'word ' * 14}teacher\n  -3.8 [-6.0, -1.7] end"),
        (f"{'word ' * 13}at 9.5 try --set t_min=0.25 first", f"{'word ' * 13}at 9.5 try\n  --set t_min=0.25 first"),
        (f"{'x' * 90} 9.5", f"{'x' * 90}\n  9.5"),
        # the row of a table
        (f"{'name':40}  {'-3.8 [-6.0, -1.7]':30}  {'+0.9 [-0.9, 2.8]':30}",) * 2,
    ],
)
def test_long_lines_are_wrapped_between_phrases(displayed, text, lines):
    report.line(text, tolerance=0.05)
    assert displayed().data["text/plain"] == f"{lines}\n(on another machine, values may differ by up to 0.05)"


def test_a_number_of_another_length_may_wrap_a_line_elsewhere(displayed):
    def shown(number):
        report.line(f"{'word, ' * 10}and the teacher {number}, end 0.5", tolerance=0.5)
        return displayed().data["text/plain"]

    first, second = shown("9.9"), shown("10.2")
    assert [line.count(",") for line in first.splitlines()] != [line.count(",") for line in second.splitlines()]
    assert agree(first, second, tolerance=0.5) and not agree(first, shown("10.5"), tolerance=0.5)
    assert not agree("loss 0.5\naccuracy 9.5", "loss 0.5 accuracy 9.5", tolerance=0.5)


def test_report_refuses_digits_without_meaning_and_tolerances_without_use(displayed):
    with pytest.raises(ValueError, match=r"71\.25 has more digits than are meaningful at ±0\.5"):
        report.line("accuracy 71.25", tolerance=0.5)
    with pytest.raises(ValueError, match="no number with a decimal point"):
        report.line("300 images", tolerance=0.5)
    with pytest.raises(ValueError, match="tolerance must be a positive number"):
        report.line("accuracy 71.2", tolerance=0)
    with pytest.raises(ValueError, match="has more digits"):
        report.table([{"gain": "3.25"}], tolerance=0.5)
    report.line("rate 5e-3, accuracy 71.2", tolerance=0.5)


def test_table_rounds_to_its_tolerance_and_keeps_whole_numbers(displayed):
    row = {"shift": "a<b", "gain": -0.04, "n": 300, "N": 60_300, "none": float("nan")}
    report.table([row], tolerance=0.5, caption="Gains")
    text, html = displayed().data["text/plain"], displayed().data["text/html"]
    assert text.splitlines() == [
        "Gains",
        "shift  gain    n       N  none",
        "a<b     0.0  300  60,300     –",
        "(on another machine, values may differ by up to 0.5)",
    ]
    assert '<th scope="col" style="text-align: right">gain</th>' in html
    assert '<td style="text-align: left">a&lt;b</td><td style="text-align: right">0.0</td>' in html
    assert "<caption>Gains</caption>" in html
    assert tolerance_of(displayed()) == {"tolerance": 0.5, "whole": 0}


def test_table_without_digits_has_a_tolerance_for_whole_numbers(displayed):
    report.table([{"accuracy": 97.4}], tolerance=4.5, digits=0)
    text, limits = displayed().data["text/plain"], tolerance_of(displayed())
    assert text.splitlines()[1].strip() == "97"
    assert limits == {"tolerance": 4.5, "whole": 4}
    assert agree(text, text.replace("97", "93"), **limits)
    assert not agree(text, text.replace("97", "92"), **limits)
    with pytest.raises(ValueError, match="no number with a decimal point in the table"):
        report.table([{"accuracy": 97.4}], tolerance=0.5, digits=0)


def test_a_gain_has_its_interval_and_no_negative_zero():
    assert report.interval({"gain": 2.46, "low": -0.04, "high": 3.5}) == "+2.5 [0.0, 3.5]"
    differences = [1.0, 0.0, 2.0, 1.0]
    low, high = bootstrap_interval(differences)
    assert report.interval(differences, digits=2) == f"+1.00 [{low:.2f}, {high:.2f}]"


def test_intervals_and_words_with_a_hyphen_stay_on_one_line_in_the_book():
    html = report.to_html(
        [{"run": "diffusion-tta, vit", "gain": "+8.1 [5.5, 10.8]", "paper": "+4.6 ± 4.1", "why": "1e-5, --lr, --as-is"}]
    )
    for words in ("diffusion-tta", "+8.1 [5.5, 10.8]", "+4.6 ± 4.1", "1e-5", "--lr", "--as-is"):
        assert f'<span class="dtta-whole">{words}</span>' in html
    assert report.keep_whole('<td style="text-align: left">0.1</td>') == '<td style="text-align: left">0.1</td>'

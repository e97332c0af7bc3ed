"""The plots show what they are given."""

from __future__ import annotations

from itertools import combinations
from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from dtta.pages import figures
from dtta.problems.scenes.world import CLASSES

pytestmark = pytest.mark.usefixtures("closed")


@pytest.fixture
def show(displayed, monkeypatch):
    """Show a figure and keep it open: after closing it, matplotlib measures its texts wrongly."""

    def show(fig):
        with monkeypatch.context() as patch:
            patch.setattr(plt, "close", lambda fig: None)
            figures.show(fig, alt="Points and their labels, for the test.")

    return show


def test_gain_by_classes_draws_every_gain_at_its_number_of_classes():
    def gain(value):
        return dict(gain=value, low=value - 2, high=value + 1)

    over_none = {
        "digits": {"a": {10: gain(4)}, "b": {10: gain(5)}},
        "scenes": {"a": {5: gain(1), 120: gain(3)}, "b": {5: gain(2), 120: gain(-6)}},
    }
    over_a = {"digits": {"b": {10: gain(1)}}, "scenes": {"b": {5: gain(1), 120: gain(-9)}}}
    fig = figures.gain_by_classes({"over none": over_none, "over a": over_a}, budget=60)
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["digits", "scenes", "", ""]
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ["a", "b"]
    ax = fig.axes[1]
    curves = {line.get_label(): line for line in ax.lines if line.get_label() in ("a", "b")}
    for method, points in over_none["scenes"].items():
        x, y = curves[method].get_data()
        assert y.tolist() == [g["gain"] for g in points.values()]
        np.testing.assert_allclose(x, list(points), rtol=0.1)  # side by side
    assert sorted(curves["a"].get_xdata() < curves["b"].get_xdata()) == [True, True]
    colours = {to_hex(curves[m].get_color()) for m in curves}
    (below,) = [line for line in fig.axes[3].lines if line.get_label() == "b"]
    assert len(colours) == 2 and to_hex(below.get_color()) == to_hex(curves["b"].get_color())
    hollow = [line for line in ax.lines if to_hex(line.get_markerfacecolor()) == "#ffffff"]
    assert sorted(line.get_ydata().tolist() for line in hollow) == [[-6], [3]]
    ends = [np.sort(segment[:, 1]).tolist() for bars in ax.collections for segment in bars.get_segments()]
    assert sorted(ends) == sorted([g["low"], g["high"]] for of in over_none["scenes"].values() for g in of.values())


def test_forest_marks_significant_gains():
    gains = {
        "sure": dict(gain=5, low=2, high=8),
        "unsure": dict(gain=1, low=-2, high=4),
        "worse": dict(gain=-4, low=-6, high=-2),
    }
    ax = figures.forest(gains, "title").axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["worse", "unsure", "sure"]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [float(d.get_xdata()[0]) for d in dots] == [-4, 1, 5]
    assert [to_hex(d.get_markerfacecolor()).upper() for d in dots] == [figures.VERMILION, "#FFFFFF", figures.BLUE]
    intervals = [line for line in ax.lines if line.get_marker() == "None" and len(set(line.get_xdata())) == 2]
    assert len(intervals) == 3 and {line.get_solid_capstyle() for line in intervals} == {"butt"}


def test_mean_interval_is_the_interval_of_the_mean():
    curves = torch.tensor([[0.0, 2.0], [2.0, 4.0], [1.0, 3.0]])
    _, ax = plt.subplots()
    figures.mean_interval(ax, [0, 1], curves, figures.BLUE, "curve")
    assert ax.lines[0].get_ydata().tolist() == [1.0, 3.0]
    edge = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert edge.max() == pytest.approx(3 + 1.96 / 3**0.5, abs=1e-5)


def test_belief_shows_both_beliefs_and_the_loss():
    before, after = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.8, 0.1])
    fig = figures.belief(torch.rand(1, 1, 8, 8), before, after, "abc", [0.3, 0.2])
    heights = [bar.get_height() for bar in fig.axes[1].patches]
    assert heights == pytest.approx([*before.tolist(), *after.tolist()])
    assert fig.axes[2].lines[0].get_ydata().tolist() == pytest.approx([0.3, 0.2])
    assert len(figures.belief(torch.rand(1, 1, 8, 8), before, after, "abc").axes) == 2  # no empty panel


def test_of_many_classes_the_believed_ones_are_drawn_with_their_names():
    before, after = torch.zeros(20), torch.zeros(20)
    before[3], before[7], after[3], after[11] = 0.9, 0.1, 0.2, 0.8
    _, ax = plt.subplots()
    figures.bars(ax, before, after, [f"a thing called {j}" for j in range(20)], limit=3)
    assert [t.get_text()[-2:].strip() for t in ax.get_yticklabels()] == ["3", "11", "7"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0.9, 0, 0.1, 0.2, 0.8, 0])
    assert ax.yaxis_inverted()


def test_a_given_order_of_classes_is_kept():
    before, after = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.8, 0.1])
    _, (few, many) = plt.subplots(1, 2)
    figures.bars(few, before, after, "abc", order=[1, 0])
    assert [t.get_text() for t in few.get_xticklabels()] == ["b", "a"]
    assert [bar.get_height() for bar in few.patches] == pytest.approx([0.2, 0.7, 0.8, 0.1])
    figures.bars(many, before, after, ["the first", "the second", "the third"], limit=1, order=[2, 0])
    assert [t.get_text() for t in many.get_yticklabels()] == ["the third", "the first"]


def test_loss_gap_draws_differences_from_the_truth():
    losses = torch.rand(5, 3, 4)
    fig = figures.loss_gap(range(4), {"a": losses, "b": losses}, ("one", "two"), "its name")
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["a", "b"]
    assert "its name, × 1000" in fig.axes[0].get_ylabel()
    formatter = fig.axes[0].yaxis.get_major_formatter()
    assert [formatter(value, None) for value in (0.1, 0, -0.001)] == ["100", "0", "−1"]
    assert [t.get_text() for t in fig.legends[0].texts] == ["one", "two"]
    drawn = torch.as_tensor(fig.axes[1].lines[2].get_ydata())
    torch.testing.assert_close(drawn, (losses[:, 2] - losses[:, 0]).mean(0), check_dtype=False)


def test_gallery_takes_grey_and_colour_and_hides_empty_places():
    fig = figures.gallery([torch.rand(1, 4, 4), torch.rand(3, 4, 4), torch.rand(1, 4, 4)], "abc", columns=2)
    assert [bool(ax.images) for ax in fig.axes] == [True, True, True, False]


def test_a_segmentation_has_a_colour_for_each_class_that_stays():
    assert len(set(figures.SEGMENTS)) == len(CLASSES)
    assert set(figures.SEGMENTS) <= {*figures.PALETTE, figures.GREY}
    for classes in (torch.arange(7).view(1, 7), torch.tensor([[3, 5]])):  # few classes: the same colours
        _, ax = plt.subplots()
        figures.segmentation(ax, classes)
        drawn = ax.images[0].to_rgba(ax.images[0].get_array())[0]
        assert [to_hex(c).upper() for c in drawn] == [figures.SEGMENTS[k] for k in classes[0]]


def test_depth_is_bright_near_and_steps_by_ratios():
    _, ax = plt.subplots()
    figures.depth(ax, torch.tensor([[1.0, 2.0, 4.0, 8.0, 16.0, 99.0]]).requires_grad_(), near=2, far=16)
    image = ax.images[0]
    assert image.norm(image.get_array())[0].tolist() == pytest.approx([0, 0, 1 / 3, 2 / 3, 1, 1], abs=1e-6)
    light = image.to_rgba(image.get_array())[0] @ [0.21, 0.72, 0.07, 0]
    assert (light[1:4] > light[2:5]).all()


def test_a_figure_needs_an_alt_text():
    with pytest.raises(ValueError, match="cannot see it"):
        figures.show(plt.figure(), alt="plot")


def test_a_depth_error_is_red_where_nearer_and_blue_where_further():
    fig, ax = plt.subplots()
    figures.depth_error(ax, torch.tensor([[1.0, 2.0, 4.0]]), torch.full((1, 3), 2.0))
    nearer, same, further = ax.images[0].to_rgba(ax.images[0].get_array())[0, :, :3]
    assert nearer[0] > nearer[2] and further[2] > further[0]
    assert same.min() > 0.9
    plt.close(fig)


def test_a_change_of_depth_is_purple_where_nearer_to_the_truth_and_orange_where_further_off():
    fig, ax = plt.subplots()
    before, after = torch.tensor([[4.0, 2.0, 4.0, 4.0]]), torch.tensor([[2.0, 3.0, 4.0, 2.0]])
    figures.changed_depth(ax, before, after, torch.tensor([[2.0, 2.0, 2.0, 0.0]]))
    better, worse, same, unknown = ax.images[0].to_rgba(ax.images[0].get_array())[0]
    assert better[2] > better[0] and worse[0] > worse[2]
    assert same[:3].min() > 0.9 and unknown[3] == 0
    figures.depth_bar(fig, ax, {0.0: "same"}, "error")
    assert [text.get_text() for text in fig.axes[1].get_yticklabels()] == ["same"]
    plt.close(fig)


def test_the_bar_of_depths_has_powers_of_two():
    fig, ax = plt.subplots()
    figures.depth(ax, torch.ones(2, 2), near=1.5, far=16)
    figures.depth_bar(fig, ax)
    assert [text.get_text() for text in fig.axes[1].get_yticklabels()] == ["2", "4", "8", "16"]
    plt.close(fig)


def test_what_changed_has_colours_that_no_class_has():
    fig, ax = plt.subplots()
    before, after, truth = torch.tensor([[0, 1, 2, 2]]), torch.tensor([[0, 2, 3, 3]]), torch.tensor([[0, 2, 4, 2]])
    figures.changed_classes(ax, before, after, truth)
    figures.class_legend(fig, CLASSES, changes=True)
    drawn = [to_hex(c).upper() for c in ax.images[0].to_rgba(ax.images[0].get_array())[0]]
    assert len(set(drawn)) == 4 and not set(drawn) & set(figures.SEGMENTS)
    legend = fig.legends[0]
    named = {
        t.get_text(): to_hex(p.get_facecolor()).upper() for t, p in zip(legend.texts, legend.get_patches(), strict=True)
    }
    assert [named[name] for name in ("corrected", "still wrong", "made wrong")] == drawn[1:]
    assert [named[name] for name in CLASSES] == list(figures.SEGMENTS)
    plt.close(fig)


def test_named_points_tell_gains_from_losses_and_points_in_one_place_share_a_name():
    def gain(value, half):
        return dict(gain=value, low=value - half, high=value + half)

    fig, ax = plt.subplots()
    x, y = [gain(1.0, 4), gain(-2.0, 1), gain(1.0, 4), gain(0.5, 1)], [gain(v, 0.5) for v in (3.0, -1.0, 3.0, 0.25)]
    figures.named_points(ax, x, y, ["fog", "blur", "night", "jpeg"])
    places = {"fog\nnight": (1, 3), "blur": (-2, -1), "jpeg": (0.5, 0.25)}
    assert {text.get_text(): text.get_position() for text in ax.texts} == places
    points = [line for line in ax.lines if line.get_marker() == "o"]
    drawn = [(p.get_xdata()[0], p.get_ydata()[0]) for p in points]
    assert drawn == [(1.0, 3.0), (-2.0, -1.0), (1.0, 3.0), (0.5, 0.25)]
    assert [p.get_color() for p in points] == [figures.BLUE, figures.VERMILION, figures.BLUE, figures.GREY]
    filled = [p.get_markerfacecolor() for p in points]
    assert filled == [figures.BLUE, figures.VERMILION, figures.BLUE, "white"]
    ends = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in ax.lines if line.get_zorder() == 0.5]
    assert ends[:2] == [([-3.0, 5.0], [3.0, 3.0]), ([1.0, 1.0], [2.5, 3.5])]
    plt.close(fig)


def test_a_named_point_can_have_its_label_at_a_given_place():
    gains = [dict(gain=v, low=v - 1, high=v + 1) for v in (0.0, 2.0)]
    fig, ax = plt.subplots()
    figures.named_points(ax, gains, gains, ["jpeg", "fog"], {"jpeg": (-0.5, -0.7)})
    figures.png(fig)
    placed, moved = ax.texts[:2]
    assert placed.get_text() == "jpeg" and placed.get_position() == (-0.5, -0.7) and placed.xy == (0.0, 0.0)
    assert moved.get_text() == "fog"
    plt.close(fig)


def test_many_classes_have_a_colour_each_and_no_class_is_white():
    fig, ax = plt.subplots()
    figures.segmentation(ax, torch.arange(-1, 150)[None], 150)
    (drawn,) = ax.images
    colours = drawn.cmap(drawn.norm(drawn.get_array()))[0]
    assert colours[0].tolist() == [1, 1, 1, 1] and len(np.unique(colours[1:].round(6), axis=0)) >= 140
    plt.close(fig)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_show_separates_the_labels_of_crowded_points(scale, show):
    fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
    x, y = [0.1, 0.12, 0.13, 0.1, 0.11, 50.0, 49.0], [1.0, 1.02, 1.1, 1.05, 5.0, 1.0, 1.05]
    names = [f"a long name {i}" for i in range(7)]
    for ax in axes:  # two: separating the labels of one must not move the other
        ax.plot(x, y, "o")
        ax.set(xscale=scale, xlim=(0.01, 100))
        figures.label_points(ax, x, y, names)
    show(fig)
    fig.canvas.draw()  # sizes on the page, not in the file
    for ax in axes:
        frame = ax.get_window_extent().padded(0.5)
        boxes = {text.get_text(): text.get_window_extent() for text in ax.texts if text.get_text()}
        assert set(boxes) == set(names)
        for one, other in combinations(boxes.values(), 2):
            assert not one.overlaps(other)
        assert all(frame.contains(*corner) for box in boxes.values() for corner in (box.min, box.max))


def test_labels_at_the_edge_leave_the_axes_their_size(show):
    widths = []
    for names in ([], ["a name that is long", "another long name"]):
        fig, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
        for ax in axes:
            ax.plot([0, 1], [0, 1], "o")
            figures.label_points(ax, [0.0, 1.0][: len(names)], [0.0, 1.0][: len(names)], names)
        show(fig)
        widths.append([ax.get_position().width for ax in axes])
    assert widths[1] == pytest.approx(widths[0], abs=0.003)  # the file is drawn finer than the page


def test_outcomes_star_the_true_class_and_show_its_belief():
    image, before, after = (
        torch.zeros(1, 1, 4, 4),
        torch.tensor([[0.0, 1.0, 3.0, 0.0]]),
        torch.tensor([[0.0, 4.0, 1.0, 0.0]]),
    )
    problem = SimpleNamespace(task="classification", classes=["a", "b", "c", "d"])
    fig = figures.outcomes(problem, {"success": (image, before, after, torch.tensor(1))})
    bars = fig.axes[1]
    assert [label.get_text() for label in bars.get_yticklabels()][:2] == ["b ★", "c"]
    widths = [bar.get_width() for bar in bars.patches]
    assert widths[0] == pytest.approx(before.softmax(1)[0, 1].item())
    assert widths[3] == pytest.approx(after.softmax(1)[0, 1].item())


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_outcomes_of_maps_show_image_truth_before_and_after(task):
    condition = SimpleNamespace(near=1.0, far=10.0)
    problem = SimpleNamespace(task=task, classes=list(CLASSES), condition=condition)
    channels = len(CLASSES) if task == "segmentation" else 1
    output, label = torch.rand(1, channels, 4, 4) + 1, torch.ones(4, 4, dtype=torch.long)
    case = (torch.zeros(1, 3, 4, 4), output, output, label)
    fig = figures.outcomes(problem, {"success": case, "harm": case})
    rows = ["image", "truth", "before", "after", "changed"]
    bars = ["depth", "error"] if task == "depth" else []
    assert [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()] == [*rows, *bars]
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == ["success", "harm"]

"""Metrics from sums, against torchmetrics, scikit-learn and their formulas."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from sklearn.metrics import balanced_accuracy_score
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.image import StructuralSimilarityIndexMeasure

from dtta.problems.metrics import (
    DEPTH_METRICS,
    class_accuracy,
    class_counts,
    depth_errors,
    iou,
    pixel_accuracy,
    segmentation_metrics,
)

L, NEAR, FAR = tiny.CLASSES, 1.5, 12.0
METRICS = segmentation_metrics(tiny.NAMES)
seeds = st.integers(0, 10_000)


def total(each: list[dict]) -> dict:
    """The sums of a data set."""
    return {name: sum(e[name] for e in each) for name in each[0]} | {"images": len(each)}


# --- segmentation --------------------------------------------------------------------------------------


def maps(seed: int, count: int = 4, classes: int = L) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Logits (1, L, 6, 5) and true maps (6, 5), only of the first few classes."""
    g = torch.Generator().manual_seed(seed)
    pairs = []
    for _ in range(count):
        truth = torch.randint(classes, (6, 5), generator=g)
        logits = torch.randn(1, L, 6, 5, generator=g) + 1.5 * F.one_hot(truth, L).movedim(-1, 0)
        logits[:, classes:] = -100
        pairs.append((logits, truth))
    return pairs


def counted(pairs) -> dict:
    return total([class_counts(logits, truth, tiny.NAMES) for logits, truth in pairs])


@given(seeds, st.integers(1, L))
def test_mean_iou_and_accuracies_equal_torchmetrics(seed, classes):
    """Accumulated over images, without the classes that occur neither in the labels nor in the predictions."""
    pairs = maps(seed, classes=classes)
    jaccard, accuracy = MulticlassJaccardIndex(L, average="macro"), MulticlassAccuracy(L, average="macro")
    micro = MulticlassAccuracy(L, average="micro")
    for logits, truth in pairs:
        for metric in (jaccard, accuracy, micro):
            metric.update(logits, truth[None])
    sums = counted(pairs)
    with np.errstate(all="raise"):
        assert METRICS["mean IoU"](sums) == pytest.approx(100 * jaccard.compute().item(), rel=1e-5)
        assert METRICS["mean class accuracy"](sums) == pytest.approx(100 * accuracy.compute().item(), rel=1e-5)
        assert METRICS["pixel accuracy"](sums) == pytest.approx(100 * micro.compute().item(), rel=1e-5)


@given(seeds)
def test_mean_class_accuracy_is_over_the_classes_of_the_truth(seed):
    """As in scikit-learn: a class that is predicted but never true has no accuracy (its IoU is 0)."""
    pairs = [(logits.roll(seed % 2, 1), truth.clamp(max=2)) for logits, truth in maps(seed)]
    true = torch.cat([truth.flatten() for _, truth in pairs])
    called = torch.cat([logits.argmax(1).flatten() for logits, _ in pairs])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about such classes
        expected = balanced_accuracy_score(true, called)
    sums = counted(pairs)
    assert METRICS["mean class accuracy"](sums) == pytest.approx(100 * expected)
    assert np.isnan(class_accuracy(sums, "e"))
    assert iou(sums, "e") == 0
    present = [c for c in tiny.NAMES if sums[f"true {c}"]]
    assert METRICS["mean IoU"](sums) == pytest.approx(np.mean([iou(sums, c) for c in present]))


def test_counts_of_one_image_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, 1, 2]])
    called = torch.tensor([[0, 1, 1], [1, 0, 1]])
    sums = class_counts(F.one_hot(called, L).movedim(-1, 0)[None].float(), truth, tiny.NAMES)
    assert [sums[f"true {c}"] for c in "abcde"] == [2, 3, 1, 0, 0]
    assert [sums[f"called {c}"] for c in "abcde"] == [2, 4, 0, 0, 0]
    assert [sums[f"both {c}"] for c in "abcde"] == [1, 2, 0, 0, 0]
    assert iou(sums, "a") == pytest.approx(100 / 3)
    assert METRICS["IoU b"](sums) == pytest.approx(100 * 2 / 5)
    assert class_accuracy(sums, "b") == pytest.approx(100 * 2 / 3)
    assert np.isnan(iou(sums, "d"))
    assert METRICS["mean IoU"](sums) == pytest.approx(100 * (1 / 3 + 2 / 5 + 0) / 3)
    assert METRICS["mean class accuracy"](sums) == pytest.approx(100 * (1 / 2 + 2 / 3 + 0) / 3)
    assert pixel_accuracy(sums, tiny.NAMES) == pytest.approx(100 * 3 / 6)


@given(seeds)
def test_counts_add_up(seed):
    """The counts of two images are those of their concatenation."""
    (a, true_a), (b, true_b) = maps(seed, count=2)
    together = class_counts(torch.cat([a, b], dim=3), torch.cat([true_a, true_b], dim=1), tiny.NAMES)
    separately = counted([(a, true_a), (b, true_b)])
    assert together == {name: separately[name] for name in together}


def test_metrics_take_arrays_of_sums():
    """Several resamples at once."""
    each = [counted(maps(seed, classes=1 + seed)) for seed in range(4)]
    arrays = {name: np.array([sums[name] for sums in each]) for name in each[0]}
    for metric in METRICS.values():
        np.testing.assert_allclose(metric(arrays), [metric(sums) for sums in each])


# --- depth ---------------------------------------------------------------------------------------------


def depths(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A depth map (1, 1, 16, 12) and a true one (1, 16, 12) with a sky."""
    g = torch.Generator().manual_seed(seed)
    truth = NEAR + 8 * torch.rand(1, 16, 12, generator=g)
    truth[:, : 1 + seed % 5] = FAR
    depth = (truth * (0.3 * torch.randn(1, 16, 12, generator=g)).exp()).clamp(NEAR, FAR)
    return depth[None], truth


@given(seeds)
def test_depth_errors_equal_their_formulas(seed):
    depth, truth = depths(seed)
    errors = depth_errors(depth, truth, NEAR, FAR)
    d, true = depth.double().numpy().ravel(), truth.double().numpy().ravel()
    d, true = d[true < FAR], true[true < FAR]
    assert errors["AbsRel"] == pytest.approx(np.mean(np.abs(d - true) / true), rel=1e-5)
    assert errors["RMSE"] == pytest.approx(np.sqrt(np.mean((d - true) ** 2)), rel=1e-5)
    assert errors["δ < 1.25"] == pytest.approx(np.mean(np.maximum(d / true, true / d) < 1.25), abs=1e-6)


@given(seeds)
def test_ssim_equals_torchmetrics_and_its_formula(seed):
    """Wang et al. (2004), Eq. 13, written out with scipy's Gaussian filter; over the whole map, sky included."""
    depth, truth = depths(seed)
    value = depth_errors(depth, truth, NEAR, FAR)["SSIM"]
    module = StructuralSimilarityIndexMeasure(data_range=FAR - NEAR)
    assert value == pytest.approx(module(depth, truth[None]).item(), abs=1e-6)
    x, y = depth[0, 0].double().numpy(), truth[0].double().numpy()

    def blur(image):
        return gaussian_filter(image, 1.5, mode="mirror", truncate=3.5)

    (c1, c2), mx, my = [(k * (FAR - NEAR)) ** 2 for k in (0.01, 0.03)], blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    ssim = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert value == pytest.approx(ssim.mean(), abs=1e-4)


@given(seeds)
def test_the_sky_is_excluded(seed):
    """The depth predicted for the sky changes only SSIM."""
    depth, truth = depths(seed)
    other = torch.where(truth[None] == FAR, NEAR, depth)
    a, b = (depth_errors(d, truth, NEAR, FAR) for d in (depth, other))
    assert all(a[name] == b[name] for name in ("AbsRel", "RMSE", "δ < 1.25"))
    assert a["SSIM"] > b["SSIM"]


def test_depth_metrics_are_means_over_images():
    each = [depth_errors(*depths(seed), NEAR, FAR) for seed in range(5)]
    for name, times in {"SSIM": 100, "AbsRel": 100, "RMSE": 1, "δ < 1.25": 100}.items():
        assert DEPTH_METRICS[name](total(each)) == pytest.approx(times * np.mean([e[name] for e in each]))
    assert DEPTH_METRICS.keys() == each[0].keys()

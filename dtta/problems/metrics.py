"""Metrics of a data set, from numbers that add up over its images.

For each image a problem returns a few sums; a metric is a function of their totals. So a metric of a data set
(mean IoU, say, which is no mean over images) can be resampled image by image, and rows can be stored.
torchmetrics does the counting and the structural similarity; the tests hold the rest against it.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix
from torchmetrics.functional.image import structural_similarity_index_measure

# --- segmentation -------------------------------------------------------------------------------------


def class_counts(logits: Tensor, target: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """For each class: pixels that are it, that are called it, and both. Logits (1, L, H, W), target (H, W).

    Pixels with a negative target have no label and do not count.
    """
    known = target.flatten() >= 0
    called, true = logits.argmax(1).flatten()[known], target.flatten()[known]
    table = multiclass_confusion_matrix(called, true, len(classes)).cpu()  # [true, called]
    found = {}
    for j, name in enumerate(classes):
        found[f"true {name}"] = table[j].sum().item()
        found[f"called {name}"] = table[:, j].sum().item()
        found[f"both {name}"] = table[j, j].item()
    return found


def iou(sums, name: str):
    """100 x pixels rightly called the class / pixels that are it or are called it. NaN where there are none."""
    both, true, called = (np.asarray(sums[f"{part} {name}"], dtype=float) for part in ("both", "true", "called"))
    either = true + called - both
    return 100 * np.divide(both, either, out=np.full_like(either, np.nan), where=either > 0)


def class_accuracy(sums, name: str):
    """100 x the share of a class's pixels that are called so. NaN where there are none."""
    both, true = (np.asarray(sums[f"{part} {name}"], dtype=float) for part in ("both", "true"))
    return 100 * np.divide(both, true, out=np.full_like(true, np.nan), where=true > 0)


def pixel_accuracy(sums, classes):
    """100 x the share of pixels that are called what they are."""
    return (
        100 * sum(np.asarray(sums[f"both {c}"]) for c in classes) / sum(np.asarray(sums[f"true {c}"]) for c in classes)
    )


def _mean(sums, part, classes):
    """Over the classes that the images have: the same ones for any answer to these images."""
    return np.nanmean([np.where(np.asarray(sums[f"true {c}"]) > 0, part(sums, c), np.nan) for c in classes], axis=0)


def segmentation_metrics(classes: tuple[str, ...]) -> dict:
    """Mean IoU, mean class accuracy (the paper's), pixel accuracy, and the IoU of each class; in percent."""
    return {
        "mean IoU": partial(_mean, part=iou, classes=classes),
        "mean class accuracy": partial(_mean, part=class_accuracy, classes=classes),
        "pixel accuracy": partial(pixel_accuracy, classes=classes),
        **{f"IoU {c}": partial(iou, name=c) for c in classes},
    }


# --- depth --------------------------------------------------------------------------------------------


def depth_errors(depth: Tensor, target: Tensor, near: float, far: float) -> dict[str, float]:
    """Four numbers of one image. Depths (1, 1, H, W) and (1, H, W) in scene units.

    SSIM is that of the whole maps, with a data range of far - near and the library's Gaussian window
    (11 x 11, σ 1.5); the paper states no settings. The others leave out the sky (depth `far`) and what is not known
    (depth 0).
    """
    target = target.view_as(depth)
    there = (target > 0) & (target < far)
    d, true = depth[there], target[there]
    ratio = torch.maximum(d / true, true / d)
    return {
        "SSIM": structural_similarity_index_measure(depth, target, data_range=far - near).item(),
        "AbsRel": ((d - true).abs() / true).mean().item(),
        "RMSE": (d - true).square().mean().sqrt().item(),
        "δ < 1.25": (ratio < 1.25).float().mean().item(),
    }


def scaled_depth_errors(depth: Tensor, target: Tensor, near: float, far: float) -> dict[str, float]:
    """`depth_errors`, and those of the depths times one number that brings them to the truth's scale (the median
    ratio): the part of the error that is shape."""
    found = depth_errors(depth, target, near, far)
    there = (target.view_as(depth) > 0) & (target.view_as(depth) < far)
    scale = (target.view_as(depth)[there] / depth[there]).median()
    other = depth_errors(depth * scale, target, near, far)
    return found | {f"{name}, scaled": other[name] for name in ("AbsRel", "RMSE", "δ < 1.25")}


def _per_image(sums, name: str, times: float = 1.0):
    return times * np.asarray(sums[name]) / np.asarray(sums["images"])


DEPTH_METRICS = {
    "SSIM": partial(_per_image, name="SSIM", times=100),  # x 100, as in the paper
    "AbsRel": partial(_per_image, name="AbsRel", times=100),  # in percent; lower is better
    "RMSE": partial(_per_image, name="RMSE"),  # in scene units; lower is better
    "δ < 1.25": partial(_per_image, name="δ < 1.25", times=100),
}
SCALED_DEPTH_METRICS = DEPTH_METRICS | {
    "AbsRel, scaled": partial(_per_image, name="AbsRel, scaled", times=100),
    "RMSE, scaled": partial(_per_image, name="RMSE, scaled"),
    "δ < 1.25, scaled": partial(_per_image, name="δ < 1.25, scaled", times=100),
}

"""Metrics of a data set: functions of the totals, over its images, of a few numbers for each image.

So a metric that is not a mean over images, such as mean IoU, can be bootstrapped over images from stored rows.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor


def class_counts(logits: Tensor, target: Tensor, classes: tuple[str, ...]) -> dict[str, float]:
    """Return for each class the pixels with this label ("true"), with this prediction ("called"), and with both.

    Logits are (1, L, H, W), the target (H, W). Pixels with a negative target have no label and do not count.
    """
    labelled = target.flatten() >= 0
    true = target.flatten()[labelled].long()
    called = logits.argmax(1).flatten()[labelled]
    L = len(classes)
    table = torch.bincount(L * true + called, minlength=L**2).view(L, L).cpu()  # [true, called]
    counts = {}
    for j, name in enumerate(classes):
        counts[f"true {name}"] = table[j].sum().item()
        counts[f"called {name}"] = table[:, j].sum().item()
        counts[f"both {name}"] = table[j, j].item()
    return counts


def iou(sums, name: str):
    """Return 100 x intersection / union of the label and the prediction of a class; NaN if the union is empty."""
    both, true, called = (np.asarray(sums[f"{part} {name}"], dtype=float) for part in ("both", "true", "called"))
    union = true + called - both
    return 100 * np.divide(both, union, out=np.full_like(union, np.nan), where=union > 0)


def class_accuracy(sums, name: str):
    """Return 100 x the share of a class's pixels that are predicted correctly; NaN if it has none."""
    both, true = (np.asarray(sums[f"{part} {name}"], dtype=float) for part in ("both", "true"))
    return 100 * np.divide(both, true, out=np.full_like(true, np.nan), where=true > 0)


def pixel_accuracy(sums, classes):
    """Return 100 x the share of pixels that are predicted correctly."""
    correct = sum(np.asarray(sums[f"both {c}"]) for c in classes)
    return 100 * correct / sum(np.asarray(sums[f"true {c}"]) for c in classes)


def _mean(sums, part, classes):
    """Return the mean over the classes that occur in the labels: the same classes for any prediction."""
    return np.nanmean([np.where(np.asarray(sums[f"true {c}"]) > 0, part(sums, c), np.nan) for c in classes], axis=0)


def segmentation_metrics(classes: tuple[str, ...]) -> dict:
    """Return mean IoU, mean class accuracy (the paper's), pixel accuracy, and the IoU of each class; in percent."""
    return {
        "mean IoU": partial(_mean, part=iou, classes=classes),
        "mean class accuracy": partial(_mean, part=class_accuracy, classes=classes),
        "pixel accuracy": partial(pixel_accuracy, classes=classes),
        **{f"IoU {c}": partial(iou, name=c) for c in classes},
    }


def depth_errors(depth: Tensor, target: Tensor, near: float, far: float) -> dict[str, float]:
    """Return SSIM, AbsRel, RMSE and δ < 1.25 of one image. Depths are (1, 1, H, W) and (1, H, W), in scene units.

    SSIM is computed on the whole maps, with a data range of far - near and torchmetrics' Gaussian window (11 x 11,
    σ 1.5); the paper states no settings. The others exclude the sky (depth `far`) and pixels without a label (depth 0).
    """
    from torchmetrics.functional.image import structural_similarity_index_measure  # two seconds; few runs need it

    target = target.view_as(depth)
    counted = (target > 0) & (target < far)
    d = depth[counted]
    true = target[counted]
    ratio = torch.maximum(d / true, true / d)
    return {
        "SSIM": structural_similarity_index_measure(depth, target, data_range=far - near).item(),
        "AbsRel": ((d - true).abs() / true).mean().item(),
        "RMSE": (d - true).square().mean().sqrt().item(),
        "δ < 1.25": (ratio < 1.25).float().mean().item(),
    }


def scaled_depth_errors(depth: Tensor, target: Tensor, near: float, far: float) -> dict[str, float]:
    """Return `depth_errors`, and the same of the depths multiplied by the median ratio of the target to them."""
    errors = depth_errors(depth, target, near, far)
    target = target.view_as(depth)
    counted = (target > 0) & (target < far)
    scale = (target[counted] / depth[counted]).median()
    scaled = depth_errors(depth * scale, target, near, far)
    return errors | {f"{name}, scaled": scaled[name] for name in ("AbsRel", "RMSE", "δ < 1.25")}


def _per_image(sums, name: str, times: float = 1.0):
    return times * np.asarray(sums[name]) / np.asarray(sums["images"])


DEPTH_METRICS = {
    "SSIM": partial(_per_image, name="SSIM", times=100),  # x 100, as in the paper
    "AbsRel": partial(_per_image, name="AbsRel", times=100),  # in percent; lower is better
    "RMSE": partial(_per_image, name="RMSE"),  # in scene units; lower is better
    "δ < 1.25": partial(_per_image, name="δ < 1.25", times=100),
}
SCALED_DEPTH_METRICS = DEPTH_METRICS | {
    f"{name}, scaled": partial(DEPTH_METRICS[name], name=f"{name}, scaled") for name in ("AbsRel", "RMSE", "δ < 1.25")
}

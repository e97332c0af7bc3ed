"""Checks of assignment 4: label maps as conditions, the confusion matrix and its scores, and the feedback's sign."""

from __future__ import annotations

import torch
from torch import Tensor

from dtta.course.judge import Student, public
from dtta.course.runner.variants import generator


@public
def uncertain_map(student: Student) -> None:
    """c^u = (1 - δ) l_label + δ · (mean of all l), and the mean alone where there is no label."""
    labels = torch.tensor([[[0, 2, 1], [3, 0, 2]], [[1, 1, 3], [0, 2, 3]]])
    l = torch.randn(4, 5, generator=generator(0))
    doubt, mean = 0.4, l.mean(0)
    sure = l[labels]
    last = (1 - doubt) * sure + doubt * mean
    others = (1 - doubt) * sure + doubt * (l.sum(0) - sure) / 3
    student.gives(
        last.movedim(-1, 1),
        labels, l, doubt,
        what="c",
        reasons={
            "the uncertainty is missing": sure.movedim(-1, 1),
            "all L classes share the uncertainty, the label too; here only the others do": others.movedim(-1, 1),
            "δ must be divided among the L classes": ((1 - doubt) * sure + doubt * l.sum(0)).movedim(-1, 1),
            "δ and 1 - δ are swapped": (doubt * sure + (1 - doubt) * mean).movedim(-1, 1),
            "the label kept its 1, and the uncertainty was added: probabilities must add up to 1": (
                sure + doubt * mean
            ).movedim(-1, 1),
            "reshape does not move an axis; use movedim or permute": last.reshape(2, 5, 2, 3),
        },
    )  # fmt: skip
    unlabelled = labels.clone()
    unlabelled[0, 0, 1] = unlabelled[1, 1, 2] = -1
    there = (unlabelled >= 0)[..., None]
    student.gives(
        last.where(there, mean).movedim(-1, 1),
        unlabelled, l, doubt,
        what="c where some pixels have no label",
        reasons={
            "a label of -1 looked up the last class; such a pixel must get the mean of all": (
                last.where(there, (1 - doubt) * l[-1] + doubt * mean).movedim(-1, 1)
            ),
            "pixels without a label got 0; they must get the mean of all": (last * there).movedim(-1, 1),
            "pixels without a label got only δ times the mean": (
                last.where(there, doubt * mean).movedim(-1, 1)
            ),
        },
    )  # fmt: skip


@public
def confusion_matrix(student: Student) -> None:
    """Counts of pixels, [true, predicted], without those whose true label is -1."""
    true = torch.tensor([[0, 0, 1, 2, -1], [2, 1, 1, 0, -1], [2, 2, 0, 1, 2]])
    predicted = torch.tensor([[0, 1, 1, 2, 0], [0, 1, 2, 0, 2], [2, 0, 1, 1, 0]])
    right = torch.tensor([[2, 2, 0], [0, 3, 1], [3, 0, 2]])
    wrapped = torch.tensor([[2, 2, 0], [0, 3, 1], [4, 0, 3]])
    student.gives(
        right,
        predicted, true, 3,
        what="the confusion matrix",
        reasons={
            "rows and columns are swapped: [true, predicted]": right.T,
            "pixels without a label (-1) were counted, as the last class": wrapped,
            "pixels without a label (-1) were counted, as the first class": torch.tensor(
                [[3, 2, 1], [0, 3, 1], [3, 0, 2]]
            ),
            "each cell holds at most 1: adding to an indexed tensor counts a repeated place once": (right > 0).long(),
            "only the correct predictions were counted": right.diag().diag(),
        },
    )  # fmt: skip


def _ious(table: Tensor) -> Tensor:
    both = table.diagonal(dim1=-2, dim2=-1)
    return 100 * both / (table.sum(-1) + table.sum(-2) - both)


@public
def mean_iou(student: Student) -> None:
    """Mean IoU in percent: counts added up over the images, then divided, then the mean over the classes there are."""
    tables = torch.tensor([[[9, 1, 2], [3, 4, 0], [1, 2, 5]], [[2, 6, 1], [0, 20, 3], [4, 1, 1]]])
    table = tables.sum(0).float()
    both, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    reasons = {
        "this is the mean over the images of their mean IoU; add the counts up first": _ious(tables.float()).mean(),
        "the intersection is counted twice in the union: subtract it once": (100 * both / (true + predicted)).mean(),
        "this is the mean of 2 both / (true + predicted), the Dice score": (200 * both / (true + predicted)).mean(),
        "divided by the true pixels only: this is mean class accuracy": (100 * both / true).mean(),
        "divided by the predicted pixels: this is precision": (100 * both / predicted).mean(),
        "the classes were pooled; take the mean of their IoU": 100 * both.sum() / (true + predicted - both).sum(),
        "this is a fraction; return percent": _ious(table).mean() / 100,
        "only the first image counts": _ious(tables[0].float()).mean(),
    }
    student.gives(_ious(table).mean(), tables, what="mean IoU", reasons=reasons)
    absent = tables.clone()
    absent[:, 2, :] = absent[:, :, 2] = 0
    ious = _ious(absent.sum(0).float())
    student.gives(
        ious[:2].mean(),
        absent,
        what="mean IoU where a class is absent",
        reasons={"the absent class was counted with an IoU of 0": ious[:2].sum() / 3},
    )


@public
def mean_class_accuracy(student: Student) -> None:
    """For each class that is there the share of its pixels predicted so; the mean of these, in percent."""
    table = torch.tensor([[8, 1, 3], [2, 30, 5], [6, 0, 3]])
    both, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    right = (100 * both / true).mean()
    student.gives(
        right,
        table,
        what="mean class accuracy",
        reasons={
            "divided by the predicted pixels (columns), not by the true ones (rows)": (100 * both / predicted).mean(),
            "this is pixel accuracy, in which large classes count more": 100 * both.sum() / true.sum(),
            "this is mean IoU": _ious(table.float()).mean(),
            "this is a fraction; return percent": right / 100,
        },
    )


@public
def agreement(student: Student) -> None:
    """The share of wrong, and of right, pixels at which descent raises the true class."""
    g = generator(2)
    logits, gradient = (torch.randn(2, 3, 3, 5, generator=g) for _ in range(2))
    truth = logits.argmax(1)
    truth[:, :, ::2] = torch.randint(0, 3, (2, 3, 3), generator=g)
    right, own = logits.argmax(1) == truth, gradient.gather(1, truth[:, None])[:, 0]

    def shares(up: Tensor) -> Tensor:
        return torch.stack([up[~right].float().mean(), up[right].float().mean()])

    answered = gradient.gather(1, logits.argmax(1)[:, None])[:, 0]
    student.gives(
        shares(own < 0),
        logits, gradient, truth,
        what="the shares at wrong and right pixels",
        reasons={
            "descent goes against the gradient: it raises a logit where the gradient is below 0": shares(own > 0),
            "right and wrong pixels are swapped": shares(own < 0).flip(0),
            "this uses the predicted class, not the true one": shares(answered < 0),
            "fractions of all pixels; divide by the number of wrong and of right ones": torch.stack(
                [((own < 0) & ~right).float().mean(), ((own < 0) & right).float().mean()]
            ),
        },
    )  # fmt: skip


@public
def evaluate_iou(student: Student) -> None:
    """Mean IoU in percent over all batches together, of the classes that occur in them."""
    g, L = generator(3), 4
    sizes = (4, 1, 3)
    batches = [tuple(torch.randint(0, L - (n == 1), (n, 2, 3), generator=g) for _ in "pt") for n in sizes]
    predicted, true = (torch.cat(maps) for maps in zip(*batches, strict=True))

    def ious(p: Tensor, t: Tensor) -> Tensor:
        rows = [[((p == j) & (t == j)).sum(), ((p == j) | (t == j)).sum()] for j in range(L)]
        return 100 * torch.tensor([both / either if either else float("nan") for both, either in rows])

    each = torch.stack([ious(p, t).nanmean() for p, t in batches])
    student.gives(
        ious(predicted, true).nanmean(),
        batches, L,
        what="mean IoU",
        reasons={
            "the mean of the batches' scores: add up the counts of all batches first": each.mean(),
            "the mean of the batches' scores, weighted by their size: add up the counts first": (
                each * torch.tensor(sizes) / sum(sizes)
            ).sum(),
            "the mean over the batches of each class's IoU: add up the counts first": torch.stack(
                [ious(p, t) for p, t in batches]
            ).nanmean(0).nanmean(),
            "this is a fraction; return percent": ious(predicted, true).nanmean() / 100,
            "only the last batch counts": each[-1],
            "only the first batch counts": each[0],
        },
    )  # fmt: skip

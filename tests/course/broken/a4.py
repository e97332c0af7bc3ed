# Broken solutions of assignment 4: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "doubt": [
        ("no label is taken for the last class", "torch.cat([embeddings, mean[None]])", "embeddings", "both"),
        ("height and width are swapped", "movedim(-1, 1)", "transpose(-1, 1)", "both"),
        (
            "only the other classes share the uncertainty",
            "return (",
            "doubt = doubt * len(embeddings) / (len(embeddings) - 1)\n    return (",
            "both",
        ),
        ("pixels without a label get nothing", "mean[None]]", "0 * mean[None]]", "both"),
        (
            "labels are changed in place",
            "sure = torch",
            "labels[labels < 0] = len(embeddings)\n    sure = torch",
            "both",
        ),
    ],
    "confusion": [
        ("rows and columns are swapped", "true[there] + predicted[there]", "predicted[there] + true[there]", "both"),
        ("class 0 is left out with what has no label", "true >= 0", "true > 0", "both"),
        (
            "the matrix is as large as the labels that occur",
            ", minlength=L * L).view(L, L)",
            ", minlength=1).view(L, -1)",
            "hidden",
        ),
        ("only each pair's presence is counted", ".view(L, L)", ".clamp(max=1).view(L, L)", "both"),
        ("unlabelled pixels are those that are predicted -1", "there = true >= 0", "there = predicted >= 0", "both"),
        ("labels are changed in place", "there = true >= 0", "true[true < 0] = 0\n    there = true >= 0", "both"),
    ],
    "iou": [
        (
            "the mean of the images' own IoU",
            "[there]).mean()",
            "[there]).mean() if len(tables) == 1 else torch.stack([mean_iou(t[None]) for t in tables]).mean()",
            "both",
        ),
        ("classes that are only predicted count too", "there = true > 0", "there = true + predicted > 0", "hidden"),
        ("pixels that are both count twice in the union", "true + predicted - both", "true + predicted", "both"),
        (
            "rows and columns are swapped: the mean is over the predicted classes",
            "table.sum(1), table.sum(0)",
            "table.sum(0), table.sum(1)",
            "hidden",
        ),
        (
            "all classes, those that are not there with 0",
            "(both[there] / (true + predicted - both)[there]).mean()",
            "(both / (true + predicted - both)).nan_to_num().mean()",
            "both",
        ),
    ],
    "accuracy": [
        ("shares of what is predicted, not of what is there", "table.sum(1)", "table.sum(0)", "both"),
        ("classes that are never right are left out", "true > 0", "table.diagonal() > 0", "hidden"),
        (
            "the share of all pixels",
            "(table.diagonal()[there] / true[there]).mean()",
            "(table.diagonal().sum() / table.sum())",
            "both",
        ),
        ("a share, not percent", "100 * ", "", "both"),
        ("float64 comes back", "table.diagonal()[there]", "table.diagonal()[there].double()", "both"),
    ],
    "feedback": [
        ("a gradient of 0 counts as raised", "< 0", "<= 0", "hidden"),
        (
            "the predicted class is looked at, not the true one",
            "gradient.gather(1, truth[:, None])",
            "gradient.gather(1, logits.argmax(1, keepdim=True))",
            "both",
        ),
        (
            "right pixels first",
            "[raised[~right].mean(), raised[right].mean()]",
            "[raised[right].mean(), raised[~right].mean()]",
            "both",
        ),
        (
            "shares of all pixels",
            "raised[~right].mean(), raised[right].mean()",
            "(raised * ~right).mean(), (raised * right).mean()",
            "both",
        ),
        ("0 where there is no such pixel", "raised[right].mean()])", "raised[right].mean()]).nan_to_num()", "hidden"),
    ],
    "bug": [
        ("only the last batch counts", "pairs += torch", "pairs = torch", "both"),
        ("absent classes make the mean nan", "nanmean()", "mean()", "hidden"),
        ("the intersection counts twice", "pairs.sum(1) - intersection", "pairs.sum(1)", "both"),
    ],
}

# Broken solutions of the final project: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "choice": [
        (
            "nan wins",
            'validation.nan_to_num(nan=float("-inf"), neginf=float("-inf"), posinf=float("inf"))',
            'validation.nan_to_num(nan=float("inf"), neginf=float("-inf"), posinf=float("inf"))',
            "both",
        ),
        ("a failed run counts as no gain", 'nan=float("-inf")', "nan=0.0", "hidden"),
        ("chosen on the test images", "worst_if_failed = validation.", "worst_if_failed = test.", "both"),
        ("the last of several that are level", "[0, 0]", "[-1, 0]", "both"),
        ("int32", "[0, 0]", "[0, 0].int()", "both"),
        ("no ValueError where all runs failed", "validation.isnan().all()", "False", "hidden"),
    ],
    "interval": [
        (
            "before and after are drawn separately",
            "d[draws].mean(1)",
            "100 * (after.double()[draws].mean(1) - before.double()[draws.flip(0)].mean(1))",
            "both",
        ),
        ("the mean of the resamples, not of the images", "d.mean()[None]", "d[draws].mean()[None]", "both"),
        ("an interval of 90%", "[0.025, 0.975]", "[0.05, 0.95]", "both"),
        ("the mean runs over the resamples", "mean(1)", "mean(0)", "both"),
        (
            "single precision",
            "100 * (after.double() - before.double())",
            "100 * (after.float() - before.float()).double()",
            "hidden",
        ),
        ("shares, not points", "100 * (", "(", "both"),
    ],
    "verdict": [
        ("an interval that touches 0 is a gain", "intervals[:, 1] > 0", "intervals[:, 1] >= 0", "hidden"),
        ("an interval that touches 0 is a loss", "intervals[:, 2] < 0", "intervals[:, 2] <= 0", "hidden"),
        ("the mean decides", "intervals[:, 2] < 0", "intervals[:, 0] < 0", "both"),
        (
            "the two ends are swapped",
            "(intervals[:, 1] > 0).long() - (intervals[:, 2] < 0)",
            "(intervals[:, 2] > 0).long() - (intervals[:, 1] < 0)",
            "hidden",
        ),
    ],
}

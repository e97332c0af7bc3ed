# Broken solutions of assignment 5: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "log": [
        ("nothing holds what is farther than far", "clamp(near, far)", "clamp(min=near)", "both"),
        ("only what is 0 is held, not what is nearer than near", "clamp(near, far)", "clamp(1e-6, far)", "both"),
        (
            "equal steps for equal distances",
            "(depth.clamp(near, far) / near).log() / span",
            "(depth.clamp(near, far) - near) / (far - near)",
            "both",
        ),
        ("cut off from the gradient", "depth.clamp", "depth.detach().clamp", "check"),
        ("the depth is clamped in place", "depth.clamp(", "depth.clamp_(", "both"),
        ("double precision comes back as single", "depth.clamp(near, far)", "depth.float().clamp(near, far)", "hidden"),
    ],
    "slope": [
        ("the logarithm of the range is forgotten", "torch.tensor(far / near).log()", "(far / near)", "both"),
        ("what is nearer than near lets the gradient through", "(depth > near) & (depth < far)", "depth < far", "both"),
        (
            "0 times infinity at a depth of 0",
            "torch.where(inside, slope * c_grad, torch.zeros_like(c_grad))",
            "inside * slope * c_grad",
            "hidden",
        ),
        ("the factor 2 is forgotten", "slope = 2 /", "slope = 1 /", "both"),
    ],
    "align": [
        ("a biased covariance over an unbiased variance", "(a - a.mean()).square().mean()", "a.var()", "both"),
        ("the truth is not inverted", "1 / d[there]", "d[there]", "both"),
        ("the shift first", "[s, inverse.mean() - s * a.mean()]", "[inverse.mean() - s * a.mean(), s]", "both"),
        (
            "the truth's variance below the line",
            "(a - a.mean()).square().mean()",
            "(inverse - inverse.mean()).square().mean()",
            "both",
        ),
        (
            "the line goes through 0",
            "((a - a.mean()) * (inverse - inverse.mean())).mean() / (a - a.mean()).square().mean()",
            "(a * inverse).mean() / a.square().mean()",
            "both",
        ),
    ],
    "errors": [
        ("RMSE without its root", "off.square().mean().sqrt()", "off.square().mean()", "both"),
        ("relative to the answer, not to the truth", "off.abs() / true[there]", "off.abs() / d[there]", "both"),
        ("the sky is where the answer is far", "there = true < far", "there = d < far", "both"),
        ("the sky counts", "true < far", "true <= far", "both"),
        ("errors of both signs cancel", "off.abs()", "off", "both"),
        (
            "one error over all images",
            "for d, true in zip(depth, truth, strict=True):\n        there = true < far",
            "for d, true in [(depth, truth)] * len(depth):\n        there = true < far",
            "both",
        ),
    ],
    "ssim": [
        (
            "variances as mean squares minus squared means: digits cancel",
            "(w * off_p.square()).sum(), (w * off_q.square()).sum()",
            "(w * p.square()).sum() - mean_p**2, (w * q.square()).sum() - mean_q**2",
            "hidden",
        ),
        (
            "the window is not used for the variances",
            "(w * off_p.square()).sum(), (w * off_q.square()).sum()",
            "off_p.square().mean(), off_q.square().mean()",
            "both",
        ),
        ("constants without their square", "(0.01 * R) ** 2, (0.03 * R) ** 2", "0.01 * R, 0.03 * R", "both"),
        ("the two constants are swapped", "k1, k2 =", "k2, k1 =", "both"),
        (
            "standard deviations, not variances",
            "(own_p + own_q + k2)",
            "(own_p.sqrt() * own_q.sqrt() * 2 + k2)",
            "both",
        ),
    ],
}

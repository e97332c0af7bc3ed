# Broken solutions of assignment 7: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "stratified": [
        ("parts are counted from 1", "torch.arange(B)", "torch.arange(1, B + 1)", "both"),
        ("T - 1 in place of T", "* T).long()", "* (T - 1)).long()", "both"),
        ("rounded, not cut off", "* T).long()", "* T).round().long()", "both"),
        ("nothing holds a number that was rounded up to T", ".clamp(max=T - 1)", "", "hidden"),
        ("int32", ".long()", ".int()", "both"),
        ("one random number for all parts", "+ u)", "+ u[:, :1])", "both"),
    ],
    "antithetic": [
        ("mirrored at T, not at T - 1", "T - 1 - t", "T - t", "both"),
        ("the partners are in reverse order", "T - 1 - t]", "T - 1 - t.flip(1)]", "both"),
        ("half rounded down", "(B + 1) // 2", "B // 2", "hidden"),
        ("the second half of u is used", "u[:, : (B + 1) // 2]", "u[:, B // 2 :]", "both"),
        ("every second u is used", "u[:, : (B + 1) // 2]", "u[:, ::2]", "both"),
    ],
    "importance": [
        ("the half is forgotten", "t + 0.5", "t", "hidden"),
        ("drawn often counts more", "q.mean() / q", "q / q.mean()", "both"),
        ("the sum of q, not its mean", "q.mean()", "q.sum()", "both"),
        ("the mean over the drawn timesteps", "(q.mean() / q)[part]", "q[part].mean() / q[part]", "both"),
        ("T - 1 in place of T", "/ T *", "/ (T - 1) *", "both"),
    ],
    "noise": [
        ("an unbiased variance", "(g - mean).square().sum(1).mean()", "g.var(0).sum()", "both"),
        ("the root is forgotten", ".sum()).sqrt()", ".sum())", "both"),
        (
            "float64 only at the end",
            "g = g.double()\n    mean = g.mean(0)\n    return ((g - mean)",
            "mean = g.mean(0).double()\n    return ((g - mean.float())",
            "hidden",
        ),
        ("the mean runs over the numbers, too", "square().sum(1).mean()", "square().mean()", "both"),
        ("over the mean square of all draws", "mean.square().sum()", "g.square().sum(1).mean()", "both"),
    ],
    "blocks": [
        ("blocks of every n-th row", "reshape(-1, n, L).mean(1)", "reshape(n, -1, L).mean(0)", "both"),
        ("the rest is dropped at the start", "g[: M // n * n]", "g[M % n :]", "both"),
        ("a sum, not a mean", ".mean(1)", ".sum(1)", "both"),
        (
            "the last whole block is dropped where nothing is left over",
            "g[: M // n * n]",
            "g[: (M - 1) // n * n]",
            "hidden",
        ),
        ("double precision comes back as single", ".mean(1)", ".float().mean(1)", "hidden"),
    ],
    "snr": [
        ("the mean over the drawn timesteps", "(weight / weight.mean())[t]", "weight[t] / weight[t].mean()", "both"),
        ("the ratio, not over the ratio", "(m / ratio).clamp(max=1)", "ratio.clamp(max=m)", "both"),
        (
            "cut off after the division",
            "(m / ratio).clamp(max=1)\n    return (weight / weight.mean())[t]",
            "m / ratio\n    return (weight / weight.mean()).clamp(max=1)[t]",
            "both",
        ),
        ("ratios of the square roots", "alpha_bar / (1 - alpha_bar)", "(alpha_bar / (1 - alpha_bar)).sqrt()", "both"),
        ("timesteps off by one", "[t]", "[t - 1]", "both"),
        ("a minimum of 1 instead of a maximum", "clamp(max=1)", "clamp(min=1)", "both"),
        ("0 / 0 where there is no signal", "(m / ratio).clamp(max=1)", "ratio.clamp(max=m) / ratio", "hidden"),
    ],
}

# Plausible wrong answers to assignment 5. The format: book/authoring.md.

# %% equal steps of depth task="log-answer" loses=["log-check", "log-hidden"] says="the logarithm is missing"
def log_depth(depth, near, far):
    return 2 * (depth.clamp(near, far) - near) / (far - near) - 1


# %% no clamp task="log-answer" loses=["log-check", "log-hidden"] says="not clamped"
def log_depth(depth, near, far):
    return 2 * (depth / near).log() / torch.tensor(far / near).log() - 1


# %% clamps what came out, not what went in task="log-answer" loses=["log-hidden"] says="nan results from 0/0"
def log_depth(depth, near, far):
    return (2 * (depth / near).log() / torch.tensor(far / near).log() - 1).clamp(-1, 1)


# %% ignores the clamp task="slope-answer" loses=["slope-check", "slope-hidden"] says="the clamp is constant"
def log_depth_gradient(depth, near, far, c_grad):
    return 2 * c_grad / (depth * torch.tensor(far / near).log())


# %% slope alone task="slope-answer" loses=["slope-check", "slope-hidden"] says="this is only the slope"
def log_depth_gradient(depth, near, far, c_grad):
    inside = (depth > near) & (depth < far)
    return inside * 2 / (depth * torch.tensor(far / near).log())


# %% zero by multiplication, where the slope is infinite task="slope-answer" loses=["slope-hidden"] says="nan results from 0/0"
def log_depth_gradient(depth, near, far, c_grad):
    inside = (depth > near) & (depth < far)
    return inside * (2 * c_grad / (depth * torch.tensor(far / near).log()))


# %% counts all pixels task="align-answer" loses=["align-check", "align-hidden", "align-edge"] says="not valid were counted"
def scale_and_shift(answer, truth, valid):
    x, y = answer.flatten(1), 1 / truth.flatten(1)
    u, v = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    s = (u * v).sum(1) / (u * u).sum(1)
    return torch.stack([s, y.mean(1) - s * x.mean(1)], dim=1)


# %% fits the depth itself task="align-answer" loses=["align-check", "align-hidden", "align-edge"] says="not to its inverse"
def scale_and_shift(answer, truth, valid):
    rows = []
    for n in range(len(answer)):
        x, y = answer[n][valid[n]], truth[n][valid[n]]
        s = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
        rows.append(torch.stack([s, y.mean() - s * x.mean()]))
    return torch.stack(rows)


# %% weights of zero, which nan survives task="align-answer" loses=["align-edge"] says="nan results from 0/0"
def scale_and_shift(answer, truth, valid):
    w = valid.float() / valid.float().sum((1, 2), keepdim=True)
    y = 1 / truth
    mx, my = (w * answer).sum((1, 2), keepdim=True), (w * y).sum((1, 2), keepdim=True)
    s = (w * (answer - mx) * (y - my)).sum((1, 2)) / (w * (answer - mx).square()).sum((1, 2))
    return torch.stack([s, my.flatten() - s * mx.flatten()], dim=1)


# %% counts the sky task="errors-answer" loses=["errors-check", "errors-hidden"] says="the sky was counted"
def distance_errors(depth, truth, far):
    off = (depth - truth).flatten(1)
    return torch.stack([(off.abs() / truth.flatten(1)).mean(1), off.square().mean(1).sqrt()], dim=1)


# %% forgot the square root task="errors-answer" loses=["errors-check", "errors-hidden"] says="square root of the RMSE"
def distance_errors(depth, truth, far):
    rows = []
    for d, true in zip(depth, truth, strict=True):
        off = (d - true)[true < far]
        rows.append(torch.stack([(off.abs() / true[true < far]).mean(), off.square().mean()]))
    return torch.stack(rows)


# %% leaves out what equals far, and only that task="errors-answer" loses=["errors-hidden"] says="nan results from 0/0"
def distance_errors(depth, truth, far):
    rows = []
    for d, true in zip(depth, truth, strict=True):
        there = true != far
        off = (d - true)[there]
        rows.append(torch.stack([(off.abs() / true[there]).mean(), off.square().mean().sqrt()]))
    return torch.stack(rows)


# %% without the weights task="ssim-answer" loses=["ssim-check", "ssim-hidden", "ssim-edge"] says="the weights were not used"
def ssim_window(p, q, w, R):
    m, n = p.mean(), q.mean()
    both, own = ((p - m) * (q - n)).mean(), (p - m).square().mean() + (q - n).square().mean()
    k1, k2 = (0.01 * R) ** 2, (0.03 * R) ** 2
    return (2 * m * n + k1) * (2 * both + k2) / ((m * m + n * n + k1) * (own + k2))


# %% constants without the range task="ssim-answer" loses=["ssim-check", "ssim-hidden", "ssim-edge"] says="the range R is missing"
def ssim_window(p, q, w, R):
    m, n = (w * p).sum(), (w * q).sum()
    both, own = (w * (p - m) * (q - n)).sum(), (w * ((p - m).square() + (q - n).square())).sum()
    return (2 * m * n + 1e-4) * (2 * both + 9e-4) / ((m * m + n * n + 1e-4) * (own + 9e-4))


# %% a large number from a large number task="ssim-answer" loses=["ssim-edge"] says="gives other numbers"
def ssim_window(p, q, w, R):
    m, n = (w * p).sum(), (w * q).sum()
    both = (w * p * q).sum() - m * n
    own = (w * p * p).sum() - m * m + (w * q * q).sum() - n * n
    k1, k2 = (0.01 * R) ** 2, (0.03 * R) ** 2
    return (2 * m * n + k1) * (2 * both + k2) / ((m * m + n * n + k1) * (own + k2))

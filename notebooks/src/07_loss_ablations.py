# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Ablating the loss
#
# **The idea.** Diffusion-TTA {cite:p}`prabhudesai2023diffusion` learns only from the gradient of the diffusion loss,
# and this gradient is a random vector: it depends on the timesteps and noises that were drawn. How noisy it is limits
# the learning rate; where its mean points decides whether a step helps.

# %% tags=["parameters", "hide-input"]
# "mini": handwritten digits, on a CPU; "full": ImageNet, on a GPU
scale = "mini"
seed = 0
pictures = 96  # validation images whose gradients are measured
draws = 4  # noises that are drawn for each of them
# images of each shift that are run again and compared with the stored results
live = 1

# Only used when scale is "full":
network = (
    None  # another task network: its name, or a folder in the hub's layout
)
diffusion = None  # another diffusion model, likewise
images = 12  # test images under each shift
shifts = None  # a list of some; None: all
most = {}  # upper limits of settings, such as {"samples": 48}
results = None  # folder of the results; None: results in $DTTA_CACHE

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import torch

import dtta
from dtta.evaluation.evaluate import image_generator
from dtta.experiments import stored
from dtta.experiments.paper import TABLE_1, TABLE_5
from dtta.experiments.transfer import PLAIN, open_page
from dtta.pages import Setting, evidence, figures, report

figures.style()
setting = Setting(scale)
problem, shifts, folder = open_page(
    scale,
    ["loss"],
    "digits",
    "imagenet",
    images,
    seed,
    shifts=shifts,
    network=network,
    diffusion=diffusion,
    limits=most,
    results=results,
    settings=PLAIN,
)
runs = stored.runs("loss", folder)
diffusion, settings = problem.diffusion, runs["diffusion-tta"].settings
B = settings["samples"]
low, high = settings["t_min"], settings["t_max"]
# ImageNet's training part need not be there
split = "validation" if "validation" in problem.sizes else "test"
pictures = min(pictures, problem.sizes[split])
shown, labels = zip(
    *(
        problem.image(k, shifts[k % len(shifts)], 3, split)
        for k in range(pictures)
    ),
    strict=True,
)


def gradients(image, t, noise):
    """The gradient at the logits for each of B pairs: (B, K)."""
    with torch.no_grad():
        s = problem.model(image)
    z0, parts = diffusion.encode(image), []
    for some in torch.arange(len(t)).split(settings.get("micro_batch", 24)):
        leaf = s.expand(len(some), -1).clone().requires_grad_()
        z = z0.expand(len(some), -1, -1, -1)
        c = problem.condition(leaf)
        loss = diffusion.loss(z, t[some], noise[some], c)
        parts.append(torch.autograd.grad(loss.sum(), leaf)[0].cpu())
    return torch.cat(parts)


def gradient_table(image, index, noises, t):
    """Gradients for each noise (rows) at each timestep (columns): (E, T, K)."""
    z0 = diffusion.encode(image)
    generator = image_generator(seed, index)
    _, noise = dtta.Sampling().draw(z0, noises, diffusion.timesteps, generator)
    rows = [gradients(image, t, e.expand(len(t), *e.shape)) for e in noise[0]]
    return torch.stack(rows), noise[0]


def timesteps(count, low, high):
    """The middles of `count` equal parts of the range."""
    t = low + (torch.arange(count) + 0.5) / count * (high - low)
    return (t * diffusion.timesteps).long().to(shown[0].device)


# The image about which the classifier is least certain
with torch.no_grad():
    belief = torch.cat([problem.model(x).softmax(1).cpu() for x in shown])
index = int(belief.max(1).values.argmin())
image = shown[index]
t = timesteps(24, low, high)
G, noises = gradient_table(image, index, 16 * draws, t)

generator = torch.Generator().manual_seed(seed)
rows = torch.randint(len(G), (len(G), 24), generator=generator)
fresh = G[rows, torch.arange(24)].mean(1)  # a random noise for each timestep
shared = G.mean(1)  # one noise for all timesteps
mean = G.mean((0, 1))

# %% tags=["hide-input"]
along = mean / mean.norm()
rest = (G - mean).flatten(0, 1)
rest = rest - (rest @ along)[:, None] * along
across = torch.linalg.svd(rest, full_matrices=False).Vh[0]
fig, ax = plt.subplots(figsize=(5.1, 6.1))
for points, colour, marker, size, name in (
    (G.flatten(0, 1), figures.GREY, "o", 5, "one pair"),
    (shared, figures.ORANGE, "^", 40, "24 pairs, one noise"),
    (fresh, figures.BLUE, "o", 34, "24 pairs, 24 noises"),
):
    x, y = points @ along / mean.norm(), points @ across / mean.norm()
    ax.scatter(x, y, size, colour, marker=marker, label=name, alpha=0.7, lw=0)
ax.plot(1, 0, "*", color=figures.BLACK, ms=14, ls="none", label="mean of all")
ax.axhline(0, color=figures.GREY, lw=0.8)
ax.axvline(0, color=figures.GREY, lw=0.8)
edges = [
    (G.flatten(0, 1) @ way / mean.norm()).quantile(torch.tensor([0.02, 0.98]))
    for way in (along, across)
]
ax.set(
    xlim=(edges[0][0] - 1, edges[0][1] + 1),
    ylim=(edges[1][0] - 1, edges[1][1] + 1),
    xlabel="component along the mean (length of the mean = 1)",
    ylabel="component across it (same unit)",
    aspect="equal",
)
legend = ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
legend.legend_handles[0].set_sizes([25])  # the smallest points, to be seen
figures.show(
    fig,
    alt="Scatter plot of gradients. Single pairs cluster near zero, with two "
    "long arms. Means of 24 pairs with different noises are close to the mean "
    "of all. Means of 24 pairs that share one noise are spread along the "
    "arms, some with the wrong sign.",
    caption="The gradient for one image, that of the least certain prediction, "
    "drawn again and again. Vertical: the direction, at right angles to the "
    "mean, in which the draws vary most. Draws left of zero point against the "
    "mean. Averaging 24 pairs helps more if each has a different noise (blue) "
    "than if they share one (orange). A few grey points lie outside.",
)


# %% tags=["hide-input"]
def gain_of(run, against=None, also=None, some=shifts):
    return stored.gain("loss", run, some, against, also=also, folder=folder)


def rate_of(run):
    """The learning rate, with an exponent: a setting, compared exactly."""
    rate = f"{runs[run].settings['lr']:.1e}".replace(".0e", "e")
    return rate.replace("e-0", "e-")


overall = gain_of("diffusion-tta")
lines = [
    f"without adaptation: {overall['before']:.1f}%",
    f"{B} pairs, {B} noises, rate {rate_of('diffusion-tta')}: "
    f"{overall['after']:.1f}%, gain {report.interval(overall)}",
]
for run in ("shared noise", "shared noise, a rate of its own"):
    lines += [
        f"{B} pairs, one noise, rate {rate_of(run)}: gain "
        f"{report.interval(gain_of(run))}",
        f"  minus {B} noises: {report.interval(gain_of(run, 'diffusion-tta'))}",
    ]
report.line("\n".join(lines), tolerance=0.3)

# %% [markdown]
# **The result.** If the 24 pairs of a step share one noise $\epsilon$, no gain over no adaptation is established at an
# unchanged learning rate. At a rate ten times smaller there is a gain, and no difference from 24 noises is established.
# No change on this page establishes a gain over the chosen settings: 24 pairs with timesteps stratified over the middle
# half of the range, five steps of SGD at $\eta = 0.02$. On [page 03](03_classification), averaging two beliefs did.
#
# The gains, with 95% paired intervals, are stored results of `dtta evaluate --table loss`: 24 different test digits
# under each of twelve shifts. [Evidence 07](../book/evidence/07_loss_ablations) has every setting.
#
# **You need** pages [01](01_diffusion_loss) and [03](03_classification). **Time:** 20 minutes to read, about a
# minute to run on two CPU cores.
#
# ## The gradient is a random vector
#
# Let $s = f_\theta(x)$ be the logits and $y = \operatorname{softmax}(s)$ the belief. All feedback from the diffusion
# model reaches the classifier through the $K$ numbers
#
# $$ g = \frac{\partial L}{\partial s} = \frac1B \sum_{i=1}^{B} g_i , \qquad g_i = g(t_i, \epsilon_i) . $$
#
# Here is $g_i$ for each pair. All 24 timesteps get the same noise:

# %%
z0 = diffusion.encode(image)
noise = noises[:1].expand(24, *z0.shape[1:])
with torch.no_grad():
    s = problem.model(image)
s = s.expand(24, -1).clone().requires_grad_()  # a copy for each pair

c = problem.condition(s)  # softmax, then the mixture of embeddings
loss = diffusion.loss(z0.expand(24, -1, -1, -1), t, noise, c)  # (24,)
(g,) = torch.autograd.grad(loss.sum(), s)  # (24, K)
print(tuple(g.shape), torch.allclose(g.cpu(), G[0], atol=1e-5))

# %% [markdown]
# This is the first row of a table $G$ with 64 noises (rows) and 24 timesteps (columns). The first figure shows its
# entries, the means of its rows (one noise), and means with a random row for each column (24 noises). All have the
# expectation $\bar g$. How far are they from it, relative to its length? We call this the *relative noise* $r$, of one
# pair ($g_i$) or of a step ($g$):
#
# $$ r = \sqrt{ \mathbb E \lVert g - \bar g \rVert^2 / \lVert \bar g \rVert^2 } $$


# %%
def relative_noise(steps):
    spread = steps.var(0).sum()
    return (spread / mean.square().sum()).sqrt().item()


one = relative_noise(G.flatten(0, 1))
of_shared, of_fresh = relative_noise(shared), relative_noise(fresh)

# %% tags=["hide-input"]
report.line(
    f"r of one pair {one:.1f}; of 24 pairs with one noise {of_shared:.1f}, "
    f"with 24 noises {of_fresh:.1f}\n"
    f"one pair over the square root of 24: {one / 24**0.5:.1f}",
    tolerance=0.1,
)

# %% [markdown]
# At $r = 1$ the random part is as large as the mean. Independent pairs reduce $r$ by about $\sqrt{24}$; with one shared
# noise, 24 pairs are worth about two independent ones for this image.
#
# ## Timestep, noise, or both
#
# An analysis of variance splits the variance of one pair into a part that depends only on $\epsilon$ (the spread of the
# row means), one that depends only on $t$ (the column means), and the rest, which belongs to the combination:


# %%
def components(G):
    """Variances due to ε, to t, and the rest; and the squared mean."""
    E, T = G.shape[-3:-1]
    m = G.mean((-3, -2), keepdim=True)
    of_e, of_t = G.mean(-2, keepdim=True) - m, G.mean(-3, keepdim=True) - m
    parts = (of_e, of_t, G - m - of_e - of_t, m)
    v_e, v_t, v_rest, squared = (p.square().sum((-3, -2, -1)) for p in parts)
    v_rest = v_rest / ((E - 1) * (T - 1))
    # Subtract what chance adds: v_rest / T in a row's mean; t is not drawn
    v_e = v_e / (E - 1) - v_rest / T
    v_t = v_t / (T - 1) - v_rest / E
    return torch.stack([v_e, v_t, v_rest, squared - v_e / E - v_rest / E / T])


v_e, v_t, v_rest, _ = components(G).tolist()

# %% [markdown]
# Averaging over a step divides each part by how many different noises, timesteps or pairs the step has:
#
# $$ \operatorname{Var} = \frac{v_\epsilon}{\text{noises}} + \frac{v_t}{\text{timesteps}} + \frac{v_\text{rest}}{B} $$
#
# With stratified timesteps, one from each of $B$ equal parts of the range, the middle term nearly vanishes.
#
# **Predict, then run:** how does $r$ fall with $B$ if $\epsilon$ is shared?

# %%
measured = {"fresh": {}, "shared": {}}
for kind, by_pairs in measured.items():
    ways = dtta.Sampling("stratified", noise=kind, t_min=low, t_max=high)
    for n in (2, 6, 24):
        each = []
        for _ in range(20 * draws):
            pairs = ways.draw(z0, n, diffusion.timesteps, generator)
            each.append(gradients(image, *(p[0] for p in pairs)).mean(0))
        by_pairs[n] = torch.stack(each)

# %% tags=["hide-input"]
every = torch.stack(
    [
        gradient_table(x, k, draws, timesteps(24, 0.0, 1.0))[0]
        for k, x in enumerate(shown)
    ]
)  # (images, noises, timesteps, K)
ranges = {
    "all timesteps": components(every),
    "middle half": components(every[:, :, 6:18]),
}  # each (4, images)
chance = torch.Generator().manual_seed(seed)
again = torch.randint(pictures, (2000, pictures), generator=chance)


def with_bounds(statistic, picks=again):
    """A statistic of numbers, such as of images, and its 95% bootstrap interval."""
    many = torch.stack([statistic(pick) for pick in picks])
    ends = many.quantile(torch.tensor([0.025, 0.975]), dim=0)
    return statistic(torch.arange(picks.shape[1])), *ends


def noise_with_bounds(steps):
    """`relative_noise`, and its 95% bootstrap interval over the draws."""
    picks = torch.randint(len(steps), (1000, len(steps)), generator=chance)
    return with_bounds(
        lambda pick: torch.tensor(relative_noise(steps[pick])), picks
    )


def error_bars(value, lower, upper):
    return torch.stack([value - lower, upper - value]).clamp_min(0)


fig, (left, right) = plt.subplots(
    1, 2, figsize=(6.1, 3.6), width_ratios=(1.2, 1)
)
n = torch.arange(2, 25)
left.plot(1, one, "o", color=figures.GREY, label="one pair")
for name, label, fmt, variance, colour, aside in (
    (
        "shared",
        "B pairs, one noise",
        "^",
        v_e + v_rest / n,
        figures.ORANGE,
        1.04,
    ),
    ("fresh", "B pairs, B noises", "o", (v_e + v_rest) / n, figures.BLUE, 0.96),
):
    curve = (variance / mean.square().sum()).clamp_min(0).sqrt()
    left.plot(n, curve, color=colour)
    bounds = map(torch.stack, zip(*map(noise_with_bounds, measured[name].values()),
                                  strict=True))  # fmt: skip
    value, lower, upper = bounds
    left.errorbar(
        [aside * pairs for pairs in measured[name]],
        value,
        error_bars(value, lower, upper),
        fmt=fmt,
        color=colour,
        capsize=2,
        lw=1.2,
        label=label,
    )
left.set(
    xscale="log",
    yscale="log",
    xticks=(1, 2, 6, 12, 24),
    xticklabels=(1, 2, 6, 12, 24),
    yticks=(0.5, 1, 2, 4),
    yticklabels=("0.5", "1", "2", "4"),
    ylim=(0.25, 4.5),
    xlabel="pairs in a step, B",
    ylabel="relative noise r of a step",
    title="one image",
)
left.minorticks_off()
left.legend(fontsize=11, loc="lower left", handlelength=1)
shares = {
    name: with_bounds(lambda pick, v=v: v[:3, pick].sum(1) / v[:3, pick].sum())
    for name, v in ranges.items()
}
start = torch.zeros(len(shares))
for k, (colour, part) in enumerate(
    (
        (figures.PURPLE, "noise ε"),
        (figures.GREEN, "timestep t"),
        (figures.SKY, "their combination"),
    )
):
    share = torch.stack([value[0][k] for value in shares.values()])
    names = [name.replace(" ", "\n") for name in shares]
    right.barh(names, share, 0.5, left=start, color=colour, label=part)
    start = start + share
right.set(xlim=(0, 1), xticks=(0, 0.5, 1), title="many images")
right.set_xlabel("share of the variance")
right.set_ylim(-0.6, 2.8)
right.legend(fontsize=11, loc="upper left", handlelength=1)
right.grid(axis="y", visible=False)
figures.show(
    fig,
    alt="Left: the relative noise of a step falls with the number of pairs if "
    "each has another noise, and stays high if they share one; measured "
    "points are close to both lines, except the middle one with one noise, "
    "which lies below. Right: stacked bars. In the middle half "
    "of the timesteps the noise has a much larger share than the timestep; "
    "over all timesteps the two have similar shares.",
    caption="Left: lines from the formula, without the part of t; points from "
    "new draws, with 95% intervals over the draws. With one noise, more pairs "
    "soon stop helping; the middle point lies below the line, whose own "
    "uncertainty is not drawn. Right: what the variance of one pair is due to, "
    "over 96 validation images.",
)

# %% tags=["hide-input"]
lines = []
for name, (value, lower, upper) in shares.items():
    texts = [
        f"{part} {value[k]:.2f} [{lower[k]:.2f}, {upper[k]:.2f}]"
        for k, part in enumerate(("ε", "t", "combination"))
    ]
    lines += [f"shares, {name}:", "  " + ", ".join(texts)]
report.line("\n".join(lines), tolerance=0.05)

# %% [markdown]
# In the middle half of the timesteps, about half of the variance is due to $\epsilon$ and less
# than a tenth to $t$: sharing $\epsilon$ leaves half of it in place.
#
# ## Where the mean points
#
# Is $\bar g$ *right*? A small step of the logits along $-\bar g$ changes the logit of the true class $y^*$ in
# proportion to $-\bar g_{y^*}$. We call this number the *pull*; it should be positive:

# %%
by_t = every.mean(1)  # the mean over the noises: (images, timesteps, K)
spread = (every - by_t[:, None]).square().sum((1, 3)) / (draws - 1)
size = by_t.square().sum(2) - spread / draws

truth = torch.tensor([int(label) for label in labels])
pull = -by_t[range(pictures), :, truth]  # (images, timesteps)
by_eighth = 1000 * pull.unflatten(1, (8, 3)).mean(2)  # of the timesteps

# %% tags=["hide-input"]
at = (torch.arange(24) + 0.5) / 24 * diffusion.timesteps
fig, axes = plt.subplots(1, 2, figsize=(6.1, 3.4), sharex=True)


def noise_at_t(pick):
    return (spread[pick].mean(0) / size[pick].mean(0).clamp_min(1e-12)).sqrt()


ratio, *ends = with_bounds(noise_at_t)
eighths = at.unflatten(0, (8, 3)).mean(1)
pulls = with_bounds(lambda pick: by_eighth[pick].mean(0))
for ax, x, (value, lower, upper), level in (
    (axes[0], at, (ratio, *ends), 1),
    (axes[1], eighths, pulls, 0),
):
    ax.errorbar(
        x,
        value,
        error_bars(value, lower, upper),
        fmt="o",
        color=figures.BLUE,
        ms=4,
        lw=1.2,
        capsize=2,
    )
    ax.axhline(level, color=figures.BLACK, lw=1)
    ax.set(xlabel="timestep t", xticks=(0, 250, 500, 750, 1000))
axes[0].set(
    yscale="log",
    ylim=(0.2, 20),
    yticks=(0.3, 1, 3, 10),
    yticklabels=("0.3", "1", "3", "10"),
    title="relative noise r\nof one pair at t",
)
axes[0].minorticks_off()
axes[1].set(title="pull on the true\nclass (×1000)")
figures.show(
    fig,
    alt="Left: the relative noise of one pair by timestep with intervals, "
    "below one at both ends of the range and largest near a quarter of it. "
    "Right: the mean pull on the true class in eight parts of the timesteps "
    "with intervals. Those of the two lowest parts contain zero; the fourth "
    "to the seventh lie above.",
    caption="Left: relative noise of one pair; below the line at 1 the mean is "
    "larger than the random part. Where a bar leaves the frame, the mean may be "
    "zero. Right: pull of the mean gradient on the true class, in eighths of the "
    "timesteps. Intervals: 95%, over the images.",
)

# %% tags=["hide-input"]
texts = [
    report.interval(dict(gain=v, low=a, high=b))
    for v, a, b in zip(*pulls, strict=True)
]
lengths = 1000 * size.mean(0).unflatten(0, (8, 3)).mean(1).sqrt()
report.line(
    "pull by eighth (×1000):\n"
    f"  {', '.join(texts[:4])},\n  {', '.join(texts[4:])}\n"
    "length of the mean gradient (×1000):\n  "
    + ", ".join(f"{length:.1f}" for length in lengths.tolist()),
    tolerance=0.3,
)

# %% [markdown]
# At the lowest timestep $r$ is below 1, and in its eighth the estimated mean gradient is longest, but no pull on the
# true class is established: a low $r$ says nothing about the direction. Low timesteps can get a small weight: *min-SNR*
# {cite:p}`hang2023minsnr` multiplies the loss at $t$ by $\min(\text{SNR}, 5) / \text{SNR}$, where $\text{SNR} =
# \bar\alpha_t / (1 - \bar\alpha_t)$; we divide by the mean weight. A weight of $1 / \text{SNR}$ gives the loss of the
# denoised image.

# %%
weights = diffusion.weight(timesteps(24, 0.0, 1.0), "min-snr")
weights = weights.unflatten(0, (8, 3)).mean(1)

# %% tags=["hide-input"]
report.line(
    "mean min-SNR weight by eighth: "
    + ", ".join(f"{w:.2f}" for w in weights.tolist()),
    tolerance=0.01,
)
both = gain_of("all timesteps, min-SNR", "all timesteps")
report.line(
    f"all timesteps, gain of min-SNR over equal weights: {report.interval(both)}",
    tolerance=0.3,
)

# %% [markdown]
# With all timesteps, min-SNR gains over equal weights (one of many comparisons). An exercise looks at two
# possible reasons.
#
# ## Noise and learning rate
#
# Since $\mathbb E \lVert g \rVert^2 = \lVert \bar g \rVert^2 (1 + r^2)$, a step $-\eta g$ on a loss with curvature $h$
# changes the loss, in expectation, by
#
# $$ -\eta \lVert \bar g \rVert^2 + \tfrac12 h \eta^2 \lVert \bar g \rVert^2 (1 + r^2), $$
#
# best at $\eta^* = 1 / (h (1 + r^2))$. So a noisier gradient needs a smaller rate. For the middle half of the
# timesteps, over all images, with rates relative to the last line:

# %% tags=["hide-input"]
v_e, v_t, v_rest, squared = ranges["middle half"]


def noise_text(variance, squared):
    def ratio(pick):
        signal = squared[pick].sum().clamp_min(1e-12)
        return (variance[pick].sum() / signal).clamp_min(0).sqrt()

    return "{:.1f} [{:.1f}, {:.1f}]".format(*with_bounds(ratio))


kinds = {
    "one pair": v_e + v_t + v_rest,
    f"{B} pairs, one noise": v_e + v_rest / B,
    f"{B} pairs, {B} noises": (v_e + v_rest) / B,
}
best = [1 + (v.sum() / squared.sum()).item() for v in kinds.values()]
report.line(
    "\n".join(
        f"{name}: r {noise_text(v, squared)}, best rate {best[-1] / f:.2f}"
        for (name, v), f in zip(kinds.items(), best, strict=True)
    ),
    tolerance=0.05,
)

# %% [markdown]
# **Predict, then run:** which of 1 pair, 3 pairs and one noise lose accuracy at the chosen rate, and which still do at
# a rate chosen for them?

# %% tags=["hide-input"]
CHANGES = {
    "1 sample": "1 pair",
    "1 sample, a rate of its own": "1 pair",
    "3 samples": "3 pairs",
    "3 samples, a rate of their own": "3 pairs",
    "6 samples": "6 pairs",
    "48 samples": "48 pairs",
    "shared noise": "one noise",
    "shared noise, a rate of its own": "one noise",
    "fixed pairs": "the same pairs in every step",
    "uniform timesteps": "uniform timesteps",
    "antithetic timesteps": "antithetic timesteps",
    "importance": "importance-sampled timesteps",
    "all timesteps": "all timesteps",
    "all timesteps, min-SNR": "all timesteps, min-SNR",
    "denoised image": "loss of the denoised image",
    "L1": "absolute error",
    "Adam": "Adam instead of SGD",
    "1 step": "1 step instead of 5",
    "20 steps": "20 steps instead of 5",
    "rate 0.08": "four times the rate",
}


def title(run):
    lr = runs[run].settings["lr"]
    chosen = lr != settings["lr"] and not run.startswith("rate")
    return CHANGES[run] + (f", η = {lr:g}" if chosen else "")


changed = {
    title(run): gain_of(run, "diffusion-tta") for run in CHANGES if run in runs
}
_, ax = plt.subplots(figsize=(6.2, 6.6))
fig = figures.forest(changed, ax=ax)
ax.set_xlabel("points of accuracy\nagainst the chosen settings")
ax.xaxis.set_major_locator(plt.MultipleLocator(5))
figures.show(
    fig,
    alt="Forest plot of differences to the chosen settings. One pair, three "
    "pairs and one noise at an unchanged rate lie below zero, and so does four "
    "times the rate. In all other rows the intervals contain zero.",
    caption="One change at a time, all on the same images, with 95% paired "
    "intervals, of which about one in twenty misses the true difference. "
    "Hollow points: the interval contains zero. A given η was chosen anew on "
    "validation images; the other rows, except the last, keep the rate. Antithetic: "
    "t is drawn together with its mirror image in the range. Importance-sampled: "
    "lower t are drawn more often and their losses weigh less.",
)

# %% tags=["hide-input"]
NOISY = ("1 sample", "3 samples", "shared noise")
lines = [
    f"{CHANGES[run]}, rate {rate_of(run)}: "
    f"{report.interval(gain_of(run, 'diffusion-tta'))}"
    for run in CHANGES
    if run in runs and run.startswith(NOISY)
]
if "1 sample" in runs:
    lines += [
        "one noise minus 1 pair, same rate: "
        f"{report.interval(gain_of('shared noise', '1 sample'))}"
    ]
agree, count = stored.reproduce(
    "loss", "diffusion-tta", live, shifts, folder=folder
)
lines += [f"computed again: {agree} of {count} answers agree with the stored"]
report.line("\n".join(lines), tolerance=0.3, whole=2)

# %% [markdown]
# At the unchanged rate the noisiest gradients lose: one pair, three pairs, one noise. At rates ten times smaller,
# chosen on validation images from factors of four, ten and forty, no loss is established. The formula, which is about
# the diffusion loss after one step, gives seven (one pair), three (three pairs) and four (one noise). That one noise
# loses more than one pair is not established. Four times the rate loses too. For all other changes, some at a rate not
# chosen for them, no difference is established; the intervals are four to nine points wide.
#
# ## The paper's Table 5
#
# The paper adds one ingredient at a time, over all timesteps; the last row adapts the diffusion model's weights $\phi$
# too. Our rows are compared on the same images, four for each shift and each of three seeds, each at a rate chosen on
# validation images:

# %% tags=["hide-input"]
ROWS = (
    "one timestep, one noise",
    "180 timesteps, one noise",
    "180 timesteps, 180 noises",
    "and φ",
)
many = runs[ROWS[1]].settings["samples"]
v_e, v_t, v_rest, squared = ranges["all timesteps"]
each = v_e + v_t + v_rest
variances = (each, v_e + (v_t + v_rest) / many, each / many)

noise_of = [noise_text(v, squared) for v in variances] + ["not measured"]
alone = TABLE_1["convnext-tiny"]["imagenet-a"][0]
lines = []
for run, noise, (_, adapted) in zip(
    ROWS, noise_of, TABLE_5.values(), strict=True
):
    gain = gain_of(run, also=ROWS[-1])
    error = evidence.standard_error(alone, adapted, 7500)
    name = "the same, φ adapted" if run == ROWS[-1] else run
    line = {"": name, "gain": report.interval(gain)}
    line["paper"] = f"{adapted - alone:+.1f}"
    line["r"] = noise
    line["signs"] = evidence.verdict(adapted - alone, error, gain)
    lines.append(line)
report.table(
    lines,
    tolerance=0.3,
    caption="Gain over no adaptation in points; the paper's gain for "
    "ConvNeXt-Tiny on ImageNet-A; relative noise r of a step",
)

# %% tags=["hide-input"]
differences = ["rates of the four rows: " + ", ".join(map(rate_of, ROWS))]
differences += [
    f"{second}, over {first}: {report.interval(gain_of(second, first, ROWS[-1]))}"
    for first, second in ((ROWS[0], ROWS[1]), (ROWS[1], ROWS[2]),
                          (ROWS[0], ROWS[2]))
]  # fmt: skip
fixed, adapted = stored.align(
    *(stored.rows("loss", run, folder) for run in ROWS[2:]), shifts
)
moved = sum(a.score != b.score for a, b in zip(fixed, adapted, strict=True))
differences += [f"adapting φ changes {moved} of {len(fixed)} answers"]
middle = gain_of(ROWS[2], "diffusion-tta", ROWS[-1])
differences += [
    f"{ROWS[2]}, over {B} pairs from the middle half: {report.interval(middle)}"
]
report.line("\n".join(differences), tolerance=0.3)

# %% [markdown]
# $r$ falls over the first three rows, and the mean gains rise in the paper's order, but the data do not establish that
# any of these three is better than another, or that 180 pairs over all timesteps differ from 24 of the middle half.
#
# ## Exercises
#
# ```{exercise}
# :label: mirrored-noise
#
# Use each $\epsilon$ and $-\epsilon$ at the same timestep. For `image`, compare steps of 12 such couples with steps of
# 24 independent pairs, by `relative_noise`. First predict: is $g$ closer to an odd or to an even function of
# $\epsilon$?
# ```
#
# ```{solution} mirrored-noise
# :class: dropdown
#
# `t = torch.cat([t, t])` and `noise = torch.cat([noise, -noise])` on draws of 12. Over 400 draws, $r$ is 0.46 [0.44,
# 0.48] for 12 couples, 0.47 [0.44, 0.49] for 24 independent pairs, and 0.64 [0.61, 0.67] for 12. Mirroring removes the
# odd part of $g$ and halves the number of noises: the variance is $v_\text{even} / 12$, not $(v_\text{even} +
# v_\text{odd}) / 24$. No difference is established: neither part is clearly larger.
# ```
#
# ```{exercise}
# :label: weighted-columns
#
# Multiply the columns of `every` by the min-SNR weights and compute $r$ of one pair over all timesteps again. How do it
# and the mean pull change?
# ```
#
# ```{solution} weighted-columns
# :class: dropdown
#
# `w = diffusion.weight(timesteps(24, 0.0, 1.0), "min-snr").cpu()`, then `components(every * w[:, None])` and
# `pull * w`. The share of $t$ falls by 0.12 [0.05, 0.20], but $r$ of one pair, 3.8 before, changes by +0.4
# [−0.5, 2.5], and the mean pull (×1000) by +0.02 [−0.19, 0.25]. These two changes are not established, so neither is
# shown to be the reason.
# ```
#
# **Challenge.** Reduce the part of $\epsilon$ by a *control variate*: subtract a multiple of a quantity that depends on
# the same $\epsilon$ and whose mean you know, such as a linear function of $\epsilon$. Measure $r$, then the gain on
# validation images at a rate chosen for it.
#
# ## Take-aways
#
# * The relative noise of the gradient can be measured without labels; its pull needs them, and a low $r$ does not imply
#   a right direction.
# * On these digits, about half of the variance in the middle half of the timesteps comes from $\epsilon$; a new noise
#   for each pair averages it out at no cost.
# * The noisiest gradients lost at an unchanged rate. Compare losses, norms and optimisers at a rate chosen for each.
#
# Next: [which parameters to adapt](08_weights).

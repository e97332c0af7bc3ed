# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The loss, piece by piece
#
# One step of Diffusion-TTA averages the diffusion loss over pairs $(t, \epsilon)$. How many pairs? Which timesteps, which
# noise, which norm? The paper's Table 5 {cite:p}`prabhudesai2023diffusion` shows three of these choices, one on top of
# the other. Here each is changed alone as well, and beside each gain stands what explains it: how noisy the gradient is.
#
# **You will learn** to measure the noise of a gradient, what many pairs buy and when they stop paying, and which choices
# do not matter.
#
# **You need** pages [01](01_diffusion_loss) and [03](03_classification). **Time:** 25 minutes to read, about a minute to
# run on two CPU cores.

# %% tags=["parameters"]
scale = "mini"  # "mini": handwritten digits, on a CPU; "full": ImageNet, on a GPU
seed = 0
pictures = 6  # validation images whose gradients are measured
draws = 16  # times that a step's pairs are drawn anew for each of them
live = 1  # images of each shift that are run again and compared with the stored results

# At full scale alone:
network = None  # another task network: its name, or a folder in the hub's layout
diffusion = None  # another diffusion model, likewise
images = 12  # test images under each shift
shifts = None  # a list of some; None: all
most = {}  # of a setting, such as {"samples": 48}: what a run says above it is cut down to it
results = None  # folder for the results that the page makes; None: results in $DTTA_CACHE or ~/.cache/dtta

# %%
from functools import partial
from itertools import pairwise

import matplotlib.pyplot as plt
import torch

import dtta
from dtta import figures, report, stored
from dtta.elsewhere import elsewhere
from dtta.evaluate import image_generator
from dtta.methods import build
from dtta.sampling import Sampling

figures.style()
problem = dtta.load({"mini": "digits", "full": "imagenet"}[scale], network, diffusion)
shifts = shifts or problem.shifts
folder = stored.FOLDER
if scale == "full":  # no results are stored for it: the page makes them, and goes on where it was stopped
    models = dict(networks={"": network or ""}, diffusions={"": diffusion or ""})
    folder = elsewhere("loss", problem.name, images, results, shifts=shifts, most=most, **models)
runs = stored.names("loss", folder)
gain_of = partial(stored.gain, "loss", folder=folder)
diffusion, settings = problem.diffusion, runs["diffusion-tta"].settings
print("settings, chosen on validation images:", settings)

# %% [markdown]
# ## How noisy is a step?
#
# All that the diffusion model tells the network goes through ten numbers: the gradient of the loss at the logits,
# $g = \partial L / \partial y$. It is a mean over pairs, so it is a random number. Draw the pairs again and again, and
# look at how far the draws lie from their mean,
#
# $$ \text{noise} = \sqrt{\frac{\mathbb{E}\,\lVert g - \bar g \rVert^2}{\lVert \bar g \rVert^2}} . $$
#
# Importance sampling draws more often where the gradient is large, and makes up for it by a weight. The least noise
# comes from a density in proportion to the root mean square of the gradient at each $t$, so that is measured first.
#
# At 1 the noise is as large as the message. A network that takes five such steps hears the message five times, so a
# noise of two or so can be lived with.


# %%
def gradients(image, index, sampling, norm="l2", weighting="none"):
    """What each pair of each draw says at the logits, (draws, B, L); a step hears its mean over the pairs."""
    tta = build(problem, "diffusion-tta", norm=norm, weighting=weighting)
    tta.sampling = sampling
    with torch.no_grad():
        logits = problem.model(image)
    z0, g = diffusion.encode(image), image_generator(seed, index)
    found = []
    for _ in range(draws):
        t, noise = sampling.draw(z0, B, diffusion.timesteps, g)
        y = logits.expand(B, -1).clone().requires_grad_()
        losses = diffusion.loss(z0.expand(B, -1, -1, -1), t[0], noise[0], problem.condition(y), norm) * tta.weight(t)[0]
        found.append(torch.autograd.grad(losses.sum(), y)[0])
    return torch.stack(found)


def noise_of(found, mean):
    """The noise of steps' gradients (images, draws, L) around each image's mean (images, 1, L), a median over images."""
    spread = (found - mean).square().sum(2).mean(1)
    return (spread / mean.square().sum(2)[:, 0]).sqrt().median().item()


B = settings["samples"]
DENSITY = runs["importance"].settings["density"]
under = shifts[:: max(1, len(shifts) // pictures)][:pictures]
shown = [problem.image(k, shift, 3, "validation")[0] for k, shift in enumerate(under)]
span = dict(low=settings["low"], high=settings["high"])
stratified = Sampling("stratified", **span)
same = {  # four ways to the same mean
    "uniform": Sampling("uniform", **span),
    "antithetic": Sampling("antithetic", **span),
    "stratified": stratified,
    "importance": Sampling("stratified", density=DENSITY, **span),
}
other = {  # four other losses
    "shared noise": dict(sampling=Sampling("stratified", noise="shared", **span)),
    "all timesteps": dict(sampling=Sampling("stratified")),
    "L1": dict(sampling=stratified, norm="l1"),
    "signal-to-noise": dict(sampling=stratified, weighting="snr"),
    "signal-to-noise, at most 5": dict(sampling=stratified, weighting="min-snr"),
}
ends = torch.linspace(span["low"], span["high"], len(DENSITY) + 1).tolist()
quarters = [Sampling(low=low, high=high) for low, high in pairwise(ends)]
sizes = torch.stack(
    [torch.stack([gradients(x, k, part).square().sum(2).mean() for k, x in enumerate(shown)]) for part in quarters]
).mean(1).sqrt()  # fmt: skip
print(f"the density that is used: {DENSITY}; by quarter, the root mean square of a pair's gradient over its mean:")
report.line(", ".join(f"{size:.1f}" for size in sizes / sizes.mean()), tolerance=0.1)

pairs = {
    name: torch.stack([gradients(x, k, **how) for k, x in enumerate(shown)])
    for name, how in ({name: dict(sampling=s) for name, s in same.items()} | other).items()
}
found = {name: each.mean(2) for name, each in pairs.items()}  # what a step hears
mean = torch.stack([found[name] for name in same]).mean((0, 2))[:, None]
noises = {name: noise_of(g, mean if name in same else g.mean(1, keepdim=True)) for name, g in found.items()}
fig, ax = plt.subplots(figsize=(7, 3.2))
ax.barh(list(noises), list(noises.values()), color=[figures.BLUE if n in same else figures.ORANGE for n in noises])
ax.axvline(1, color=figures.BLACK, lw=1)
ax.invert_yaxis()
ax.set(xlabel=f"noise of a step's gradient, {B} pairs")
figures.show(
    fig,
    alt="Bars: the noise of a step's gradient for four ways to draw timesteps, uniform, antithetic, stratified and by "
    "importance, and for shared noise, all timesteps, absolute errors and two weightings by signal-to-noise.",
)

# %%
report.line("\n".join(f"{name}: noise {value:.2f}" for name, value in noises.items()), tolerance=0.1)

# %% [markdown]
# TEXT
#
# ## Table 5
#
# The paper's Table 5 starts from one random timestep with one noise, and adds: 180 timesteps that share one noise; a
# noise for each; moving φ as well. All timesteps are heard, as in the paper. Each row has a rate chosen on validation
# images. Test images: 12 of each shift for the first row, 6 for the others, all different, three seeds.

# %%
PAPER = {
    "one timestep, one noise": -2.9,
    "180 timesteps, one noise": +1.8,
    "180 timesteps, 180 noises": +2.0,
    "and φ": +3.1,
}
report.beside(
    [(run, paper, f"{run}", gain_of(run, shifts, also="and φ")) for run, paper in PAPER.items()],
    tolerance=0.1,
    caption="Gain in points over no adaptation, each row with all above it",
    paper="paper, Table 5: ConvNext-Tiny on ImageNet-A",
)

# %%
steps_of = {
    f"{second}\nagainst {first}": gain_of(second, shifts, against=first)
    for first, second in zip(list(PAPER), list(PAPER)[1:], strict=False)
}
report.gains(steps_of, tolerance=0.1, caption="Each row against the one before it, accuracy in %")

# %% [markdown]
# TEXT
#
# ## How many pairs, how many steps

# %%
SAMPLES = (1, 3, 6, 12, 24, 48, 96, 180, 360)
STEPS = (1, 2, 5, 10, 20)
by_samples = {n: gain_of("diffusion-tta" if n == 24 else f"{n} samples", shifts) for n in SAMPLES}
by_steps = {n: gain_of("diffusion-tta" if n == 5 else f"{n} step{'s' * (n > 1)}", shifts) for n in STEPS}
single = (pairs["uniform"] - mean[:, None]).square().sum(3).mean((1, 2)) / mean.square().sum(2)[:, 0]

fig, axes = plt.subplots(1, 3, figsize=(10, 3), width_ratios=(1.2, 1, 1.2))
for ax, found, name in ((axes[0], by_samples, "pairs for each step"), (axes[1], by_steps, "steps")):
    low, mid, high = (torch.tensor([g[k] for g in found.values()]) for k in ("low", "gain", "high"))
    ax.errorbar(list(found), mid, torch.stack([mid - low, high - mid]), fmt="o-", color=figures.BLUE, capsize=2, lw=1.2)
    ax.axhline(0, color=figures.BLACK, lw=1)
    ax.set(xscale="log", xticks=list(found), xticklabels=list(found), xlabel=name, ylabel="gain in points")
    ax.minorticks_off()
axes[0].tick_params(axis="x", labelsize=8)
axes[2].plot(SAMPLES, [(single.median() / n).sqrt() for n in SAMPLES], "o-", color=figures.ORANGE)
axes[2].axhline(1, color=figures.BLACK, lw=1)
axes[2].set(xscale="log", yscale="log", xlabel="pairs for each step", ylabel="noise, uniform timesteps")
figures.show(fig, alt="TODO")

# %%
report.gains({f"{n} pairs": g for n, g in by_samples.items()}, tolerance=0.1, caption="Five steps; accuracy in %")

# %%
report.gains({f"{n} steps": g for n, g in by_steps.items()}, tolerance=0.1, caption="24 pairs a step; accuracy in %")

# %% [markdown]
# TEXT
#
# ## Micro-batches
#
# All pairs in one pass, or a few at a time with their gradients added up: the same step, in less memory.

# %%
x, _ = problem.image(0, "contrast", 3)
whole = build(problem, "diffusion-tta")(x, image_generator(seed, 0))
parts = build(problem, "diffusion-tta", micro_batch=4)(x, image_generator(seed, 0))
print("the same answer to within 1e-4:", torch.allclose(whole, parts, atol=1e-4))
differ = sum(
    a.score != b.score
    for a, b in zip(
        stored.rows("loss", "diffusion-tta", folder), stored.rows("loss", "micro-batches of 4", folder), strict=True
    )
)
print(f"{differ} of {len(stored.rows('loss', 'diffusion-tta'))} stored answers differ")

# %% [markdown]
# ## One choice at a time
#
# From the validated settings (stratified timesteps in the middle of the range, fresh noise, squared error, SGD) one
# thing is changed. Where the change rescales the gradient, the rate was chosen anew on validation images.

# %%
CHANGES = (
    "uniform timesteps", "antithetic timesteps", "fixed pairs", "importance", "shared noise", "L1",
    "signal-to-noise", "signal-to-noise, at most 5", "Adam", "AdamW",
)  # fmt: skip
changed = {"as validated": gain_of("diffusion-tta", shifts)} | {run: gain_of(run, shifts) for run in CHANGES}
figures.show(
    figures.forest(changed, "Gain over no adaptation, mean of twelve shifts"),
    alt="TODO",
)

# %%
report.gains(
    {run: gain_of(run, shifts, against="diffusion-tta") for run in CHANGES},
    tolerance=0.1,
    caption="Each against the validated settings, accuracy in %",
)

# %% [markdown]
# TEXT
#
# ## The rate

# %%
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08)
by_rate = {r: gain_of("diffusion-tta" if r == settings["lr"] else f"rate {r:g}", shifts) for r in RATES}
worst = {
    r: min(gain_of("diffusion-tta" if r == settings["lr"] else f"rate {r:g}", {s})["gain"] for s in shifts)
    for r in RATES
}
fig, ax = plt.subplots(figsize=(6.5, 3))
low, mid, high = (torch.tensor([g[k] for g in by_rate.values()]) for k in ("low", "gain", "high"))
ax.errorbar(RATES, mid, torch.stack([mid - low, high - mid]), fmt="o-", color=figures.BLUE, capsize=2, label="mean")
ax.plot(RATES, list(worst.values()), "s--", color=figures.VERMILION, label="worst shift")
ax.axhline(0, color=figures.BLACK, lw=1)
ax.set(xscale="log", xticks=RATES, xticklabels=[f"{r:g}" for r in RATES], xlabel="rate of SGD", ylabel="gain in points")
ax.minorticks_off()
ax.legend()
figures.show(fig, alt="TODO")

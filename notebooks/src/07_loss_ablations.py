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
draws = 10  # times that a step's pairs are drawn anew for each of them
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

from dtta import figures, report, stored
from dtta.elsewhere import PLAIN, opened
from dtta.evaluate import image_generator
from dtta.methods import build
from dtta.sampling import Sampling

figures.style()
problem, shifts, folder = opened(
    scale, ["loss"], "digits", "imagenet", images, seed, shifts=shifts, networks={"": network},
    diffusion=diffusion, most=most, results=results, start=PLAIN,
)  # fmt: skip
runs = stored.names("loss", folder)
gain_of = partial(stored.gain, "loss", folder=folder)
diffusion, settings = problem.diffusion, runs["diffusion-tta"].settings
origin = {"mini": "chosen on validation images", "full": "the paper's SGD, nothing chosen here"}[scale]
print(f"settings, {origin}:", settings)

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
        each = []
        for i in torch.arange(B).split(settings.get("micro_batch", B)):
            y = logits.expand(len(i), -1).clone().requires_grad_()
            c, count = problem.condition(y), tta.weight(t)[0, i]
            losses = diffusion.loss(z0.expand(len(i), -1, -1, -1), t[0, i], noise[0, i], c, norm) * count
            each.append(torch.autograd.grad(losses.sum(), y)[0].cpu())
        found.append(torch.cat(each))
    return torch.stack(found)


def noise_of(found, mean):
    """The noise of steps' gradients (images, draws, L) around each image's mean (images, 1, L), a median over images."""
    spread = (found - mean).square().sum(2).mean(1)
    return (spread / mean.square().sum(2)[:, 0]).sqrt().median().item()


B = settings["samples"]
DENSITY = runs["importance"].settings["density"]
under = shifts[:: max(1, len(shifts) // pictures)][:pictures]
split = "validation" if "validation" in problem.sizes else "test"  # ImageNet's training part need not be there
shown = [problem.image(k, shift, 3, split)[0] for k, shift in enumerate(under)]
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
report.line("\n".join(f"{name}: noise {value:.2f}" for name, value in noises.items()), tolerance=0.05)

# %% [markdown]
# A step of 24 pairs is already more message than noise, and how the timesteps are drawn matters less than one might
# think: the blue bars differ by hardly more than this measurement scatters. So does the kind of loss. Two bars stand out,
# and they teach different lessons.
#
# * **One noise for all timesteps** makes a step about four times as noisy. The pairs then all err the same way: what is
#   particular to one noise does not average out.
# * **All timesteps** give the *quietest* gradient of all. Keep that in mind for the next section.
#
# ## Table 5
#
# The paper's Table 5 starts from one random timestep with one noise, and adds: 180 timesteps that share one noise; a
# noise for each; moving φ as well. All timesteps are heard, as in the paper. Each row has a rate chosen on validation
# images. Test images: four of each shift for each of three seeds, all different, the same in each row.

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
# In the paper one timestep does harm, and each addition helps. Here one timestep, at the small rate that validation chose
# for it, does none, and no step of the ladder is shown to gain by itself; its last two rows lie above no adaptation. Two
# things are worth a closer look.
#
# * With all timesteps heard, the ladder ends at half of what the middle of the range gains on the same images (further
#   down: 5.6 against 11.1 points; the difference is -5.6 [-11.8, 0.0], and [page 03](03_classification) shows one of that
#   size on more images). The gradient there is the quietest of all, so it is not noise that holds it back. It
#   is *bias*: many pairs estimate very well what all timesteps say on average, and low timesteps say the wrong thing under
#   a shift ([page 01](01_diffusion_loss)).
# * Moving φ as well changed not one answer, at either of the rates that were tried. [Page 08](08_weights) tries a larger
#   one.
#
# ## How many pairs, how many steps
#
# From here on the timesteps are those of the middle of the range, chosen on validation images.
#
# **Predict, then run.** The noise of a step falls with the root of the number of pairs. Where will the gain stop growing?

# %%
SAMPLES = [n for n in (1, 3, 6, 12, 24, 48, 96, 180, 360) if n == B or f"{n} samples" in runs]
STEPS = (1, 2, 5, 10, 20)
by_samples = {n: gain_of("diffusion-tta" if n == B else f"{n} samples", shifts, also="360 samples") for n in SAMPLES}
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
figures.show(
    fig,
    alt="Three panels. The gain against the number of pairs in a step rises up to about six pairs and is level from there; "
    "the gain against the number of steps is level from two on; the noise of a step falls with the number of pairs.",
)

# %%
report.gains(
    {f"{n} pairs": g for n, g in by_samples.items()},
    tolerance=0.1,
    caption="Five steps, the same images in each row; accuracy in %",
)

# %%
report.gains(
    {f"{n} pairs": gain_of(f"{n} samples", shifts, against="diffusion-tta") for n in SAMPLES if n != B},
    tolerance=0.1,
    caption=f"Each against {B} pairs, on all images that both have; accuracy in %",
)

# %%
report.gains({f"{n} steps": g for n, g in by_steps.items()}, tolerance=0.1, caption=f"{B} pairs a step; accuracy in %")

# %% [markdown]
# One or three pairs are too few, by intervals that lie below zero when set against 24 (-7.6 [-12.2, -3.1] and -4.9 [-8.7,
# -1.4] points). From six on no difference is shown, up to sixty times as many. (The figure stands on the images that
# all rows share, half as many.) That is where the noise of a step, on the right, comes down to about one. The paper's 180
# pairs were not needed here; whether they are for a large model on large images cannot be said from this page.
#
# One step does most of the work, and twenty do no more than five. More steps at the same rate could have overshot, and do
# not: a network that is sure of its answer has almost no gradient left.
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
print(f"{differ} of {len(stored.rows('loss', 'diffusion-tta', folder))} stored answers differ")

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
    figures.forest(changed, "Gain over no adaptation, mean of the shifts"),
    alt="Forest plot: gains over no adaptation of the validated settings and of ten single changes. All lie between about "
    "ten and thirteen points but for shared noise, which lies at zero.",
)

# %%
report.gains(
    {run: gain_of(run, shifts, against="diffusion-tta") for run in CHANGES},
    tolerance=0.1,
    caption="Each against the validated settings, accuracy in %",
)

# %% [markdown]
# Against the validated settings only one change is shown to matter: **shared noise**, which takes the whole gain away
# (-11.1 points [-15.6, -6.6]). It was the noisiest bar above. The rest lies within chance: absolute instead of squared
# errors, weights by signal-to-noise, Adam or AdamW instead of SGD, uniform, antithetic or fixed pairs, importance
# sampling. Each of the first five was given a rate of its own. On validation images a rate that suits another loss costs
# up to all of the gain (signal-to-noise at 0.08: nothing left), and the comparison would have been about rates.
#
# ## The rate

# %%
RATES = [r for r in (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08) if r == settings["lr"] or f"rate {r:g}" in runs]
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
figures.show(
    fig,
    alt="The gain against the rate on a logarithmic axis, its mean over the shifts and its worst shift. The mean is level "
    "over a wide range and falls at the largest rate; the worst shift falls earlier.",
)

# %%
report.gains({f"rate {r:.1e}": g for r, g in by_rate.items()}, tolerance=0.1, caption="SGD; accuracy in %")

# %% [markdown]
# Over a factor of eight the rate hardly matters for the mean. It matters for the worst shift, which pays for large
# steps first. On these test images a quarter of the chosen rate gains 2.4 points more [-0.7, 5.6]: not shown. The choice
# was made on validation images, and it stands.
#
# Are the stored numbers true? An image of each shift, run now:

# %%
agree, count = stored.agreement("loss", "diffusion-tta", live, shifts, folder=folder)
report.line(f"{agree} of {count} answers are as stored", tolerance=0.1, whole=2)

# %% [markdown]
# ```{exercise}
# :label: mirrored-noise
#
# Antithetic *noise*: let each $\epsilon$ be followed by $-\epsilon$ at the same timestep. Draw such pairs yourself, measure
# the noise of a step's gradient with the functions above, and compare it with stratified timesteps and fresh noise. Before
# you run it: is the gradient nearer to an odd or to an even function of $\epsilon$?
# ```
#
# ```{solution} mirrored-noise
# :class: dropdown
#
# Draw half as many pairs, then `t = torch.cat([t, t], 1)` and `noise = torch.cat([noise, -noise], 1)`; the rest of
# `gradients` stays. Mirroring cancels the part of the gradient that is odd in $\epsilon$ and doubles the weight of the part
# that is even, so whether it helps is a question of which part is larger. Measure both with the same number of pairs.
# ```
#
# ## Take-aways
#
# * The noise of a step can be measured, without labels, before any image is adapted to.
# * Half a dozen pairs a step suffice here; more buy nothing. One noise for all of them ruins the step.
# * A quiet gradient is not a right one: all timesteps together are the quietest, and gain half of what the middle does.
# * Compare optimisers, norms and weightings at a rate of their own, or compare rates without knowing it.

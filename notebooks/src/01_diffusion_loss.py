# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The diffusion loss
#
# A classifier looks at an image once and answers. A diffusion model can be asked something else: *if this image
# showed a 3, how well would you predict the noise I added to it?* The better the prediction, the better the label
# fits. That score, the diffusion loss, is all the feedback that Diffusion-TTA {cite:p}`prabhudesai2023diffusion` uses.
#
# **You will learn** how an image is noised, what the network predicts, what its error says about the label, and why
# one noise level misleads while many decide.
#
# **You need** Python, tensors, and softmax. No knowledge of diffusion models. **Time:** 20 minutes to read, under a
# minute to run on two CPU cores.

# %% tags=["parameters", "hide-input"]
# "mini": handwritten digits, on a CPU; "full": ImageNet, on a GPU
scale = "mini"
seed = 0
images = 24  # validation images in the statistics
pairs = 24  # (timestep, noise) pairs for each image

# At full scale alone:
network = None  # another classifier: its name, or a folder in the hub's layout
diffusion = None  # another diffusion model, likewise

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import torch

import dtta
from dtta.experiments.transfer import announce
from dtta.pages import Setting, figures, report

figures.style()
setting = Setting(scale)
problem = dtta.load(setting(mini="digits", full="imagenet"), network, diffusion)
announce(problem, network, diffusion)
diffusion = problem.diffusion
split = (
    "validation" if "validation" in problem.sizes else "test"
)  # ImageNet's training part need not be there
x, truth = problem.images(images, split=split)
# The labels that are compared: all ten digits; of ImageNet's thousand classes those of these images.
labels = setting(mini=torch.arange(10), full=truth.cpu().unique())
names, y = (
    [problem.classes[k] for k in labels],
    torch.searchsorted(labels, truth.cpu()),
)
print(
    f"{len(x)} images of shape {tuple(x.shape[1:])}, pixels from "
    f"{x.min():.0f} to {x.max():.0f}"
)

# %% [markdown]
# The mini world is scikit-learn's handwritten digits: 8 × 8 pixels, real handwriting. A thousand of them trained the
# models of this page; the images shown here were kept aside.

# %% tags=["hide-input"]
figures.show(
    figures.gallery(x[:10], [f"a {names[label][:10]}" for label in y[:10]]),
    alt="Ten images, in the mini world handwritten digits of eight by eight "
    "grey pixels, with their labels.",
)

# %% [markdown]
# ## Noise, step by step
#
# The forward process mixes the image with Gaussian noise. With $z_0$ the image (grey levels moved to $[-1, 1]$) and
# $\epsilon \sim \mathcal N(0, I)$,
#
# $$z_t = \sqrt{\bar\alpha_t}\, z_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon .$$
#
# $\bar\alpha_t$ falls from 1 (no noise) at $t = 0$ to 0 (nothing but noise) at $t = T$. Two lines of code:

# %%
generator = torch.Generator().manual_seed(seed)
picture = 2 * x[:1].cpu() - 1
alpha_bar = diffusion.alphas_cumprod.cpu()  # (T,)

ts = torch.arange(0, diffusion.timesteps, 111)
noise = torch.randn(picture.shape, generator=generator)
strip = [
    alpha_bar[t].sqrt() * picture[0] + (1 - alpha_bar[t]).sqrt() * noise[0]
    for t in ts
]

# %% tags=["hide-input"]
figures.show(
    figures.gallery([(z + 1) / 2 for z in strip], [f"t = {t}" for t in ts]),
    alt="One image at ten noise levels from t = 0 to t = 999: sharp at first, "
    "unreadable at last.",
)

# %% [markdown]
# ## Predicting the noise
#
# The network $\epsilon_\phi(z_t, t, c)$ sees the noisy image, the level $t$ and a condition $c$, here the embedding of
# a class, and guesses $\epsilon$. Its error is the diffusion loss
#
# $$L = \mathbb E_{t, \epsilon} \left\| \epsilon_\phi(z_t, t, c) - \epsilon \right\|^2 .$$
#
# **Predict, then run.** The digit above has a true class. Will the error be smaller under the true class at *every*
# level?

# %% tags=["hide-input"]
z0 = diffusion.encode(
    x[:1]
)  # of pixels the picture itself; a latent diffusion model has an encoder
noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(seed)).to(
    z0.device
)
table = diffusion.class_embeddings[
    labels
]  # l_j, one row for each label: (L, D)
true, wrong = int(y[0]), (int(y[0]) + 5) % len(labels)
rows = []
with torch.no_grad():
    for t in (50, 350, 500, 650, 950):
        z_t = alpha_bar[t].sqrt() * z0 + (1 - alpha_bar[t]).sqrt() * noise
        guess = [
            diffusion.predict(z_t, torch.tensor([t]).to(z_t.device), table[[j]])
            for j in (true, wrong)
        ]
        errors = [(g - noise).square().mean().item() for g in guess]
        rows.append(
            {
                "t": t,
                f"error as a {names[true]}": errors[0],
                f"error as a {names[wrong]}": errors[1],
            }
        )
report.table(rows, tolerance=0.002, caption="One image, one noise")

# %% [markdown]
# `dtta` has this as one call for any diffusion model, with one loss for each sample. It is the same number:

# %%
t = torch.full((2,), 500, device=z0.device)
with torch.no_grad():
    losses = diffusion.loss(
        z0.expand(2, -1, -1, -1),
        t,
        noise.expand(2, -1, -1, -1),
        table[[true, wrong]],
    )
by_hand = torch.tensor([rows[2][key] for key in list(rows[2])[1:]])
assert torch.allclose(
    losses.cpu(), by_hand, atol=setting(mini=1e-6, full=1e-4)
)  # many more numbers, on a GPU

# %% tags=["hide-input"]
report.line(
    f"as a {names[true]}: {losses[0]:.3f}, as a {names[wrong]}: "
    f"{losses[1]:.3f}",
    tolerance=0.002,
)

# %% [markdown]
# ## Where the label speaks
#
# One image and one noise prove nothing. Below, the same for many images, many noises and all ten labels. All labels
# see *the same* $(t, \epsilon)$: we care for differences between labels, and what they share cancels.

# %%
from dtta.methods.diffusion_classifier import DiffusionClassifier

scorer = DiffusionClassifier(
    diffusion, samples=pairs, seed=seed, embeddings=table
)  # t spread evenly over 0..T
losses = scorer.losses(x).cpu()  # (images, labels, timesteps)
right = losses.gather(1, y[:, None, None].expand(-1, 1, pairs)).squeeze(
    1
)  # (images, timesteps)
rivals = (
    losses.clone()
    .scatter(1, y[:, None, None].expand(-1, 1, pairs), float("nan"))
    .nanmean(1)
)
centre = (torch.arange(pairs) + 0.5) / pairs * diffusion.timesteps

# %% tags=["hide-input"]
fig, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.6))
figures.mean_interval(left, centre, right, figures.BLUE, "true class")
figures.mean_interval(
    left, centre, rivals, figures.VERMILION, "mean of the others"
)
left.set(
    xlabel="timestep t", ylabel="loss", yscale="log", title="Loss by timestep"
)
left.legend()
figures.mean_interval(
    middle, centre, rivals - right, figures.BLACK, "others minus true class"
)
middle.axhline(0, color=figures.GREY, lw=1)
middle.set(
    xlabel="timestep t",
    ylabel="difference in loss",
    title="How much the label matters",
)
figures.show(
    fig,
    alt="Left: the loss falls with t, and the true class lies below the "
    "others. Right: their difference peaks in the middle of the range and "
    "vanishes at both ends.",
)

# %% [markdown]
# The loss itself is largest where there is little noise to be found. What the *label* adds is another matter:
#
# * near $t = 0$ the digit is plain to see, and the noise can be told from it without any label;
# * near $t = T$ nothing of the digit is left that a label could explain;
# * in between, knowing the digit helps to tell ink from noise.
#
# ## One timestep misleads, many decide
#
# Choose the label with the least loss and you have the *Diffusion Classifier* {cite:p}`li2023diffusion`. How often is it
# right if it may look at $B$ pairs only?

# %%
order = torch.stack(
    [torch.randperm(pairs, generator=generator) for _ in range(20)]
)  # 20 random choices of pairs
budgets = [b for b in (1, 2, 4, 8, 16, 24) if b <= pairs]
hits = torch.stack(
    [
        torch.stack(
            [
                (losses[:, :, o[:b]].mean(2).argmin(1) == y).float().mean()
                for b in budgets
            ]
        )
        for o in order
    ]
)

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6, 3.4))
figures.mean_interval(
    ax, budgets, 100 * hits, figures.BLUE, "Diffusion Classifier"
)
ax.axhline(100 / len(labels), color=figures.GREY, ls=":", label="chance")
ax.set(
    xscale="log",
    xticks=budgets,
    xticklabels=budgets,
    xlabel="pairs (t, ε) for each image",
    ylabel="accuracy in %",
)
ax.legend()
figures.show(
    fig,
    alt="Accuracy of the Diffusion Classifier against the number of pairs: it "
    "rises steeply from one on.",
)
report.line(
    ", ".join(
        f"{b} pairs: {100 * h:.0f}.0%"
        for b, h in zip(budgets, hits.mean(0), strict=True)
    ),
    tolerance=3.0,
)

# %% [markdown]
# The step of adaptation in the next pages is a gradient of this loss. With one pair it often points the wrong way; the
# paper's ablation loses 2.9 points with a single timestep and gains 1.8 with 180 (ConvNext-Tiny on ImageNet-A, its
# Table 5).
#
# ## Under a shift
#
# Now the point of it all: images unlike those the models were trained on. Does the diffusion model still know which
# label fits, and at which timesteps?

# %% tags=["hide-input"]
ranges = {
    "0 - 250": (0.0, 0.25),
    "250 - 500": (0.25, 0.5),
    "500 - 750": (0.5, 0.75),
    "750 - 1000": (0.75, 1.0),
}
rows = []
for shift in ("clean", "gaussian_noise", "contrast", "brightness"):
    shifted = problem.images(images, shift, 3, split, seed)[0]
    found = losses if shift == "clean" else scorer.losses(shifted).cpu()
    with torch.no_grad():  # among the same labels
        right = (
            (problem.model(shifted)[:, labels].argmax(1).cpu() == y)
            .float()
            .mean()
            .item()
        )
    row = {"shift": shift, "classifier": 100 * right}
    for name, (low, high) in {**ranges, "all t": (0, 1)}.items():
        part = found[:, :, int(low * pairs) : int(high * pairs)].mean(2)
        row[f"t in {name}" if name in ranges else name] = (
            100 * (part.argmin(1) == y).float().mean().item()
        )
    rows.append(row)
report.table(rows, tolerance=4.5, digits=0, caption="Accuracy in %, severity 3")

# %% [markdown]
# Low timesteps hardly know the label even on clean images, and under a shift they can fall to chance (10%): there the
# network is asked for a little noise, a corrupted image brings noise or grey of its own, and the label that best explains
# *that* wins. Yet their losses are the largest, so in a plain mean they speak loudest. From the middle of the range on,
# the noise we add drowns the corruption, and the label is heard again. This decides how we sample $t$ in
# [page 03](03_classification).
#
# ```{exercise}
# :label: weights-of-t
#
# Give each timestep its own weight in the mean over pairs before `argmin`: all equal, or proportional to
# $1 - \bar\alpha_t$, or 1 only between 250 and 750. Which is best on clean images, which under Gaussian noise? Choose
# on these validation images, then check on test images, `problem.images(200, split="test")`.
# ```
#
# ```{solution} weights-of-t
# :class: dropdown
#
# `w = 1 - alpha_bar[centre.long()]` or `w = ((centre > 250) & (centre < 750)).float()`, then
# `(losses * w).mean(2).argmin(1)`, and the same with the losses of `problem.images(200, "gaussian_noise")`.
# ```
#
# ## Take-aways
#
# * The diffusion loss compares a guess of the noise with the noise; a label that fits makes the guess better.
# * What counts is the difference between labels under the same $(t, \epsilon)$. It lives in the middle of the range.
# * One pair is often wrong; a few dozen decide. Under a shift, low timesteps mislead.
#
# Next: [how an answer becomes a condition](02_conditions).

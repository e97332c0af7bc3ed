# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # A diffusion model in sixty lines
#
# **The idea.** Add noise to an image and train a network to predict that noise, given the image's class. A network that
# can do this can do two more things: draw new images of a class, and judge which class an image belongs to.
# Diffusion-TTA is built on the second: it adapts a classifier to test images (*test-time adaptation*).

# %% tags=["parameters", "hide-input"]
scale = "mini"  # this page is the same at both scales
seed = 0
steps = 2000  # of training
pairs = 25  # (timestep, noise) pairs for each image when the model classifies

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from dtta.evaluation.statistics import bootstrap_interval
from dtta.pages import figures, report

figures.style()
torch.set_num_threads(1)  # more would wait for each other on busy cores
torch.manual_seed(seed)
digits = load_digits()
# 64 pixels, from 0..16 to -1..1
x = torch.tensor(digits.data).float() / 8 - 1
y = torch.tensor(digits.target)
order = torch.randperm(len(x))
x, y = x[order], y[order]
x_train, y_train, x_test, y_test = x[:1400], y[:1400], x[1400:], y[1400:]


def draw(rows, titles, columns=5):
    """Show flattened digits (N, 64) in [-1, 1] in a grid."""
    images = [(d.view(1, 8, 8).clamp(-1, 1) + 1) / 2 for d in rows]
    return figures.gallery(images, titles, columns)


# %% tags=["hide-input"]
T = 200
alpha_bar = (1 - torch.linspace(1e-4, 0.05, T)).cumprod(0)
levels = torch.tensor([0, 3, 8, 15, 25, 40, 60, 85, 130, 199])
a = alpha_bar[levels, None]
strip = a.sqrt() * x_test[:1] + (1 - a).sqrt() * torch.randn(1, 64)
figures.show(
    draw(strip, [f"t = {t}" for t in levels]),
    alt="One handwritten digit at ten noise levels: clear at first, pure noise "
    "at last.",
    caption="One digit at ten noise levels, each time with the same noise; "
    "values outside black and white are clipped. The network learns to predict "
    "the noise.",
)

# %% [markdown]
# **The result.** After training on 1,400 digits, we choose for each of 397 other digits the class under which the noise
# is predicted best. About 99% are right, although the network was never trained to classify. A nearest-neighbour
# search, which needs no training, is right about as often. We will use the diffusion model to correct a classifier, not
# to replace it.
#
# **You need** Python, PyTorch and softmax. **Time:** 15 minutes to read, a minute to run on two CPU cores.
#
# ## Adding noise
#
# The images are scikit-learn's handwritten digits: 8 × 8 pixels, 64 numbers from −1 to 1. Call one of them $z_0$. The
# *forward process* adds a little Gaussian noise in each of $T$ steps, with variance $\beta_t$:
#
# $$z_t = \sqrt{1 - \beta_t}\; z_{t-1} + \sqrt{\beta_t}\; \epsilon_t, \qquad \epsilon_t \sim \mathcal N(0, I).$$
#
# A sum of Gaussians is a Gaussian, so we need not take the steps one by one. With $\bar\alpha_t = \prod_{s \le t} (1 -
# \beta_s)$,
#
# $$z_t = \sqrt{\bar\alpha_t}\; z_0 + \sqrt{1 - \bar\alpha_t}\; \epsilon, \qquad \epsilon \sim \mathcal N(0, I).$$

# %%
T = 200
beta = torch.linspace(1e-4, 0.05, T)
# From almost 1 (image) to almost 0 (noise); index 0: after the first step
alpha_bar = (1 - beta).cumprod(0)


def add_noise(z0, t, noise):
    """Digits (N, 64), timesteps (N,) -> noisy digits (N, 64)."""
    a = alpha_bar[t, None]
    return a.sqrt() * z0 + (1 - a).sqrt() * noise


# %% [markdown]
# ## The network
#
# $\epsilon_\phi(z_t, t, c)$, with weights $\phi$, gets the noisy digit, the timestep and the class. It estimates the
# noise. The class becomes a vector from a table, its *embedding*: this is the **condition** $c$. The timestep becomes a
# vector too, and the sum of both enters every block. Published models are larger, but follow the same plan.


# %%
class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(2 * width, width)
        self.project = nn.Linear(width, width)

    def forward(self, h, e):
        both = torch.cat([self.norm(h), e], 1)
        return h + self.project(F.silu(self.mix(both)))


# %%
class Denoiser(nn.Module):
    def __init__(self, width=256, blocks=4):
        super().__init__()
        self.t, self.label = nn.Embedding(T, width), nn.Embedding(10, width)
        self.enter = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 64))

    def forward(self, z, t, label):
        h = self.enter(z)
        e = self.t(t) + self.label(label)
        for block in self.blocks:
            h = block(h, e)
        return self.leave(h)


# %% [markdown]
# ## Training
#
# One step: draw digits, timesteps and noises; compare the network's estimate with the noise that was added. The mean
# squared error is the **diffusion loss**. The rest of this book uses the same number at test time.

# %%
model, history = Denoiser(), []
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in tqdm(range(steps), desc="training", unit="step"):
    i, t = torch.randint(len(x_train), (128,)), torch.randint(T, (128,))
    noise = torch.randn(128, 64)
    estimate = model(add_noise(x_train[i], t, noise), t, y_train[i])
    loss = F.mse_loss(estimate, noise)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    schedule.step()
    history.append(loss.item())

# %% tags=["hide-input"]
model.requires_grad_(False)
window = min(50, steps)
mean = torch.tensor(history).unfold(0, window, window).mean(1)
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(torch.arange(len(mean)) * window + window / 2, mean)
ax.set(
    xlabel="training step",
    ylabel="diffusion loss",
    ylim=(0, None),
    title="Mean over 50 steps",
)
figures.show(
    fig,
    alt="The diffusion loss falls steeply at first and then levels off well "
    "above zero.",
    caption="The diffusion loss during training: a steep fall, then a slow one, "
    "which ends well above zero.",
)

# %% [markdown]
# A network that always answers 0 has a loss of 1, the variance of the noise. Training does not reach a loss of 0: near
# $t = 0$ the noise is too weak to be predicted well.
#
# ## Drawing digits
#
# To draw an image, start from pure noise and go backwards, one timestep at a time {cite:p}`ho2020ddpm`:
#
# $$z_{t-1} = \frac{1}{\sqrt{1 - \beta_t}} \Big( z_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}}\,\epsilon_\phi(z_t, t, c) \Big)
# + \sqrt{\beta_t}\;\epsilon'.$$
#
# Each step subtracts a part of the predicted noise, rescales, and adds a little fresh noise $\epsilon'$, except at the
# end.

# %%
label = torch.arange(10).repeat(2)  # each class twice
z = torch.randn(len(label), 64)
for t in reversed(range(T)):
    estimate = model(z, torch.full_like(label, t), label)
    z = z - beta[t] / (1 - alpha_bar[t]).sqrt() * estimate
    z = z / (1 - beta[t]).sqrt()
    if t > 0:
        z = z + beta[t].sqrt() * torch.randn_like(z)

# %% tags=["hide-input"]
figures.show(
    draw(z, [str(c.item()) for c in label]),
    alt="Two drawn digits of each class, most of them readable.",
    caption="Two drawings of each class (titles). Which would you recognise "
    "without the title?",
)

# %% [markdown]
# ## One noisy digit, two classes
#
# Solve the last formula of "Adding noise" for $z_0$, with the estimate in place of the noise:
#
# $$\hat z_0 = \frac{z_t - \sqrt{1 - \bar\alpha_t}\;\epsilon_\phi(z_t, t, c)}{\sqrt{\bar\alpha_t}}.$$
#
# This is the network's guess of the clean digit. **Predict, then run:** what will it guess if we give it a wrong class?

# %%
k = 1  # number of the test digit
wrong = (y_test[k] + 5) % 10
label = torch.stack([y_test[k], wrong])
rows, losses = [], []
for t in (20, 60, 140):
    noise = torch.randn(1, 64)
    ts, a = torch.full((2,), t), alpha_bar[t]
    z = add_noise(x_test[[k, k]], ts, noise)
    estimate = model(z, ts, label)
    z0_hat = (z - (1 - a).sqrt() * estimate) / a.sqrt()
    losses.append((estimate - noise).square().mean(1))
    rows += [z[0], *z0_hat]

# %% tags=["hide-input"]
titles = []
for t, loss in zip((20, 60, 140), losses, strict=True):
    titles += [
        f"t = {t}",
        f"as {label[0]}: {loss[0]:.2f}",
        f"as {label[1]}: {loss[1]:.2f}",
    ]
figures.show(
    draw(rows, titles, 3),
    alt="In rows for three noise levels: a noisy digit, and the clean digit "
    "that the network predicts under the true and under a wrong class, each "
    "with its loss.",
    caption="Left: a digit under more and more noise. Middle and right: the "
    "clean digit predicted under the right class and under a wrong one. The "
    "numbers are the losses.",
)

# %% [markdown]
# At $t = 20$ the wrong class hardly changes the guess, at 60 it blurs it, and at 140 the network draws the wrong digit.
# All losses fall with $t$, because strong noise is easy to see; the difference between the classes is what counts.
# **Diffusion-TTA turns this difference into a gradient for the classifier.**
#
# ## A classifier from losses
#
# Try every class and keep the one with the lowest loss. A loss depends on the pair $(t, \epsilon)$, so take the mean
# over many, the same ones for every class. This is the *Diffusion Classifier* {cite:p}`li2023diffusion`.

# %%
total = torch.zeros(len(x_test), 10)
for _ in tqdm(range(pairs), desc="classifying", unit="pair"):
    t, noise = torch.randint(T, (len(x_test),)), torch.randn_like(x_test)
    z = add_noise(x_test, t, noise)
    for c in range(10):
        estimate = model(z, t, torch.full_like(t, c))
        total[:, c] += (estimate - noise).square().mean(1)
prediction = total.argmin(1)

# %% tags=["hide-input"]
neighbour = y_train[torch.cdist(x_test, x_train).argmin(1)]
for name, answer in {
    "lowest diffusion loss": prediction,
    "nearest neighbour": neighbour,
}.items():
    right = (answer == y_test).double()
    low, high = bootstrap_interval(100 * right.numpy())
    report.line(
        f"{name}: {100 * right.mean():.1f}% right (95% interval {low:.1f} to {high:.1f})",
        tolerance=1.5,
    )

# %% [markdown]
# Why does this work? [Page 01](01_diffusion_loss) derives it from the likelihood and Bayes' rule.
#
# ## Exercises
#
# ```{exercise}
# :label: steps-of-training
#
# Train for 200 steps instead of 2,000. Which suffers first: the drawn digits or the accuracy?
# ```
#
# ```{solution} steps-of-training
# :class: dropdown
#
# The drawn digits: most are unreadable, while about 95% of the test digits are still classified correctly. A
# hypothesis: drawing needs 200 good estimates in a row; classifying only needs the lowest loss under the true class.
# ```
#
# ```{exercise}
# :label: range-of-t
#
# Classify with $t$ from 180 to 199 only, then from 0 to 20 only. Which is worse, and why?
# ```
#
# ```{solution} range-of-t
# :class: dropdown
#
# With `torch.randint(180, T, ...)` about 87% are right: little of the digit is left in $z_t$. With `torch.randint(0,
# 21, ...)` about 98% are right, about as many as with all $t$: the losses are high there, but they still differ. Do not
# rely on it: the model of [page 01](01_diffusion_loss) does badly at small timesteps. Measure for each model which
# noise levels to use.
# ```
#
# ## Take-aways
#
# * A conditional diffusion model predicts the noise in an image, given a timestep and a condition.
# * The predicted noise gives a predicted clean image and, step by step, new images.
# * The loss is lower under the right class. On clean digits that alone classifies.
#
# Next: [what the loss measures, and at which noise levels the class matters](01_diffusion_loss).

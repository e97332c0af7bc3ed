# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # From an answer to a condition
#
# [Page 01](01_diffusion_loss) scored a label. A network does not answer with a label but with a belief: probabilities,
# a map, a depth. To learn from the diffusion loss by gradient, the belief itself has to become the condition, and the
# way from one to the other has to be differentiable.
#
# **You will learn** the condition of each task, which way the gradient flows, what a diffusion model says about conditions
# it never saw, and how one backward pass serves any number of noise samples.
#
# **You need** [page 01](01_diffusion_loss). **Time:** 20 minutes to read, under a minute to run on two CPU cores.

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
import time

import matplotlib.pyplot as plt
import torch

import dtta
from dtta.core.adapter import gradients_only_for
from dtta.core.conditions import ClassMixture, DepthMap, PixelMixture
from dtta.core.feedback import accumulate
from dtta.core.sampling import Sampling
from dtta.experiments.transfer import announce
from dtta.pages import Setting, figures, report

figures.style()
setting = Setting(scale)
problem = dtta.load(setting(mini="digits", full="imagenet"), network, diffusion)
announce(problem, network, diffusion)
model, diffusion, L = problem.model, problem.diffusion, len(problem.classes)
split = (
    "validation" if "validation" in problem.sizes else "test"
)  # ImageNet's training part need not be there
x, y = problem.images(images, split=split)
y = y.to(x.device)

# %% [markdown]
# ## Classification: a mixture of embeddings
#
# The diffusion model keeps one vector $l_j$ for each class. The paper mixes them by the network's belief $y$:
#
# $$c = \sum_j y_j\, l_j, \qquad y = \operatorname{softmax}(f_\theta(x)).$$
#
# A certain network gives one class's vector, an uncertain one something in between. By hand:

# %%
logits = model(x[:1])  # (1, L)
belief = logits.softmax(dim=1)
c = sum(
    y_j * l_j
    for y_j, l_j in zip(belief[0], diffusion.class_embeddings, strict=True)
)

mixture = ClassMixture(diffusion.class_embeddings)
assert torch.allclose(c, mixture(logits)[0], atol=1e-5)
print("condition:", tuple(mixture(logits).shape))

# %% [markdown]
# Libraries take an integer label here. `dtta` puts one small module, `SoftLabel`, in the place of the embedding table:
# integers are looked up as before, vectors pass. For a one-hot belief nothing changes, to the last bit:

# %%
z0, t = diffusion.encode(x[:1]), torch.tensor([500], device=x.device)
noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(seed)).to(
    z0.device
)
z_t, one_hot = diffusion.add_noise(z0, t, noise), torch.eye(L, device=x.device)
with torch.no_grad():
    by_label = diffusion.network(
        z_t, t, class_labels=torch.tensor([3], device=x.device)
    ).sample
    by_vector = diffusion.network(
        z_t, t, class_labels=one_hot[[3]] @ diffusion.class_embeddings
    ).sample
print(
    "label and one-hot mixture agree exactly:", torch.equal(by_label, by_vector)
)

# %% [markdown]
# ## Segmentation, depth, words
#
# The other tasks differ in nothing but this map. A segmentation has a belief at every pixel, so its condition is a *map*
# of mixtures, laid beside the noisy image as channels. A depth network's answer is a picture already: it is the
# condition. Words enter a text-to-image model as a sequence of vectors for each class, mixed token by token.

# %%
rows, columns = torch.meshgrid(
    torch.linspace(-3, 3, 32), torch.linspace(-3, 3, 32), indexing="ij"
)
scores = torch.stack([4 * (1.5 - rows.hypot(columns)), 2 * rows, -2 * rows])[
    None
]  # a disc, below, above
colours = torch.tensor(
    [[0.84, 0.37, 0.0], [0.0, 0.45, 0.7], [0.34, 0.71, 0.91]]
)  # an embedding that can be seen
soft_map = PixelMixture(colours)(scores)
depth = 2 + 6 * torch.sigmoid(rows)[None, None]
depth_map = DepthMap(near=1, far=10)(depth)
words = ClassMixture(torch.randn(5, 77, 768))(torch.zeros(1, 5))

# %% tags=["hide-input"]
figures.show(
    figures.gallery(
        [soft_map[0], (depth_map[0] + 1) / 2], ["pixel mixture", "depth map"]
    ),
    alt="Left: a soft segmentation map, an orange disc whose edge fades into "
    "a blue lower and a light upper half. Right: a depth map growing darker "
    "towards the near end.",
)
for name, found in {
    "segmentation": soft_map,
    "depth": depth_map,
    "text": words,
}.items():
    print(f"{name:13} condition {tuple(found.shape)}")

# %% [markdown]
# ## Is the way downhill the right way?
#
# Between two classes lies a straight line of beliefs. If the loss is to teach, it has to fall towards the true class
# along that line, not only be lower at its end. **Predict, then run:** a diffusion model that only ever saw hard labels,
# and one that saw soft labels in half of its training. Which loss falls evenly?
#
# *Soft* here means calibrated: beliefs drawn so that the label is a fair draw from them,
# $p \sim \operatorname{Dirichlet}(0.15 + \operatorname{onehot}(y))$. Both models have the same shape, data and steps.

# %% tags=["hide-input"]
sampling = Sampling(timesteps="stratified", t_min=0.25, t_max=0.75)


def along_the_line(diffusion, points):
    """Loss (images, points) at beliefs between another class (0) and the true
    class (1).
    """
    other = (
        y + 1 + torch.arange(len(y), device=y.device) % 9
    ) % L  # another class, in turn
    z0 = diffusion.encode(x)
    t, noise = sampling.draw(
        z0, pairs, diffusion.timesteps, torch.Generator().manual_seed(seed)
    )
    found = []
    for p in points:
        c = (
            p * diffusion.class_embeddings[y]
            + (1 - p) * diffusion.class_embeddings[other]
        )
        with torch.no_grad():
            found.append(accumulate_each(diffusion, z0, t, noise, c))
    return torch.stack(found, dim=1)


def accumulate_each(diffusion, z0, t, noise, c):
    """The mean loss of each image over its pairs."""
    n = torch.arange(len(z0)).repeat_interleave(pairs)
    return (
        diffusion.loss(z0[n], t.flatten(), noise.flatten(0, 1), c[n])
        .view(-1, pairs)
        .mean(1)
    )


points = torch.linspace(0, 1, 7)
# by the labels they were trained on; public models were trained on hard ones
taught = setting(
    mini={
        family: {"soft": family, "hard": f"{family}-hard"}
        for family in ("unet", "dit")
    },
    full={"dit": {"hard": None}},
)
looks = {
    "soft": (figures.BLUE, "half soft labels"),
    "hard": (figures.VERMILION, "hard labels only"),
}
fig, axes = plt.subplots(
    1, len(taught), figsize=(9, 3.4), sharey=True, squeeze=False
)
downhill = []
for ax, (family, kinds) in zip(axes[0], taught.items(), strict=True):
    for kind, name in kinds.items():
        curve = along_the_line(
            dtta.load("digits", diffusion=name).diffusion
            if name
            else diffusion,
            points,
        )
        figures.mean_interval(ax, points, curve - curve[:, -1:], *looks[kind])
        falls = (curve.diff(dim=1) < 0).float().mean().item()
        downhill.append(
            {"model": family, "labels": kind, "downhill": 100 * falls}
        )
    ax.set(xlabel="belief in the true class", title=family)
axes[0, 0].set_ylabel("loss above that of the true class")
axes[0, 0].legend()
figures.show(
    fig,
    alt="Loss along the line from a wrong to the true class, in the mini "
    "world for a UNet and a DiT, each trained with and without soft labels, "
    "with bands for the interval over images.",
)
report.table(
    downhill,
    tolerance=3.0,
    digits=0,
    caption="Share of the small steps towards the truth that lower the loss, "
    "in %",
)

# %% [markdown]
# Both fall nearly everywhere: on clean digits, even a model that never saw a mixture shows the way. What soft labels
# change is the *height*. A model that was told half-truths in training trusts its condition less, and forgives a wrong
# one more: its slope, and with it the gradient, is a fraction of the other's. The hard-label UNet is steep in the
# middle and flat near the truth, as if it had to choose a side. Which of the two teaches better under a shift is not
# to be seen here; [page 03](03_classification) measures it.
#
# ## Which way the gradient flows
#
# $$\theta \xrightarrow{f_\theta(x)} y \xrightarrow{\ \sum y_j l_j\ } c \xrightarrow{\ \epsilon_\phi\ } L
# \qquad\Rightarrow\qquad
# \frac{\partial L}{\partial \theta} = \frac{\partial L}{\partial c}\,\frac{\partial c}{\partial \theta}.$$
#
# Only the first factor depends on the noise samples. So there is no need to run the task network for each micro-batch
# of samples: collect $\partial L / \partial c$ over all of them, then go back through $f_\theta$ once. Both ways by hand:

# %%
weights = list(model.parameters())
z0 = diffusion.encode(x[:1])
t, noise = Sampling().draw(
    z0, 48, diffusion.timesteps, torch.Generator().manual_seed(seed)
)


def naive():
    """The network forward and backward again for every 12 samples."""
    for part in torch.arange(48).split(12):
        c = mixture(model(x[:1])).expand(12, -1)
        (
            diffusion.loss(
                z0.expand(12, -1, -1, -1), t[0, part], noise[0, part], c
            ).sum()
            / 48
        ).backward()


def fast():
    """The network once: gather the gradient at c, then one backward through the
    network.
    """
    c = mixture(model(x[:1]))
    _, c_grad = accumulate(diffusion, z0, t, noise, c, micro_batch=12)
    c.backward(c_grad)


gradients, seconds = [], []
with gradients_only_for(weights, model, diffusion):
    for loop in (naive, fast):
        start = time.perf_counter()
        loop()
        seconds.append(time.perf_counter() - start)
        gradients.append(torch.cat([w.grad.flatten() for w in weights]))
        for w in weights:
            w.grad = None
difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
print(
    "relative difference of the two gradients below 1e-5:",
    bool(difference < 1e-5),
)

# %% tags=["nbval-ignore-output"]
# not compared: seconds are never the same twice
print(f"naive {1000 * seconds[0]:.0f} ms, fast {1000 * seconds[1]:.0f} ms")

# %% [markdown]
# Here the task network is small beside the diffusion model and the gain modest; `dtta bench` measures it, with the time
# that the arithmetic alone would need. At full scale the network would be run 60 times for each image instead of 5.
#
# ## What a belief feels
#
# The gradient passes the softmax, whose slope is $y_j (1 - y_j)$: a network that is certain hardly feels anything. Here
# the belief is put on a *wrong* class, more and more firmly, and we ask how hard the loss pulls at the logits.

# %%
rival = int(y[0] + 1) % L
pulls = {}
for certainty in (0.5, 0.9, 0.99, 0.999):
    p = torch.full((1, L), (1 - certainty) / (L - 1), device=x.device)
    p[0, rival] = certainty
    logits = p.log().requires_grad_()
    c = mixture(logits)
    _, c_grad = accumulate(diffusion, z0, t, noise, c, micro_batch=12)
    c.backward(c_grad)
    pulls[certainty] = logits.grad.norm().item()

# %% tags=["hide-input"]
report.table(
    [
        {
            "belief in the wrong class": f"{100 * p:g}%",
            "pull": pull / pulls[0.5],
        }
        for p, pull in pulls.items()
    ],
    tolerance=0.02,
    caption="Size of the gradient at the logits, against that at a belief of "
    "50%",
)

# %% [markdown]
# ```{exercise}
# :label: temperature
#
# Divide the logits by a temperature of 3 before the mixture. What happens to the gradient of a certain, wrong belief?
# What does it cost when the belief was certain and right?
# ```
#
# ```{solution} temperature
# :class: dropdown
#
# `ClassMixture` on `logits / 3`: the belief is milder, the slope of the softmax larger, and certain mistakes can be
# mended. Certain truths are doubted too, and the condition no longer is what the network believes.
# ```
#
# ## Take-aways
#
# * A task differs from another in one small map, from answer to condition.
# * Between classes the loss falls towards the truth; soft labels in training make it fall more gently.
# * One backward through the task network serves any number of noise samples, exactly.
# * A certain belief barely moves.
#
# Next: [adapt, and see who is right](03_classification).

# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Conditions
#
# **The idea.** The diffusion loss needs a condition, and a network predicts probabilities, a map or depths. A
# differentiable function turns the prediction $y$ into a condition $c$. Then *one* gradient of the loss says, for every
# class at once, whether it should become more or less probable.

# %% tags=["parameters", "hide-input"]
# "mini": handwritten digits, on a CPU; "full": ImageNet, on a GPU
scale = "mini"
seed = 0
images = 60  # validation images in the statistics
pairs = 24  # (timestep, noise) pairs for each image

# Only used when scale is "full":
network = None  # another classifier: its name, or a folder in the hub's layout
diffusion = None  # another diffusion model, likewise

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import torch

import dtta
from dtta.core.conditions import ClassMixture
from dtta.core.feedback import accumulate
from dtta.experiments.transfer import announce
from dtta.methods.diffusion_classifier import DiffusionClassifier
from dtta.pages import Setting, diagram, figures, report

figures.style()
setting = Setting(scale)
problem = dtta.load(setting(mini="digits", full="imagenet"), network, diffusion)
announce(problem, network, diffusion)
model, diffusion = problem.model, problem.diffusion.requires_grad_(False)
# ImageNet's training part need not be there
split = "validation" if "validation" in problem.sizes else "test"
x, truth = problem.images(images, split=split)
# The classes that are compared: all ten digits; of ImageNet's thousand those of
# these images.
labels = setting(mini=torch.arange(10), full=truth.cpu().unique())
names = [problem.classes[k] for k in labels]
K = len(labels)
y_true = torch.searchsorted(labels, truth.cpu())
embeddings = diffusion.class_embeddings[labels].detach()  # l_j (K, D)
sampling = dtta.Sampling("stratified", t_min=0.25, t_max=0.75)
shifts = ("gaussian_noise", setting(mini="shear", full="contrast"))
shifted = {s: problem.images(images, s, 3, split, seed)[0] for s in shifts}
at_once = setting(mini=600, full=8)  # evaluations in one backward pass

# %% tags=["hide-input"]
figures.show(
    diagram.method(),
    alt="Diagram: an image goes through the task network to class "
    "probabilities, which mix class embeddings to a condition. The diffusion "
    "model gets the condition and a noisy image. Dashed arrows for the "
    "gradient lead back from the loss through the condition to the network.",
    caption="The method. This page is about the orange box, the condition, and "
    "about the dashed gradient that passes through it, on to the task network, "
    "where it updates θ. The level t is the timestep.",
)


# %% tags=["hide-input"]
def slopes(image):
    """∂L/∂y_j at equal probabilities, (N, K); explained below."""
    z0 = diffusion.encode(image)
    generator = torch.Generator().manual_seed(seed)
    t, noise = sampling.draw(z0, pairs, diffusion.timesteps, generator)
    y = torch.full((len(z0), K), 1 / K, device=z0.device)
    c = (y @ embeddings).requires_grad_()
    _, c_grad = accumulate(diffusion, z0, t, noise, c, at_once)
    return c_grad @ embeddings.T


scorer = DiffusionClassifier(
    diffusion, pairs, sampling, seed=seed, embeddings=embeddings
)
right = {}
for shift, z in shifted.items():
    with torch.no_grad():
        by_network = model(z)[:, labels].argmax(1).cpu()
    by_gradient = slopes(z).argmin(1).cpu()
    by_loss = scorer.losses(z).mean(2).argmin(1).cpu()
    right[shift] = [
        (answer == y_true).double()
        for answer in (by_network, by_gradient, by_loss)
    ]
by_network, by_gradient, by_loss = right["gaussian_noise"]


report.line(
    f"right under Gaussian noise: one gradient {100 * by_gradient.mean():.1f}%"
    f", classifier {100 * by_network.mean():.1f}%, difference "
    f"{report.interval(100 * (by_gradient - by_network).numpy())}\n"
    f"Diffusion Classifier ({K} times as many forward passes): "
    f"{100 * by_loss.mean():.1f}%, difference to one gradient "
    f"{report.interval(100 * (by_loss - by_gradient).numpy())}",
    tolerance=5.0,
)

# %% [markdown]
# Start from equal probabilities and take the class whose slope is *steepest*: most negative, so that raising its
# probability lowers the loss most. On digits under Gaussian noise it is right far more often than the classifier. For
# the difference to the Diffusion Classifier of [page 01](01_diffusion_loss), the interval just reaches zero.
#
# **You need** [page 01](01_diffusion_loss). **Time:** 15 minutes to read, under a minute to run on two CPU cores.
#
# ## Classes: a mixture of embeddings
#
# The diffusion model has an embedding $l_j$ for each of the $K$ classes. The paper {cite:p}`prabhudesai2023diffusion`
# mixes them by the predicted class probabilities, which we call the *belief*:
#
# $$y = \operatorname{softmax}(f_\theta(x)), \qquad c = \sum_{j=1}^{K} y_j\, l_j .$$

# %%
logits = model(x[:1])
belief = logits.softmax(dim=1)
table = diffusion.class_embeddings  # l_j, a row for each class
c = sum(y_j * l_j for y_j, l_j in zip(belief[0], table, strict=True))

mixture = ClassMixture(table)
assert torch.allclose(c, mixture(logits)[0], atol=1e-5)
print("condition:", tuple(mixture(logits).shape))

# %% [markdown]
# Libraries expect an integer label here. `dtta` replaces the embedding table by a small module, `SoftLabel`, which
# looks integers up as before and lets vectors pass. A one-hot belief then gives what the label gives:

# %%
z0 = diffusion.encode(x[:1])
t = torch.tensor([500], device=z0.device)
noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(seed))
z_t = diffusion.add_noise(z0, t, noise.to(z0.device))
label = torch.tensor([3], device=z0.device)
with torch.no_grad():
    by_label = diffusion.predict(z_t, t, label)
    by_vector = diffusion.predict(z_t, t, table[label])
print("label and vector give the same:", torch.equal(by_label, by_vector))

# %% [markdown]
# ## One gradient for all classes
#
# Why mix, if we could evaluate one class after the other? The condition is linear in the belief, so the chain rule
# gives
#
# $$\frac{\partial L}{\partial y_j} = \frac{\partial L}{\partial c} \cdot l_j .$$
#
# One backward pass through the diffusion model yields $\partial L / \partial c$, and $K$ scalar products yield the
# slopes of all classes. Here at equal probabilities, for the first image under noise:

# %%
image = shifted["gaussian_noise"][:1]
z0 = diffusion.encode(image)
generator = torch.Generator().manual_seed(seed)
t, noise = sampling.draw(z0, pairs, diffusion.timesteps, generator)

y = torch.full((1, K), 1 / K, device=z0.device)
c = (y @ embeddings).requires_grad_()
z = z0.expand(pairs, -1, -1, -1)
each = c.expand(pairs, -1)  # the same condition for all pairs
diffusion.loss(z, t[0], noise[0], each).mean().backward()
slope = (c.grad @ embeddings.T)[0].cpu()  # one number for each class
losses = scorer.losses(image)[0].mean(1).cpu()  # K times the evaluations

# %% [markdown]
# **Predict, then run:** the slopes are taken at equal probabilities, the losses at one class each. Will both rank the
# classes in the same order?

# %% tags=["hide-input"]
fig, axes = plt.subplots(1, 2, figsize=(7, 2.9))
colours = [figures.BLUE if j == y_true[0] else figures.GREY for j in range(K)]
for ax, values, title in zip(
    axes,
    (slope - slope.mean(), losses - losses.mean()),
    ("Slope, one gradient", "Loss, class by class"),
    strict=True,
):
    ax.bar(range(K), values, color=colours)
    ax.axhline(0, color=figures.BLACK, lw=1)
    ax.set_xticks(
        range(K), [n[:12] for n in names], rotation=setting(mini=0, full=90)
    )
    ax.set(title=title, xlabel="class")
axes[0].set_ylabel("difference to the mean")
figures.show(
    fig,
    alt="Two bar charts over the classes, the slope and the loss. In both, the "
    "true class, in blue, has the lowest bar.",
    caption="One image. Left: the slope of the loss for each class, from one "
    "gradient at equal probabilities. Right: the loss of each class. Both are "
    "lowest for the true class (blue).",
)

# %% tags=["hide-input"]
lines = ["right in %: classifier, steepest slope, lowest loss"]
for shift, answers in right.items():
    values = ", ".join(f"{100 * answer.mean():.1f}" for answer in answers)
    lines.append(f"{shift.replace('_', ' ')}: {values}")
by_network, by_gradient, _ = right[shifts[1]]
lines.append(
    f"{shifts[1]}, steepest slope minus classifier: "
    f"{report.interval(100 * (by_gradient - by_network).numpy())}"
)
report.line("\n".join(lines), tolerance=5.0)

# %% [markdown]
# The orders differ, but for this image the same class is lowest. Under shear the classifier does better than both, and
# adaptation harms ([page 03](03_classification)).
#
# Two cautions. Diffusion-TTA starts from the classifier's belief, where the slopes rank the classes less well (first
# exercise). And this diffusion model has seen mixtures in training; published models have not (second exercise).
#
# ## Maps and depths
#
# For other tasks only the condition changes:
#
# * **Segmentation:** a belief at every pixel $u$, and the same mixture there, $c_u = \sum_j y_{u,j}\, l_j$: a map with
#   as many channels as an embedding has numbers.
# * **Depth:** the predicted map is the condition, scaled to $[-1, 1]$.
# * **Text:** the name of a class is a sequence of embeddings, mixed token by token ([page 06](06_open_vocabulary)).
#
# A map enters the diffusion model as additional channels of the noisy image. Two networks of pages
# [04](04_segmentation) and [05](05_depth), on one rendered scene:

# %%
conditions = {}
for name in ("scenes-segmentation", "scenes-depth"):
    task = dtta.load(name)
    scene, _ = task.image(9, split="validation")
    with torch.no_grad():
        prediction = task.model(scene)
        conditions[name] = prediction, task.condition(prediction)
    print(f"{name}: {task.condition}", end=" ")
    print(*map(tuple, (prediction.shape, conditions[name][1].shape)))

# %% tags=["hide-input"]
fig, axes = plt.subplots(2, 3, figsize=(6.2, 4.4))
(scores, mixed), (depth, scaled) = conditions.values()
for row in axes:
    figures.picture(row[0], scene[0])
figures.segmentation(axes[0, 1], scores[0].argmax(0))
low, high = mixed[0, :3].amin((1, 2)), mixed[0, :3].amax((1, 2))
figures.picture(
    axes[0, 2],
    (mixed[0, :3] - low[:, None, None]) / (high - low)[:, None, None],
)
figures.depth(axes[1, 1], depth[0, 0], task.condition.near, task.condition.far)
figures.picture(axes[1, 2], (scaled[0] + 1) / 2)
titles = ("image", "classes", "condition", "image", "depth", "condition")
for ax, title in zip(axes.flat, titles, strict=True):
    ax.axis("off")
    ax.set_title(title, loc="center")
figures.show(
    fig,
    alt="Two rows for one rendered scene: image, predicted classes and a map of "
    "mixed embeddings in false colours; image, predicted depth, and the same "
    "map in grey.",
    caption="From prediction to condition. Top: segmentation, a colour for "
    "each class; the condition's first three channels as colours. Bottom: "
    "predicted depth, bright where near; its condition is dark where near.",
)

# %% [markdown]
# ## Which way the gradient flows
#
# $$\frac{\partial L}{\partial \theta} = \frac{\partial L}{\partial c}\, \frac{\partial c}{\partial \theta}$$
#
# Only the first factor depends on the pairs $(t, \epsilon)$. So the diffusion model runs once per batch of pairs, but
# $f_\theta$ only once. We compute the gradient in both ways, with 48 pairs in batches of 12:

# %%
weights = list(model.parameters())
t, noise = sampling.draw(z0, 48, diffusion.timesteps, generator)


def naive():
    """Run the network again for every 12 pairs."""
    total = 0
    for part in torch.arange(48).split(12):
        c = mixture(model(image)).expand(12, -1)
        z = z0.expand(12, -1, -1, -1)
        loss = diffusion.loss(z, t[0, part], noise[0, part], c).sum() / 48
        gradients = torch.autograd.grad(loss, weights)
        total = total + torch.cat([g.flatten() for g in gradients])
    return total


# %%
def fast():
    """Collect ∂L/∂c over all pairs, then one pass through the network."""
    c = mixture(model(image))
    _, c_grad = accumulate(diffusion, z0, t, noise, c, micro_batch=12)
    gradients = torch.autograd.grad(c, weights, c_grad)
    return torch.cat([g.flatten() for g in gradients])


a, b = naive(), fast()
print("the same gradient:", bool((a - b).norm() < 1e-4 * a.norm()))

# %% [markdown]
# The gradients are equal up to rounding. With the paper's 180 pairs, `dtta.DiffusionTTA` saves 14 of 15 passes through
# $f_\theta$ at each step, in batches of 12.
#
# ## A confident belief has a small gradient
#
# The gradient also passes the softmax. For two classes its slope is $y_j (1 - y_j)$, which vanishes for a confident
# network. For one image, we put more and more of the belief on a *wrong* class. **Predict, then run:** at 99.9%, how
# large is the gradient at the logits, compared with 50%?

# %%
wrong = (int(y_true[0]) + 1) % K
shares = (0.5, 0.7, 0.9, 0.97, 0.99, 0.999)
sizes = []
for share in shares:
    y = torch.full((1, K), (1 - share) / (K - 1), device=z0.device)
    y[0, wrong] = share
    logits = y.log().requires_grad_()
    c = logits.softmax(1) @ embeddings
    _, c_grad = accumulate(diffusion, z0, t, noise, c, micro_batch=12)
    c.backward(c_grad)
    sizes.append(logits.grad.norm().item())

# %% tags=["hide-input"]
fig, ax = plt.subplots(figsize=(6, 3))
ax.plot(range(len(shares)), [s / sizes[0] for s in sizes], "o-")
ax.set_xticks(range(len(shares)), [f"{100 * s:g}%" for s in shares])
ax.set(
    yscale="log",
    xlabel="belief in the wrong class",
    ylabel="gradient at the logits,\nrelative to 50%",
)
figures.show(
    fig,
    alt="The size of the gradient falls steeply as the belief in the wrong "
    "class approaches one.",
    caption="One image: the more confident the belief in a wrong class, the "
    "smaller the gradient (log scale).",
)
report.line(
    "gradient relative to a belief of one half: "
    + ", ".join(
        f"{size / sizes[0]:.3f} at {100 * share:.1f}%"
        for share, size in zip(shares, sizes, strict=True)
        if share >= 0.99
    ),
    tolerance=0.002,
)

# %% [markdown]
# At 99.9% the gradient is 0.4% of that at 50%. The slope of the loss contributes too.
#
# ## Exercises
#
# ```{exercise}
# :label: from-belief
#
# Take the slopes at the classifier's belief instead of at equal probabilities, for the images under Gaussian noise. How
# often is the steepest one right, among images that the classifier has right and among those it has wrong?
# ```
#
# ```{solution} from-belief
# :class: dropdown
#
# With `y = model(image).softmax(1)` in the function `slopes`: in 50.0% of the 60 images, instead of 91.7%. Where the
# classifier is wrong, 80% (from equal probabilities 87%). Where it is right, only 20% (97%). So the slopes at a belief
# that is right do not rank the classes. But if it is also confident, the gradient at the logits is small.
# ```
#
# ```{exercise}
# :label: hard-labels
#
# `dtta.load("digits", diffusion="unet-hard")` has a diffusion model that was trained on labels only, never on mixtures.
# How good are its slopes at equal probabilities, compared with its lowest losses?
# ```
#
# ```{solution} hard-labels
# :class: dropdown
#
# Under Gaussian noise the steepest slope is right for 81.7%, the lowest loss for 93.3%; with the model of this page,
# 91.7% and 96.7%. The hard-label model never saw the condition of equal probabilities. Its slopes there are less
# often right than its losses. They still beat the classifier (50.0%); both intervals exclude zero.
# ```
#
# ```{exercise}
# :label: temperature
#
# Divide the logits by a temperature of 3 before the mixture. How large is the gradient for a belief of 99.9% in a wrong
# class now? What is the price?
# ```
#
# ```{solution} temperature
# :class: dropdown
#
# `c = (logits / 3).softmax(1) @ embeddings`. The norm is 0.00044 instead of 0.000010, about 40 times as large. The
# condition holds a softened belief, 70% instead of 99.9%, for which the slope of the softmax, $y_j (1 - y_j) / 3$, is
# 70 times as large; the slope of the loss changes too, and with it the factor: from 31 to 532 for twenty images
# and other pairs. The price: a belief that is right is softened too, and may become wrong.
# ```
#
# **Challenge.** Follow the slopes: start from equal probabilities, and in each of five steps multiply each $y_j$ by
# $\exp(-\eta\, \partial L / \partial y_j)$ and normalise. Choose $\eta$ on validation images. Does the result beat the
# Diffusion Classifier at half of its evaluations?
#
# ## Take-aways
#
# * Tasks differ in one differentiable function, from prediction to condition.
# * On these digits, the steepest slope at equal probabilities is right more often than the classifier under noise, and
#   less often under shear.
# * One backward pass through the task network is enough for any number of pairs.
# * A confident belief has a small gradient.
#
# Next: [adapt a classifier](03_classification).

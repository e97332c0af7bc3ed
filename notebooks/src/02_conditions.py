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
# **The idea.** The diffusion loss needs a condition, and a network predicts class probabilities or depths. A
# differentiable function turns the prediction $y$ into a condition $c$. Then *one* gradient of the loss says, for every
# class at once, how the loss changes as the class becomes more probable.

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
from torch.utils.flop_counter import FlopCounterMode

import dtta
from dtta.core.conditions import ClassMixture
from dtta.core.feedback import accumulate
from dtta.experiments.transfer import announce
from dtta.methods.diffusion_classifier import DiffusionClassifier
from dtta.pages import Setting, diagram, figures, report
from dtta.problems.scenes.world import CLASSES

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
    "probabilities, which mix class embeddings into a condition. The diffusion "
    "model gets the condition and a noisy image. Dashed arrows for the "
    "gradient lead back from the loss through the condition to the network.",
    caption="The method. This page is about the box c at the right, the "
    "condition, and about the dashed gradient that passes through it to the "
    "task network, where it updates θ. The level t is the timestep; φ are the "
    "weights of the diffusion model.",
)


# %% [markdown]
# Start from equal probabilities and take the class whose slope is lowest, the *steepest*: moving probability to it
# lowers the loss most. On digits under Gaussian noise it is right far more often than the classifier. The Diffusion
# Classifier (lowest loss) is right more often still, but no difference is established. Under shear, the classifier
# beats both. Unlike on [page 01](01_diffusion_loss), $t$ comes from the middle half of its range. Diffusion-TTA starts
# from the classifier's prediction instead, where the steepest slope is right less often (see the exercises).


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
    f"right of {images} {split} images, Gaussian noise, severity 3 of 5; 95% "
    f"intervals:\nsteepest slope {100 * by_gradient.mean():.1f}%, "
    f"classifier {100 * by_network.mean():.1f}%, difference "
    f"{report.interval(100 * (by_gradient - by_network).numpy())}\n"
    f"Diffusion Classifier {100 * by_loss.mean():.1f}%, difference from the "
    f"slope {report.interval(100 * (by_loss - by_gradient).numpy())}",
    tolerance=5.0,
)

# %% [markdown]
# **You need** [page 01](01_diffusion_loss). **Time:** 15 minutes to read, under a minute to run on two CPU cores.
#
# ## Classes: a mixture of embeddings
#
# The diffusion model has an embedding $l_j$ for each of the $K$ classes. The paper {cite:p}`prabhudesai2023diffusion`
# mixes them by the predicted class probabilities, which we call the *belief*:
#
# $$y = \operatorname{softmax}(f_\theta(x)), \qquad c = \sum_{j=1}^{K} y_j\, l_j .$$
#
# In training, half of our diffusion model's labels were mixtures; the paper's had none.

# %%
logits = model(x[:1])
belief = logits.softmax(dim=1)
table = diffusion.class_embeddings  # l_j, a row for each class
c = sum(y_j * l_j for y_j, l_j in zip(belief[0], table, strict=True))

mixture = ClassMixture(table)
assert torch.allclose(c, mixture(logits)[0], atol=1e-5)
print("embeddings:", *table.shape, "condition:", *mixture(logits).shape)

# %% [markdown]
# Diffusion libraries take an integer label. In `dtta`, a small module, `SoftLabel`, looks integers up as before and
# passes vectors unchanged. A one-hot belief gives what the label gives:

# %%
z0 = diffusion.encode(x[:1])
t = torch.tensor([500], device=z0.device)
noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(seed))
z_t = diffusion.add_noise(z0, t, noise.to(z0.device))
label = torch.tensor([3], device=z0.device)
one_hot = torch.eye(len(table), device=z0.device)[label]
c = mixture(one_hot.log())  # the softmax of log y is y
with torch.no_grad():
    by_label = diffusion.predict(z_t, t, label)
    by_belief = diffusion.predict(z_t, t, c)
print("c is the embedding:", torch.allclose(c, table[label].float()))
print("same prediction:", torch.allclose(by_label, by_belief, atol=1e-4))

# %% [markdown]
# ## One gradient for all classes
#
# Why mix? The condition is linear in the belief, so the chain rule gives
#
# $$\frac{\partial L}{\partial y_j} = \frac{\partial L}{\partial c} \cdot l_j .$$
#
# A forward and a backward pass for each pair yield $\partial L / \partial c$; $K$ scalar products then give all
# slopes. Only their differences matter, since probabilities sum to one. For the first image under noise:

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
losses = scorer.losses(image)[0].mean(1).cpu()  # K passes for each pair

# %% [markdown]
# **Predict, then run:** will the slopes at equal probabilities rank the classes as the losses do?


# %% tags=["hide-input"]
def operations(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


c = c.detach().requires_grad_()
first = (z0, t[0, :1], noise[0, :1], c)
forward = operations(lambda: diffusion.loss(*first))
both = operations(lambda: diffusion.loss(*first).mean().backward())
report.line(
    f"cost of a pair, in forward passes: {both / forward:.1f} for one gradient, "
    f"{K:.1f} for {K} losses",
    tolerance=0.1,
)

fig, axes = plt.subplots(1, 2, figsize=(5.8, 2.9), sharey=True)
colours = [figures.BLUE if j == y_true[0] else figures.GREY for j in range(K)]
for ax, values, title, name in zip(
    axes,
    (slope - slope.mean(), losses - losses.mean()),
    ("Slope, one gradient", "Loss, class by class"),
    ("slope", "loss"),
    strict=True,
):
    ax.bar(range(K), values, color=colours)
    ax.axhline(0, color=figures.BLACK, lw=1)
    ax.set_xticks(
        range(K), [n[:12] for n in names], rotation=setting(mini=0, full=90)
    )
    ax.set(title=title, xlabel="class", ylabel=f"{name} minus the\nmean {name}")
figures.show(
    fig,
    alt="Two bar charts over the classes, the slope and the loss. In both, the "
    "true class, in blue, has the lowest bar.",
    caption="One image under noise. Left: the slope of the loss for each "
    "class, from one gradient at equal probabilities. Right: the loss of each "
    "class. The means over the classes are subtracted. Both are lowest for the "
    "true class (blue); the order of the others differs.",
)

# %% tags=["hide-input"]
lines = ["right in %: classifier, steepest slope, lowest loss"]
for shift, answers in right.items():
    values = ", ".join(f"{100 * answer.mean():.1f}" for answer in answers)
    lines.append(f"{shift.replace('_', ' ')}: {values}")
by_network, by_gradient, by_loss = right[shifts[1]]
slope_gain, loss_gain = (
    report.interval(100 * (answer - by_network).numpy())
    for answer in (by_gradient, by_loss)
)
lines += [
    f"{shifts[1]}, steepest slope minus classifier: {slope_gain}",
    f"{shifts[1]}, lowest loss minus classifier: {loss_gain}",
]
report.line("\n".join(lines), tolerance=5.0)

# %% [markdown]
# Slopes are local, so the orders can differ. The backward pass costs no more than the forward pass, since $\phi$ is
# fixed. Under shear, adaptation does harm too ([page 03](03_classification)).
#
# ## Maps and depths
#
# Other tasks have other conditions and diffusion models:
#
# * **Segmentation:** a belief at every pixel $u$, and the same mixture there, $c^u = \sum_j y_j^u\, l_j$: a map with
#   a channel for each entry of the embeddings (here 8).
# * **Depth:** the predicted map is the condition, scaled so that near is −1 and far is 1.
# * **Text:** a name is a sequence of token embeddings, padded to one length and mixed position by position ([page
#   06](06_open_vocabulary)).
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
    y_shape, c_shape = (tuple(part.shape) for part in conditions[name])
    print(f"{name}: prediction {y_shape}, condition {c_shape}")

# %% tags=["hide-input"]
fig, axes = plt.subplot_mosaic(
    [["image", "classes", "mixed"], ["image", "depth", "scaled"]],
    figsize=(5.6, 4.9),
)
(scores, mixed), (depth, scaled) = conditions.values()
figures.picture(axes["image"], scene[0])
figures.segmentation(axes["classes"], scores[0].argmax(0))
low, high = mixed[0, :3].amin((1, 2)), mixed[0, :3].amax((1, 2))
figures.picture(
    axes["mixed"],
    (mixed[0, :3] - low[:, None, None]) / (high - low)[:, None, None],
)
near, far = task.condition.near, task.condition.far
figures.depth(axes["depth"], depth[0, 0], near, far)
figures.picture(axes["scaled"], (scaled[0] + 1) / 2)
titles = ("image", "classes", "their condition", "depth", "its condition")
for ax, title in zip(axes.values(), titles, strict=True):
    ax.axis("off")
    ax.set_title(title, loc="center")
figures.class_legend(fig, CLASSES, columns=4)
figures.show(
    fig,
    alt="A rendered scene. Right of it, above, the predicted classes and a map "
    "of mixed embeddings in false colours; below, the predicted depth and the "
    "scaled map in grey.",
    caption="From prediction to condition, for the image on the left. Top: the "
    "likeliest class (legend); the condition's first three channels, stretched "
    "to full contrast, as colours, not those of the legend. They blend where the "
    "network is unsure, as at some edges. Bottom: predicted depth, bright "
    "where near; its condition is dark where near, as near is −1.",
)

# %% [markdown]
# ## Which way the gradient flows
#
# $$\frac{\partial L}{\partial \theta} = \frac{\partial L}{\partial c}\, \frac{\partial c}{\partial \theta}$$
#
# Only the first factor depends on the pairs $(t, \epsilon)$. So the diffusion model runs for every batch of pairs, but
# $f_\theta$ once. We compute the gradient both ways, with 48 pairs in batches of 12:

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
# With the paper's 180 pairs in batches of 12, `dtta.DiffusionTTA` saves 14 of 15 passes through $f_\theta$ at each
# step.
#
# ## A confident belief has a small gradient
#
# The gradient also passes through the softmax. The slope of $y_j$ in its own logit is $y_j (1 - y_j)$, which vanishes
# for a confident network. For the digit of Figure 2.2, we put more and more of the belief on a *wrong* class.
# **Predict, then run:** at 99.9%, how large is the gradient with respect to the logits, compared with 50%?

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
report.line(
    "gradient relative to a belief of one half: "
    + ", ".join(
        f"{size / sizes[0]:.3f} at {100 * share:.1f}%"
        for share, size in zip(shares, sizes, strict=True)
        if share >= 0.99
    ),
    tolerance=0.002,
)
fig, ax = plt.subplots(figsize=(6, 3.2))
relative = [size / sizes[0] for size in sizes]
softmax = [share * (1 - share) / 0.25 for share in shares]
ax.plot(shares, relative, "o-", label="gradient")
ax.plot(shares, softmax, "--", color=figures.GREY, label="softmax: y (1 − y)")
ax.set(
    xscale="logit",
    yscale="log",
    xlabel="belief in the wrong class",
    ylabel="gradient with respect to\nthe logits, relative to 50%",
)
ax.yaxis.set_major_formatter("{x:g}")
ax.set_xticks(shares, [f"{100 * s:g}%" for s in shares])
ax.set_xticks([], minor=True)
ax.legend(loc="lower left")
figures.show(
    fig,
    alt="The size of the gradient falls steeply as the belief in the wrong "
    "class approaches one, close to the slope of the softmax.",
    caption="One image: the more confident the belief in a wrong class, the "
    "smaller the gradient. Dashed: the slope of the softmax. Both are relative "
    "to a belief of one half. At the lower beliefs above one half, the slope of "
    "the loss differs too. The vertical axis is logarithmic, the horizontal spaced by log odds.",
)

# %% [markdown]
# At 99.9% the gradient is 0.4% of that at 50%, like the softmax's slope.
#
# ## Exercises
#
# ```{exercise}
# :label: from-belief
#
# Take the slopes at the classifier's belief instead of at equal probabilities, for the images under Gaussian noise. How
# often is the steepest one right, among images that the classifier gets right and among the others?
# ```
#
# ```{solution} from-belief
# :class: dropdown
#
# With `y = model(image)[:, labels].softmax(1)` in the function `slopes`: in 50.0% of the 60 images, instead of 91.7%.
# Where the classifier is wrong, 80% (from equal probabilities 87%). Where it is right, only 20% (97%): at a right
# belief the steepest slope usually points to another class. But if the belief is also confident, the gradient is small.
# ```
#
# ```{exercise}
# :label: hard-labels
#
# `dtta.load("digits", diffusion="unet-hard")` has a diffusion model that was trained on labels only. How good are its
# slopes at equal probabilities, compared with its lowest losses?
# ```
#
# ```{solution} hard-labels
# :class: dropdown
#
# Under Gaussian noise the steepest slope is right for 81.7% of the images, the lowest loss for 93.3% (−11.7 [−21.7,
# −3.3]). A possible reason: this model never saw a mixture of labels. With the model of this page, the
# slope is right for 91.7%: 10.0 points more [−1.7, 21.7], so no difference is established.
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
# condition holds a softened belief of 70%, for which $y_j (1 - y_j) / 3$ is 70 times $y_j (1 - y_j)$ at
# 99.9%; the slope of the loss changes too. For twenty images, the factor is between 31 and 532. The price
# (not tested): a right belief gets a larger gradient too, and the update may make it wrong.
# ```
#
# **Challenge.** Follow the slopes: start from equal probabilities, and in each of five steps multiply each $y_j$ by
# $\exp(-\eta\, \partial L / \partial y_j)$ and normalise. Choose $\eta$ on validation images, then test. Does this beat
# the Diffusion Classifier at equal cost (10 forward passes)?
#
# ## Take-aways
#
# * Tasks differ in the condition, a differentiable function of the prediction, and in the diffusion model.
# * On these digits, the steepest slope at equal probabilities is right more often than the classifier under noise, and
#   less often under shear.
# * Each step needs one backward pass through the task network, for any number of pairs.
# * A confident belief has a small gradient.
#
# Next: [adapt a classifier](03_classification).

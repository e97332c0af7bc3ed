# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Your own network, images and condition
#
# **The idea.** The method needs three things: a task network, a diffusion model with a condition, and pictures. Before
# you adapt, measure whether the diffusion model is sensitive to the condition. If it is not, adaptation is unlikely to
# help.

# %% tags=["parameters", "hide-input"]
# the page is the same at both scales: bring your own models of any size
scale = "mini"
seed = 0
pictures = 120  # written to the folder of "your own" pictures

# %% tags=["hide-input"]
import tempfile
from pathlib import Path

import torch
from torchvision.transforms.functional import to_pil_image

import dtta
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.evaluation.statistics import paired_gain
from dtta.pages import Setting, figures, report
from dtta.problems.digits.models import scheduler

figures.style()
setting = Setting(scale)
if not setting.mini:
    print("full scale: the same page; your own models decide the size")

# Digits under Gaussian noise take the place of your pictures: PNG files, a
# folder for each class. The diffusion model is written as diffusers does.
digits = dtta.load("digits")
network, names = digits.model, digits.classes
temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)
for index in range(pictures):
    image, label = digits.image(index, "gaussian_noise", 3, seed=seed)
    file = folder / "photos" / names[label] / f"{index:03}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(image[0]).save(file)

unet = digits.diffusion.network
# as diffusers has it, without the adapter's wrapper
unet.class_embedding = unet.class_embedding.embedding_table
unet.save_pretrained(folder / "my-unet" / "unet")
scheduler().save_pretrained(folder / "my-unet" / "scheduler")

# %%
problem = dtta.problem(
    network, folder / "my-unet", folder / "photos", classes=names
)
result = dtta.probe(problem, seed=seed, progress=False)

# %% tags=["hide-input"]
figures.show(
    result.figure(),
    alt="By timestep: how much higher the diffusion loss is under other "
    "classes and under the network's prediction than under the true class, "
    "with 95% intervals.",
    caption="The probe: how much the loss rises under other classes than the "
    "true one (blue). Where the interval is above zero, the model uses the "
    "condition. Orange: under the network's prediction, where no difference "
    "from the true class is established. The scale is logarithmic beyond ±1; "
    "clean: no shift is added to the pictures.",
)

# %% tags=["hide-input", "nbval-ignore-output"]
# not compared: rounded percentages inside a sentence
print(result.sentence)

# %% [markdown]
# **The result.** Our example pictures are 120 digits under Gaussian noise: 25 for validation (the probe uses 24), 95
# for the test. The probe says that the diffusion model uses its condition, and adaptation gains 23 points (95% interval 14
# to 33). A simple ensemble of classifier and diffusion model, without adaptation, gains 35 (25 to 45).
#
# **You need** [page 03](03_classification). **Time:** 10 minutes to read, about two minutes to run on two CPU cores.
#
# ## The probe
#
# `dtta.probe` adapts nothing. It compares the losses of the same images, with the same timesteps and noise, under the
# true class and three others. Without labels the network's prediction takes the place of the true class; where it is
# wrong, it may hide sensitivity. The sentence above says at which $t$ other classes raise the loss; adapt in this
# range. `t_min` is a fraction of all 1000 timesteps. Simultaneous intervals hold for all ranges of $t$ together.
#
# `dtta.problem` cannot see whether both models list the classes in the same order. **Predict, then run:** what does the
# probe say if the diffusion model's classes are in reverse order?


# %% tags=["nbval-ignore-output"]
# not compared: rounded percentages inside a sentence
class Reversed(torch.nn.Module):
    """The condition with the diffusion model's classes in reverse order."""

    def forward(self, logits):
        return problem.condition(logits.flip(1))


mistaken = dtta.problem(
    network, problem.diffusion, folder / "photos", names, condition=Reversed()
)
print(dtta.probe(mistaken, seed=seed, progress=False).sentence)

# %% [markdown]
# No sensitivity is found, because the embedding of the true label belongs to another class. If a probe of your models
# looks like this, compare the two lists of classes first.
#
# ## What is inferred
#
# A network is a torch module, a name of timm (`"convnext_tiny.fb_in1k"`), or a folder that timm or transformers wrote.
# A diffusion model is a folder that diffusers wrote, with the network's classes, or Stable Diffusion, which reads class
# names. Pictures are resized for each. From these `dtta.problem` infers the task, the condition and the labels:

# %%
print(problem.inferred.replace(temporary.name, "..."))

# %% [markdown]
# The labels come from the folders' names. A CSV file of file and label works too, and `images/` with `masks/` or
# `depths/` for dense tasks. About a fifth of each class is set aside as the validation part.
#
# ## Choose settings on the validation part
#
# The defaults are the paper's, chosen for other models. Try others on the validation part, and report on the test part.
# Here two learning rates are tried; the range of $t$ is the one that the probe suggested, the rest is page 03's. The
# function `rows` evaluates a method on one part, with the pictures as they are ("clean"):


# %%
def rows(method, split="test", problem=problem, **settings):
    run = Run(method, "own", settings=settings, split=split, seed=seed)
    images = range(problem.size(split))
    return evaluate(
        run, [("clean", 1)], images, problem=problem, together=8, progress=False
    )


# %%
t_range = dict(t_min=result.t_min or 0, t_max=result.t_max or 1)
fixed = dict(steps=5, samples=24, timesteps="stratified", **t_range)
without = rows("none", "validation")
gains = {}
for lr in (5e-3, 2e-2):
    after = rows("diffusion-tta", "validation", lr=lr, optimizer="sgd", **fixed)
    gains[lr] = paired_gain(without, after)["gain"]
best = max(gains, key=gains.get)

# %% tags=["hide-input"]
text = ", ".join(f"lr {lr:.0e} {gain:+.1f}" for lr, gain in gains.items())
report.line(
    f"{problem.size('validation')} validation images, gain in points: {text}",
    tolerance=5,
)
print(f"chosen: {best:.0e}")

# %% [markdown]
# Two rates and few pictures are a small search; a higher rate may be better. The test pictures were not used to choose
# anything.
#
# ## The gain
#
# The ensemble of page 03, which averages the classifier's and the diffusion model's probabilities and adapts nothing,
# is a baseline that you should always run. **Predict, then run:** does it win here too?

# %%
chosen = dict(lr=best, optimizer="sgd", **fixed)
before = rows("none")
after = {
    "diffusion-tta": rows("diffusion-tta", **chosen),
    "ensemble": rows("ensemble", **digits.settings["ensemble"]),
}

# %% tags=["hide-input"]
print(f"{problem.size('test')} test images")


def show(name, after):
    """Print a paired gain with its interval."""
    gain = paired_gain(before, after, seed=seed)
    report.line(
        f"{name:14} {gain['before']:.1f}% -> {gain['after']:.1f}%, gain "
        f"{gain['gain']:+.1f} [{gain['low']:.1f}, {gain['high']:.1f}]",
        tolerance=5,
    )


for name, scored in after.items():
    show(name, scored)
gain = paired_gain(after["diffusion-tta"], after["ensemble"], seed=seed)
report.line(
    f"ensemble over diffusion-tta: {gain['gain']:+.1f} "
    f"[{gain['low']:.1f}, {gain['high']:.1f}]",
    tolerance=5,
)

# %% [markdown]
# Adaptation gains, and as on page 03 the ensemble, with that page's settings, gains more. Your network and shift may
# differ, which is why both belong in your table.
#
# ## Your own condition
#
# A condition is a module: it turns the network's output into the diffusion model's input. Gradients must flow back
# through it. This one mixes only the two most probable classes, at the same settings:


# %%
class TopTwo(torch.nn.Module):
    """Mix the embeddings of the two most probable classes."""

    def forward(self, logits):
        top = logits.topk(2, dim=1)
        weights = top.values.softmax(1)[..., None]  # (N, 2, 1)
        table = problem.diffusion.class_embeddings  # (K, D)
        return (weights * table[top.indices]).sum(1)  # (N, D)


two = dtta.problem(
    network, problem.diffusion, folder / "photos", names, condition=TopTwo()
)
scored = rows("diffusion-tta", problem=two, **chosen)

# %% tags=["hide-input"]
show("top two", scored)
gain = paired_gain(after["diffusion-tta"], scored, seed=seed)
report.line(
    f"over all classes: {gain['gain']:+.1f} "
    f"[{gain['low']:.1f}, {gain['high']:.1f}]",
    tolerance=5,
)

# %% [markdown]
# It gains 8 points less than the mixture of all classes, and the interval excludes zero; but the rate was chosen for
# that mixture. A hypothesis: the true class is often not among the two most probable; test it with `topk`.
#
# ## What is refused
#
# What does not fit raises an error in one sentence, before any work, such as a wrong number of classes or a missing
# folder.

# %%
for wrong in (dict(classes=["cat", "dog"]), dict(images=folder / "pictures")):
    try:
        dtta.problem(network, folder / "my-unet", **wrong)
    except ValueError as error:
        print("refused:", str(error).replace(temporary.name, "..."))

# %% [markdown]
# ## Without labels
#
# Unlabelled pictures can be probed and adapted to, but a gain cannot be measured. Use a labelled sample of the same
# kind of pictures to choose settings.
#
# ## In the shell
#
# ```bash
# # classes.txt: a name a line, in the network's order
# PIECES="--network ./net --diffusion ./my-unet --classes classes.txt"
# SET="--set samples=24 --set timesteps=stratified --set t_min=0.2"
# dtta doctor photos/ $PIECES  # what is missing; the time for an image
# dtta probe --images photos/ $PIECES --out probe.png
# dtta adapt photos/ $PIECES $SET --set lr=0.02 --out figures
# dtta evaluate --images photos/ $PIECES $SET --set lr=0.02 \
#     --split validation  # and with other rates
# dtta evaluate --images photos/ $PIECES $SET --set lr=0.02 --out rows
# dtta evaluate --images photos/ $PIECES --method ensemble --out rows-2
# ```
#
# `dtta evaluate` resumes after a stop, unless the pictures have changed. For your own task or method, name a function,
# `--problem package.module:function` or `--method package.module:function`:
# [CONTRIBUTING](https://github.com/diffusion-tta/dtta/blob/main/CONTRIBUTING.md) has an example.
#
# ```{exercise}
# :label: own-labels
#
# Your network is right on 60% of 50 labelled pictures, and adaptation corrects 4 and makes 1 wrong. You have 500 more
# pictures without labels. How many of them would you label to establish a gain of this size?
# ```
#
# ```{solution} own-labels
# :class: dropdown
#
# The gain is $3/50 = 0.06$. The difference of an image is $+1$, $-1$ or $0$, with variance $5/50 - 0.06^2 \approx
# 0.096$. The standard error over $n$ images is $\sqrt{0.096 / n}$: 4.4 points for $n = 50$, so an interval of about $6
# \pm 8.6$ contains zero. Two standard errors are below 6 points if $n > 4 \cdot 0.096 / 0.06^2 \approx 107$. With 60
# more, a true gain of 6 points is established about half of the time; with 150 more, nearly 80% (normal approximation).
# Label about 150.
# ```
#
# ```{exercise}
# :label: own-temperature
#
# Change `TopTwo` to the most probable class only: `logits.topk(1, dim=1)`. What does adaptation do, and why?
# ```
#
# ```{solution} own-temperature
# :class: dropdown
#
# Nothing: softmax over one logit is 1, whatever the logit is. The condition does not depend on the network's weights,
# so the gradient is zero and no prediction changes.
# ```
#
# ## Take-aways
#
# * Probe first: without sensitivity to the condition, adaptation is unlikely to help.
# * `dtta.problem` makes a problem of your network, a diffusion model and a folder, and says what it inferred.
# * Choose settings on the validation part; report the paired gain on the test part, with its interval.
# * Run the ensemble too. It needs no adaptation.
#
# ## References
#
# Diffusion-TTA {cite:p}`prabhudesai2023diffusion`.

# %% tags=["remove-cell"]
temporary.cleanup()

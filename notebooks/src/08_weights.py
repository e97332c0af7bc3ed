# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # What moves
#
# Diffusion-TTA changes a network so that its answer explains the image. It could change much less: the answer alone. It
# could change more: the diffusion model too. It could start from nothing. The paper's Table 6 tries each of these
# {cite:p}`prabhudesai2023diffusion`, and so does this page, on two families of networks and twelve kinds of shift.
#
# **You will learn** what the network's own knowledge is good for, when a network of random weights can be taught by one
# image, when moving the answer alone is as good, and what adapting φ adds.
#
# **You need** page [03](03_classification). **Time:** 20 minutes to read, about a minute to run on two CPU cores.

# %% tags=["parameters"]
scale = "mini"  # "mini": handwritten digits, on a CPU; "full": ImageNet, on a GPU
seed = 0
live = 1  # images of each shift that are run again and compared with the stored results
steps = 40  # how long a network of random weights is given, instead of five steps

# At full scale alone:
network = None  # another task network: its name, or a folder in the hub's layout
vit = "vit-b-32"  # what stands for the second family, likewise; None: nothing
diffusion = None  # another diffusion model, likewise
images = 12  # test images under each shift
shifts = None  # a list of some; None: all
most = {}  # of a setting, such as {"samples": 48}: what a run says above it is cut down to it
results = None  # folder for the results that the page makes; None: results in $DTTA_CACHE or ~/.cache/dtta

# %%
from functools import partial

import matplotlib.pyplot as plt
import torch

import dtta
from dtta import figures, report, stored
from dtta.elsewhere import PLAIN, opened
from dtta.evaluate import image_generator
from dtta.methods import build
from dtta.parameters import select

figures.style()
problem, shifts, folder = opened(
    scale, ["weights"], "digits", "imagenet", images, seed, shifts=shifts, networks={"": network, "vit": vit},
    diffusion=diffusion, most=most, results=results, start=PLAIN,
)  # fmt: skip
runs = stored.names("weights", folder)
families = {"ResNet": None} | ({"ViT": "vit"} if "all, vit" in runs else {})  # as the table names them
second = runs["all, vit"].network if "ViT" in families else None
networks = {"ResNet": problem} | ({"ViT": dtta.load(problem.name, second, diffusion)} if second else {})
counts = {
    name: {part: sum(p.numel() for p in select(own.model, part)) for part in ("all", "norm", "head")}
    for name, own in networks.items()
}
for name, count in counts.items():
    print(f"{name}: " + ", ".join(f"{part} {n} weights" for part, n in count.items()))

# %% [markdown]
# ## Five ways to move
#
# | what moves | how |
# |:--|:--|
# | the answer | ten free numbers, the logits, from zero. No network is asked: gradient descent on the diffusion loss alone |
# | the answer, and the network averaged in | the same, then the mean of that belief and the network's |
# | a part | scales and shifts of the normalisation layers; or the last layer; or LoRA {cite:p}`hu2022lora` |
# | the network | all of θ: Algorithm 1 |
# | the network and the diffusion model | all of θ and all of φ |
#
# In code they differ by a word or two:

# %%
x, label = problem.image(0, "contrast", 3)
ways = {
    "logits from zero": dict(part="logits", start="random"),
    "logits from zero, ensemble": dict(part="logits", start="random", ensemble=True),
    "norm": dict(part="norm"),
    "head": dict(part="head"),
    "all": dict(part="all"),
    "all and φ": dict(part="all", adapt_diffusion=True),
    "all, from random weights": dict(part="all", start="random"),
}
for name, settings in ways.items():
    answer = build(problem, "diffusion-tta", **settings)(x, image_generator(seed, 0))
    print(f"{name:<28} answers {int(answer.argmax())}, truth {label}")

# %% [markdown]
# ## Table 6
#
# Eight test images of each shift for each of three seeds, all different ones, severity 3. Each row has a rate of its own, chosen
# on validation images (`dtta/experiments/weights.toml` names those tried; `dtta evaluate --table weights`
# makes the stored results again).

# %%
WAYS = ("random start", "logits", "logits and ensemble", "logits, from the network's")
WAYS += ("norm", "head", "lora", "all", "all and φ")
gain_of = partial(stored.gain, "weights", folder=folder)


def named(way, network):
    return way if network is None else f"{way}, {network}"


by_way = {family: {way: gain_of(named(way, network), shifts) for way in WAYS} for family, network in families.items()}
fig, axes = plt.subplots(1, len(families), figsize=(9.5, 4), sharey=True, squeeze=False)
for ax, (family, gains) in zip(axes[0], by_way.items(), strict=True):
    figures.forest_into(ax, gains)
    ax.set_title(family)
figures.show(
    fig,
    alt="Two forest plots, for the ResNet and the ViT: the gain of each way over no adaptation, with its interval, mean "
    "over twelve shifts.",
)

# %%
PAPER = {  # gains over ResNet18 on ImageNet and on ImageNet-R
    "random start": (-67.7, -33.0),
    "logits": (+3.4, -6.0),
    "logits and ensemble": (+4.2, -0.5),
    "norm": (+0.6, 0.0),
    "head": (+0.2, +0.5),
    "all": (+4.6, +1.0),
    "all and φ": (+9.8, +5.6),
}
report.beside(
    [(f"{way}, ImageNet-R", far, f"{way}, shifts", by_way["ResNet"][way]) for way, (_, far) in PAPER.items()]
    + [
        (f"{way}, ImageNet", near, f"{way}, clean", gain_of(named(way, None), {"clean"}))
        for way, (near, _) in PAPER.items()
    ],
    tolerance=0.1,
    caption="Gain in points over no adaptation",
    paper="paper, Table 6: ResNet18",
)

# %%
report.gains(by_way["ResNet"], tolerance=0.1, caption="ResNet: accuracy in %, mean over the shifts")

# %%
for family, gains in list(by_way.items())[1:]:
    report.gains(gains, tolerance=0.1, caption=f"{family}: accuracy in %, mean over the shifts")

# %%
report.gains(
    {
        f"{family}: {way}, against all": gain_of(named(way, network), shifts, against=named("all", network))
        for family, network in families.items()
        for way in WAYS
        if way != "all"
    },
    tolerance=0.1,
    caption="Against moving all weights, on the same images; accuracy in %, mean over the shifts",
)

# %% [markdown]
# Most of the paper's order is not seen here.
#
# * **Parts do as well as the whole.** Norm layers, the last layer and LoRA gain what all weights gain, for both networks, by
#   intervals that hold zero. Each needed a rate of its own, many times that of all weights: at 0.02, which suits the
#   whole ResNet, parts gained 0 to 5 points on validation images.
# * **The answer from zero** does as well for the ResNet, and better for the ViT (+6.2 points [2.4, 10.4] over moving the
#   network). The paper's lost on ImageNet-R, where its network knew better; here the diffusion model does. Averaging the
#   network in again gives about half of the gain back.
# * **φ** adds 1.7 points [0.3, 3.5] for the ResNet and 1.0 [0.0, 2.4] for the ViT, at the smallest rate tried; a hundred
#   times that rate undid more than the whole gain on validation images. In the paper it brings most of the gain.
# * **Random weights** can be taught after all. That deserves a section of its own, below.
#
# ## What each way keeps, and what it mends
#
# A mean hides two numbers: of the images that the network had right, how many stay right, and of those it had wrong,
# how many are mended?

# %%
import pandas as pd


def kept_and_mended(way, network):
    """Of the images right before, the share still right; of those wrong before, the share right now; in %."""
    before, after = stored.shared(
        stored.rows("weights", named("none", network), folder),
        stored.rows("weights", named(way, network), folder),
        set(shifts),
    )
    kept = [a.score for b, a in zip(before, after, strict=True) if b.score]
    mended = [a.score for b, a in zip(before, after, strict=True) if not b.score]
    return tuple(100 * sum(found) / len(found) if found else float("nan") for found in (kept, mended))


shares = {(family, way): kept_and_mended(way, n) for family, n in families.items() for way in WAYS}
fig, axes = plt.subplots(1, len(families), figsize=(9, 4), sharex=True, sharey=True, squeeze=False)
for ax, family in zip(axes[0], families, strict=True):
    for number, way in enumerate(WAYS):
        kept, mended = shares[family, way]
        ax.plot(kept, mended, "o", color=figures.PALETTE[number % 8], mec="black" if number > 7 else "none")
    figures.label(ax, *zip(*(shares[family, way] for way in WAYS), strict=True), WAYS)
    ax.set(title=family, xlabel="right before, and still right, %")
axes[0, 0].set_ylabel("wrong before, and right now, %")
figures.show(
    fig,
    alt="For each network a scatter plot of the ways: how many right answers are kept against how many wrong ones are "
    "mended. The ensemble keeps nearly all and mends a third; the other ways lie close together for the ResNet, and for the "
    "ViT the answer from zero and the random start mend most.",
)

# %%
report.table(
    pd.DataFrame(
        [
            {"moves": way}
            | {f"{f}, {what}": shares[f, way][k] for f in families for k, what in enumerate(("kept", "mended"))}
            for way in WAYS
        ]
    ),
    tolerance=0.1,
    caption="Of the images right before, still right; of those wrong before, right now; in %",
)

# %% [markdown]
# Here is why averaging is safe and dull: it keeps nearly all of what was right, and mends a third of what was wrong.
# Moving parts of the ResNet trades a few right answers for half to two thirds of the wrong ones. The ViT is slower to be moved: its
# trained weights hold on to half of the wrong answers, which the answer from zero, free of them, lets go.
#
# ## Where the network knows better
#
# Moving the answer from zero throws the network's opinion away. One would expect that to cost most where the opinion was
# good. Each point is a shift. **Predict, then run:** will the orange points fall more steeply than the blue ones?

# %%
names = [shift.replace("_", " ") for shift in ("clean", *shifts)]
fig, axes = plt.subplots(1, len(families), figsize=(9.5, 4.2), sharey=True, squeeze=False)
for ax, (family, network) in zip(axes[0], families.items(), strict=True):
    for way, colour in (("logits", figures.ORANGE), ("all", figures.BLUE)):
        per = [gain_of(named(way, network), {s}) for s in ("clean", *shifts)]
        ax.plot([g["before"] for g in per], [g["gain"] for g in per], "o", color=colour, label=way)
        if way == "logits":
            figures.label(ax, [g["before"] for g in per], [g["gain"] for g in per], names)
    ax.axhline(0, color=figures.BLACK, lw=1)
    ax.set(title=family, xlabel="accuracy of the network alone, %")
axes[0, 0].set_ylabel("gain in points")
axes[0, -1].legend()
figures.show(
    fig,
    alt="For each network a scatter plot over clean images and twelve shifts: the better the network is alone, the less "
    "is gained, or the more is lost, by moving the answer from zero and by moving the network alike.",
)

# %%
per = {
    way: torch.tensor(
        [[gain_of(named(way, n), {s})[k] for k in ("before", "gain")] for n in families.values() for s in shifts]
    )
    for way in ("logits", "all")
}
for way, pairs in per.items():
    slope = torch.linalg.lstsq(torch.stack([pairs[:, 0], torch.ones(len(pairs))], 1), pairs[:, 1:]).solution[0].item()
    report.line(f"{way}: {slope:+.2f} points of gain for each point of accuracy before", tolerance=0.02)

# %% [markdown]
# They do not. Both ways gain where the network is bad and lose where it is good, at about the same slope. Five steps seem
# enough to take the network about where the diffusion model would have gone without it, whether that is better or worse. What the
# network knows is a *starting point*, and not a voice; only the ensemble keeps it as a voice.
#
#
# ## A network of random weights
#
# A network that has learnt nothing can still be moved until its answer explains the image: its last layer has a bias for
# each class, so ten free numbers are in there somewhere. What differs is how fast they move. Below, the trained network,
# one of random weights and the answer from zero get forty steps each, at the rates chosen above, on an image of each
# shift, for both families (twelve images: one more or less is eight points).


# %%
def by_step(way, family, images):
    """Shares of right answers, by step."""
    run, own = runs[named(way, families[family])], networks[family]
    method = build(own, run.method, **run.settings | dict(steps=steps, samples=12))
    right = torch.zeros(steps + 1)
    for shift, index in images:
        x, label = own.image(index, shift, 3)
        answer = method(x, image_generator(seed, index))
        beliefs = torch.cat([*(s.output for s in method.history), answer]).cpu()
        right += (beliefs.argmax(1) == label.cpu()).float() / len(images)
    return right


some = [(shift, k) for k, shift in enumerate(shifts)]
fig, axes = plt.subplots(1, len(families), figsize=(9, 3.2), sharey=True, squeeze=False)
for ax, family in zip(axes[0], families, strict=True):
    for way, colour in (("random start", figures.VERMILION), ("logits", figures.ORANGE), ("all", figures.BLUE)):
        rate = runs[named(way, families[family])].settings["lr"]
        ax.plot(100 * by_step(way, family, some), color=colour, label=f"{way}, rate {rate:g}")
    ax.set(title=family, xlabel="step", ylim=(0, 105))
    ax.legend(fontsize=9)
axes[0, 0].set_ylabel("right answers, %")
figures.show(
    fig,
    alt="For the ResNet and the ViT the share of right answers over forty steps: of the trained network, of one of random "
    "weights, and of the answer moved from zero.",
)

# %% [markdown]
# At the rates that suit them, networks of random weights come, in forty steps, to where the answer from zero is. For the ViT that is *ahead*
# of the trained network (19.4 against 12.5 points after five steps, in the table above; a difference of 6.9 [3.1, 10.8]), for nothing in it holds on to a
# wrong answer; it needed ten times the trained network's rate. The ResNet of random weights needed a hundred times, the end
# of what was tried, and is still slower: it stays behind the trained one by 6.9 points [2.8, 11.5].
#
# So a network that has learnt nothing can be taught by one image. What it learns can only be the diffusion model's opinion,
# since there is nothing else in it: a Diffusion Classifier by a detour. The paper's random network ends at chance. Table 6 does not
# say at which rate; at a rate of 0.02, which suits the trained ResNet, ours does too (on validation images, -59 points for
# the ResNet, -33 for the ViT).
#
# Are the stored numbers true? An image of each shift, run now, with the network that moved and with the answer:

# %%
for way in ("all", "logits"):
    agree, count = stored.agreement("weights", way, live, shifts, folder=folder)
    report.line(f"{way}: {agree} of {count} answers are as stored", tolerance=0.1, whole=2)

# %% [markdown]
# ```{exercise}
# :label: fewest-weights
#
# How few weights will do? `select` gives you lists of parameters, and an optimizer takes any list. Move only the *biases*
# of the ResNet's convolutions and last layer, then only its first convolution. Choose a rate for each on **validation**
# images, and compare both with "norm" and "head" on test images, paired.
# ```
#
# ```{solution} fewest-weights
# :class: dropdown
#
# `chosen = [p for name, p in problem.model.named_parameters() if name.endswith("bias")]`, then
# `dtta.DiffusionTTA(problem.model, problem.diffusion, problem.condition, torch.optim.SGD(chosen, lr=rate), ...)`, a loop
# over validation images for each rate, and `dtta.evaluate.paired_gain` on rows of test images. Rates differ by orders of
# magnitude between parts: a part that fails may only have had the wrong one.
# ```
#
# ## Take-aways
#
# * What moves is an argument: the list that the optimizer holds.
# * A part of the network does as well as all of it here, at a rate of its own. Comparing parts at one rate compares rates.
# * The answer alone, moved from zero, forgets what the network knew. That is a gain where the teacher is better, and a
#   loss where it is not.
# * Adapting φ adds a point or two here, at a small rate, and does harm at a large one. In the paper it brings most of the
#   gain.
# * A network of random weights is not lost; its rate was. What it then says can only be the diffusion model's opinion.

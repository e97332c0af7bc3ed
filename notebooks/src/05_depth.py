# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Depth
#
# A depth network says for each pixel how far away the world is there. Its answer is a picture already, and a diffusion
# model can be told it as it is: *the condition is the answer*. This page asks whether a diffusion model that has seen
# pictures with their depth can tell a network where its depths are wrong {cite:p}`prabhudesai2023diffusion`.
#
# **You will learn** how a depth map becomes a condition, how depth is measured, and what adaptation gains and loses
# when there is no belief to sharpen, only a number for each pixel.
#
# **You need** page [04](04_segmentation); the [world of scenes](12_scenes) shows where the pictures come from.
# **Time:** 30 minutes to read, one to two minutes to run on two CPU cores.

# %% tags=["parameters", "hide-input"]
# "mini": rendered scenes of 32 x 32 pixels, on a CPU; "full": NYU Depth v2, on
# a GPU
scale = "mini"
seed = 0
# validation scenes on which the sensitivity to the condition is measured
listeners = 8
probed = 2  # test scenes of each shift whose error is taken apart
# test scenes of each shift that are run again and compared with the stored
# results
live = 1

# At full scale alone:
network = None  # another network: its name, or a folder in the hub's layout
diffusion = None  # another diffusion model, likewise
images = 12  # test images under each shift
shifts = None  # a list of some; None: all
# of a setting, such as {"samples": 48}: what a run says above it is cut down to
# it
most = {}
# folder for the results that the page makes; None: results in $DTTA_CACHE or
# ~/.cache/dtta
results = None

# %% tags=["hide-input"]
from functools import partial

import matplotlib.pyplot as plt
import torch
from torchvision.transforms.v2.functional import gaussian_blur

import dtta
from dtta.core.probe import losses_by_timestep, losses_under
from dtta.evaluation.evaluate import image_generator
from dtta.evaluation.statistics import bootstrap_interval
from dtta.experiments import stored
from dtta.experiments.transfer import EVEN, open_page
from dtta.methods.registry import build
from dtta.pages import Setting, figures, report

figures.style()
setting = Setting(scale)
table = "scenes-depth-test"
problem, shifts, folder = open_page(
    scale,
    [table],
    "scenes-depth",
    "nyuv2",
    images,
    seed,
    shifts=shifts,
    network=network,
    diffusion=diffusion,
    limits=most,
    results=results,
    settings=EVEN,
)
diffusion, settings = problem.diffusion, problem.settings["diffusion-tta"]
near, far = problem.condition.near, problem.condition.far
unit = setting(mini="scene units", full="metres")
scale_note = setting(mini="; an object is about one unit wide", full="")
print(f"depths from {near} to {far} {unit}{scale_note}")
origin = setting(
    mini="chosen on validation scenes", full="not chosen on validation images"
)
print(f"settings, {origin}:", settings)
deep = next(
    s for s in ("depth_fog", "fog", *shifts) if s in shifts
)  # fog that deepens with distance, where it can be made
four = [
    s
    for s in ("contrast", deep, "gaussian_noise", "motion_blur")
    if s in shifts
]

# %% [markdown]
# ## The task
#
# The network has DenseDepth's shape {cite:p}`alhashim2018densedepth`: an encoder that goes down to a coarse view, and a
# decoder that comes up again with short cuts across. It was trained on clear scenes alone.

# %% tags=["hide-input"]
fig, axes = plt.subplots(4, 6, figsize=(8.4, 6))
for k, pair in enumerate(zip(axes[:, :3].T, axes[:, 3:].T, strict=True)):
    for column, shift in zip(pair, ("clean", "fog"), strict=True):
        x, truth = problem.image(k, shift, 3)
        with torch.no_grad():
            answer = problem.model(x)[0, 0]
        figures.picture(column[0], x[0])
        figures.depth(column[1], truth[0], near, far)
        figures.depth(column[2], answer, near, far)
        figures.depth_error(column[3], answer, truth[0])
        column[0].set_title(shift, loc="center")
for ax in axes.flat:
    ax.axis("on")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
for ax, name in zip(
    axes[:, 0], ("image", "truth", "network", "error"), strict=True
):
    ax.set_ylabel(name)
figures.show(
    fig,
    alt="Three clear scenes and the same three in fog; below each its true "
    "depth, the network's depth, and the error, red where it is too near and "
    "blue where it is too far. In clear air the errors are at edges; in fog "
    "they cover objects and ground.",
)

# %% [markdown]
# Depth is easier to see as a relief. The same scene in fog, seen from the side:

# %% tags=["hide-input"]
x, truth = problem.image(0, "fog", 3)
with torch.no_grad():
    before = problem.model(x)
fig = plt.figure(figsize=(9, 3.6))
for k, (name, d) in enumerate(
    (("truth", truth[0]), ("network, in fog", before[0, 0]))
):
    ax = fig.add_subplot(1, 2, k + 1, projection="3d")
    figures.surface(ax, d, x[0], far)
    ax.set_title(name, loc="center")
figures.show(
    fig,
    alt="Two reliefs of a scene: the true depths, in which objects stand out "
    "from the ground as steps, and the network's depths in fog.",
)

# %% [markdown]
# ## A depth map as a condition
#
# Depths are moved to $[-1, 1]$ in equal *ratios*, so that a step from 2 to 4 units counts as much as one from 4 to 8:
#
# $$ c = 2\,\frac{\log d - \log d_\text{near}}{\log d_\text{far} - \log d_\text{near}} - 1. $$
#
# The diffusion model is the UNet of page 04 with one condition channel instead of eight. In its training half of the
# maps were blurred, scaled, shifted, bent by slow waves or grained, so that a wrong map means something to it
# (`dtta.problems.scenes.depth.disturb`).

# %%
inverse = 1 / before.clamp(near, far)
by_hand = setting(
    mini=2 * (before / near).log() / torch.tensor(far / near).log() - 1,
    full=(inverse - inverse.min())
    / (inverse.max() - inverse.min()),  # as the depth ControlNet was shown it
)
name = type(problem.condition).__name__
print(
    f"the same as {name}:",
    torch.allclose(by_hand, problem.condition(before), atol=1e-5),
)

# %% [markdown]
# ## Does the diffusion model listen?
#
# Loss under the network's depths, under a blurred truth, under another scene's depths and under a flat wall, minus the
# loss under the true depths, on validation scenes.
#
# **Predict, then run:** which of the four is closest to the truth for the diffusion model, and does the order hold in
# fog?

# %% tags=["hide-input"]
shown = ("clean", "contrast", "fog", "gaussian_noise")


def known(truth, depths):
    """True depths; where nothing was measured, what the network says."""
    return torch.where(truth > 0, truth, depths)


@torch.no_grad()
def listening(shift):
    """Timesteps, and losses (scenes, maps, timesteps) under the true map and
    four others.
    """
    x, truth = problem.images(listeners, shift, 3, "validation")
    own = problem.model(x)
    truth = known(truth, own)
    depths = (
        truth,
        own,
        gaussian_blur(truth, [9, 9], [2.0, 2.0]),
        truth.roll(1, 0),
        truth * 0 + 4.0,
    )
    maps = [problem.condition(d) for d in depths]
    return losses_by_timestep(diffusion, x, maps, seed=seed)


heard = {shift: listening(shift) for shift in shown}
fig = figures.loss_gap(
    heard["clean"][0],
    {shift.replace("_", " "): losses for shift, (_, losses) in heard.items()},
    ("network's", "truth, blurred", "another scene's", "a flat wall"),
    "the true depths",
)
figures.show(
    fig,
    alt="Four panels, for clean scenes, contrast, fog and Gaussian noise: how "
    "much larger the loss is under four other depth maps than under the true "
    "one, against the timestep, with intervals.",
)

# %% [markdown]
# On clear scenes and under low contrast the order is as one would wish. Another scene's depths and a flat wall explain
# the picture worst, a blurred truth a little worse than the truth; the network's own depths do as well as the truth on
# clear scenes, where they are nearly right, and worse under low contrast. Gaussian noise turns the lowest timesteps
# round: grain is part of the picture there. Above them the truth is preferred again. So the timesteps chosen on
# validation scenes are later ones.
#
# Fog misleads the model at nearly every timestep. It prefers the network's depths to the true ones, and even a flat
# wall: to a model that never saw fog, a grey veil over everything looks like something near and flat. No choice of
# timestep mends that.
#
# ## One scene, five steps
#
# By the same call as ever. Of all test scenes under fog that deepens with distance, ordered by their gain, this one
# stands at three quarters.

# %% tags=["hide-input"]
tta = build(problem, "diffusion-tta")
standing = partial(
    stored.at_quantile, table, "diffusion-tta", folder=folder
)  # by their gain
index = standing(deep, 0.75)
x, truth = problem.image(index, deep, 3)
after = tta(x, image_generator(seed, index))
before = tta.history[0].output
fig, axes = plt.subplots(1, 6, figsize=(10, 2.3))
figures.picture(axes[0], x[0])
for ax, d in zip(axes[1:4], (truth[0], before[0, 0], after[0, 0]), strict=True):
    figures.depth(ax, d, near, far)
for ax, d in zip(axes[4:], (before, after), strict=True):
    figures.depth_error(ax, d[0, 0], truth[0])
titles = ("image", "truth", "before", "after", "error before", "error after")
for ax, name in zip(axes, titles, strict=True):
    ax.set_title(name, loc="center")
    ax.axis("off")
figures.show(
    fig,
    alt="A scene in fog, its true depths, the network's depths before and "
    "after five steps, and the errors of both, red where too near and blue "
    "where too far.",
)

# %% [markdown]
# A slice through the same scene shows the step at an object's edge: the row of pixels in which the truth varies most,
# with the answer after every step.

# %% tags=["hide-input"]
logs = truth[0].clamp(min=near).log()
row = int((logs.amax(1) - logs.amin(1)).argmax())
fig, ax = plt.subplots(figsize=(7.5, 3.4))
answers = [step.output[0, 0, row] for step in tta.history] + [after[0, 0, row]]
ax.plot(truth[0, row].cpu(), color=figures.BLACK, lw=2.5, label="truth")
for k, d in enumerate(answers):
    share = k / (len(answers) - 1)
    label = {0: "network", len(answers) - 1: "after five steps"}.get(k)
    ax.plot(
        d.detach().cpu(),
        color=figures.BLUE if k else figures.ORANGE,
        alpha=0.3 + 0.7 * share if k else 1,
        label=label,
    )
ax.set(yscale="log", xlabel=f"pixel in row {row}", ylabel=f"depth, {unit}")
ax.yaxis.set_major_formatter("{x:g}")
ax.yaxis.set_minor_formatter("{x:g}")
ax.legend()
figures.show(
    fig,
    alt="Depth along one row of pixels: the truth with its steps at the edges "
    "of objects, the network's answer in fog, and the answers after each of "
    "five steps.",
)

# %% [markdown]
# ## By how much
#
# Twenty-four test scenes under each shift, severity 3, 240 different scenes in all, each adapted alone. The first
# number is the paper's, SSIM × 100: structural similarity between the depth maps, by which settings were chosen on
# validation scenes, among those that `dtta/experiments/scenes-depth-test.toml` names. The numbers are stored results that
# `dtta evaluate --table scenes-depth-test` makes again.

# %% tags=["hide-input"]
gain_of = partial(
    stored.gain, table, folder=folder, metric=problem.metrics["SSIM"]
)
gains = {
    s.replace("_", " "): gain_of("diffusion-tta", {s})
    for s in ("clean", *shifts)
}
gains["mean of the shifts"] = gain_of("diffusion-tta", shifts)
figures.show(
    figures.forest(gains, "Diffusion-TTA over no adaptation, SSIM × 100"),
    alt="Forest plot: the gain in SSIM with its interval for clean scenes, "
    "for each shift and for their mean.",
)

# %% tags=["hide-input"]
report.gains(
    gains,
    tolerance=0.1,
    caption="SSIM × 100 and its gain, 95% paired interval; severity 3, seed "
    f"{seed}",
)

# %% [markdown]
# SSIM looks at structure. Do the distances themselves get better? *AbsRel* is the mean relative error in percent and
# *RMSE* the root mean squared error in scene units, for both of which **less is better**; δ < 1.25 is the share of
# pixels whose ratio to the truth is below 1.25.

# %% tags=["hide-input"]
report.gains(
    {
        m: gain_of("diffusion-tta", shifts, metric=problem.metrics[m])
        for m in problem.metrics
    },
    tolerance=0.05,
    caption="Mean over the shifts; for AbsRel and RMSE a negative number is a "
    "gain",
)

# %% [markdown]
# On average structure gains, by an interval well above zero. Look at where. Noise, night, coloured light and brightness
# gain most: there the network was bad, and the picture still shows how the scene is laid out. Where the network was
# right already, on clean scenes, under blur, from another camera height, five steps cost one to five points. Plasma fog
# is the one shift under which the network is bad and adaptation makes it worse.
#
# The other metrics are sober. RMSE falls a little, the relative error moves within its interval, and δ < 1.25 gets
# *worse* by about a point. A table of SSIM alone would not have shown this.
#
# One thing must be said about the winners. The diffusion model was trained on scenes of which half had another
# contrast, exposure or tint (`dtta.problems.scenes.training.distort`), the network on clear ones alone. So for the
# shifts contrast, brightness, night and coloured light the teacher has seen something like the test, and the pupil has
# not. Noise, blur, weather, other textures and views were new to both.
#
# Scores on structure and scores on distance disagree, so take an error apart. The log of the ratio of an answer to the
# truth has a mean over the image, the *offset* (all too far, or all too near), and what varies around it, the *shape*
# error. Two test scenes of each shift, adapted now:

# %% tags=["hide-input"]
kept = {
    (r.shift, r.index): r.score
    for r in stored.rows(table, "diffusion-tta", folder)
}
errors = []  # (scenes, before and after, offset and shape)
for shift in shifts:
    for i in [i for name, i in kept if name == shift][:probed]:
        x, truth = problem.image(i, shift, 3)
        answers = (problem.model(x).detach(), tta(x, image_generator(seed, i)))
        ratios = [(d[0] / truth)[truth > 0].log() for d in answers]
        errors.append([[e.mean().abs().item(), e.std().item()] for e in ratios])
errors = 100 * torch.tensor(errors)
rows = []
for k, name in enumerate(("offset", "shape")):
    before, after = errors[:, 0, k], errors[:, 1, k]
    low, high = bootstrap_interval((after - before).tolist())
    rows.append(
        {
            "error": name,
            "before": before.mean().item(),
            "after": after.mean().item(),
        }
        | {
            "change": (after - before).mean().item(),
            "from": low,
            "to": high,
            "scenes": len(errors),
        }
    )
report.table(
    rows,
    tolerance=0.3,
    caption="Size of the log error, in percent; a negative change is a gain",
)

# %% [markdown]
# In these scenes both parts shrink, the offset by about a third. That δ < 1.25 falls all the same fits what it counts,
# pixels on the right side of a threshold: small moves push some over it where the network was right, and large ones may
# still end beyond it where it was far off.
#
# Where does depth move? For four shifts, the scene that stands in the middle when scenes are ordered by their gain.

# %% tags=["hide-input"]
fig, axes = plt.subplots(
    len(four), 6, figsize=(9, 1.55 * len(four)), squeeze=False
)
for line, shift in zip(axes, four, strict=True):
    index = standing(shift, 0.5)
    x, truth = problem.image(index, shift, 3)
    after = tta(x, image_generator(seed, index))[0, 0]
    before = tta.history[0].output[0, 0]
    figures.picture(line[0], x[0])
    for ax, d in zip(line[1:4], (truth[0], before, after), strict=True):
        figures.depth(ax, d, near, far)
    for ax, d in zip(line[4:], (before, after), strict=True):
        figures.depth_error(ax, d, truth[0])
    line[0].axis("on")
    line[0].set(xticks=[], yticks=[], ylabel=shift.replace("_", " "))
    line[0].grid(False)
for ax, name in zip(axes[0], titles, strict=True):
    ax.set_title(name, loc="center")
figures.show(
    fig,
    alt="Four scenes, under contrast, depth fog, Gaussian noise and motion "
    "blur: image, true depth, the network's depth before and after, and the "
    "errors before and after.",
)

# %% [markdown]
# Are the stored numbers true? A scene of some shifts, run now:

# %% tags=["hide-input"]
some = ("clean", "contrast", "fog", "shot_noise", "night")
agree, count = stored.reproduce(
    table, "diffusion-tta", live, some, folder=folder, within=0.01
)
report.line(
    f"{agree} of {count} scenes score as stored, to one point",
    tolerance=0.1,
    whole=1,
)

# %% [markdown]
# ## Against simpler methods
#
# There is no entropy to lower in a number, so TENT has no counterpart here. Two methods exist for regression.
# *Augmentation* averages the depths of the image and its mirror image. *Consistency* is the objective of Mean Teacher
# {cite:p}`tarvainen2017mean` with the teacher of CoTTA {cite:p}`wang2022cotta`: the network's depths under jittered
# brightness, contrast and noise should be those of an averaged teacher. Same scenes, settings from validation scenes.

# %% tags=["hide-input"]
methods = ("diffusion-tta", "augmentation", "consistency")
rows = stored.summary(
    table, methods, shifts, problem.metrics["SSIM"], folder=folder
)
before = gain_of("diffusion-tta", shifts)["before"]
report.table(
    rows,
    tolerance=0.1,
    caption=f"SSIM × 100, mean over the shifts; no adaptation: {before:.1f}",
)

direct = gain_of("diffusion-tta", shifts, against="augmentation")
report.line(
    f"Diffusion-TTA minus augmentation: {direct['gain']:+.1f} points, "
    f"interval {direct['low']:+.1f} to {direct['high']:+.1f}",
    tolerance=0.1,
)

# %% [markdown]
# Mirroring and averaging gains less than half a point, nearly everywhere, and never costs much. Consistency found no
# rate on validation scenes at which it helped: the best of its grid is the smallest, at which it does next to nothing.
# Diffusion-TTA gains most on average and has by far the worst worst case.
#
# ## What decides: timesteps, φ, a stream, another network
#
# As on page 04: all timesteps heard, the diffusion model adapted too, and *online* adaptation along the scenes of one
# shift. And a second network, *GLPN* {cite:p}`kim2022glpn`, a transformer, with the settings that were chosen for the
# first.

# %% tags=["hide-input"]
variants = {
    "SGD for Adam": ("diffusion-tta, sgd", "none"),
    "all timesteps": ("diffusion-tta, all timesteps", "none"),
    "φ adapted": ("diffusion-tta, φ adapted", "none"),
    "online": ("diffusion-tta, online", "none"),
    "GLPN": (
        "diffusion-tta, glpn",
        "none, glpn",
    ),  # at full scale the network of all rows
}
variants = {
    name: pair
    for name, pair in variants.items()
    if pair[0] in stored.runs(table, folder)
}
report.gains(
    {"as above": gain_of("diffusion-tta", shifts)}
    | {
        name: gain_of(run, shifts, against=other)
        for name, (run, other) in variants.items()
    },
    tolerance=0.1,
    caption="SSIM × 100 over the shifts: gain over no adaptation of the same "
    "network",
)

# %% tags=["hide-input"]
report.gains(
    {
        f"{name}{where}": gain_of(run, which, against="diffusion-tta")
        for where, which in (("", shifts), (", clean", {"clean"}))
        for name, (run, other) in variants.items()
        if other == "none"
    },
    tolerance=0.1,
    caption="The same, against the first row, on the scenes that both have "
    "seen",
)

# %% tags=["hide-input"]
if setting.mini:
    report.table(
        stored.selection_table(table),
        tolerance=0.1,
        caption="What was tried on validation scenes, and gains there in "
        "points",
    )

# %% [markdown]
# A best value at an end of what was tried says that a better one may lie beyond it.
#
# * **The optimiser.** Plain gradient descent gains as much under shifts, at a rate of its own, and costs clean scenes
#   about half as much, though not nothing. Its steps shrink with the gradient. Adam's do not: it divides the gradient
#   by its own size, so that a network that is right already is moved as far as one that is wrong. That is part of
#   the losses on clean scenes.
# * **Timesteps.** With all of them heard, most of the gain goes: the low ones mislead, as the curves above said.
# * **φ.** Adapting the diffusion model too changes next to nothing at the rate chosen for it.
# * **Online** does *harm* here, and there is a lesson in it. Its rate was chosen on streams of six validation scenes,
#   on which it gained more than single scenes do (`dtta/results/scenes-depth-test-settings.csv`). These streams have
#   twenty-four scenes: what accumulates for six can run away by twenty-four. A setting holds for the length of stream
#   it was chosen on.
# * **GLPN** gains as much as DenseDepth, with settings that were not chosen for it.
#
# ## Where it loses, and why
#
# The teacher can be asked as on page 04: at the timesteps it is heard at, does it prefer the true depths to the
# network's?

# %% tags=["hide-input"]
preferred, gained = [], []
heard = dtta.Sampling(
    "stratified", t_min=settings["t_min"], t_max=settings["t_max"]
)
for shift in ("clean", *shifts):
    pairs = [
        problem.image(i, shift, 3)
        for i in [i for name, i in kept if name == shift][:4]
    ]
    x, truth = (
        torch.cat([image for image, _ in pairs]),
        torch.stack([label for _, label in pairs]),
    )
    with torch.no_grad():
        own = problem.model(x)
        maps = [problem.condition(known(truth, own)), problem.condition(own)]
    right, wrong = losses_under(diffusion, x, maps, 8, heard, seed).mean(0)
    preferred.append(1000 * (wrong - right).item())
    gained.append(gain_of("diffusion-tta", {shift})["gain"])

fig, ax = plt.subplots(figsize=(7.5, 4.6))
figures.named_points(
    ax, preferred, gained, [s.replace("_", " ") for s in ("clean", *shifts)]
)
ax.set(
    xlabel="loss under the network's depths minus loss under the truth, "
    "thousandths",
    ylabel="gain in SSIM × 100",
)
figures.show(
    fig,
    alt="Scatter plot with a point for each shift: how much the diffusion "
    "model prefers the true depths to the network's, against the gain of "
    "adaptation.",
)
correlation = torch.corrcoef(torch.tensor([preferred, gained]))[
    0, 1
].nan_to_num()  # 0 where nothing differs
report.line(
    f"correlation over clean scenes and the shifts: {correlation:.2f}",
    tolerance=0.05,
)

# %% [markdown]
# The further the diffusion model prefers the truth to the network's depths, the more adaptation gains. At the left, in
# fog and from other camera heights, it prefers what the network says, and adaptation loses. The shifts near zero are
# those under which the network was right already: there is nothing to hear, and Adam moves the weights all the same.
#
# ## Beside the paper
#
# The paper's Table 4 adapts DenseDepth on NYUv2, with a latent diffusion model trained from scratch on the same images
# and adapted too, and reports SSIM × 100. It does not say how severe the shifts are. Of its shifts, these are in the
# mini world:

# %% tags=["hide-input"]
paper = {
    "clean": 0.2,
    "gaussian_noise": 3.0,
    "shot_noise": 0.8,
    "fog": 2.8,
    "snow": 1.4,
    "contrast": 0.0,
}
rows = []
for shift, theirs in paper.items():
    if shift not in ("clean", *shifts):
        continue
    g = gain_of("diffusion-tta", {shift})
    ours = {
        "here": g["gain"],
        "from": g["low"],
        "to": g["high"],
        "scenes": g["images"],
    }
    rows.append({"": shift.replace("_", " "), "paper, Table 4": theirs} | ours)
report.table(rows, tolerance=0.1, caption="Gain in SSIM × 100")

# %% [markdown]
# Noise gains in both, snow's interval here holds zero. Contrast gains here and not in the paper, where the diffusion
# model is not said to have seen low contrast in training. Fog gains in the paper and loses here, for the reason seen
# above; why it does not mislead the paper's model cannot be told from here. Clean scenes lose here. The paper adapts φ
# too; how severe its shifts are, its steps and its rate for depth are not known, so the sizes cannot be compared.
#
# ```{exercise}
# :label: relative-depth
#
# Many public depth networks answer in *relative* inverse depth, known up to a scale and a shift. `DepthMap(near, far,
# scale="inverse")` makes a condition of $1/d$. Which of the wrong maps above would a diffusion model trained on it find
# hardest to tell from the truth: a blurred one, or one with all distances doubled? Check your guess for the log scale
# here: compute `losses_under` for `truth` and for `(1.3 * truth).clamp(near, far)`, clear scenes.
# ```
#
# ```{solution} relative-depth
# :class: dropdown
#
# In log depth a common factor is a common *offset* of the condition, and the training disturbed maps by small offsets
# and scales, so the model has learnt to forgive some of it. The blurred map loses the edges, and edges are what a
# picture shows best. A common factor shows only in perspective: how large the ground's texture looks, how high an
# object's foot stands.
# ```
#
# ## Take-aways
#
# * For depth the condition is the answer: no mixture, no belief, one number for each pixel.
# * Structure gains where the network was bad and the picture still shows the layout: noise, night, coloured light.
# * What scores structure and what scores distance can disagree. Report both.
# * The diffusion model must be asked, shift by shift, whether it prefers the truth. Where it does not, as in fog, its
#   feedback does harm, and no label is there to say so.

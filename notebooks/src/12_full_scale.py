# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Full scale
#
# Everything so far ran on small models, by code that does not know how large they are. This page is about the large ones:
# how to repeat a row of the paper's tables, what that costs, and whose numbers stand beside whose. What has to be right
# at that size can be tried in small: sharing work, going on after a stop, finding what fits into memory, half precision.
#
# **You will learn** how one command runs on many GPUs and survives being killed, what half precision does to a gradient
# and what saves it, how to count what a table costs before paying for it, and which of the paper's numbers can be met.
#
# **You need** pages [02](02_conditions), [03](03_classification) and [09](09_online). **Time:** 25 minutes to read, a
# minute to run on two CPU cores. At full scale, on one GPU, it measures the speed of models of the published sizes.

# %% tags=["parameters", "hide-input"]
scale = "mini"  # "mini": networks small enough for a CPU; "full": of the published sizes, on a GPU
seed = 0
images = 6  # of the run that is stopped and goes on
rate = 300e12  # an assumption, for arithmetic: floating-point operations a second that a GPU really does
price = 3.0  # another one: of that GPU, for an hour
cases = None  # what is timed, see dtta bench --case; None: those of the scale
steps = None  # of adaptation, when it is timed; None: 5, and at the mini scale 1
samples = None  # pairs of each step, likewise; None: 180, and at the mini scale 12
results = None  # folder of your own summaries, as dtta evaluate --preset ... --out leaves them
pictures = 60  # written to the folder of "your own" pictures

# %% tags=["hide-input"]
import heapq
import json
import logging
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torchvision.transforms.functional import to_pil_image

import dtta
from dtta.core.adapter import gradients_only_for
from dtta.core.parameters import select
from dtta.core.precision import native, prepare
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA
from dtta.evaluation import summary
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.evaluation.statistics import paired_gain
from dtta.experiments import stored
from dtta.experiments.paper import (
    LEFT_OUT,
    presets,
    published,
    table_of_differences,
)
from dtta.pages import Setting, figures, report
from dtta.problems.device import device
from dtta.problems.digits.models import scheduler
from dtta.profiling.loops import bench
from dtta.profiling.networks import operations, random_problem

figures.style()
setting = Setting(scale)
if not setting.mini:
    print("full scale: speed is measured at the published sizes; what is stopped and goes on stays in the mini world")
logging.getLogger("dtta.evaluation.journal").setLevel(
    "ERROR"
)  # it would tell of the row below that we cut off ourselves

# %% [markdown]
# ## A row by its name
#
# Each cell of the paper's tables that can be run is a *preset*: problem, network, settings, which images and how many.
# A preset is not the paper's run in every detail: a [table below](preset-differences) lists what differs, and why.
#
# ```bash
# dtta doctor imagenet-a                                      # what this machine lacks: checkpoints, data, memory
# dtta evaluate --preset table1/convnext-tiny/imagenet-a --out rows
# dtta report rows                                            # the table of all that the folder holds
# ```

# %%
every = presets()
for table in sorted({name.split("/")[0] for name in every}):
    cells = [p for name, p in every.items() if name.startswith(table + "/")]
    print(f"{table}: {len(cells):3} cells, {sum(p.images for p in cells):7} images, such as {cells[0].name}")
for what, why in LEFT_OUT.items():
    print(f"not to be had: {what}: {why}")

# %% [markdown]
# ## Many GPUs, one table
#
# ```bash
# accelerate launch --num_processes 8 -m dtta evaluate --preset table1/convnext-tiny/imagenet-a --out rows
# torchrun --nproc-per-node 2 -m dtta evaluate --shift fog --out rows        # the same without GPUs
# ```
#
# The obvious way is to deal out the images like cards. **Predict, then run:** of four GPUs one is shared with somebody and
# three times as slow. How much longer does the whole take than with four good ones, if the images are dealt out in equal
# parts? And if each GPU draws the next image when it is free?

# %%
rng = np.random.default_rng(seed)
seconds = rng.uniform(0.8, 1.2, 300)  # for each image, on a good GPU
speed = np.array([1, 1, 1, 1 / 3])


def dealt(speed):
    """When the last one is done, if every fourth image is yours."""
    return max(seconds[k :: len(speed)].sum() / s for k, s in enumerate(speed))


def drawn(speed):
    """When the last one is done, if whoever is free takes the next image."""
    free = [(0.0, k) for k in range(len(speed))]
    for s in seconds:
        now, k = heapq.heappop(free)
        heapq.heappush(free, (now + s / speed[k], k))
    return max(free)[0]


for name, way in {"dealt out": dealt, "drawn": drawn}.items():
    print(f"{name:9}: four good ones {way(np.ones(4)):4.0f} s, one of them slow {way(speed):4.0f} s")
print(f"the least there could be: {seconds.sum() / speed.sum():.0f} s")

# %% [markdown]
# So nobody owns a part: the processes share one counter, and each draws the next number when it is free
# (`dtta.evaluation.distributed`). Which process computes an image does not matter, since an image's noise is drawn from a seed of its own.
#
# *Online* adaptation cannot be shared like this. Its weights after an image are where the next image starts, so that
# images of a stream follow from one another. What can be shared are whole *streams*: the five of the paper's Table 2 keep
# five GPUs busy, and a sixth has nothing to do. A stream that was stopped begins anew, since its weights are not on disk.
#
# ## Killed anywhere
#
# A run of days will be killed. Each row is on disk before the next image is begun, and a run starts with what it finds.
# Here is one that is stopped in the middle of a row, by hand:

# %%
run = Run("diffusion-tta", settings=dict(dtta.load("digits").settings["diffusion-tta"], steps=1, samples=4), seed=seed)
folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "rows.jsonl")
rows = evaluate(run, [("fog", 3)], range(images), path, progress=False)

whole = path.read_text()
lines = whole.splitlines(keepends=True)
path.write_text("".join(lines[: images // 2]) + lines[images // 2][:40])  # the power went out here
stopped = path.read_text().count("\n") - 1
again = evaluate(run, [("fog", 3)], range(images), path, progress=False)

print(f"{images} images, {stopped} rows whole after the stop")
print("the same rows:", [r.score for r in again] == [r.score for r in rows])
print("a row:", {k: v for k, v in json.loads(lines[1]).items() if k not in ("seconds", "sums")})

# %% [markdown]
# The line that was cut off is taken away and its image done again. A line that is damaged in the middle is another
# matter: nobody cuts there, so something is wrong, and the run says which line it is and touches nothing.
#
# Several processes write a file each, and the next start puts them together. The tests kill one to three processes twenty
# times, between the bytes of a row, before it is safe on disk, and while files are put together; the rows come out the
# same (`tests/evaluation/test_distributed.py`).
#
# ## What fits into memory
#
# All $B$ pairs $(t, \epsilon)$ in one pass are fastest, if they fit. Whether they do depends on the GPU, the model, and
# who else uses the GPU; so it is tried. Where memory runs out, half as many are tried, and the rest of the run keeps that number.
# **Predict, then run:** if 13 pairs fit and 48 are wanted, how many are taken at once?

# %%
problem = random_problem("dit-toy", seed)
x, _ = problem.image(0, seed=seed)
loss, asked = problem.diffusion.loss, []


def loss_in_little_memory(z0, *rest):
    """Thirteen pairs fit."""
    asked.append(len(z0))
    if len(z0) > 13:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return loss(z0, *rest)


def adapter(problem, joint=False, **settings):
    moving = [*select(problem.model), *(select(problem.diffusion.network) if joint else [])]
    optimizer = torch.optim.SGD(moving, lr=5e-3)
    return DiffusionTTA(problem.model, problem.diffusion, problem.condition, optimizer, **settings)


tta = adapter(problem, steps=1, samples=48)
at_once = tta(x, torch.Generator().manual_seed(seed))
problem.diffusion.loss = loss_in_little_memory
in_parts = tta(x, torch.Generator().manual_seed(seed))
problem.diffusion.loss = loss
print("pairs asked for:", asked)
print("the same answer to 1e-4:", torch.allclose(at_once, in_parts, atol=1e-4))

# %% [markdown]
# What runs out of memory in the middle has left gradients behind. They are dropped with it, or the first pairs would count
# twice.
#
# ## Half precision
#
# Tensor cores multiply sixteen bits at up to sixteen times the speed of float32. *bfloat16* keeps float32's range and
# eight binary digits of each number; *float16* keeps eleven, but ends at $6 \cdot 10^{-8}$. The gradient of a *mean* over $B$ pairs and
# all numbers of a latent is divided by their count: 180 latents of Stable Diffusion have three million. **Predict, then
# run:** how much of the gradient is left in float16 there, and for means over yet more?


# %% tags=["hide-input"]
def at_condition(precision, count, power=0):
    """∂L/∂c on the toy, made as small as that of a mean over `count` numbers; on its way back times 2**power."""
    problem, samples = random_problem("dit-toy", seed), 24
    tta = prepare(adapter(problem, steps=1, samples=samples), problem.diffusion, precision)
    z0 = problem.diffusion.encode(x)
    t, noise = Sampling().draw(z0, samples, problem.diffusion.timesteps, torch.Generator().manual_seed(seed))
    c = tta.condition(tta.model(x)).detach().requires_grad_()
    with gradients_only_for([], tta.model, tta.diffusion):
        losses = tta.diffusion.loss(z0.expand(samples, -1, -1, -1), t[0], noise[0], c.expand(samples, -1))
        (losses.sum() * (z0[0].numel() / count) * 2.0**power).backward()
    return c.grad.flatten() / 2.0**power


latents = 64 * 64 * 4 * 180
ways = {"bfloat16": ("bfloat16", 0), "float16": ("float16", 0), "float16, scaled": ("float16", 22)}
left = []
for count in (latents, 64 * latents, 4096 * latents):
    truth = at_condition("float32", count)
    found = {name: at_condition(precision, count, power) for name, (precision, power) in ways.items()}
    cosines = {name: torch.cosine_similarity(grad, truth, dim=0).item() for name, grad in found.items()}
    left.append({"mean over": f"2^{np.log2(count):.0f} numbers"} | cosines)
report.table(left, tolerance=0.05, caption="Cosine between the gradient and float32's", digits=2)

# %% [markdown]
# On the toy, float16 still holds the gradient of a mean over three million numbers; of 64 times as many nothing is left.
# Where that edge lies depends on the network, and on how sure it is of its answer, since a sure one has small gradients.
# Scaling takes the edge away.
#
# A power of two changes no digit of a number, only its exponent. So the loss is multiplied by one before it goes back,
# about as large as what the mean divides by, and the gradient divided by it afterwards in float32
# (`DiffusionTTA.feedback`). bfloat16 needs none of this. A GPU older than an A100 has no bfloat16, though torch says it
# has: it emulates. `dtta.core.precision.native` asks the hardware.
#
# Weights that stand still are kept in the sixteen bits that they are multiplied in, so there is one copy of them, in half
# the memory; weights that move stay float32 and are kept twice, as they were and as they are. Softmax, mixing, loss and
# sums over pairs are always float32.
#
# ## How fast
#
# ```bash
# dtta bench --case dit-256 --case dit-256-joint --case sd-512 --out bench.json
# ```
#
# times an image's 900 evaluations, on networks of the published sizes with random weights, which are as fast as any. Beside
# it runs the naive loop of the released code: float32, the task network anew for each micro-batch. The *matrix product*
# is the time of as many operations at the speed of a large matrix product on the same device and in the same precision. It
# is a yardstick, not a bound: convolutions can be faster. On a GPU the fast loop is timed twice, as it is and with compiled
# blocks. Each ratio comes with the state of TF32, in which a GPU computes float32 with fewer digits, since the naive loop's
# speed depends on it.

# %% tags=["nbval-ignore-output", "hide-input"]
# not compared: seconds are never the same twice
cases = cases or setting(mini=["dit-toy", "sd-toy"], full=["dit-256", "dit-256-joint", "sd-512"])
steps = steps or setting(mini=1, full=5)
samples = samples or setting(mini=12, full=180)
for case in cases:
    timing = bench(
        random_problem(case.removesuffix("-joint"), seed), samples, repeats=2, steps=steps,
        joint=case.endswith("-joint"), precision=native(device()),
    )  # fmt: skip
    print(f"{case}, {steps} steps of {samples} pairs, {timing.precision}\n{timing}\n")

# %% [markdown]
# In small there is nothing to gain: the task network is as small as the rest, and the fast loop also answers at the end,
# which the naive one does not. Measurements at the published sizes go here, with the GPU's name; *fast* is the compiled
# loop if it was measured. No GPU was available for this edition, so the cells are empty until someone measures them.

# %% tags=["hide-input"]
measured = stored.FOLDER / "bench.json"
found = {(m["case"], m["device"]): m for m in json.loads(measured.read_text())} if measured.exists() else {}
devices = sorted({name for _, name in found}) or ["no GPU yet"]
columns = ["s an image, eager", "compiled", "naive / fast", "matrix product / fast", "TF32", "GiB", "cosine"]
bench_rows = []
for case in ("dit-256", "dit-256-joint", "sd-512"):
    for name in devices:
        m = found.get((case, name))
        cells = [""] * len(columns)
        if m:
            fast, memory = (m["compiled"], m["compiled_memory"]) if m["compiled"] else (m["eager"], m["memory"])
            cells = [f"{m['eager']:.2f}", f"{m['compiled']:.2f}" if m["compiled"] else "", f"{m['naive'] / fast:.1f}"]
            cells += [f"{m['matmul'] / fast:.2f}", m["tf32"], f"{memory:.1f}", f"{m['cosine']:.5f}"]
        bench_rows.append([case, name, *cells])
pd.DataFrame(bench_rows, columns=["case", "device", *columns])

# %% [markdown]
# ## What a table costs
#
# This is arithmetic, not measurement. An image of the paper's takes 5 steps of 180 evaluations, forward and back to the
# condition, and further back to φ where φ moves. What one evaluation costs can be counted without a GPU, on tensors that
# have a shape and no content:

# %% tags=["hide-input"]
cost = {(name, joint): operations(name, joint) for name in ("dit-256", "sd-512") for joint in (False, True)}
for (name, joint), count in cost.items():
    told = "to the condition and to φ" if joint else "to the condition"
    print(f"{name}: {count / 1e12:.2f} Tflop for an evaluation and the way back {told}")

# %% [markdown]
# (DiT's "118.6 Gflops" in its paper are multiply-adds, so twice as many operations.) Now the tables. TENT and CoTTA need no
# diffusion model, and the dense tasks' model is one that you train (below), so they are not counted here.


# %% tags=["hide-input"]
def evaluations(preset):
    """Of the diffusion model, and what they cost; None where that is not known."""
    if preset.method == "diffusion-tta" and preset.diffusion is None:
        model = "sd-512" if preset.problem.startswith("open-vocabulary") else "dit-256"
        count = preset.images * preset.settings["steps"] * preset.settings["samples"]
        return count, count * cost[model, bool(preset.settings.get("adapt_diffusion"))]
    return None


bill = {}
for preset in every.values():
    if (one := evaluations(preset)) is not None:
        table = preset.name.split("/")[0]
        bill[table] = bill.get(table, 0) + np.array([1, preset.images, *one], dtype=float)  # beyond 2⁶³
lines = []
for table, (cells, count, evaluated, flops) in bill.items():
    hours = flops / rate / 3600
    lines.append(
        {
            "table": table, "cells": int(cells), "images": int(count), "10⁶ evaluations": round(evaluated / 1e6, 1),
            "Eflop": round(flops / 1e18, 1), "GPU hours": round(hours, 1), "price": round(hours * price),
        }
    )  # fmt: skip
print(f"arithmetic at {rate / 1e12:.0f} Tflop a second and {price:g} an hour")
pd.DataFrame(lines)

# %% [markdown]
# The rate is an assumption, and yours to change: put in what `dtta bench` measured on your GPU: its matrix products'
# rate times $\text{matrix product} / \text{fast}$. The paper reports 55 seconds for an image on an A100, in float32.
# Memory is measured, not computed: the table above has a column for it.
#
# ## Whose numbers
#
# The paper's Table 1, before and after, and ours beside them. Ours are filled in from summaries, and a cell that nobody has
# run is empty. With `-p results=FOLDER` the page shows yours.

# %% tags=["hide-input"]
ours = summary.by_preset(Path(results) if results else stored.FOLDER / "full")


def told(name):
    """Our number for a preset and the images it is from, if somebody has run it."""
    if name not in ours:
        return ""
    gain = list(ours[name].gains.values())[-1]
    return f"{gain['after']:.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}] of {gain['images']} images"


def beside(table):
    """A table's cells of Diffusion-TTA: without, the paper's, ours."""
    cells = [p for name, p in every.items() if name.startswith(table + "/") and p.method == "diffusion-tta"]
    return pd.DataFrame(
        {
            "cell": p.name.removeprefix(table + "/"),
            "without": "" if p.before is None else f"{p.before:.1f}",
            "paper": f"{p.paper:.1f}",
            "ours (gain's interval)": told(p.name),
        }
        for p in cells
    )


beside("table1")

# %% [markdown]
# Table 2, the streams, and Table 3, CLIP under Stable Diffusion:

# %% tags=["hide-input"]
beside("table2")

# %% tags=["hide-input"]
beside("table3")

# %% [markdown]
# The one independent measurement of Diffusion-TTA is in DUSA's paper {cite:p}`li2024dusa`: streams of ImageNet-C at
# severity 5, all 50 000 images, batches of 64 and *six* evaluations an image in place of 900.

# %% tags=["hide-input"]
dusa = pd.DataFrame(published("DUSA table 1")).T
dusa.iloc[:, [0, 9, 13, 7, 11, 15]].map("{:.1f}".format)

# %% tags=["hide-input"]
paper = {name: every[f"table2/convnext-large/{name}"] for name in ("gauss", "fog", "pixelate", "snow", "contrast")}
columns = dict(zip(paper, ("gaussian noise", "fog", "pixelate", "snow", "contrast"), strict=True))
table = published("DUSA table 1")

fig, ax = plt.subplots(figsize=(7, 3.2))
for k, name in enumerate(paper):
    own, other = paper[name], columns[name]
    pairs = [(own.before, own.paper), (table["ConvNeXt-L, none"][other], table["ConvNeXt-L, Diffusion-TTA"][other])]
    for side, colour, both in zip((-0.15, 0.15), (figures.BLUE, figures.ORANGE), pairs, strict=True):
        ax.plot([k + side] * 2, both, color=colour, lw=2, zorder=1)
        ax.scatter([k + side] * 2, both, color=["white", colour], edgecolor=colour, zorder=2)
for colour, name in ((figures.BLUE, "the paper"), (figures.ORANGE, "DUSA's measurement")):
    ax.plot([], [], "o-", color=colour, label=name)
ax.set(xticks=range(5), xticklabels=columns.values(), ylabel="accuracy in %")
ax.legend(loc="upper center", bbox_to_anchor=(0.5, 1.15), ncols=2, frameon=False)
figures.show(
    fig,
    alt="Accuracy of ConvNeXt-Large without and with Diffusion-TTA under five corruptions, as an open and a full dot. In the "
    "paper the gains are from 16 to 33 points, in DUSA's measurement from 2 to 23, from other starting points.",
)

# %% [markdown]
# The two start from different accuracies, because they use different checkpoints and crops of the same architecture, and
# their budgets differ by a factor of 150. They agree in this: fog and pixelate gain much.
#
# (preset-differences)=
#
# ## What differs
#
# This table lists everything that a preset does otherwise than the paper or its released code, or that neither of them
# states. `dtta evaluate --preset differences` prints it too.

# %% tags=["hide-input"]
pd.set_option("display.max_colwidth", None)
pd.DataFrame(table_of_differences())

# %% [markdown]
# ## How sure is one number?
#
# The paper takes three images of each class for most data sets. An accuracy $p$ over $n$ images has the standard error
# $\sqrt{p (1 - p) / n}$.

# %% tags=["hide-input"]
cells = {"ImageNet": (77.2, 3000), "ImageNet-A": (25.8, 7500), "ImageNet-R": (49.7, 600), "streams": (54.9, 1000)}
cells |= {"Aircraft": (33.4, 500), "Pets": (92.3, 185)}
for name, (p, n) in cells.items():
    print(f"{name:11} {n:5} images: ± {100 * np.sqrt(p / 100 * (1 - p / 100) / n):.1f} points")

# %% [markdown]
# A *gain* on the same images is surer than that, since most images answer alike before and after; this is why all
# tables here have paired intervals. The paper states none, and several of its gains under CLIP are one to five images.
#
# ## Why the dense rows cannot match
#
# For segmentation and depth, nobody can meet the paper's numbers exactly, and the presets say what they had to choose:
#
# * *The diffusion models.* The authors trained two latent diffusion models from scratch, on ADE20K and NYUv2, and released
#   neither. Size, autoencoder, resolution, steps and rates are not stated. Here you train one in the paper's form, the
#   map beside the noisy latent as channels, with `dtta train`, or take a public ControlNet, which is another model and
#   another condition.
# * *The task networks.* The SegFormer came from one library's checkpoint and is named by its authors in a reply, not in
#   the paper; a reader who tried public weights did not reach 66.1, nor 92.4 with DenseDepth.
# * *The numbers.* "Mean pixel accuracy" in the paper is a mean over classes by its authors' word. The settings of SSIM, the
#   crop and the scale of depth are not stated.
# * *The shifts.* No severity is stated; so small a loss under corruption points to the mildest. Frost needs photographs
#   that are not part of ImageNet-C.
# * *The adaptation.* Steps, pairs and, for depth, the rate are not stated.
#
# So a number that comes out equal would prove nothing, and one that does not, little. What can be compared is the gain,
# with its interval, on your own networks.

# %% tags=["hide-input"]
for preset in (every["table4/segformer/fog"], every["table4/densedepth/fog"]):
    print(f"{preset.name}: paper {preset.before} -> {preset.paper}")
print("chosen here:", *(f"{difference.what}: {difference.ours}" for difference in preset.differences), sep="\n  ")
beside("table4")

# %% [markdown]
# ## Your own network, images and condition
#
# The first thing to try is the method on your network and your pictures. `dtta.problem` takes a network (a torch module, a
# name of timm, or a folder that timm or transformers wrote), a diffusion model (a folder that diffusers wrote) and a folder
# of pictures. It infers the preprocessing, the task and the condition, and refuses what does not fit.
#
# Here the digits of page [03](03_classification) take the place of your data, under Gaussian noise: PNG files, a folder for
# each class. The diffusion model is written as diffusers writes one. Only the network is given as a torch module.

# %%
digits = dtta.load("digits")
own = Path(folder.name)
for index in range(pictures):
    image, label = digits.image(index, "gaussian_noise", 3, seed=seed)
    file = own / "photos" / digits.classes[label] / f"{index:03}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    to_pil_image(image[0]).save(file)

unet = digits.diffusion.network
embeddings = unet.class_embedding.embedding_table  # as diffusers has it, without the adapter's wrapper
unet.class_embedding = embeddings
unet.save_pretrained(own / "my-unet" / "unet")
scheduler().save_pretrained(own / "my-unet" / "scheduler")

problem = dtta.problem(
    digits.model,
    own / "my-unet",
    own / "photos",
    classes=digits.classes,
    validation=0,
)
print(problem.inferred)

# %% [markdown]
# The labels come from the folders' names. Because there are labels, the gain can be measured. The settings are those that
# page 03 chose on validation images of the same digits. With your own models, leave `validation` at its default of a fifth,
# and choose settings on that split. **Predict, then run:** page 03 reports the gain under this noise. Do files, folders and
# the inferred view preserve it?

# %%
settings = digits.settings["diffusion-tta"]
rows = {
    method: evaluate(
        Run(method, "own", settings=given, seed=seed), [("clean", 1)], range(problem.size("test")),
        progress=False, problem=problem,
    )
    for method, given in {"none": {}, "diffusion-tta": settings}.items()
}  # fmt: skip
gain = paired_gain(rows["none"], rows["diffusion-tta"])
print(f"{problem.size('test')} noisy pictures: {gain['before']:.1f}% -> {gain['after']:.1f}%", end=", ")
print(f"gain {gain['gain']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]")

# %% [markdown]
# A problem of your own is a problem like any other: `problem.image(0, shift="fog")` adds a common corruption, and every
# method, `dtta.build` and `evaluate` take it.
#
# The condition can be your own too: a module from the network's output to what the diffusion model takes, with gradients
# that flow back. This one mixes only the two most probable classes:


# %%
class TopTwo(torch.nn.Module):
    """Mix the embeddings of the two most probable classes."""

    def forward(self, logits):
        top = logits.topk(2, dim=1)
        weights = top.values.softmax(1)[..., None]  # (N, 2, 1)
        return (weights * problem.diffusion.class_embeddings[top.indices]).sum(1)  # (N, D)


two = dtta.problem(digits.model, problem.diffusion, own / "photos", condition=TopTwo(), validation=0)
image, label = two.image(0)
for name, used in {"all classes": problem, "the two most probable": two}.items():
    tta = dtta.build(used, "diffusion-tta", **settings)
    belief = tta(image, torch.Generator().manual_seed(seed)).softmax(1)[0]
    print(f"{name:22} probability of the true class {belief[label]:.2f}")

for wrong in (dict(classes=["cat", "dog"]), dict(images=own / "pictures")):
    try:
        dtta.problem(digits.model, own / "my-unet", **wrong)
    except ValueError as error:
        print("refused:", str(error).replace(folder.name, "..."))

# %% [markdown]
# In the shell, the same pieces are options. The rows of such a run are shared between processes and resumed like all others;
# if the pictures change, the run refuses to mix old rows with new ones.
#
# ```bash
# dtta adapt photos/ --network ./net --diffusion ./my-unet --classes classes.txt
# dtta evaluate --images photos/ --network ./net --diffusion ./my-unet --classes classes.txt --out rows
# ```
#
# The order of the classes must be the same in the network and in the diffusion model; this cannot be checked from their
# configurations. Check first whether the diffusion model is sensitive to the condition, as page [02](02_conditions) does.
#

# %% [markdown]
# ```{exercise}
# :label: a-fair-bill
#
# You have one GPU for a weekend, 48 hours, and want the row of the paper's Table 1 that is most likely to show a gain of
# at least three points surely. Which do you run, and on how many images? Use `evaluations`, the paper's gains, and an
# error of a *paired* gain of about $\sqrt{d / n}$, where $d$ is the share of images whose answer changes. Take $d$ as
# twice the gain.
# ```
#
# ```{solution} a-fair-bill
# :class: dropdown
#
# A gain $g$ is two standard errors from zero if $g \ge 2 \sqrt{2 g / n}$, so $n \ge 8 / g$: for $g = 0.077$ (ResNet18 on
# ImageNet) 104 images, for $g = 0.031$ (ConvNeXt-Tiny on ImageNet-A) 258. To be sure of *at least three points*, the gain
# must be two errors above 0.03: $n \ge 8 g / (g - 0.03)^2$, 279 images for ResNet18 on ImageNet; for 0.031 it is hopeless.
# At 300 Tflop a second an image is 900 evaluations of 0.71 Tflop, two seconds: 279 images are ten minutes, and the whole
# row's 3000 take less than two hours. Few images, well paired, say more than many numbers without an error.
# ```
#
# ## Take-aways
#
# * A cell of the paper has a name, and one command runs it, on one GPU or on many, and goes on after any stop.
# * Images are drawn, not dealt. Streams are shared whole, because their images follow from one another.
# * float16 loses small gradients. A power of two brings them back, and costs no digit.
# * Count a table before you pay for it: operations can be counted without a GPU.
# * `dtta.problem` makes a problem from your network, a diffusion model and a folder of pictures.
# * An empty cell is a fact too. Nothing here was estimated and then called a measurement.
#
# ## References
#
# Diffusion-TTA {cite:p}`prabhudesai2023diffusion`, DUSA {cite:p}`li2024dusa`, DiT {cite:p}`peebles2023dit`, Stable
# Diffusion {cite:p}`rombach2022ldm`, ImageNet-C {cite:p}`hendrycks2019benchmarking`.

# %% tags=["remove-cell"]
folder.cleanup()

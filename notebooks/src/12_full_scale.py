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
# **The idea.** The code is the same for models of any size, so one command is meant to run a cell of the paper's
# tables; it was tested on small networks only. This page says what a table costs and what can fail.

# %% tags=["parameters", "hide-input"]
# "mini": networks small enough for a CPU; "full": of the published sizes
scale = "mini"
seed = 0
images = 6  # of the run that is stopped and resumed
rate = 300e12  # an assumption: sustained operations per second of a GPU
price = 3.0  # another one: dollars per hour of that GPU
cases = None  # what is timed, see dtta bench --case; None: the scale's
steps = None  # of adaptation, when it is timed; None: the scale's
samples = None  # pairs of each step, likewise
results = None  # folder of your own summaries, as --out leaves them

# %% tags=["hide-input"]
import json
import logging
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import dtta
from dtta.core.adapter import gradients_only_for
from dtta.core.parameters import select
from dtta.core.precision import native, prepare
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA
from dtta.evaluation import summary
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.experiments import stored
from dtta.experiments.paper import presets, published
from dtta.pages import Setting, figures, report
from dtta.problems.device import device
from dtta.profiling.loops import bench
from dtta.profiling.networks import operations, random_problem

figures.style()
setting = Setting(scale)
if not setting.mini:
    print("full scale: speed is measured at the published sizes")
# It would report the line that we cut off below.
logging.getLogger("dtta.evaluation.journal").setLevel("ERROR")
every = presets()

# %% tags=["hide-input"]
corruptions = {
    "gauss": "gaussian noise",
    "fog": "fog",
    "pixelate": "pixelate",
    "snow": "snow",
    "contrast": "contrast",
}
dusa = published("DUSA table 1")
fig, ax = plt.subplots(figsize=(5.6, 3.4))
for k, (name, column) in enumerate(corruptions.items()):
    cell = every[f"table2/convnext-large/{name}"]
    reported = (cell.before, cell.paper)
    measured = (
        dusa["ConvNeXt-L, none"][column],
        dusa["ConvNeXt-L, Diffusion-TTA"][column],
    )
    for side, colour, both in (
        (-0.15, figures.BLUE, reported),
        (0.15, figures.ORANGE, measured),
    ):
        ax.plot([k + side] * 2, both, color=colour, lw=2, zorder=1)
        faces = ["white", colour]
        ax.scatter(
            [k + side] * 2, both, color=faces, edgecolor=colour, zorder=2
        )
for name, style in (
    ("the paper", dict(color=figures.BLUE, lw=2)),
    ("DUSA's measurement", dict(color=figures.ORANGE, lw=2)),
    ("before", dict(color=figures.GREY, marker="o", mfc="white", ls="none")),
    ("after", dict(color=figures.GREY, marker="o", ls="none")),
):
    ax.plot([], [], label=name, **style)
titles = [name.replace("gaussian", "Gaussian") for name in corruptions.values()]
ax.set_xticks(range(5), titles)
ax.set(xlabel="corruption, severity 5", ylabel="accuracy in %")
fig.legend(loc="outside upper center", ncols=2)
figures.show(
    fig,
    alt="Accuracy of ConvNeXt-Large without and with Diffusion-TTA under five "
    "corruptions, as an open and a filled dot. In the paper the gains are from "
    "16 to 33 points, in DUSA's measurement from 2 to 23.",
    caption="Online adaptation of ConvNeXt-Large on ImageNet-C, as the paper "
    "reports it (blue, left of each pair) and as the authors of DUSA, a "
    "competing method, measured it (orange, right). All ten gains are positive; "
    "their sizes cannot be compared. The axis does not start at zero.",
)

# %% [markdown]
# **The result.** It is not ours: this project has not run Diffusion-TTA at full scale yet. The authors of DUSA
# {cite:p}`li2024dusa` ran it on 50,000 images, in batches of 64, with six evaluations per image, where the paper uses
# 900. Checkpoints, crops and starting accuracies differ too, so compare only signs. Neither gives an interval.
#
# **You need** pages [02](02_conditions), [03](03_classification) and [09](09_online). **Time:** 10 minutes to read, a
# minute to run on two CPU cores.
#
# ## A cell by its name
#
# Each cell of the paper's tables that can be run is a *preset*: problem, network, settings and images.
#
# ```bash
# dtta doctor imagenet-a        # what this machine lacks, seconds per image
# dtta evaluate --preset table1/convnext-tiny/imagenet-a --out rows
# dtta report rows              # a table of everything in the folder
# ```

# %%
preset = every["table1/convnext-tiny/imagenet-a"]
print(len(every), "presets;", preset.name)
print(f"{preset.images} images; the paper: {preset.before} -> {preset.paper}")
for name, value in preset.settings.items():
    print(f"  {name}: {value}")

# %% [markdown]
# [The evidence](../book/evidence/presets) lists differences from the paper. For segmentation and depth the authors'
# diffusion models were not released: compare only signs of gains there.
#
# ## What a table costs
#
# An image takes 5 steps of 180 evaluations, except in one cell of Table 5 (one pair a step). Each is a forward pass and
# a backward pass to the condition; in Tables 1, 2, 8 and some cells of 5 and 6 also to φ. Together these are 0.71 Tflop
# ($10^{12}$ operations). Table 1 has 60,300 images. Assume 300 Tflop a second, close to the peak of an A100 in 16 bits:
# so the hours are close to a lower bound. **Predict, then run:** how many GPU hours does Table 1 take?

# %% tags=["hide-input"]
cost = {
    (name, joint): operations(name, joint)
    for name in ("dit-256", "sd-512")
    for joint in (False, True)
}
totals, used = {}, {}
for preset in every.values():
    if preset.method != "diffusion-tta" or preset.diffusion is not None:
        continue  # no diffusion model, or one of your own: not counted
    text = preset.problem.startswith("open-vocabulary")
    joint = bool(preset.settings.get("adapt_diffusion"))
    pairs = preset.settings["steps"] * preset.settings["samples"]
    evaluations = preset.images * pairs
    kind = ("sd-512" if text else "dit-256", joint)
    flops = evaluations * cost[kind]
    table = preset.name.split("/")[0].replace("table", "Table ")
    used.setdefault(kind, set()).add(table.removeprefix("Table "))
    one = np.array([1, preset.images, evaluations, flops], dtype=float)
    totals[table] = totals.get(table, 0) + one
lines = []
for table, (_, count, evaluations, flops) in totals.items():
    hours = flops / rate / 3600
    line = {"Table": int(table.removeprefix("Table ")), "images": int(count)}
    line |= {"million evaluations": float(evaluations / 1e6)}
    lines.append(line | {"GPU hours": hours, "dollars": round(hours * price)})
print("operations of one evaluation:")
of = {"dit-256": "DiT, 256 pixels", "sd-512": "Stable Diffusion, 512 pixels"}
for (name, joint), tables in used.items():
    kind = f"{of[name]}, φ {'adapted' if joint else 'fixed'}"
    where = f"(Table{'s'[: len(tables) - 1]} {', '.join(sorted(tables))})"
    print(f"{kind}: {cost[name, joint] / 1e12:.2f} Tflop {where}")
print(
    f"assumed: {rate / 1e12:.0f} Tflop a second and {price:g} dollars an hour"
)
counted = int(sum(total[0] for total in totals.values()))
report.table(
    lines,
    tolerance=0.5,
    caption="Counted operations at an assumed rate, not a measurement: "
    f"{counted} of the {len(every)} presets, those of Diffusion-TTA with a "
    "published diffusion model",
    digits=1,
)

# %% [markdown]
# At this rate, Table 1 takes about 36 GPU hours, or two seconds an image. The paper reports 55 seconds an image on an
# A100 in float32. For all images that would be about 920 hours. For your GPU, set `rate` to the evaluations a second
# that `dtta bench` measures, times the operations of one (for each kind above).
#
# ## Several GPUs
#
# ```bash
# accelerate launch --multi_gpu --num_processes 8 -m dtta evaluate \
#     --preset table1/convnext-tiny/imagenet-a --out rows
# ```
#
# Each process takes a fixed share of the images and writes a file; the first merges the files. An image's noise depends
# on the image only. If one GPU is slow, restart the run: the remaining images are divided again.
#
# *Online* adaptation cannot be shared: each image starts from the weights after the previous one. Each GPU takes whole
# streams: the five corruptions of a network in Table 2 occupy five.
#
# ## Resuming after a stop
#
# The result of each image is a line of a file, written before the next image starts; the first line is a header. Here
# we cut the file within a line:

# %%
folder = tempfile.TemporaryDirectory()
path = Path(folder.name, "rows.jsonl")
few = dict(dtta.load("digits").settings["diffusion-tta"], steps=1, samples=4)
run = Run("diffusion-tta", settings=few, seed=seed)
rows = evaluate(run, [("fog", 3)], range(images), path, progress=False)

lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
cut = "".join(lines[: images // 2]) + lines[images // 2][:40]
path.write_text(cut, encoding="utf-8")
again = evaluate(run, [("fog", 3)], range(images), path, progress=False)
print(f"{images} images, {cut.count(chr(10)) - 1} results after the stop")
print("the same scores:", [r.score for r in again] == [r.score for r in rows])

# %% [markdown]
# The cut line is computed again. An online stream starts again from its first image, because its weights are not saved.
#
# ## Memory
#
# With `micro_batch=None`, a step first evaluates all its $B$ pairs $(t, \epsilon)$ in one pass. If memory runs out, it
# tries half of them, and the run keeps what fits. **Predict, then run:** 48 pairs are requested and 13 fit. How many
# are in each attempt?

# %% tags=["hide-input"]
problem = random_problem("dit-toy", seed)
x, _ = problem.image(0, seed=seed)
loss, sizes = problem.diffusion.loss, []


def adapter(problem, **settings):
    """Diffusion-TTA on a small random network."""
    optimizer = torch.optim.SGD(select(problem.model), lr=5e-3)
    return DiffusionTTA(
        problem.model,
        problem.diffusion,
        problem.condition,
        optimizer,
        **settings,
    )


# %%
def loss_in_little_memory(z0, *rest):
    """Thirteen pairs fit."""
    sizes.append(len(z0))
    if len(z0) > 13:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return loss(z0, *rest)


tta = adapter(problem, steps=1, samples=48)
at_once = tta(x, torch.Generator().manual_seed(seed))
problem.diffusion.loss = loss_in_little_memory
in_parts = tta(x, torch.Generator().manual_seed(seed))
problem.diffusion.loss = loss
print("pairs in each attempt (the first two fail):", sizes)
print("the same output to 1e-4:", torch.allclose(at_once, in_parts, atol=1e-4))

# %% [markdown]
# ## Half precision
#
# The diffusion model can compute in 16 bits. *bfloat16* has float32's range and eight binary digits; *float16* has
# eleven, but values below about $3 \cdot 10^{-8}$ become zero. The gradient of a *mean* over many numbers can be that
# small. This is the cosine between the gradients of a small network in 16 bits and in float32, with the loss divided
# as in a mean over three million numbers (180 latents of Stable Diffusion) and over 64 times as many:


# %% tags=["hide-input"]
def at_condition(precision, count, power=0):
    """∂L/∂c of a mean over `count` numbers; going back, times 2**power."""
    problem, pairs = random_problem("dit-toy", seed), 24
    tta = adapter(problem, steps=1, samples=pairs)
    tta = prepare(tta, problem.diffusion, precision)
    z0 = problem.diffusion.encode(x)
    generator = torch.Generator().manual_seed(seed)
    T = problem.diffusion.timesteps
    t, noise = Sampling().draw(z0, pairs, T, generator)
    c = tta.condition(tta.model(x)).detach().requires_grad_()
    with gradients_only_for([], tta.model, tta.diffusion):
        z = z0.expand(pairs, -1, -1, -1)
        losses = tta.diffusion.loss(z, t[0], noise[0], c.expand(pairs, -1))
        mean = losses.sum() * (z0[0].numel() / count)
        (mean * 2.0**power).backward()
    return c.grad.flatten() / 2.0**power


latents = 64 * 64 * 4 * 180
lines = []
for count in (latents, 64 * latents):
    truth = at_condition("float32", count)
    for name, precision, power in (
        ("bfloat16", "bfloat16", 0),
        ("float16", "float16", 0),
        ("float16, scaled", "float16", 22),
    ):
        grad = at_condition(precision, count, power)
        cosine = torch.cosine_similarity(grad, truth, dim=0).item()
        lines.append(f"{count / 1e6:.0f} million, {name}: {cosine:.2f}")
report.line("\n".join(lines), tolerance=0.05)

# %% [markdown]
# On this small network, unscaled float16 keeps the direction at the realistic size and loses it at the larger one. To
# be safe, the loss is multiplied by a power of two, and the gradient divided by it in float32. Adapted weights,
# softmax, mixing and sums are always float32. GPUs older than an A100 have no bfloat16; `--precision auto` checks.
#
# ## How fast
#
# ```bash
# dtta bench --case dit-256 --case dit-256-joint --case sd-512 --out bench.json
# ```
#
# This times the 900 evaluations of an image on networks of the published sizes with random weights: by the released
# loop (*naive*) and by ours (*fast*), which runs the task network once per step. A matrix product with as many
# operations shows what the machine could reach. In the mini run a few, on small networks:

# %% tags=["nbval-ignore-output"]
# not compared: seconds differ between runs
timed = cases or setting(
    mini=["dit-toy"], full=["dit-256", "dit-256-joint", "sd-512"]
)
steps = steps or setting(mini=1, full=5)
samples = samples or setting(mini=12, full=180)
for case in timed:
    toy = random_problem(case.removesuffix("-joint"), seed)
    joint = case.endswith("-joint")
    timing = bench(
        toy, samples, 2, steps=steps, joint=joint, precision=native(device())
    )
    print(f"{case}, steps: {steps}, pairs in a step: {samples}\n{timing}\n")

# %% [markdown]
# `naive / eager` is the speed-up by our loop (not compiled), `matrix product / eager` its fraction of the matrix
# product's speed. At the published sizes the task network is a smaller part of the work.

# %% tags=["hide-input"]
file = stored.FOLDER / "bench.json"
timings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
for m in timings:
    fast = m["compiled"] or m["eager"]
    ratio = m["naive"] / fast
    print(f"{m['case']}, {m['device']}: {fast:.2f} s, naive / fast {ratio:.1f}")
if not timings:
    print("No speed at the published sizes has been measured on a GPU yet.")
ours = summary.by_preset(Path(results) if results else stored.FOLDER / "full")
for name, one in ours.items():
    gain = list(one.gains.values())[-1]
    print(
        f"{name}: paper {every[name].before} -> {every[name].paper}; ours "
        f"{gain['after']:.1f}, gain [{gain['low']:+.1f}, {gain['high']:+.1f}]"
    )
if not ours:
    print("No preset has been run on the published checkpoints yet.")

# %% [markdown]
# `python tools/pages run 12 -p results=FOLDER`, with the folder of `--out`, prints the gains of your presets next to
# the paper's numbers.
#
# ## Exercise
#
# ```{exercise}
# :label: a-fair-bill
#
# You have one GPU for 48 hours, and want a cell of Table 1 in which a gain above three points can be established. Which
# do you run, and on how many images? Take the standard error of a *paired* gain as $\sqrt{d / n}$, where $d$ is the
# share of images whose answer becomes right or wrong; assume that $d$ is twice the gain. The paper's gains are 7.7
# points for ResNet18 on ImageNet and 3.1 for ConvNeXt-Tiny on ImageNet-A.
# ```
#
# ```{solution} a-fair-bill
# :class: dropdown
#
# ResNet18. To be *above three points*, a gain $g$ must be two standard errors above 0.03: $n \ge 8 g / (g - 0.03)^2$,
# 279 images if the gain is 0.077. For 0.031 it takes 248,000, and there are 7500. With 279 images half of such runs
# miss the threshold by chance; with twice as many, about 20%. These 558 images take about 20 minutes at the assumed
# rate, and over eight hours at the paper's 55 seconds: both are within 48.
# ```
#
# ## Take-aways
#
# * One command is meant to run a named cell of the paper, on one GPU or several, and resumes after a stop.
# * Count a table before you pay for it: operations can be counted without a GPU.
# * float16 can lose small gradients; scaling by a power of two keeps them.
#
# ## References
#
# Diffusion-TTA {cite:p}`prabhudesai2023diffusion`, DUSA {cite:p}`li2024dusa`, ImageNet-C
# {cite:p}`hendrycks2019benchmarking`.

# %% tags=["remove-cell"]
folder.cleanup()

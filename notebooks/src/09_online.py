# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # Streams
#
# So far every image was adapted to alone, and afterwards the network was as before. *Online* adaptation keeps what it
# has learnt for the next image. If all images of a stream suffer alike, they can teach together what none of them could
# teach alone. If not, a network can be led astray, and it may forget what it knew.
#
# **You will learn** what a stream adds, with φ frozen and with φ moving along, what happens when the shift changes or
# the classes come sorted, how to measure forgetting, and what ways back there are.
#
# **You need** page [03](03_classification). **Time:** 25 minutes to read, about a minute to run on two CPU cores.

# %% tags=["parameters", "hide-input"]
# "mini": handwritten digits, on a CPU; "full": ImageNet, on a GPU
scale = "mini"
seed = 0
length = 32  # images of the stream that is shown
# images at the start of three streams that are run again and compared with the
# stored results
live = 6

# At full scale alone:
network = (
    None  # another task network: its name, or a folder in the hub's layout
)
vit = "vit-b-32"  # what stands for the second family, likewise; None: nothing
diffusion = None  # another diffusion model, likewise
images = 24  # test images under each shift
shifts = None  # a list of some; None: all
# of a setting, such as {"samples": 48}: what a run says above it is cut down to
# it
most = {}
# folder for the results that the page makes; None: results in $DTTA_CACHE or
# ~/.cache/dtta
results = None

# %% tags=["hide-input"]
import copy
from dataclasses import replace
from functools import partial

import matplotlib.pyplot as plt
import torch

from dtta.evaluation.evaluate import image_generator
from dtta.evaluation.run import AFTER
from dtta.evaluation.statistics import bootstrap_interval
from dtta.experiments import stored
from dtta.experiments.paper import CORRUPTIONS, TABLE_2, published
from dtta.experiments.transfer import PLAIN, open_page
from dtta.methods.registry import build
from dtta.pages import Setting, figures, report

figures.style()
setting = Setting(scale)
problem, shifts, folder = open_page(
    scale,
    ["online"],
    "digits",
    "imagenet",
    images,
    seed,
    shifts=shifts,
    network=network,
    networks={"vit": vit},
    diffusion=diffusion,
    limits=most,
    results=results,
    settings=PLAIN,
)
runs = stored.runs("online", folder)
gain_of = partial(stored.gain, "online", folder=folder)
for run in ("one at a time", "online"):
    print(f"{run}: rate {runs[run].settings['lr']}")
with_phi = runs["online, and φ"].settings
rate_of_phi = with_phi.get("lr_diffusion", runs["online"].settings["lr"])
print(f"online, and φ: rate of φ {rate_of_phi}")

# %% [markdown]
# ## One stream, by hand
#
# Online adaptation is Algorithm 1 without its last line, the reset. The weights that one image leaves are where the
# next one starts, and so is the optimizer's momentum.
#
# **Predict, then run.** The rate that was chosen for streams on validation images is not the one chosen for single
# images. Is it larger or smaller?

# %%
settings = runs["online"].settings
weights = copy.deepcopy(problem.model)
optimizer = torch.optim.SGD(
    weights.parameters(), lr=settings["lr"], momentum=0.9
)
l, T = problem.condition.embeddings.detach(), problem.diffusion.timesteps
B = min(
    settings["samples"], settings.get("micro_batch", 180)
)  # what goes through the diffusion model at once
low, high = settings["t_min"], settings["t_max"]


def by_hand(x, generator):
    """Five steps on one image; the weights stay where they are then."""
    z0 = problem.diffusion.encode(x)
    for _ in range(settings["steps"]):
        c = weights(x).softmax(1) @ l
        u = (torch.arange(B) + torch.rand(B, generator=generator)) / B
        t = ((low + u * (high - low)) * T).long().to(z0.device)
        noise = torch.randn(B, *z0.shape[1:], generator=generator).to(z0.device)
        loss = problem.diffusion.loss(
            z0.expand(B, -1, -1, -1), t, noise, c.expand(B, -1)
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return weights(x)


stream = build(problem, "diffusion-tta", **settings | dict(samples=B))
alike = []
for k in range(3):
    x, _ = problem.image(k, "contrast", 3, seed=seed)
    alike.append(
        torch.allclose(
            by_hand(x, image_generator(seed, k)),
            stream(x, image_generator(seed, k)),
            atol=1e-3,
        )
    )
stream.reset()
problem.diffusion.zero_grad()
print("three images of a stream, the same answers as by hand:", all(alike))

# %% [markdown]
# The chosen rate is printed at the top of the page. Below, one stream of low contrast: how far the weights have gone
# from where they started, and how many answers were right so far, beside the network as it was and adaptation to each
# image alone.

# %% tags=["hide-input"]
frozen, single = (
    copy.deepcopy(problem.model),
    replace(problem, model=copy.deepcopy(problem.model)),
)
alone = build(single, "diffusion-tta", **runs["one at a time"].settings)
size = torch.stack([p.norm() for p in stream.start]).norm()
right, moved = {"network": [], "one at a time": [], "online": []}, []
for k in range(length):
    x, label = problem.image(k, "contrast", 3, seed=seed)
    answers = {
        "one at a time": alone(x, image_generator(seed, k)),
        "online": stream(x, image_generator(seed, k)),
    }
    with torch.no_grad():
        answers["network"] = frozen(x)
        ways = [
            (now - then).norm()
            for now, then in zip(stream.adapted, stream.start, strict=True)
        ]
    moved.append((torch.stack(ways).norm() / size).item())
    for name, answer in answers.items():
        right[name].append(int(answer.argmax()) == int(label))
stream.reset()

fig, (left, middle) = plt.subplots(1, 2, figsize=(9, 3.2))
left.plot(
    range(1, length + 1), [100 * m for m in moved], color=figures.VERMILION
)
left.set(
    xlabel="image of the stream", ylabel="way gone, % of the weights' norm"
)
for (name, found), colour in zip(
    right.items(), (figures.GREY, figures.ORANGE, figures.BLUE), strict=True
):
    middle.plot(
        range(1, length + 1),
        torch.tensor(found).cumsum(0),
        color=colour,
        label=name,
    )
middle.set(xlabel="image of the stream", ylabel="right answers so far")
middle.legend()
figures.show(
    fig,
    alt="Two panels along a stream of images of low contrast. Left: the way "
    "that the weights have gone from their start. Right: the number of right "
    "answers so far, of the network, of adaptation to each image alone, and "
    "online.",
)
report.line(
    f"after {length} images the weights have gone {100 * moved[-1]:.2f}% of "
    "their norm",
    tolerance=0.03,
)

# %% [markdown]
# The rate is a twentieth of that for single images: what one image may do to the weights, thirty in a row may not.
#
# ## A stream of one shift
#
# Sixteen test images of each shift come one after the other; with the next shift the network starts from its original
# weights. Each of three seeds has 160 digits of its own for the thirteen streams, so that some digits stand under two
# shifts. All rates were chosen on validation streams of the same length, but for those of single images, which come
# from the tables of pages 03 and 08, and that of *online*, which comes from page 03's, from streams of 24
# (`dtta/experiments/online.toml` says which; `dtta evaluate --table online` makes the stored results again). TENT and
# CoTTA get eight images at a time, since they stand on the statistics of a batch ([page 03](03_classification)).

# %% tags=["hide-input"]
FAMILIES = {"ResNet": ""} | ({"ViT": ", vit"} if "online, vit" in runs else {})
WAYS = (
    "one at a time",
    "one at a time, the stream's rate",
    "online",
    "online, and φ",
    "tent",
    "cotta",
)
by_family = {
    family: {
        way: gain_of(way + end, shifts) for way in WAYS if way + end in runs
    }
    for family, end in FAMILIES.items()
}
if "ttt-mae" in runs:
    by_family["masked autoencoder"] = {"TTT-MAE": gain_of("ttt-mae", shifts)}
both = {
    f"{family}: {way}": g
    for family, found in by_family.items()
    for way, g in found.items()
}
figures.show(
    figures.forest(both, "Streams of sixteen images, mean of the shifts"),
    alt="Forest plot of gains with their intervals. For the ResNet all ways "
    "gain about the same, single images, streams, TENT and CoTTA alike. For "
    "the ViT adaptation of single images gains most, streams less, TENT and "
    "CoTTA nothing; TTT-MAE gains nothing in a stream.",
)

# %% tags=["hide-input"]
report.gains(
    both,
    tolerance=0.1,
    caption="Accuracy in %, gain in points, mean of the shifts",
)

# %% tags=["hide-input"]
pairs = {
    f"{family}: {second} against {first}": gain_of(
        second + end, shifts, against=first + end
    )
    for family, end in FAMILIES.items()
    for first, second in (
        ("one at a time", "online"),
        ("one at a time, the stream's rate", "online"),
        ("online", "online, and φ"),
        ("tent", "online"),
    )
    if {first + end, second + end} <= set(runs)
}
report.gains(
    pairs,
    tolerance=0.1,
    caption="On the same images, one way against another; accuracy in %",
)

# %% tags=["hide-input"]
if setting.mini:
    report.table(
        stored.selection_table("online"),
        tolerance=0.1,
        caption="What was tried on validation streams, and gains there in "
        "points; those of the ways back too (below)",
    )

# %% [markdown]
# **No stream is shown to teach more than its images do one by one.** At rates that suit each, the ResNet's streams gain
# what adaptation of its single images gains; the ViT's gain less, by an interval below zero. At the *same* rate, so
# that only the reset differs, the ResNet's difference is smaller still. The paper's online gains are several times its
# single-sample ones; its streams, as released, hold a thousand images. Ours are long enough to see that the weights
# move (above), and not to see what a thousand images would do.
#
# What TENT and CoTTA gain is batch norm's ([page 03](03_classification)): at the rates chosen they move next to no
# answer beyond it, and their lines are one and the same. The ViT has layer norm, and neither does anything for it.
#
# By shift, with the network that moved:

# %% tags=["hide-input"]
by_shift = {
    f"{family}, {way}": {
        s.replace("_", " "): gain_of(way + end, [s])["gain"]
        for s in ("clean", *shifts)
    }
    for family, end in FAMILIES.items()
    for way in WAYS
    if way + end in runs
}
figures.show(
    figures.heatmap(by_shift, limit=25),
    alt="A table of coloured numbers: the gain in points of each way and "
    "family, on clean images and under each shift.",
)

# %% [markdown]
# For the ResNet it is as on page 03: noise, brightness, fog and coarse pixels gain. The ViT, weaker to begin with,
# gains almost everywhere. Under shear and rotation the ResNet loses much when adapted to one image at a time at its
# usual rate, and little in a stream; but it loses as little one at a time at the stream's rate. So it is the small
# rate, and not the stream, that spares it.
#
# ## Does a stream learn as it goes?
#
# If it does, online adaptation pulls away from adaptation of single images as the stream goes on. Both see the same
# images, so that the difference is paired, place by place; the streams in four parts:

# %% tags=["hide-input"]
PARTS = 4


def by_place(run, against):
    """What one run has more than another in each part of the streams, in
    points, with its standard error over streams.
    """
    before, after = stored.align(
        stored.rows("online", against, folder),
        stored.rows("online", run, folder),
        set(shifts),
    )
    streams = {}
    for a, b in zip(before, after, strict=True):
        streams.setdefault((a.shift, a.seed), []).append(
            100 * (b.score - a.score)
        )
    table = torch.tensor(list(streams.values()))  # streams, places
    parts = table.view(len(table), PARTS, -1).mean(2)
    return parts.mean(0), parts.std(0) / len(parts) ** 0.5


fig, axes = plt.subplots(
    1, len(FAMILIES), figsize=(9, 3.2), sharey=True, squeeze=False
)
for ax, (family, end) in zip(axes[0], FAMILIES.items(), strict=True):
    for aside, (way, colour) in enumerate(
        (("online", figures.BLUE), ("online, and φ", figures.GREEN))
    ):
        if way + end in runs:
            mean, error = by_place(way + end, "one at a time" + end)
            places = [
                part + 0.12 * (aside - 0.5) for part in range(1, PARTS + 1)
            ]
            ax.errorbar(
                places,
                mean,
                1.96 * error,
                fmt="o-",
                color=colour,
                label=way,
                capsize=2,
            )
    ax.axhline(0, color=figures.BLACK, lw=1)
    ax.set(
        title=family, xlabel="quarter of the stream", xticks=range(1, PARTS + 1)
    )
axes[0, 0].set_ylabel("points over one at a time")
fig.legend(
    *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2
)
figures.show(
    fig,
    alt="For the ResNet and the ViT how much online adaptation, with and "
    "without the diffusion model, is ahead of adaptation one image at a time, "
    "in each quarter of the streams. For the ViT it starts behind and catches "
    "up by the last quarter; for the ResNet no trend is seen.",
)

# %% [markdown]
# For the ViT the lines rise: in the first quarter a stream is behind adaptation of single images, which takes larger
# steps, and by the last quarter it has caught up. That is what learning along a stream looks like, over sixteen images;
# whether it would go on to overtake, these streams are too short to say. For the ResNet no trend is seen.
#
# ## Streams that change, and streams that are sorted
#
# A camera does not tell when the fog begins. In the *changing* streams all shifts follow each other, clean images
# among them, in an order drawn anew for each seed, and nothing is put back in between. In the *sorted* ones all zeros
# of a shift come first, then all ones, and so on, as in the authors' released code.

# %% tags=["hide-input"]
LONG = ("online", "online, and φ", "tent", "cotta")
STREAMS = {"apart": "", "sorted by class": ", sorted", "changing": ", changing"}
by_stream = {
    f"{family}, {way}: {stream}": gain_of(way + end + of, shifts)
    for family, of in FAMILIES.items()
    for way in LONG
    for stream, end in STREAMS.items()
    if way + ", changing" + of in runs and way + end + of in runs
}
figures.show(
    figures.forest(by_stream, "Gain over no adaptation, mean of the shifts"),
    alt="Forest plot: gains of streams apart, sorted by class and changing. "
    "Online adaptation keeps most of its gain in all of them; TENT and CoTTA "
    "lose theirs where the classes are sorted.",
)

# %% tags=["hide-input"]
report.gains(
    by_stream, tolerance=0.1, caption="Accuracy in %, mean of the shifts"
)

# %% tags=["hide-input"]
report.gains(
    {
        f"{family}, {way}: {stream} against apart": gain_of(
            way + end + of, shifts, against=way + of
        )
        for family, of in FAMILIES.items()
        for way in LONG
        for stream, end in STREAMS.items()
        if end and way + end + of in runs
    }
    | {
        f"ResNet, {stream}: with φ against without": gain_of(
            "online, and φ" + end, shifts, against="online" + end
        )
        for stream, end in STREAMS.items()
        if "online, and φ" + end in runs
    },
    tolerance=0.1,
    caption="The same images in another order, and with φ moving too; "
    "accuracy in %",
)

# %% [markdown]
# **Sorted classes** cost online Diffusion-TTA nothing that could be shown: each image still gets its own feedback. They
# are poison for TENT and CoTTA, which normalise with the statistics of the batch: eight images in a row then hold about
# half of the classes, batch norm takes these for the average digit, and most or all of the gain is gone. The authors'
# released code sorts its streams by class, so a comparison with methods that stand on batch statistics had better not
# be made there.
#
# **Shifts that follow each other**, thirteen streams in one, cost the ResNet's online adaptation about half of its
# gain, by an interval below zero. What one shift has taught is in the way under the next. With φ moving too no cost is
# shown, and there φ is worth having, by an interval above zero. TENT and CoTTA do not notice, since at their rates
# nothing is carried along.
#
# ## What is forgotten
#
# After each stream sixteen clean images are answered with the weights as they are by then, without adapting. The
# network had nearly all of them right at the start.

# %% tags=["hide-input"]
after = [AFTER + shift for shift in ("clean", *shifts)]


def forgetting_images(run, against="none"):
    """What a run's streams did to clean images: before, after, the change with
    its interval, the worst stream.
    """
    before, found = stored.align(
        stored.rows("online", against, folder),
        stored.rows("online", run, folder),
        set(after),
    )
    changes, then, start = {}, {}, {}
    for a, b in zip(before, found, strict=True):
        stream = (a.shift, a.seed)
        changes.setdefault(stream, []).append(100 * (b.score - a.score))
        then.setdefault(stream, []).append(100 * b.score)
        start.setdefault(stream, []).append(100 * a.score)
    mean = {
        stream: sum(values) / len(values) for stream, values in changes.items()
    }
    # Streams are independent of each other; the images forgetting_images after
    # them are always the same. A stream that changes is
    # forgetting_images after each of its shifts.
    whole = [
        seed if runs[run].stream == "changing" else number
        for number, (_, seed) in enumerate(mean)
    ]
    low, high = bootstrap_interval(list(mean.values()), whole)
    least = min(then, key=lambda stream: sum(then[stream]))
    return {
        "before": torch.tensor(list(start.values())).mean().item(),
        "after": torch.tensor(list(then.values())).mean().item(),
        "change": sum(mean.values()) / len(mean),
        "from": low,
        "to": high,
        "streams": len(set(whole)),
        "worst": sum(then[least]) / len(then[least]),
        "after a stream of": least[0].removeprefix(AFTER).replace("_", " "),
    }


forgotten = {
    f"{family}, {way}: {stream}": forgetting_images(way + end + of, "none" + of)
    for family, of in FAMILIES.items()
    for way in LONG
    for stream, end in STREAMS.items()
    if way + end + of in runs
}
report.table(
    [{"": name} | found for name, found in forgotten.items()],
    tolerance=0.1,
    caption="Accuracy on sixteen clean images after a stream, in %; intervals "
    "over streams",
)

# %% [markdown]
# After streams of one shift next to nothing is forgotten: less than one clean image in a hundred, and the worst of 39
# streams leaves fourteen of sixteen. After *changing* streams it is another matter. There are only three of them, so
# the interval is rough, but one of the three broke: at its worst moment, the last column says after which shift, two
# thirds of the clean images were lost. The ViT, whose start is weaker on clean images, even gains on them.
#
# ## Ways back
#
# Two ways to keep a network from straying when nobody says that the shift has changed: to start afresh after every so
# many images (`reset_every`), or to go a little of the way back after each one (`restore_rate`). How many and how far was chosen on
# changing validation streams, at two rates: that of the streams above, and *fast*, twenty times as much, which suits
# single images.

# %% tags=["hide-input"]
BACK = {
    "online, changing": ("afresh", "some of the way back"),
    "fast, changing": ("fast, afresh", "fast, some of the way back"),
}
back = []
for plain, ways in BACK.items():
    for way in (plain, *ways):
        if way in runs:
            g, more = gain_of(way, shifts), gain_of(way, shifts, against=plain)
            kept = forgetting_images(way)
            settings = runs[way].settings
            back.append(
                {
                    "": way,
                    "rate": f"{settings['lr']:.0e}",
                    "period": settings.get("reset_every") or "–",
                    "pull": f"{settings['restore_rate']:.0e}"
                    if settings.get("restore_rate")
                    else "–",
                    "gain": g["gain"],
                    "from": g["low"],
                    "to": g["high"],
                    "over none of it": more["gain"],
                    "from ": more["low"],
                    "to ": more["high"],
                    "clean afterwards": kept["change"],
                    "worst": kept["worst"],
                    "images": g["images"],
                }
            )
report.table(
    back,
    tolerance=0.1,
    caption="Changing streams: points over no adaptation, over the same "
    "without a way back, and on clean images afterwards",
)

# %% [markdown]
# At the streams' own rate a pull of a tenth after each image wins back what the change of shifts had cost, by an
# interval above zero, and nothing clean is forgotten. At the fast rate, which suits single images, a stream without a
# way back is ruined: it loses 16 points under the shifts and 42 on clean images. The ways back that validation chose
# for it go nearly all the way: afresh after every other image, or six tenths of the way after each. With them it gains
# again, by intervals above zero, and nothing clean is lost. But little is left of a stream then. Both choices lie at an
# end of what was tried, and beyond them, with a period of one or a pull of one, stands adaptation of single images,
# which gains as much at this rate (first table).
#
# ## Beside the paper
#
# The paper's Table 2 has streams of ImageNet-C, five corruptions at severity 5, and adapts φ too. Four of the five
# exist here, at severity 3, so that the table can be mirrored cell by cell. Networks like ConvNeXt, with which the
# paper gains most (+27.0 and +22.8 on the mean of its five), have no counterpart here.

# %% tags=["hide-input"]
SHARED = [name for name, shift in CORRUPTIONS.items() if shift in shifts]
OURS = {"resnet50": ("ResNet", ""), "vit-b-32": ("ViT", ", vit")}
METHODS = (
    ("TENT", "tent"),
    ("CoTTA", "cotta"),
    ("Diffusion-TTA", "online, and φ"),
)
mirrored, means = [], []
for network_, (family, end) in OURS.items():
    cells = dict(zip(CORRUPTIONS, TABLE_2[network_], strict=True))
    for k, (method, way) in enumerate(METHODS, 1):
        if way + end not in runs:
            continue
        for name in SHARED:
            told = (
                f"{network_} + {method}, {CORRUPTIONS[name].replace('_', ' ')}"
            )
            ours = gain_of(way + end, [CORRUPTIONS[name]])
            mirrored.append(
                (
                    told,
                    cells[name][k] - cells[name][0],
                    f"{family}: {way}",
                    ours,
                )
            )
        paper = sum(cells[name][k] - cells[name][0] for name in SHARED) / len(
            SHARED
        )
        ours = gain_of(way + end, [CORRUPTIONS[name] for name in SHARED])
        means.append(
            (
                f"{network_} + {method}, mean of {len(SHARED)}",
                paper,
                f"{family}: {way}",
                ours,
            )
        )
if "ttt-mae" in runs:
    without, with_ = (
        published("table 2")[f"ViT-L/16, {method}"]
        for method in ("none", "TTT-MAE")
    )
    told = {
        name: with_[CORRUPTIONS[name].replace("_", " ")]
        - without[CORRUPTIONS[name].replace("_", " ")]
        for name in SHARED
    }
    for name, paper in told.items():
        ours = gain_of("ttt-mae", [CORRUPTIONS[name]])
        mirrored.append(
            (
                f"vit-l-16 + TTT-MAE, {CORRUPTIONS[name].replace('_', ' ')}",
                paper,
                "masked autoencoder",
                ours,
            )
        )
    ours = gain_of("ttt-mae", [CORRUPTIONS[name] for name in SHARED])
    means.append(
        (
            f"vit-l-16 + TTT-MAE, mean of {len(SHARED)}",
            sum(told.values()) / len(told),
            "masked autoencoder",
            ours,
        )
    )
report.paper_gains(
    mirrored + means,
    tolerance=0.1,
    caption="Gains in points: the paper's streams at severity 5, and ours at "
    "severity 3",
    paper="paper, Table 2",
)

# %% [markdown]
# TENT and CoTTA agree with the paper in all cells where something is shown: what they do for a network with batch norm,
# and that nothing is shown for a ViT. Diffusion-TTA agrees in sign in all cells where something is shown but one: under
# **contrast**, the paper's only failure with its ResNet50, our ResNet gains. The mean over the shared corruptions is
# close to the paper's for both networks. TTT-MAE disagrees: in the paper it gains as much in a stream as Diffusion-TTA,
# and here nothing: the best of six settings is the one that moves least. It gains one image at a time ([page
# 03](03_classification)).
#
# Are the stored numbers true? The first images of three streams, run now:

# %% tags=["hide-input"]
agree, count = stored.reproduce(
    "online", "online", live, shifts[:3], seed, folder=folder
)
report.line(f"{agree} of {count} answers are as stored", tolerance=0.1, whole=2)

# %% [markdown]
# ```{exercise}
# :label: a-stream-goes-wrong
#
# Make a stream go wrong. Build `build(problem, "diffusion-tta", episodic=False, lr=0.02)`, the rate for single images,
# and lead it through 40 **validation** images of shear. When does it break, and does the loss in `history` tell before
# the accuracy does? Then try `period=10` and `pull=0.1`, and write a rule of your own that calls `reset` when the loss
# says so.
# ```
#
# ```{solution} a-stream-goes-wrong
# :class: dropdown
#
# Keep `float(step.loss)` of the first step of each image, and a running mean of it. Unlike the accuracy it needs no
# label. Reset when it lies above the mean of the first ten images by more than two of their standard deviations.
# Compare accuracies paired, and count the resets: a rule that resets after every image is adaptation to single images.
# ```
#
# ## Take-aways
#
# * Online adaptation is the same loop without its reset, at a much smaller rate.
# * Whether a stream teaches more than its images must be shown against adaptation of single images, at the same rate,
#   and not only against no adaptation. Here that was not shown.
# * Shifts that follow each other cost gain and, now and then, the network. A small pull back to the start after each
#   image mends both.
# * Ask how a stream is sorted before you compare methods on it.
# * Forgetting is measured on images that the stream did not hold.

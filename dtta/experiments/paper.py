"""The rows of the paper's tables by name: what to run, with which settings, on which images, and what the paper got.

    dtta evaluate --preset list                                    all names
    dtta evaluate --preset table1/convnext-tiny/imagenet-a         one row's cell, as the paper ran it

Names are TABLE/NETWORK/DATA, and for another method than Diffusion-TTA TABLE/NETWORK/DATA/METHOD. Settings are those of
the paper's text (section 3.2, appendix A.5 and A.6) and, where it leaves a choice open, those of its released
commands; what neither states is listed in `open`. Options on the command line override those of the preset.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

PUBLISHED = Path(__file__).parent / "results" / "published.csv"


@dataclass(frozen=True)
class Preset:
    """A cell of a table.

    Args:
        name: TABLE/NETWORK/DATA, and /METHOD where it is not Diffusion-TTA.
        problem, network, diffusion, method, settings, batch: see ``dtta.evaluation.run.Run``.
        shift, severity: of the images.
        images: how many, the first of the split: its classes come in turn.
        metric: the paper's, where it is not the problem's first.
        paper: the number after adaptation in the paper, in percent. before: without adaptation.
        open: what the paper does not state, so that its number cannot be reproduced exactly.
        as_released: load network and diffusion model as the authors' released code has them.
    """

    name: str
    problem: str
    network: str
    method: str = "diffusion-tta"
    diffusion: str | None = None
    settings: dict = field(default_factory=dict)
    batch: int = 1
    shift: str = "clean"
    severity: int = 5
    images: int = 0
    metric: str | None = None
    paper: float | None = None
    before: float | None = None
    open: str = ""
    as_released: bool = False


# What cannot be run: the paper's models or data are not available.
LEFT_OUT = {
    "table1, table2, table8: ViT-L/16 and TTT-MAE": "the paper's own ViT-L/16 was never released",
    "table4/*/frost": "frost needs photographs of frost, which ImageNet-C's authors used; they are not part of it",
}

ADAM, SGD = dict(optimizer="adam", lr=1e-5), dict(optimizer="sgd", lr=5e-3)
USUAL = {"resnet18": ADAM, "resnet50": ADAM, "convnext-tiny": ADAM, "convnext-large": ADAM, "vit-b-32": SGD}
JOINT = dict(steps=5, samples=180, micro_batch=20, adapt_diffusion=True)
_BATCH = "the batch and settings of this method, taken as 64 and as those of its own authors for ImageNet"
# TENT and CoTTA adapt online in all tables, even where Diffusion-TTA starts again from the initial parameters with each
# image. SGD has momentum 0.9. A test compares these settings with those of dtta.problems.full.imagenet.
BASELINES = {
    "tent": dict(episodic=False, optimizer="sgd", lr=2.5e-4),
    "cotta": dict(episodic=False, optimizer="sgd", lr=0.01, threshold=0.1, restore=0.001),
}
CORRUPTIONS = {"gauss": "gaussian_noise", "fog": "fog", "pixelate": "pixelate", "snow": "snow", "contrast": "contrast"}

# network -> data -> without adaptation, TENT, CoTTA, Diffusion-TTA
TABLE_1 = {
    "resnet18": {
        "imagenet": (69.5, 63.0, 63.0, 77.2), "imagenet-a": (1.4, 0.6, 0.7, 6.1),
        "imagenet-r": (34.6, 34.7, 34.7, 39.7), "imagenet-c": (2.6, 12.1, 11.7, 4.5),
        "imagenet-v2": (57.1, 52.0, 52.1, 63.8), "imagenet-s": (7.7, 9.8, 9.7, 12.3),
    },
    "vit-b-32": {
        "imagenet": (75.7, 75.7, 75.8, 77.6), "imagenet-a": (9.0, 9.0, 8.6, 11.2),
        "imagenet-r": (45.2, 45.3, 45.0, 46.5), "imagenet-c": (39.5, 38.9, 40.0, 41.4),
        "imagenet-v2": (61.0, 61.1, 60.9, 64.4), "imagenet-s": (15.8, 10.4, 1.1, 21.3),
    },
    "convnext-tiny": {
        "imagenet": (81.9, 79.3, 80.5, 83.1), "imagenet-a": (22.7, 10.6, 13.2, 25.8),
        "imagenet-r": (47.8, 42.7, 47.2, 49.7), "imagenet-c": (16.4, 2.7, 13.7, 21.0),
        "imagenet-v2": (70.9, 69.0, 68.9, 71.5), "imagenet-s": (20.2, 19.9, 19.3, 22.6),
    },
}  # fmt: skip
# network -> for gauss, fog, pixelate, snow, contrast: without adaptation, TENT, CoTTA, Diffusion-TTA
TABLE_2 = {
    "resnet50": ((6.3, 12.3, 12.2, 19.0), (25.2, 43.2, 42.4, 43.2), (26.5, 41.8, 41.7, 50.2), (16.7, 28.4, 28.6, 33.6),
                 (3.6, 12.0, 11.9, 2.7)),
    "vit-b-32": ((39.5, 38.9, 40.0, 46.5), (35.9, 35.8, 34.6, 56.2), (55.0, 55.5, 54.5, 64.7),
                 (30.0, 30.7, 29.7, 50.4), (31.5, 32.1, 32.0, 33.6)),
    "convnext-tiny": ((16.4, 2.7, 13.7, 47.4), (32.3, 5.0, 29.8, 65.9), (37.2, 43.9, 37.3, 69.0),
                      (38.3, 15.2, 26.6, 62.6), (32.0, 40.7, 32.6, 46.2)),
    "convnext-large": ((33.0, 30.8, 33.3, 54.9), (34.4, 53.5, 15.1, 67.7), (49.3, 51.1, 34.6, 71.7),
                       (44.5, 44.6, 7.7, 64.8), (39.8, 52.4, 10.7, 55.7)),
}  # fmt: skip
# network -> data -> without adaptation, Diffusion-TTA
TABLE_3 = {
    "b-32": dict(food101=(82.6, 86.2), cifar100=(61.2, 62.8), aircraft=(17.8, 21.0), pets=(82.2, 84.9),
                 flowers102=(66.7, 67.7), imagenet=(57.5, 60.8)),
    "b-16": dict(food101=(88.1, 88.8), cifar100=(69.4, 69.0), aircraft=(22.8, 24.6), pets=(85.5, 86.1),
                 flowers102=(69.3, 71.5), imagenet=(62.3, 63.8)),
    "l-14": dict(food101=(93.1, 93.1), cifar100=(79.6, 80.6), aircraft=(32.0, 33.4), pets=(91.9, 92.3),
                 flowers102=(78.8, 79.2), imagenet=(70.0, 71.2)),
}  # fmt: skip
CLIPS = {"b-32": "clip-vit-base-patch32", "b-16": "clip-vit-base-patch16", "l-14": "clip-vit-large-patch14"}
DIFFUSION_CLASSIFIER = dict(food101=77.9, cifar100=42.7, aircraft=24.3, pets=85.7, flowers102=56.8, imagenet=58.4)
# shift -> without adaptation, Diffusion-TTA
TABLE_4 = {
    "segformer": dict(clean=(66.1, 66.1), gauss=(65.3, 66.4), fog=(63.0, 65.1), snow=(55.2, 56.6),
                      contrast=(65.3, 66.4), shot=(63.3, 63.7)),
    "densedepth": dict(clean=(92.4, 92.6), gauss=(79.1, 82.1), fog=(81.6, 84.4), snow=(72.7, 74.1),
                       contrast=(77.4, 77.4), shot=(81.3, 82.1)),
}  # fmt: skip
CLASSES = {
    "imagenet": 1000, "imagenet-a": 200, "imagenet-r": 200, "imagenet-c": 1000, "imagenet-v2": 1000, "imagenet-s": 1000,
    "objectnet": 113, "food101": 101, "cifar100": 100, "aircraft": 100, "pets": 37, "flowers102": 102,
}  # fmt: skip
SHOTS = CORRUPTIONS | {"shot": "shot_noise", "clean": "clean"}
# what is added, cumulatively -> settings, ImageNet-A
TABLE_5 = {
    "loss": (dict(samples=1, micro_batch=1, adapt_diffusion=False), 19.8),
    "timesteps": (dict(noise="shared", adapt_diffusion=False), 24.5),
    "noise": (dict(adapt_diffusion=False), 24.7),
    "diffusion": ({}, 25.8),
}
# what is adapted -> settings, ImageNet, ImageNet-R
TABLE_6 = {
    "random": (dict(start="random", adapt_diffusion=False), 0.7, 4.0),
    "logits": (dict(trainable="logits", start="random", adapt_diffusion=False), 71.8, 31.0),
    "logits-ensemble": (dict(trainable="logits", start="random", ensemble=True, adapt_diffusion=False), 72.6, 36.5),
    "norm": (dict(trainable="norm", adapt_diffusion=False), 69.0, 37.0),
    "head": (dict(trainable="head", adapt_diffusion=False), 68.6, 37.5),
    "all": (dict(adapt_diffusion=False), 73.0, 38.0),
    "all-and-diffusion": ({}, 78.2, 42.6),
}
TABLE_8 = {"resnet18": (23.3, 26.0), "vit-b-32": (26.6, 31.3), "convnext-tiny": (41.0, 43.7)}


@cache
def presets() -> dict[str, Preset]:
    """Return all cells that can be run, by name."""
    cells = [*_table_1(), *_table_2(), *_table_3(), *_table_4(), *_tables_5_6_8()]
    return {preset.name: preset for preset in cells}


def _with_baselines(preset: Preset, numbers: tuple[float, float, float, float]) -> list[Preset]:
    """Return the cell of Diffusion-TTA, and those of TENT and CoTTA next to it."""
    before, tent, cotta, ours = numbers
    return [
        replace(preset, before=before, paper=ours),
        *(
            replace(
                preset, name=f"{preset.name}/{method}", method=method, settings=BASELINES[method], batch=64,
                before=before, paper=number, open="; ".join(filter(None, (preset.open, _BATCH))),
            )
            for method, number in (("tent", tent), ("cotta", cotta))
        ),
    ]  # fmt: skip


def _table_1() -> list[Preset]:
    """Single images. Three of each class; all of ImageNet-A (7500: the paper says 7450)."""
    cells = []
    for network, row in TABLE_1.items():
        for data, numbers in row.items():
            settings = JOINT | (SGD if (network, data) == ("resnet18", "imagenet-c") else USUAL[network])
            images = 7500 if data == "imagenet-a" else 3 * CLASSES[data]
            shift = "gaussian_noise" if data == "imagenet-c" else "clean"
            name = f"table1/{network}/{data}"
            preset = Preset(name, data, network, settings=settings, shift=shift, images=images)
            cells += _with_baselines(preset, numbers)
    return cells


def _table_2() -> list[Preset]:
    """Online adaptation on ImageNet-C. The released command for ConvNeXt-Large uses one image of each class."""
    cells = []
    for network, row in TABLE_2.items():
        for corruption, numbers in zip(CORRUPTIONS, row, strict=True):
            preset = Preset(
                f"table2/{network}/{corruption}", "imagenet-c", network,
                settings=JOINT | USUAL[network] | dict(episodic=False), shift=CORRUPTIONS[corruption], images=1000,
                open="the number of images, known only for ConvNeXt-Large",
            )  # fmt: skip
            cells += _with_baselines(preset, numbers)
    return cells


def _table_3() -> list[Preset]:
    """CLIP under Stable Diffusion, five images of each class."""
    settings = dict(trainable="lora", rank=16, steps=5, samples=180, optimizer="sgd", lr=5e-3, micro_batch=20)
    cells = []
    for size, row in TABLE_3.items():
        for data, (before, ours) in row.items():
            name = f"table3/clip-{size}/{data}"
            unstated = "LoRA's rank, taken as 16; Stable Diffusion 1.5 replaces 2.0"
            numbers = dict(images=5 * CLASSES[data], before=before, paper=ours, open=unstated)
            cells.append(Preset(name, f"open-vocabulary-{data}", CLIPS[size], settings=settings, **numbers))
    for data, number in DIFFUSION_CLASSIFIER.items():
        cells.append(
            Preset(
                f"table3/diffusion-classifier/{data}", f"open-vocabulary-{data}", CLIPS["b-32"], "diffusion-classifier",
                settings=dict(samples=48), images=5 * CLASSES[data], paper=number,
                open="Stable Diffusion 1.5 replaces 2.0; the pairs (t, ε) for each class",
            )
        )  # fmt: skip
    return cells


def _table_4() -> list[Preset]:
    """Maps. The paper's diffusion models were never released; these are trained by ``dtta train``.

    It states no severity; such a small loss on corrupted images suggests the mildest.
    """
    unstated = "the paper's diffusion model and network; severity, steps and samples"
    dense = {
        "segformer": ("ade20k", "segformer-b0", "mean class accuracy", 1500),
        "densedepth": ("nyuv2", "densedepth", "SSIM", 654),
    }
    cells = []
    for network, row in TABLE_4.items():
        problem, name, metric, images = dense[network]
        for shift, (before, ours) in row.items():
            settings = dict(optimizer="adamw", lr=8e-5, steps=5, samples=180, micro_batch=20, adapt_diffusion=True)
            cells.append(
                Preset(
                    f"table4/{network}/{shift}", problem, name, diffusion="latent", settings=settings,
                    shift=SHOTS[shift], severity=1, images=images, metric=metric, before=before, paper=ours,
                    open=unstated,
                )
            )  # fmt: skip
    return cells


def _tables_5_6_8() -> list[Preset]:
    cells = []
    for part, (settings, number) in TABLE_5.items():
        settings = JOINT | ADAM | settings
        name, network = f"table5/convnext-tiny/{part}", "convnext-tiny"
        cells.append(Preset(name, "imagenet-a", network, settings=settings, images=7500, before=22.7, paper=number))
    for part, (settings, *numbers) in TABLE_6.items():
        for data, before, number in zip(("imagenet", "imagenet-r"), (68.4, 37.0), numbers, strict=True):
            cells.append(
                Preset(
                    f"table6/{data}/{part}", data, "resnet18", settings=JOINT | ADAM | settings, images=CLASSES[data],
                    before=before, paper=number, open="the rate for each part, taken as the whole network's",
                )
            )  # fmt: skip
    for network, (before, ours) in TABLE_8.items():
        name, settings = f"table8/{network}/objectnet", JOINT | USUAL[network]
        unstated = "the number of images, taken as three of each class"
        cells.append(
            Preset(name, "objectnet", network, settings=settings, images=339, before=before, paper=ours, open=unstated)
        )
    return cells


def published(table: str, path: Path = PUBLISHED) -> dict[str, dict[str, float]]:
    """Return published numbers that no preset has, row -> column -> value: DUSA's table, and the paper's other rows.

    Raises:
        KeyError: no such table in the file.
    """
    with path.open() as file:
        lines = [line for line in csv.DictReader(file) if line["table"] == table]
    if not lines:
        raise KeyError(f"{path.name} has no {table!r}")
    values: dict[str, dict[str, float]] = {}
    for line in lines:
        values.setdefault(line["row"], {})[line["column"]] = float(line["value"])
    return values


def get(name: str) -> Preset:
    """Return a cell by name. Raises ValueError if there is none, with similar names."""
    if name in presets():
        return presets()[name]
    from difflib import get_close_matches

    near = get_close_matches(name, presets(), n=3, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ValueError(f"there is no preset {name!r}; {hint}--preset list shows all")

"""The rows of the paper's tables by name: what to run, with which settings, on which images, and what the paper got.

    dtta evaluate --preset list                                    all names
    dtta evaluate --preset differences                             what they do otherwise than the paper or its code
    dtta evaluate --preset table1/convnext-tiny/imagenet-a         one row's cell

Names are TABLE/NETWORK/DATA, and for another method than Diffusion-TTA TABLE/NETWORK/DATA/METHOD. Settings are those of
the paper's text (section 3.2, appendix A.5 and A.6), else of its released commands; each preset lists where it differs
from the two, or had to choose what they leave open. The command line overrides the settings.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

PUBLISHED = Path(__file__).parent / "results" / "published.csv"


@dataclass(frozen=True)
class Preset:
    """A cell of a table. For what is not listed here, see ``dtta.evaluation.run.Run``.

    Args:
        images: how many, the first of the split: its classes come in turn.
        metric: the paper's, where it is not the problem's first.
        paper, before: the paper's numbers after and without adaptation, in percent.
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
    as_released: bool = False

    @property
    def shuffle(self) -> bool:
        """Whether the images come in an order drawn by the seed: those of a stream or in batches."""
        return self.batch > 1 or self.settings.get("episodic") is False

    @property
    def differences(self) -> list[Difference]:
        """What it does otherwise than the paper or its released code, or what they leave open."""
        return [difference for difference in DIFFERENCES if difference.concerns(self)]


@dataclass(frozen=True)
class Difference:
    """What presets do otherwise than the paper or its released code, or what these leave open.

    Args:
        tables, methods, names: of the presets that it concerns; `names`: a pattern.
        what, theirs, ours, why: its subject, what the paper and its code do, what the presets do, and for what reason.
    """

    tables: Sequence[int]
    what: str
    theirs: str
    ours: str
    why: str
    methods: Sequence[str] = ("diffusion-tta",)
    names: str = "*"

    def concerns(self, preset: Preset) -> bool:
        """Return whether it is a difference of this preset."""
        table = int(preset.name.partition("/")[0].removeprefix("table"))
        return table in self.tables and preset.method in self.methods and fnmatch(preset.name, self.names)


# What cannot be run: the paper's models or data are not available.
LEFT_OUT = {
    "table1, table2, table8: ViT-L/16 and TTT-MAE": "the paper's own ViT-L/16 was never released",
    "table4/*/frost": "frost needs photographs of frost, which ImageNet-C's authors used; they are not part of it",
}

ADAM, SGD = dict(optimizer="adam", lr=1e-5), dict(optimizer="sgd", lr=5e-3)
USUAL = {"resnet18": ADAM, "resnet50": ADAM, "convnext-tiny": ADAM, "convnext-large": ADAM, "vit-b-32": SGD}
# micro_batch: None, as many pairs in a pass as fit in memory; the gradient is the same.
JOINT = dict(steps=5, samples=180, micro_batch=None, adapt_diffusion=True)
# TENT and CoTTA adapt online in all tables, even where Diffusion-TTA starts again from the initial parameters with each
# image. A test compares these settings with those of dtta.problems.full.imagenet.
BASELINES = {
    "tent": dict(episodic=False, optimizer="nesterov", lr=2.5e-4, answer_before_step=True),
    "cotta": dict(
        episodic=False, optimizer="nesterov", lr=0.01, threshold=0.1, restore=0.001, answer_before_step=True,
        as_released=True,
    ),
}  # fmt: skip
METHODS = {"diffusion-tta": "Diffusion-TTA", "tent": "TENT", "cotta": "CoTTA"}
METHODS |= {"diffusion-classifier": "Diffusion Classifier"}
CORRUPTIONS = {"gauss": "gaussian_noise", "fog": "fog", "pixelate": "pixelate", "snow": "snow", "contrast": "contrast"}

# The tables' numbers, in percent: paper.toml says what each list holds.
_NUMBERS = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
TABLE_1, TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_8 = (_NUMBERS[f"table{k}"] for k in (1, 3, 4, 5, 6, 8))
TABLE_2 = {network: tuple(row.values()) for network, row in _NUMBERS["table2"].items()}  # in the order of CORRUPTIONS
DIFFUSION_CLASSIFIER = _NUMBERS["diffusion-classifier"]
DIFFERENCES = tuple(Difference(**entry) for entry in _NUMBERS["differences"])
CLIPS = {"b-32": "clip-vit-base-patch32", "b-16": "clip-vit-base-patch16", "l-14": "clip-vit-large-patch14"}
CLASSES = {
    "imagenet": 1000, "imagenet-a": 200, "imagenet-r": 200, "imagenet-c": 1000, "imagenet-v2": 1000, "imagenet-s": 1000,
    "objectnet": 113, "food101": 101, "cifar100": 100, "aircraft": 100, "pets": 37, "flowers102": 102,
}  # fmt: skip
SHOTS = CORRUPTIONS | {"shot": "shot_noise", "clean": "clean"}


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
                before=before, paper=number,
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
            )  # fmt: skip
            cells += _with_baselines(preset, numbers)
    return cells


def _table_3() -> list[Preset]:
    """CLIP under Stable Diffusion, five images of each class."""
    settings = dict(trainable="lora", rank=16, steps=5, samples=180, optimizer="sgd", lr=5e-3, micro_batch=None)
    cells = []
    for size, row in TABLE_3.items():
        for data, (before, ours) in row.items():
            name = f"table3/clip-{size}/{data}"
            numbers = dict(images=5 * CLASSES[data], before=before, paper=ours)
            cells.append(Preset(name, f"open-vocabulary-{data}", CLIPS[size], settings=settings, **numbers))
    for data, number in DIFFUSION_CLASSIFIER.items():
        cells.append(
            Preset(
                f"table3/diffusion-classifier/{data}", f"open-vocabulary-{data}", CLIPS["b-32"], "diffusion-classifier",
                settings=dict(samples=48), images=5 * CLASSES[data], paper=number,
            )
        )  # fmt: skip
    return cells


def _table_4() -> list[Preset]:
    """Maps, with models of ``dtta train``: the paper's were never released. Its small losses suggest severity 1."""
    dense = {
        "segformer": ("ade20k", "segformer-b0", "mean class accuracy", 1500),
        "densedepth": ("nyuv2", "densedepth", "SSIM", 654),
    }
    cells = []
    for network, row in TABLE_4.items():
        problem, name, metric, images = dense[network]
        for shift, (before, ours) in row.items():
            settings = dict(optimizer="adamw", lr=8e-5, steps=5, samples=180, micro_batch=None, adapt_diffusion=True)
            cells.append(
                Preset(
                    f"table4/{network}/{shift}", problem, name, diffusion="latent", settings=settings,
                    shift=SHOTS[shift], severity=1, images=images, metric=metric, before=before, paper=ours,
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
                    before=before, paper=number,
                )
            )  # fmt: skip
    for network, (before, ours) in TABLE_8.items():
        name, settings = f"table8/{network}/objectnet", JOINT | USUAL[network]
        cells.append(Preset(name, "objectnet", network, settings=settings, images=339, before=before, paper=ours))
    return cells


def table_of_differences() -> list[dict[str, str]]:
    """Return all differences of the presets from the paper or its released code, a row for each."""
    rows = []
    for d in DIFFERENCES:
        methods = ", ".join(METHODS.get(method, method) for method in d.methods)
        where = f"{methods}: Table{'s' * (len(d.tables) > 1)} {', '.join(map(str, d.tables))}"
        rows.append({"method": where, "subject": d.what, "paper and code": d.theirs, "here": d.ours, "why": d.why})
    return rows


def published(table: str, path: Path = PUBLISHED) -> dict[str, dict[str, float]]:
    """Return numbers that no preset has (also DUSA's), row -> column -> value. Raises KeyError: no such table."""
    with path.open(encoding="utf-8") as file:
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

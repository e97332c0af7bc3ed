"""A run, which is everything that decides a result, and a row, which is the result of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from dtta.methods import build, online

if TYPE_CHECKING:
    from torch import nn

    from dtta.core.problem import Problem

Cell = tuple[str, int, int]  # shift, severity, the image's number
AFTER = "after "  # before a shift's name: a clean image, predicted with the parameters at the end of that shift
SHIFTED = ", shifted"  # behind such a name: an image of that shift instead of a clean one
STREAMS = ("apart", "changing")
PRECISIONS = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Run:
    """All that decides a row, besides the image. Raises ValueError: a field is out of range.

    Args:
        problem, network, diffusion, classes: see ``dtta.load``.
        method: see ``dtta.methods.build``.
        settings: all that differ from the method's defaults; None: those of the problem, ``problem.settings[method]``.
        split, seed: "validation" to choose settings, "test" to report; of the shifts' and the method's randomness.
        batch: images of a shift that the method receives at once, in order, 1 or more; the last may be smaller.
        stream: what an online method goes through: "apart": each shift on its own, from the original parameters;
            "changing": one shift after the other, in an order drawn by the seed.
        by_class, shuffle: the images of a shift come sorted by their label, or in an order drawn by the seed.
        forgetting_images: after each shift of a stream this many clean images, the last of the split, are predicted
            without adapting; their rows have the shift "after <shift>".
        retention: predict these images under that shift too; their rows have the shift "after <shift>, shifted".
        precision: in which the diffusion model computes (see ``dtta.core.precision``).
        as_released, keep_size, options: see ``dtta.load``.
    """

    method: str
    problem: str = "digits"
    network: str | None = None
    diffusion: str | None = None
    settings: dict | None = None
    split: str = "test"
    seed: int = 0
    classes: int | Sequence[str] | None = None
    batch: int = 1
    stream: str = "apart"
    by_class: bool = False
    forgetting_images: int = 0
    precision: str = "float32"
    as_released: bool = False
    shuffle: bool = False
    keep_size: bool = False
    options: dict | None = None
    retention: bool = False

    def __post_init__(self):
        if not isinstance(self.batch, int) or self.batch < 1:
            raise ValueError(f"batch must be a whole number of at least 1, not {self.batch!r}")
        if self.stream not in STREAMS:
            raise ValueError(f"stream must be one of {', '.join(STREAMS)}, not {self.stream!r}")
        if not isinstance(self.forgetting_images, int) or self.forgetting_images < 0:
            raise ValueError(f"forgetting_images must be a whole number of at least 0, not {self.forgetting_images!r}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.by_class and self.shuffle:
            raise ValueError("by_class sorts the images and shuffle mixes them; choose one")

    def resolve(self, problem: Problem) -> Run:
        """Return the run with the settings of the problem if it has none."""
        return self if self.settings is not None else replace(self, settings=problem.settings.get(self.method, {}))

    def build(self, problem: Problem) -> nn.Module:
        """Build the method with the run's settings, all others the method's defaults. Raises ValueError: see there."""
        return build(replace(problem, settings={}), self.method, **self.resolve(problem).settings)

    @property
    def online(self) -> bool:
        """Whether parameters are carried along a stream. Raises ValueError if the settings are None."""
        if self.settings is None:
            raise ValueError("the settings are not known yet: see Run.resolve")
        return online(self.method, self.settings)

    @property
    def streamed(self) -> bool:
        """Whether a row depends on other images of its stream: the run is online, or has batches."""
        return self.online or self.batch > 1


@dataclass(frozen=True)
class Row:
    """One image under one shift: its score, seconds (its share of a batch), the metrics' sums, and its run's seed.

    `evaluations`: forward passes of the diffusion model, counted by pairs (t, ε) and conditions; the mean of images
    that share a call; None: not counted.
    """

    shift: str
    severity: int
    index: int
    score: float
    seconds: float
    sums: dict[str, float] = field(default_factory=dict)
    seed: int = 0
    evaluations: float | None = None

    @cached_property
    def key(self) -> tuple[str, int, int, int]:
        """What two rows must have in common to be compared."""
        return self.shift, self.severity, self.index, self.seed

    @property
    def cell(self) -> Cell:
        """What identifies the row in its run."""
        return self.shift, self.severity, self.index


def spread(shifts: Sequence[str], count: int, total: int) -> dict[str, list[int]]:
    """Return `count` numbers below `total` for each shift, each from another start, to cover many images."""
    start = {shift: k * total // len(shifts) for k, shift in enumerate(shifts)}
    return {shift: [(start[shift] + i) % total for i in range(count)] for shift in shifts}

"""The cells of a run (an image under a shift), in order, and the streams between whose cells parameters are carried."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from random import Random
from typing import TYPE_CHECKING

from dtta.evaluation.run import AFTER, SHIFTED, Cell, Row, Run

if TYPE_CHECKING:
    from dtta.core.problem import Problem

Shift = tuple[str, int]  # name, severity


def images_of_shifts(
    shifts: Sequence[Shift], images: Iterable[int] | Mapping[str, Iterable[int]]
) -> dict[str, list[int]]:
    """Return the image numbers of each shift. Raises ValueError: a mapping lacks one of the shifts."""
    if not isinstance(images, Mapping):
        every = list(images)
        return {shift: every for shift, _ in shifts}
    numbers = {shift: list(given) for shift, given in images.items()}
    missing = {shift for shift, _ in shifts} - set(numbers)
    if missing:
        raise ValueError(f"no images are given for {', '.join(sorted(missing))}")
    return numbers


def cells_of(
    run: Run, shifts: Sequence[Shift], numbers: Mapping[str, list[int]], problem: Problem | None
) -> list[Cell]:
    """Return the cells in order; `problem`: for by_class and forgetting only. Raises ValueError: too small a split."""
    forgetting = range(0)
    if run.forgetting_images:
        size = problem.size(run.split)
        if run.forgetting_images > size:
            raise ValueError(
                f"the {run.split} split has only {size} images for {run.forgetting_images} forgetting_images"
            )
        forgetting = range(size - run.forgetting_images, size)
    cells = []
    for shift, severity in shifts:
        images = numbers[shift]
        if run.by_class:
            images = sorted(images, key=lambda index: int(problem.image(index, split=run.split)[1]))
        elif run.shuffle:
            images = Random(run.seed).sample(images, len(images))
        cells += [(shift, severity, index) for index in images]
        for suffix in ("", SHIFTED) if run.retention else ("",):
            cells += [(AFTER + shift + suffix, severity, index) for index in forgetting if images]
    return cells


def in_stream_order(run: Run, shifts: Sequence[Shift]) -> list[Shift]:
    """Return the shifts in the order in which a stream meets them."""
    if run.stream == "changing":
        return Random(run.seed).sample(shifts, len(shifts))
    return list(shifts)


def parts(run: Run, cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return what processes may share: images, or whole streams where a row depends on the rows before it."""
    return split_streams(run, cells) if run.streamed else [[cell] for cell in cells]


def split_streams(run: Run, cells: Iterable[Cell]) -> list[list[Cell]]:
    """Return the cells of each stream."""
    if run.stream == "changing":
        stream = list(cells)
        return [stream] if stream else []
    return [list(stream) for _, stream in groupby(cells, key=lambda cell: (stream_of(cell[0]), cell[1]))]


def stream_of(shift: str) -> str:
    """Return the shift of the stream that a row belongs to, which may be one of those after the stream."""
    return shift.removeprefix(AFTER).removesuffix(SHIFTED)


def complete_streams(run: Run, cells: Iterable[Cell], done: Mapping[Cell, Row]) -> dict[Cell, Row] | None:
    """Return the rows of those streams that reach as far as requested; None if the rows are of another stream.

    An incomplete stream starts again: its parameters are not stored. `done`: stored rows, in the order of their file.
    """
    kept = {stream[0][:2]: stream for stream in split_streams(run, done)}
    for requested in split_streams(run, cells):
        stored = kept.get(requested[0][:2], [])
        cuts_a_batch = len(requested) < len(stored) and len(requested) % run.batch
        if cuts_a_batch or any(a != b for a, b in zip(requested, stored, strict=False)):
            return None
        if len(stored) < len(requested):
            kept.pop(requested[0][:2], None)
    return {cell: done[cell] for stream in kept.values() for cell in stream}

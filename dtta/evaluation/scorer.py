"""The rows of one process: images, or whole streams of an online run, one by one or several at the same time.

How many at the same time is found while the first ones are adapted: 1, 2, 4, ... as long as an image takes less time.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import torch
from torch import Tensor

from dtta.core.precision import prepare
from dtta.core.problem import Problem
from dtta.evaluation.run import AFTER, SHIFTED, Cell, Row, Run
from dtta.evaluation.streams import stream_of
from dtta.methods.together import OneByOneError, Together, largest_number
from dtta.problems import load
from dtta.problems.compilation import compile_blocks, is_on_gpu

LARGEST = 16  # images at the same time that are tried; more are hardly faster
ENOUGH = 0.97  # of the time of the fastest number so far: what a larger one must reach

Part = list[Cell]  # an image, or the images of a stream


def image_generator(seed: int, index: int) -> torch.Generator:
    """Return the generator of an image's (t, ε), the same wherever and whenever the image is evaluated."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{index}".encode()))


def load_problem(run: Run) -> Problem:
    """Load the problem of a run. Raises ValueError: see ``dtta.load``."""
    options = dict(as_released=run.as_released, keep_size=run.keep_size, batch=run.batch, options=run.options)
    return load(run.problem, run.network, run.diffusion, run.classes, **options)


class FastestNumber:
    """The number of images at the same time that takes the least time for each, from the numbers tried so far.

    Attributes: `number`, to use next; `final`, whether it stays. The first image is not timed: it takes longer.
    """

    def __init__(self, largest: int):
        self.largest, self.number, self.final = largest, 1, largest == 1
        self.seconds: dict[int, float] = {}
        self.warm = False

    def add(self, seconds: float) -> None:
        """Take note of the seconds for each of `number` images, and choose the next number."""
        if self.final:
            return
        if not self.warm:
            self.warm = True
            return
        before = min(self.seconds.values(), default=float("inf"))
        self.seconds[self.number] = seconds
        if seconds > ENOUGH * before or 2 * self.number > self.largest:
            self.stop()
        else:
            self.number *= 2

    def stop(self) -> None:
        """Choose the fastest of the numbers tried so far, if any."""
        if self.seconds:
            self.final = True
            self.number = min(self.seconds, key=self.seconds.__getitem__)


class Scorer:
    """A run's problem and method. Raises ValueError: unknown names or settings, or a method without forgetting.

    Args:
        together: images at the same time; None: the fastest number.

    Attributes: `note`, a sentence about this number if it is known, or on why images are adapted one by one.
    """

    def __init__(self, run: Run, compile: bool | None = None, problem: Problem | None = None, together: int | None = 1):
        self.run = run
        self.problem = problem or load_problem(run)
        self.method = run.build(self.problem)
        diffusion = self.problem.diffusion
        prepare(self.method, diffusion, run.precision)
        used = diffusion in list(self.method.modules())
        if used and compile:
            compile_blocks(diffusion.network)
        self.compile_later = used and compile is None and is_on_gpu(diffusion)
        if run.forgetting_images and not hasattr(self.method, "predict"):
            raise ValueError(f"{run.method} carries nothing from image to image; leave forgetting_images out")
        self.note = ""
        self.search: FastestNumber | None = None
        self.limit, self.together = 1, None
        if together != 1 and run.method != "none":
            try:
                self._adapt_together(together)
            except OneByOneError as error:
                self.note = f"one by one: {error}"

    def _adapt_together(self, number: int | None) -> None:
        if self.run.batch > 1:
            raise OneByOneError("a batch shares its parameters")
        if self.run.stream == "changing" and self.run.online:
            raise OneByOneError("there is only one stream")
        if self.run.forgetting_images and not self.run.online:
            raise OneByOneError("images after a shift need the parameters at its end")
        self.together = Together(self.method)
        self.limit = min(number or LARGEST, largest_number(self.method))
        if number is None:
            self.search = FastestNumber(self.limit)

    def __call__(self, parts: list[Part]) -> Iterator[list[Row]]:
        """Yield the rows of each call in turn, or those of whole streams."""
        start = 0
        while start < len(parts):
            if self.search and len(parts) - start < self.search.number:
                self.search.stop()
                self._choose()
            number = min(self.search.number, self.limit) if self.search else self.limit
            if not self.search:  # nearly the same number each
                left = len(parts) - start
                number = -(-left // -(-left // number))
            group = parts[start : start + number]
            if self.together is None:
                for part in group:
                    yield from self._one_by_one(part)
            else:
                rows = self._at_the_same_time(group)
                if rows is None:
                    continue
                yield rows
            start += len(group)

    def _at_the_same_time(self, group: list[Part]) -> list[Row] | None:
        """Return the rows of a group, or None if fewer must be tried."""
        try:
            rows = self._streams(group)
        except OneByOneError as error:
            self.together, self.search, self.limit = None, None, 1
            self.note = f"one by one: {error}"
            return None
        except torch.OutOfMemoryError:
            if len(group) == 1:
                raise
            self.limit = len(group) // 2
            self.search = None
            self.note = f"{self.limit} images at the same time, for want of memory"
        else:
            if self.search and len(group) == self.search.number:
                self.search.add(sum(row.seconds for row in rows) / len(rows))
                self._choose()
            return rows
        torch.cuda.empty_cache()  # after the except block, where the error no longer keeps tensors alive
        return None

    def _choose(self) -> None:
        search = self.search
        if search.seconds:
            best = min(search.seconds, key=search.seconds.__getitem__)
            times = ", ".join(f"{1e3 * seconds:.0f} ({n})" for n, seconds in search.seconds.items())
            self.note = f"{best} images at the same time, the fastest number; ms for each image (number): {times}"
        if search.final:
            self.limit, self.search = search.number, None

    def _streams(self, group: list[Part]) -> list[Row]:
        """Return the rows of streams (one image, if episodic), stream by stream; all their k-th images go together."""
        self.together.reset()
        rows: list[list[Row]] = [[] for _ in group]
        for k in range(max(map(len, group))):
            going = [n for n, stream in enumerate(group) if k < len(stream)]
            if len(going) < len(group) and self.run.online:
                raise OneByOneError("the streams have different lengths")
            cells = [group[n][k] for n in going]
            for n, row in zip(going, self.rows(cells), strict=True):
                rows[n].append(row)
        return [row for stream in rows for row in stream]

    def _one_by_one(self, cells: Part) -> Iterator[list[Row]]:
        """Yield the rows of each call for single images or for a whole stream."""
        if self.run.online:
            self.method.reset()
        for _, images in groupby(cells, key=itemgetter(0, 1)):
            images = list(images)
            for k in range(0, len(images), self.run.batch):
                yield list(self.rows(images[k : k + self.run.batch]))

    def rows(self, cells: list[Cell]) -> Iterator[Row]:
        """Yield the rows of one call."""
        after = cells[0][0].startswith(AFTER)
        clean = after and not cells[0][0].endswith(SHIFTED)
        pairs = [
            self.problem.image(index, "clean" if clean else stream_of(shift), severity, self.run.split, self.run.seed)
            for shift, severity, index in cells
        ]
        images = torch.cat([image for image, _ in pairs])
        passes: list[int] = []  # images in each pass through the diffusion model
        start = time.perf_counter()
        with self.problem.diffusion.network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0]))):
            output = self._answer(images, [index for _, _, index in cells], after)
        if output.device.type != "cpu":
            torch.accelerator.synchronize(output.device)  # kernels run asynchronously; include their time
        seconds = round((time.perf_counter() - start) / len(cells), 4)
        if self.compile_later and not self.search:  # compiling would count in the times that are compared
            compile_blocks(self.problem.diffusion.network, fallback=True)
            self.compile_later = False
        for (shift, severity, index), answer, (_, label) in zip(cells, output.split(1), pairs, strict=True):
            score, sums = self.problem.score(answer, label), self.problem.sums(answer, label)
            yield Row(shift, severity, index, score, seconds, sums, evaluations=sum(passes) / len(cells))

    def _answer(self, images: Tensor, indices: list[int], after: bool) -> Tensor:
        method = self.together or self.method
        if after:
            return method.predict(images)
        if self.together is None:
            return method(images, image_generator(self.run.seed, indices[0]))
        return method(images, [image_generator(self.run.seed, index) for index in indices])

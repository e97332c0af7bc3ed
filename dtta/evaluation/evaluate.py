"""Any method over any problem, image by image: resumable, spread over processes and machines, paired.

Each image under each shift is one row. Its randomness depends only on the seed and the image, not on the order or the
number of processes. Where parameters are carried along a stream, processes share whole streams instead of images.
"""

from __future__ import annotations

import multiprocessing
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dtta.core.precision import prepare
from dtta.core.problem import Problem
from dtta.evaluation import journal
from dtta.evaluation.distributed import Single, end_with_parent
from dtta.evaluation.run import AFTER, Cell, Row, Run
from dtta.evaluation.streams import cells_of, complete_streams, images_of_shifts, in_stream_order, parts
from dtta.methods.together import Together, can_adapt_together
from dtta.problems import load
from dtta.problems.compilation import compile_blocks, is_on_gpu


def evaluate(
    run: Run,
    shifts: Iterable[tuple[str, int]],
    images: Iterable[int] | Mapping[str, Iterable[int]],
    path: Path | None = None,
    workers: int = 1,
    progress: bool = True,
    processes: Single | None = None,
    compile: bool | None = None,
    problem: Problem | None = None,
    together: int = 1,
) -> list[Row]:
    """Score a method on images under (shift, severity) pairs; return rows in this order, all of them in each process.

    Args:
        images: their numbers; or, for each shift, the numbers of its images.
        path: a .jsonl file to which rows are appended as they come. Rows in it are not computed again (of an online
            run: those of complete streams, since the parameters inside a stream are not stored).
        workers: processes of one thread each, which share images or, if the run is streamed, whole streams.
        processes: used instead of `workers` (see ``dtta.evaluation.distributed.join``); all call this and see `path`.
        compile: compile the diffusion model's blocks (see ``dtta.problems.compilation``). None: on a GPU, after the
            first image, so that its answer comes at once; a compiler that fails is left out with a warning.
        problem: the run's, if it is loaded already, with its original weights; worker processes load their own.
        together: images adapted at the same time, where the method allows it (see ``dtta.methods.together``); the
            answers are equal up to rounding.

    Raises ValueError: unknown names or settings, or `path` holds rows of another run or is damaged; OSError: a row
    could not be written, those before it are kept; StoppedError: another process has stopped.
    """
    shifts = list(shifts)
    numbers = images_of_shifts(shifts, images)
    if problem is None and (run.settings is None or run.by_class or run.forgetting_images):
        problem = load_problem(run)
    run = run.resolve(problem)
    requested = cells_of(run, shifts, numbers, problem)
    if not requested:
        raise ValueError("nothing to evaluate: give at least one shift and one image")
    cells = cells_of(run, in_stream_order(run, shifts), numbers, problem)
    together = 1 if run.streamed else together
    group = processes or Single()
    if group.count > 1:
        workers = 1
        if path is None:
            raise ValueError("several processes need a folder for their rows that all of them see: give --out")
    with journal.lock(path) if path and group.first else nullcontext():
        done = group.broadcast(lambda: _stored_rows(path, run, cells))
        share = parts(run, [cell for cell in cells if cell not in done])[group.rank :: group.count]
        own_file = journal.file_of(path, group.rank) if path else None
        if share and not group.first:
            journal.create(own_file, run)
        with _progress_bar(run, sum(map(len, share)), len(done.keys() & set(cells)), progress and group.first) as bar:
            for row in _rows(run, _grouped(share, together), workers, compile, problem, together):
                done[row.cell] = row
                if path:
                    journal.append(own_file, row)
                bar.update()
        if group.count > 1:
            group.wait()
            done = group.broadcast(lambda: _merge(path, run, cells))
    return [done[cell] for cell in requested]


def image_generator(seed: int, index: int) -> torch.Generator:
    """Return the generator of an image's (t, ε), the same wherever and whenever the image is evaluated."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{index}".encode()))


def load_problem(run: Run) -> Problem:
    """Load the problem of a run. Raises ValueError: see ``dtta.load``."""
    options = dict(as_released=run.as_released, keep_size=run.keep_size, batch=run.batch)
    return load(run.problem, run.network, run.diffusion, run.classes, **options)


def _stored_rows(path: Path | None, run: Run, cells: list[Cell]) -> dict[Cell, Row]:
    """Return the rows that need not be computed again; remove those of incomplete streams from the file."""
    if path is None:
        return {}
    done = journal.read(path, run)
    if not run.streamed:
        return done
    kept = complete_streams(run, cells, done)
    if kept is None:
        raise ValueError(f"{path} holds another stream; choose another file or delete it")
    if len(kept) < len(done):
        journal.write(path, run, kept.values())
    return kept


def _merge(path: Path, run: Run, cells: list[Cell]) -> dict[Cell, Row]:
    """Return the rows of all processes, now in one file, in the order in which one process would have written them."""
    rows = journal.read(path, run)
    order = [cell for cell in cells if cell in rows]
    others = rows.keys() - set(order)  # of images that were not requested this time
    journal.write(path, run, [rows[cell] for cell in [*(cell for cell in rows if cell in others), *order]])
    return rows


def _progress_bar(run: Run, left: int, done: int, progress: bool) -> tqdm:
    """Return a bar of the images of this process, with the time that is left."""
    quiet = {} if progress else {"disable": True}  # if left out, TQDM_DISABLE can still silence it
    return tqdm(total=done + left, initial=done, desc=run.method, **quiet, mininterval=2, unit="image")


def _grouped(parts: list[list[Cell]], size: int) -> list[list[Cell]]:
    """Return parts of up to `size` images each, made of parts of one image; with 1 they stay as they are."""
    return [list(chain(*parts[k : k + size])) for k in range(0, len(parts), size)]


def _rows(
    run: Run,
    parts: list[list[Cell]],
    workers: int,
    compile: bool | None,
    problem: Problem | None = None,
    together: int = 1,
) -> Iterator[Row]:
    """Yield the rows of all parts in order, computed in this process or in `workers` spawned ones."""
    if workers <= 1 or len(parts) < 2 * workers:
        scorer = _Scorer(run, compile, problem, together) if parts else None
        for part in parts:
            yield from scorer(part)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(run, compile, together)) as pool:
        for rows in pool.map(_score, parts, chunksize=1 if run.streamed or together > 1 else 4):
            yield from rows


class _Scorer:
    """A run's problem and method. Raises ValueError: unknown names or settings, or a method without forgetting."""

    def __init__(self, run: Run, compile: bool | None = None, problem: Problem | None = None, together: int = 1):
        self.run = run
        self.problem = problem or load_problem(run)
        self.method = run.build(self.problem)
        diffusion = self.problem.diffusion
        prepare(self.method, diffusion, run.precision)
        used = diffusion in list(self.method.modules())
        if used and compile:
            compile_blocks(diffusion.network)
        self.compile_later = used and compile is None and is_on_gpu(diffusion)
        self.size = run.batch  # images in one call
        if together > 1 and can_adapt_together(self.method):
            self.size, self.together = together, Together(self.method)
        if run.forgetting_images and not hasattr(self.method, "predict"):
            raise ValueError(f"{run.method} carries nothing from image to image; leave forgetting_images out")

    def __call__(self, cells: list[Cell]) -> Iterator[Row]:
        """Yield the rows of single images or of a whole stream."""
        if self.run.online:
            self.method.reset()
        for _, part in groupby(cells, key=itemgetter(0, 1)):
            images = list(part)
            for k in range(0, len(images), self.size):
                yield from self.rows(images[k : k + self.size])

    def rows(self, cells: list[Cell]) -> Iterator[Row]:
        """Yield the rows of one call."""
        after = cells[0][0].startswith(AFTER)
        pairs = [
            self.problem.image(index, "clean" if after else shift, severity, self.run.split, self.run.seed)
            for shift, severity, index in cells
        ]
        images = torch.cat([image for image, _ in pairs])
        start = time.perf_counter()
        if after:
            output = self.method.predict(images)
        elif self.size > self.run.batch:
            output = self.together(images, [image_generator(self.run.seed, index) for _, _, index in cells])
        else:
            output = self.method(images, image_generator(self.run.seed, cells[0][2]))
        if output.device.type != "cpu":
            torch.accelerator.synchronize(output.device)  # kernels run asynchronously; include their time
        seconds = round((time.perf_counter() - start) / len(cells), 4)
        if self.compile_later:
            compile_blocks(self.problem.diffusion.network, fallback=True)
            self.compile_later = False
        for (shift, severity, index), answer, (_, label) in zip(cells, output.split(1), pairs, strict=True):
            score, sums = self.problem.score(answer, label), self.problem.sums(answer, label)
            yield Row(shift, severity, index, score, seconds, sums)


def _start(run: Run, compile: bool | None, together: int) -> None:
    """Prepare a spawned process."""
    global _scorer
    end_with_parent()
    torch.set_num_threads(1)
    _scorer = _Scorer(run, compile, together=together)


def _score(cells: list[Cell]) -> list[Row]:
    return list(_scorer(cells))

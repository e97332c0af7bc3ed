"""Any method over any problem, image by image: resumable, spread over processes and machines, paired.

Each image under each shift is one row. Its randomness depends on the seed and the image alone, so rows
do not depend on the order, on what else is run, or on how many processes share the work. Where weights are carried
along a stream, images cannot be shared, since each follows from the one before: whole streams are.
"""

from __future__ import annotations

import multiprocessing
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from random import Random

import torch
from tqdm.auto import tqdm

from dtta.core.precision import prepare
from dtta.evaluation import journal
from dtta.evaluation.distributed import Ranks
from dtta.evaluation.run import AFTER, Cell, Row, Run
from dtta.methods.registry import build
from dtta.problems import load


def evaluate(
    run: Run,
    shifts: Iterable[tuple[str, int]],
    images: Iterable[int] | Mapping[str, Iterable[int]],
    path: Path | None = None,
    workers: int = 1,
    progress: bool = True,
    ranks: Ranks | None = None,
    compile: bool = False,
) -> list[Row]:
    """Score a method on the given images under the given (shift, severity) pairs.

    Args:
        images: their numbers; or, for each shift, the numbers of its images.
        path: a .jsonl file; rows are appended as they come, and a run that was stopped goes on from there
            (a streamed one with the first stream that is not complete: the weights it had reached are not on disk).
        workers: processes of one thread each. They share images, or, if the run is streamed, whole streams.
        ranks: the processes that this command was started as, instead of `workers` (see
            ``dtta.evaluation.distributed.join``); all of them call this, and `path` must lie where all of them see it.
        compile: compile the diffusion model's blocks (see ``dtta.core.precision``).

    Returns:
        The rows, in the order of `shifts`, then of `images`; for each of the ranks all of them.

    Raises:
        ValueError: unknown names or settings, or `path` holds rows of another run or is damaged.
        OSError: a row could not be written; those before it are kept.
        dtta.evaluation.distributed.RankError: another of the processes has stopped.
    """
    shifts = list(shifts)
    if isinstance(images, Mapping):
        numbers = {shift: list(given) for shift, given in images.items()}
    else:
        every = list(images)
        numbers = {shift: every for shift, _ in shifts}
    if missing := {shift for shift, _ in shifts} - set(numbers):
        raise ValueError(f"no images are given for {', '.join(sorted(missing))}")
    wanted = _cells(run, shifts, numbers)
    if not wanted:
        raise ValueError("nothing to evaluate: give at least one shift and one image")
    cells = wanted
    if run.stream == "changing":
        cells = _cells(run, Random(run.seed).sample(shifts, len(shifts)), numbers)
    if ranks:
        return _with_ranks(ranks, run, cells, wanted, path, progress, compile)
    with journal.lock(path) if path else nullcontext():
        done = _done(path, run, cells)
        todo = [cell for cell in cells if cell not in done]
        with _bar(run, len(cells), len(todo), progress) as bar:
            for row in _rows(run, todo, workers, compile):
                done[row.cell] = row
                if path:
                    journal.append(path, row)
                bar.update()
    return [done[cell] for cell in wanted]


def _cells(run: Run, shifts: list[tuple[str, int]], numbers: Mapping[str, list[int]]) -> list[Cell]:
    """What is asked of each image, in the order in which a stream brings them."""
    cells, forgetting_images = [], []
    if run.by_class or run.forgetting_images:
        problem = load(run.problem, run.network, run.diffusion, run.classes)
        size = problem.size(run.split)
        forgetting_images = list(range(size - run.forgetting_images, size))
        if run.forgetting_images > size:
            raise ValueError(
                f"the {run.split} split has {size} images, {run.forgetting_images} are asked for as forgetting_images"
            )
    for shift, severity in shifts:
        images = numbers[shift]
        if run.by_class:
            images = sorted(images, key=lambda index: int(problem.image(index, split=run.split)[1]))
        cells += [(shift, severity, index) for index in images]
        cells += [(AFTER + shift, severity, index) for index in forgetting_images if images]
    return cells


def image_generator(seed: int, index: int) -> torch.Generator:
    """The generator of an image's (t, ε), the same wherever and whenever the image comes up."""
    return torch.Generator().manual_seed(zlib.crc32(f"{seed}/{index}".encode()))


# --- doing the work -----------------------------------------------------------------------------------


def _bar(run: Run, total: int, left: int, progress: bool) -> tqdm:
    """How many images are done, and the time that the others will take."""
    quiet = {} if progress else {"disable": True}  # left out, TQDM_DISABLE can still silence it
    return tqdm(total=total, initial=total - left, desc=run.method, **quiet, mininterval=2, unit="image")


def _done(path: Path | None, run: Run, cells: list[Cell]) -> dict[Cell, Row]:
    """The rows that need not be made again."""
    done = journal.read(path, run) if path else {}
    return _whole_streams(path, run, cells, done) if path and run.streamed else done


def _with_ranks(
    ranks: Ranks,
    run: Run,
    cells: list[Cell],
    wanted: list[Cell],
    path: Path | None,
    progress: bool,
    compile: bool,
) -> list[Row]:
    """What each of the processes does: draw the next piece of the work until there is none."""
    if path is None:
        raise ValueError("several processes need a folder for their rows that all of them see: give --out")
    with journal.lock(path) if ranks.first else nullcontext():
        left = ranks.share(lambda: list(set(cells) - set(_done(path, run, cells))))
        left = set(map(tuple, left))
        todo = [cell for cell in cells if cell in left]
        with ranks.failing(), _bar(run, len(cells), len(todo), progress and ranks.first) as bar:

            def show(amount: int = 0) -> None:
                bar.update(len(cells) - len(todo) + ranks.add("rows", amount) - bar.n)

            parts, scorer, own = _parts(run, todo), None, journal.file_of(path, ranks.rank)
            while (k := ranks.draw()) < len(parts):
                scorer = scorer or _Scorer(run, compile)
                for row in scorer(parts[k]):
                    if not own.exists():
                        journal.create(own, run)
                    journal.append(own, row)
                    show(1)
            ranks.add("idle")
            ranks.wait(lambda: ranks.add("idle", 0) == ranks.count, show)
        found = ranks.share(lambda: [asdict(row) for row in _sorted(path, run, cells)])
    rows = {row.cell: row for row in (Row(**record) for record in found)}
    return [rows[cell] for cell in wanted]


def _sorted(path: Path, run: Run, cells: list[Cell]) -> list[Row]:
    """The rows of all processes, in one file and in the order in which one process would have written them."""
    found = journal.read(path, run)
    order = [cell for cell in cells if cell in found]
    others = found.keys() - set(order)  # of images that were not asked for this time
    journal.write(path, run, [found[cell] for cell in [*(c for c in found if c in others), *order]])
    return [found[cell] for cell in order]


def _rows(run: Run, cells: list[Cell], workers: int, compile: bool = False) -> Iterator[Row]:
    parts = _parts(run, cells)
    if workers <= 1 or len(parts) < 2 * workers:
        scorer = _Scorer(run, compile)
        for part in parts:
            yield from scorer(part)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(run, compile)) as pool:
        for rows in pool.map(_score, parts, chunksize=1 if run.streamed else 4):
            yield from rows


def _parts(run: Run, cells: list[Cell]) -> list[list[Cell]]:
    """What processes may share: the images, or whole streams where weights are carried from one to the next."""
    return _streams(run, cells) if run.streamed else [[cell] for cell in cells]


def _streams(run: Run, cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells between which weights are carried."""
    if run.stream == "changing":
        return [whole] if (whole := list(cells)) else []
    return [list(stream) for _, stream in groupby(cells, key=lambda cell: (cell[0].removeprefix(AFTER), cell[1]))]


class _Scorer:
    def __init__(self, run: Run, compile: bool = False):
        self.run = run
        self.problem = load(run.problem, run.network, run.diffusion, run.classes)
        self.method = build(self.problem, run.method, **run.settings)
        prepare(self.method, self.problem.diffusion, run.precision, compile)
        if run.forgetting_images and not hasattr(self.method, "predict"):
            raise ValueError(f"{run.method} keeps nothing of its images; there is nothing to recall with")

    def __call__(self, cells: list[Cell]) -> Iterator[Row]:
        if self.run.online:
            self.method.reset()
        for _, part in groupby(cells, key=itemgetter(0, 1)):
            images = list(part)
            for k in range(0, len(images), self.run.batch):
                yield from self.rows(images[k : k + self.run.batch])

    def rows(self, cells: list[Cell]) -> Iterator[Row]:
        """The images of one batch."""
        after = cells[0][0].startswith(AFTER)
        pairs = [
            self.problem.image(index, "clean" if after else shift, severity, self.run.split, self.run.seed)
            for shift, severity, index in cells
        ]
        images = torch.cat([image for image, _ in pairs])
        start = time.perf_counter()
        if after:
            output = self.method.predict(images)
        else:
            output = self.method(images, image_generator(self.run.seed, cells[0][2]))
        if output.is_cuda:
            torch.cuda.synchronize()  # so that the time is that of the work, not of asking for it
        seconds = round((time.perf_counter() - start) / len(cells), 4)
        for (shift, severity, index), answer, (_, label) in zip(cells, output.split(1), pairs, strict=True):
            score, sums = self.problem.score(answer, label), self.problem.sums(answer, label)
            yield Row(shift, severity, index, score, seconds, sums)


def _start(run: Run, compile: bool) -> None:
    global _scorer
    torch.set_num_threads(1)
    _scorer = _Scorer(run, compile)


def _score(cells: list[Cell]) -> list[Row]:
    return list(_scorer(cells))


def _whole_streams(path: Path, run: Run, cells: list[Cell], done: dict[Cell, Row]) -> dict[Cell, Row]:
    """Of an online run's rows those whose stream reaches as far as asked; the others leave the file too."""
    kept = {stream[0][:2]: stream for stream in _streams(run, done)}
    for asked in _streams(run, cells):
        found = kept.get(asked[0][:2], [])
        shorter = len(asked) < len(found) and len(asked) % run.batch  # its last batch would be another one
        if shorter or any(a != b for a, b in zip(asked, found, strict=False)):
            raise ValueError(f"{path} holds another stream; choose another file or delete it")
        if len(found) < len(asked):
            kept.pop(asked[0][:2], None)
    whole = {cell: done[cell] for stream in kept.values() for cell in stream}
    if len(whole) < len(done):
        journal.write(path, run, whole.values())
    return whole

"""Any method over any problem, image by image: resumable, spread over processes and machines, paired.

Each image under each shift is one row. Its randomness depends only on the seed and the image, not on the order or the
number of processes. Where parameters are carried along a stream, processes share whole streams instead of images.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from tqdm.auto import tqdm

from dtta.core.problem import Problem
from dtta.evaluation import journal
from dtta.evaluation.distributed import Single, end_with_parent
from dtta.evaluation.run import Cell, Row, Run
from dtta.evaluation.scorer import LARGEST, Part, Scorer, load_problem
from dtta.evaluation.scorer import image_generator as image_generator  # for pages and users
from dtta.evaluation.streams import cells_of, complete_streams, images_of_shifts, in_stream_order, parts


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
    together: int | None = 1,
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
        together: images, or streams of an online run, adapted at the same time, where the method allows it (see
            ``dtta.methods.together``); the answers are equal up to rounding. None: the fastest number, found while the
            first images are adapted, and printed if `progress`.

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
        left, present = sum(map(len, share)), len(done.keys() & set(cells))
        quiet = {} if progress and group.first else {"disable": True}  # if left out, TQDM_DISABLE can silence the bar
        with tqdm(desc=run.method, total=left + present, initial=present, mininterval=2, unit="image", **quiet) as bar:
            note = ""
            for rows, latest in _rows(run, share, workers, compile, problem, together):
                note = latest
                for row in rows:
                    done[row.cell] = row
                    if path:
                        journal.append(own_file, row)
                    bar.update()
            if progress and note:
                bar.write(f"{run.method}: {note}", sys.stderr)
        if group.count > 1:
            group.wait()
            done = group.broadcast(lambda: _merge(path, run, cells))
    return [done[cell] for cell in requested]


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


def _even(parts: list[Part], size: int) -> Iterator[list[Part]]:
    """Yield groups of up to `size` parts, of nearly the same number each."""
    count = -(-len(parts) // size)
    ends = [len(parts) * k // count for k in range(count + 1)]
    yield from (parts[start:end] for start, end in pairwise(ends))


def _rows(
    run: Run, parts: list[Part], workers: int, compile: bool | None, problem: Problem | None, together: int | None
) -> Iterator[tuple[list[Row], str]]:
    """Yield the rows of all parts in order, computed in this process or in `workers` spawned ones.

    With them comes what there is to say so far about the number of images adapted at the same time.
    """
    if workers <= 1 or len(parts) < 2 * workers:
        if parts:
            scorer = Scorer(run, compile, problem, together)
            for rows in scorer(parts):
                yield rows, scorer.note
        return
    size = {None: LARGEST, 1: 1 if run.streamed else 4}.get(together, together)
    chunks = list(_even(parts, min(size, -(-len(parts) // (2 * workers if together is None else workers)))))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start, initargs=(run, compile, together)) as pool:
        for results in pool.map(_score, chunks):
            yield from results


def _start(run: Run, compile: bool | None, together: int | None) -> None:
    """Prepare a spawned process."""
    global _scorer
    end_with_parent()
    torch.set_num_threads(1)
    _scorer = Scorer(run, compile, together=together)


def _score(parts: list[Part]) -> list[tuple[list[Row], str]]:
    return [(rows, _scorer.note) for rows in _scorer(parts)]

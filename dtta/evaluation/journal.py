"""A run, its rows, and the files that keep them: whatever stops a run, what it had done stays and is not done again.

A file's first line is the run, every other line one row, each on disk before the next is begun. Several processes
write a file each (``rows.jsonl``, ``rows.rank1.jsonl``, ...), so that none waits for another; whoever comes next,
alone or in any number, finds the rows of all of them.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import count
from pathlib import Path

from dtta.evaluation.run import Cell, Row, Run

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows has no flock; there, two runs at once on one file are not noticed
    flock = None

log = logging.getLogger(__name__)


def file_of(path: Path, rank: int) -> Path:
    """The file that process number `rank` writes: the first one `path` itself, each other its own beside it."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path


def read(path: Path, run: Run) -> dict[Cell, Row]:
    """All rows written so far, by one process or several, now in one file at `path`, which is made if there is none.

    Raises:
        ValueError: a file holds rows of another run, or is damaged; all files are left as they are.
        OSError: a file cannot be read or written.
    """
    parts = _parts(path)
    rows = _rows(path, run)  # first, so that a file of something else stops us before anything is changed
    missing = rows is None
    found = {row.cell: row for part in parts for row in _rows(part, run) or ()}
    found |= {row.cell: row for row in rows or ()}
    if parts:
        write(path, run, found.values())
        for part in parts:
            part.unlink()
    elif missing:
        create(path, run)
    _temporary(path).unlink(missing_ok=True)  # of a command that was killed before it could put it in place
    return found


def archive(path: Path, run: Run) -> list[Path]:
    """Give files at `path` that hold rows of another run, or something else, other names, so that this one can begin.

    Returns:
        Their new paths, beside the old ones.

    Raises:
        ValueError: another command is writing there. OSError: a file cannot be moved.
    """
    if not any(_of_another(part, run) for part in (path, *_parts(path))):
        return []
    with lock(path), _explained(path):
        return [part.rename(_free(part)) for part in (path, *_parts(path)) if _of_another(part, run)]


def create(path: Path, run: Run) -> None:
    """A new file: its first line is the run, and there are no rows yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _explained(path):
        path.write_bytes(_line(asdict(run)))


def append(path: Path, row: Row) -> None:
    """Add a row; on return it is on disk.

    Raises:
        OSError: it could not be written, such as on a full disk. The rows before it stay.
    """
    with _explained(path), path.open("ab", buffering=0) as file:
        before, left = file.tell(), memoryview(_line(asdict(row)))
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)  # no half row is left behind
            raise


def write(path: Path, run: Run, rows: Iterable[Row]) -> None:
    """Write a file anew: at every moment there is either the old one or the new one, whole."""
    temporary = _temporary(path)
    with _explained(path):
        try:
            with temporary.open("wb") as file:
                file.writelines(_line(record) for record in (asdict(run), *map(asdict, rows)))
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        temporary.replace(path)


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Inside, no other command works on this file.

    Raises:
        ValueError: another one does.
    """
    if flock is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:  # not the file itself, which may be replaced
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                log.warning("%s: this file system knows no locks; let no other command write there", path)
            else:
                raise ValueError(f"another command is writing {path}; wait for it, or choose another file") from error
        yield
        with suppress(OSError):
            os.unlink(file.name)


def same(a: str | bytes, run: Run) -> bool:
    """Whether a file's first line is this run."""
    try:
        return Run(**json.loads(a)) == Run(**json.loads(json.dumps(asdict(run))))
    except (TypeError, ValueError):  # not JSON, or not a run
        return False


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.stem}.part")


def _parts(path: Path) -> list[Path]:
    name = re.compile(rf"{re.escape(path.stem)}\.rank\d+{re.escape(path.suffix)}")
    return sorted(p for p in path.parent.iterdir() if name.fullmatch(p.name)) if path.parent.is_dir() else []


def _rows(path: Path, run: Run) -> list[Row] | None:
    """Rows of one file, None if it was not begun. A last line that was cut off is taken away: its image comes again."""
    text = path.read_bytes() if path.exists() else b""
    if _unbegun(text, run):
        return None
    if _of_another(path, run):
        raise ValueError(f"{path} holds rows of another run; choose another file or delete it")
    _, *lines, last = text.split(b"\n")
    rows = [_row(line, f"{path}, line {k}") for k, line in enumerate(lines, 2)]
    if last:
        log.warning("%s: the last line was cut off; its image is done again", path)
        os.truncate(path, len(text) - len(last))
    return rows


def _unbegun(text: bytes, run: Run) -> bool:
    """Whether a file holds nothing, or no more than the beginning of this run's first line."""
    return _line(asdict(run))[:-1].startswith(text)


def _of_another(path: Path, run: Run) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        first = file.readline()
    return not _unbegun(first, run) and not (first.endswith(b"\n") and same(first, run))


def _free(path: Path) -> Path:
    """A name beside `path` that no file has, and that none of its own processes would give to a file."""
    names = (path.with_name(f"{path.name}.before{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _row(line: bytes, where: str) -> Row:
    try:
        return Row(**json.loads(line))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}, is damaged; delete this line, and its image is done again") from error


def _line(record: dict) -> bytes:
    return (json.dumps(record) + "\n").encode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """An error of the file system as a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else str(error.strerror or error)
        what = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "see to it"
        text = (
            f"cannot write {path}: {why}. All rows before this one are kept: {what}, then give the same command again"
        )
        raise OSError(error.errno, text) from error

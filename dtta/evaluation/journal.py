"""The file of a run's rows: whatever stops a run, the rows that it has written are kept and not computed again.

The first line is the run, every other line one row, which is on disk before the next row is begun. Several processes
write one file each (``rows.jsonl``, ``rows.rank1.jsonl``, ...); the next reader merges them, however many there are.
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

from filelock import FileLock, Timeout

from dtta.evaluation.run import Cell, Row, Run

log = logging.getLogger(__name__)


def file_of(path: Path, rank: int) -> Path:
    """Return the file that a process writes: `path` for the first one, a file next to it for each other one."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path


def read(path: Path, run: Run) -> dict[Cell, Row]:
    """Return all rows written so far; merge the files of several processes into `path`; create it if there is none.

    Raises ValueError: a file holds rows of another run, or is damaged (all are left as they are); OSError.
    """
    parts = _parts(path)
    first = _rows(path, run)  # read before anything is changed: the file may hold something else
    rows = {row.cell: row for part in parts for row in _rows(part, run) or ()}
    rows |= {row.cell: row for row in first or ()}
    if parts:
        write(path, run, rows.values())
        for part in parts:
            part.unlink()
    elif first is None:
        create(path, run)
    _temporary(path).unlink(missing_ok=True)  # left by a command that was killed while it wrote
    return rows


def archive(path: Path, run: Run) -> list[Path]:
    """Rename files at `path` that are not this run's; return the new paths. Raises ValueError: in use; OSError."""
    if not any(_of_another(part, run) for part in (path, *_parts(path))):
        return []
    with lock(path), _explained(path):
        return [part.rename(_free(part)) for part in (path, *_parts(path)) if _of_another(part, run)]


def create(path: Path, run: Run) -> None:
    """Create a file with the run as its first line and no rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _explained(path):
        path.write_bytes(_line(asdict(run)))


def append(path: Path, row: Row) -> None:
    """Append a row; on return it is on disk. Raises OSError: it could not be written; the rows before it are kept."""
    with _explained(path), path.open("ab", buffering=0) as file:
        before, left = file.tell(), memoryview(_line(asdict(row)))
        try:
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                file.truncate(before)  # remove what was written of the row
            raise


def write(path: Path, run: Run, rows: Iterable[Row]) -> None:
    """Replace a file; at every moment either the old or the new one is complete."""
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
    """Keep other commands from working on this file. Raises ValueError: another command does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = FileLock(path.with_name(f".{path.name}.lock"))  # not the file itself, which may be replaced
    try:
        file.acquire(blocking=False)
    except Timeout as error:
        raise ValueError(f"another command is writing {path}; wait for it, or choose another file") from error
    except (OSError, NotImplementedError):
        log.warning("%s: this file system has no locks; let no other command write there", path)
    try:
        yield
    finally:
        if file.is_locked:
            with suppress(OSError):
                os.unlink(file.lock_file)
            file.release()


def same(a: str | bytes, run: Run) -> bool:
    """Return whether a file's first line is this run."""
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
    """Return the rows of one file, None if it holds no run. Remove a last line that was cut off."""
    text = path.read_bytes() if path.exists() else b""
    if _is_unstarted(text, run):
        return None
    if _of_another(path, run):
        raise ValueError(f"{path} holds rows of another run; choose another file or delete it")
    _, *lines, last = text.split(b"\n")
    rows = [_row(line, f"{path}, line {k}") for k, line in enumerate(lines, 2)]
    if last:
        log.warning("%s: the last line was cut off; its image is evaluated again", path)
        os.truncate(path, len(text) - len(last))
    return rows


def _is_unstarted(text: bytes, run: Run) -> bool:
    """Return whether a file is empty or holds only the beginning of this run's first line."""
    return _line(asdict(run))[:-1].startswith(text)


def _of_another(path: Path, run: Run) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        first = file.readline()
    return not _is_unstarted(first, run) and not (first.endswith(b"\n") and same(first, run))


def _free(path: Path) -> Path:
    """Return an unused name in the same folder, which is not one of a process's file."""
    names = (path.with_name(f"{path.name}.before{number}") for number in count(1))
    return next(name for name in names if not name.exists())


def _row(line: bytes, where: str) -> Row:
    try:
        record = json.loads(line)
        if "method" not in record:
            return Row(**record)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}, is damaged; delete this line, and its image is evaluated again") from error
    raise ValueError(f"{where}, begins another run; delete it and all lines below, or the file")


def _line(record: dict) -> bytes:
    return (json.dumps(record) + "\n").encode()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a sentence that says what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else str(error.strerror or error)
        remedy = "make room" if full or error.errno == errno.EFBIG else "correct this"
        kept = f"All rows before this one are kept: {remedy}, then give the same command again"
        raise OSError(error.errno, f"cannot write {path}: {reason}. {kept}") from error

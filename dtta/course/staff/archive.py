"""Read the zip files of learning platforms, and of students, without unpacking anything to the disk."""

from __future__ import annotations

import contextlib
import datetime as dt
import io
import re
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from dtta.course.staff.source import CourseError

LARGEST = 50_000_000  # bytes of one notebook
TOTAL = 1_000_000_000  # bytes of all notebooks in a zip
FILES = 20_000


def files(path: Path) -> list[tuple[str, dt.datetime | None, bytes]]:
    """The files of a zip: the path of each in it, when it was changed, and its bytes if it may be a notebook.

    Raises:
        CourseError: it is no zip, or one that might do harm.
    """
    if not path.is_file():
        raise CourseError(f"{path} is no file; name the zip that your learning platform gave you")
    try:
        with zipfile.ZipFile(path) as archive:
            return list(_members(archive, path.name, [FILES, TOTAL]))
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{path} cannot be opened as a zip ({error}); download it again") from error


def _members(archive: zipfile.ZipFile, shown: str, left: list[int], nested: bool = False) -> Iterator[tuple]:
    """`left`: how many files and bytes may still be read; what a zip says of its sizes need not be true."""
    for member in archive.infolist():
        name = _name(member)
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or re.match(r"[A-Za-z]:", name):
            raise CourseError(f"{shown} holds a file with a path that leads out of it, {name!r}; it is not opened")
        if member.is_dir() or "__MACOSX" in parts or parts[-1].startswith("._"):
            continue
        when = dt.datetime(*member.date_time) if member.date_time > (1980, 1, 1, 0, 0, 0) else None
        inside = name.lower().endswith(".zip") and not nested
        data = b""
        if inside or ".ipynb" in name.lower():
            with archive.open(member) as file:
                data = file.read(LARGEST + 1)
        left[:] = left[0] - 1, left[1] - len(data)
        if min(left) < 0:
            raise CourseError(f"{shown} unpacks to more than {FILES} files or {TOTAL / 1e9:g} GB; it is not opened")
        if not inside:
            yield name, when, data
            continue
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as inner:  # a student who handed in a zip
                handed_in = list(_members(inner, f"{shown}: {name}", left, nested=True))
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, zlib.error):
            yield name, when, b""
            continue
        for path, _, content in handed_in:
            yield f"{name[:-4]}_{PurePosixPath(path).name}", when, content


def _name(member: zipfile.ZipInfo) -> str:
    """A file's path in a zip. Platforms write it in UTF-8; not all of them say so."""
    name = member.filename
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", name).replace("\\", "/")

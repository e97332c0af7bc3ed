"""Download public data sets into the data folder: ``dtta fetch imagenet-a``; ``dtta doctor`` says how to get others.

Archives are checked against published checksums. Imports neither torch nor the hub's library until it downloads.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import tomllib
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path

from dtta.problems.data.folders import data_folder, one_line

HUB = "hub:"  # prefix of OWNER/NAME/FILE, a file of a data set on the Hugging Face hub


@dataclass(frozen=True)
class Archives:
    """The archives of a data set, and the `folder` of the data folder that they unpack to.

    `checksums`: URL, or ``hub:OWNER/NAME/FILE``, of each tar or zip file -> "algorithm:hexadecimal digest".
    `unpack_in`: folder to unpack them in, if they do not contain `folder` themselves.
    """

    checksums: Mapping[str, str]
    folder: str
    unpack_in: str = "."


_TABLE = tomllib.loads(Path(__file__).with_name("archives.toml").read_text(encoding="utf-8"))
ARCHIVES = {name: Archives(**entry) for name, entry in _TABLE.items()}


class FetchError(OSError):
    """A data set could not be downloaded. The message is one sentence: why, and what to do."""


def hint(name: str) -> str:
    """Return "dtta fetch NAME, or by hand " for the data sets that ``dtta fetch`` can download, else ""."""
    return f"dtta fetch {name}, or by hand " if name in ARCHIVES else ""


def fetch(name: str) -> Path:
    """Download, check and unpack a data set; return its folder. Skips unpacked archives, resumes partial downloads.

    Raises ValueError: no archive is listed under that name; FetchError: no network, too little disk space, or a file
    with another checksum.
    """
    if name not in ARCHIVES:
        choices = ", ".join(ARCHIVES)
        raise ValueError(f"{name!r} cannot be fetched; {choices} can. dtta doctor {name} says how to get it")
    archives = ARCHIVES[name]
    root = data_folder()
    for address, checksum in archives.checksums.items():
        marker = root / f".{name}-{_file_name(address)}.done"  # one for each archive: ImageNet-C's four are 70 GB
        target = root / archives.unpack_in
        if _is_unpacked(marker, target):
            continue
        with lock(name):
            if _is_unpacked(marker, target):  # by another process, in the meantime
                continue
            archive = _download(address, root)
            _check(archive, checksum, address)
            marker.write_text("\n".join(_unpack(archive, target)), encoding="utf-8")
            if not address.startswith(HUB):  # the hub's cache keeps its files
                archive.unlink()
    folder = root / archives.folder
    if not folder.is_dir():
        raise FetchError(f"{name} was unpacked in {root}, but contains no folder {archives.folder}; look there for it")
    return folder


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Let only one process of this machine, or of a shared disk, download and unpack a data set at a time."""
    from filelock import FileLock, Timeout

    path = data_folder() / f".{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(path)
    try:
        held.acquire(timeout=0)
    except Timeout:
        print(f"waiting for another process, which unpacks {name}", flush=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def _is_unpacked(marker: Path, target: Path) -> bool:
    """Return whether an archive was unpacked and all that it contains, listed in the marker, is still there."""
    return marker.is_file() and all((target / name).exists() for name in marker.read_text(encoding="utf-8").split("\n"))


def _file_name(address: str) -> str:
    return address.rpartition("/")[2]


def _download(address: str, root: Path) -> Path:
    """Download an archive if it is not there yet."""
    try:
        if address.startswith(HUB):
            from huggingface_hub import hf_hub_download

            owner, name, file = address.removeprefix(HUB).split("/", 2)
            return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset"))
        target = root / f".{_file_name(address)}"
        if not target.exists():
            part = target.with_name(f"{target.name}.part")
            _resume(address, part)
            part.replace(target)
        return target
    except (OSError, ValueError) as error:  # base classes of the errors of urllib and of the hub
        raise FetchError(
            f"cannot download {address}: {one_line(error)}. The part downloaded so far is kept: give the same command "
            f"again, or put the files into {root} by hand"
        ) from error


def _resume(address: str, part: Path) -> None:
    """Append the rest of a file to the part that was downloaded before."""
    from tqdm.auto import tqdm

    start = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # the part is the whole file
            return
        raise
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:  # a server that ignores ranges
            start = 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total and 2 * total - start > free:  # the archive and its content
            need = (2 * total - start) / 1e9
            raise OSError(f"it needs about {need:.1f} GB in {part.parent}, where {free / 1e9:.1f} GB are free")
        bar = tqdm(desc=_file_name(address), total=total, initial=start, unit="B", unit_scale=True)
        with bar, part.open("ab" if start else "wb") as file:
            while block := response.read(2**20):
                file.write(block)
                bar.update(len(block))
    if total and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _check(archive: Path, checksum: str, address: str) -> None:
    """Delete an archive whose checksum is wrong, and raise FetchError."""
    algorithm, _, expected = checksum.partition(":")
    with archive.open("rb") as file:
        digest = hashlib.file_digest(file, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()
    if digest == expected:
        return
    archive.resolve().unlink()  # in the hub's cache the file is a link to its content
    archive.unlink(missing_ok=True)
    raise FetchError(
        f"the file from {address} has the {algorithm} checksum {digest} instead of {expected}: it is damaged or was "
        "replaced, and has been deleted; give the same command again to download it anew"
    )


def _unpack(archive: Path, target: Path) -> list[str]:
    """Unpack in a temporary folder, then move the content, so that no folder of a data set is ever incomplete.

    Return the names of what was moved.
    """
    target.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {archive.name.lstrip('.')}", flush=True)
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacking-") as temporary:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:
                    file.extractall(temporary)
            else:
                with tarfile.open(archive) as file:
                    _extract(file, Path(temporary))
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
            raise FetchError(f"cannot unpack {archive}: {one_line(error)}; give the same command again") from error
        sources = sorted(Path(temporary).iterdir())
        for destination in [target / source.name for source in sources]:
            if destination.exists():
                raise FetchError(f"{destination} already exists; move it away, then give the same command again")
        for source in sources:
            source.replace(target / source.name)
    return [source.name for source in sources]


def _extract(file: tarfile.TarFile, folder: Path) -> None:
    """Unpack a tar file without paths or links outside the folder, and without devices.

    Raises TarError: it has such a member.
    """
    if hasattr(tarfile, "data_filter"):
        file.extractall(folder, filter="data")
        return
    for member in file.getmembers():  # Python before 3.11.4, such as Debian 12's
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name!r} is outside the destination, or is a link or a device")
        member.mode = 0o755 if member.isdir() else 0o644
    file.extractall(folder)

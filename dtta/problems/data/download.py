"""Data sets that are published as open archives, brought into the data folder: ``dtta fetch imagenet-a``.

The others need an account or are made by their authors' code; ``dtta doctor`` says how each is to be had.
"""

from __future__ import annotations

import errno
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from argparse import Namespace
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from huggingface_hub import hf_hub_download
from tqdm.auto import tqdm

from dtta.problems.data.folders import data_folder, one_line

HUB = "hub:"  # before OWNER/NAME/FILE of a data set on the Hugging Face hub
BERKELEY = "https://people.eecs.berkeley.edu/~hendrycks"
ZENODO = "https://zenodo.org/records/2235448/files"


@dataclass(frozen=True)
class Archives:
    """Where a data set's archives lie.

    Args:
        addresses: of tar or zip files; ``hub:OWNER/NAME/FILE`` for those of the hub.
        folder: what they unpack to, under the data folder.
        inside: folder to unpack them in, where they do not bring their own.
    """

    addresses: tuple[str, ...]
    folder: str
    inside: str = "."


ARCHIVES = {
    "imagenet-a": Archives((f"{BERKELEY}/imagenet-a.tar",), "imagenet-a"),
    "imagenet-r": Archives((f"{BERKELEY}/imagenet-r.tar",), "imagenet-r"),
    "imagenet-v2": Archives(
        (f"{HUB}vaishaal/ImageNetV2/imagenetv2-matched-frequency.tar.gz",), "imagenetv2-matched-frequency-format-val"
    ),
    "imagenet-c": Archives(
        tuple(f"{ZENODO}/{name}.tar" for name in ("noise", "blur", "weather", "digital")), "imagenet-c", "imagenet-c"
    ),
    "ade20k": Archives(
        ("http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",), "ADEChallengeData2016"
    ),
}


class FetchError(OSError):
    """A data set could not be fetched. The sentence says why, and what to do."""


def fetch(name: str) -> Path:
    """Download and unpack a data set; what is there already is not fetched again, and a download goes on.

    Returns:
        Its folder.

    Raises:
        ValueError: no open archive of that name is known.
        FetchError: no network, no room, or a damaged archive.
    """
    if name not in ARCHIVES:
        raise ValueError(
            f"{name!r} cannot be fetched; {', '.join(ARCHIVES)} can. dtta doctor {name} says how to get it"
        )
    known = ARCHIVES[name]
    root = data_folder()
    for address in known.addresses:
        done = root / f".{name}-{_file(address)}.done"  # each archive for itself: the four of ImageNet-C are 70 GB
        if done.exists():
            continue
        root.mkdir(parents=True, exist_ok=True)
        _unpack(*_download(address, root), root / known.inside)
        done.touch()
    if not (root / known.folder).is_dir():
        raise FetchError(
            f"{name} was unpacked in {root}, but brought no folder {known.folder}; look there, and move it"
        )
    return root / known.folder


def command(options: Namespace) -> None:
    """``dtta fetch``."""
    for name in options.names:
        print(f"{name} is in {fetch(name)}")


def _file(address: str) -> str:
    return address.rpartition("/")[2]


def _download(address: str, root: Path) -> tuple[Path, bool]:
    """An archive's file, and whether it is to be deleted once it is unpacked: the hub's cache keeps its own."""
    try:
        if address.startswith(HUB):
            owner, name, file = address.removeprefix(HUB).split("/", 2)
            return Path(hf_hub_download(f"{owner}/{name}", file, repo_type="dataset")), False
        target = root / f".{_file(address)}"
        if not target.exists():
            _get(address, target.with_name(f"{target.name}.part"))
            target.with_name(f"{target.name}.part").replace(target)
        return target, True
    except (OSError, ValueError) as error:  # those of urllib and of the hub are of these kinds
        raise FetchError(
            f"cannot download {address}: {one_line(error)}. What has come is kept: give the same command again, or put "
            f"the files into {root} by hand"
        ) from error


def _get(address: str, part: Path) -> None:
    """Download the rest of a file behind what is there of it."""
    have = part.stat().st_size if part.exists() else 0
    asked = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(asked, timeout=60)
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # all of it is there
            return
        raise
    with answer:
        have = have if answer.status == HTTPStatus.PARTIAL_CONTENT else 0  # a server that starts from the beginning
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        free = shutil.disk_usage(part.parent).free
        if total and 2 * total - have > free:  # the archive, and what is in it
            need = (2 * total - have) / 1e9
            raise OSError(f"it needs about {need:.1f} GB in {part.parent}, where {free / 1e9:.1f} GB are free")
        with part.open("ab" if have else "wb") as file, tqdm(
            desc=_file(address), total=total, initial=have, unit="B", unit_scale=True
        ) as bar:  # fmt: skip
            while block := answer.read(2**20):
                file.write(block)
                bar.update(len(block))
    if total and part.stat().st_size < total:
        raise OSError(f"the connection ended after {part.stat().st_size} of {total} bytes")


def _unpack(archive: Path, ours: bool, into: Path) -> None:
    """Unpack beside, then move: a folder of the data set is there whole or not at all."""
    into.mkdir(parents=True, exist_ok=True)
    print(f"unpacking {archive.name.lstrip('.')}", flush=True)
    with tempfile.TemporaryDirectory(dir=into, prefix=".unpacking-") as beside:
        try:
            if zipfile.is_zipfile(archive):
                with zipfile.ZipFile(archive) as file:
                    file.extractall(beside)
            else:
                _end(archive)
                with tarfile.open(archive) as file:
                    file.extractall(beside, filter="data")  # nothing outside the folder, no links, no devices
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, OSError) as error:
            if ours and getattr(error, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
                archive.unlink()  # damaged; on a full disk it is whole
            raise FetchError(f"cannot unpack {archive}: {one_line(error)}; give the same command again") from error
        for found in Path(beside).iterdir():
            target = into / found.name
            if target.exists():
                raise FetchError(f"{target} is there already; move it away, then give the same command again")
            found.replace(target)
    if ours:
        archive.unlink()


def _end(archive: Path) -> None:
    """A plain tar file ends with two blocks of zeros; without them it was cut off, which tarfile does not tell."""
    with archive.open("rb") as file:
        file.seek(max(archive.stat().st_size - 1024, 0))
        if archive.suffix == ".tar" and any(file.read()):
            raise tarfile.ReadError("it was cut off")

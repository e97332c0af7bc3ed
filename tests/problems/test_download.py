"""dtta fetch, from a local server that can close the connection in the middle of a file."""

from __future__ import annotations

import errno
import hashlib
import io
import multiprocessing
import shutil
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import stand_ins

from dtta.cli import main
from dtta.problems.data import imagenet
from dtta.problems.data.download import ARCHIVES, Archives, FetchError, fetch

NAME = "imagenet-a"


class Server(BaseHTTPRequestHandler):
    """Serve files by name, with ranges if `server.ranges`; break off once after `server.breaks` bytes."""

    def do_GET(self):
        content = self.server.files.get(self.path.lstrip("/"))
        self.server.requests.append(self.headers.get("Range"))
        if content is None:
            return self.send_error(404)
        first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        if first >= len(content):
            return self.send_error(416)
        self.send_response(206 if first and self.server.ranges else 200)
        rest = content[first if self.server.ranges else 0 :]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        stop, self.server.breaks = self.server.breaks, None
        self.wfile.write(rest[:stop])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.files, server.requests, server.breaks, server.ranges = {}, [], None, True
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def publish(server, monkeypatch):
    """Serve archives, and list them with their checksums as the archives of a data set."""

    def publish(name: str, archives: dict[str, bytes], folder: str, unpack_in: str = ".", kind: str = "sha256"):
        server.files |= archives
        checksums = {
            f"http://127.0.0.1:{server.server_port}/{file}": f"{kind}:{hashlib.new(kind, content).hexdigest()}"
            for file, content in archives.items()
        }
        monkeypatch.setitem(ARCHIVES, name, Archives(checksums, folder, unpack_in))

    return publish


@pytest.fixture
def archive(publish, tmp_path) -> bytes:
    """A tar file of 10 kB with one image, published as ImageNet-A."""
    (tmp_path / NAME / "n1").mkdir(parents=True)
    (tmp_path / NAME / "n1" / "a.jpg").write_bytes(b"image" * 100)
    content = tar(tmp_path, NAME)
    publish(NAME, {"a.tar": content}, NAME)
    return content


def tar(folder: Path, name: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        file.add(folder / name, name)
    return buffer.getvalue()


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


IMAGES = {"n1/a.jpg": b"image" * 100}


def test_every_published_archive_has_a_checksum():
    lengths = {"md5": 32, "sha1": 40, "sha256": 64}
    for archives in ARCHIVES.values():
        for checksum in archives.checksums.values():
            algorithm, _, digest = checksum.partition(":")
            assert len(bytes.fromhex(digest)) * 2 == lengths[algorithm]


def test_a_fetched_data_set_is_found_and_read(server, publish, tmp_path, capsys):
    source = stand_ins.imagenet(tmp_path / "source", [NAME]) / NAME
    publish(NAME, {"a.tar": tar(source.parent, NAME)}, NAME, kind="md5")
    with pytest.raises(FileNotFoundError, match="to get it: dtta fetch imagenet-a, or by hand https"):
        imagenet.root(NAME)
    assert main(["fetch", NAME]) == 0
    folder = tmp_path / "data" / NAME
    assert f"{NAME} is in {folder}" in capsys.readouterr().out
    assert content(folder) == content(source)
    assert len(imagenet.read(NAME, imagenet.root(NAME))) == 200
    assert {p.name for p in folder.parent.iterdir()} - {f".{NAME}.lock"} == {NAME, f".{NAME}-a.tar.done"}
    assert fetch(NAME) == folder
    assert len(server.requests) == 1  # it is not downloaded again


def test_a_data_set_that_was_deleted_is_fetched_again(server, archive, tmp_path):
    shutil.rmtree(fetch(NAME))
    assert content(fetch(NAME)) == IMAGES


def test_two_processes_do_not_fetch_at_the_same_time(server, archive, tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch, args=(NAME,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(server.requests) == 1 and content(tmp_path / "data" / NAME) == IMAGES


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(server, archive, tmp_path, ranges):
    server.breaks, server.ranges = 1000, ranges
    with pytest.raises(FetchError, match=r"the connection ended after 1000 of \d+ bytes. The part .* is kept"):
        fetch(NAME)
    assert not (tmp_path / "data" / NAME).exists()
    assert content(fetch(NAME)) == IMAGES
    assert server.requests == [None, "bytes=1000-"]


def test_a_complete_part_is_used(server, archive, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".a.tar.part").write_bytes(archive)
    assert content(fetch(NAME)) == IMAGES


@pytest.mark.parametrize("wrong", [lambda b: b[:5000], lambda b: b.replace(b"image", b"virus")])
def test_a_file_with_another_checksum_is_deleted(server, archive, tmp_path, wrong):
    server.files["a.tar"] = wrong(archive)
    with pytest.raises(FetchError, match=r"a\.tar has the sha256 checksum \w+ instead of \w+: .*has been deleted"):
        fetch(NAME)
    assert not content(tmp_path / "data").keys() - {f".{NAME}.lock"}
    server.files["a.tar"] = archive
    assert content(fetch(NAME)) == IMAGES


def test_several_archives_in_one_folder(server, publish, tmp_path):
    archives = {}
    for corruption, file in (("fog", "weather.tar"), ("contrast", "digital.tar")):
        (tmp_path / corruption / "3").mkdir(parents=True)
        (tmp_path / corruption / "3" / "a.txt").write_text(corruption, encoding="utf-8")
        archives[file] = tar(tmp_path, corruption)
    publish("imagenet-c", archives, "imagenet-c", "imagenet-c")
    del server.files["digital.tar"]
    with pytest.raises(FetchError, match=r"digital.tar: HTTP Error 404"):
        fetch("imagenet-c")
    server.files |= archives
    assert content(fetch("imagenet-c")) == {"contrast/3/a.txt": b"contrast", "fog/3/a.txt": b"fog"}
    assert len(server.requests) == 3  # the first archive is not downloaded again


def test_zip_files(publish, archive, tmp_path):
    packed = Path(shutil.make_archive(str(tmp_path / "b"), "zip", tmp_path, NAME))
    publish(NAME, {"b.zip": packed.read_bytes()}, NAME)
    assert content(fetch(NAME)) == IMAGES


@pytest.mark.parametrize("damaged", [False, True])
def test_the_hub_keeps_its_file_unless_it_is_damaged(archive, tmp_path, monkeypatch, damaged):
    blob, cached = tmp_path / "blob", tmp_path / "a.tar.gz"
    blob.write_bytes(archive)
    cached.symlink_to(blob)
    checksum = hashlib.sha256(archive).hexdigest()
    monkeypatch.setitem(ARCHIVES, NAME, Archives({"hub:owner/data/parts/a.tar.gz": f"sha256:{checksum}"}, NAME))
    requests = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kw: requests.append((args, kw)) or cached)
    if damaged:
        blob.write_bytes(archive[:-1])
        with pytest.raises(FetchError, match="has been deleted"):
            fetch(NAME)
    else:
        assert content(fetch(NAME)) == IMAGES
    assert requests == [(("owner/data", "parts/a.tar.gz"), {"repo_type": "dataset"})]
    assert blob.exists() == (not damaged) and not (damaged and cached.is_symlink())


@pytest.fixture(params=["with filters", "Python 3.11.2"])
def python(request, monkeypatch):
    """tarfile as it is; and as in Python 3.11.2, the one of Debian 12, without filters."""
    if request.param == "Python 3.11.2":
        extract, trusted = tarfile.TarFile.extractall, tarfile.fully_trusted_filter
        monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: extract(self, path, filter=trusted))
        monkeypatch.delattr(tarfile, "data_filter")


@pytest.mark.parametrize(("name", "link"), [("../../escaped.txt", ""), ("a/escaped.txt", "../../../outside")])
def test_nothing_is_written_outside_the_folder(publish, tmp_path, python, name, link):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        if link:
            folder = tarfile.TarInfo("a")
            folder.type, folder.linkname = tarfile.SYMTYPE, link
            file.addfile(folder)
        file.addfile(tarfile.TarInfo(name))
    publish(NAME, {"bad.tar": buffer.getvalue()}, NAME)
    with pytest.raises(FetchError, match=r"cannot unpack .*bad.tar.*outside the destination"):
        fetch(NAME)
    assert not list(tmp_path.rglob("escaped.txt"))


def test_archives_are_unpacked_by_every_python(archive, python):
    assert content(fetch(NAME)) == IMAGES


def test_if_the_disk_is_full_the_archive_is_kept(server, archive, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
        with pytest.raises(FetchError, match=r"it needs about 0.0 GB in .*, where 0.0 GB are free"):
            fetch(NAME)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", full)
        with pytest.raises(FetchError, match="No space left on device"):
            fetch(NAME)
    requests = len(server.requests)
    assert content(fetch(NAME)) == IMAGES
    assert len(server.requests) == requests


def test_an_existing_folder_is_not_overwritten(archive, tmp_path):
    (tmp_path / "data" / NAME).mkdir(parents=True)
    (tmp_path / "data" / NAME / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FetchError, match="already exists; move it away"):
        fetch(NAME)
    assert content(tmp_path / "data" / NAME) == {"mine.txt": b"mine"}


def test_errors_are_one_sentence(server, archive, capsys):
    server.shutdown()
    server.server_close()
    assert main(["fetch", NAME]) == 2
    message = capsys.readouterr().err
    assert message.startswith("dtta: cannot download http://127.0.0.1") and "give the same command again" in message
    assert main(["fetch", "nyuv2"]) == 2
    assert "'nyuv2' cannot be fetched; imagenet-a, imagenet-r" in capsys.readouterr().err


def test_every_archive_has_a_checksum_and_no_plain_http():
    for archive in ARCHIVES.values():
        for address, checksum in archive.checksums.items():
            assert address.startswith(("https://", "hub:")), address
            assert len(checksum.partition(":")[2]) >= 32

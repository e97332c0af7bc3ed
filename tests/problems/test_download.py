"""dtta fetch: from a server on this machine, which can stop in the middle."""

from __future__ import annotations

import errno
import io
import shutil
import tarfile
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import stand_ins

from dtta.cli import main
from dtta.problems.data import download as module
from dtta.problems.data import imagenet as imagenet_data
from dtta.problems.data.download import Archives, FetchError, fetch


class Server(BaseHTTPRequestHandler):
    """Files by name; it understands ranges, and breaks off once after `server.breaks` bytes."""

    def do_GET(self):
        given = self.server.files.get(self.path.lstrip("/"))
        self.server.asked.append(self.headers.get("Range"))
        if given is None:
            return self.send_error(404)
        first = int(self.headers["Range"].removeprefix("bytes=").rstrip("-")) if self.headers["Range"] else 0
        if first >= len(given):
            return self.send_error(416)
        self.send_response(206 if first and self.server.ranges else 200)
        rest = given[first if self.server.ranges else 0 :]
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
        server.files, server.asked, server.breaks, server.ranges = {}, [], None, True
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True)
        thread.start()
        yield server
        server.shutdown()


def tar(folder: Path, *names: str) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as file:
        for name in names:
            file.add(folder / name, name)
    return written.getvalue()


def known(monkeypatch, server, name: str, *files: str, folder: str, inside: str = ".") -> None:
    addresses = tuple(f"http://127.0.0.1:{server.server_port}/{file}" for file in files)
    monkeypatch.setitem(module.ARCHIVES, name, Archives(addresses, folder, inside))


@pytest.fixture
def published(server, tmp_path, monkeypatch):
    """ImageNet-A as a tar file, with the pictures of the stand-in."""
    made = stand_ins.imagenet(tmp_path / "made")
    server.files["imagenet-a.tar"] = tar(made, "imagenet-a")
    known(monkeypatch, server, "imagenet-a", "imagenet-a.tar", folder="imagenet-a")
    return made / "imagenet-a"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_what_is_fetched_is_what_the_problem_reads(server, published, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="to get it: dtta fetch imagenet-a, or by hand https"):
        imagenet_data.root("imagenet-a")
    assert main(["fetch", "imagenet-a"]) == 0
    folder = tmp_path / "data" / "imagenet-a"
    assert f"imagenet-a is in {folder}" in capsys.readouterr().out
    assert files(folder) == files(published)
    assert len(imagenet_data.read("imagenet-a", imagenet_data.root("imagenet-a")).paths) > 0
    assert {p.name for p in folder.parent.iterdir()} == {"imagenet-a", ".imagenet-a-imagenet-a.tar.done"}
    assert fetch("imagenet-a") == folder and len(server.asked) == 1  # once is enough


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(server, published, tmp_path, ranges):
    server.breaks, server.ranges = 1000, ranges
    with pytest.raises(FetchError, match=r"the connection ended after 1000 of \d+ bytes. What has come is kept"):
        fetch("imagenet-a")
    assert not (tmp_path / "data" / "imagenet-a").exists()
    assert files(fetch("imagenet-a")) == files(published)
    assert server.asked == [None, "bytes=1000-"]


def test_a_download_that_was_killed_at_its_end_goes_on(server, published, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".imagenet-a.tar.part").write_bytes(server.files["imagenet-a.tar"])
    assert files(fetch("imagenet-a")) == files(published)


def test_several_archives_in_one_folder(server, tmp_path, monkeypatch):
    for family, group in (("fog", "weather"), ("contrast", "digital")):
        (tmp_path / family / "3").mkdir(parents=True)
        (tmp_path / family / "3" / "a.txt").write_text(family)
        server.files[f"{group}.tar"] = tar(tmp_path, family)
    digital = server.files.pop("digital.tar")
    known(monkeypatch, server, "imagenet-c", "weather.tar", "digital.tar", folder="imagenet-c", inside="imagenet-c")
    with pytest.raises(FetchError, match=r"digital.tar: HTTP Error 404"):
        fetch("imagenet-c")
    server.files["digital.tar"] = digital
    assert files(fetch("imagenet-c")) == {"contrast/3/a.txt": b"contrast", "fog/3/a.txt": b"fog"}
    assert len(server.asked) == 3  # the first archive was not fetched again


def test_zip_files_and_the_hub(server, tmp_path, monkeypatch):
    made = stand_ins.ade20k(tmp_path / "made")
    packed = Path(shutil.make_archive(str(tmp_path / "ade"), "zip", made, "ADEChallengeData2016"))
    known(monkeypatch, server, "ade20k", "ade.zip", folder="ADEChallengeData2016")
    server.files["ade.zip"] = packed.read_bytes()
    assert files(fetch("ade20k")) == files(made / "ADEChallengeData2016")

    archive, asked = tmp_path / "v2.tar.gz", []
    (tmp_path / "imagenetv2-matched-frequency-format-val" / "7").mkdir(parents=True)
    with tarfile.open(archive, "w:gz") as file:
        file.add(tmp_path / "imagenetv2-matched-frequency-format-val", "imagenetv2-matched-frequency-format-val")

    def download(repo, name, repo_type):
        asked.append((repo, name, repo_type))
        return str(archive)

    monkeypatch.setattr(module, "hf_hub_download", download)
    assert (fetch("imagenet-v2") / "7").is_dir()
    assert asked == [("vaishaal/ImageNetV2", "imagenetv2-matched-frequency.tar.gz", "dataset")]
    assert archive.exists()  # it is the hub's cache's


def test_nothing_is_written_outside_the_folder(server, tmp_path, monkeypatch):
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as file:
        file.addfile(tarfile.TarInfo("../../escaped.txt"))
    server.files["bad.tar"] = written.getvalue()
    known(monkeypatch, server, "imagenet-a", "bad.tar", folder="imagenet-a")
    with pytest.raises(FetchError, match=r"cannot unpack .*bad.tar.*outside the destination"):
        fetch("imagenet-a")
    assert not list(tmp_path.rglob("escaped.txt"))


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_damaged_archive_is_fetched_again(server, tmp_path, monkeypatch, kind):
    made = stand_ins.imagenet(tmp_path / "made")
    form = {"tar": "tar", "tar.gz": "gztar", "zip": "zip"}[kind]
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), form, made, "imagenet-a")).read_bytes()
    name = f"a.{kind}"
    known(monkeypatch, server, "imagenet-a", name, folder="imagenet-a")
    server.files[name] = whole[: len(whole) // 2]
    with pytest.raises(FetchError, match=r"cannot unpack .*; give the same command again"):
        fetch("imagenet-a")
    assert not (tmp_path / "data" / "imagenet-a").exists()
    server.files[name] = whole
    assert files(fetch("imagenet-a")) == files(made / "imagenet-a")


def test_a_full_disk_keeps_the_archive(server, published, tmp_path, monkeypatch):
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: free._replace(free=1000))
    with pytest.raises(FetchError, match=r"it needs about 0.0 GB in .*, where 0.0 GB are free"):
        fetch("imagenet-a")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: free)

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(tarfile.TarFile, "extractall", full)
        with pytest.raises(FetchError, match="No space left on device"):
            fetch("imagenet-a")
    asked = len(server.asked)
    assert files(fetch("imagenet-a")) == files(published)
    assert len(server.asked) == asked


def test_without_a_network_one_sentence_says_so(server, published, tmp_path, capsys):
    server.shutdown()
    server.server_close()
    assert main(["fetch", "imagenet-a"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dtta: cannot download http://127.0.0.1") and "give the same command again" in told


def test_what_cannot_be_fetched_says_what_can(capsys):
    assert main(["fetch", "nyuv2"]) == 2
    assert "'nyuv2' cannot be fetched; imagenet-a, imagenet-r" in capsys.readouterr().err


def test_a_folder_that_is_there_is_left_alone(server, published, tmp_path):
    (tmp_path / "data" / "imagenet-a").mkdir(parents=True)
    (tmp_path / "data" / "imagenet-a" / "mine.txt").write_text("mine")
    with pytest.raises(FetchError, match="is there already; move it away"):
        fetch("imagenet-a")
    assert files(tmp_path / "data" / "imagenet-a") == {"mine.txt": b"mine"}

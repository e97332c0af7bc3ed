"""Every public checkpoint from a local server that speaks the hub's protocol, with .bin and safetensors by revision."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import stand_ins
import torch
from safetensors.torch import load_file

from dtta.problems.data import hub
from dtta.problems.full import nyuv2

TABLES = tomllib.loads(Path(hub.__file__).with_name("checkpoints.toml").read_text(encoding="utf-8"))
CHECKPOINTS = [f"{table}/{name}" for table, entries in TABLES.items() for name in entries]
# Commits that public code lists with a pickle and without safetensors (of the main branches, in autumn 2026).
PICKLED = {
    "openai/clip-vit-base-patch32": "3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268",
    "openai/clip-vit-base-patch16": "57c216476eefef5ab752ec549e440a49ae4ae5f3",
    "nvidia/segformer-b2-finetuned-ade-512-512": "de01bae28967510f9ddd496c60a969357195400c",
    "nvidia/segformer-b5-finetuned-ade-640-640": "739f5d4692954e4a185eac280dec1ba5a7d52f1d",
    "facebook/DiT-XL-2-256": "eab87f77abd5aef071a632f08807fbaab0b704d0",
    "facebook/DiT-XL-2-512": "101a3d462b22d64c4afdd4d0c8c59a2c0b961b99",
}
REVISION = r"(refs/pr/\d+|[^/]+)"
LOAD = """
import json
from dtta.problems.data import hub
from dtta.problems.full import ade20k, imagenet, latent_maps, nyuv2, open_vocabulary, stable_diffusion
def controlled(table):
    return lambda name: stable_diffusion.load_controlled(name, table)
loads = {
    "imagenet-networks": lambda name: imagenet.load_classifier(name, range(1000)),
    "imagenet-diffusions": imagenet.load_dit,
    "ade20k-networks": ade20k.load_segformer,
    "ade20k-diffusions": controlled(ade20k.DIFFUSIONS),
    "nyuv2-networks": nyuv2.load_network,
    "nyuv2-diffusions": controlled(nyuv2.DIFFUSIONS),
    "nyuv2-encoders": lambda name: hub.load_timm(hub.locate(name, hub.checkpoints("nyuv2-encoders"))),
    "open-vocabulary-networks": open_vocabulary.load_clip,
    "open-vocabulary-diffusions": stable_diffusion.load_stable_diffusion,
    "autoencoders": latent_maps._load_vae,
}
answers = {}
for table, load in loads.items():
    for name, checkpoint in hub.checkpoints(table).items():
        try:
            load(name)
            cached = [hub.is_cached(hub.Location(checkpoint.repository, checkpoint), part) for part in checkpoint.parts]
            answers[f"{table}/{name}"] = "loaded" if all(cached) else "not cached"
        except Exception as error:
            answers[f"{table}/{name}"] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


class Server(BaseHTTPRequestHandler):
    """Serve `server.repositories`: OWNER/NAME -> revision -> folder."""

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        if found := re.fullmatch(rf"api/models/([^/]+/[^/]+)(?:/(revision|tree)/{REVISION}(/.+)?)?", path):
            folder = self.folder(found[1], found[3] or "main")
            if folder is None:
                return
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            names = [str(file.relative_to(folder)) for file in files]
            if found[4]:  # the tree of a folder; there are none that a library asks for
                return self.refuse("EntryNotFound")
            if found[2] == "tree":
                return self.answer(
                    json.dumps([dict(type="file", path=n, size=1, oid="0") for n in names]).encode(), "0"
                )
            about = dict(id=found[1], modelId=found[1], sha=commit(found[3] or "main"))
            about |= dict(siblings=[dict(rfilename=n) for n in names], tags=[], downloads=0, private=False)
            return self.answer(json.dumps(about).encode(), about["sha"])
        found = re.fullmatch(rf"([^/]+/[^/]+)/resolve/{REVISION}/(.+)", path)
        if not found:
            return self.refuse("EntryNotFound")
        folder = self.folder(found[1], found[2])
        if folder is None:
            return
        if not (folder / found[3]).is_file():
            return self.refuse("EntryNotFound")
        self.answer((folder / found[3]).read_bytes(), commit(found[2]))

    do_HEAD = do_GET

    def folder(self, repository: str, revision: str) -> Path | None:
        revisions = self.server.repositories.get(repository, {})
        if revision not in revisions:
            self.refuse("RevisionNotFound" if revisions else "RepoNotFound")
        return revisions.get(revision)

    def refuse(self, code: str) -> None:
        self.send_response(404)
        for name, value in {"X-Error-Code": code, "X-Error-Message": code, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def answer(self, content: bytes, revision: str) -> None:
        self.send_response(200)
        etag = f'"{hashlib.sha1(content).hexdigest()}"'
        headers = {"X-Repo-Commit": revision, "ETag": etag, "Content-Length": str(len(content))}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def commit(revision: str) -> str:
    return revision if re.fullmatch("[0-9a-f]{40}", revision) else hashlib.sha1(revision.encode()).hexdigest()


def pickled(folder: Path, target: Path) -> Path:
    """Copy a folder with a pickle in place of each file of safetensors."""
    shutil.copytree(folder, target)
    for file in target.rglob("*.safetensors"):
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()
    return target


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Each checkpoint at its revision, in the published layout; pickles only at the revisions that have no more."""
    root = tmp_path_factory.mktemp("published")
    controlled = stand_ins.controlled(root / "controlled")
    folders = {
        "imagenet-networks": stand_ins.classifier(root / "resnet"),
        "imagenet-diffusions": stand_ins.dit(root / "dit"),
        "ade20k-networks": stand_ins.segformer(root / "segformer"),
        "ade20k-diffusions": controlled / "controlnet",
        "nyuv2-networks": stand_ins.glpn(root / "glpn"),
        "nyuv2-diffusions": controlled / "controlnet",
        "nyuv2-encoders": stand_ins.densenet(root / "densenet"),
        "open-vocabulary-networks": stand_ins.clip(root / "clip"),
        "open-vocabulary-diffusions": controlled,
        "autoencoders": controlled / "vae",
    }
    sd3 = stand_ins.stable_diffusion_3(root / "sd3")
    old = {table: pickled(folder, root / f"old-{table}") for table, folder in folders.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        server.repositories = {}
        for table, entries in TABLES.items():
            for entry in entries.values():
                name, revision = entry["repository"], entry.get("revision", "main")
                only_pickle = revision == PICKLED.get(name) or "conversion" in entry
                revisions = {"main": old[table], PICKLED.get(name, "main"): old[table]}
                revisions[revision] = (old if only_pickle else folders)[table]
                if "text_encoder_3" in entry.get("parts", ()):
                    revisions[revision] = sd3
                server.repositories[name] = revisions | {commit(r): folder for r, folder in revisions.items()}
        threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
        yield server
        server.shutdown()


def environment(server, cache: Path) -> dict[str, str]:
    return os.environ | {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip


@pytest.fixture(scope="module")
def answers(server, tmp_path_factory) -> dict[str, str]:
    """Load all checkpoints in another process: the libraries read HF_ENDPOINT when they are imported."""
    command = [sys.executable, "-c", LOAD]
    cache = tmp_path_factory.mktemp("cache")
    done = subprocess.run(command, env=environment(server, cache), capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_checkpoint_is_read_from_its_revision(name, answers):
    """Or it is refused with the command that converts it."""
    table, _, model = name.partition("/")
    if "conversion" in TABLES[table][model]:
        assert re.match(
            "WeightsError: .* not published as safetensors; convert it once with: .*python -c", answers[name]
        )
    else:
        assert answers[name] == "loaded"


@pytest.mark.slow
def test_the_command_of_the_error_converts_a_pickle(server, tmp_path, monkeypatch):
    """A revision without safetensors, as far as is known of glpn: one command, then the folder that it writes."""
    entry = nyuv2.NETWORKS["glpn"]
    folder = server.repositories[entry.repository]["main"]
    monkeypatch.setitem(server.repositories[entry.repository], entry.revision, folder)
    load = "from dtta.problems.full import nyuv2\nnyuv2.load_network('glpn')"
    options = dict(env=environment(server, tmp_path / "cache"), capture_output=True, cwd=tmp_path, encoding="utf-8")
    error = subprocess.run([sys.executable, "-c", load], **options).stderr.splitlines()[-1]
    about = f"vinvino02/glpn-nyu cannot be read (its revision {entry.revision} contains no safetensors); it is not "
    assert about in error and error.endswith("and give the new folder, with ./ before its name")
    command = re.search('convert it once with: python (-c ".*"), and give', error)[1]
    done = subprocess.run(f"{sys.executable} {command}", shell=True, **options)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    assert nyuv2.load_network("./glpn-nyu").network.config.num_encoder_blocks == 4

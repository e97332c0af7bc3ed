"""Pack what the live page loads: the runtime, the graphs, the shipped weights, test images and settings.

Each file is a script: a page opened from a folder may load scripts but read no files. data.js, which the page loads at
once, is plain; the others hand base64 of gzipped bytes to the engine.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
import urllib.request
from pathlib import Path

import torch

from dtta.core.sampling import Sampling
from dtta.evaluation.evaluate import image_generator
from dtta.experiments import stored
from dtta.problems.chosen import chosen
from dtta.problems.digits.data import CLASSES, SIZE, draw, split
from dtta.problems.digits.models import scheduler
from dtta.problems.digits.shifts import SHIFTS
from dtta.problems.training.weights import folder
from tools.pages.project import PageError

GRAPHS = Path(__file__).parent / "graphs"
NETWORK, DIFFUSION = "resnet", "unet"  # of page 03, the defaults of the problem
TABLE = "network.class_embedding.embedding_table.weight"  # l_1 .. l_10 in the diffusion model's file
BATCH = 4  # pairs in one pass of the diffusion model; the engine fills up the last pass, with weights of 0
TIMESTEPS = scheduler().config.num_train_timesteps
IMAGES = 60  # of the test split

RUNTIME = "https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-1.30.0.tgz"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
NOTICE = "onnxruntime-web 1.30.0, Copyright (c) Microsoft Corporation, MIT licence"
PARTS = {  # name in the page -> file of the package; the CPU build, with SIMD, used on one thread
    "runtime.js": "package/dist/ort.wasm.min.js",
    "runtime.mjs": "package/dist/ort-wasm-simd-threaded.mjs",
    "runtime.wasm": "package/dist/ort-wasm-simd-threaded.wasm",
}
CACHE = Path(sys.prefix) / "share" / "dtta" / "onnxruntime-web-1.30.0"


def fetch() -> Path:
    """Download the runtime from npm into the environment, once, and return its folder. Raises PageError: no network."""
    if all((CACHE / name).is_file() for name in PARTS):
        return CACHE
    try:
        with urllib.request.urlopen(RUNTIME, timeout=60) as response:
            package = response.read()
    except OSError as error:
        raise PageError(f"cannot download {RUNTIME} ({error}): try again with a network") from error
    if base64.b64encode(hashlib.sha512(package).digest()).decode() != INTEGRITY:
        raise PageError(f"{RUNTIME} is not the file that was tested: its sha512 differs from INTEGRITY in tools/live")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        for name, part in PARTS.items():
            (CACHE / name).write_bytes(archive.extractfile(part).read())
    return CACHE


def data(presets: dict[str, dict]) -> dict:
    """Return what the page has to know: classes, shifts with their constants, images, settings and presets."""
    images, labels = split("test")
    levels = (images[:, 0] * 16).byte().flatten(1).numpy()
    settings = chosen("digits")
    tta, classifier, ensemble = (settings[name] for name in ("diffusion-tta", "diffusion-classifier", "ensemble"))
    return {
        "classes": CLASSES,
        "side": SIZE,
        "levels": 16,  # the data set's grey levels
        "images": [{"index": n, "label": int(labels[n]), "pixels": _text(levels[n].tobytes())} for n in range(IMAGES)],
        "shifts": [
            {"name": name, "severities": 5, "kind": shift.function.__name__, "constants": shift.constants}
            for name, shift in SHIFTS.items()
        ],
        "presets": {kind: {k: v for k, v in one.items() if k != "draws"} for kind, one in presets.items()},
        "timesteps": TIMESTEPS,
        "batch": BATCH,
        "table": TABLE,
        "defaults": {
            "adapt": _range(tta) | {"pairs": tta["samples"], "steps": tta["steps"], "rate": tta["lr"]},
            "classify": _range(classifier) | {"pairs": classifier["samples"], "temperature": 1},
            "ensemble": _range(ensemble) | {"pairs": ensemble["samples"], "temperature": ensemble["temperature"]},
        },
    }


def presets() -> dict[str, dict]:
    """Return a typical success, no change and harm, by rank (``stored.outcomes``), with the pairs of the stored run."""
    settings = stored.runs("digits-test")["diffusion-tta"].settings
    sampling = Sampling(settings["timesteps"], t_min=settings["t_min"], t_max=settings["t_max"])
    made = {}
    for kind, row in stored.outcomes("digits-test", "diffusion-tta", set(SHIFTS)).items():
        image, label = draw("test", row.index, row.shift, row.severity, row.seed)
        generator = image_generator(row.seed, row.index)
        pairs = [
            sampling.draw(image[None], settings["samples"], TIMESTEPS, generator) for _ in range(settings["steps"])
        ]
        made[kind] = {
            "image": row.index,
            "label": int(label),
            "shift": row.shift,
            "severity": row.severity,
            "pixels": _text(image.numpy().tobytes()),
            "draws": {
                "t": torch.cat([t for t, _ in pairs]).flatten().tolist(),
                "noise": _text(torch.cat([noise for _, noise in pairs]).numpy().tobytes()),
            },
        }
    return made


def _range(settings: dict) -> dict[str, float]:
    return {"tMin": settings["t_min"], "tMax": settings["t_max"]}


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def pack(out: Path) -> list[Path]:
    """Write the scripts that the engine loads into a folder. Raises PageError: the runtime is missing."""
    if not all((CACHE / name).is_file() for name in PARTS):
        raise PageError("the live page's runtime is missing; download it with: python tools/live fetch")
    made = presets()
    weights = {"network.safetensors": NETWORK, "diffusion.safetensors": DIFFUSION}
    contents = {
        "models.js": {path.name: path.read_bytes() for path in sorted(GRAPHS.glob("*.onnx"))}
        | {"draws.json": json.dumps({kind: one["draws"] for kind, one in made.items()}).encode()}
        | {name: (folder() / "digits" / f"{file}.safetensors").read_bytes() for name, file in weights.items()},
        "runtime.js": {name: (CACHE / name).read_bytes() for name in PARTS},
    }
    out.mkdir(parents=True, exist_ok=True)
    for name, files in contents.items():
        packed = {file: _text(gzip.compress(content, mtime=0)) for file, content in files.items()}
        notice = f"/* {NOTICE} */\n" if name == "runtime.js" else ""
        (out / name).write_text(f"{notice}dttaLive.put({json.dumps(packed)});\n", encoding="utf-8")
    content = data(made) | {"bytes": sum((out / name).stat().st_size for name in contents)}
    (out / "data.js").write_text(f"dttaLive.data = {json.dumps(content)};\n", encoding="utf-8")
    return [out / name for name in ("data.js", *contents)]

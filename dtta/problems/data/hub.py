"""Public checkpoints: from the Hugging Face hub at a pinned commit, or from a folder in the hub's layout.

Only safetensors files are read: a pickled file contains code that runs when it is opened.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dtta.problems.data.folders import one_line
from dtta.problems.device import device as device  # for the modules that load checkpoints
from dtta.problems.training.weights import WeightsError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")
# What the libraries load: a file, or an index of several files; not files of a variant, such as model.fp16.safetensors.
WEIGHTS = ("model.safetensors", "diffusion_pytorch_model.safetensors")
# transformers would let the hub convert a pickle, and read a revision that is not pinned; a WeightsError says how to
# convert it here.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint on the hub.

    Args:
        repository, gigabytes: OWNER/NAME, and the approximate size of the download.
        revision: a commit that contains safetensors, also of a pull request, or such a request; None: the newest one.
        parts: folders of the repository that contain weights; ("",): the repository itself.
        conversion: the command that converts the weights, if they are not published as safetensors; in
            checkpoints.toml also the class in transformers that reads them, for the command of `conversion_command`.
    """

    repository: str
    gigabytes: float
    revision: str | None = None
    parts: tuple[str, ...] = ("",)
    conversion: str = ""


def checkpoints(table: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of a table in checkpoints.toml by name; the first is the default."""
    entries = tomllib.loads(Path(__file__).with_name("checkpoints.toml").read_text(encoding="utf-8"))[table]
    for entry in entries.values():
        entry["parts"] = tuple(entry.get("parts", [""]))
        if entry.get("conversion", "").isidentifier():
            entry["conversion"] = conversion_command(entry["repository"], entry.get("revision"), entry["conversion"])
    return {name: Checkpoint(**entry) for name, entry in entries.items()}


def conversion_command(repository: str, revision: str | None, kind: str) -> str:
    """Return the command that downloads a pickled checkpoint of transformers and writes a folder with safetensors.

    `kind`: the class that reads it. The command, given by the user, reads the pickle; this package never does.
    """
    folder = repository.rpartition("/")[2]
    return (
        f'python -c "from huggingface_hub import snapshot_download as get; from transformers import {kind} as M; '
        f"get({repository!r}, revision={revision!r}, local_dir={folder!r}, "
        f"allow_patterns=['*.json', '*.txt', 'pytorch_model.bin']); M.from_pretrained({folder!r}).save_pretrained("
        f'{folder!r})"'
    )


@dataclass(frozen=True)
class Location:
    """Where a checkpoint is: a repository on the hub, with its entry in a table, or a folder."""

    path: str
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class Requirement:
    """What a problem needs on a machine: parts of a checkpoint, or a `file` that `command` writes by training."""

    what: str  # such as "network" or "diffusion"
    location: Location | None = None
    parts: tuple[str, ...] = ("",)
    file: Path | None = None
    command: str = ""


# The function raises FileNotFoundError if data are missing.
Requirements = tuple[list[Requirement], Callable[[], object]]


def require(what: str, name: str | None, table: Mapping[str, Checkpoint], more: tuple[str, ...] = ()) -> Requirement:
    """Return the requirement of a checkpoint, by name or folder. Raises as `locate`.

    A folder must have the parts of the table's first checkpoint and those in `more`.
    """
    location = locate(name, table)
    default = next(iter(table.values()))
    return Requirement(what, location, location.checkpoint.parts if location.checkpoint else default.parts + more)


def locate(name: str | None, table: Mapping[str, Checkpoint]) -> Location:
    """Return where a checkpoint is, by name (None: the first) or a folder's path. Raises ValueError: it is neither.

    A folder with the name of a checkpoint that must be converted contains its conversion.
    """
    name = name or next(iter(table))
    if name in table and not (table[name].conversion and Path(name).is_dir()):
        return Location(table[name].repository, table[name])
    if Path(name).is_dir():
        return Location(name)
    raise ValueError(f"there is no folder and no model {name!r}; choose from {', '.join(table)}")


def load_part(kind: type, location: Location, subfolder: str = "", **options):
    """Load one part of a checkpoint with the library's ``from_pretrained``.

    Raises WeightsError: it is missing, damaged, incomplete or pickled, or cannot be downloaded.
    """
    if subfolder:
        options["subfolder"] = subfolder
    if location.checkpoint:
        options["revision"] = location.checkpoint.revision
    has_weights = issubclass(kind, nn.Module)
    if has_weights:
        options |= {"use_safetensors": True, "output_loading_info": True}
    try:
        part = kind.from_pretrained(location.path, **options)
    except Exception as error:  # the libraries raise many kinds
        raise _weights_error(location, subfolder, error, kind.__name__) from error
    if not has_weights:
        return part
    network, info = part
    absent = sorted({*info.get("missing_keys", ()), *map(str, info.get("mismatched_keys", ()))})
    if absent:
        raise _weights_error(location, subfolder, f"it lacks {len(absent)} tensors, such as {absent[0]}")
    return network.eval()


def load_parts(location: Location, **kinds: type) -> list:
    """Load several parts of a checkpoint, each by the class of this name. Raises WeightsError as `load_part`."""
    return [load_part(kind, location, part) for part, kind in kinds.items()]


def locate_file(location: Location, name: str) -> Path:
    """Return the path of one file of a checkpoint, downloading it if needed. Raises WeightsError as `load_part`."""
    if location.checkpoint is None:
        path = Path(location.path) / name
        if not path.is_file():
            raise _weights_error(location, "", f"it has no {name}")
        return path
    try:
        return Path(hf_hub_download(location.path, name, revision=location.checkpoint.revision))
    except Exception as error:
        raise _weights_error(location, "", error) from error


def load_timm(location: Location) -> nn.Module:
    """Load a classifier in timm's layout, config.json and model.safetensors. Raises WeightsError as `load_part`."""
    config, weights = locate_file(location, "config.json"), locate_file(location, "model.safetensors")
    try:
        json.loads(config.read_text(encoding="utf-8"))["architecture"]
        network = timm.create_model(f"local-dir:{config.parent}", pretrained=False)
    except Exception as error:
        raise _weights_error(location, "", error) from error
    return load_weights(network, weights, location)


def load_weights(network: nn.Module, weights: Path, location: Location) -> nn.Module:
    """Load a file into a network with exactly the same tensors. Raises WeightsError as `load_part`."""
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise _weights_error(location, "", error) from error
    expected = network.state_dict()
    reshaped = {key for key in expected.keys() & tensors.keys() if expected[key].shape != tensors[key].shape}
    wrong = sorted(expected.keys() ^ tensors.keys() | reshaped)
    if wrong:
        reason = f"{len(wrong)} of its tensors do not match {type(network).__name__}, such as {wrong[0]}"
        raise _weights_error(location, "", reason)
    network.load_state_dict(tensors)
    return network.eval()


def is_cached(location: Location, part: str = "") -> bool:
    """Return whether the weights of a part are on this machine, all files: in the folder, or in the hub's cache."""

    def find(name: str) -> Path | None:
        if location.checkpoint is None:
            path = Path(location.path, part, name)
            return path if path.is_file() else None
        name = f"{part}/{name}".removeprefix("/")
        cached = try_to_load_from_cache(location.path, name, revision=location.checkpoint.revision)
        return Path(cached) if isinstance(cached, str) else None

    for name in WEIGHTS:
        if find(name):
            return True
        index = find(f"{name}.index.json")
        try:
            if index and all(map(find, set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))):
                return True
        except (ValueError, KeyError):  # a damaged index
            continue
    return False


def _weights_error(location: Location, subfolder: str, error: Exception | str, kind: str = "") -> WeightsError:
    """Return an error of one sentence: which part of which checkpoint, why, and what to do.

    `kind`: the name of the class in transformers that was to be loaded, for the command that converts its weights.
    """
    name = "/".join(filter(None, (location.path, subfolder)))
    reason = error if isinstance(error, str) else one_line(error)
    checkpoint = location.checkpoint
    advice = "connect to the network to download it from the hub, or give the path of a folder that contains it"
    if checkpoint is None:
        advice = "give the path of a folder that contains it, in the hub's layout"
        files = sorted(path.name for path in (Path(location.path) / subfolder).glob("*"))
        variants = [file for file in files if file.endswith(".safetensors")]
        pickled = [file for file in files if file.endswith(PICKLED)]
        if not is_cached(location, subfolder) and (variants or pickled):
            reason = f"it has only pickled weights, {pickled[0]}, which are never opened" if pickled else ""
            reason = f"it has {variants[0]}, but no {' or '.join(WEIGHTS)}" if variants else reason
            advice = "save the model as safetensors, with save_pretrained of its library and without a variant"
    elif checkpoint.conversion or "does not appear to have a file named model.safetensors" in reason:
        reason = (
            reason if checkpoint.conversion else f"its revision {checkpoint.revision or 'main'} contains no safetensors"
        )
        command = checkpoint.conversion or conversion_command(location.path, checkpoint.revision, kind)
        advice = (
            f"it is not published as safetensors; convert it once with: {command}, and give the new "
            "folder, with ./ before its name"
        )
    return WeightsError(f"{name} cannot be read ({reason}); {advice}")

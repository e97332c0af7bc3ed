"""Public checkpoints: from the Hugging Face hub at a pinned commit, or from a folder in the hub's layout.

Only safetensors files are read: a pickled file contains code that runs when it is opened.
"""

from __future__ import annotations

import json
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


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint on the hub.

    Args:
        repository, gigabytes: OWNER/NAME, and the approximate size of the download.
        revision: a commit, or the pull request with the hub's conversion to safetensors; None: the newest commit.
        parts: folders of the repository that contain weights; ("",): the repository itself.
        conversion: the command that converts the weights, if they are not published as safetensors.
    """

    repository: str
    gigabytes: float
    revision: str | None = None
    parts: tuple[str, ...] = ("",)
    conversion: str = ""


def checkpoints(table: str) -> dict[str, Checkpoint]:
    """Return the checkpoints of a table in checkpoints.toml by name; the first is the default."""
    entries = tomllib.loads(Path(__file__).with_name("checkpoints.toml").read_text(encoding="utf-8"))[table]
    return {name: Checkpoint(**entry | {"parts": tuple(entry.get("parts", [""]))}) for name, entry in entries.items()}


@dataclass(frozen=True)
class Location:
    """Where a checkpoint is: a repository on the hub, with its entry in a table, or a folder."""

    path: str
    checkpoint: Checkpoint | None = None

    @property
    def arguments(self) -> dict:
        """Arguments for ``from_pretrained``."""
        arguments = {"pretrained_model_name_or_path": self.path}
        return arguments | ({"revision": self.checkpoint.revision} if self.checkpoint else {})


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
    has_weights = issubclass(kind, nn.Module)
    if has_weights:
        options |= {"use_safetensors": True, "output_loading_info": True}
    try:
        part = kind.from_pretrained(**location.arguments, **options)
    except Exception as error:  # the libraries raise many kinds
        raise _weights_error(location, subfolder, error) from error
    if not has_weights:
        return part
    network, info = part
    absent = sorted({*info.get("missing_keys", ()), *map(str, info.get("mismatched_keys", ()))})
    if absent:
        raise _weights_error(location, subfolder, f"it lacks {len(absent)} tensors, such as {absent[0]}")
    return network.eval()


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
    """Return whether the weights of a part are on this machine: in the folder, or in the hub's cache."""
    if location.checkpoint is None:
        return any((Path(location.path) / part).glob("*.safetensors"))
    names = ("model.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors.index.json")
    files = [f"{part}/{name}".removeprefix("/") for name in names]
    revision = location.checkpoint.revision
    return any(isinstance(try_to_load_from_cache(location.path, file, revision=revision), str) for file in files)


def _weights_error(location: Location, subfolder: str, error: Exception | str) -> WeightsError:
    """Return an error of one sentence: which part of which checkpoint, why, and what to do."""
    name = "/".join(filter(None, (location.path, subfolder)))
    reason = error if isinstance(error, str) else one_line(error)
    if location.checkpoint is None:
        advice = "give the path of a folder that contains it, in the hub's layout"
        folder = Path(location.path) / subfolder
        pickled = sorted(path.name for path in folder.glob("*") if path.suffix in PICKLED)
        if pickled and not any(folder.glob("*.safetensors")):
            reason = f"it has only pickled weights, {pickled[0]}, which are never opened"
            advice = "save the model as safetensors, with save_pretrained of its library"
    elif location.checkpoint.conversion:
        command = location.checkpoint.conversion
        advice = f"it is not published as safetensors; convert it once with: {command}, and give the new folder"
    else:
        advice = "connect to the network to download it from the hub, or give the path of a folder that contains it"
    return WeightsError(f"{name} cannot be read ({reason}); {advice}")

"""Public checkpoints: from the Hugging Face hub at a pinned commit, or from a folder in the hub's layout.

Weights are read as safetensors or not at all: a pickled file is code that runs when it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dtta.problems.training.weights import WeightsError

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")


@dataclass(frozen=True)
class Checkpoint:
    """A public checkpoint.

    Args:
        repository, revision: on the hub; the revision is a commit, or where only the hub's own conversion to
            safetensors has them, the pull request that holds it; None: whatever the hub gives.
        gigabytes: what has to be downloaded, about.
        parts: folders of the repository that hold weights; ("",): the repository itself.
        how: where the weights are not published as safetensors: what makes such a file.
    """

    repository: str
    revision: str | None
    gigabytes: float
    parts: tuple[str, ...] = ("",)
    how: str = ""


@dataclass(frozen=True)
class Place:
    """Where a checkpoint is: on the hub (with its entry in a table), or a folder."""

    path: str
    checkpoint: Checkpoint | None = None

    @property
    def arguments(self) -> dict:
        """For ``from_pretrained``."""
        found = {"pretrained_model_name_or_path": self.path}
        return found | ({"revision": self.checkpoint.revision} if self.checkpoint else {})


@dataclass(frozen=True)
class Need:
    """What a problem asks of a machine: a checkpoint with these parts, or a file that training makes.

    Args:
        what: "network" or "diffusion", say.
        place: of the checkpoint; None: it is `file`, made by `how`.
    """

    what: str
    place: Place | None = None
    parts: tuple[str, ...] = ("",)
    file: Path | None = None
    how: str = ""


def need(what: str, name: str | None, table: Mapping[str, Checkpoint], parts: tuple[str, ...] = ("",)) -> Need:
    """The need of a checkpoint, by name or folder; `parts`: those of a folder. Raises ValueError as `find` does."""
    place = find(split(name)[0], table)
    return Need(what, place, place.checkpoint.parts if place.checkpoint else parts)


def split(name: str | None) -> tuple[str | None, bool]:
    """A name without its ending "+released", and whether it had it: as the authors' released code has it."""
    if name is None:
        return None, False
    plain = name.removesuffix("+released")
    return plain or None, plain != name


def find(name: str | None, table: Mapping[str, Checkpoint]) -> Place:
    """Where a checkpoint is: a name of the table, None for its first, or the path of a folder.

    Raises:
        ValueError: neither a name of the table nor a folder.
    """
    name = name or next(iter(table))
    if name in table:
        return Place(table[name].repository, table[name])
    if Path(name).is_dir():
        return Place(name)
    raise ValueError(f"there is no folder and no model {name!r}; choose from {', '.join(table)}")


def reach(kind: type, place: Place, subfolder: str = "", **options):
    """One part of a checkpoint, by the library's ``from_pretrained``.

    Raises:
        WeightsError: it is missing, damaged, incomplete, pickled, or cannot be reached.
    """
    if subfolder:
        options["subfolder"] = subfolder
    weighty = issubclass(kind, nn.Module)
    if weighty:
        options |= {"use_safetensors": True, "output_loading_info": True}
    try:
        found = kind.from_pretrained(**place.arguments, **options)
    except Exception as error:  # the libraries raise many kinds
        raise _unreadable(place, subfolder, error) from error
    if not weighty:
        return found
    network, told = found
    if lacking := sorted({*told.get("missing_keys", ()), *map(str, told.get("mismatched_keys", ()))}):
        raise _unreadable(place, subfolder, f"it lacks {len(lacking)} tensors, such as {lacking[0]}")
    return network.eval()


def reach_file(place: Place, name: str) -> Path:
    """One file of a checkpoint. Raises WeightsError as `reach` does."""
    if place.checkpoint is None:
        if not (path := Path(place.path) / name).is_file():
            raise _unreadable(place, "", f"it has no {name}")
        return path
    try:
        return Path(hf_hub_download(place.path, name, revision=place.checkpoint.revision))
    except Exception as error:
        raise _unreadable(place, "", error) from error


def reach_timm(place: Place) -> nn.Module:
    """A classifier in timm's layout: config.json names its architecture, model.safetensors has its weights.

    Raises:
        WeightsError: as `reach` does.
    """
    config, weights = reach_file(place, "config.json"), reach_file(place, "model.safetensors")
    try:
        json.loads(config.read_text())["architecture"]
        network = timm.create_model(f"local-dir:{config.parent}", pretrained=False)
    except Exception as error:
        raise _unreadable(place, "", error) from error
    return fill(network, weights, place)


def fill(network: nn.Module, weights: Path, place: Place) -> nn.Module:
    """Put the tensors of a file into a network that has exactly these. Raises WeightsError as `reach` does."""
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise _unreadable(place, "", error) from error
    own = network.state_dict()
    if wrong := sorted(
        own.keys() ^ tensors.keys() | {k for k in own.keys() & tensors.keys() if own[k].shape != tensors[k].shape}
    ):
        raise _unreadable(
            place, "", f"{len(wrong)} of its tensors are not those of {type(network).__name__}, such as {wrong[0]}"
        )
    network.load_state_dict(tensors)
    return network.eval()


def present(place: Place, part: str = "") -> bool:
    """Whether the weights of a part are on this machine: in the folder, or in the hub's cache."""
    if place.checkpoint is None:
        return any((Path(place.path) / part).glob("*.safetensors"))
    names = ("model.safetensors", "diffusion_pytorch_model.safetensors", "model.safetensors.index.json")
    files = [f"{part}/{name}".removeprefix("/") for name in names]
    revision = place.checkpoint.revision
    return any(isinstance(try_to_load_from_cache(place.path, file, revision=revision), str) for file in files)


def device() -> torch.device:
    """The first GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _unreadable(place: Place, subfolder: str, error: Exception | str) -> WeightsError:
    """One sentence: which part of which checkpoint, why, and what to do."""
    where = "/".join(filter(None, (place.path, subfolder)))
    folder = Path(place.path) / subfolder
    told = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if place.checkpoint is None:
        advice = "give the path of a folder that holds it, in the layout of the hub"
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in PICKLED) if folder.is_dir() else []
        if pickled and not list(folder.glob("*.safetensors")):
            told = f"it holds pickled weights alone, {pickled[0]}, which are never opened"
            advice = "save the model as safetensors, with save_pretrained of its library"
    elif place.checkpoint.how:
        advice = f"it is not published as safetensors; make them once with: {place.checkpoint.how}, and give its folder"
    else:
        advice = "with a network connection it comes from the hub, without one give the path of a folder that holds it"
    return WeightsError(f"{where} cannot be read ({told}); {advice}")

"""The weights that ship with the package: safetensors in half precision, each with a card.

A card (JSON beside the weights) says what data, seed, steps and command made the file, how well the model
does, and the file's SHA-256. ``DTTA_WEIGHTS`` names another folder to read from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from dtta.problems.training.fit import unique_tensors, write_tensors


class WeightsError(RuntimeError):
    """Weights are missing, damaged, or made for another network."""


def folder() -> Path:
    """Where weights are read: $DTTA_WEIGHTS, or the package's own."""
    return Path(os.environ.get("DTTA_WEIGHTS") or Path(__file__).parents[2] / "weights")


@contextmanager
def reading_from(root: Path) -> Iterator[None]:
    """Inside, weights are read from another folder: for a model that is trained on top of another."""
    kept = os.environ.get("DTTA_WEIGHTS")
    os.environ["DTTA_WEIGHTS"] = str(root)
    try:
        yield
    finally:
        os.environ.pop("DTTA_WEIGHTS") if kept is None else os.environ.update(DTTA_WEIGHTS=kept)


def path_of(problem: str, name: str, root: Path | None = None) -> Path:
    """The file of one model."""
    return (root or folder()) / problem / f"{name}.safetensors"


def save(network: nn.Module, card: dict, path: Path) -> None:
    """Write the network's weights in half precision, and its card with their checksum."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in unique_tensors(network).items()}
    write_tensors(path, tensors)
    parameters = sum(p.numel() for p in network.parameters())
    card = {**card, "parameters": parameters, "sha256": _sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def load(network: nn.Module, path: Path, command: str) -> nn.Module:
    """Fill the network, in place, and put it in eval mode.

    Args:
        command: what makes the file again, for the error messages.

    Raises:
        WeightsError: the file or its card is missing, the checksum differs, or the tensors do not fit.
    """
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise WeightsError(f"{path} or its card is missing; make it with: {command}")
    try:
        expected = json.loads(path.with_suffix(".json").read_text())["sha256"]
        if _sha256(path) != expected:
            raise WeightsError(f"{path} is damaged: its checksum is not its card's; make it with: {command}")
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} or its card is damaged ({error}); make it with: {command}") from error
    own = unique_tensors(network)
    if own.keys() != tensors.keys() or any(own[k].shape != tensors[k].shape for k in own):
        raise WeightsError(f"{path} was made for another network; make it with: {command}")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
    return network.eval()


def ready(problem: str, table: Mapping[str, Callable[[], nn.Module]], name: str | None = None) -> nn.Module:
    """Build a model of a problem's table and fill it with its shipped weights; None: the first of the table.

    Raises:
        ValueError: the table has no such model. WeightsError: see `load`.
    """
    name = name or next(iter(table))
    if name not in table:
        raise ValueError(f"the {problem} problem has {', '.join(table)}, not {name!r}")
    with torch.random.fork_rng():  # initial weights are thrown away; leave the caller's randomness alone
        model = table[name]()
    return load(model, path_of(problem, name), f"dtta train {problem} --only {name}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

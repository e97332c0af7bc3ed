"""The weights that ship with the package: safetensors in half precision, each with a model card.

A card (a JSON file of the same name) records the data, seed, steps and command of the training, validation scores and
the SHA-256 of the weights. ``DTTA_WEIGHTS`` names another folder to read from.
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

from dtta.problems.data.folders import folder_from
from dtta.problems.training.fit import unique_tensors, write_tensors


class WeightsError(RuntimeError):
    """Weights are missing or damaged, or belong to another network."""


def folder() -> Path:
    """Return the folder of the weights: $DTTA_WEIGHTS, or the one in the package."""
    return folder_from("DTTA_WEIGHTS", Path(__file__).parents[2] / "weights")


@contextmanager
def reading_from(root: Path) -> Iterator[None]:
    """Read weights from another folder within the context: for a model whose training depends on another model."""
    previous = os.environ.get("DTTA_WEIGHTS")
    os.environ["DTTA_WEIGHTS"] = str(root)
    try:
        yield
    finally:
        os.environ.pop("DTTA_WEIGHTS") if previous is None else os.environ.update(DTTA_WEIGHTS=previous)


def path_of(problem: str, name: str, root: Path | None = None) -> Path:
    """Return the path of a model's weights."""
    return (root or folder()) / problem / f"{name}.safetensors"


def save(network: nn.Module, card: dict, path: Path) -> None:
    """Write the network's weights in half precision, and its model card with their number and checksum."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in unique_tensors(network).items()}
    write_tensors(path, tensors)
    parameters = sum(p.numel() for p in network.parameters())
    card = {**card, "parameters": parameters, "sha256": _sha256(path)}
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load(network: nn.Module, path: Path, command: str) -> nn.Module:
    """Load weights into a network, in place, and return it in eval mode; errors name the `command` that trains it.

    Raises WeightsError: the file or its card is missing, the checksum differs, or the tensors do not fit.
    """
    if not path.is_file() or not path.with_suffix(".json").is_file():
        raise WeightsError(f"{path} or its card is missing; make it with: {command}")
    try:
        expected = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
        if _sha256(path) != expected:
            raise WeightsError(f"{path} is damaged: its checksum differs from its card; make it with: {command}")
        tensors = load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} or its card is damaged ({error}); make it with: {command}") from error
    current = unique_tensors(network)
    if current.keys() != tensors.keys() or any(current[k].shape != tensors[k].shape for k in current):
        raise WeightsError(f"{path} belongs to another network; make it with: {command}")
    with torch.no_grad():
        for name, value in current.items():
            value.copy_(tensors[name])
    return network.eval()


def ready(problem: str, table: Mapping[str, Callable[[], nn.Module]], name: str | None = None) -> nn.Module:
    """Build a model of a problem by its name in the table (None: the first) and load its shipped weights.

    From then on torch computes with one thread on a CPU, unless OMP_NUM_THREADS is set. The shipped models are so small
    that a second thread gains little (1.4 times with two free cores), while threads that wait for each other on busy
    cores lose much: an adaptation that took 14 s with one thread took 45 s and more with two, under a load of 12.

    Raises ValueError: the table has no such model; WeightsError: see `load`.
    """
    name = name or next(iter(table))
    if name not in table:
        raise ValueError(f"the {problem} problem has {', '.join(table)}, not {name!r}")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    with torch.random.fork_rng():  # initial weights are discarded; keep the caller's random state
        model = table[name]()
    return load(model, path_of(problem, name), f"dtta train {problem} --only {name}")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

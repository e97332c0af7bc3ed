"""The device of the models that do not ship with the package; shipped ones are small and stay on the CPU."""

from __future__ import annotations

import torch


def device() -> torch.device:
    """Return the first GPU that torch can use, by CUDA or Apple's MPS, else the CPU."""
    kinds = {"cuda": torch.cuda, "mps": torch.backends.mps}
    return torch.device(next((kind for kind, backend in kinds.items() if backend.is_available()), "cpu"))


def device_name() -> str:
    """Return the name of CUDA's GPU, or the kind of the device: "MPS" or "CPU"."""
    kind = device().type
    return torch.cuda.get_device_name() if kind == "cuda" else kind.upper()

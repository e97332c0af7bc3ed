"""The settings, and the fast settings, that the book's tables chose on validation images, for each mini problem.

They are in ``chosen.json``, which ``dtta evaluate --table`` writes (``dtta.experiments.defaults``): do not edit it.
"""

from __future__ import annotations

import json
from pathlib import Path

FILE = Path(__file__).with_suffix(".json")


def chosen(problem: str, network: str | None = None, diffusion: str | None = None, batch: int = 1) -> dict[str, dict]:
    """Return the chosen settings by method: for one image at a time, or, if `batch` is more than 1, for batches.

    A method for which none were chosen in batches, with this network or with this diffusion model has those chosen for
    single images and for the default models. Fast settings have the key "<method>, fast"; there are none where other
    settings were chosen for these models.
    """
    suitable = [
        choice
        for choice in json.loads(FILE.read_text(encoding="utf-8")).get(problem, [])
        if choice["network"] in (None, network)
        and choice["diffusion"] in (None, diffusion)
        and min(choice["batch"], 2) <= batch
    ]
    suitable.sort(
        key=lambda choice: (
            choice["batch"], choice["network"] is not None, choice["diffusion"] is not None, "fast" in choice
        )
    )  # fmt: skip
    settings: dict[str, dict] = {}
    for choice in suitable:  # the last one counts
        name = f"{choice['method']}, fast"
        settings.pop(name, None)
        settings[name if "fast" in choice else choice["method"]] = choice["settings"]
    return settings

"""Problems of your own: a network, a diffusion model and pictures that the user brings.

May import ``dtta.core`` and the other rooms of ``dtta.problems``. To support another form of network, diffusion model
or folder, add it to ``networks``, ``diffusions`` or ``images``.
"""

from __future__ import annotations

from dtta.problems.data import hub
from dtta.problems.own import diffusions, images, networks
from dtta.problems.own.build import problem

__all__ = ["problem", "requirements"]


def requirements(name: str, network: str | None, diffusion: str | None) -> hub.Requirements:
    """Return the checkpoints that a problem needs, and a function that raises ValueError if pictures are missing."""
    if network is None or diffusion is None:
        raise ValueError("a problem of your own needs a network and a diffusion model: give network and diffusion")
    location = diffusions.locate(diffusion)
    has_weights = ("transformer", "unet", "vae", "text_encoder", "controlnet")
    parts = tuple(part for part in diffusions.parts_of(location) if part in has_weights)
    checkpoints = [
        hub.Requirement("network", networks.locate(network)),
        hub.Requirement("diffusion", location, parts or ("unet",)),
    ]
    return checkpoints, lambda: name == "own" or images.read(name)

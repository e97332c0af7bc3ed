"""Stable Diffusion 1.5, with or without a ControlNet, from the hub or from a folder in a pipeline's layout."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dtta.core.diffusion import ControlledUNet, TextUNet
from dtta.problems.data import hub
from dtta.problems.networks.clip import TextReader

DIFFUSIONS = {
    "stable-diffusion-1.5": hub.Checkpoint(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        4.3,
        ("unet", "vae", "text_encoder"),
    ),
}


def load_stable_diffusion(diffusion: str | None = None) -> tuple[TextUNet, TextReader]:
    """Return a Stable Diffusion model, and the reader that encodes prompts with its tokenizer and text encoder.

    Raises as ``hub.locate`` and ``hub.load_part``.
    """
    location = hub.locate(diffusion, DIFFUSIONS)
    parts = {"unet": UNet2DConditionModel, "scheduler": DDPMScheduler, "vae": AutoencoderKL}
    model = TextUNet(*(hub.load_part(kind, location, part) for part, kind in parts.items()))
    encoder, tokenizer = (
        hub.load_part(CLIPTextModel, location, "text_encoder"),
        hub.load_part(CLIPTokenizer, location, "tokenizer"),
    )
    return model, TextReader(encoder, tokenizer)


def load_controlled(
    diffusion: str | None, table: Mapping[str, hub.Checkpoint], prompt: str = "", colours: Tensor | None = None
) -> ControlledUNet:
    """Return Stable Diffusion 1.5 with a ControlNet of a table, or both from a folder that contains the whole pipeline.

    Args:
        prompt: used for every image; ControlNets are trained to work with the empty one too.
        colours: see ``ControlledUNet``.

    Raises as ``load_stable_diffusion``.
    """
    location = hub.locate(diffusion, table)
    named = location.checkpoint is not None
    base, reader = load_stable_diffusion(None if named else location.path)
    controlnet = hub.load_part(ControlNetModel, location, "" if named else "controlnet")
    scheduler = hub.load_part(DDPMScheduler, hub.locate(None if named else location.path, DIFFUSIONS), "scheduler")
    return ControlledUNet(base.network, controlnet, scheduler, base.vae, reader([prompt]), colours)


def controlled_requirements(diffusion: str | None, table: Mapping[str, hub.Checkpoint]) -> list[hub.Requirement]:
    """Return the checkpoints that `load_controlled` needs."""
    base = DIFFUSIONS["stable-diffusion-1.5"].parts
    controlnet = hub.require("diffusion", diffusion, table, (*base, "controlnet"))
    if controlnet.location.checkpoint is None:
        return [controlnet]
    return [controlnet, hub.require("diffusion", None, DIFFUSIONS)]

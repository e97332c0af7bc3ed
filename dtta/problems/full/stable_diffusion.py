"""Stable Diffusion 1.5, with or without a ControlNet, from the hub or from a folder in a pipeline's layout."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dtta.core.diffusion import ControlledUNet, TextUNet
from dtta.problems.data import hub
from dtta.problems.full import stable_diffusion_3
from dtta.problems.networks.clip import TextReader
from dtta.problems.networks.stable_diffusion_3 import StableDiffusion3

DIFFUSIONS = hub.checkpoints("open-vocabulary-diffusions")


def load_stable_diffusion(diffusion: str | None = None) -> tuple[TextUNet | StableDiffusion3, TextReader]:
    """Return Stable Diffusion, 1.5 or 3, and the reader of its prompts. Raises as ``hub.locate``, ``hub.load_part``."""
    return read_stable_diffusion(hub.locate(diffusion, DIFFUSIONS))


def read_stable_diffusion(location: hub.Location) -> tuple[TextUNet | StableDiffusion3, TextReader]:
    """Return the Stable Diffusion model of a folder or repository, and its reader. Raises as ``hub.load_part``."""
    if stable_diffusion_3.is_at(location):
        return stable_diffusion_3.load(location)
    model = TextUNet(*hub.load_parts(location, unet=UNet2DConditionModel, scheduler=DDPMScheduler, vae=AutoencoderKL))
    encoder = hub.load_part(CLIPTextModel, location, "text_encoder")
    return model, TextReader(encoder, hub.load_part(CLIPTokenizer, location, "tokenizer"))


def requirement(diffusion: str | None) -> hub.Requirement:
    """Return the checkpoint that `load_stable_diffusion` needs. Raises as ``hub.locate``."""
    location = hub.locate(diffusion, DIFFUSIONS)
    if location.checkpoint is None and stable_diffusion_3.is_at(location):
        return hub.Requirement("diffusion", location, stable_diffusion_3.NEEDED)
    return hub.require("diffusion", diffusion, DIFFUSIONS)


def load_controlled(
    diffusion: str | None, table: Mapping[str, hub.Checkpoint], prompt: str = "", colours: Tensor | None = None
) -> ControlledUNet:
    """Return Stable Diffusion 1.5 with a ControlNet of a table, or both from a folder that contains the whole pipeline.

    `prompt`: of every image; ControlNets are trained to work with the empty one too. `colours`: see ``ControlledUNet``.
    Raises as ``load_stable_diffusion``.
    """
    location = hub.locate(diffusion, table)
    if location.checkpoint is None:
        return read_controlled(location, location, "controlnet", prompt, colours)
    return read_controlled(hub.locate(None, DIFFUSIONS), location, "", prompt, colours)


def read_controlled(
    base: hub.Location, control: hub.Location, part: str, prompt: str = "", colours: Tensor | None = None
) -> ControlledUNet:
    """Return the Stable Diffusion model at `base` with the ControlNet in a part of `control`."""
    phi, reader = read_stable_diffusion(base)
    controlnet = hub.load_part(ControlNetModel, control, part)
    scheduler = hub.load_part(DDPMScheduler, base, "scheduler")
    return ControlledUNet(phi.network, controlnet, scheduler, phi.vae, reader([prompt]), colours)


def controlled_requirements(diffusion: str | None, table: Mapping[str, hub.Checkpoint]) -> list[hub.Requirement]:
    """Return the checkpoints that `load_controlled` needs."""
    if diffusion is None or diffusion in table:
        return [hub.require("diffusion", diffusion, table), hub.require("diffusion", None, DIFFUSIONS)]
    hub.locate(diffusion, table)  # raises with the names of the table
    return [hub.require("diffusion", diffusion, DIFFUSIONS, ("controlnet",))]

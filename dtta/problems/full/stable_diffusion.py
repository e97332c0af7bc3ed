"""Stable Diffusion 1.5, with or without a ControlNet, and 3, from the hub or from a folder in a pipeline's layout."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from dtta.core.diffusion import ControlledUNet, TextUNet
from dtta.problems.data import hub
from dtta.problems.networks.clip import TextReader
from dtta.problems.networks.stable_diffusion_3 import StableDiffusion3, StableDiffusion3Reader

DIFFUSIONS = hub.checkpoints("open-vocabulary-diffusions")


def load_stable_diffusion(diffusion: str | None = None) -> tuple[TextUNet | StableDiffusion3, TextReader]:
    """Return a Stable Diffusion model, 1.5 or 3, and the reader of its prompts.

    Raises as ``hub.locate`` and ``hub.load_part``.
    """
    location = hub.locate(diffusion, DIFFUSIONS)
    if "transformer" in _parts(location):
        return _load_3(location)
    parts = {"unet": UNet2DConditionModel, "scheduler": DDPMScheduler, "vae": AutoencoderKL}
    model = TextUNet(*(hub.load_part(kind, location, part) for part, kind in parts.items()))
    encoder = hub.load_part(CLIPTextModel, location, "text_encoder")
    return model, TextReader(encoder, hub.load_part(CLIPTokenizer, location, "tokenizer"))


def _parts(location: hub.Location) -> tuple[str, ...]:
    """Return the folders of a pipeline."""
    if location.checkpoint is not None:
        return location.checkpoint.parts
    return tuple(path.name for path in Path(location.path).iterdir() if path.is_dir())


def _load_3(location: hub.Location) -> tuple[StableDiffusion3, StableDiffusion3Reader]:
    """Return Stable Diffusion 3; a folder may lack the largest text encoder, T5, text_encoder_3."""
    parts = {"transformer": SD3Transformer2DModel, "scheduler": FlowMatchEulerDiscreteScheduler, "vae": AutoencoderKL}
    model = StableDiffusion3(*(hub.load_part(kind, location, part) for part, kind in parts.items()))
    encoders = dict.fromkeys(("", "_2"), (CLIPTextModelWithProjection, CLIPTokenizer))
    if "text_encoder_3" in _parts(location):
        encoders["_3"] = (T5EncoderModel, T5Tokenizer)
    pairs = [
        (hub.load_part(kind, location, f"text_encoder{part}"), hub.load_part(words, location, f"tokenizer{part}"))
        for part, (kind, words) in encoders.items()
    ]
    t5 = pairs[2] if len(pairs) == 3 else None
    return model, StableDiffusion3Reader(pairs[:2], t5, model.network.config.joint_attention_dim)


def requirement(diffusion: str | None) -> hub.Requirement:
    """Return the checkpoint that `load_stable_diffusion` needs. Raises as ``hub.locate``."""
    location = hub.locate(diffusion, DIFFUSIONS)
    if location.checkpoint is None and "transformer" in _parts(location):
        parts = DIFFUSIONS["stable-diffusion-3-medium"].parts
        return hub.Requirement("diffusion", location, tuple(p for p in parts if p != "text_encoder_3"))
    return hub.require("diffusion", diffusion, DIFFUSIONS)


def load_controlled(
    diffusion: str | None, table: Mapping[str, hub.Checkpoint], prompt: str = "", colours: Tensor | None = None
) -> ControlledUNet:
    """Return Stable Diffusion 1.5 with a ControlNet of a table, or both from a folder that contains the whole pipeline.

    `prompt`: of every image; ControlNets are trained to work with the empty one too. `colours`: see ``ControlledUNet``.
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
    if diffusion is None or diffusion in table:
        return [hub.require("diffusion", diffusion, table), hub.require("diffusion", None, DIFFUSIONS)]
    hub.locate(diffusion, table)  # raises with the names of the table
    return [hub.require("diffusion", diffusion, DIFFUSIONS, ("controlnet",))]

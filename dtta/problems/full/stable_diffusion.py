"""Stable Diffusion 1.5, alone and under a ControlNet, from the hub or from a folder in a pipeline's layout."""

from __future__ import annotations

from collections.abc import Mapping

from diffusers import AutoencoderKL, ControlNetModel, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from dtta.core.diffusion import ControlledUNet, TextUNet
from dtta.problems.data.hub import Checkpoint, Need, find, need, reach
from dtta.problems.networks.clip import TextReader

DIFFUSIONS = {
    "stable-diffusion-1.5": Checkpoint(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "451f4fe16113bff5a5d2269ed5ad43b0592e9a14",
        4.3,
        ("unet", "vae", "text_encoder"),
    ),
}


def load_stable_diffusion(diffusion: str | None = None) -> tuple[TextUNet, TextReader]:
    """A Stable Diffusion, and how it reads: by its own text encoder and tokenizer.

    Raises as ``checkpoints.reach`` does.
    """
    where = find(diffusion, DIFFUSIONS)
    parts = {"unet": UNet2DConditionModel, "scheduler": DDPMScheduler, "vae": AutoencoderKL}
    model = TextUNet(*(reach(kind, where, part) for part, kind in parts.items()))
    return model, TextReader(reach(CLIPTextModel, where, "text_encoder"), reach(CLIPTokenizer, where, "tokenizer"))


def load_controlled(
    diffusion: str | None, table: Mapping[str, Checkpoint], prompt: str = "", colours: Tensor | None = None
) -> ControlledUNet:
    """Stable Diffusion 1.5 under a ControlNet of a table, or both from a folder that holds the whole pipeline.

    Args:
        prompt: the words that go with every image; the empty ones are those that it learnt to do without.
        colours: see ``ControlledUNet``.

    Raises as ``checkpoints.reach`` does.
    """
    where = find(diffusion, table)
    named = where.checkpoint is not None
    base, read = load_stable_diffusion(None if named else where.path)
    controlnet = reach(ControlNetModel, where, "" if named else "controlnet")
    scheduler = reach(DDPMScheduler, find(None if named else where.path, DIFFUSIONS), "scheduler")
    return ControlledUNet(base.network, controlnet, scheduler, base.vae, read([prompt]), colours)


def controlled_needs(diffusion: str | None, table: Mapping[str, Checkpoint]) -> list[Need]:
    """What `load_controlled` asks of a machine."""
    base = DIFFUSIONS["stable-diffusion-1.5"].parts
    asked = need("diffusion", diffusion, table, (*base, "controlnet"))
    return [asked] if asked.place.checkpoint is None else [asked, need("diffusion", None, DIFFUSIONS)]

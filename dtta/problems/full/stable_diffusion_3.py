"""Stable Diffusion 3, from the hub or from a folder in its pipeline's layout."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from dtta.problems.data import hub
from dtta.problems.networks.stable_diffusion_3 import StableDiffusion3, StableDiffusion3Reader

NEEDED = ("transformer", "vae", "text_encoder", "text_encoder_2")  # a folder may lack text_encoder_3, T5


def is_at(location: hub.Location) -> bool:
    """Return whether a pipeline has a transformer and a second text encoder, as Stable Diffusion 3 has."""
    return {"transformer", "text_encoder_2"} <= _parts(location)


def load(location: hub.Location) -> tuple[StableDiffusion3, StableDiffusion3Reader]:
    """Return the model and the reader of its prompts. Raises as ``hub.load_part``."""
    kinds = {"transformer": SD3Transformer2DModel, "scheduler": FlowMatchEulerDiscreteScheduler, "vae": AutoencoderKL}
    model = StableDiffusion3(*(hub.load_part(kind, location, part) for part, kind in kinds.items()))
    clips = [_encoder(location, part, CLIPTextModelWithProjection, CLIPTokenizer) for part in ("", "_2")]
    t5 = _encoder(location, "_3", T5EncoderModel, T5Tokenizer) if "text_encoder_3" in _parts(location) else None
    return model, StableDiffusion3Reader(clips, t5, model.network.config.joint_attention_dim)


def _encoder(location: hub.Location, part: str, kind: type, words: type) -> tuple:
    """Return a text encoder and its tokenizer."""
    return hub.load_part(kind, location, f"text_encoder{part}"), hub.load_part(words, location, f"tokenizer{part}")


def _parts(location: hub.Location) -> set[str]:
    """Return the folders of a pipeline."""
    if location.checkpoint is not None:
        return set(location.checkpoint.parts)
    return {path.name for path in Path(location.path).iterdir() if path.is_dir()}

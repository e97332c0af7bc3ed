"""Diffusion models behind one interface: ``encode``, ``loss`` and, for models conditioned on classes,
``class_embeddings``. The base class comes first, then a small class for each family.

Symbols are the paper's (arXiv 2311.16102, section 3): z0 is the clean latent, t the timestep, ε the noise, c the
condition. Every family has z_t = a_t z0 + σ_t ε: a_t = √ᾱ_t, σ_t = √(1 - ᾱ_t); for flow matching a_t = 1 - σ_t.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtta.core.embedders import SharedEmbedder, SoftLabel
from dtta.core.sampling import noise_levels, timestep_range

WEIGHTINGS = ("none", "snr", "min-snr")
NORMS = ("l2", "l1")


class Diffusion(nn.Module):
    """Forward process, target and loss, common to all families. The class of a family adds ``output``.

    Weights may be float16 or bfloat16; z0, the noise levels and the loss stay float32.

    Args:
        network: the noise-prediction network φ, put in eval mode.
        scheduler: a ``DDPMScheduler``, whose ``alphas_cumprod`` (T,) and ``prediction_type`` are read, or, for flow
            matching, a ``FlowMatchEulerDiscreteScheduler``, whose ``sigmas`` (T,), shifted or not, are read.
        vae: an ``AutoencoderKL`` for a model of latents, or None for a model of pixels.

    Raises:
        TypeError: another scheduler (Euler's ``add_noise`` is z0 + σε). ValueError: it predicts neither ε nor v, or
            ``set_timesteps`` has changed its sigmas.
    """

    network: Any  # a diffusers model, whose parts differ between families
    vae: Any
    levels: Tensor

    def __init__(self, network: nn.Module, scheduler: Any, vae: nn.Module | None = None):
        super().__init__()
        self.network = network.eval()
        self.vae = None if vae is None else vae.eval().requires_grad_(False)
        self.prediction_type, levels = noise_levels(scheduler)
        self.register_buffer("levels", levels, persistent=False)  # a_t and σ_t (2, T)
        self.autocast: torch.dtype | None = None  # of the network's pass, set by ``precision.prepare``

    @property
    def timesteps(self) -> int:
        """T, the number of noise levels; t runs from 0 to T - 1."""
        return self.levels.shape[1]

    @property
    def alphas_cumprod(self) -> Tensor:
        """ᾱ_t = a_t² (T,)."""
        return self.levels[0].square()

    @property
    def image_size(self) -> int:
        """Side of the square image the model was trained on, in pixels."""
        scale = 1 if self.vae is None else 2 ** (len(self.vae.config.block_out_channels) - 1)
        return self.network.config.sample_size * scale

    @torch.no_grad()
    def encode(self, image: Tensor) -> Tensor:
        """Image (N, C, H, W) in [0, 1] -> z0: resized, in [-1, 1]; with a VAE, the scaled mean of its posterior."""
        pixels = 2 * _resize(image, (self.image_size, self.image_size)) - 1
        if self.vae is None:
            return pixels
        latent = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mean
        if not latent.isfinite().all():
            raise FloatingPointError(f"the VAE gave NaN or infinity in {self.vae.dtype}: run it in float32 or bfloat16")
        return (latent.float() - (self.vae.config.shift_factor or 0)) * self.vae.config.scaling_factor

    def add_noise(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """z_t = a_t z0 + σ_t ε, the forward process (Eq. 1)."""
        signal, sigma = self._levels(t, z0)
        return signal * z0 + sigma * noise  # (N, C, h, w)

    def target(self, z0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network was trained to predict: ε; v = a_t ε - σ_t z0; or, for flow matching, ε - z0."""
        if self.prediction_type in ("epsilon", "flow"):
            return noise if self.prediction_type == "epsilon" else noise - z0
        signal, sigma = self._levels(t, z0)
        return signal * noise - sigma * z0

    def predict(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """ε_φ(z_t, t, c): the network's prediction (N, C, h, w) in the dtype of its weights."""
        dtype = self.network.dtype
        condition = condition.to(dtype) if condition.is_floating_point() else condition
        with nullcontext() if self.autocast is None else torch.autocast(z_t.device.type, self.autocast):
            output = self.output(z_t.to(dtype), t, condition)
        return output[:, : z_t.shape[1]]  # a learned variance is in the channels after ε

    def output(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """All that the network returns (N, C or more, h, w)."""
        raise NotImplementedError

    def loss(self, z0: Tensor, t: Tensor, noise: Tensor, condition: Tensor, norm: str = "l2") -> Tensor:
        """‖ε_φ(z_t, t, c) - ε‖² of each sample (Eq. 2), averaged over its elements: (N,), float32.

        Args:
            z0: clean latents (N, C, h, w).
            t: timesteps (N,), integers from 0 to T - 1.
            noise: ε (N, C, h, w), standard normal.
            condition: c, one for each sample, in the form this family takes.
            norm: "l2" (the paper) or "l1".
        """
        self.check_loss(norm)
        prediction = self.predict(self.add_noise(z0, t, noise), t, condition)
        error = prediction.float() - self.target(z0, t, noise).float()
        return (error.abs() if norm == "l1" else error.square()).flatten(1).mean(1)

    def snr(self, t: Tensor) -> Tensor:
        """The signal-to-noise ratio (a_t / σ_t)² at each t, in the shape of t."""
        return (self.levels[0, t] / self.levels[1, t]).square()

    def weight(self, t: Tensor, weighting: str = "none", t_min: float = 0.0, t_max: float = 1.0) -> Tensor:
        """The weight of the loss at each t, in the shape of t, with mean 1 over t_min T to t_max T.

        Args:
            weighting: "none": 1 (the paper). "snr": makes the loss that of the denoised image, ‖ẑ0 - z0‖²: 1 / SNR for
                ε, σ_t² for v and for flow matching. "min-snr": these times min(SNR, 5) (arXiv 2303.09556).
        """
        self.check_loss(weighting=weighting)
        if weighting == "none":
            return torch.ones(t.shape, device=t.device)
        snr = self.snr(torch.arange(self.timesteps, device=t.device))
        of_image = torch.ones_like(snr) if weighting == "snr" else snr.clamp(max=5)
        weight = of_image / snr if self.prediction_type == "epsilon" else of_image * self.levels[1].square()
        low, high = timestep_range(t_min, t_max, self.timesteps)
        return weight[t] / weight[low : high + 1].mean()

    @staticmethod
    def check_loss(norm: str = "l2", weighting: str = "none") -> None:
        """Raise ValueError if there is no such norm or weighting."""
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
        if weighting not in WEIGHTINGS:
            raise ValueError(f"weighting must be one of {', '.join(WEIGHTINGS)}, not {weighting!r}")

    def _levels(self, t: Tensor, like: Tensor) -> Tensor:
        """Return a_t and σ_t (2, ...), shaped to multiply `like`."""
        return self.levels[:, t].view(2, -1, *[1] * (like.ndim - 1)).to(like.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> Diffusion:
        levels = self.levels
        nn.Module._apply(self, fn, recurse)
        self.levels = levels.to(self.levels.device)  # half precision rounds a_t to 1 at the first t
        return self


class ClassUNet(Diffusion):
    """``UNet2DModel`` with ``num_class_embeds``: c (N, D) is added to the timestep's embedding."""

    def __init__(self, unet: nn.Module, scheduler: Any, vae: nn.Module | None = None):
        super().__init__(unet, scheduler, vae)
        if isinstance(unet.class_embedding, nn.Embedding):
            unet.class_embedding = SoftLabel(unet.class_embedding)
        if not isinstance(unet.class_embedding, SoftLabel):
            raise ValueError("the UNet has no class embedding; build it with num_class_embeds=L")

    @property
    def class_embeddings(self) -> Tensor:
        """l_1 .. l_L, the rows (L, D) of the class table."""
        return self.network.class_embedding.embedding_table.weight

    def output(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.network(z_t, t, class_labels=condition).sample


class DiT(Diffusion):
    """``DiTTransformer2DModel``: c (N, D) enters every block through its adaptive layer norm.

    All blocks share one class and timestep embedder, as in the original model; diffusers has one in each block.

    Args:
        official: compute what DiT's authors compute: exponents of the timestep frequencies divided by 128, a layer norm
            ε of 1e-6. False: diffusers' 127 and 1e-5, which change the output of a random DiT-XL/2 by a tenth.
    """

    def __init__(self, transformer: Any, scheduler: Any, vae: nn.Module | None = None, official: bool = True):
        super().__init__(transformer, scheduler, vae)
        embedder = transformer.transformer_blocks[0].norm1.emb
        weights = [block.norm1.emb.state_dict().values() for block in transformer.transformer_blocks]
        loaded = transformer.config.get("_name_or_path")  # else new: random embedders, of which the first is kept
        if loaded and not all(torch.equal(a, b) for other in weights for a, b in zip(weights[0], other, strict=True)):
            raise ValueError(f"the blocks of {loaded} have different class and timestep embedders, not one for all")
        embedder = embedder if isinstance(embedder, SharedEmbedder) else SharedEmbedder(embedder)
        for block in transformer.transformer_blocks:
            block.norm1.emb = embedder
            block.norm3.eps = 1e-6 if official else transformer.config.norm_eps
        embedder.time_proj.downscale_freq_shift = 0 if official else 1

    @property
    def class_embeddings(self) -> Tensor:
        """l_1 .. l_L, the rows (L, D) of the class table; the last row, "no class", is left out."""
        return self.network.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight[:-1]

    def output(self, z_t: Tensor, t: Tensor | None, condition: Tensor) -> Tensor:
        embedder = self.network.transformer_blocks[0].norm1.emb
        # Once a pass instead of in each block, unless the embedder needs a gradient.
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in embedder.parameters())):
            t, condition = None, embedder(t, condition, self.network.dtype)
        return self.network(z_t, t, class_labels=condition).sample


class _Patched(Diffusion):
    """A UNet whose inputs are pixel-unshuffled: patch x patch pixels become channels. z0, ε and c keep their shapes."""

    def __init__(self, unet: nn.Module, scheduler: Any, vae: nn.Module | None = None, patch: int = 1):
        super().__init__(unet, scheduler, vae)
        self.patch = patch

    @property
    def image_size(self) -> int:
        return super().image_size * self.patch

    def unet(self, inputs: Tensor, t: Tensor, **condition: Any) -> Tensor:
        """Run the UNet on unshuffled inputs (N, ..., h, w) and shuffle its output back, to (N, ..., h, w)."""
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(inputs, self.patch), t, **condition).sample, self.patch)


class ConcatUNet(_Patched):
    """``UNet2DModel`` with c (N, D, H, W), a map resized to the size of z0, concatenated to z_t as channels.

    The paper's form for segmentation and depth (section 3, Figure 7).

    Args:
        patch: the UNet takes squares of patch x patch pixels as channels; 1: single pixels.
        classes, dimension: L and D of a table of class embeddings that belongs to φ; 0 classes: no table.
    """

    def __init__(
        self, unet: nn.Module, scheduler: Any, vae: Any = None, patch: int = 1, classes: int = 0, dimension: int = 0
    ):
        super().__init__(unet, scheduler, vae, patch)
        if classes and not hasattr(unet, "pixel_embedding"):
            unet.pixel_embedding = nn.Embedding(classes, dimension)

    @property
    def class_embeddings(self) -> Tensor:
        """l_1 .. l_L, the rows (L, D) of the class table."""
        return self.network.pixel_embedding.weight

    def output(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.unet(torch.cat([z_t, _resize(condition, z_t.shape[-2:])], dim=1), t)


class TextUNet(_Patched):
    """``UNet2DConditionModel`` (Stable Diffusion): c (N, tokens, D) enters by cross-attention."""

    lora_targets = r"network\..*\.attn\d\.(to_q|to_k|to_v|to_out\.0)"

    def output(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.unet(z_t, t, encoder_hidden_states=condition)


class ControlledUNet(TextUNet):
    """Stable Diffusion with a ControlNet (Zhang et al., arXiv 2302.05543): c (N, 3, H, W) in [0, 1], a map.

    Maps are resized to the size of the images. Only the UNet can be adapted; the ControlNet is fixed.

    Args:
        prompt: (1, tokens, D), the text encoder's output for the words that go with every image.
        colours: (L, 3) in [0, 1], the colour of each class in the ControlNet's training maps; None: no classes.
    """

    controlnet: Any
    prompt: Tensor
    colours: Tensor | None

    def __init__(
        self,
        unet: nn.Module,
        controlnet: nn.Module,
        scheduler: Any,
        vae: nn.Module | None,
        prompt: Tensor,
        colours: Tensor | None = None,
    ):
        super().__init__(unet, scheduler, vae)
        self.controlnet = controlnet.eval().requires_grad_(False)
        self.register_buffer("prompt", prompt, persistent=False)
        self.register_buffer("colours", colours, persistent=False)

    @property
    def class_embeddings(self) -> Tensor | None:
        """l_1 .. l_L: the colours (L, 3)."""
        return self.colours

    def output(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        condition = _resize(condition, (self.image_size, self.image_size))
        text = self.prompt.to(z_t.dtype).expand(len(z_t), -1, -1)
        down, middle = self.controlnet(z_t, t, encoder_hidden_states=text, controlnet_cond=condition, return_dict=False)
        added = dict(down_block_additional_residuals=down, mid_block_additional_residual=middle)
        return self.unet(z_t, t, encoder_hidden_states=text, **added)


def _resize(image: Tensor, size: tuple[int, ...]) -> Tensor:
    same = image.shape[-2:] == size
    return image if same else F.interpolate(image, size, mode="bilinear", antialias=True)

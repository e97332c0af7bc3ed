"""Stable Diffusion 3 (Esser et al., arXiv 2403.03206): a transformer trained by flow matching, and its text encoders.

    z_t = (1 - σ_t) z0 + σ_t ε,    target ε - z0,    c: tokens of the sentence, and one pooled vector of it

An example of an adapter outside ``dtta.core``: noise levels, target and loss come from the scheduler, through
``Diffusion``; the class below only calls the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5Tokenizer

from dtta.core.diffusion import Diffusion
from dtta.problems.networks.clip import TextReader, tokens


class StableDiffusion3(Diffusion):
    """``SD3Transformer2DModel`` with a ``FlowMatchEulerDiscreteScheduler``: c (N, tokens + rows, D), see `pack`.

    t = 0 .. T - 1 are the scheduler's timesteps in ascending order; the network is given σ_t T, as in its training.
    """

    lora_targets = r"network\.transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0|add_[qkv]_proj|to_add_out)"

    def output(self, z_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        text, pooled = unpack(condition, self.network.config.pooled_projection_dim)
        time = self.levels[1, t] * self.timesteps
        return self.network(z_t, encoder_hidden_states=text, pooled_projections=pooled, timestep=time).sample


def pack(text: Tensor, pooled: Tensor) -> Tensor:
    """Tokens (N, tokens, D) and pooled vectors (N, P) -> one tensor (N, tokens + rows, D).

    The pooled vector is the last rows (one where P is at most D, as in the published models), filled up with zeros. So
    a condition of this family is mixed, and gets its gradient, like a sequence of tokens.
    """
    D = text.shape[2]
    rows = -(-pooled.shape[1] // D)
    pooled = F.pad(pooled, (0, rows * D - pooled.shape[1])).unflatten(1, (rows, D))
    return torch.cat([text, pooled], dim=1)


def unpack(condition: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the tokens (N, tokens, D) and the pooled vectors (N, `width`) of packed conditions."""
    rows = -(-width // condition.shape[2])
    return condition[:, :-rows], condition[:, -rows:].flatten(1)[:, :width]


class StableDiffusion3Reader(TextReader):
    """The text side of Stable Diffusion 3: sentences -> packed conditions, as in the library's pipeline.

    Args:
        clips: two CLIP text encoders, each with its tokenizer. Their tokens' vectors (the last hidden layer but one)
            are concatenated along D, and so are their pooled projections.
        t5: T5's encoder and tokenizer, whose tokens follow CLIP's; None: zeros in their place, as the authors allow.
        width: D, the transformer's ``joint_attention_dim``.
        length: tokens of T5, 77 in training; the library's pipeline takes 256 by default.
    """

    def __init__(
        self,
        clips: Sequence[tuple[CLIPTextModelWithProjection, CLIPTokenizer]],
        t5: tuple[T5EncoderModel, T5Tokenizer] | None,
        width: int,
        length: int = 77,
    ):
        pairs = [*clips, *([t5] if t5 else [])]
        self.encoder = nn.ModuleList(encoder.eval() for encoder, _ in pairs)
        self.tokenizers = [tokenizer for _, tokenizer in pairs]
        self.tokenizer = self.tokenizers[0]  # whose tokens are the first rows of a condition
        self.width, self.length = width, length

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str], batch: int = 64) -> Tensor:
        """Return the packed conditions of N sentences, which may be empty, on the encoders' device.

        Raises ValueError: see ``dtta.problems.networks.clip.tokens``.
        """
        parts = [self._read(sentences[start : start + batch]) for start in range(0, len(sentences), batch)]
        return torch.cat(parts)

    def _read(self, sentences: Sequence[str]) -> Tensor:
        texts, pooled = [], []
        for encoder, tokenizer in zip(self.encoder[:2], self.tokenizers, strict=False):
            ids = tokens(tokenizer, sentences, encoder.config.max_position_embeddings).to(encoder.device)
            output = encoder(ids, output_hidden_states=True)
            texts.append(output.hidden_states[-2].float())
            pooled.append(output.text_embeds.float())
        text = torch.cat(texts, dim=2)
        text = F.pad(text, (0, self.width - text.shape[2]))
        t5 = text.new_zeros(len(text), self.length, self.width)
        if len(self.encoder) == 3:
            ids = tokens(self.tokenizers[2], sentences, self.length).to(text.device)
            t5 = self.encoder[2](ids).last_hidden_state.float()
        return pack(torch.cat([text, t5], dim=1), torch.cat(pooled, dim=1))

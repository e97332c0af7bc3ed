"""A masked autoencoder, the network of TTT-MAE."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MaskedAutoencoder(nn.Module):
    """A small masked autoencoder (He et al., CVPR 2022, arXiv 2111.06377) with a classification head.

    The encoder takes the patches that are not masked; the decoder, one block deep, reconstructs the others. The
    classification head takes the mean of the encoder's tokens, with no patch masked. `size` and `patch` are the
    sides of the square image and of a patch; `width`, `depth` and `heads` are the encoder's.
    """

    def __init__(
        self,
        size: int = 8,
        patch: int = 2,
        channels: int = 1,
        classes: int = 10,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
    ):
        super().__init__()
        self.patch, self.tokens = patch, (size // patch) ** 2
        pixels = channels * patch**2

        def blocks(n: int) -> nn.TransformerEncoder:
            layer = nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            return nn.TransformerEncoder(layer, n, norm=nn.LayerNorm(width), enable_nested_tensor=False)

        self.embed, self.place = nn.Linear(pixels, width), nn.Parameter(torch.randn(self.tokens, width) * 0.02)
        self.encoder, self.head = blocks(depth), nn.Linear(width, classes)
        self.hole, self.decoder_place = nn.Parameter(torch.zeros(width)), nn.Parameter(self.place.detach().clone())
        self.between, self.decoder, self.paint = nn.Linear(width, width), blocks(1), nn.Linear(width, pixels)

    def patches(self, image: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> (N, tokens, C patch²), normalised."""
        x = (image - 0.5) / 0.5
        return nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> logits (N, L)."""
        return self.head(self.encoder(self.embed(self.patches(image)) + self.place).mean(dim=1))

    def reconstruction_loss(self, image: Tensor, hidden: float, generator: torch.Generator) -> Tensor:
        """Return the mean squared error (N,) of the masked patches, a random share `hidden`, 0.75 in the paper."""
        patches = self.patches(image)
        N, T, _ = patches.shape
        count = max(1, round((1 - hidden) * T))
        order = torch.rand(N, T, generator=generator, device=generator.device).argsort(dim=1).to(image.device)
        visible, masked = order[:, :count], order[:, count:]
        row = torch.arange(N, device=image.device)[:, None]
        tokens = self.hole.expand(N, T, -1).clone()
        tokens[row, visible] = self.between(self.encoder((self.embed(patches) + self.place)[row, visible]))
        painted = self.paint(self.decoder(tokens + self.decoder_place))
        return (painted - patches)[row, masked].square().mean(dim=(1, 2))

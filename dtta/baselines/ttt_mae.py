"""TTT-MAE (Gandelsman et al., NeurIPS 2022, arXiv 2209.07522): learn to fill in the holes of the test image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dtta.baselines.self_training import SelfTraining


class MaskedAutoencoder(nn.Module):
    """A small masked autoencoder (He et al., CVPR 2022, arXiv 2111.06377) with a classification head.

    The encoder sees the patches that are not masked; the decoder, one block deep, says what was in the others. The
    head reads the mean of the encoder's tokens; called like a classifier, nothing is masked.

    Args:
        size: side of the square image. patch: side of a patch. channels, classes: C and L.
        mean, std: of the pixels.
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
        mean: float = 0.5,
        std: float = 0.5,
    ):
        super().__init__()
        self.patch, self.mean, self.std, self.tokens = patch, mean, std, (size // patch) ** 2
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
        x = (image - self.mean) / self.std
        return nn.functional.unfold(x, self.patch, stride=self.patch).transpose(1, 2)

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) in [0, 1] -> logits (N, L)."""
        return self.head(self.encoder(self.embed(self.patches(image)) + self.place).mean(dim=1))

    def reconstruction_loss(self, image: Tensor, hidden: float, generator: torch.Generator) -> Tensor:
        """Mean squared error of the patches that were masked, each image with a mask of its own: (N,).

        Args:
            hidden: share of the patches that is masked, 0.75 in the paper.
        """
        pieces = self.patches(image)
        N, T, _ = pieces.shape
        seen = max(1, round((1 - hidden) * T))
        device = generator.device
        order = torch.rand(N, T, generator=generator, device=device).argsort(dim=1).to(image.device)
        shown, masked = order[:, :seen], order[:, seen:]
        at = torch.arange(N, device=image.device)[:, None]
        known = self.between(self.encoder((self.embed(pieces) + self.place)[at, shown]))
        full = self.hole.expand(N, T, -1).clone()
        full[at, shown] = known
        painted = self.paint(self.decoder(full + self.decoder_place))
        return (painted - pieces)[at, masked].square().mean(dim=(1, 2))


class TttMae(SelfTraining):
    """Goes downhill on the reconstruction error of the image under random masks; the head stays as it is.

    The paper takes 20 steps of SGD at 5e-3 with momentum 0.9, 128 masks a step, three quarters masked. Episodic, one
    image at a time.

    A weight decay of 0.2 at test time could not be confirmed: in the released code the head is trained with it, and
    SGD at test time has none. There, before the error is taken, patches are normalised, each by its own mean and
    variance (``norm_pix_loss``), and of the masked autoencoder only the encoder moves; here the decoder does too.

    Args:
        model: with a ``reconstruction_loss``, as ``MaskedAutoencoder``.
        masks: how many a step, for each image.
        hidden: share of the patches that is masked.
        The rest: see ``SelfTraining``.
    """

    def __init__(self, model, optimizer, steps=20, episodic=True, masks: int = 128, hidden: float = 0.75):
        super().__init__(model, optimizer, steps, episodic)
        if not hasattr(model, "reconstruction_loss"):
            raise ValueError(f"{type(model).__name__} cannot fill in holes; TTT-MAE needs a masked autoencoder")
        if not isinstance(masks, int) or masks < 1 or not 0 < hidden < 1:
            raise ValueError(f"masks ({masks}) must be at least 1, hidden ({hidden}) within (0, 1)")
        self.masks, self.hidden = masks, hidden

    def objective(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return self.model.reconstruction_loss(image.repeat_interleave(self.masks, 0), self.hidden, generator).mean()

"""The task networks and diffusion models of the scenes: library classes in small configurations."""

from __future__ import annotations

import timm
from diffusers import DDPMScheduler, UNet2DModel
from transformers import GLPNConfig, GLPNForDepthEstimation, SegformerConfig, SegformerForSemanticSegmentation

from dtta.core.diffusion import ConcatUNet
from dtta.problems.networks.wrappers import DenseDepth, Glpn, Segmenter
from dtta.problems.scenes.data import NEAR, SIZE
from dtta.problems.scenes.world import CLASSES, FAR


def segformer() -> Segmenter:
    """A SegFormer (0.6 M parameters) on the image enlarged to 64 x 64; answers at 32 x 32."""
    config = SegformerConfig(
        num_labels=len(CLASSES), depths=[2, 2, 2], num_encoder_blocks=3, hidden_sizes=[32, 64, 96],
        patch_sizes=[5, 3, 3], strides=[2, 2, 2], sr_ratios=[4, 2, 1], num_attention_heads=[1, 2, 3],
        mlp_ratios=[3, 3, 3], decoder_hidden_size=64, drop_path_rate=0.0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0,
    )  # fmt: skip
    return Segmenter(SegformerForSemanticSegmentation(config), enlarge=2)


def densedepth() -> DenseDepth:
    """DenseDepth's decoder on a small ResNet with batch norm (0.7 M parameters)."""
    encoder = timm.create_model("resnet10t", features_only=True, channels=(24, 48, 96, 128), pretrained=False)
    return DenseDepth(encoder, 96, NEAR, FAR)


def glpn() -> Glpn:
    """A GLPN (0.6 M parameters), a transformer with layer norm."""
    config = GLPNConfig(
        num_encoder_blocks=4, depths=[2, 2, 2, 2], hidden_sizes=[24, 48, 72, 96], sr_ratios=[4, 2, 1, 1],
        patch_sizes=[5, 3, 3, 3], strides=[2, 2, 2, 2], num_attention_heads=[1, 2, 3, 4], mlp_ratios=[3, 3, 3, 3],
        decoder_hidden_size=32, max_depth=1, drop_path_rate=0.0, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return Glpn(GLPNForDepthEstimation(config), near=NEAR, far=FAR)


EMBEDDING = 8  # D, channels of a class embedding
PATCH = 2


def scheduler() -> DDPMScheduler:
    """Return a cosine schedule of 1000 steps."""
    return DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")


def _unet(condition_channels: int, classes: int = 0) -> ConcatUNet:
    network = UNet2DModel(
        sample_size=SIZE // PATCH, in_channels=(3 + condition_channels) * PATCH**2, out_channels=3 * PATCH**2,
        block_out_channels=(48, 96, 96), layers_per_block=1, norm_num_groups=16, attention_head_dim=32,
        down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    )  # fmt: skip
    return ConcatUNet(network, scheduler(), patch=PATCH, classes=classes, dimension=condition_channels)


def unet_segmentation() -> ConcatUNet:
    """A UNet conditioned on a map of mixed class embeddings, concatenated with the noisy image, in 2 x 2 patches."""
    return _unet(EMBEDDING, len(CLASSES))


def unet_depth() -> ConcatUNet:
    """A UNet conditioned on a depth map, concatenated with the noisy image, in 2 x 2 patches."""
    return _unet(1)

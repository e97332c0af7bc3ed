"""Tiny random models, small enough that a test takes milliseconds; the same bytes for the same seed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from dtta.core.conditions import ClassMixture, DepthMap, PixelMixture
from dtta.core.diffusion import ClassUNet, ConcatUNet, Diffusion, DiT, TextUNet
from dtta.core.problem import Problem
from dtta.problems.corruptions import apply_shift
from dtta.problems.digits.shifts import SHIFTS
from dtta.problems.metrics import DEPTH_METRICS, class_counts, depth_errors, segmentation_metrics
from dtta.problems.networks.clip import ClipClassifier, prompt_embeddings
from dtta.problems.scenes.clip import make_tokenizer

CLASSES, SIZE = 5, 8
NAMES = tuple("abcde")
NEAR, FAR = 1.5, 12.0
SEEDS = {"validation": 1, "test": 2}  # of each split's images


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers from a seed within the context."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def unet_network(seed: int = 0, **options) -> UNet2DModel:
    settings = dict(
        sample_size=SIZE, in_channels=1, out_channels=1, num_class_embeds=CLASSES,
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with seeded(seed):
        return UNet2DModel(**settings | options)


def dit_network(seed: int = 0, **options) -> DiTTransformer2DModel:
    """With equal embedders in all blocks, as in the library's conversion of the public checkpoints."""
    settings = dict(
        num_attention_heads=2, attention_head_dim=8, num_layers=3, sample_size=SIZE, patch_size=2,
        in_channels=1, out_channels=1, num_embeds_ada_norm=CLASSES,
    )  # fmt: skip
    with seeded(seed):
        network = DiTTransformer2DModel(**settings | options)
    first = network.transformer_blocks[0].norm1.emb.state_dict()
    for block in network.transformer_blocks:
        block.norm1.emb.load_state_dict(first)
    return network


def scheduler(**options) -> DDPMScheduler:
    return DDPMScheduler(**dict(num_train_timesteps=1000, beta_schedule="linear") | options)


def diffusion(family: str = "unet", seed: int = 0) -> Diffusion:
    """A class-conditional diffusion model of either family, "unet" or "dit"."""
    if family == "unet":
        return ClassUNet(unet_network(seed), scheduler())
    return DiT(dit_network(seed), scheduler())


class Classifier(nn.Module):
    """A convolution, batch norm with statistics of its own, dropout and a linear head."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.dropout, self.head = nn.Dropout(0.5), nn.Linear(6 * 16, classes)

    def forward(self, image: Tensor) -> Tensor:
        h = nn.functional.avg_pool2d(self.norm(self.conv(image)).relu(), 2)
        return self.head(self.dropout(h.flatten(1)))


def classifier(seed: int = 0) -> Classifier:
    with seeded(seed):
        model = Classifier()
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        return model.eval()


def written_out(model: nn.Module, image: Tensor, weight=None, bias=None, own: float = 0.0, unbiased=None) -> Tensor:
    """The tiny networks with a batch norm written out; `own` is the share of the images' statistics in its own.

    A gradient flows through the images' statistics only if no others are used; their variance then is biased.
    """
    weight, bias = (model.norm.weight, model.norm.bias) if weight is None else (weight, bias)
    h = nn.functional.conv2d(image, model.conv.weight, model.conv.bias, padding=1)
    seen, unbiased = h if own == 1 else h.detach(), own < 1 if unbiased is None else unbiased
    mean = own * seen.mean(dim=(0, 2, 3)) + (1 - own) * model.norm.running_mean
    var = own * seen.var(dim=(0, 2, 3), unbiased=unbiased) + (1 - own) * model.norm.running_var
    h = (h - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt() * weight[:, None, None] + bias[:, None, None]
    h = h.relu()
    return model.head(nn.functional.avg_pool2d(h, 2).flatten(1)) if isinstance(model, Classifier) else model.head(h)


def snapshot(*modules: nn.Module) -> dict[str, Tensor]:
    """Every parameter and buffer, copied."""
    return {f"{i}.{k}": v.clone() for i, m in enumerate(modules) for k, v in m.state_dict().items()}


def changed(before: dict[str, Tensor], *modules: nn.Module) -> set[str]:
    """The names of the parameters and buffers that are no longer as in the snapshot."""
    after = snapshot(*modules)
    assert before.keys() == after.keys()
    return {k for k in before if not torch.equal(before[k], after[k])}


def mixture(model: Diffusion) -> ClassMixture:
    return ClassMixture(lambda: model.class_embeddings)


def images(n: int = 1, seed: int = 0, channels: int = 1, size: int = SIZE) -> Tensor:
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(family: str = "unet", settings: dict | None = None) -> Problem:
    """A whole problem of 12 random images: a classifier, a diffusion model, a condition and a metric."""
    phi = diffusion(family)
    return Problem(
        name="tiny",
        task="classification",
        classes=NAMES,
        model=classifier(),
        diffusion=phi,
        condition=mixture(phi),
        draw=_draw,
        sizes=dict.fromkeys(SEEDS, 12),
        shape=(1, SIZE, SIZE),
        shifts=tuple(SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=settings or {},
    )


def _draw(split, index, shift, severity, seed, truth=lambda index: torch.tensor(index % CLASSES), **shape):
    """One of twelve random images under a shift, and its label."""
    image = images(12, seed=SEEDS[split], **shape)[index]
    return apply_shift(image, shift, severity, seed, index, SHIFTS), truth(index)


# --- a number, or several, for each pixel --------------------------------------------------------------


class Dense(nn.Module):
    """Two convolutions with batch norm and dropout between them: logits (N, L, H, W), or depths from near to far."""

    def __init__(self, outputs: int, depth: bool = False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.dropout, self.head, self.depth = nn.Dropout(0.5), nn.Conv2d(6, outputs, 3, padding=1), depth

    def forward(self, image: Tensor) -> Tensor:
        u = self.head(self.dropout(self.norm(self.conv(image)).relu()))
        return NEAR * (u.sigmoid() * math.log(FAR / NEAR)).exp() if self.depth else u


def dense(task: str, seed: int = 0) -> Dense:
    with seeded(seed):
        model = Dense(1 if task == "depth" else CLASSES, depth=task == "depth")
        model.norm.running_mean.normal_()
        model.norm.running_var.uniform_(0.5, 2)
        return model.eval()


def concat_unet(channels: int, classes: int = 0, patch: int = 2, seed: int = 0) -> ConcatUNet:
    """A diffusion model of colour images that sees a map of so many channels, in squares of patch x patch."""
    shape = dict(sample_size=SIZE // patch, in_channels=(3 + channels) * patch**2, out_channels=3 * patch**2)
    network = unet_network(seed, **shape, num_class_embeds=None)
    with seeded(seed):
        return ConcatUNet(network, scheduler(), patch=patch, classes=classes, dimension=channels if classes else 0)


def segmented(index: int) -> Tensor:
    """The true classes (H, W) of image `index`: blocks of four pixels, so that not every image has every class."""
    blocks = torch.randint(CLASSES, (2, 2), generator=torch.Generator().manual_seed(index))
    return blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)


def distances(index: int) -> Tensor:
    """The true depth (1, H, W) of image `index`; its upper row is sky."""
    depth = NEAR + (FAR - NEAR) * 0.9 * images(1, seed=100 + index)[0]
    depth[:, 0] = FAR
    return depth


def dense_problem(task: str, settings: dict | None = None) -> Problem:
    """A whole problem of 6 random colour images, for "segmentation" or "depth"."""
    if task == "depth":
        errors = partial(depth_errors, near=NEAR, far=FAR)
        phi, condition = concat_unet(1), DepthMap(NEAR, FAR, scale="log")
        kind = dict(metric="SSIM", sums=errors, metrics=DEPTH_METRICS, score=lambda y, truth: errors(y, truth)["SSIM"])
    else:
        counts, metrics = partial(class_counts, classes=NAMES), segmentation_metrics(NAMES)
        phi = concat_unet(3, CLASSES)
        condition = PixelMixture(lambda: phi.class_embeddings)
        kind = dict(
            metric="mean IoU", sums=counts, metrics=metrics,
            score=lambda y, truth: metrics["mean IoU"](counts(y, truth)).item() / 100,
        )  # fmt: skip
    return Problem(
        name=f"tiny-{task}",
        task=task,
        classes=() if task == "depth" else NAMES,
        model=dense(task),
        diffusion=phi,
        condition=condition,
        draw=partial(_draw, truth=distances if task == "depth" else segmented, channels=3),
        sizes=dict.fromkeys(SEEDS, 6),
        shape=(3, SIZE, SIZE),
        shifts=tuple(SHIFTS),
        settings=settings or {},
        **kind,
    )


# --- words --------------------------------------------------------------------------------------------

WORDS = ("a", "photo", "of", "red", "blue", "ball", "box", "cone", "ring")
THINGS = ("red ball", "blue box", "red cone", "blue ring", "red box")
CLIP_SIZE, LENGTH = 16, 12


@cache
def tokenizer() -> CLIPTokenizer:
    return make_tokenizer(WORDS)


def clip_model(seed: int = 0, length: int = LENGTH) -> CLIPModel:
    words = tokenizer()
    ends = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.eos_token_id)
    shape = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    text = dict(shape, vocab_size=len(words), max_position_embeddings=length, **ends)
    vision = dict(shape, image_size=CLIP_SIZE, patch_size=4)
    with seeded(seed):
        model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
        with torch.no_grad():  # larger than the library's start, so that classes differ
            for p in model.parameters():
                p.add_(0.2 * torch.randn(p.shape)) if p.ndim > 1 else None
            model.logit_scale.fill_(2.0)
    return model


def clip_classifier(seed: int = 0) -> ClipClassifier:
    return ClipClassifier(clip_model(seed), tokenizer(), THINGS)


def text_unet(seed: int = 0, **options) -> TextUNet:
    """A text-to-image model of colour images, or, with sample_size and channels given, of latents."""
    settings = dict(
        sample_size=CLIP_SIZE, in_channels=3, out_channels=3, cross_attention_dim=16, attention_head_dim=2,
        block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    with seeded(seed):
        return TextUNet(UNet2DConditionModel(**settings | options), scheduler())


def open_problem(settings: dict | None = None) -> Problem:
    """A whole problem of 12 random colour images: a CLIP, a text-to-image model, five names."""
    clip = clip_model()
    return Problem(
        name="tiny-open",
        task="classification",
        classes=THINGS,
        model=ClipClassifier(clip, tokenizer(), THINGS),
        diffusion=text_unet(),
        condition=ClassMixture(prompt_embeddings(clip.text_model, tokenizer(), THINGS)),
        draw=partial(_draw, channels=3, size=CLIP_SIZE),
        sizes=dict.fromkeys(SEEDS, 12),
        shape=(3, CLIP_SIZE, CLIP_SIZE),
        shifts=tuple(SHIFTS),
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() == label.item()),
        settings=settings or {},
    )


class SinglePrecision(TorchDispatchMode):
    """A context in which no operation may make a tensor of float64, which Apple's GPUs lack."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        assert all(getattr(part, "dtype", None) != torch.float64 for part in tree_leaves(result)), function
        return result

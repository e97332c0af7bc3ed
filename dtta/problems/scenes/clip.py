"""Open vocabulary on the portraits: a CLIP, and a text-to-image model conditioned through its text encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from random import Random

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from dtta.core.conditions import ClassMixture
from dtta.core.diffusion import TextUNet
from dtta.core.probe import losses_under
from dtta.core.problem import Problem
from dtta.problems.chosen import chosen
from dtta.problems.data.images import no_labels
from dtta.problems.networks.clip import ClipClassifier, TextReader, check_names, prompt_embeddings, tokens
from dtta.problems.scenes import portraits, words
from dtta.problems.scenes.data import SIZE
from dtta.problems.scenes.shifts import SHIFTS
from dtta.problems.scenes.training import LICENCE, distort
from dtta.problems.scenes.words import KINDS, NAMES, SEEN, VOCABULARY
from dtta.problems.training import weights
from dtta.problems.training.fit import denoising_loss
from dtta.problems.training.recipes import Recipe, map_losses

MEAN, STD = (0.5,) * 3, (0.25,) * 3
LENGTH = 16  # tokens of a sentence, padding included
PATCH = 2
PROMPTS = ("a photo of a {}", "a {}")


@cache
def tokenizer() -> CLIPTokenizer:
    """Return CLIP's tokenizer for the words of the captions: each is one token, any other word is spelled."""
    return make_tokenizer(words.WORDS)


def make_tokenizer(vocabulary: Sequence[str]) -> CLIPTokenizer:
    """Return CLIP's byte-pair tokenizer with merges for these words; the same token numbers on every machine."""
    # The characters that stand for the 256 bytes.
    alphabet = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 324))]
    merges = learn_merges(vocabulary)
    names = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(f"{c}</w>" for c in alphabet), *map("".join, merges)]
    return CLIPTokenizer(vocab={name: i for i, name in enumerate(dict.fromkeys(names))}, merges=merges)


def learn_merges(vocabulary: Sequence[str]) -> list[tuple[str, str]]:
    """Return the merges of byte-pair encoding (Sennrich et al., arXiv 1508.07909) that make every word one token.

    The most frequent pair is merged first; of equally frequent pairs, the last in alphabetical order. The library's
    trainer breaks ties randomly, and weights trained with one numbering of tokens are useless with another.
    """
    spelled = [[*word[:-1], f"{word[-1]}</w>"] for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for word in spelled for pair in pairwise(word))
        if not pairs:
            return merges
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        for word in spelled:
            k = 0
            while k < len(word) - 1:
                if (word[k], word[k + 1]) == best:
                    word[k : k + 2] = ["".join(best)]
                k += 1


def clip() -> CLIPModel:
    """A CLIP (0.5 M parameters): a vision transformer on 4 x 4 patches and a causal text transformer."""
    start = tokenizer().bos_token_id
    end = tokenizer().eos_token_id
    text = dict(
        vocab_size=len(tokenizer()), hidden_size=64, intermediate_size=192, num_hidden_layers=3,
        num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=start, eos_token_id=end, pad_token_id=end,
    )  # fmt: skip
    vision = dict(
        image_size=SIZE, patch_size=4, hidden_size=96, intermediate_size=288, num_hidden_layers=4,
        num_attention_heads=4,
    )  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def contrastive_loss(model: CLIPModel, generator: torch.Generator, size: int = 96) -> Tensor:
    """Return CLIP's loss (its Figure 3): find each image's caption among those of the batch, and vice versa.

    No two images of a batch show the same kind of object, so every other caption is wrong.
    """
    image, captions, _ = portraits.batch(size, generator)
    with torch.no_grad():
        model.logit_scale.clamp_(max=4.6052)  # ln 100, as in its section 2.5
    pixels = (crop(image, generator) - 0.5) / 0.25
    return model(tokens(tokenizer(), captions, LENGTH), pixels, return_loss=True).loss


def crop(image: Tensor, generator: torch.Generator, least: float = 0.85) -> Tensor:
    """Crop a random square of each image and enlarge it to the image's size: CLIP's only augmentation."""
    n = len(image)
    scale = least + (1 - least) * torch.rand(n, generator=generator)
    move = (torch.rand(2, n, generator=generator) * 2 - 1) * (1 - scale)
    zero = torch.zeros(n)
    matrix = torch.stack([scale, zero, move[0], zero, scale, move[1]], dim=1).view(n, 2, 3)
    return F.grid_sample(image, F.affine_grid(matrix, list(image.shape), align_corners=False), align_corners=False)


def unet() -> TextUNet:
    """A text-to-image UNet (3.2 M parameters), conditioned by cross-attention on the CLIP's text encoder,
    in 2 x 2 patches."""
    network = UNet2DConditionModel(
        sample_size=SIZE // PATCH, in_channels=3 * PATCH**2, out_channels=3 * PATCH**2, cross_attention_dim=64,
        block_out_channels=(48, 96, 96), layers_per_block=1, norm_num_groups=16, attention_head_dim=4,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    return TextUNet(network, scheduler, patch=PATCH)


@cache
def reader() -> CLIPModel:
    """Return the trained CLIP, whose text encoder conditions the diffusion model."""
    return weights.ready("scenes-clip", NETWORKS, "clip").requires_grad_(False)


def beliefs(kinds: Tensor, generator: torch.Generator, most: int = 20, mass: float = 1.5) -> Tensor:
    """Return calibrated beliefs (N, 96) over the seen kinds, given the true ones (see ``digits.training.soft_labels``).

    Each is drawn from Dirichlet(mass / J + onehot) over J kinds, the true one and a random number of others.
    """
    N = len(kinds)
    others = torch.rand(N, len(SEEN), generator=generator).scatter(1, kinds[:, None], -1).argsort(dim=1)  # true first
    J = torch.randint(2, most + 1, (N, 1), generator=generator)
    concentration = (mass / J).expand(N, most).clone()
    concentration[:, 0] += 1
    gamma = torch._standard_gamma(concentration, generator=generator)
    gamma = gamma * (torch.arange(most) < J)
    return torch.zeros(N, len(SEEN)).scatter(1, others[:, :most], gamma / gamma.sum(dim=1, keepdim=True))


def diffusion_loss(diffusion: TextUNet, generator: torch.Generator, size: int = 64) -> Tensor:
    """Return the noise-prediction loss under beliefs over names (half), captions, and an empty text (a twentieth).

    Half of the images are distorted, as in the other problems on scenes.
    """
    image, captions, kinds = portraits.batch(size, generator)
    image = distort(image, generator)
    empty = (torch.rand(size, generator=generator) < 0.1).tolist()
    half = size // 2
    rng = Random(int(torch.randint(2**31, (), generator=generator)))
    encoder = reader().text_model
    texts = ["" if e else c for c, e in zip(captions[half:], empty[half:], strict=True)]
    names = [words.name(kind, rng) for kind in SEEN]
    mixed = prompt_embeddings(encoder, tokenizer(), names, rng.choice(PROMPTS))  # (96, tokens, D)
    soft = torch.einsum("nk,ktd->ntd", beliefs(kinds[:half], generator), mixed)
    with torch.no_grad():
        hard = encoder(tokens(tokenizer(), texts, LENGTH)).last_hidden_state
    return denoising_loss(diffusion, diffusion.encode(image), torch.cat([soft, hard]), generator)


CLASSES = 20  # the default
NETWORKS = {"clip": clip}
DIFFUSIONS = {"unet": unet}


def problem(
    network: str | None = None, diffusion: str | None = None, classes: int | Sequence[str] = CLASSES
) -> Problem:
    """Build the problem of naming the object of a portrait; two of five names are compositions unseen in training.

    Args:
        network, diffusion: of `NETWORKS` and `DIFFUSIONS`; None: the first.
        classes: number of names of ``words.NAMES``, 5 to 960, of which the first 50 are the vocabulary, the first 120
            name different kinds, and any more are synonyms: an answer is right if it names the kind. Or other names,
            for images without labels.

    Raises ValueError: unknown network or diffusion model, bad `classes`, or a name that is too long.
    """
    names_given = isinstance(classes, Sequence)
    if not names_given and not (isinstance(classes, int) and 5 <= classes <= len(NAMES)):
        raise ValueError(f"classes must be a whole number from 5 to {len(NAMES)}, or names, not {classes!r}")
    model = weights.ready("scenes-clip", NETWORKS, network)
    phi = weights.ready("scenes-clip", DIFFUSIONS, diffusion)
    names = check_names(classes) if names_given else [label.name for label in NAMES[:classes]]
    reader = TextReader(model.text_model, tokenizer())
    return Problem(
        name="scenes-clip",
        task="classification",
        classes=tuple(names),
        model=ClipClassifier(model, tokenizer(), names, PROMPTS, MEAN, STD),
        diffusion=phi,
        condition=ClassMixture(reader([PROMPTS[0].format(name) for name in names])),
        draw=no_labels if names_given else partial(portraits.shifted, classes),
        sizes=portraits.SIZES,
        shape=(3, SIZE, SIZE),
        shifts=SHIFTS,
        metric="accuracy",
        score=lambda output, label: float(output.argmax(dim=1).item() % len(KINDS) == label.item()),
        settings=chosen("scenes-clip", network, diffusion),
        reader=reader,
    )


@torch.no_grad()
def scores(model: nn.Module, count: int = 200) -> dict[str, float]:
    """Return the validation scores of a model card, on clean portraits."""
    if isinstance(model, CLIPModel):
        return _clip_scores(model, count)
    images, labels, names = _validation(10, count)
    embeddings = prompt_embeddings(reader().text_model, tokenizer(), names, PROMPTS[0])
    empty = reader().text_model(tokens(tokenizer(), [""], LENGTH)).last_hidden_state.expand(count, -1, -1)
    conditions = {"its name": embeddings[labels], "no text": empty, "another's name": embeddings[labels.roll(1)]}
    means = map_losses(model, images, conditions)
    every_name = [name.expand(10, -1, -1) for name in embeddings]
    generator = torch.Generator().manual_seed(0)
    parts = images[:100].split(10)
    losses_by_name = [losses_under(model, part, every_name, samples=12, generator=generator) for part in parts]
    classified = torch.cat(losses_by_name).argmin(1)
    return means | _by_seen(classified == labels[:100], labels[:100], "Diffusion Classifier accuracy, 10 names")


def _clip_scores(model: CLIPModel, count: int) -> dict[str, float]:
    accuracies = {}
    for classes in (10, CLASSES, len(VOCABULARY)):
        images, labels, names = _validation(classes, count)
        classified = ClipClassifier(model, tokenizer(), names, PROMPTS, MEAN, STD)(images).argmax(1)
        accuracies |= _by_seen(classified == labels, labels, f"accuracy, {classes} names")
    return accuracies


def _by_seen(correct: Tensor, labels: Tensor, name: str) -> dict[str, float]:
    seen = torch.tensor([VOCABULARY[j].seen for j in labels.tolist()])
    groups = {"seen": seen, "unseen": ~seen}
    return {f"{name}, {group}": round(correct[mask].float().mean().item(), 4) for group, mask in groups.items()}


@cache
def _validation(classes: int, count: int) -> tuple[Tensor, Tensor, list[str]]:
    pairs = [portraits.shifted(classes, "validation", i, "clean", 0, 0) for i in range(count)]
    names = [label.name for label in VOCABULARY[:classes]]
    return torch.stack([x for x, _ in pairs]), torch.stack([y for _, y in pairs]), names


DATA = "16000 rendered portraits of 96 kinds of things (dtta.problems.scenes.portraits), 32 x 32, half of them mirrored"
_recipe = partial(Recipe, scores=scores, data=DATA, licence=LICENCE, lr=1e-3)
RECIPES = {
    "clip": _recipe(clip, contrastive_loss, steps=2500, weight_decay=0.1),
    "unet": _recipe(unet, diffusion_loss, steps=4000),
}

"""CLIP (Radford et al., ICML 2021, arXiv 2103.00020) as a classifier over any list of names.

    model = ClipClassifier(clip, tokenizer, ["shiny red ball", "matte blue cube"])
    logits = model(image)

A template makes a sentence of each name. A text-to-image model is conditioned on the same sentences, as one embedding
per token (paper, section 3): ``TextReader``, and ``prompt_embeddings`` for names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer
from transformers.masking_utils import create_causal_mask

MEAN = (0.48145466, 0.4578275, 0.40821073)  # of the pixels that OpenAI's CLIP was trained on
STD = (0.26862954, 0.26130258, 0.27577711)
TEMPLATES = ("a photo of a {}",)


def tokens(tokenizer: CLIPTokenizer, texts: Sequence[str], length: int) -> Tensor:
    """Return the token numbers (N, length) of N sentences, padded. Raises ValueError: a sentence has more tokens."""
    ids = tokenizer(list(texts), padding="max_length", max_length=length, return_tensors=None).input_ids
    for text, row in zip(texts, ids, strict=True):
        if len(row) > length:
            raise ValueError(f"{text!r} has {len(row)} tokens, the text encoder takes {length}; shorten the name")
    return torch.tensor(ids)


class TextReader:
    """A ``dtta.core.problem.TextReader`` with a CLIP text encoder, which takes ``max_position_embeddings`` tokens."""

    def __init__(self, encoder: CLIPTextModel, tokenizer: CLIPTokenizer):
        self.encoder, self.tokenizer = encoder.eval(), tokenizer

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str], batch: int = 256) -> Tensor:
        """Return the last hidden states (N, tokens, D) of N sentences, which may be empty, on the encoder's device.

        Raises ValueError: see `tokens`.
        """
        ids = tokens(self.tokenizer, sentences, self.encoder.config.max_position_embeddings).to(self.encoder.device)
        return torch.cat([self.encoder(part).last_hidden_state for part in ids.split(batch)]).float()

    def words(self, sentence: str) -> list[str]:
        """Return the text of each token of a sentence, without padding; entry k belongs to row k of its embedding."""
        ends = {self.tokenizer.bos_token: "‹start›", self.tokenizer.eos_token: "‹end›"}
        pieces = self.tokenizer.convert_ids_to_tokens(self.tokenizer(sentence).input_ids)
        return [ends.get(piece, piece.removesuffix("</w>")) for piece in pieces]


def prompt_embeddings(
    encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    names: Sequence[str],
    template: str = TEMPLATES[0],
    batch: int = 256,
) -> Tensor:
    """Return l (L, tokens, D), the text encoder's last hidden states for each name, as in Stable Diffusion."""
    return TextReader(encoder, tokenizer)([template.format(name) for name in check_names(names)], batch)


@torch.no_grad()
def text_features(
    clip: CLIPModel,
    tokenizer: CLIPTokenizer,
    names: Sequence[str],
    templates: Sequence[str] = TEMPLATES,
    batch: int = 256,
) -> Tensor:
    """Return a unit vector for each name (L, D): the normalised mean of the unit vectors of its sentences."""
    names = check_names(names)
    length = clip.config.text_config.max_position_embeddings
    mean = 0
    for template in templates:
        ids = tokens(tokenizer, [template.format(name) for name in names], length).to(clip.device)
        features = torch.cat([clip.get_text_features(part).pooler_output for part in ids.split(batch)])
        mean = mean + F.normalize(features.float(), dim=1)
    return F.normalize(mean, dim=1)


def check_names(names: Sequence[str]) -> list[str]:
    """Return the names as a list. Raises ValueError unless they are two or more different, non-empty strings."""
    if isinstance(names, str) or len(names) < 2 or not all(isinstance(n, str) and n.strip() for n in names):
        raise ValueError(f"give two class names or more, each a non-empty string, not {names!r}")
    lower = [name.strip().lower() for name in names]  # as the tokenizer reads them
    repeated = sorted({name for name in lower if lower.count(name) > 1})
    if repeated:
        raise ValueError(f"class names must differ, not only in case; repeated: {', '.join(repeated)}")
    return list(names)


class ClipClassifier(nn.Module):
    """Image in [0, 1] -> logits over names: e^τ cos(image, name), with CLIP's learnt temperature τ.

    Its parameters are those of the vision tower; the vectors of the names are computed once.

    Args:
        clip: put in eval mode. Its text tower is used and not changed. `words` holds it and the tokenizer.
        templates: sentences with {} for the name; the vectors of several are averaged.
        mean, std: of each channel, as in CLIP's training.
        unit: whether the image's vector is normalised to length one, as in CLIP's training.
    """

    lora_targets = r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q|v)_proj"  # the paper's: queries and values

    def __init__(
        self,
        clip: CLIPModel,
        tokenizer: CLIPTokenizer,
        names: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
        unit: bool = True,
    ):
        super().__init__()
        clip.eval()
        self.unit = unit
        self.size = clip.config.vision_config.image_size
        self.vision_model, self.visual_projection = clip.vision_model, clip.visual_projection
        self.logit_scale = clip.logit_scale
        self.names, self.templates = tuple(check_names(names)), tuple(templates)
        self.template = self.templates[0]
        self.register_buffer("mean", torch.as_tensor(mean).clone().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.as_tensor(std).clone().view(1, 3, 1, 1), persistent=False)
        self.register_buffer("text", text_features(clip, tokenizer, names, templates), persistent=False)
        # A tuple, so that the parameters of the text tower are not parameters of this module.
        self.words = clip, tokenizer
        self.to(clip.device)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> logits (N, L)."""
        return self.logit_scale.exp() * self.features(image) @ self.text.T

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> vectors (N, D), of length one if `unit`."""
        features = self.visual_projection(self.vision_model(pixel_values=self.pixels(image)).pooler_output)
        return F.normalize(features, dim=1) if self.unit else features

    def pixels(self, image: Tensor) -> Tensor:
        """Apply CLIP's preprocessing: resize the shorter side (bicubic), crop the middle square, normalise."""
        if image.shape[-2:] != (self.size, self.size):
            short = min(image.shape[-2:])
            sides = [int(self.size * side / short) for side in image.shape[-2:]]  # rounded down, as CLIP does
            image = F.interpolate(image, sides, mode="bicubic", antialias=True).clamp(0, 1)
            top, left = (sides[0] - self.size) // 2, (sides[1] - self.size) // 2
            image = image[..., top : top + self.size, left : left + self.size]
        return (image - self.mean) / self.std

    def prompted(self, words: int = 4) -> PromptedClip:
        """Return the same classifier with learnable words before each name: see ``PromptedClip``."""
        return PromptedClip(self, *self.words, words)


class PromptedClip(nn.Module):
    """CLIP whose only trainable parameters are embeddings of the words before the name (CoOp, arXiv 2109.01134).

    They are initialised with the words of the classifier's first template, "a photo of a", so the initial output is
    that of a classifier with this template only. TPT (arXiv 2209.07511) trains the same parameters on one image.
    `words` tokens at the start of each sentence are learnt, shared by all classes; the classifier is never changed.
    Raises ValueError: the sentences of two classes differ within these words.
    """

    def __init__(self, classifier: ClipClassifier, clip: CLIPModel, tokenizer: CLIPTokenizer, words: int = 4):
        super().__init__()
        self.classifier, self.text_model = classifier, clip.text_model
        self.text_projection = clip.text_projection
        length = clip.config.text_config.max_position_embeddings
        ids = tokens(tokenizer, [classifier.template.format(n) for n in classifier.names], length).to(clip.device)
        first = ids[:, 1 : 1 + words]  # after the start token
        if words < 1 or not (first == first[:1]).all():
            raise ValueError(f"the first {words} words of the sentences differ; {classifier.template!r} has fewer")
        self.register_buffer("ids", ids, persistent=False)
        table = self.text_model.embeddings.token_embedding
        self.context = nn.Parameter(table(first[0]).detach().clone())  # (words, D)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] -> logits (N, L)."""
        with torch.no_grad():
            features = self.classifier.features(image)
        return self.classifier.logit_scale.exp() * features @ self.text().T

    def text(self) -> Tensor:
        """Return the unit vectors (L, D) of the names with the current words before them."""
        text = self.text_model
        ids = self.ids
        x = text.embeddings.token_embedding(ids)  # (L, tokens, D)
        x = torch.cat([x[:, :1], self.context.expand(len(x), -1, -1), x[:, 1 + len(self.context) :]], dim=1)
        x = text.embeddings(inputs_embeds=x)  # add the positions
        mask = create_causal_mask(config=text.config, inputs_embeds=x, attention_mask=None, past_key_values=None)
        x = text.encoder(inputs_embeds=x, attention_mask=mask, is_causal=True).last_hidden_state
        end = (ids == text.config.eos_token_id).int().argmax(dim=1)
        if text.config.eos_token_id == 2:  # as the library does for OpenAI's own configuration
            end = ids.argmax(dim=1)
        x = text.final_layer_norm(x)[torch.arange(len(x), device=x.device), end]
        return F.normalize(self.text_projection(x), dim=1)

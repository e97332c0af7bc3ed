"""The words of the open vocabulary: materials, colours and shapes, their synonyms, and the pairs that are held out.

A name is a material, a colour and a shape: "shiny red sphere". Eight pairs of colour and shape are in no training image
or caption, though each colour and each shape occurs with all others; so names with them are new compositions.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from random import Random

from dtta.problems.scenes.sdf import SHAPES
from dtta.problems.scenes.world import COLOURS, MATERIALS, TEXTURES

Kind = tuple[str, str, str]  # material, colour, shape

SYNONYMS = {
    "matte": "dull", "shiny": "glossy", "metal": "metallic",
    "red": "crimson", "orange": "amber", "yellow": "golden", "green": "emerald",
    "cyan": "turquoise", "blue": "navy", "purple": "violet", "pink": "rose",
    "sphere": "ball", "box": "cube", "cylinder": "drum", "cone": "spike", "torus": "ring",
}  # fmt: skip
HELD_OUT = {
    "red": "box", "orange": "cone", "yellow": "sphere", "green": "cylinder",
    "cyan": "torus", "blue": "box", "purple": "cone", "pink": "sphere",
}  # fmt: skip

KINDS: tuple[Kind, ...] = tuple(product(MATERIALS, COLOURS, SHAPES))
SEEN = tuple(kind for kind in KINDS if HELD_OUT[kind[1]] != kind[2])  # 96
UNSEEN = tuple(kind for kind in KINDS if HELD_OUT[kind[1]] == kind[2])  # 24

# Templates of the captions. The prompts of the problem are the last two, which do not mention the ground.
TEMPLATES = ("a {thing} on a {ground} ground", "a photo of a {thing} on a {ground} ground", "a {thing}",
             "a photo of a {thing}")  # fmt: skip


@dataclass(frozen=True)
class Label:
    """A class of the vocabulary: the kind of object that is drawn, and its name."""

    kind: Kind
    name: str

    @property
    def seen(self) -> bool:
        """Whether the colour and shape occur together in training."""
        return self.kind in SEEN


def name(kind: Kind, rng: Random) -> str:
    """Return a name of a kind: each word itself or its synonym, at random."""
    return " ".join(rng.choice((word, SYNONYMS[word])) for word in kind)


def caption(kind: Kind, ground: str, rng: Random) -> str:
    """Return a random caption of an image."""
    return rng.choice(TEMPLATES).format(thing=name(kind, rng), ground=ground)


def _vocabulary(count: int = 50, seed: int = 0) -> tuple[Label, ...]:
    """Return labels of which, of every five in a row, three are seen and two unseen."""
    rng = Random(f"dtta vocabulary {seed}")
    seen, unseen = rng.sample(SEEN, count * 3 // 5), rng.sample(UNSEEN, count * 2 // 5)
    kinds = [(seen if i % 5 < 3 else unseen).pop() for i in range(count)]
    return tuple(Label(kind, name(kind, rng)) for kind in kinds)


def _names(seed: int = 0) -> tuple[Label, ...]:
    """Return every name of every kind: those of the vocabulary, one of each other kind, then synonyms in rounds.

    A round has one more name of each kind, in the same order; so name j and name j + 120 are of the same kind.
    """
    rng = Random(f"dtta names {seed}")
    first = list(VOCABULARY)
    others = [kind for kind in KINDS if kind not in {label.kind for label in first}]
    first += [Label(kind, name(kind, rng)) for kind in rng.sample(others, len(others))]
    rounds = []
    for label in first:
        names = [" ".join(words) for words in product(*((word, SYNONYMS[word]) for word in label.kind))]
        names.remove(label.name)
        rounds.append([label, *(Label(label.kind, synonym) for synonym in rng.sample(names, len(names)))])
    return tuple(label for of_round in zip(*rounds, strict=True) for label in of_round)


VOCABULARY = _vocabulary()
NAMES = _names()  # 960: eight for each of 120 kinds, the vocabulary first
WORDS = tuple(dict.fromkeys([*SYNONYMS, *SYNONYMS.values(), *TEXTURES, "a", "photo", "of", "on", "ground"]))

"""The scenes as a data set: three splits of rendered images with their segmentation and depth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from tqdm.auto import tqdm

from dtta.problems.data.folders import cache_folder
from dtta.problems.scenes.render import Rendered, render
from dtta.problems.scenes.shifts import shift_image, shift_scene
from dtta.problems.scenes.world import FAR, Scene, random_scene
from dtta.problems.training.fit import write_tensors

SIZE = 32
SUPERSAMPLE = 2
WORLD = 0  # the seed of all scenes
SPLITS = {"train": (0, 12000), "validation": (1_000_000, 500), "test": (2_000_000, 1000)}  # first number, count
SIZES = {name: count for name, (_, count) in SPLITS.items()}
NEAR = 1.5  # no surface is nearer to the camera


def scene(split: str, index: int) -> Scene:
    """Return scene `index` of a split. Raises ValueError: unknown split; IndexError: no such scene."""
    return random_scene(WORLD, number_in_world(SPLITS, split, index))


def number_in_world(splits: Mapping[str, tuple[int, int]], split: str, index: int) -> int:
    """Return the number in the world of scene `index` of a split; splits: name -> (first number, count)."""
    if split not in splits:
        raise ValueError(f"unknown split {split!r}; choose from {', '.join(splits)}")
    first, count = splits[split]
    if not 0 <= index < count:
        raise IndexError(f"the {split} split has scenes 0 to {count - 1}, not {index}")
    return first + index


def draw(scenes: list[Scene]) -> Rendered:
    """Render scenes at the size of the data set."""
    return render(scenes, SIZE, SUPERSAMPLE)


@lru_cache(maxsize=2048)
def draw_one(scene: Scene) -> Rendered:
    """Render one scene, once: its corruptions share the picture, which is not to be changed in place."""
    return draw([scene])


def sample(split: str, count: int) -> dict[str, Tensor]:
    """Return the first scenes of a split: "image" (N, 3, H, W), "segmentation" (N, H, W), "depth" (N, 1, H, W)."""
    parts = [draw([scene(split, i) for i in range(k, min(k + 50, count))]) for k in range(0, count, 50)]
    return {name: torch.cat([getattr(p, name) for p in parts]) for name in ("image", "segmentation", "depth")}


def shifted(task: str, split: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return scene `index` of a split under a shift: image (3, H, W) and its map, "segmentation" or "depth"."""
    image, label = _shifted(task, split, index, shift, severity, seed)
    return image.clone(), label.clone()


@lru_cache(maxsize=2048)  # the runs of a table share their images
def _shifted(task: str, split: str, index: int, shift: str, severity: int, seed: int) -> tuple[Tensor, Tensor]:
    drawn = draw_one(shift_scene(scene(split, index), shift, severity, seed, index))
    return shift_image(drawn.image[0].clone(), shift, severity, seed, index), getattr(drawn, task)[0]


@cache
def train_set() -> dict[str, Tensor]:
    """Return the training split: rendered once (four minutes on one core), then read from the cache."""
    scenes = [scene("train", i) for i in range(SPLITS["train"][1])]
    return rendered("scenes", scenes, ("image", "segmentation", "depth"))


def rendered(name: str, scenes: list[Scene], kinds: Sequence[str]) -> dict[str, Tensor]:
    """Return the maps named in `kinds`: "image" and "segmentation" as bytes, "depth" in half precision.

    Stored in the cache folder, under a hash of the first scenes: they are rendered again when the world changes.
    """
    path = cache_folder() / f"{name}-{len(scenes)}-{SIZE}-{_fingerprint(scenes[:16])}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except SafetensorError:
            print(f"{path} is damaged; rendering it again")
    compress = {"image": lambda x: (x * 255).round().byte(), "segmentation": Tensor.byte, "depth": Tensor.half}
    parts = []
    for k in tqdm(range(0, len(scenes), 50), desc=f"rendering the training {name}", mininterval=5):
        drawn = draw(scenes[k : k + 50])
        parts.append({kind: compress[kind](getattr(drawn, kind)) for kind in kinds})
    data = {kind: torch.cat([part[kind] for part in parts]) for kind in kinds}
    write_tensors(path, data)
    return data


def batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return a random training batch, half mirrored: images (N, 3, H, W), classes (N, H, W), depths (N, 1, H, W)."""
    data = train_set()
    pick = torch.randint(len(data["image"]), (size,), generator=generator)
    mirrored = torch.rand(size, generator=generator) < 0.5
    image = data["image"][pick].float() / 255
    classes, depth = data["segmentation"][pick].long(), data["depth"][pick].float().clamp(NEAR, FAR)
    for maps in (image, classes, depth):
        maps[mirrored] = maps[mirrored].flip(-1)
    return image, classes, depth


def _fingerprint(scenes: list[Scene]) -> str:
    """Return a hash of the images and segmentations of some scenes."""
    drawn = draw(scenes)
    return hashlib.sha256(drawn.image.numpy().tobytes() + drawn.segmentation.numpy().tobytes()).hexdigest()[:12]

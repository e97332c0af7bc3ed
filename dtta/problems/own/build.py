"""A problem from your own network, diffusion model and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dtta.core.adapter import take_logits
from dtta.core.diffusion import ConcatUNet, Diffusion, TextUNet
from dtta.core.problem import Problem
from dtta.problems.corruptions import IMAGE_SHIFTS, SMALL_IMAGE_SHIFTS, apply_shift
from dtta.problems.data import dense, hub
from dtta.problems.data.imagenet import synsets
from dtta.problems.data.images import center_square_map, centered, open_image
from dtta.problems.full import imagenet, latent_maps, open_vocabulary
from dtta.problems.metrics import SCALED_DEPTH_METRICS, class_counts, scaled_depth_errors, segmentation_metrics
from dtta.problems.networks.clip import ClipClassifier
from dtta.problems.own import diffusions, images, networks

READERS = {"segmentation": dense.own_labels, "depth": dense.millimetres}  # of the files of maps
LABELS = {"classification": ("class",), "segmentation": ("mask", "map"), "depth": ("depth", "map")}
DEPTHS = (0.5, 10.0)  # nearest and furthest, where the network does not state them


def problem(
    network: nn.Module | str | Path | None = None,
    diffusion: Diffusion | str | Path | None = None,
    images: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    *,
    condition: nn.Module | None = None,
    name: str = "own",
    prompt: str = "a photo of a {}",
    size: int | None = None,
    near: float | None = None,
    far: float | None = None,
    colours: Tensor | None = None,
    validation: float = 0.2,
    split_seed: int = 0,
    fingerprint: str = "",
) -> Problem:
    """Return a problem with your own network, diffusion model and pictures.

    The task (classification, open vocabulary, segmentation or depth) follows from the network. ``problem.inferred`` has
    a line each on the network, the task, the diffusion model and the pictures.

    Args:
        network: a torch module that takes images in [0, 1], or a timm module; the name of a network of timm; or a
            folder (or OWNER/NAME on the hub) with a classifier of timm, or a ``transformers`` classifier, segmentation
            or metric depth network, or CLIP. A folder's or timm's own preprocessing is used.
        diffusion: a ``dtta`` diffusion model; or a folder (or OWNER/NAME) with a pipeline of diffusers: a DiT or
            UNet2DModel with the network's classes, Stable Diffusion (the class names are its text), or for maps
            one with a ControlNet, or a UNet2DModel that takes the map as channels.
        images: a folder or a CSV file (see ``dtta.problems.own.images``); None: only to adapt to pictures one by one.
        classes: class names in the network's order, or a text file with one a line; None: those of the network's
            configuration, or the sorted names of the class folders, if their number is that of the network's classes.
        condition: output of the network -> condition; None: the usual one of the task and the diffusion model.
        name: as given to ``dtta.load``: "own", or a path, which stands for `images`.
        prompt: the sentence made of a class name, for CLIP and Stable Diffusion.
        size: side of the images of a torch module; None: the diffusion model's.
        near, far: range of depths in metres; None: a twentieth of the network's maximum to the maximum, or 0.5 to 10.
        colours: (L, 3) in [0, 1], of the classes in a ControlNet's maps; None: from colours.txt in its folder.
        validation: the share of the labelled pictures, of each class, that become the validation split, drawn with
            `split_seed`: choose settings on it. 0: all are test images.
        fingerprint: raise an error if the pictures are no longer those that had this fingerprint.

    Raises ValueError: something is missing or does not fit; ``WeightsError``: a checkpoint cannot be read.
    """
    for what, value in {"network": network, "diffusion": diffusion}.items():
        if value is None:
            kind = "diffusion model" if what == "diffusion" else what
            text = "; worker processes cannot load one made of modules" if name == "own" and images is None else ""
            raise ValueError(f"a problem of your own needs a {kind}: give {what}{text}")
    _check_numbers(validation, near, far, size)
    pictures = _read(images if images is not None else None if name == "own" else name, fingerprint)
    f = networks.load(network, _names(classes, pictures), prompt)
    model = diffusions.load(diffusion)
    phi, side = model.phi, model.phi.image_size
    square = model.channels if f.raw and not f.task else f.channels, size or side, size or side
    view = f.view or partial(centered, shape=square)
    shape = tuple(view(Image.new("RGB", (64, 48))).shape)
    if shape[0] != model.channels:
        raise ValueError(
            f"the network takes {shape[0]} channels, and the diffusion model {model.name} {model.channels}"
        )
    task, outputs = _task(f, shape)
    depths = near or (f.depths or DEPTHS)[0], far or (f.depths or DEPTHS)[1]
    if not 0 < depths[0] < depths[1]:
        raise ValueError(f"depths must satisfy 0 < near < far, not {depths[0]:g} and {depths[1]:g}")
    if pictures and pictures.kind and pictures.kind not in LABELS[task]:
        raise ValueError(f"{pictures.root} has a {pictures.kind} for each picture, which {task} cannot use")
    names = () if task == "depth" else _class_names(classes, f, pictures, outputs)
    c = condition or diffusions.condition_of(model, task, names, depths, prompt, colours)
    target = hub.device()
    module = networks.wrapped(f, task, shape[-1], *depths).to(target)
    ids = synsets() if len(names) == 1000 and tuple(names) == imagenet.class_names(range(1000)) else ()
    labels = pictures.labels(names, ids) if pictures and pictures.kind == "class" else None
    if pictures and pictures.kind and labels is None:
        pictures.check_maps()
    parts = pictures.split(labels, validation, split_seed) if pictures else {}
    shifts = SMALL_IMAGE_SHIFTS if shape[0] == 1 and shape[1] < 32 else IMAGE_SHIFTS
    score, sums, metrics, metric = _measures(task, names, depths)
    labelled = bool(pictures and pictures.kind)
    return Problem(
        name=str(name),
        task=task,
        classes=tuple(names),
        model=module,
        diffusion=phi.to(target),
        condition=c.to(target),
        draw=partial(_draw, pictures, parts, labels, view, task, shape[-1], len(names), shifts, target),
        sizes={split: len(part) for split, part in parts.items()},
        shape=shape,
        shifts=tuple(shifts),
        metric=metric,
        score=score if labelled else _without_labels,
        sums=sums,
        metrics=metrics,
        settings=_settings(f, phi, task),
        reader=model.reader,
        view=view,
        inferred="\n".join([_of_network(f, task, names, depths), model.about, *_of_pictures(pictures, parts)]),
        labelled=labelled,
        fingerprint=pictures.fingerprint if pictures else "",
    )


def _check_numbers(validation: float, near: float | None, far: float | None, size: int | None) -> None:
    if not isinstance(validation, (int, float)) or not 0 <= validation < 1:
        raise ValueError(f"validation must be a share of the pictures, from 0 to below 1, not {validation!r}")
    for what, value in {"near": near, "far": far, "size": size}.items():
        if value is not None and not (isinstance(value, (int, float)) and value > 0):
            raise ValueError(f"{what} must be a number above 0, not {value!r}")


def _read(source: str | Path | None, fingerprint: str) -> images.Pictures | None:
    pictures = None if source is None else images.read(source)
    if pictures and fingerprint and pictures.fingerprint != fingerprint:
        raise ValueError(f"the pictures in {pictures.root} are not those that this run began with; start a new run")
    return pictures


def _names(classes, pictures: images.Pictures | None) -> list[str]:
    """Return the class names that the user gave, or those of the class folders."""
    if classes is None:
        return pictures.class_names if pictures and pictures.kind == "class" else []
    if isinstance(classes, int):
        raise ValueError(f"classes must be names, or a text file with one a line, not the number {classes}")
    if isinstance(classes, (str, Path)):
        classes = images.read_names(Path(classes).expanduser())
    return images.different(classes)


def _class_names(classes, f: networks.Network, pictures: images.Pictures | None, outputs: int) -> Sequence[str]:
    given = _names(classes, pictures) if classes is not None else list(f.names)
    if not given and outputs == 1000 and "timm" in f.about:
        given = list(imagenet.class_names(range(1000)))
    given = given or _names(None, pictures)
    if not given:
        raise ValueError(f"the names of the network's {outputs} classes are not known: give classes, in its order")
    if len(given) != outputs:
        source = "given" if classes is not None else "in its configuration" if f.names else "of the class folders"
        raise ValueError(f"the network predicts {outputs} classes, and there are {len(given)} class names ({source})")
    return given


def _task(f: networks.Network, shape: tuple[int, ...]) -> tuple[str, int]:
    """Return the task and the number of outputs, from the output for an image. Raises ValueError."""
    output = take_logits(f.module, None, networks.output_of(f.module, shape, f.about))
    kinds = {2: "classification", 3: "depth", 4: "depth" if output.shape[1] == 1 else "segmentation"}
    task = f.task or kinds.get(output.ndim)
    wrong = task is None or (task == "classification") != (output.ndim == 2)
    if wrong:
        expected = "(1, L) for classes, (1, L, H, W) for class maps or (1, 1, H, W) for depths"
        raise ValueError(f"the network {f.about} returns the shape {tuple(output.shape)}, not {expected}")
    if task != "depth" and output.shape[1] < 2:
        raise ValueError(f"the network {f.about} predicts one class; adaptation needs two or more")
    return task, output.shape[1]


def _measures(task: str, names: Sequence[str], depths: tuple[float, float]):
    """Return score, sums, metrics and the name of the metric that the score computes."""
    if task == "classification":
        return _correct, lambda output, label: {}, {}, "accuracy"
    if task == "segmentation":
        counts, metrics = partial(class_counts, classes=tuple(names)), segmentation_metrics(tuple(names))
        name = "mean class accuracy"
        return lambda output, label: metrics[name](counts(output, label)).item() / 100, counts, metrics, name
    errors = partial(scaled_depth_errors, near=depths[0], far=depths[1])
    return lambda output, label: errors(output, label)["SSIM"], errors, SCALED_DEPTH_METRICS, "SSIM"


def _correct(output: Tensor, label: Tensor) -> float:
    return float(output.argmax(dim=1).item() == label.item())


def _without_labels(output: Tensor, label: Tensor) -> float:
    raise ValueError("the pictures have no labels, so that nothing can be evaluated; adapt to them with dtta adapt")


def _settings(f: networks.Network, phi: Diffusion, task: str) -> dict[str, dict[str, Any]]:
    """Return the paper's settings for the task; none of them were chosen for these models."""
    if task != "classification":
        return {"diffusion-tta": latent_maps.SETTINGS | dict(adapt_diffusion=isinstance(phi, ConcatUNet))}
    if isinstance(f.module, ClipClassifier):
        return dict(open_vocabulary.SETTINGS)
    kind = type(f.module).__name__.lower()
    optimizer = imagenet.SGD if "vit" in kind or "visiontransformer" in kind else imagenet.ADAM
    return {"diffusion-tta": imagenet.PAPER | optimizer | dict(adapt_diffusion=not isinstance(phi, TextUNet))}


def _of_network(f: networks.Network, task: str, names: Sequence[str], depths: tuple[float, float]) -> str:
    about = f"depths from {depths[0]:g} to {depths[1]:g}"
    if task != "depth":
        about = f"{len(names)} classes, " + ", ".join(names if len(names) < 5 else [*names[:2], "...", names[-1]])
    return f"network: {f.about}\ntask: {task}, {about}"


def _of_pictures(pictures: images.Pictures | None, parts: Mapping[str, list[int]]) -> list[str]:
    if pictures is None:
        return []
    if not pictures.kind:
        return [f"pictures: {len(pictures.items)}, without labels"]
    counts = ", ".join(f"{len(part)} {split}" for split, part in parts.items())
    return [f"pictures: {len(pictures.items)}, with a {pictures.kind} each: {counts}"]


def _draw(
    pictures, parts, labels, view, task, size, classes, shifts, target, split, index, shift, severity, seed
) -> tuple[Tensor, Tensor]:
    number = parts[split][index]
    item = pictures.items[number]
    if item.map is None:
        label = torch.tensor(labels[number] if labels else -1)
    else:
        label = center_square_map(READERS[task](item.map), size)
        label = label[None] if task == "depth" else label
        if task == "segmentation" and label.max() >= classes:
            raise ValueError(f"{item.map} has the class number {label.max()}; there are {classes} classes")
    image = view(open_image(item.file))
    return apply_shift(image, shift, severity, seed, index, shifts).to(target), label.to(target)

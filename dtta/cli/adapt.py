"""dtta adapt: adapt to an image, or to each image of a folder; print and draw what changed."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from dtta.cli import options as shared
from dtta.problems.data.folders import named_in_errors, output_folder

if TYPE_CHECKING:
    from torch import Tensor

    from dtta.core.problem import Problem

PICTURES = """Pictures are turned upright, as their EXIF orientation says, and laid on white where they are transparent;
of an animation or a file of several pages the first is taken. They are resized and cut to their centre as `dtta
evaluate` does with the problem's own files; a problem without files, such as digits or the scenes, gets the centre
square in the size of its images."""


def add_command(commands) -> None:
    """Add ``adapt`` and its options to the commands."""
    text = "adapt to an image, or to each of a folder; print and draw the beliefs"
    command = shared.new_command(commands, "adapt", run, text)
    command.epilog = PICTURES
    command.add_argument("image", nargs="?", type=Path, help="an image file, or a folder of them")
    text = "instead of a file: the number of a test image of the problem"
    command.add_argument("--index", type=shared.whole(0), help=text)
    shared.add_shift_options(command)
    shared.add_method_options(command)
    command.add_argument("--out", type=output_folder, default=".", help="folder for the figures (default: here)")


def run(options: Namespace) -> None:
    """Adapt to each image; print and draw the outputs before and after."""
    import matplotlib.pyplot as plt
    import torch
    from tqdm.auto import tqdm

    from dtta.core.adapter import take_logits
    from dtta.core.tta import DiffusionTTA
    from dtta.evaluation.evaluate import image_generator
    from dtta.methods.registry import build
    from dtta.pages import figures

    if (options.image is None) == (options.index is None):
        raise ValueError("give an image file, a folder of them, or --index for one of the problem's test images")
    if options.image:
        shared.refuse(options, ("shift", "severity"), "on image files")
    settings = shared.settings_of(options)
    problem = shared.load_problem(options)
    method = build(problem, options.method, options.fast, **settings)
    images, label = _images(options, problem)
    options.out.mkdir(parents=True, exist_ok=True)
    steps = getattr(method, "steps", 1)
    with tqdm(total=steps * len(images), desc="adapting", unit="step") as bar:
        if isinstance(method, DiffusionTTA):
            method.on_step = lambda step: bar.update()
        with torch.no_grad():  # before any image is adapted to: an online method carries its parameters along
            unadapted = {name: take_logits(problem.model, x, problem.model(x)) for name, x in images.items()}
        for name, x in images.items():
            after = method(x, image_generator(options.seed, options.index or 0))
            if not isinstance(method, DiffusionTTA):
                bar.update(steps)
            x, before, after = x.cpu(), unadapted[name].cpu(), after.cpu()
            path = options.out / f"{name}-adapted.png"
            losses = [step.loss.item() for step in getattr(method, "history", [])]
            figure = figures.adaptation(problem, x, before, after, label, losses)
            with named_in_errors(path):
                figure.savefig(path, dpi=150)
            plt.close(figure)
            bar.write(f"{name}: figure in {path}\n{comparison(problem, before, after, label)}")


def comparison(problem: Problem, before: Tensor, after: Tensor, label: Tensor | None) -> str:
    """Return a table of what changed: beliefs, shares of the picture, or depths; and metrics if the truth is known."""
    if problem.task == "depth":
        lines = [f"{'depth':>20} {'before':>8} {'after':>8}"]
        for name, y, z in zip(("nearest", "mean", "furthest"), _depths(before), _depths(after), strict=True):
            lines.append(f"{name:>20} {y:8.2f} {z:8.2f}")
    else:
        segmentation = problem.task == "segmentation"
        shares = _shares if segmentation else lambda problem, y: y.softmax(1)[0]
        a, b = shares(problem, before), shares(problem, after)
        lines = [f"{'share of picture' if segmentation else 'class':>20} {'before':>8} {'after':>8}"]
        largest = a.maximum(b).argsort(descending=True)[: 7 if segmentation else 5]
        lines += [f"{problem.classes[j]:>20} {a[j]:8.1%} {b[j]:8.1%}" for j in largest]
    if label is not None and problem.metrics:
        sums = [problem.sums(y, label) | {"images": 1} for y in (before, after)]
        for name in list(problem.metrics)[:4]:
            metric = problem.metrics[name]
            lines.append(f"{name:>20} {metric(sums[0]):8.2f} {metric(sums[1]):8.2f}")
    return "\n".join(lines)


def _depths(output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return output.amin(), output.mean(), output.amax()


def _shares(problem: Problem, output: Tensor) -> Tensor:
    """Return the fraction of the picture that each class takes, from logits (1, L, H, W)."""
    return output.argmax(1).flatten().bincount(minlength=len(problem.classes)) / output[0, 0].numel()


def _images(options: Namespace, problem: Problem) -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the images by name, and the label, if the image is one of the problem's."""
    if options.index is None:
        return {name: read_image(path, problem) for name, path in _image_files(options.image).items()}, None
    if not problem.sizes:
        raise ValueError("--index is the number of a picture of a problem; give its pictures as --problem, or a file")
    x, label = problem.image(options.index, options.shift, options.severity, seed=options.seed)
    labelled = problem.labelled and problem.task == "classification"
    truth = f", true class {problem.classes[label]}" if labelled else ""
    print(f"test image {options.index}, {options.shift}{truth}")
    name = f"{shared.file_name(options.problem)}-{options.index}-{options.shift}"
    return {name: x}, label if problem.labelled else None


def _image_files(path: Path) -> dict[str, Path]:
    """Return image files by the names of their figures: a file, or all in a folder or else in its folders."""
    from dtta.problems.data.images import SUFFIXES, image_files

    path = path.expanduser()
    if not path.is_dir():
        if not path.exists():
            raise ValueError(f"there is no file {path}")
        return {path.stem: path}
    files = {file: file.stem for file in image_files(path)}
    if not files:
        folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        files = {file: f"{file.parent.name}-{file.stem}" for folder in folders for file in image_files(folder)}
    if not files:
        raise ValueError(f"the folder {path} holds no images ({', '.join(SUFFIXES)})")
    if len(set(files.values())) < len(files):
        raise ValueError(f"images in {path} share a name except for its ending, and so would their figures: rename")
    return {name: file for file, name in files.items()}


def read_image(path: Path, problem: Problem) -> Tensor:
    """Return a picture as the problem's networks get it, (1, C, H, W) in [0, 1]. Raises ValueError: not readable."""
    from dtta.problems.data.images import centered, open_image

    image = open_image(path)
    x = problem.view(image) if problem.view else centered(image, problem.shape)
    return x[None].to(next(problem.model.parameters()).device)

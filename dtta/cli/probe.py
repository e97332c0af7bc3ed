"""dtta probe: is the diffusion model sensitive to the condition, and at which t?"""

from __future__ import annotations

from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from dtta.cli import options as shared
from dtta.evaluation.run import PRECISIONS
from dtta.problems.data.folders import named_in_errors, output_file

ABOUT = """Nothing is adapted. The losses of the same images under the same timesteps and noise are compared between the
true condition (without labels the network's prediction) and other classes' or other images' conditions. At the defaults
this takes about a minute."""


def add_command(commands) -> None:
    """Add ``probe`` and its options to the commands."""
    text = "before adapting: is the diffusion model sensitive to the condition, and at which t?"
    command = shared.new_command(commands, "probe", run, text)
    command.epilog = ABOUT
    shared.add_problem_options(command)
    shared.add_shift_options(command)
    text = "how many (default: 24, or all if there are fewer), or the folder or CSV file of your own"
    command.add_argument("--images", type=shared.images, metavar="N or PATH", help=text)
    command.add_argument("--split", help="validation or test (default: validation, where there is one)")
    command.add_argument("--parts", type=shared.whole(1, 100), default=10, help="equal ranges of t (default: 10)")
    text = "pairs (t, noise) for each image and range of t (default: 4)"
    command.add_argument("--samples", type=shared.whole(1), default=4, help=text)
    text = "other classes, or other images' maps, for each image (default: 3)"
    command.add_argument("--others", type=shared.whole(1), default=3, help=text)
    text = "of images, other classes, timesteps and noise (default: 0)"
    command.add_argument("--seed", type=shared.whole(0, 2**32 - 1), default=0, help=text)
    text = "of the diffusion model; auto: bfloat16 or float16 where a GPU has it natively, else float32"
    command.add_argument("--precision", choices=("auto", *PRECISIONS), default="auto", help=text)
    text = "file for the figure, .png, .pdf or .svg (default: PROBLEM-SHIFT-probe.png)"
    command.add_argument("--out", type=_file(".png", ".pdf", ".svg"), help=text)
    command.add_argument("--numbers", type=_file(".csv", ".json"), help="file for the numbers, .csv or .json")


def run(options: Namespace) -> None:
    """Probe the problem; print the sentence, draw the figure, write the numbers."""
    from dtta.pages import display
    from dtta.pages.probe import probe

    problem = shared.load_problem(options)
    result = probe(
        problem, options.images, options.shift, options.severity, options.split, options.seed,
        parts=options.parts, samples=options.samples, others=options.others,
        precision=shared.precision_for(problem, options.precision),
    )  # fmt: skip
    display.style()
    path = options.out or Path(f"{shared.file_name(problem.name)}-{options.shift}-probe.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_in_errors(path):
        result.figure().savefig(path, dpi=150)
    print(f"{result.sentence}\nfigure in {path}")
    if options.numbers:
        options.numbers.parent.mkdir(parents=True, exist_ok=True)
        with named_in_errors(options.numbers):
            if options.numbers.suffix == ".csv":
                result.frame.to_csv(options.numbers, index=False)
            else:
                result.frame.to_json(options.numbers, orient="records", indent=1)
        print(f"numbers in {options.numbers}")


def _file(*endings: str):
    """Return a type for argparse: a file with one of these endings that can be written."""

    def parse(text: str) -> Path:
        path = output_file(text)
        if path.suffix not in endings:
            raise ArgumentTypeError(f"must end in {' or '.join(endings)}, not {text!r}")
        return path

    return parse

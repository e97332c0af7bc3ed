"""dtta bench: seconds for one step (of a case: for an image): fast loop, eager and compiled, naive, matrix product."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict

from dtta.cli import options as shared
from dtta.cli.options import add_problem_options, add_speed_options, load_problem, new_command, precision_for, whole
from dtta.problems.data.folders import named_in_errors, output_file


def add_command(commands) -> None:
    """Add ``bench`` and its options to the commands."""
    text = "seconds for one step, of a case for an image: fast loop, eager and compiled, naive loop, matrix product"
    command = new_command(commands, "bench", run, text)
    add_problem_options(command)
    text = """instead of a problem: networks of published size with random weights, such as dit-256, dit-256-joint
        (the diffusion model is adapted too) or sd-512; may be repeated"""
    command.add_argument("--case", action="append", metavar="NAME", help=text)
    command.add_argument("--samples", type=whole(1), help="pairs (t, noise) in each step (default: 48; of a case: 180)")
    command.add_argument("--steps", type=whole(1), default=5, help="of a case (default: 5)")
    text = "pairs in one pass of the naive loop (default: 12)"
    command.add_argument("--micro-batch", type=whole(1), default=12, help=text)
    add_speed_options(command)
    text = "instead: this many images at once (default: 8) compared with one by one, for the digits' diffusion models"
    command.add_argument("--together", type=whole(2), nargs="?", const=8, metavar="N", help=text)
    text = "with --together: the same for this many of the stored runs, each in place of an equal share of all seconds"
    command.add_argument("--results", type=whole(1), metavar="RUNS", help=text)
    command.add_argument("--out", type=output_file, help="a .json file for the measurements of the cases")


def run(options: Namespace) -> None:
    """Time one step on a problem, or each case."""
    if options.together:
        shared.refuse(options, vars(options).keys() - {"together", "results", "run", "default"}, "with --together")
        _time_together(options)
        return
    shared.refuse(options, ("results",), "without --together")
    if options.case:
        shared.refuse(options, ("problem", "network", "diffusion", "classes", "as_released"), "with --case")
        _time_cases(options)
        return
    shared.refuse(options, ("steps", "out"), "without --case")
    import torch

    from dtta.profiling.loops import bench

    problem = load_problem(options)
    samples = 48 if options.samples is None else options.samples
    if options.compile:
        shared.check_compiler(problem)
    precision = precision_for(problem, options.precision)
    micro_batch = options.micro_batch
    speed = dict(precision=precision, compile=options.compile, fast_micro_batch=micro_batch)
    timing = bench(problem, samples, micro_batch, **speed)
    print(f"one step on one image: {samples} pairs (t, noise),")
    print(f"{micro_batch} in one pass, {precision}, {torch.get_num_threads()} threads,")
    print(f"diffusion model frozen\n\n{timing}")


def _time_together(options: Namespace) -> None:
    import torch

    from dtta.experiments import speed

    torch.set_num_threads(1)
    if options.results:
        speed.print_results(options.results, options.together)
    else:
        speed.print_together(options.together)


def _time_cases(options: Namespace) -> None:
    """Time each case; print it and write it to the file before the next one starts."""
    from dtta.evaluation.summary import about_here
    from dtta.profiling.loops import bench
    from dtta.profiling.networks import random_problem

    records = []
    samples = 180 if options.samples is None else options.samples
    for case in options.case:
        problem = random_problem(case.removesuffix("-joint"))
        if options.compile:
            shared.check_compiler(problem)
        precision = precision_for(problem, options.precision)
        speed = dict(joint=case.endswith("-joint"), precision=precision, compile=options.compile)
        timing = bench(problem, samples, options.micro_batch, repeats=3, steps=options.steps, **speed)
        print(f"{case}: {options.steps} steps of {samples} pairs, {precision}, random weights\n{timing}\n")
        records.append({"case": case, "steps": options.steps} | asdict(timing) | about_here())
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            with named_in_errors(options.out):
                options.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")

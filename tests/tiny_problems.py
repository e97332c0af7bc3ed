"""Tiny problems for ``dtta.load`` and ``Run(problem=...)``, such as "tiny_problems:classification"."""

from __future__ import annotations

import dataclasses

import tiny

from dtta.core.problem import Problem


def classification(diffusion: str = "unet") -> Problem:
    """Scored by the probability of the true class, so that two rows are rarely equal by chance."""
    return dataclasses.replace(tiny.problem(diffusion), score=lambda y, label: y.softmax(1)[0, label].item())


def segmentation() -> Problem:
    return tiny.dense_problem("segmentation")


def depth() -> Problem:
    return tiny.dense_problem("depth")

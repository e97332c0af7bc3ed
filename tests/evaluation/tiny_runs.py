"""Runs of a tiny problem, as the tests of this room use them."""

from __future__ import annotations

from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Row, Run

SHIFTS = [("clean", 3), ("fog", 2)]
TTA = dict(steps=1, samples=4, lr=0.5)
ONLINE = TTA | dict(episodic=False)


class Stop(Exception):
    """Stands for whatever ends a command early."""


def run(method="diffusion-tta", settings=TTA, **options) -> Run:
    return Run(method, problem="tiny_problems:classification", settings=settings, **options)


def quiet(*args, **options) -> list[Row]:
    return evaluate(*args, progress=False, **options)


def scores(rows: list[Row]) -> dict:
    return {row.cell: row.score for row in rows}

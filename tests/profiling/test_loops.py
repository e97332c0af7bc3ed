"""The bench: both loops do the same, memory and floor are counted, and nothing is reported that was not measured."""

from __future__ import annotations

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel

from dtta.profiling.loops import bench, matmul_rate
from dtta.profiling.networks import NETWORKS, operations, random_problem


@pytest.mark.parametrize(("name", "kind", "weights"), [
    ("dit-256", DiTTransformer2DModel, 749.8), ("dit-512", DiTTransformer2DModel, 749.8),
    ("sd-512", UNet2DConditionModel, 859.5),
])  # fmt: skip
def test_networks_have_the_published_sizes(name, kind, weights):
    """In millions of weights, as the checkpoints have; diffusers' DiT before its embedders are tied."""
    shape, autoencoder, _, _ = NETWORKS[name]
    with torch.device("meta"):
        assert sum(p.numel() for p in kind(**shape).parameters()) / 1e6 == pytest.approx(weights, abs=0.1)
        assert sum(p.numel() for p in AutoencoderKL(**autoencoder).parameters()) / 1e6 == pytest.approx(83.65, abs=0.01)


@pytest.mark.parametrize(("name", "joint", "expected"), [
    ("dit-256", False, 0.2373 + 0.2457), ("dit-256", True, 0.2373 + 0.4746),
    ("sd-512", False, 0.8033 + 0.8659), ("sd-512", True, 0.8033 + 1.6065),
])  # fmt: skip
def test_operations_of_one_evaluation(name, joint, expected):
    """In 10^12. DiT-XL/2's authors give 118.6 G multiply-adds forward at 256, which is 0.2372."""
    assert operations(name, joint) / 1e12 == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("name", ["dit-toy", "sd-toy"])
def test_both_loops_have_the_same_gradient(name, joint):
    timing = bench(random_problem(name), 6, 4, repeats=1, steps=2, joint=joint)
    assert timing.cosine == pytest.approx(1, abs=1e-5) and timing.difference < 1e-4
    assert timing.evaluations == 12 and timing.micro_batch == 6
    assert timing.naive > 0 and timing.fast > 0 and timing.floor > 0
    if not torch.cuda.is_available():
        assert timing.memory is timing.naive_memory is None


def test_the_naive_loop_leaves_the_weights_as_they_were():
    problem = tiny.problem()
    before = [p.clone() for p in problem.model.parameters()]
    bench(problem, 4, 2, repeats=2, steps=2)
    assert all(map(torch.equal, before, problem.model.parameters()))


def test_the_cosine_sees_a_wrong_gradient(monkeypatch):
    monkeypatch.setattr("dtta.profiling.loops.fast_backward", lambda tta, x, *rest: tta.model(x).sum().backward())
    assert bench(tiny.problem(), 4, 2, repeats=1).cosine < 0.9


def test_the_floor_counts_every_step(monkeypatch):
    monkeypatch.setattr("dtta.profiling.loops.matmul_rate", lambda *args: 1.0)
    once, thrice = (bench(tiny.problem(), 4, 2, repeats=1, steps=steps).floor for steps in (1, 3))
    assert thrice == 3 * once > 0
    assert bench(tiny.problem(), 8, 2, repeats=1).floor == pytest.approx(2 * once, rel=0.1)


def test_matmul_rate_is_a_rate():
    assert 1e8 < matmul_rate(size=256) < 1e15


def test_operations_do_not_depend_on_a_patched_linspace(monkeypatch):
    """transformers makes torch.linspace a CPU function while it loads; a stopped thread leaves it so."""
    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *args, **kwargs: linspace(*args, **{"device": "cpu"} | kwargs))
    assert operations("dit-256") / 1e12 == pytest.approx(0.483, abs=1e-3)

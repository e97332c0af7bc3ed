"""The bench: both loops do the same, memory and operations are counted, and only what was measured is reported."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import tiny
import torch
from diffusers import AutoencoderKL, DiTTransformer2DModel, UNet2DConditionModel

from dtta.problems.compilation import compile_blocks
from dtta.profiling import loops
from dtta.profiling.loops import bench, matmul_rate, tf32_state
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
    assert timing.naive > 0 and timing.eager > 0 and timing.matmul > 0 and timing.compiled is None
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


def test_the_matrix_product_counts_every_step(monkeypatch):
    monkeypatch.setattr("dtta.profiling.loops.matmul_rate", lambda *args: 1.0)
    once, thrice = (bench(tiny.problem(), 4, 2, repeats=1, steps=steps).matmul for steps in (1, 3))
    assert thrice == 3 * once > 0
    assert bench(tiny.problem(), 8, 2, repeats=1).matmul == pytest.approx(2 * once, rel=0.1)


def test_matmul_rate_is_a_rate():
    assert 1e8 < matmul_rate(size=256) < 1e15


def test_operations_do_not_depend_on_a_patched_linspace(monkeypatch):
    """transformers makes torch.linspace a CPU function while it loads; a stopped thread leaves it so."""
    linspace = torch.linspace
    monkeypatch.setattr(torch, "linspace", lambda *args, **kwargs: linspace(*args, **{"device": "cpu"} | kwargs))
    assert operations("dit-256") / 1e12 == pytest.approx(0.483, abs=1e-3)


def failing(graph, inputs):
    raise RuntimeError("no compiler")


@pytest.mark.parametrize("name", ["dit-toy", "dit-toy-joint", "sd-toy"])
def test_stand_ins_of_the_cases_are_timed_eager_and_compiled(monkeypatch, name):
    torch._dynamo.reset()
    monkeypatch.setattr(loops, "compile_blocks", partial(compile_blocks, backend="aot_eager"))
    problem = random_problem(name.removesuffix("-joint"))
    timing = bench(problem, 4, 2, repeats=1, joint=name.endswith("-joint"), compile=True)
    assert timing.compiled > 0 and timing.eager > 0 and timing.cosine == pytest.approx(1, abs=1e-5)
    lines = str(timing).splitlines()
    below = lines[lines.index(timing.tf32) + 1 :]  # the ratios come right below the state of TF32
    assert [line.rpartition(" = ")[0] for line in below[:-1]] == [
        f"  {name} / {loop}" for loop in ("eager", "compiled") for name in ("naive", "matrix product")
    ]
    assert all(float(line.rpartition(" = ")[2]) >= 0 for line in below[:-1])


def test_a_timing_is_a_narrow_table_with_its_columns_aligned():
    on_gpu = {"naive_memory": 21.5, "memory": 12.25, "compiled_memory": 12.25, "tf32": "TF32 of float32: all off"}
    on_cpu = {"naive_memory": None, "memory": None, "compiled_memory": None, "tf32": "no TF32 on CPU"}
    for more, heads in ((on_gpu, ["ms", "evaluations/s", "GiB"]), (on_cpu, ["ms", "evaluations/s"])):
        numbers = dict(naive=123.456, eager=61.0, compiled=45.0, matmul=9.0, evaluations=900, cosine=1.0)
        timing = loops.Timing(**numbers, difference=1e-6, micro_batch=12, precision="float32", **more)
        lines = str(timing).splitlines()
        assert lines[0].split() == heads and max(map(len, lines)) <= 60
        assert lines[1].split() == ["naive,", "as", "released", "123456.0", "7", *["21.5"][: len(heads) - 2]]
        assert {len(line) for line in lines[:4]} == {len(lines[0])}
        assert lines[4].split() == ["matrix", "product", "9000.0"]


def test_what_cannot_be_compiled_is_not_reported(monkeypatch):
    torch._dynamo.reset()
    monkeypatch.setattr(loops, "is_on_gpu", lambda network: True)
    monkeypatch.setattr(loops, "compile_blocks", partial(compile_blocks, backend=failing))
    with pytest.warns(UserWarning, match="cannot be compiled here"):
        timing = bench(random_problem("dit-toy"), 4, 2, repeats=1)
    assert timing.compiled is timing.compiled_memory is None and "compiled" not in str(timing)
    with pytest.raises(Exception, match="no compiler"):
        bench(random_problem("dit-toy"), 4, 2, repeats=1, compile=True)


def test_the_state_of_tf32_is_that_of_torch(monkeypatch):
    assert tf32_state("cpu") == "no TF32 on CPU"
    monkeypatch.setattr(torch.backends.cudnn, "conv", SimpleNamespace(fp32_precision="tf32"))
    for precision, state in (("tf32", "on"), ("ieee", "off")):
        monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision=precision))
        assert tf32_state("cuda") == f"TF32 of float32: matrix products {state}, convolutions on"

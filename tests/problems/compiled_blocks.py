"""Compiled blocks: the same answers, an eager first image, and a failing compiler that stops nothing.

Run by test_compilation.py in a process of their own.
"""

from __future__ import annotations

import warnings

import pytest
import tiny
import torch
from torch._dynamo.backends.common import aot_autograd

from dtta.cli import main
from dtta.core.lora import add_lora
from dtta.core.parameters import select
from dtta.core.tta import DiffusionTTA
from dtta.evaluation import evaluate as evaluation
from dtta.evaluation import scorer
from dtta.evaluation.run import Run
from dtta.problems.compilation import compile_blocks


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tta(problem, joint=False, **options) -> DiffusionTTA:
    adapted = [*select(problem.model), *(select(problem.diffusion.network) if joint else [])]
    parts = problem.model, problem.diffusion, problem.condition
    return DiffusionTTA(*parts, torch.optim.SGD(adapted, lr=0.1), **dict(steps=2, samples=6) | options)


def working_backward(graph, inputs):
    return graph.forward


def failing(graph, inputs):
    raise RuntimeError("no C++ compiler\nand more lines")


def test_blocks_are_compiled_one_by_one():
    dit, words = tiny.diffusion("dit").network, tiny.text_unet().network
    compiled = []

    def counting(graph, inputs):
        compiled.append(graph)
        return graph.forward

    assert compile_blocks(dit, backend=counting) == 3
    expected = sum(type(m).__name__ == "BasicTransformerBlock" for m in words.modules())
    assert compile_blocks(words, backend="eager") == expected > 0
    dit(tiny.normal(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    assert 1 <= len(compiled) <= 3
    with pytest.raises(ValueError, match="UNet2DModel has no repeated blocks to compile; leave --compile out"):
        compile_blocks(tiny.diffusion("unet").network)
    assert compile_blocks(tiny.diffusion("unet").network, fallback=True) == 0


@pytest.mark.parametrize("joint", [False, True])
def test_compiled_blocks_give_the_same_answer(joint):
    plain, compiled = tta(tiny.problem("dit"), joint), tta(tiny.problem("dit"), joint)
    compile_blocks(compiled.diffusion.network, backend="aot_eager")
    a, b = (method(tiny.images(1), seeded()) for method in (plain, compiled))
    assert torch.allclose(a, b, atol=1e-5)
    for start, p, q in zip(plain.start, plain.adapted, compiled.adapted, strict=True):
        assert torch.equal(start, p) and torch.equal(start, q)  # restored


def test_lora_of_the_unet_is_adapted_the_same_way_when_compiled():
    methods = []
    for compiled in (False, True):
        problem = tiny.open_problem()
        add_lora(problem.diffusion, rank=2)
        adapted = [p for name, p in problem.diffusion.named_parameters() if "lora_" in name]
        optimizer = torch.optim.SGD([*select(problem.model), *adapted], lr=0.5)
        parts = problem.model, problem.diffusion, problem.condition
        method = DiffusionTTA(*parts, optimizer, steps=3, samples=4, episodic=False)
        if compiled:
            assert compile_blocks(problem.diffusion.network, backend="aot_eager") > 0
        methods.append((method, method(tiny.images(1, channels=3, size=tiny.CLIP_SIZE), seeded())))
    (plain, expected), (compiled, answer) = methods
    assert torch.allclose(answer, expected, atol=1e-5)
    moved = [not torch.equal(p, start) for p, start in zip(compiled.adapted, compiled.start, strict=True)]
    assert sum(moved[-len(adapted) :]) > len(adapted) / 2
    for p, q in zip(plain.adapted, compiled.adapted, strict=True):
        assert torch.allclose(p, q, atol=1e-5)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_compiler_that_fails_is_left_out_with_one_warning(where):
    plain, compiled = tta(tiny.problem("dit")), tta(tiny.problem("dit"))
    kinds = dict(fw_compiler=working_backward, bw_compiler=working_backward)
    kinds["fw_compiler" if where == "forward" else "bw_compiler"] = failing
    compile_blocks(compiled.diffusion.network, fallback=True, backend=aot_autograd(**kinds))
    x = tiny.images(1)
    with pytest.warns(UserWarning, match="blocks cannot be compiled here .*; they run uncompiled") as caught:
        answer = compiled(x, seeded())
    assert len(caught) == 1 and "--no-compile" in str(caught[0].message)
    assert torch.equal(answer, plain(x, seeded()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(compiled(x, seeded(1)), plain(x, seeded(1)))


def test_errors_that_the_compiler_did_not_cause_are_raised(monkeypatch):
    method = tta(tiny.problem("dit"))
    network = method.diffusion.network
    compile_blocks(network, fallback=True, backend="eager")
    with pytest.raises(RuntimeError, match=r"size|shape|channels"):
        network(torch.zeros(1, 7, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))

    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = tiny.diffusion("dit").network
    network.transformer_blocks[0].norm1.linear.forward = full
    compile_blocks(network, fallback=True, backend="eager")
    with pytest.raises(torch.OutOfMemoryError):
        network(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(("compile", "on_gpu", "expected"), [
    (None, True, ["image", "compile", "image", "image"]), (None, False, ["image"] * 3),
    (False, True, ["image"] * 3), (True, False, ["compile", "image", "image", "image"]),
])  # fmt: skip
def test_a_gpu_compiles_after_the_first_image(monkeypatch, compile, on_gpu, expected):
    events, problem = [], tiny.problem("dit")
    call = DiffusionTTA.forward
    monkeypatch.setattr(DiffusionTTA, "forward", lambda *args: (events.append("image"), call(*args))[1])
    monkeypatch.setattr(scorer, "compile_blocks", lambda network, **options: events.append("compile"))
    monkeypatch.setattr(scorer, "is_on_gpu", lambda network: on_gpu)
    run = Run("diffusion-tta", "tiny_problems:dit", settings=dict(steps=1, samples=2))
    evaluation.evaluate(run, [("clean", 3)], range(3), progress=False, compile=compile, problem=problem)
    assert events == expected


def test_compiling_without_a_compiler_stops_before_the_first_image(tmp_path, capsys):
    from torch._inductor import config

    torch._dynamo.reset()
    with config.patch({"cpp.cxx": (None, "no-such-compiler"), "force_disable_caches": True}):
        assert main(["evaluate", "--compile", "--images", "1", "--out", str(tmp_path / "rows")]) == 2
    captured = capsys.readouterr()
    assert "--compile does not work here" in captured.err and "C++ compiler" in captured.err
    assert captured.out == "" and not (tmp_path / "rows").exists()

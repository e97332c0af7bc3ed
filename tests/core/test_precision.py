"""Precision and memory: what changes is how fast and in how much, not what is computed."""

from __future__ import annotations

import json
import math

import pytest
import tiny
import torch
from torch import nn

from dtta.core import precision as speed
from dtta.core import tta as adapt
from dtta.core.feedback import accumulate
from dtta.core.parameters import select
from dtta.core.precision import compile_blocks, key, native, prepare, remember, remembered
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA
from dtta.methods.registry import METHODS, build


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "micro-batch.json"


def tta(family="unet", joint=False, **options) -> DiffusionTTA:
    problem = tiny.problem(family)
    moving = [*select(problem.model), *(select(problem.diffusion.network) if joint else [])]
    given = dict(steps=2, samples=6) | options
    optimizer = torch.optim.SGD(moving, lr=0.1)
    return DiffusionTTA(problem.model, problem.diffusion, problem.condition, optimizer, **given)


def pairs(diffusion, samples=6, seed=0):
    z0 = diffusion.encode(tiny.images(2, seed=seed))
    return z0, *Sampling().draw(z0, samples, diffusion.timesteps, torch.Generator().manual_seed(seed))


# --- precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "expected"), [((9, 0), "bfloat16"), ((8, 0), "bfloat16"), ((7, 5), "float16"), ((6, 1), "float32")]
)
def test_native_precision_asks_the_capability_and_not_torch(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *a, **k: True)  # as it says of a T4
    assert native("cuda") == expected
    assert native("cpu") == "float32"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_weights_kept_in_half_give_the_numbers_of_autocast_over_float32_weights(family, precision):
    plain, ready = tta(family, autocast=speed.DTYPES[precision]), tta(family)
    prepare(ready, ready.diffusion, precision)
    x = tiny.images(1, seed=3)
    with torch.no_grad():
        z0, t, noise = pairs(plain.diffusion)
        c = plain.condition(plain.model(tiny.images(2)))
        with torch.autocast("cpu", speed.DTYPES[precision]):
            expected = plain.diffusion.loss(z0, t[:, 0], noise[:, 0], c)
        assert torch.equal(ready.diffusion.loss(z0, t[:, 0], noise[:, 0], c), expected)
    assert torch.equal(ready(x, torch.Generator().manual_seed(0)), plain(x, torch.Generator().manual_seed(0)))
    layers = [m for m in ready.diffusion.network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    kinds = {p.dtype for m in layers[1:] for p in m.parameters()}
    assert kinds == {speed.DTYPES[precision]}
    assert {p.dtype for p in ready.model.parameters()} == {torch.float32}


def test_float32_leaves_everything_as_it_is(family):
    plain, ready = tta(family), tta(family)
    assert prepare(ready, ready.diffusion) is ready
    x = tiny.images(1)
    assert torch.equal(ready(x, torch.Generator().manual_seed(0)), plain(x, torch.Generator().manual_seed(0)))
    assert ready.autocast is None and "forward" not in vars(ready.diffusion.network)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_moves_stays_float32_and_is_held_twice_at_most(precision):
    joint = tta("dit", joint=True)
    prepare(joint, joint.diffusion, precision)
    assert {p.dtype for p in joint.diffusion.network.parameters()} == {torch.float32}
    lora = build(tiny.problem("dit"), "diffusion-tta", steps=1, samples=2)
    assert len(lora.start) == len(lora.adapted) == len(list(lora.model.parameters()))  # nothing frozen is kept twice


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_gradients_in_half_point_where_those_in_float32_do(family, joint, precision):
    found = []
    for name in ("float32", precision):
        method = tta(family, joint)
        prepare(method, method.diffusion, name)
        z0, t, noise = pairs(method.diffusion, 24)
        with adapt.gradients_only_for(method.adapted, method.model, method.diffusion):
            c = method.condition(method.model(tiny.images(2)))
            _, c_grad = method.feedback(z0, t, noise, c)
            c.backward(c_grad)
        grads = [p.grad.flatten() for p in method.adapted if p.grad is not None]
        assert len(grads) >= len(list(method.model.parameters())) + joint
        found.append(torch.cat(grads))
    assert torch.cosine_similarity(*found, dim=0) > 0.999
    assert found[0].norm() == pytest.approx(found[1].norm().item(), rel=0.03)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_every_method_runs_in_half(precision):
    for name in METHODS:
        if name in ("augmentation", "consistency", "ttt-mae", "tpt"):
            continue  # of other tasks or networks
        settings = {k: v for k, v in dict(steps=1, samples=2).items() if k in _takes(name)}
        problem = tiny.problem()
        method = build(problem, name, **settings)
        prepare(method, problem.diffusion, precision)
        output = method(tiny.images(1), torch.Generator().manual_seed(0))
        assert output.dtype == torch.float32 and output.isfinite().all()


def _takes(method):
    from dtta.methods.registry import settings_of

    return settings_of(method)


def test_unknown_precision():
    method = tta()
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16, not 'int8'"):
        prepare(method, method.diffusion, "int8")


# --- scaled gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 10, 24])
def test_a_power_of_two_changes_no_bit_of_the_gradient(family, power):
    diffusion = tiny.diffusion(family)
    z0, t, noise = pairs(diffusion)
    c = torch.randn(2, diffusion.class_embeddings.shape[1]).requires_grad_()
    loss, grad = accumulate(diffusion, z0, t, noise, c, 4)
    phi = [p.grad.clone() for p in diffusion.network.parameters() if p.grad is not None]
    diffusion.network.zero_grad(set_to_none=True)
    same_loss, scaled = accumulate(diffusion, z0, t, noise, c, 4, scale=2.0**power)
    assert torch.equal(same_loss, loss) and torch.equal(scaled / 2.0**power, grad)
    for before, p in zip(phi, (p for p in diffusion.network.parameters() if p.grad is not None), strict=True):
        assert torch.equal(p.grad / 2.0**power, before)


def test_float16_loses_the_gradient_without_a_scale_and_keeps_it_with_one(monkeypatch):
    """A mean over as many pixels as a latent has: unscaled, most of it falls below what float16 can hold."""
    diffusion = tiny.diffusion("dit")
    z0, t, noise = pairs(diffusion, 24)
    c = torch.randn(2, diffusion.class_embeddings.shape[1]).requires_grad_()
    shrink = 2.0**-20  # as many more pixels
    _, truth = accumulate(diffusion, z0, t, noise, c, scale=shrink)

    def half(scale):
        with torch.autocast("cpu", torch.float16):
            return accumulate(diffusion, z0, t, noise, c, scale=scale)[1]

    assert torch.cosine_similarity(half(shrink).flatten(), truth.flatten(), dim=0) < 0.9
    scaled = half(shrink * 2**20) / 2**20
    assert torch.cosine_similarity(scaled.flatten(), truth.flatten(), dim=0) > 0.999


def test_a_scale_that_is_too_large_is_halved_until_it_fits(monkeypatch):
    scales, original = [], adapt.accumulate

    def counted(*args):
        scales.append(args[-1])
        loss, grad = original(*args[:-1], args[-1])
        return loss, grad * (float("inf") if len(scales) < 4 else 1)

    method = tta("dit", joint=True, autocast=torch.float16)
    z0, t, noise = pairs(method.diffusion)
    c = method.condition(method.model(tiny.images(2)))
    expected = method.feedback(z0, t, noise, c)[1]
    wanted = [p.grad.clone() for p in select(method.diffusion.network) if p.grad is not None]
    method.optimizer.zero_grad(set_to_none=True)
    monkeypatch.setattr(adapt, "accumulate", counted)
    c = method.condition(method.model(tiny.images(2)))
    found = method.feedback(z0, t, noise, c)[1]
    first = 2.0 ** round(math.log2(t.numel() * z0[0].numel()))
    assert scales == [first, first / 2, first / 4, first / 8]
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-3 * expected.abs().max())
    got = [p.grad for p in select(method.diffusion.network) if p.grad is not None]
    for a, b in zip(got, wanted, strict=True):  # not four times as much
        assert (a - b).norm() < 0.5 * b.norm() + 1e-7


# --- memory ---------------------------------------------------------------------------------------------------------


def short_of_memory(monkeypatch, diffusion, fits: int) -> list[int]:
    """The diffusion model runs out of memory on more than so many pairs; the sizes it was asked for."""
    asked, original = [], diffusion.loss

    def loss(z0, *args):
        asked.append(len(z0))
        if len(z0) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(z0, *args)

    monkeypatch.setattr(diffusion, "loss", loss)
    return asked


@pytest.mark.parametrize("joint", [False, True])
def test_the_largest_micro_batch_that_fits_is_found_by_halving(monkeypatch, joint):
    plain, small = tta(joint=joint, samples=12), tta(joint=joint, samples=12)
    asked = short_of_memory(monkeypatch, small.diffusion, 3)
    x = tiny.images(1)
    expected = plain(x, torch.Generator().manual_seed(0))
    found = small(x, torch.Generator().manual_seed(0))
    assert asked == [12, 6, 3, 3, 3, 3, 3, 3, 3, 3]  # twice over all pairs, and nothing twice
    assert small.micro_batch == small.found == 3
    assert torch.allclose(found, expected, atol=1e-5)
    small(x)
    assert max(asked[10:]) == 3


def test_where_memory_runs_out_in_the_middle_nothing_is_counted_twice(monkeypatch):
    plain, small = tta(joint=True, samples=8), tta(joint=True, samples=8, micro_batch=4)
    calls, original = [], small.diffusion.loss

    def loss(*args):
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError
        return original(*args)

    monkeypatch.setattr(small.diffusion, "loss", loss)
    z0, t, noise = pairs(plain.diffusion, 8)
    for method in (plain, small):
        method.feedback(z0, t, noise, method.condition(method.model(tiny.images(2))))
    for a, b in zip(plain.adapted, small.adapted, strict=True):
        assert (a.grad is None) == (b.grad is None)
        assert a.grad is None or torch.allclose(a.grad, b.grad, atol=1e-5)


def test_a_model_of_which_not_one_pair_fits_says_so(monkeypatch):
    method = tta()
    asked = short_of_memory(monkeypatch, method.diffusion, 0)
    with pytest.raises(torch.OutOfMemoryError):
        method(tiny.images(1))
    assert asked == [6, 3, 2, 1]


def test_what_fits_is_remembered_for_this_model_alone(monkeypatch, cache):
    method = tta()
    short_of_memory(monkeypatch, method.diffusion, 2)
    method(tiny.images(1))
    remember(method, "float32")
    assert json.loads(cache.read_text()) == {key(method, "float32"): 2}
    again = tta()
    prepare(again, again.diffusion)
    assert again.micro_batch == 2
    for other, precision in ((tta("dit"), "float32"), (tta(joint=True), "float32"), (tta(), "bfloat16")):
        prepare(other, other.diffusion, precision)
        assert other.micro_batch is None
    asked = tta(micro_batch=5)
    prepare(asked, asked.diffusion)
    assert asked.micro_batch == 5  # who names one gets it
    method.found = 4
    remember(method, "float32")
    assert remembered(key(method, "float32")) == 2  # more fitted once, but not always
    cache.write_text("{")
    assert remembered(key(method, "float32")) is None
    remember(method, "float32")
    assert remembered(key(method, "float32")) == 4


# --- layout and compilation -----------------------------------------------------------------------------------------


def test_channels_last_changes_the_layout_alone():
    plain, ready = tta(), tta()
    prepare(ready, ready.diffusion, channels_last=True)
    weight = next(p for p in ready.diffusion.network.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    x = tiny.images(1)
    assert torch.allclose(*(m(x, torch.Generator().manual_seed(0)) for m in (ready, plain)), atol=1e-5)


def test_blocks_are_compiled_one_by_one():
    dit, words = tiny.diffusion("dit"), tiny.text_unet()
    assert compile_blocks(dit.network, backend="eager") == 3
    assert compile_blocks(words.network, backend="eager") == sum(
        type(m).__name__ == "BasicTransformerBlock" for m in words.network.modules()
    )
    assert all(block._compiled_call_impl is not None for block in dit.network.transformer_blocks)
    with pytest.raises(ValueError, match="UNet2DModel has no repeated blocks to compile; leave --compile out"):
        compile_blocks(tiny.diffusion("unet").network)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_gradient():
    plain, compiled = tta("dit"), tta("dit")
    compile_blocks(compiled.diffusion.network, backend="aot_eager")
    x = tiny.images(1)
    a, b = (m(x, torch.Generator().manual_seed(0)) for m in (plain, compiled))
    assert torch.allclose(a, b, atol=1e-5)


def test_attention_is_the_fused_one():
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    for diffusion in (tiny.diffusion("dit"), tiny.text_unet()):
        found = [m.processor for m in diffusion.network.modules() if isinstance(m, Attention)]
        assert found and all(isinstance(p, AttnProcessor2_0) for p in found)

"""Precision and memory: what changes is how fast and in how much, not what is computed."""

from __future__ import annotations

import copy

import pytest
import tiny
import torch
from adapting import pairs, seeded, tta
from torch import nn

from dtta.core.adapter import gradients_only_for
from dtta.core.precision import DTYPES, native, prepare
from dtta.core.tta import DiffusionTTA
from dtta.methods.registry import METHODS, build, settings_of

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
    plain, ready = tta(family, autocast=DTYPES[precision]), tta(family)
    prepare(ready, ready.diffusion, precision)
    x = tiny.images(1, seed=3)
    with torch.no_grad():
        z0, t, noise = pairs(plain.diffusion)
        c = plain.condition(plain.model(tiny.images(2)))
        with torch.autocast("cpu", DTYPES[precision]):
            expected = plain.diffusion.loss(z0, t[:, 0], noise[:, 0], c)
        assert torch.equal(ready.diffusion.loss(z0, t[:, 0], noise[:, 0], c), expected)
    assert torch.equal(ready(x, seeded(0)), plain(x, seeded(0)))
    layers = [m for m in ready.diffusion.network.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    kinds = {p.dtype for m in layers[1:] for p in m.parameters()}
    assert kinds == {DTYPES[precision]}
    assert {p.dtype for p in ready.model.parameters()} == {torch.float32}


def test_float32_leaves_everything_as_it_is(family):
    plain, ready = tta(family), tta(family)
    assert prepare(ready, ready.diffusion) is ready
    x = tiny.images(1)
    assert torch.equal(ready(x, seeded(0)), plain(x, seeded(0)))
    assert ready.autocast is None and ready.diffusion.autocast is None


def test_a_second_precision_is_refused_because_the_weights_have_been_rounded():
    method = tta("unet")
    prepare(method, method.diffusion, "bfloat16")
    assert prepare(method, method.diffusion, "bfloat16") is method
    for other in ("float16", "float32"):
        with pytest.raises(ValueError, match=rf"stored in torch.bfloat16; for {other}, load the diffusion model again"):
            prepare(method, method.diffusion, other)


def test_a_copy_of_a_prepared_model_computes_with_its_own_weights():
    method = tta("unet")
    prepare(method, method.diffusion, "bfloat16")
    z0, t, noise = pairs(method.diffusion)
    c = method.diffusion.class_embeddings[[0, 1]]
    twin = copy.deepcopy(method.diffusion)
    expected = twin.loss(z0, t[:, 0], noise[:, 0], c)
    with torch.no_grad():
        for p in method.diffusion.network.parameters():
            p.zero_()
    assert torch.equal(twin.loss(z0, t[:, 0], noise[:, 0], c), expected)


def test_a_method_built_on_a_prepared_model_scales_its_gradients_too():
    """The prepared weights are float16 wherever they are used, so gradients underflow without a scale."""
    first = tta("unet")
    prepare(first, first.diffusion, "float16")
    z0, t, noise = pairs(first.diffusion)
    c = first.diffusion.class_embeddings[[0, 1]].detach().requires_grad_()
    second = DiffusionTTA(first.model, first.diffusion, first.condition, torch.optim.SGD(first.model.parameters(), 0.1))
    _, expected = first.feedback(z0, t, noise, c)
    assert torch.equal(second.feedback(z0, t, noise, c)[1], expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_moves_stays_float32_and_is_held_twice_at_most(precision):
    joint = tta("dit", joint=True)
    prepare(joint, joint.diffusion, precision)
    assert {p.dtype for p in joint.diffusion.network.parameters()} == {torch.float32}
    problem = tiny.problem("dit")
    for method in ("dusa", "none"):  # one adapts φ too, the other does not use it
        prepare(build(problem, method), problem.diffusion, precision)
        assert {p.dtype for p in problem.diffusion.network.parameters()} == {torch.float32}
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
        with gradients_only_for(method.adapted, method.model, method.diffusion):
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
        settings = {k: v for k, v in dict(steps=1, samples=2).items() if k in settings_of(name)}
        problem = tiny.problem()
        method = build(problem, name, **settings)
        prepare(method, problem.diffusion, precision)
        output = method(tiny.images(1), seeded(0))
        assert output.dtype == torch.float32 and output.isfinite().all()


def test_unknown_precision():
    method = tta()
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, float16, not 'int8'"):
        prepare(method, method.diffusion, "int8")


# --- layout ---------------------------------------------------------------------------------------------------------


def test_channels_last_changes_the_layout_alone():
    plain, ready = tta(), tta()
    prepare(ready, ready.diffusion, channels_last=True)
    weight = next(p for p in ready.diffusion.network.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    x = tiny.images(1)
    assert torch.allclose(*(m(x, seeded(0)) for m in (ready, plain)), atol=1e-5)


def test_attention_is_the_fused_one():
    from diffusers.models.attention_processor import Attention, AttnProcessor2_0

    for diffusion in (tiny.diffusion("dit"), tiny.text_unet()):
        found = [m.processor for m in diffusion.network.modules() if isinstance(m, Attention)]
        assert found and all(isinstance(p, AttnProcessor2_0) for p in found)

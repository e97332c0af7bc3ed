"""The life cycle: restoring, online adaptation, eval mode, refusals; with Algorithm 1 as the method."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny
import torch
from adapting import seeded, wrap
from diffusers import AutoencoderKL
from torch import nn

from dtta.core.adapter import check_image, gradients_only_for
from dtta.core.diffusion import ClassUNet
from dtta.core.parameters import select
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA
from dtta.methods.registry import build, settings_of


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("joint", [False, True], ids=["frozen", "joint"])
def test_episodic_restores_bit_for_bit(model, diffusion, image, joint, kind):
    parameters = [*select(model), *(select(diffusion.network) if joint else [])]
    tta = wrap(model, diffusion, parameters, kind=kind, lr=0.1, steps=3)
    before = tiny.snapshot(model, diffusion)
    answer = tta(image)
    assert not torch.equal(answer, model(image))
    assert not tiny.changed(before, model, diffusion)
    assert not tta.optimizer.state
    assert all(p.grad is None for p in [*model.parameters(), *diffusion.parameters()])


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("where", ["model", "diffusion"])
def test_episodic_restores_after_an_interruption(model, diffusion, image, error, where):
    """Stopped in the middle of the third step, weights, flags, gradients and optimizer are as before."""
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == (3 if where == "model" else 6):
            raise error

    parameters = [*select(model), *select(diffusion.network)]
    tta = wrap(model, diffusion, parameters, lr=0.1, momentum=0.9, steps=5, micro_batch=3)
    before = tiny.snapshot(model, diffusion)
    expected = tta(image, seeded())
    hook = (model if where == "model" else diffusion.network).register_forward_pre_hook(interrupt)
    with pytest.raises(error):
        tta(image, seeded())
    hook.remove()
    assert len(tta.history) == 2
    assert not tiny.changed(before, model, diffusion)
    assert not tta.optimizer.state
    assert torch.equal(tta(image, seeded()), expected)


def test_online_goes_on_after_an_interruption(model, diffusion):
    """What was half-way through a step leaves no gradient behind for the next image."""
    first, second = tiny.images(1, seed=1), tiny.images(1, seed=2)
    twin_model, twin_phi = copy.deepcopy(model), copy.deepcopy(diffusion)
    expected = wrap(
        twin_model, twin_phi, [*select(twin_model), *select(twin_phi.network)], episodic=False
    )(second, seeded())  # fmt: skip
    tta = wrap(model, diffusion, [*select(model), *select(diffusion.network)], episodic=False, micro_batch=2)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 2:  # in the first step, after one micro-batch has been backed through
            raise Stop

    hook = diffusion.network.register_forward_pre_hook(interrupt)
    with pytest.raises(Stop):
        tta(first, seeded())
    hook.remove()
    torch.testing.assert_close(tta(second, seeded()), expected, rtol=1e-4, atol=1e-5)


def test_gradients_left_by_others_are_not_used(model, diffusion, image):
    expected = wrap(copy.deepcopy(model), copy.deepcopy(diffusion), momentum=0.9)(image, seeded())
    model(image).sum().backward()
    assert torch.equal(wrap(model, diffusion, momentum=0.9)(image, seeded()), expected)


def weights(model) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_reset_every_restores_the_start_after_this_many_calls(model, diffusion):
    images = [tiny.images(1, seed=k) for k in range(5)]
    periodic = wrap(model, diffusion, samples=4, episodic=False, reset_every=2)
    found = [periodic(x, seeded(k)) for k, x in enumerate(images)]
    periodic.reset()
    online = wrap(model, diffusion, samples=4, episodic=False)
    for k, x in enumerate(images):
        if k % 2 == 0:
            online.reset()
        torch.testing.assert_close(online(x, seeded(k)), found[k])
    online.reset()


@pytest.mark.parametrize("pull", [0.25, 1.0])
def test_restore_rate_moves_parameters_towards_their_start(model, diffusion, image, pull):
    start = weights(model)
    free = wrap(model, diffusion, samples=4, episodic=False)
    answer = free(image, seeded())
    moved = weights(model)
    free.reset()
    pulled = wrap(model, diffusion, samples=4, episodic=False, restore_rate=pull)
    torch.testing.assert_close(pulled(image, seeded()), answer)  # it answers first
    torch.testing.assert_close(weights(model), moved + pull * (start - moved))
    pulled.reset()
    torch.testing.assert_close(weights(model), start)


def test_predict_answers_without_adapting(model, diffusion, image):
    online = wrap(model, diffusion, samples=4, episodic=False)
    online(image, seeded())
    before = weights(model)
    torch.testing.assert_close(online.predict(image), model(image))
    torch.testing.assert_close(weights(model), before)
    online.reset()
    with pytest.raises(ValueError, match="must be float32"):
        online.predict(image.double())


def test_reset_ends_an_online_stream(model, diffusion, image):
    tta = wrap(model, diffusion, kind=torch.optim.AdamW, lr=1e-2, episodic=False)
    before = tiny.snapshot(model)
    first = tta(image, seeded())
    assert tiny.changed(before, model)
    assert tta.optimizer.state
    assert not torch.equal(tta(image, seeded()), first)
    tta.reset()
    assert not tiny.changed(before, model)
    assert not tta.optimizer.state
    assert torch.equal(tta(image, seeded()), first)


def test_only_what_moves_is_stored_and_moved(model, diffusion, image):
    head = select(model, "head")
    tta = wrap(model, diffusion, head, lr=1.0, episodic=False)
    before = tiny.snapshot(model, diffusion)
    tta(image)
    assert [s.shape for s in tta.start] == [p.shape for p in head]
    assert len(tta.start) == 2
    assert tiny.changed(before, model, diffusion) == {"0.head.weight", "0.head.bias"}


def test_only_phi_may_move(model, diffusion, image):
    tta = wrap(
        model,
        diffusion,
        select(diffusion.network),
        lr=0.1,
        steps=3,
        episodic=False,
        sampling=Sampling(reuse_noise=True),
    )
    before = tiny.snapshot(model, diffusion)
    answer = tta(image)
    moved = tiny.changed(before, model, diffusion)
    assert moved
    assert all(name.startswith("1.") for name in moved)
    assert any("embedding_table" in name for name in moved)  # through the condition
    assert torch.equal(answer, model(image))
    assert tta.history[-1].loss < tta.history[0].loss


def test_flags_of_both_networks_are_put_back(model, diffusion, image):
    model.conv.weight.requires_grad_(False)
    diffusion.network.conv_in.weight.requires_grad_(False) if hasattr(diffusion.network, "conv_in") else None
    modules = (model, diffusion)
    flags = [p.requires_grad for m in modules for p in m.parameters()]
    inside = []
    model.register_forward_hook(lambda *_: inside.append({n for n, p in model.named_parameters() if p.requires_grad}))
    frozen = []
    diffusion.network.register_forward_pre_hook(
        lambda *_: frozen.append(any(p.requires_grad for p in diffusion.parameters()))
    )
    wrap(model, diffusion, [model.conv.weight])(image)
    assert inside[0] == {"conv.weight"}
    assert not any(frozen)
    assert [p.requires_grad for m in modules for p in m.parameters()] == flags


def test_flags_are_put_back_after_an_error(model):
    flags = [p.requires_grad for p in model.parameters()]

    def stopped():
        with gradients_only_for([], model):
            assert not any(p.requires_grad for p in model.parameters())
            raise Stop

    with pytest.raises(Stop):
        stopped()
    assert [p.requires_grad for p in model.parameters()] == flags


def test_it_adapts_inside_no_grad(model, diffusion, image):
    expected = wrap(model, diffusion)(image, seeded())
    with torch.no_grad():
        assert torch.equal(wrap(model, diffusion)(image, seeded()), expected)
        assert not torch.is_grad_enabled()


def test_it_adapts_inside_inference_mode_and_to_images_made_there(model, phi, image):
    expected = wrap(model, phi)(image, seeded())
    tta = wrap(model, phi)
    with torch.inference_mode():
        made_there = image.clone()
        assert torch.equal(tta(made_there, seeded()), expected)
        with pytest.raises(ValueError, match="make networks and method outside"):
            wrap(model, phi)
    assert torch.equal(tta(made_there, seeded()), expected)


@pytest.mark.parametrize(("fields", "message"), [
    (("logits",), None),
    (("predicted_depth",), None),
    (("pooled",), "Wrapped returns a Output; wrap it in a module that returns one tensor"),
    ((), "Wrapped returns a tuple; wrap it"),
])  # fmt: skip
@pytest.mark.parametrize("method", ["diffusion-tta", "none", "tent", "cotta", "batch-norm"])
def test_networks_that_return_more_than_a_tensor(image, method, fields, message):
    """transformers' outputs are read while a method runs; the user's network itself is not changed."""

    class Output:
        def __init__(self, value):
            setattr(self, fields[0], value)

    class Wrapped(tiny.Classifier):
        def forward(self, x):
            return Output(super().forward(x)) if fields else (super().forward(x), None)

    def built(network):
        settings = {k: v for k, v in dict(steps=1, samples=2, views=2).items() if k in settings_of(method)}
        return build(replace(tiny.problem(), model=network), method, **settings)

    plain, network = tiny.classifier(), Wrapped()
    network.load_state_dict(plain.state_dict())
    if message:
        with pytest.raises(ValueError, match=message):
            built(network)(image, seeded())
    else:
        assert torch.equal(built(network)(image, seeded()), built(plain)(image, seeded()))
        assert isinstance(network(image), Output) and not network._forward_hooks


@pytest.mark.parametrize("where", ["model", "diffusion"])
def test_networks_on_another_device(model, phi, image, where):
    tta = wrap(model, phi)
    dict(model=model, diffusion=phi)[where].to("meta")
    with pytest.raises(ValueError, match=r"the image is on cpu, (Classifier|ClassUNet) on meta; use .to\(\) on one"):
        tta(image)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_adapted_parameters_are_float32(model, phi, dtype):
    with pytest.raises(ValueError, match=f"adapted parameters must be float32, not {dtype}; use .float"):
        wrap(model.to(dtype), phi)


# --- eval mode -------------------------------------------------------------------------------------------


def test_eval_mode_is_kept_and_running_statistics_never_move(model, diffusion):
    model.train()
    diffusion.train()
    tta = wrap(model, diffusion, lr=0.1, episodic=False)
    tta.train()
    assert not any(m.training for m in [*model.modules(), *diffusion.modules()])
    before = tiny.snapshot(model)
    batch = tiny.images(3)
    tta(batch)
    moved = tiny.changed(before, model)
    assert {"0.norm.weight", "0.norm.bias"} <= moved  # scale and shift adapt, statistics do not
    assert not any("running" in name or "tracked" in name for name in moved)
    tta.reset()
    with torch.no_grad():  # no batch statistics, no dropout: an image answers alike alone and in a batch
        torch.testing.assert_close(model(batch)[:1], model(batch[:1]), rtol=1e-5, atol=1e-5)


# --- refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("joint", [False, True])
def test_a_loss_that_is_not_finite_stops_and_harms_nothing(model, diffusion, image, joint):
    parameters = [*select(model), *(select(diffusion.network) if joint else [])]
    with torch.no_grad():
        expected = model(image)
        next(diffusion.network.parameters()).fill_(float("nan"))
    tta = wrap(model, diffusion, parameters)
    before = tiny.snapshot(model)
    with pytest.raises(FloatingPointError, match="diffusion loss is not finite; use float32 or bfloat16, or"):
        tta(image)
    assert not tiny.changed(before, model)
    assert torch.equal(model(image), expected)


def test_latents_that_are_not_finite_are_the_vaes_fault(model, image):
    vae = AutoencoderKL(in_channels=1, out_channels=1, latent_channels=1, block_out_channels=(4,), norm_num_groups=2)
    phi = ClassUNet(tiny.unet_network(), tiny.scheduler(), vae)
    next(vae.parameters()).fill_(1e38)
    with pytest.raises(FloatingPointError, match=r"the VAE gave NaN or infinity in torch.float32: run it in"):
        wrap(model, phi)(image)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_rate_that_blows_up_is_reported(model, diffusion, image, steps):
    """Whether it happens in the middle or at the last step: no answer of NaN."""
    tta = wrap(model, diffusion, lr=1e38, steps=steps, norm="l1")
    before = tiny.snapshot(model)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        tta(image)
    assert not tiny.changed(before, model)


@pytest.mark.parametrize(("bad", "message"), [
    (lambda x: x[0], r"shape \(N, C, H, W\), not \(1, 8, 8\); add image\[None\]\?"),
    (lambda x: x[:0], r"shape \(N, C, H, W\), not \(0, 1, 8, 8\)"),
    (lambda x: x.numpy(), "must be a tensor of shape .* not ndarray"),
    (lambda x: (x * 255).to(torch.uint8), "not torch.uint8; divide by 255"),
    (lambda x: x.double(), "float32.*not torch.float64"),
    (lambda x: x * 255, r"must lie in \[0, 1\], not \[.*\]; scale or clamp"),
    (lambda x: x - 1, r"must lie in \[0, 1\]"),
    (lambda x: torch.full_like(x, float("nan")), "NaN or infinite"),
    (lambda x: torch.full_like(x, float("inf")), "NaN or infinite"),
], ids=["no batch", "empty", "numpy", "bytes", "double", "0-255", "negative", "nan", "inf"])  # fmt: skip
def test_bad_images(model, phi, image, bad, message):
    tta = wrap(model, phi)
    with pytest.raises(ValueError, match=message):
        tta(bad(image))
    with pytest.raises(ValueError, match=message):
        check_image(bad(image))
    assert check_image(image) is None
    assert check_image(torch.ones(2, 3, 4, 5)) is None


@pytest.mark.parametrize(("options", "message"), [
    (dict(steps=0), "steps must be a whole number of at least 1, not 0"),
    (dict(steps=1.5), "steps must be a whole number"),
    (dict(samples=0), "samples must be a whole number of at least 1, not 0"),
    (dict(samples=-3), "samples"),
    (dict(micro_batch=0), "micro_batch must be a whole number of at least 1, not 0"),
    (dict(micro_batch=-1), "micro_batch"),
    (dict(reset_every=0, episodic=False), "reset_every must be a whole number of at least 1, not 0"),
    (dict(restore_rate=1.5, episodic=False), r"restore_rate must lie in \[0, 1\], not 1.5"),
    (dict(restore_rate=0.5), "for online adaptation: set episodic=False"),
    (dict(reset_every=5), "for online adaptation: set episodic=False"),
    (dict(norm="l3"), "norm must be one of l2, l1, not 'l3'"),
])  # fmt: skip
def test_settings_out_of_range(model, phi, options, message):
    with pytest.raises(ValueError, match=message):
        wrap(model, phi, **options)


def test_predict_runs_in_eval_mode_after_a_caller_has_trained(model, phi, image):
    tta = wrap(model, phi)
    expected, statistics = tta.predict(image), [b.clone() for b in model.buffers()]
    model.train()
    assert torch.equal(tta.predict(image), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), statistics, strict=True))


def test_a_condition_that_cuts_the_gradient_is_refused(model, phi, image):
    class Hard(nn.Module):
        def forward(self, logits):
            return phi.class_embeddings[logits.argmax(1)]

    tta = DiffusionTTA(model, phi, Hard(), torch.optim.SGD(select(model), lr=0.1), 1, 2)
    with pytest.raises(ValueError, match="c has no gradient with respect to θ"):
        tta(image)


def test_weights_of_neither_network_are_refused(model, phi):
    with pytest.raises(ValueError, match="parameters that belong to none of the networks given"):
        wrap(model, phi, [*select(model), nn.Parameter(torch.zeros(3))])
    with pytest.raises(ValueError, match="belong to none"):
        wrap(model, phi, tiny.classifier().parameters())


def test_a_used_optimizer_is_refused(model, phi, image):
    tta = wrap(model, phi, momentum=0.9, episodic=False)
    tta(image)
    with pytest.raises(ValueError, match="used before; give a new one"):
        DiffusionTTA(model, phi, tiny.mixture(phi), tta.optimizer)

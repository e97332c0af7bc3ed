"""Algorithm 1: the fast loop against the naive one, its steps, determinism, weights of the loss."""

from __future__ import annotations

import copy
import itertools
import math
from functools import partial

import pytest
import tiny
import torch
from adapting import Recorder, seeded, wrap
from torch import nn

from dtta.core.parameters import select
from dtta.core.sampling import Sampling
from dtta.core.tta import DiffusionTTA
from dtta.methods.settings import Logits


def add_gradients(total, loss, parameters):
    for grad, g in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        if g is not None:
            grad += g


def check_gradients(wrapped, parameters, image, micro_batches, loss, expected):
    """`wrapped`: DiffusionTTA with all but the optimizer, steps and micro-batch."""
    largest = max(g.abs().max() for g in expected)
    for micro_batch in micro_batches:
        tta = wrapped(optimizer=Recorder(parameters, lr=0.1), steps=1, micro_batch=micro_batch)
        tta(image, seeded())
        assert tta.history[0].loss.item() == pytest.approx(loss, rel=1e-5)
        for grad, reference in zip(tta.optimizer.seen, expected, strict=True):
            assert (grad - reference).norm() <= 1e-5 * reference.norm() + 1e-7 * largest
    assert sum(g.abs().sum() > 0 for g in expected) > len(expected) // 2


def naive_gradients(model, phi, image, t, noise, micro_batch, norm, parameters):
    """The loop as one would first write it: everything in one graph, f run again for every micro-batch.

    Only the networks' own forward passes are used; noising, mixing and loss are written out.
    """
    N, B = t.shape
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    z0 = 2 * image - 1
    total, grads = 0.0, [torch.zeros_like(p) for p in parameters]
    pairs = [(n, b) for n in range(N) for b in range(B)]
    for start in range(0, len(pairs), micro_batch):
        y = model(image)
        loss = 0.0
        for n, b in pairs[start : start + micro_batch]:
            c = sum(p * l for p, l in zip(y[n].softmax(0), phi.class_embeddings, strict=True))
            a = alpha_bar[t[n, b]]
            z_t = a.sqrt() * z0[n] + (1 - a).sqrt() * noise[n, b]
            error = phi.network(z_t[None], t[n, b][None], class_labels=c[None]).sample[0] - noise[n, b]
            loss = loss + (error.abs().mean() if norm == "l1" else (error**2).mean()) / (N * B)
        add_gradients(grads, loss, parameters)
        total += loss.item()
    return total, grads


# --- the gradient ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("joint", [False, True], ids=["frozen", "joint"])
def test_one_backward_is_the_naive_loop(model, diffusion, joint, batch, norm):
    """∂L/∂θ and ∂L/∂φ to 1e-5, whatever the micro-batch, against autograd through everything."""
    B = 5
    image = tiny.images(batch)
    parameters = [*select(model), *(select(diffusion.network) if joint else [])]
    t, noise = Sampling().draw(2 * image - 1, B, 1000, seeded())
    loss, expected = naive_gradients(model, diffusion, image, t, noise, 4, norm, parameters)
    wrapped = partial(DiffusionTTA, model, diffusion, tiny.mixture(diffusion), samples=B, norm=norm)
    check_gradients(wrapped, parameters, image, (1, 3, 7, None), loss, expected)


def test_the_diffusion_model_sees_no_more_than_a_micro_batch(model, diffusion, image):
    sizes = []
    diffusion.network.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    wrap(model, diffusion, steps=2, samples=7, micro_batch=3)(image)
    assert sizes == [3, 3, 1] * 2
    assert len(runs) == 3  # f once in each step, whatever the number of samples, and once to answer


def naive_dense_gradients(problem, image, t, noise, parameters):
    """The naive loop for a map as condition: mixing, scaling, noising and squares of pixels written out."""
    model, phi, B = problem.model, problem.diffusion, t.shape[1]
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    total, grads = 0.0, [torch.zeros_like(p) for p in parameters]
    for n in range(len(image)):
        for b in range(B):
            y = model(image)[n]
            if problem.task == "segmentation":
                c = sum(p * l[:, None, None] for p, l in zip(y.softmax(0), phi.class_embeddings, strict=True))
            else:
                c = 2 * (y / tiny.NEAR).log() / math.log(tiny.FAR / tiny.NEAR) - 1
            a = alpha_bar[t[n, b]]
            z_t = a.sqrt() * (2 * image[n] - 1) + (1 - a).sqrt() * noise[n, b]
            maps = torch.cat([z_t, c])
            seen = torch.stack([maps[k, i::2, j::2] for k in range(len(maps)) for i in (0, 1) for j in (0, 1)])
            squares = phi.network(seen[None], t[n, b][None]).sample[0]
            places = [(k, i, j) for k in range(3) for i in (0, 1) for j in (0, 1)]
            errors = [squares[4 * k + 2 * i + j] - noise[n, b, k, i::2, j::2] for k, i, j in places]
            loss = torch.stack(errors).square().mean() / (len(image) * B)
            add_gradients(grads, loss, parameters)
            total += loss.item()
    return total, grads


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize("joint", [False, True], ids=["frozen", "joint"])
def test_one_backward_is_the_naive_loop_for_maps_too(task, joint):
    """∂L/∂θ and ∂L/∂φ, the table of class embeddings included, whatever the micro-batch."""
    problem = tiny.dense_problem(task)
    parameters = [*select(problem.model), *(select(problem.diffusion.network) if joint else [])]
    image, _ = problem.images(2)
    t, noise = Sampling().draw(2 * image - 1, 4, 1000, seeded())
    loss, expected = naive_dense_gradients(problem, image, t, noise, parameters)
    wrapped = partial(DiffusionTTA, problem.model, problem.diffusion, problem.condition, samples=4)
    check_gradients(wrapped, parameters, image, (1, 3, None), loss, expected)
    if joint and task == "segmentation":
        (place,) = [i for i, p in enumerate(parameters) if p is problem.diffusion.class_embeddings]
        assert expected[place].abs().sum() > 0


@pytest.mark.parametrize("task", ["segmentation", "depth"])
@pytest.mark.parametrize(("theta", "phi"), [
    ("all", False), ("norm", False), ("head", False), (None, True), ("all", True), ("norm", True),
])  # fmt: skip
def test_of_a_dense_problem_only_what_was_asked_moves(task, theta, phi):
    """Online it stays moved, and of θ and φ nothing else; episodic, all comes back bit for bit."""
    wanted = {"all": {"conv", "norm", "head"}, "norm": {"norm"}, "head": {"head"}, None: set()}[theta]
    for episodic in (False, True):
        problem = tiny.dense_problem(task)
        model, diffusion = problem.model, problem.diffusion
        parameters = [*(select(model, theta) if theta else []), *(select(diffusion.network) if phi else [])]
        options = dict(steps=2, samples=4, episodic=episodic)
        tta = DiffusionTTA(model, diffusion, problem.condition, torch.optim.SGD(parameters, lr=0.5), **options)
        before, (image, _) = tiny.snapshot(model, diffusion), problem.image(1, "fog")
        with torch.no_grad():
            unadapted = model(image)
        answer = tta(image, seeded())
        assert answer.shape == unadapted.shape
        assert torch.equal(answer, unadapted) is (theta is None)
        moved = tiny.changed(before, model, diffusion)
        assert not (episodic and moved)
        if not episodic:
            assert {name.split(".")[1] for name in moved if name.startswith("0.")} == wanted
            assert any(name.startswith("1.") for name in moved) is phi
            assert ("1.network.pixel_embedding.weight" in moved) is (phi and task == "segmentation")
            assert not any("running" in name or "tracked" in name for name in moved)


# --- the step --------------------------------------------------------------------------------------------


def plain_loop(model, phi, images, parameters, kind, steps, samples, generator, carry, **settings):
    """Adaptation by the textbook: backward, step, repeat, with no wrapper. Returns answers."""
    start = [p.detach().clone() for p in parameters]
    optimizer = kind(parameters, **settings)
    answers = []
    for image in images:
        if not carry:
            optimizer = kind(parameters, **settings)
        z0 = 2 * image - 1
        for _ in range(steps):
            t, noise = Sampling().draw(z0, samples, 1000, generator)
            c = model(image).softmax(1) @ phi.class_embeddings
            losses = phi.loss(z0.expand(samples, -1, -1, -1), t[0], noise[0], c.expand(samples, -1))
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
        with torch.no_grad():
            answers.append(model(image))
            if not carry:
                for p, s in zip(parameters, start, strict=True):
                    p.copy_(s)
    return answers


@pytest.mark.parametrize(("kind", "rate", "step"), [
    (torch.optim.SGD, 0.5, lambda g: g), (torch.optim.Adam, 1e-3, lambda g: g / (g.abs() + 1e-8)),
], ids=["sgd", "adam"])  # fmt: skip
def test_one_step_is_the_rate_times_the_gradient_or_for_adam_its_sign(model, diffusion, image, kind, rate, step):
    theta = select(model) if kind is torch.optim.SGD else select(model, "head")
    before = [p.detach().clone() for p in theta]
    t, noise = Sampling().draw(2 * image - 1, 6, 1000, seeded())
    _, gradients = naive_gradients(model, diffusion, image, t, noise, 6, "l2", theta)
    wrap(model, diffusion, theta, lr=rate, kind=kind, steps=1, episodic=False)(image, seeded())
    tolerance = dict(rtol=1e-5, atol=1e-7) if kind is torch.optim.SGD else dict(rtol=1e-4, atol=1e-5)
    for p, b, g in zip(theta, before, gradients, strict=True):
        torch.testing.assert_close(p.detach(), b - rate * step(g), **tolerance)


@pytest.mark.parametrize("episodic", [True, False], ids=["episodic", "online"])
@pytest.mark.parametrize(("kind", "settings"), [
    (torch.optim.SGD, dict(lr=0.3, momentum=0.9)), (torch.optim.AdamW, dict(lr=1e-3, weight_decay=0.0)),
], ids=["sgd", "adamw"])  # fmt: skip
def test_a_stream_is_the_textbook_loop(family, kind, settings, episodic):
    """Online, weights and optimizer state go from image to image; episodic, each starts afresh."""
    stream = [tiny.images(1, seed=s) for s in range(3)]
    model, phi = tiny.classifier(), tiny.diffusion(family)
    expected = plain_loop(model, phi, stream, select(model), kind, 2, 6, seeded(), not episodic, **settings)
    model, phi = tiny.classifier(), tiny.diffusion(family)
    tta = DiffusionTTA(
        model, phi, tiny.mixture(phi), kind(select(model), **settings), steps=2, samples=6, episodic=episodic
    )
    generator = seeded()
    answers = [tta(image, generator) for image in stream]
    for a, e, image in zip(answers, expected, stream, strict=True):
        torch.testing.assert_close(a, e, rtol=2e-4, atol=2e-4)
        assert not torch.allclose(a, tiny.classifier()(image), rtol=1e-3, atol=1e-3)  # it moved at all
    assert bool(tta.optimizer.state) is not episodic


def test_history_shows_what_each_step_saw(model, diffusion, image):
    tta = wrap(model, diffusion, steps=4, lr=1.0)
    with torch.no_grad():
        before = model(image)
    answer = tta(image, seeded())
    assert len(tta.history) == 4
    assert torch.equal(tta.history[0].output, before)
    assert not torch.equal(tta.history[1].output, before)
    for step in tta.history:
        assert step.loss.shape == ()
        assert step.loss > 0
        torch.testing.assert_close(step.condition, step.output.softmax(1) @ diffusion.class_embeddings.detach())
        assert not (step.loss.requires_grad)
        assert not (step.condition.requires_grad)
        assert not (step.output.requires_grad)
    assert answer.shape == (1, tiny.CLASSES)
    assert not answer.requires_grad
    tta(image)
    assert len(tta.history) == 4  # of the last image alone


def test_adaptation_lowers_the_loss_it_follows(model, diffusion, image):
    """On the same pairs, small steps go downhill."""
    tta = wrap(model, diffusion, steps=6, samples=16, lr=0.05, sampling=Sampling(reuse_noise=True))
    tta(image)
    losses = [step.loss.item() for step in tta.history]
    assert all(b < a for a, b in itertools.pairwise(losses))


def test_fixed_pairs_serve_every_step_and_fresh_ones_do_not(model, diffusion, image):
    """With no step to speak of, equal losses tell equal pairs."""
    for fixed in (True, False):
        tta = wrap(model, diffusion, steps=3, lr=0.0, sampling=Sampling(reuse_noise=fixed))
        tta(image)
        first = [step.loss.item() for step in tta.history]
        assert len(set(first)) == (1 if fixed else 3)
        tta(image)
        assert tta.history[0].loss.item() not in first  # the next image draws its own


# --- determinism and precision ---------------------------------------------------------------------------


def test_same_seed_same_bytes(diffusion, image):
    def run(seed):
        tta = wrap(tiny.classifier(), copy.deepcopy(diffusion), lr=0.5)
        answer = tta(image, seeded(seed))
        return answer, torch.stack([s.loss for s in tta.history])

    (a, losses_a), (b, losses_b), (c, _) = run(3), run(3), run(4)
    assert torch.equal(a, b)
    assert torch.equal(losses_a, losses_b)
    assert not torch.equal(a, c)


def test_without_a_generator_the_seed_decides(diffusion, image):
    a, b, c = (wrap(tiny.classifier(), diffusion, lr=0.5, seed=s)(image) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    torch.manual_seed(123)  # the global state decides nothing, and is left alone
    before = torch.get_rng_state()
    assert torch.equal(wrap(tiny.classifier(), diffusion, lr=0.5, seed=1)(image), a)
    assert torch.equal(torch.get_rng_state(), before)


def test_bfloat16_autocast_keeps_the_gradient(model, diffusion, image):
    def gradient(autocast):
        optimizer = Recorder(select(model), lr=0.1)
        seen = []
        hook = diffusion.network.register_forward_hook(lambda m, a, out: seen.append(out.sample.dtype))
        options = dict(steps=1, samples=32, autocast=autocast)
        tta = DiffusionTTA(model, diffusion, tiny.mixture(diffusion), optimizer, **options)
        tta(image, seeded())
        hook.remove()
        assert tta.history[0].loss.dtype == tta.history[0].condition.dtype == torch.float32
        return torch.cat([g.flatten() for g in optimizer.seen]), seen[0]

    (full, dtype), (half, half_dtype) = gradient(None), gradient(torch.bfloat16)
    assert (dtype, half_dtype) == (torch.float32, torch.bfloat16)
    assert torch.cosine_similarity(full, half, dim=0) > 0.99
    assert not torch.equal(full, half)


# --- other networks --------------------------------------------------------------------------------------


def test_free_logits(model, diffusion, image):
    """Only the answer moves: delta goes against the loss's gradient, the network stays."""
    logits = Logits(tiny.CLASSES, model)
    optimizer = torch.optim.SGD([logits.delta], lr=2.0)
    tta = DiffusionTTA(logits, diffusion, tiny.mixture(diffusion), optimizer, steps=1, samples=6)
    before = tiny.snapshot(model)
    answer = tta(image, seeded())
    with torch.no_grad():
        start = model(image)
    t, noise = Sampling().draw(2 * image - 1, 6, 1000, seeded())
    free = start.clone().requires_grad_()
    c = free.softmax(1) @ diffusion.class_embeddings.detach()
    z0 = (2 * image - 1).expand(6, -1, -1, -1)
    (grad,) = torch.autograd.grad(diffusion.loss(z0, t[0], noise[0], c.expand(6, -1)).mean(), free)
    torch.testing.assert_close(answer, start - 2 * grad, rtol=1e-4, atol=1e-5)
    assert not tiny.changed(before, model)
    assert not logits.delta.any()


def clip_towers():
    from transformers import CLIPConfig, CLIPModel

    tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    config = CLIPConfig(
        vision_config=dict(**tower, image_size=8, patch_size=4, num_channels=1),
        text_config=dict(**tower, vocab_size=50, max_position_embeddings=8),
        projection_dim=tiny.CLASSES,
    )
    torch.manual_seed(0)
    return CLIPModel(config)


class ZeroShot(nn.Module):
    """An image's projected embedding as its logits."""

    def __init__(self, clip):
        super().__init__()
        self.clip = clip

    def forward(self, image):
        features = self.clip.get_image_features(pixel_values=image)
        return features if isinstance(features, torch.Tensor) else features.pooler_output


def test_lora_on_clip_moves_the_vision_tower_alone_and_comes_back(diffusion, image):
    """peft matches names anywhere, so "q_proj" alone would also hit the text tower; the regexp does not.
    Coming back means copying A and B, not initialising them again."""
    from peft import LoraConfig, get_peft_model

    both = get_peft_model(clip_towers(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    assert any("text_model" in n for n, _ in both.named_parameters() if "lora_" in n)
    vision = r"vision_model\.encoder\.layers\.\d+\.self_attn\.(q|v)_proj"
    clip = clip_towers()
    with torch.no_grad():
        before = ZeroShot(clip)(image)
    model = ZeroShot(get_peft_model(clip, LoraConfig(r=2, target_modules=vision)))  # in train mode, as peft leaves it
    lora = select(model, "lora")
    names = [n for n, _ in model.named_parameters() if "lora_" in n]
    assert len(lora) == len(names) == 2 * 2 * 2
    assert not any("text_model" in n for n in names)
    assert sum(p.numel() for p in lora) == 2 * 2 * 2 * (16 * 2)
    tta = wrap(model, diffusion, lora, lr=5.0, steps=3)
    state = tiny.snapshot(model, diffusion)
    with torch.no_grad():
        torch.testing.assert_close(model(image), before)  # B = 0 at the start
    answer = tta(image)
    assert not torch.allclose(answer, before, atol=1e-6)
    assert not tiny.changed(state, model, diffusion)
    assert len(tta.start) == 8
    assert not any(m.training for m in model.modules())


def test_each_step_is_told_before_the_weights_move(model, phi, image):
    told = []
    tta = DiffusionTTA(
        model, phi, tiny.mixture(phi), torch.optim.SGD(model.parameters(), lr=0.1), steps=3, samples=2,
        on_step=lambda step: told.append((step, model(image).detach())),
    )  # fmt: skip
    tta(image)
    assert [step for step, _ in told] == tta.history
    assert all(torch.equal(step.output, now) for step, now in told)


# --- weights of the loss ------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", ["none", "snr", "min-snr"])
@pytest.mark.parametrize("density", [(), (1.0, 3.0)])
def test_a_weighted_step_is_the_naive_one(model, diffusion, image, weighting, density):
    sampling = Sampling(t_min=0.05, t_max=0.65, t_density=density)
    optimizer = torch.optim.SGD(select(model), lr=0.5)
    tta = DiffusionTTA(
        model,
        diffusion,
        tiny.mixture(diffusion),
        optimizer,
        1,
        6,
        sampling=sampling,
        weighting=weighting,
        micro_batch=4,
    )
    z0 = 2 * image - 1
    t, noise = sampling.draw(z0, 6, 1000, seeded())
    c = tiny.mixture(diffusion)(model(image))
    alpha = diffusion.alphas_cumprod

    def counts(s: int) -> float:
        ratio = (alpha[s] / (1 - alpha[s])).item()
        return {"none": 1.0, "snr": 1 / ratio, "min-snr": min(ratio, 5.0) / ratio}[weighting]

    mean = sum(counts(s) for s in range(50, 650)) / 600
    expected = 0
    for b in range(6):
        s = t[0, b].item()
        importance = 1.0 if not density else (2.0 if s < 350 else 2 / 3)
        expected += diffusion.loss(z0, t[:, b], noise[:, b], c) * counts(s) / mean * importance / 6
    tta(image, seeded())
    assert tta.history[0].loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_an_unknown_weighting_is_refused(model, diffusion):
    with pytest.raises(ValueError, match="weighting must be one of none, snr, min-snr, not 'x'"):
        DiffusionTTA(model, diffusion, tiny.mixture(diffusion), torch.optim.SGD(select(model), lr=1), weighting="x")

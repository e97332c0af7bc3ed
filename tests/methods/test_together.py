"""Images adapted together get the answers that they get one by one."""

from __future__ import annotations

import pytest
import tiny
import torch

import dtta
from dtta.methods import build
from dtta.methods.together import Together, can_adapt_together

PROBLEMS = {
    "unet": tiny.problem,
    "dit": lambda: tiny.problem("dit"),
    "segmentation": lambda: tiny.dense_problem("segmentation"),
    "depth": lambda: tiny.dense_problem("depth"),
    "open": tiny.open_problem,
}
SETTINGS = {
    "sgd": dict(optimizer="sgd", lr=0.05),
    "adam": dict(optimizer="adam", lr=1e-3),
    "adamw": dict(optimizer="adamw", lr=1e-3),
    "norm": dict(trainable="norm", lr=0.05),
    "shared": dict(noise="shared", reuse_noise=True, timesteps="stratified", micro_batch=5),
    "l1": dict(norm="l1", t_min=0.2, t_max=0.9),
}


def one_by_one(tta, images):
    return torch.cat([tta(x[None], torch.Generator().manual_seed(n)) for n, x in enumerate(images)])


def together(tta, images):
    return Together(tta)(images, [torch.Generator().manual_seed(n) for n in range(len(images))])


def assert_same(problem, **settings):
    tta = build(problem, "diffusion-tta", **{"steps": 3, "samples": 4, **settings})
    images = problem.images(3)[0]
    before = tiny.snapshot(tta.model, tta.diffusion)
    expected = one_by_one(tta, images)
    unadapted = torch.cat([tta.model(x[None]) for x in images])
    assert (expected - unadapted).abs().max() > 1e-4  # adaptation changes the output
    torch.testing.assert_close(together(tta, images), expected, atol=1e-5, rtol=1e-5)
    assert not tiny.changed(before, tta.model, tta.diffusion)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings(settings):
    assert_same(tiny.problem(), **settings)


@pytest.mark.parametrize("name", PROBLEMS)
def test_tasks_and_families(name):
    assert_same(PROBLEMS[name](), lr=0.05)


@pytest.mark.parametrize("trainable", ["logits", "prompt", "lora"])
def test_parts_of_a_clip(trainable):
    """LoRA begins with B = 0, so it needs a step before all of it changes."""
    assert_same(tiny.open_problem(), trainable=trainable, lr=0.5)


def test_images_that_stop_at_different_steps():
    problem = tiny.problem()
    tta = build(problem, "diffusion-tta", steps=4, samples=4, lr=0.2, patience=1)
    images = problem.images(6)[0]
    expected, steps = [], []
    for n, x in enumerate(images):
        expected.append(tta(x[None], torch.Generator().manual_seed(n)))
        steps.append(len(tta.history))
    assert len(set(steps)) > 1
    torch.testing.assert_close(together(tta, images), torch.cat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("method", "settings", "message"), [
    ("tent", {}, "Tent takes one image at a time"),
    ("diffusion-tta", dict(episodic=False), "online adaptation goes from image to image"),
    ("diffusion-tta", dict(adapt_diffusion=True), "an adapted diffusion model differs from image to image"),
])  # fmt: skip
def test_what_cannot_be_adapted_together_gets_a_sentence(method, settings, message):
    built = build(tiny.problem(), method, **settings)
    assert not can_adapt_together(built)
    with pytest.raises(ValueError, match=message):
        Together(built)


def test_a_network_without_a_batching_rule_gets_a_sentence():
    problem = tiny.problem()

    class Sorted(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            y = self.network(x)
            return y if y.max().item() > 0 else 2 * y  # depends on the data

    tta = build(problem, "diffusion-tta", steps=1, samples=2)
    tta.model = Sorted(tta.model)
    with pytest.raises(ValueError, match="Sorted cannot run under vmap"):
        together(tta, problem.images(2)[0])


def test_inference_mode_and_the_number_of_generators():
    problem = tiny.problem()
    tta = build(problem, "diffusion-tta", steps=2, samples=2, lr=0.05)
    images = problem.images(2)[0]
    expected = together(tta, images)
    with torch.inference_mode():
        assert torch.equal(together(tta, images.clone()), expected)
    with pytest.raises(ValueError, match="2 images need 2 generators, not 1"):
        Together(tta)(images, [torch.Generator()])


def test_layers_with_a_fused_path_without_gradient():
    """The masked autoencoder is made of ``nn.TransformerEncoderLayer``, which chooses that path in eval mode."""
    tta = build(dtta.load("digits", "mae"), "diffusion-tta", steps=2, samples=2, lr=0.05)
    images = dtta.load("digits").images(2)[0]
    assert torch.backends.mha.get_fastpath_enabled()
    torch.testing.assert_close(together(tta, images), one_by_one(tta, images), atol=1e-5, rtol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()

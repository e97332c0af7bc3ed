"""Images adapted together get the answers that they get one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import stand_ins
import tiny
import torch
from diffusers import ControlNetModel

import dtta
from dtta.core.conditions import PixelMixture
from dtta.core.diffusion import ControlledUNet
from dtta.methods import build
from dtta.methods.together import OneByOneError, Together, largest_number


def controlled_problem():
    """Segmentation with a ControlNet, whose condition is a map of colours."""
    problem = tiny.dense_problem("segmentation")
    with tiny.seeded(0):
        unet = tiny.text_unet(sample_size=tiny.SIZE // 2, in_channels=4, out_channels=4).network
        control = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))
        for p in control.parameters():  # its last layers are zero at first
            p.data.normal_(std=0.3)
    colours = torch.rand(tiny.CLASSES, 3, generator=torch.Generator().manual_seed(0))
    phi = ControlledUNet(unet, control, tiny.scheduler(), stand_ins.vae(), tiny.normal(1, 3, 16), colours)
    return replace(problem, diffusion=phi, condition=PixelMixture(colours))


PROBLEMS = {
    "classification, UNet": tiny.problem,
    "classification, DiT": lambda: tiny.problem("dit"),
    "segmentation, UNet with maps": lambda: tiny.dense_problem("segmentation"),
    "segmentation, ControlNet": controlled_problem,
    "depth, UNet with maps": lambda: tiny.dense_problem("depth"),
    "open vocabulary, text UNet": tiny.open_problem,
}
OPTIMIZERS = {
    "sgd": dict(optimizer="sgd", lr=0.05),
    "nesterov": dict(optimizer="nesterov", lr=0.05),
    # Adam divides a gradient by its size, and with it the rounding of a gradient near zero: small steps
    "adam": dict(optimizer="adam", lr=1e-4),
    "adamw": dict(optimizer="adamw", lr=1e-4),
}
SETTINGS = {
    "shared": dict(noise="shared", reuse_noise=True, timesteps="stratified", micro_batch=5),
    "l1": dict(norm="l1", t_min=0.2, t_max=0.9),
    "weighted": dict(weighting="min-snr", t_density=(2.0, 1.0), temperature=2.0),
    "random start": dict(start="random"),
    "ensemble": dict(ensemble=True),
}
METHODS = {
    "logits": dict(lr=1.0, samples=4),
    "tent": dict(batch_statistics=False, lr=0.01),
    "dusa": dict(adapt_diffusion=False, episodic=True, samples=2, top=2, others=1, optimizer="sgd", lr=0.1),
}


def one_by_one(tta, images):
    return torch.cat([tta(x[None], torch.Generator().manual_seed(n)) for n, x in enumerate(images)])


def together(tta, images):
    return Together(tta)(images, [torch.Generator().manual_seed(n) for n in range(len(images))])


def assert_same(problem, method="diffusion-tta", **settings):
    tta = build(problem, method, **{"steps": 3} | ({} if method == "tent" else {"samples": 4}) | settings)
    images = problem.images(3)[0]
    before = tiny.snapshot(problem.model, problem.diffusion)
    expected = one_by_one(tta, images)
    unadapted = torch.cat([problem.model(x[None]) for x in images])
    assert (expected - unadapted).abs().max() > 1e-4  # adaptation changes the output
    torch.testing.assert_close(together(tta, images), expected, atol=1e-5, rtol=1e-5)
    assert not tiny.changed(before, problem.model, problem.diffusion)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trainable", ["all", "norm", "head", "lora"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_tasks_families_parameters_and_optimizers(name, trainable, optimizer):
    """LoRA begins with B = 0, so it needs a step before all of it changes."""
    problem, settings = PROBLEMS[name](), OPTIMIZERS[optimizer]
    if trainable == "lora":
        problem.model.lora_targets = getattr(problem.model, "lora_targets", r"conv|head")
    if trainable in ("norm", "lora"):
        settings = settings | dict(lr=10 * settings["lr"])
    assert_same(problem, trainable=trainable, **settings)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings(settings):
    assert_same(tiny.problem(), **{"lr": 0.05} | settings)


@pytest.mark.parametrize("method", METHODS)
def test_other_methods(method):
    assert_same(tiny.problem(), method, **METHODS[method])


@pytest.mark.parametrize("trainable", ["logits", "prompt"])
def test_parts_of_a_clip(trainable):
    assert_same(tiny.open_problem(), trainable=trainable, lr=0.5)


@pytest.mark.parametrize("life_cycle", [{}, dict(reset_every=2), dict(restore_rate=0.3)])
@pytest.mark.parametrize(("method", "settings"), [
    ("diffusion-tta", dict(optimizer="adam", lr=1e-2, samples=4, steps=2)),
    ("dusa", dict(adapt_diffusion=False, samples=2, optimizer="sgd", lr=0.1)),
])  # fmt: skip
def test_streams(method, settings, life_cycle):
    """Online: image n of each call continues stream n; `predict` changes nothing."""
    if method == "dusa" and life_cycle:
        pytest.skip("its builder has no such settings")
    tta = build(tiny.problem(), method, episodic=False, **settings, **life_cycle)
    images = tiny.problem().images(9)[0].unflatten(0, (3, 3))  # streams, images in each
    seeds = torch.arange(9).unflatten(0, (3, 3)).tolist()
    expected, last = [], []
    for stream, numbers in zip(images, seeds, strict=True):
        tta.reset()
        expected.append(
            torch.cat([tta(x[None], torch.Generator().manual_seed(n)) for x, n in zip(stream, numbers, strict=True)])
        )
        last.append(tta.predict(stream[:1]))
    tta.reset()
    streams = Together(tta)
    for _ in range(2):  # `reset` leaves nothing of the first streams
        streams.reset()
        answers = [
            streams(images[:, k], [torch.Generator().manual_seed(numbers[k]) for numbers in seeds]) for k in range(3)
        ]
        torch.testing.assert_close(torch.stack(answers, 1), torch.stack(expected), atol=1e-5, rtol=1e-5)
        for _ in range(2):
            torch.testing.assert_close(streams.predict(images[:, 0]), torch.cat(last), atol=1e-5, rtol=1e-5)
    tta.reset()
    alone = tta(images[0, 1:2], torch.Generator().manual_seed(seeds[0][1]))
    assert (answers[1][0] - alone).abs().max() > 1e-4  # parameters are carried along


def test_images_that_stop_at_different_steps(monkeypatch):
    """Those that have stopped are no longer evaluated."""
    problem = tiny.problem()
    tta = build(problem, "diffusion-tta", steps=4, samples=4, lr=0.2, patience=1)
    images = problem.images(6)[0]
    expected, steps = [], []
    for n, x in enumerate(images):
        expected.append(tta(x[None], torch.Generator().manual_seed(n)))
        steps.append(len(tta.history))
    assert len(set(steps)) > 1
    evaluated = []
    loss = problem.diffusion.loss
    monkeypatch.setattr(problem.diffusion, "loss", lambda z0, *rest: evaluated.append(len(z0)) or loss(z0, *rest))
    torch.testing.assert_close(together(tta, images), torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert sum(evaluated) == 4 * sum(steps)


@pytest.mark.parametrize(("method", "settings", "message"), [
    ("memo", {}, "MarginalEntropy takes one image at a time"),
    ("tent", {}, "statistics of one image belong to that image"),
    ("diffusion-tta", dict(episodic=False, patience=1), "stop at different steps"),
    ("diffusion-tta", dict(adapt_diffusion=True), "an adapted diffusion model differs from image to image"),
])  # fmt: skip
def test_what_cannot_be_adapted_together_gets_a_sentence(method, settings, message):
    with pytest.raises(OneByOneError, match=message):
        Together(build(tiny.problem(), method, **settings))


def test_a_network_without_a_batching_rule_gets_a_sentence():
    problem = tiny.problem()

    class Sorted(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, x):
            y = self.network(x)
            return y if y.max().item() > 0 else 2 * y  # depends on the data

    tta = build(replace(problem, model=Sorted(problem.model)), "diffusion-tta", steps=1, samples=2)
    with pytest.raises(OneByOneError, match="Sorted cannot run under vmap"):
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


def test_the_copies_fit_into_memory(monkeypatch):
    tta = build(tiny.problem(), "diffusion-tta")
    bytes_of_one = 4 * sum(p.numel() for p in tta.adapted)
    for copies, expected in ((60, 6), (1, 1)):
        memory = type("Memory", (), dict(available=copies * bytes_of_one))
        monkeypatch.setattr("psutil.virtual_memory", lambda memory=memory: memory)
        assert largest_number(tta) == expected

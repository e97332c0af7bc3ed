"""Stable Diffusion 3 on tiny random checkpoints, against the library's pipeline, scheduler and training script."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from diffusers.training_utils import compute_loss_weighting_for_sd3
from stand_ins import SIZE, clip, sd3_transformer, stable_diffusion_3

import dtta
from dtta.core.conditions import ClassMixture
from dtta.core.feedback import accumulate
from dtta.core.lora import add_lora
from dtta.methods.diffusion_classifier import DiffusionClassifier
from dtta.methods.registry import build
from dtta.methods.together import Together
from dtta.problems.compilation import compile_blocks
from dtta.problems.full import open_vocabulary
from dtta.problems.full.stable_diffusion import requirement
from dtta.problems.networks.stable_diffusion_3 import StableDiffusion3, pack, unpack
from dtta.problems.training.weights import WeightsError

NAMES = ["red ball", "blue box", "red cone"]
SENTENCES = [f"a photo of a {name}" for name in NAMES]
T = torch.tensor([3, 400, 999])


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("hub")
    clip(root / "clip"), stable_diffusion_3(root / "sd3"), stable_diffusion_3(root / "without", with_t5=False)
    return root


@pytest.fixture
def problem(hub):
    return dtta.load("open-vocabulary-food101", str(hub / "clip"), str(hub / "sd3"), NAMES)


def adapter(seed: int = 0, shift: float = 3.0, **options) -> StableDiffusion3:
    return StableDiffusion3(sd3_transformer(seed, **options), FlowMatchEulerDiscreteScheduler(shift=shift))


def draws(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return tiny.normal(n, 16, 16, 16, seed=1), tiny.normal(n, 16, 16, 16, seed=2)


def conditions(n: int = 3, tokens: int = 5, seed: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    return tiny.normal(n, tokens, 40, seed=seed), tiny.normal(n, 18, seed=seed + 1)


# --- the formula --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_loss_is_the_schedulers_noise_and_the_networks_output(shift):
    model, (z0, noise), (text, pooled) = adapter(shift=shift), draws(), conditions()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    time = scheduler.timesteps.flip(0)[T]
    with torch.no_grad():
        z_t = scheduler.scale_noise(z0, time, noise)
        v = model.network(z_t, encoder_hidden_states=text, pooled_projections=pooled, timestep=time).sample
        expected = (v - (noise - z0)).square().mean((1, 2, 3))
        loss = model.loss(z0, T, noise, pack(text, pooled))
    torch.testing.assert_close(model.add_noise(z0, T, noise), z_t, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def test_the_weighted_loss_is_that_of_the_librarys_training_script():
    """examples/dreambooth/train_dreambooth_sd3.py: timesteps by index, sigmas by search, two forms of the target."""
    model, (z0, noise), (text, pooled) = adapter(), draws(), conditions()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = scheduler.timesteps[scheduler.config.num_train_timesteps - 1 - T]
    places = [(scheduler.timesteps == t).nonzero().item() for t in timesteps]
    sigmas = scheduler.sigmas[places].flatten()[:, None, None, None]
    noisy = (1.0 - sigmas) * z0 + sigmas * noise
    with torch.no_grad():
        inputs = dict(hidden_states=noisy, timestep=timesteps, encoder_hidden_states=text, pooled_projections=pooled)
        output = model.network(**inputs, return_dict=False)[0]
        loss = model.loss(z0, T, noise, pack(text, pooled))
    flow = compute_loss_weighting_for_sd3("none", sigmas) * (output - (noise - z0)) ** 2
    torch.testing.assert_close(loss, flow.flatten(1).mean(1), rtol=1e-6, atol=1e-6)
    denoised = ((output * (-sigmas) + noisy - z0) ** 2).flatten(1).mean(1)  # --precondition_outputs
    factors = denoised / (model.weight(T, "snr") * loss)  # one factor for all t: the weights have mean 1
    torch.testing.assert_close(factors, factors.mean().expand(3), rtol=1e-4, atol=0)
    snr = ((1 - sigmas) / sigmas).square().flatten()
    torch.testing.assert_close(model.snr(T), snr, rtol=1e-5, atol=1e-12)
    ratio = model.weight(T, "min-snr") / model.weight(T, "snr")
    torch.testing.assert_close(ratio / ratio[1], snr.clamp(max=5) / snr[1].clamp(max=5), rtol=1e-4, atol=1e-6)


def test_tokens_and_pooled_vectors_come_out_as_they_went_in():
    text, pooled = conditions()
    packed = pack(text, pooled)
    assert packed.shape == (3, 6, 40)
    assert all(torch.equal(a, b) for a, b in zip(unpack(packed, 18), (text, pooled), strict=True))
    wide = tiny.normal(3, 90)  # three rows
    packed = pack(text, wide)
    assert packed.shape == (3, 8, 40) and torch.equal(unpack(packed, 90)[1], wide)


@pytest.mark.parametrize("steps", [28, 999])  # set_timesteps appends a zero: 999 steps have 1,000 sigmas
def test_a_scheduler_after_set_timesteps_is_refused(steps):
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(steps)
    with pytest.raises(ValueError, match="set_timesteps has replaced its sigmas; load the scheduler again"):
        StableDiffusion3(sd3_transformer(), scheduler)


def test_gradients_reach_tokens_and_pooled_vectors_in_any_pass_size():
    model, (z0, _) = adapter(), draws(2)
    c = pack(*conditions(2)).requires_grad_()
    t, pairs = torch.tensor([[5, 500, 900], [1, 300, 998]]), tiny.normal(2, 3, 16, 16, 16, seed=5)
    loss, grad = accumulate(model, z0, t, pairs, c, micro_batch=2)
    naive = torch.stack([model.loss(z0, t[:, b], pairs[:, b], c) for b in range(3)]).mean()
    (expected,) = torch.autograd.grad(naive, c)
    assert loss.item() == pytest.approx(naive.item(), rel=1e-5)
    torch.testing.assert_close(grad, expected, rtol=1e-3, atol=1e-8)
    of_text, of_pooled = unpack(grad, 18)
    assert of_text.flatten(1).norm(dim=1).min() > 0 and of_pooled.norm(dim=1).min() > 0
    assert (grad[:, -1, 18:] == 0).all()  # the padding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_noise_levels(dtype):
    (z0, noise), c = draws(), pack(*conditions())
    plain, half = adapter(), adapter().to(dtype)
    assert half.levels.dtype == torch.float32 and torch.equal(plain.levels, half.levels)
    torch.testing.assert_close(half.loss(z0, T, noise, c), plain.loss(z0, T, noise, c), rtol=0.05, atol=0.02)


# --- the checkpoint -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["sd3", "without"])
def test_encoders_and_autoencoder_are_the_pipelines(hub, folder):
    model, read = open_vocabulary.load_stable_diffusion(str(hub / folder))
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        hub / folder, **({} if folder == "sd3" else dict(text_encoder_3=None, tokenizer_3=None))
    )
    x = tiny.images(2, channels=3, size=SIZE)
    with torch.no_grad():
        text, nothing, pooled, nothing_pooled = pipeline.encode_prompt(
            SENTENCES, None, None, device="cpu", max_sequence_length=77
        )
        latent = pipeline.vae.encode(pipeline.image_processor.preprocess(x)).latent_dist.mean
        z0 = (latent - pipeline.vae.config.shift_factor) * pipeline.vae.config.scaling_factor
    assert text.shape == (3, 154, 40) and (text[:, 77:].abs().max() == 0) == (folder == "without")
    torch.testing.assert_close(read(SENTENCES, batch=2), pack(text, pooled), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(read([""]), pack(nothing, nothing_pooled)[:1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.encode(x), z0, atol=1e-5, rtol=1e-5)
    assert read.words(SENTENCES[0])[-3:] == ["red", "ball", "‹end›"]
    assert model.timesteps == 1000 and model.image_size == SIZE
    sigma = 3 * 0.5 / (1 + 2 * 0.5)
    torch.testing.assert_close(model.levels[:, 499], torch.tensor([1 - sigma, sigma]))


def test_what_is_missing_is_named(hub, tmp_path):
    folder = stable_diffusion_3(tmp_path / "sd3", with_t5=False)
    (folder / "text_encoder_2" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="sd3/text_encoder_2 cannot be read"):
        open_vocabulary.load_stable_diffusion(str(folder))
    assert requirement(str(folder)).parts == ("transformer", "vae", "text_encoder", "text_encoder_2")
    assert requirement("stable-diffusion-3-medium").parts[-1] == "text_encoder_3"
    assert requirement(None).parts[0] == "unet"


def test_a_name_with_too_many_tokens_is_refused(hub):
    _, read = open_vocabulary.load_stable_diffusion(str(hub / "sd3"))
    with pytest.raises(ValueError, match="tokens, the text encoder takes 77; shorten the name"):
        read(["red ball " * 40])


# --- methods ------------------------------------------------------------------------------------------


def test_adaptation_lowers_the_loss_of_a_fixed_draw(problem):
    x = tiny.images(1, channels=3, size=SIZE)
    settings = dict(trainable="lora", rank=2, samples=4, steps=6, optimizer="adam", lr=0.05, reuse_noise=True)
    tta = build(problem, "diffusion-tta", **settings)
    before = problem.model(x)
    assert not torch.allclose(tta(x), before, atol=1e-4)
    losses = [step.loss.item() for step in tta.history]
    assert losses[-1] < losses[0]
    assert torch.equal(problem.model(x), before)


def test_lora_of_the_transformer(problem):
    x = tiny.images(1, channels=3, size=SIZE)
    settings = dict(trainable="lora", rank=2, samples=2, steps=2, adapt_diffusion="lora", optimizer="adam", lr=0.01)
    tta = build(problem, "diffusion-tta", **settings)
    adapted = [name for name, _ in problem.diffusion.named_parameters() if "lora_" in name]
    assert len(adapted) == 2 * (8 + 7)  # A and B of each layer; the last block has no output of text
    tta(x)
    assert tta.history[1].loss != tta.history[0].loss
    c = pack(*conditions(1))
    z0, noise = draws(1)
    before = adapter().loss(z0, T[:1], noise, c)
    torch.testing.assert_close(add_lora(adapter(), rank=2).loss(z0, T[:1], noise, c), before)


def test_several_images_at_once_get_their_own_answers(problem):
    x = tiny.images(2, channels=3, size=SIZE)
    tta = build(problem, "diffusion-tta", trainable="norm", samples=2, steps=2, lr=0.05)
    seeds = [torch.Generator().manual_seed(k) for k in range(2)]
    together = Together(tta)(x, seeds)
    for k in range(2):
        alone = tta(x[k : k + 1], torch.Generator().manual_seed(k))
        torch.testing.assert_close(together[k : k + 1], alone, rtol=1e-3, atol=1e-4)


def test_the_diffusion_classifier_and_weighted_timesteps(problem):
    x = tiny.images(1, channels=3, size=SIZE)
    method = DiffusionClassifier(problem.diffusion, samples=3, embeddings=problem.condition.embeddings)
    assert method(x).shape == (1, 3) and method.evaluations == 9
    for weighting in ("snr", "min-snr"):
        tta = build(problem, "diffusion-tta", trainable="norm", samples=2, steps=1, weighting=weighting)
        assert tta(x).isfinite().all()


def test_the_blocks_can_be_compiled():
    assert compile_blocks(sd3_transformer(), backend="eager") == 2


def test_a_mixture_of_classes_mixes_tokens_and_pooled_vectors():
    text, pooled = conditions()
    mixture = ClassMixture(pack(text, pooled))
    logits = tiny.normal(2, 3)
    y = logits.softmax(1)
    mixed_text, mixed_pooled = unpack(mixture(logits), 18)
    torch.testing.assert_close(mixed_text, torch.einsum("nl,ltd->ntd", y, text))
    torch.testing.assert_close(mixed_pooled, y @ pooled)

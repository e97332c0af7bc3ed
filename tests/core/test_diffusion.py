"""The adapters against the libraries' own forward passes, and the forward process against its formulas."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import stand_ins
import tiny
import torch
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
    EulerDiscreteScheduler,
    PNDMScheduler,
    UNet2DModel,
)
from diffusers.training_utils import compute_snr
from torch.nn import functional as F

from dtta.core.diffusion import ClassUNet, ConcatUNet, Diffusion, DiT, SoftLabel, TextUNet
from dtta.core.parameters import select

T, LABELS = torch.tensor([3, 250, 999]), torch.tensor([4, 0, 2])


def one_hot(labels: torch.Tensor) -> torch.Tensor:
    return F.one_hot(labels, tiny.CLASSES).float()


def adapters():
    unet, dit = tiny.unet_network(), tiny.dit_network()
    return [
        pytest.param(unet, lambda n: ClassUNet(n, tiny.scheduler()), id="unet"),
        pytest.param(dit, lambda n: DiT(n, tiny.scheduler(), official=False), id="dit"),
    ]


# --- probabilities where the library takes integers ----------------------------------------------------


@pytest.mark.parametrize(("network", "wrap"), adapters())
def test_one_hot_mixture_is_the_integer_label_bit_for_bit(network, wrap):
    library = copy.deepcopy(network).eval()
    diffusion = wrap(copy.deepcopy(network))
    z_t = tiny.normal(3, 1, 8, 8)
    with torch.no_grad():
        expected = library(z_t, T, class_labels=LABELS).sample
        assert torch.equal(diffusion.predict(z_t, T, one_hot(LABELS) @ diffusion.class_embeddings), expected)
        assert torch.equal(diffusion.predict(z_t, T, LABELS), expected)
        other = diffusion.predict(z_t, T, one_hot(LABELS.flip(0)) @ diffusion.class_embeddings)
    assert not torch.equal(other, expected)  # the label does reach the prediction


@pytest.mark.parametrize(("network", "wrap"), adapters())
def test_wrapping_twice_changes_nothing(network, wrap):
    once = wrap(copy.deepcopy(network))
    z_t = tiny.normal(3, 1, 8, 8)
    with torch.no_grad():
        before = once.predict(z_t, T, LABELS)
        assert torch.equal(wrap(once.network).predict(z_t, T, LABELS), before)


def test_soft_label_looks_up_integers_and_passes_vectors():
    table = torch.nn.Embedding(4, 3)
    soft = SoftLabel(table)
    vectors = tiny.normal(2, 3)
    assert torch.equal(soft(torch.tensor([2, 0])), table.weight[[2, 0]])
    assert soft(vectors) is vectors


def test_class_embeddings_are_the_library_rows_without_the_null_row():
    dit = tiny.dit_network()
    table = dit.transformer_blocks[0].norm1.emb.class_embedder.embedding_table.weight.detach().clone()
    assert table.shape == (tiny.CLASSES + 1, 16)  # the last row is "no class"
    assert torch.equal(DiT(dit, tiny.scheduler()).class_embeddings, table[: tiny.CLASSES])
    unet = tiny.unet_network()
    table = unet.class_embedding.weight.detach().clone()
    assert torch.equal(ClassUNet(unet, tiny.scheduler()).class_embeddings, table)
    assert table.shape == (tiny.CLASSES, 32)


def test_dit_ties_its_embedders():
    network = tiny.dit_network()
    before = sum(p.numel() for p in network.parameters())
    copy_size = sum(p.numel() for p in network.transformer_blocks[0].norm1.emb.parameters())
    diffusion = DiT(network, tiny.scheduler())
    assert sum(p.numel() for p in diffusion.network.parameters()) == before - 2 * copy_size  # 3 blocks
    assert len({id(block.norm1.emb) for block in network.transformer_blocks}) == 1


def test_a_unet_without_classes_is_refused():
    with pytest.raises(ValueError, match="num_class_embeds"):
        ClassUNet(tiny.unet_network(num_class_embeds=None), tiny.scheduler())


@pytest.mark.parametrize(("network", "wrap"), adapters())
def test_gradient_reaches_the_probabilities(network, wrap):
    """∂L/∂p inside the simplex, by autograd and by central differences in double precision."""
    diffusion = wrap(copy.deepcopy(network)).double()
    z0, noise = tiny.normal(3, 1, 8, 8, seed=1).double(), tiny.normal(3, 1, 8, 8, seed=2).double()
    table = diffusion.class_embeddings.detach()

    def loss(p):  # the adapter's loss is float32 by design; this is its formula in double
        prediction = diffusion.predict(diffusion.add_noise(z0, T, noise), T, p @ table)
        return (prediction - noise).square().mean()

    p = tiny.normal(3, tiny.CLASSES).double().softmax(1).requires_grad_()
    (grad,) = torch.autograd.grad(loss(p), p)
    assert grad.abs().min() > 0
    numeric = torch.zeros_like(grad)
    with torch.no_grad():
        for i in np.ndindex(*p.shape):
            step = torch.zeros_like(p)
            step[i] = 1e-6
            numeric[i] = (loss(p + step) - loss(p - step)) / 2e-6
    torch.testing.assert_close(grad, numeric, rtol=1e-5, atol=1e-10)
    (own,) = torch.autograd.grad(diffusion.loss(z0, T, noise, p @ table).mean(), p)
    torch.testing.assert_close(own, grad, rtol=1e-5, atol=1e-8)


# --- the official DiT ----------------------------------------------------------------------------------


def test_official_timestep_frequencies_divide_by_half_the_channels():
    """facebookresearch/DiT: cos and sin of t · 10000^(-k/128), k = 0..127; diffusers divides by 127."""
    t = torch.tensor([0, 1, 17, 500, 999])
    k = np.arange(128)

    def formula(divisor):
        angle = t.double().numpy()[:, None] * np.exp(-np.log(10000.0) * k / divisor)
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)

    for official, right, wrong in ((True, 128, 127), (False, 127, 128)):
        network = DiT(tiny.dit_network(), tiny.scheduler(), official=official).network
        for block in network.transformer_blocks:
            embedding = block.norm1.emb.time_proj(t).double().numpy()
            assert np.abs(embedding - formula(right)).max() < 2e-4  # float32 angles up to 999
            assert np.abs(embedding - formula(wrong)).max() > 0.1


def test_official_layer_norm_epsilon():
    x = tiny.normal(4, 16, seed=3) * 1e-3  # small enough that ε decides
    for official, eps in ((True, 1e-6), (False, 1e-5)):
        network = DiT(tiny.dit_network(), tiny.scheduler(), official=official).network
        expected = (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + eps).sqrt()
        for block in network.transformer_blocks:
            torch.testing.assert_close(block.norm3(x), expected, rtol=1e-4, atol=1e-6)


def test_a_network_can_be_wrapped_again_without_the_official_settings():
    network = tiny.dit_network()
    eps = network.transformer_blocks[0].norm3.eps
    DiT(network, tiny.scheduler())
    DiT(network, tiny.scheduler(), official=False)
    assert {block.norm3.eps for block in network.transformer_blocks} == {eps}


def test_learned_sigma_is_left_out():
    network = tiny.dit_network(in_channels=2, out_channels=4)
    library = copy.deepcopy(network).eval()
    diffusion = DiT(network, tiny.scheduler(), official=False)
    z_t = tiny.normal(3, 2, 8, 8)
    with torch.no_grad():
        full = library(z_t, T, class_labels=LABELS).sample
        epsilon = diffusion.predict(z_t, T, LABELS)
    assert full.shape == (3, 4, 8, 8)
    assert torch.equal(epsilon, full[:, :2])
    assert not torch.equal(epsilon, full[:, 2:])


def test_eval_mode_is_set_because_train_mode_drops_labels():
    """In train mode the library's DiT drops labels at random; the adapter's predictions never vary."""
    network, labels = tiny.dit_network().train(), torch.arange(64) % tiny.CLASSES
    z_t, t = tiny.normal(64, 1, 8, 8), torch.full((64,), 500)
    library = copy.deepcopy(network)
    with torch.no_grad():
        torch.manual_seed(0)
        first = library(z_t, t, class_labels=labels).sample
        second = library(z_t, t, class_labels=labels).sample
        assert not torch.equal(first, second)
        diffusion = DiT(network, tiny.scheduler())
        assert not diffusion.network.training
        assert torch.equal(diffusion.predict(z_t, t, labels), diffusion.predict(z_t, t, labels))


def test_dropout_is_off():
    network = tiny.unet_network(dropout=0.5).train()
    diffusion = ClassUNet(network, tiny.scheduler())
    z_t = tiny.normal(3, 1, 8, 8)
    with torch.no_grad():
        assert torch.equal(diffusion.predict(z_t, T, LABELS), diffusion.predict(z_t, T, LABELS))


# --- the forward process ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("betas", "options"), [
    (np.linspace(1e-4, 0.02, 1000), dict(beta_schedule="linear")),
    (np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2,
     dict(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)),
], ids=["the official DiT", "Stable Diffusion"])  # fmt: skip
def test_the_schedule_is_the_published_one(betas, options):
    diffusion = ClassUNet(tiny.unet_network(), tiny.scheduler(**options))
    assert diffusion.timesteps == 1000
    assert np.abs(diffusion.alphas_cumprod.double().numpy() - np.cumprod(1 - betas)).max() < 1e-6


@pytest.mark.parametrize("kind", [EulerDiscreteScheduler, PNDMScheduler, DDIMScheduler])
def test_other_schedulers_are_refused(kind):
    with pytest.raises(TypeError, match=f"DDPMScheduler, not {kind.__name__}.*from_pretrained"):
        ClassUNet(tiny.unet_network(), kind())


def test_unknown_prediction_type_is_refused():
    with pytest.raises(ValueError, match="'sample' is not supported"):
        ClassUNet(tiny.unet_network(), tiny.scheduler(prediction_type="sample"))


def test_add_noise_is_the_schedulers_and_the_formula():
    scheduler = tiny.scheduler()
    diffusion = ClassUNet(tiny.unet_network(), scheduler)
    z0, noise = tiny.normal(3, 1, 8, 8, seed=1), tiny.normal(3, 1, 8, 8, seed=2)
    z_t = diffusion.add_noise(z0, T, noise)
    torch.testing.assert_close(z_t, scheduler.add_noise(z0, noise, T), rtol=1e-6, atol=1e-7)
    alphas = torch.from_numpy(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[T].view(3, 1, 1, 1)
    torch.testing.assert_close(z_t.double(), alphas.sqrt() * z0 + (1 - alphas).sqrt() * noise, rtol=1e-5, atol=1e-5)


def test_targets():
    z0, noise = tiny.normal(3, 1, 8, 8, seed=1), tiny.normal(3, 1, 8, 8, seed=2)
    assert torch.equal(ClassUNet(tiny.unet_network(), tiny.scheduler()).target(z0, T, noise), noise)
    scheduler = tiny.scheduler(prediction_type="v_prediction")
    v = ClassUNet(tiny.unet_network(), scheduler).target(z0, T, noise)
    torch.testing.assert_close(v, scheduler.get_velocity(z0, noise, T), rtol=1e-6, atol=1e-7)
    assert not torch.allclose(v, noise)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_loss_is_a_loop_over_samples(norm, prediction):
    """Each sample alone through the library: noised, predicted, compared, averaged over its elements."""
    scheduler = tiny.scheduler(prediction_type=prediction)
    network = tiny.unet_network()
    library = copy.deepcopy(network).eval()
    diffusion = ClassUNet(network, scheduler)
    z0, noise = tiny.normal(3, 1, 8, 8, seed=1), tiny.normal(3, 1, 8, 8, seed=2)
    with torch.no_grad():
        losses = diffusion.loss(z0, T, noise, LABELS, norm)
        for n in range(3):
            one = slice(n, n + 1)
            z_t = scheduler.add_noise(z0[one], noise[one], T[one])
            target = noise[one] if prediction == "epsilon" else scheduler.get_velocity(z0[one], noise[one], T[one])
            error = (library(z_t, T[one], class_labels=LABELS[one]).sample - target).double().numpy()
            expected = np.abs(error).mean() if norm == "l1" else (error**2).mean()
            assert losses[n].item() == pytest.approx(expected, rel=1e-5)
    assert losses.shape == (3,)
    assert losses.dtype == torch.float32


HALF = {  # a model of each family, the channels of its images, and a condition for three of them
    "unet": (lambda: tiny.diffusion("unet"), 1, LABELS),
    "dit": (lambda: tiny.diffusion("dit"), 1, tiny.normal(3, 16, seed=3)),
    "map": (lambda: tiny.concat_unet(2), 3, tiny.normal(3, 2, 8, 8, seed=3)),
    "text": (lambda: tiny.text_unet(sample_size=8), 3, tiny.normal(3, 7, 16, seed=3)),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("whole", [False, True], ids=["network", "whole model"])
@pytest.mark.parametrize("family", HALF)
def test_a_half_precision_network_takes_float32_images(family, whole, dtype):
    """The loss is float32 and near that of the same weights in float32, also where ᾱ rounds to 1 in half precision."""
    make, channels, c = HALF[family]
    plain, half = make(), make()
    (half if whole else half.network).to(dtype)
    z0, noise = tiny.normal(3, channels, 8, 8, seed=1), tiny.normal(3, channels, 8, 8, seed=2)
    c = c.requires_grad_() if c.is_floating_point() else c
    t = torch.tensor([0, 5, 500])
    losses, expected = half.loss(z0, t, noise, c), plain.loss(z0, t, noise, c)
    assert losses.dtype == half.alphas_cumprod.dtype == torch.float32
    torch.testing.assert_close(losses, expected, rtol=0.05, atol=0.02)
    losses.sum().backward()
    assert not c.requires_grad or (c.grad.dtype == torch.float32 and c.grad.flatten(1).abs().sum(1).gt(0).all())


def test_a_unet_that_learnt_its_variance_is_read_as_noise():
    for diffusion, channels, c in [
        (ClassUNet(tiny.unet_network(out_channels=2), tiny.scheduler()), 1, LABELS),
        (tiny.text_unet(sample_size=8, out_channels=6), 3, tiny.normal(3, 7, 16)),
    ]:
        z_t = tiny.normal(3, channels, 8, 8)
        with torch.no_grad():
            full, epsilon = diffusion.output(z_t, T, c), diffusion.predict(z_t, T, c)
            assert full.shape[1] == 2 * channels and torch.equal(epsilon, full[:, :channels])
            assert diffusion.loss(z_t, T, z_t, c).shape == (3,)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_weighted_losses_are_those_of_the_denoised_image(prediction, schedule):
    """Up to one factor for all t; the images are the library's, and so is the signal-to-noise ratio."""
    scheduler = tiny.scheduler(beta_schedule=schedule, prediction_type=prediction, clip_sample=False)
    diffusion = ClassUNet(tiny.unet_network(), scheduler)
    t = torch.tensor([10, 100, 300, 500, 700, 900])
    z0, noise, labels = tiny.normal(6, 1, 8, 8, seed=1), tiny.normal(6, 1, 8, 8, seed=2), torch.arange(6) % 5
    with torch.no_grad():
        z_t = diffusion.add_noise(z0, t, noise)
        predictions = diffusion.predict(z_t, t, labels)
        denoised = [
            scheduler.step(predictions[i], int(t[i]), z_t[i]).pred_original_sample.double() for i in range(len(t))
        ]
        losses = diffusion.loss(z0, t, noise, labels).double()
    errors = (torch.stack(denoised) - z0).square().mean((1, 2, 3))
    snr = compute_snr(scheduler, t).double()
    torch.testing.assert_close(diffusion.snr(t).double(), snr, rtol=1e-3, atol=0)
    for weighting, expected in {"snr": errors, "min-snr": errors * snr.clamp(max=5)}.items():
        factors = expected / (diffusion.weight(t, weighting).double() * losses)
        torch.testing.assert_close(factors, factors.mean().expand(6), rtol=1e-3, atol=0)
        weights = diffusion.weight(torch.arange(1000), weighting, 0.2, 0.8)
        assert weights[200:800].mean().item() == pytest.approx(1, rel=1e-5)


def test_the_base_class_predicts_nothing():
    with pytest.raises(NotImplementedError):
        Diffusion(tiny.unet_network(), tiny.scheduler()).predict(tiny.normal(3, 1, 8, 8), T, LABELS)


# --- images to z0 ----------------------------------------------------------------------------------------


def test_pixels_are_moved_to_minus_one_and_one():
    diffusion = ClassUNet(tiny.unet_network(), tiny.scheduler())
    image = tiny.images(2)
    assert diffusion.image_size == 8
    torch.testing.assert_close(diffusion.encode(image), image * 2 - 1)


def test_images_of_another_size_are_resized():
    diffusion = ClassUNet(tiny.unet_network(), tiny.scheduler())
    blocks = tiny.images(1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    z0 = diffusion.encode(blocks)
    assert z0.shape == (1, 1, 8, 8)
    assert diffusion.encode(torch.full((1, 1, 40, 24), 0.75)).sub(0.5).abs().max() < 1e-6
    # antialiased: a checkerboard shrinks to grey, not to one of its colours
    board = (torch.arange(32)[:, None] + torch.arange(32)).remainder(2).float()[None, None]
    assert diffusion.encode(board).abs().max() < 0.05


@pytest.mark.parametrize("scaling", [0.18215, 0.13025])
def test_latents_are_the_posterior_mean_times_the_vaes_own_factor(scaling):
    autoencoder = stand_ins.vae(scaling=scaling)
    network = tiny.dit_network(in_channels=4, out_channels=4)
    diffusion = DiT(network, tiny.scheduler(), copy.deepcopy(autoencoder).train())
    assert diffusion.image_size == 16  # 8 latent pixels, one halving
    image = tiny.images(2, channels=3, size=16)
    autoencoder.eval().requires_grad_(False)  # as it is inside: weights that ask for gradients may take another kernel
    with torch.no_grad():
        moments = autoencoder.quant_conv(autoencoder.encoder(image * 2 - 1))
    assert torch.equal(diffusion.encode(image), moments[:, :4] * scaling)  # channels 4..7: the log variance
    assert torch.equal(diffusion.encode(image), diffusion.encode(image))  # the mean: nothing is sampled
    assert diffusion.encode(tiny.images(1, channels=3, size=20)).shape == (1, 4, 8, 8)
    assert not any(p.requires_grad for p in diffusion.vae.parameters())
    assert not diffusion.vae.training


def test_encoding_asks_for_no_gradient():
    diffusion = DiT(tiny.dit_network(in_channels=4, out_channels=4), tiny.scheduler(), stand_ins.vae())
    assert not diffusion.encode(tiny.images(1, channels=3, size=16).requires_grad_()).requires_grad


# --- maps and text ---------------------------------------------------------------------------------------


def test_concat_unet_is_the_library_on_stacked_channels():
    network = tiny.unet_network(in_channels=1 + 3, num_class_embeds=None)
    library: UNet2DModel = copy.deepcopy(network).eval()
    diffusion = ConcatUNet(network, tiny.scheduler())
    z_t, c = tiny.normal(3, 1, 8, 8), tiny.normal(3, 3, 8, 8, seed=1)
    with torch.no_grad():
        assert torch.equal(diffusion.predict(z_t, T, c), library(torch.cat([z_t, c], 1), T).sample)
        # a map of another size is resized to z0: blocks of equal pixels shrink to those pixels' mean
        small = F.avg_pool2d(tiny.normal(3, 3, 16, 16, seed=2), 2)
        large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
        near = diffusion.predict(z_t, T, F.interpolate(large, (8, 8), mode="bilinear", antialias=True))
        torch.testing.assert_close(diffusion.predict(z_t, T, large), near)
    c.requires_grad_()
    diffusion.loss(z_t, T, z_t, c).sum().backward()
    assert (c.grad.flatten(1).abs().sum(1) > 0).all()


def unshuffled(maps: torch.Tensor, patch: int) -> torch.Tensor:
    """Squares of patch x patch pixels laid out as channels: channel, then row, then column within the square."""
    N, C, H, W = maps.shape
    squares = maps.view(N, C, H // patch, patch, W // patch, patch)
    return squares.permute(0, 1, 3, 5, 2, 4).reshape(N, C * patch**2, H // patch, W // patch)


@pytest.mark.parametrize("patch", [1, 2])
def test_concat_unet_works_on_squares_of_pixels(patch):
    """The library's UNet on noisy image and map, cut into squares, its answer laid out as pixels again."""
    diffusion = tiny.concat_unet(2, patch=patch)
    library = copy.deepcopy(diffusion.network)
    z_t, c = tiny.normal(3, 3, 8, 8), tiny.normal(3, 2, 8, 8, seed=1)
    with torch.no_grad():
        squares = library(unshuffled(torch.cat([z_t, c], 1), patch), T).sample
        expected = torch.zeros(3, 3, 8, 8)
        for channel, i, j in np.ndindex(3, patch, patch):
            expected[:, channel, i::patch, j::patch] = squares[:, (channel * patch + i) * patch + j]
        prediction = diffusion.predict(z_t, T, c)
    torch.testing.assert_close(prediction, expected, rtol=0, atol=1e-6)
    assert diffusion.image_size == 8 == patch * diffusion.network.config.sample_size
    assert diffusion.encode(tiny.images(2, channels=3, size=12)).shape == (2, 3, 8, 8)


def test_the_loss_of_squares_is_per_pixel():
    """z0 and ε keep their form; each sample's loss is the mean over its pixels, and reaches the map."""
    diffusion = tiny.concat_unet(2)
    z0, noise = tiny.normal(3, 3, 8, 8), tiny.normal(3, 3, 8, 8, seed=2)
    c = tiny.normal(3, 2, 8, 8, seed=1).requires_grad_()
    losses = diffusion.loss(z0, T, noise, c)
    with torch.no_grad():
        error = diffusion.predict(diffusion.add_noise(z0, T, noise), T, c) - noise
    torch.testing.assert_close(losses.detach(), error.square().mean(dim=(1, 2, 3)))
    losses.sum().backward()
    assert (c.grad.abs().sum(1) > 0).all()


def test_a_table_of_class_embeddings_belongs_to_phi():
    diffusion = tiny.concat_unet(3, classes=tiny.CLASSES)
    assert diffusion.class_embeddings.shape == (tiny.CLASSES, 3)
    assert any(p is diffusion.class_embeddings for p in diffusion.network.parameters())
    assert any(p is diffusion.class_embeddings for p in select(diffusion.network))
    assert "network.pixel_embedding.weight" in diffusion.state_dict()
    assert not hasattr(tiny.concat_unet(3).network, "pixel_embedding")


def test_wrapping_a_unet_with_a_table_again_keeps_the_table():
    once = tiny.concat_unet(3, classes=tiny.CLASSES)
    before = once.class_embeddings.detach().clone()
    again = ConcatUNet(once.network, tiny.scheduler(), patch=2, classes=tiny.CLASSES, dimension=3)
    assert torch.equal(again.class_embeddings, before)


def test_text_unet_is_the_library_under_cross_attention():
    network = tiny.text_unet(sample_size=8, in_channels=4, out_channels=4).network
    library = copy.deepcopy(network).eval()
    diffusion = TextUNet(network, tiny.scheduler())
    z_t, text = tiny.normal(3, 4, 8, 8), tiny.normal(3, 7, 16, seed=1)
    with torch.no_grad():
        expected = library(z_t, T, encoder_hidden_states=text).sample
        assert torch.equal(diffusion.predict(z_t, T, text), expected)
        assert not torch.equal(diffusion.predict(z_t, T, text.flip(0)), expected)


# --- a DiT's embedder, once a pass ------------------------------------------------------------------------------------


def embedder_calls(diffusion, monkeypatch) -> list:
    calls, embedder = [], diffusion.network.transformer_blocks[0].norm1.emb.timestep_embedder
    original = embedder.forward
    monkeypatch.setattr(embedder, "forward", lambda *args: (calls.append(1), original(*args))[1])
    return calls


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_embedding_computed_once_gives_the_bits_of_one_in_each_block(monkeypatch, precision):
    """Loss and gradient at c against diffusers' forward, in which every block and the output layer embed t and c."""
    diffusion = DiT(tiny.dit_network(), tiny.scheduler())
    calls = embedder_calls(diffusion, monkeypatch)
    z0, noise, t = tiny.normal(4, 1, 8, 8, seed=1), tiny.normal(4, 1, 8, 8, seed=2), torch.tensor([0, 10, 500, 999])
    results = []
    for fixed in (True, False):
        diffusion.network.requires_grad_(not fixed)  # where φ is adapted, each block has the embedder in its graph
        c = tiny.normal(4, 16, seed=3).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = diffusion.loss(z0, t, noise, c)
        loss.sum().backward()
        results.append((loss.detach(), c.grad, len(calls)))
        calls.clear()
    (once, once_grad, one), (each, each_grad, many) = results
    assert (one, many) == (1, len(diffusion.network.transformer_blocks) + 1)
    assert torch.equal(once, each) and torch.equal(once_grad, each_grad)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        assert torch.equal(diffusion.loss(z0, t, noise, c.detach()), each) and len(calls) == 1
    labels = torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        expected = diffusion.network(z0, t, class_labels=labels).sample
        assert torch.equal(diffusion.output(z0, t, labels), expected)


def test_a_checkpoint_whose_blocks_have_different_embedders_is_refused(tmp_path):
    network = tiny.dit_network()
    network.save_pretrained(tmp_path / "tied")
    DiT(DiTTransformer2DModel.from_pretrained(tmp_path / "tied"), tiny.scheduler())
    with torch.no_grad():
        network.transformer_blocks[2].norm1.emb.timestep_embedder.linear_2.bias[0] += 1e-3
    network.save_pretrained(tmp_path / "untied")
    with pytest.raises(ValueError, match="untied have different class and timestep embedders, not one for all"):
        DiT(DiTTransformer2DModel.from_pretrained(tmp_path / "untied"), tiny.scheduler())

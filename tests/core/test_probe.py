"""Losses under several conditions: against the formula, pair by pair."""

from __future__ import annotations

import pytest
import torch

from dtta.core.probe import losses_by_timestep, losses_under
from dtta.core.sampling import Sampling
from tests import tiny


@pytest.mark.parametrize("family", ["unet", "dit"])
def test_losses_are_the_formula(family):
    diffusion, image = tiny.diffusion(family), tiny.images(5)
    embedding = diffusion.class_embeddings
    conditions = [embedding[[0, 1, 2, 0, 1]], embedding[[1, 2, 0, 1, 2]]]
    sampling = Sampling("stratified", t_min=0.2, t_max=0.7)
    found = losses_under(diffusion, image, conditions, 3, sampling, seed=4, batch=2)
    z0 = diffusion.encode(image)
    t, noise = sampling.draw(z0, 3, diffusion.timesteps, torch.Generator().manual_seed(4))
    for n in range(5):
        for k, c in enumerate(conditions):
            one = [diffusion.loss(z0[n : n + 1], t[n, b, None], noise[n, b, None], c[n : n + 1]) for b in range(3)]
            assert found[n, k].item() == pytest.approx(torch.cat(one).mean().item(), rel=1e-4)
    assert not found.requires_grad


def test_importance_sampling_is_corrected_by_its_weight():
    diffusion, image = tiny.diffusion(), tiny.images(2)
    c = diffusion.class_embeddings[[0, 1]]
    sampling = Sampling(t_density=(1, 3))
    z0 = diffusion.encode(image)
    t, noise = sampling.draw(z0, 4, diffusion.timesteps, torch.Generator().manual_seed(0))
    losses = torch.stack([diffusion.loss(z0, t[:, b], noise[:, b], c) for b in range(4)], dim=1)
    expected = (losses * torch.where(t < diffusion.timesteps / 2, 2.0, 2 / 3)).mean(1)
    torch.testing.assert_close(losses_under(diffusion, image, [c], 4, sampling)[:, 0], expected)


def test_all_conditions_meet_the_same_noise():
    diffusion, image = tiny.diffusion(), tiny.images(3)
    c = diffusion.class_embeddings[[0, 1, 2]]
    found = losses_under(diffusion, image, [c, c.clone(), c.flip(0)])
    assert torch.equal(found[:, 0], found[:, 1]) and not torch.equal(found[:, 0], found[:, 2])
    assert torch.equal(found, losses_under(diffusion, image, [c, c, c.flip(0)]))
    assert not torch.equal(found, losses_under(diffusion, image, [c, c, c.flip(0)], seed=1))


def test_images_that_cannot_be_measured_are_refused():
    diffusion, image = tiny.diffusion(), tiny.images(1)
    c = diffusion.class_embeddings[[0]]
    for wrong, message in ((255 * image, r"must lie in \[0, 1\]"), (image / 0, "NaN or infinite")):
        with pytest.raises(ValueError, match=message):
            losses_under(diffusion, wrong, [c])
    with pytest.raises(ValueError, match="samples must be a whole number of at least 1, not 0"):
        losses_under(diffusion, image, [c], samples=0)


def test_a_model_in_train_mode_is_measured_in_eval_mode():
    diffusion, image = tiny.diffusion("dit"), tiny.images(1)
    c = diffusion.class_embeddings[[0]]
    expected = losses_under(diffusion, image, [c])
    assert torch.equal(losses_under(diffusion.train(), image, [c]), expected) and not diffusion.training


def test_a_condition_for_other_images_is_refused():
    diffusion = tiny.diffusion()
    with pytest.raises(ValueError, match="each condition must be for all 3 images, not for 2"):
        losses_under(diffusion, tiny.images(3), [diffusion.class_embeddings[[0, 1]]])


def test_losses_by_timestep_are_those_of_each_part():
    diffusion, image = tiny.diffusion(), tiny.images(2)
    conditions = [diffusion.class_embeddings[[0, 1]], diffusion.class_embeddings[[2, 3]]]
    t, losses = losses_by_timestep(diffusion, image, conditions, samples=2, parts=4, seed=3)
    assert t.tolist() == [125, 375, 625, 875] and losses.shape == (2, 2, 4)
    third = losses_under(diffusion, image, conditions, 2, Sampling("stratified", t_min=0.5, t_max=0.75), seed=3)
    assert torch.equal(losses[:, :, 2], third)

"""Test-time augmentation against the mean written out."""

from __future__ import annotations

import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dtta.methods.augmentation import AugmentationMean, back, views


def colour(n: int = 1, seed: int = 0, size: int = 16) -> torch.Tensor:
    return tiny.images(n, seed=seed, channels=3, size=size)


@torch.no_grad()
def test_depth_is_the_mean_of_the_answer_and_the_mirrored_one():
    model, image = tiny.dense("depth"), colour(2)
    answer = AugmentationMean(model, probabilities=False)(image)
    torch.testing.assert_close(answer, (model(image) + model(image.flip(3)).flip(3)) / 2)
    assert answer.shape == (2, 1, 16, 16)


@torch.no_grad()
def test_segmentation_is_the_mean_probability_over_mirror_and_scales():
    model, image = tiny.dense("segmentation"), colour(2)
    total = torch.zeros(2, tiny.CLASSES, 16, 16)
    for side in (16, 32, 8):
        view = F.interpolate(image, (side, side), mode="bilinear", antialias=True) if side != 16 else image
        for mirrored in (False, True):
            p = model(view.flip(3) if mirrored else view).softmax(1)
            p = p.flip(3) if mirrored else p
            total += F.interpolate(p, (16, 16), mode="bilinear") if side != 16 else p
    answer = AugmentationMean(model, scales=(1, 2, 0.5))(image)
    torch.testing.assert_close(answer.exp(), total / 6, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(answer.softmax(1), total / 6, rtol=1e-5, atol=1e-6)  # as logits they say the same


@given(st.integers(0, 1000))
@torch.no_grad()
def test_the_mirrored_image_has_the_mirrored_answer(seed):
    image = colour(seed=seed, size=8)
    for model, options in ((tiny.dense("depth"), dict(probabilities=False)), (tiny.dense("segmentation"), {})):
        method = AugmentationMean(model, **options)
        torch.testing.assert_close(method(image.flip(3)), method(image).flip(3), rtol=1e-5, atol=1e-5)
        assert not torch.allclose(model(image.flip(3)), model(image).flip(3), atol=1e-3)  # alone it is not so


@torch.no_grad()
def test_a_network_that_is_symmetric_gives_its_own_answer():
    model, image = nn.Conv2d(3, tiny.CLASSES, 1), colour()
    torch.testing.assert_close(AugmentationMean(model, probabilities=False)(image), model(image))
    torch.testing.assert_close(AugmentationMean(model)(image), model(image).log_softmax(1))


@given(st.lists(st.floats(0.1, 4), min_size=1, max_size=4), st.integers(1, 6), st.integers(1, 6))
def test_views_are_pairs_of_mirrors_in_multiples_of_eight(scales, rows, columns):
    image = torch.rand(1, 3, 8 * rows, 8 * columns)
    found = views(image, scales)
    assert len(found) == 2 * len(scales)
    for i, view in enumerate(found):
        scale = scales[i // 2]
        for side, whole in zip(view.shape[-2:], image.shape[-2:], strict=True):
            assert side >= 8 and side % 8 == 0
            assert abs(side - scale * whole) <= 4 + 1e-6 or side == 8
        assert view.min() >= 0 and view.max() <= 1
        assert torch.equal(found[i ^ 1], view.flip(3))
        assert back(view, i, image.shape[-2:]).shape == image.shape
    assert torch.equal(views(image)[0], image)


def test_the_image_itself_comes_back_from_each_view():
    """Smooth images survive being enlarged and shrunk."""
    image = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    for i, view in enumerate(views(image, (1, 2, 1.5))):
        torch.testing.assert_close(back(view, i, (32, 32)), image, rtol=0, atol=0.02)


def test_the_model_is_put_in_eval_mode_and_left_alone():
    model = tiny.dense("depth").train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    method = AugmentationMean(model, probabilities=False)
    assert not model.training
    assert not method(colour()).requires_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("scales", [(), (0,), (1, -2), (float("nan"),), (1, float("inf"))])
def test_scales_out_of_range(scales):
    with pytest.raises(ValueError, match="scales must be positive numbers"):
        AugmentationMean(tiny.dense("depth"), scales)

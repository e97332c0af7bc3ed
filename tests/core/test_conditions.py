"""Conditions against loops over samples, classes and pixels, and their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from dtta.core.conditions import ClassMixture, DepthMap, PixelMixture, RelativeDepth, Tempered

SCALES = ("linear", "log", "inverse")


def softmax(row: np.ndarray) -> np.ndarray:
    e = np.exp(row - row.max())
    return e / e.sum()


# --- one vector per class --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(7,), (4, 7)], ids=["vectors", "token sequences"])
def test_class_mixture_is_a_loop(shape):
    """c_n = Σ_j y_nj l_j; token sequences, as of a text-to-image model, are mixed token by token."""
    logits, l = tiny.normal(3, 5, seed=1), tiny.normal(5, *shape, seed=2)
    c = ClassMixture(l)(logits)
    assert c.shape == (3, *shape)
    assert c.dtype == torch.float32
    for n in range(3):
        y = softmax(logits[n].double().numpy())
        expected = sum(y[j] * l[j].double().numpy() for j in range(5))
        np.testing.assert_allclose(c[n].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (4, 7)])
def test_a_certain_network_gets_its_class_row(shape):
    l = tiny.normal(5, *shape)
    logits = torch.full((2, 5), -1e4)
    logits[0, 3] = logits[1, 0] = 1e4
    assert torch.equal(ClassMixture(l)(logits), l[[3, 0]])


def test_class_mixture_gradient():
    """∂c/∂logit_k = y_k (l_k - c), the softmax's own derivative."""
    logits, l = tiny.normal(1, 5, seed=1).requires_grad_(), tiny.normal(5, 3, seed=2)
    c = ClassMixture(l)(logits)
    y = logits.detach().softmax(1)[0]
    for d in range(3):
        (grad,) = torch.autograd.grad(c[0, d], logits, retain_graph=True)
        torch.testing.assert_close(grad[0], y * (l[:, d] - c[0, d].detach()), rtol=1e-4, atol=1e-6)


def test_half_precision_logits_are_mixed_in_float32():
    logits, l = tiny.normal(2, 5).bfloat16(), tiny.normal(5, 3, seed=1).bfloat16()
    c = ClassMixture(l)(logits)
    assert c.dtype == torch.float32
    assert torch.equal(c, ClassMixture(l.float())(logits.float()))


def test_a_function_gives_the_present_embeddings():
    """Where φ moves, each step must see the moved table, and the gradient must reach it."""
    table = torch.nn.Parameter(tiny.normal(5, 3))
    mixture = ClassMixture(lambda: table)
    logits = tiny.normal(2, 5, seed=1)
    before = mixture(logits)
    with torch.no_grad():
        table += 1
    torch.testing.assert_close(mixture(logits), before + 1)
    mixture(logits).sum().backward()
    torch.testing.assert_close(table.grad, logits.softmax(1).sum(0)[:, None].expand(5, 3))


@pytest.mark.parametrize("shape", [(5,), (2, 4), (2, 6), (2, 5, 8, 8)])
def test_class_mixture_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"5 class embeddings need logits of shape \(N, 5\), not \("):
        ClassMixture(tiny.normal(5, 3))(torch.zeros(shape))


logit = st.floats(-20, 20, allow_nan=False, width=32)
rows = st.lists(logit, min_size=5, max_size=5)


@given(rows)
def test_a_mixture_lies_in_the_convex_hull(row):
    """Mixing the corners of the simplex gives the weights back: none negative, together one."""
    y = ClassMixture(torch.eye(5))(torch.tensor([row]))[0]
    assert (y >= 0).all()
    assert y.sum().item() == pytest.approx(1, abs=1e-5)
    l = tiny.normal(5, 3)
    c = ClassMixture(l)(torch.tensor([row]))[0]
    torch.testing.assert_close(c, y @ l, rtol=1e-5, atol=1e-5)
    assert (c <= l.max(0).values + 1e-5).all()
    assert (c >= l.min(0).values - 1e-5).all()


# --- one vector per pixel --------------------------------------------------------------------------------


def test_pixel_mixture_is_a_loop_over_pixels():
    logits, l = tiny.normal(2, 4, 3, 5, seed=1), tiny.normal(4, 6, seed=2)
    c = PixelMixture(l)(logits)
    assert c.shape == (2, 6, 3, 5)
    assert c.dtype == torch.float32
    for n, i, j in np.ndindex(2, 3, 5):
        y = softmax(logits[n, :, i, j].double().numpy())
        np.testing.assert_allclose(c[n, :, i, j].numpy(), y @ l.double().numpy(), rtol=1e-5, atol=1e-6)


def test_a_certain_network_gets_the_row_of_each_pixels_class():
    """One-hot beliefs look the embedding up, pixel by pixel."""
    classes, l = torch.randint(4, (2, 3, 5)), tiny.normal(4, 6)
    logits = 2e4 * (torch.nn.functional.one_hot(classes, 4).movedim(-1, 1) - 0.5)
    assert torch.equal(PixelMixture(l)(logits), l[classes].movedim(-1, 1))


def test_pixel_mixture_gradient_stays_at_its_pixel():
    logits = tiny.normal(1, 4, 3, 3).requires_grad_()
    PixelMixture(tiny.normal(4, 6))(logits)[0, :, 1, 2].sum().backward()
    reached = logits.grad.abs().sum(1)[0] > 0
    assert reached[1, 2]
    assert reached.sum() == 1


@pytest.mark.parametrize("shape", [(2, 4), (4, 3, 3), (2, 5, 3, 3)])
def test_pixel_mixture_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"4 class embeddings need logits of shape \(N, 4, H, W\), not \("):
        PixelMixture(tiny.normal(4, 3))(torch.zeros(shape))


# --- depth -----------------------------------------------------------------------------------------------


def test_depth_is_moved_to_minus_one_and_one():
    depth = torch.tensor([[[2.0, 6.0], [4.0, 3.0]]])
    assert torch.equal(DepthMap(2, 6)(depth), torch.tensor([[[[-1.0, 1.0], [0.0, -0.5]]]]))


def test_inverse_depth_is_linear_in_one_over_depth():
    depth = torch.tensor([[[[2.0, 6.0], [3.0, 4.0]]]])
    c = DepthMap(2, 6, "inverse")(depth)
    for value, got in zip(depth.flatten().tolist(), c.flatten().tolist(), strict=True):
        expected = -1 + 2 * (1 / value - 1 / 6) / (1 / 2 - 1 / 6)
        assert math.isclose(got, expected, abs_tol=1e-5)
    assert c[0, 0, 0, 0] == pytest.approx(1)
    assert c[0, 0, 0, 1] == pytest.approx(-1)


def test_log_depth_is_linear_in_the_logarithm():
    """Equal ratios are equal steps: from 2 to 4 as from 4 to 8."""
    depth = torch.tensor([[[[2.0, 4.0], [8.0, 3.0]]]])
    c = DepthMap(2, 8, "log")(depth)
    for value, got in zip(depth.flatten().tolist(), c.flatten().tolist(), strict=True):
        assert math.isclose(got, -1 + 2 * (math.log(value) - math.log(2)) / (math.log(8) - math.log(2)), abs_tol=1e-6)
    assert c.flatten()[:3].tolist() == pytest.approx([-1, 0, 1], abs=1e-6)


@given(st.sampled_from(SCALES), st.lists(st.floats(0.125, 50, width=32), min_size=2, max_size=8, unique=True))
def test_every_scale_stays_within_its_bounds_and_keeps_the_order(scale, values):
    """The nearest at one end, the farthest at the other, and never two the wrong way round."""
    near, far = 0.5, 20.0
    depth = torch.tensor(sorted(values)).view(1, 1, 1, -1)
    c = DepthMap(near, far, scale)(depth).flatten()
    assert (c.abs() <= 1 + 1e-6).all()
    steps = c.diff() * (-1 if scale == "inverse" else 1)
    assert (steps >= 0).all()
    inside = (depth.flatten() >= near) & (depth.flatten() <= far)
    apart = depth.flatten().diff() > 1e-2  # in float32 neighbours may coincide
    assert (steps[inside[1:] & inside[:-1] & apart] > 0).all()
    ends = DepthMap(near, far, scale)(torch.tensor([[[near, far]]])).flatten()
    assert ends.tolist() == pytest.approx([1, -1] if scale == "inverse" else [-1, 1], abs=1e-6)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be 'linear', 'log' or 'inverse', not 'cubic'"):
        DepthMap(2, 6, "cubic")


@pytest.mark.parametrize("scale", SCALES)
def test_depth_outside_the_range_is_clamped(scale):
    condition = DepthMap(2, 6, scale)
    assert torch.equal(condition(torch.tensor([[[0.0, 100.0]]])), condition(torch.tensor([[[2.0, 6.0]]])))


def test_both_layouts_of_a_depth_map_agree():
    depth = tiny.images(2)[:, 0] * 4 + 2
    assert torch.equal(DepthMap(2, 6)(depth), DepthMap(2, 6)(depth[:, None]))
    assert DepthMap(2, 6)(depth).shape == (2, 1, 8, 8)


def test_depth_gradient():
    depth = torch.tensor([[[3.0, 5.0]]], requires_grad=True)
    DepthMap(2, 6)(depth).sum().backward()
    assert torch.equal(depth.grad, torch.full_like(depth, 0.5))  # 2 / (6 - 2)
    depth.grad = None
    DepthMap(2, 6, "inverse")(depth).sum().backward()
    torch.testing.assert_close(depth.grad, -2 / (depth.detach() ** 2 * (1 / 2 - 1 / 6)))
    depth.grad = None
    DepthMap(2, 6, "log")(depth).sum().backward()
    torch.testing.assert_close(depth.grad, 2 / (depth.detach() * math.log(3)))


@pytest.mark.parametrize(("near", "far"), [(0, 1), (3, 2), (2, 2), (-1, 1)])
def test_a_range_of_depths_must_be_one(near, far):
    with pytest.raises(ValueError, match="0 < near < far"):
        DepthMap(near, far)


@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 4, 4)])
def test_depth_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"depth must have shape \(N, 1, H, W\) or \(N, H, W\), not \("):
        DepthMap(1, 2)(torch.ones(shape))


def test_a_milder_belief_is_that_of_logits_divided():
    l, logits = tiny.normal(4, 3), tiny.normal(2, 4, seed=1)
    milder = Tempered(ClassMixture(l), 2.5)
    torch.testing.assert_close(milder(logits), (logits / 2.5).softmax(1) @ l)
    assert torch.equal(Tempered(ClassMixture(l), 1.0)(logits), ClassMixture(l)(logits))


def test_a_sure_network_hears_more_through_a_milder_belief():
    l, logits = tiny.normal(4, 3), torch.tensor([[12.0, 0.0, 0.0, 0.0]], requires_grad=True)
    pushes = [
        torch.autograd.grad(c(logits).sum(), logits)[0].abs().sum()
        for c in (ClassMixture(l), Tempered(ClassMixture(l), 4))
    ]
    assert pushes[1] > 50 * pushes[0] > 0


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_a_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        Tempered(ClassMixture(tiny.normal(4, 3)), temperature)


# --- relative depth -------------------------------------------------------------------------------------


def test_relative_depth_is_inverse_depth_stretched_over_each_image():
    depth = torch.tensor([[[[1.0, 2.0], [4.0, 0.1]]], [[[5.0, 10.0], [20.0, 10.0]]]])
    c = RelativeDepth(0.5, 10)(depth)
    assert c.shape == (2, 3, 2, 2)
    first = (1 / torch.tensor([[1.0, 2.0], [4.0, 0.5]]) - 0.25) / (2 - 0.25)  # 0.1 is cut to 0.5
    for channel in range(3):
        torch.testing.assert_close(c[0, channel], first)
        torch.testing.assert_close(c[1, channel], torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # 20 is cut to 10
    assert torch.equal(RelativeDepth(0.5, 10)(depth[:, 0]), c)


def test_relative_depth_hears_no_scale_and_bears_a_flat_map():
    depth = 1 + 3 * tiny.images(2)
    condition = RelativeDepth(0.1, 100)
    torch.testing.assert_close(condition(depth), condition(depth * 3), atol=1e-5, rtol=1e-5)
    flat = torch.full((1, 1, 4, 4), 3.0, requires_grad=True)
    condition(flat).sum().backward()
    assert flat.grad.isfinite().all()
    depth.requires_grad_()
    condition(depth)[..., 1:, :].square().sum().backward()
    assert (depth.grad.abs().sum((1, 2, 3)) > 0).all()
    with pytest.raises(ValueError, match="0 < near < far"):
        RelativeDepth(2, 1)
    with pytest.raises(ValueError, match="depth must have shape"):
        condition(torch.ones(3, 3))

"""The (t, ε) pairs: ranges, strata, mirrors, laws and errors."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dtta.core.diffusion import ClassUNet
from dtta.core.sampling import NOISE, TIMESTEPS, Sampling, timestep_range

Z0 = torch.zeros(2, 1, 4, 4)


def draw(sampling: Sampling, samples: int, T: int = 1000, seed: int = 0, z0: torch.Tensor = Z0):
    return sampling.draw(z0, samples, T, torch.Generator().manual_seed(seed))


schemes = st.sampled_from(TIMESTEPS)
counts, seeds, horizons = st.integers(1, 60), st.integers(0, 2**31), st.sampled_from([1, 7, 50, 1000])


@given(schemes, st.sampled_from(NOISE), counts, horizons, seeds)
def test_shapes_types_and_ranges(timesteps, noise, samples, T, seed):
    z0 = torch.zeros(3, 2, 4, 5)
    t, eps = draw(Sampling(timesteps, noise), samples, T, seed, z0)
    assert t.shape == (3, samples)
    assert t.dtype == torch.int64
    assert t.min() >= 0
    assert t.max() <= T - 1
    assert eps.shape == (3, samples, 2, 4, 5)
    assert eps.dtype == z0.dtype
    assert eps.isfinite().all()


@given(schemes, counts, st.floats(0, 0.9), st.floats(0.05, 1), seeds)
def test_low_and_high_are_respected(timesteps, samples, low, width, seed):
    high = min(1.0, low + width)
    t, _ = draw(Sampling(timesteps, t_min=low, t_max=high), samples, 1000, seed)
    assert t.min() >= int(low * 1000) - 1e-3
    assert t.max() <= high * 1000


@given(st.integers(1, 60), st.sampled_from([(0.0, 1.0), (0.25, 0.75)]), seeds)
def test_stratified_has_one_timestep_in_each_part(samples, span, seed):
    low, high = span
    t, _ = draw(Sampling("stratified", t_min=low, t_max=high), samples, 100_000, seed)
    edges = (low + np.arange(samples + 1) / samples * (high - low)) * 100_000
    for row in t.sort(1).values.numpy():
        assert (row >= np.floor(edges[:-1]) - 1).all()
        assert (row <= np.ceil(edges[1:]) + 1).all()


def test_as_many_strata_as_timesteps_visit_each_timestep_once():
    t, _ = draw(Sampling("stratified"), 100, 100)
    assert torch.equal(t.sort(1).values, torch.arange(100).expand(2, 100))


@given(st.integers(2, 60), seeds)
def test_antithetic_pairs_mirror(samples, seed):
    T = 1000
    t, _ = draw(Sampling("antithetic"), samples, T, seed)
    half = (samples + 1) // 2
    paired = samples - half  # an odd number leaves one alone
    total = t[:, :paired] + t[:, half:]
    assert ((total == T - 1) | (total == T)).all()
    if half > 3:
        assert len(t[:, :half].unique()) > 1


@given(st.integers(2, 20), schemes, seeds)
def test_shared_noise_is_shared_and_fresh_noise_is_not(samples, timesteps, seed):
    _, shared = draw(Sampling(timesteps, "shared"), samples, seed=seed)
    assert torch.equal(shared, shared[:, :1].expand_as(shared))
    assert not torch.equal(shared[0], shared[1])  # but not between images
    _, fresh = draw(Sampling(timesteps, "fresh"), samples, seed=seed)
    assert len(torch.unique(fresh.flatten(0, 1).flatten(1), dim=0)) == 2 * samples


@pytest.mark.parametrize("timesteps", TIMESTEPS)
@pytest.mark.parametrize("noise", NOISE)
def test_same_generator_same_bytes(timesteps, noise):
    sampling = Sampling(timesteps, noise)
    (t, eps), (t2, eps2), (t3, eps3) = (draw(sampling, 9, seed=s) for s in (5, 5, 6))
    assert torch.equal(t, t2)
    assert torch.equal(eps, eps2)
    assert not torch.equal(t, t3)
    assert not torch.equal(eps, eps3)


def test_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    draw(Sampling(), 9)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_every_timestep_is_equally_likely(timesteps):
    """Chi-square over 20 bins of t, for each scheme the law of one t; the seed is fixed.

    Dependent draws (strata, mirrors) only make the counts more even, so the bound is one-sided.
    """
    t = torch.cat([draw(Sampling(timesteps), 8, seed=s)[0].flatten() for s in range(500)])
    counts = np.bincount(t.numpy() // 50, minlength=20)
    assert counts.sum() == 8000
    assert stats.chisquare(counts).pvalue > 0.01
    if timesteps == "uniform":
        assert stats.chisquare(counts).pvalue < 0.99


@pytest.mark.parametrize("timesteps", TIMESTEPS)
def test_estimates_are_unbiased_and_the_clever_ones_vary_less(timesteps):
    """The mean of a monotone function of t, against the sum over all t."""

    def g(t):
        return (t.double() / 1000) ** 2

    truth = g(torch.arange(1000)).mean().item()
    z0 = torch.zeros(4000, 1, 1, 1)
    means = g(draw(Sampling(timesteps), 8, z0=z0)[0]).mean(1)
    assert abs(means.mean().item() - truth) < 4 * means.std().item() / 4000**0.5
    uniform = g(torch.arange(1000)).std().item() / 8**0.5
    ratio = means.std().item() / uniform
    assert {"uniform": 0.95 < ratio < 1.05, "stratified": ratio < 0.2, "antithetic": ratio < 0.5}[timesteps]


def test_noise_is_standard_normal():
    _, eps = draw(Sampling(), 500, z0=torch.zeros(2, 1, 4, 4))
    assert stats.kstest(eps.flatten().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize(("options", "message"), [
    (dict(timesteps="sobol"), "timesteps must be one of uniform, stratified, antithetic, not 'sobol'"),
    (dict(noise="pink"), "noise must be one of fresh, shared, not 'pink'"),
    (dict(t_min=0.5, t_max=0.5), "0 <= t_min < t_max <= 1"),
    (dict(t_min=-0.1), "0 <= t_min < t_max <= 1"),
    (dict(t_max=1.1), "0 <= t_min < t_max <= 1"),
    (dict(t_min=float("nan")), "0 <= t_min < t_max <= 1"),
])  # fmt: skip
def test_settings_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


# --- importance sampling ------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), schemes, seeds)
def test_a_density_draws_as_often_as_it_says(density, timesteps, seed):
    sampling = Sampling(timesteps, t_min=0.2, t_max=0.8, t_density=tuple(density))
    t, _ = draw(sampling, 4000, seed=seed, z0=torch.zeros(1, 1, 1, 1))
    part = ((t.float() + 0.5) / 1000 - 0.2) / 0.6 * len(density)
    share = part.long().clamp(0, len(density) - 1).flatten().bincount(minlength=len(density)) / 4000
    expected = torch.tensor(density) / sum(density)
    assert (share - expected).abs().max() < 0.05
    assert t.min() >= 200 and t.max() < 800


def test_weights_leave_the_expectation_as_it_was():
    """Exactly, by summing over all timesteps: Σ_t q(t) w(t) f(t) = mean of f."""
    density, T = (1.0, 4.0, 0.5, 2.5), 1000
    sampling = Sampling(t_min=0.2, t_max=0.6, t_density=density)
    t = torch.arange(200, 600)
    q = torch.tensor(density).repeat_interleave(100) / sum(density) / 100
    f = torch.rand(400, generator=torch.Generator().manual_seed(0))
    assert (q * sampling.weight(t, T) * f).sum().item() == pytest.approx(f.mean().item(), rel=1e-5)
    assert torch.equal(Sampling().weight(t, T), torch.ones(400))


def test_an_even_density_is_no_density():
    with tiny.SinglePrecision():
        even, none = (draw(Sampling("stratified", t_density=d), 50, seed=3)[0] for d in ((2.0, 2.0, 2.0, 2.0), ()))
    assert (even - none).abs().max() <= 1  # to rounding
    assert torch.equal(Sampling(t_density=(2.0, 2.0)).weight(even, 1000), torch.ones(even.shape))


def test_importance_sampling_lowers_the_variance_of_a_peaked_mean():
    density = tuple(1.0 if k != 2 else 20.0 for k in range(8))
    values = []
    for sampling in (Sampling(), Sampling(t_density=density)):
        t, _ = sampling.draw(torch.zeros(2000, 1, 1, 1), 8, 1000, torch.Generator().manual_seed(0))
        f = ((t >= 250) & (t < 375)).float()
        values.append((f * sampling.weight(t, 1000)).mean(1))
    assert values[0].mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert values[1].mean().item() == pytest.approx(1 / 8, abs=0.01)
    assert values[1].var() < 0.2 * values[0].var()


@pytest.mark.parametrize("density", [(0.0, 1.0), (-1.0,), (float("nan"),), (float("inf"),)])
def test_a_density_must_be_positive(density):
    with pytest.raises(ValueError, match="t_density must hold numbers above 0"):
        Sampling(t_density=density)


@pytest.mark.parametrize(("low", "high", "largest"), [(0.1, 0.101, 100), (0.0, 1.0, 999), (0.25, 0.75, 749)])
def test_the_largest_number_below_one_stays_in_the_range(low, high, largest, monkeypatch):
    """In single precision 0.1 + u / 1000 rounds up to 0.101."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 1 - 2.0**-24))
    t, _ = draw(Sampling(t_min=low, t_max=high), 2, 1000, 0)
    assert t.unique().tolist() == [largest]


@pytest.mark.parametrize(("t_min", "t_max", "T"), [(0.29, 1.0, 100), (0.0, 0.57, 100), (0.1, 0.3, 1000)])
def test_the_range_of_the_draws_is_the_range_of_the_weights(t_min, t_max, T):
    low, high = timestep_range(t_min, t_max, T)
    assert (low, high) == (round(t_min * T), round(t_max * T) - 1)
    t, _ = Sampling("stratified", t_min=t_min, t_max=t_max).draw(
        torch.zeros(1, 1, 1, 1), high - low + 1, T, torch.Generator().manual_seed(0)
    )
    assert (t.min().item(), t.max().item()) == (low, high)
    diffusion = ClassUNet(tiny.unet_network(), DDPMScheduler(T))
    weights = diffusion.weight(torch.arange(low, high + 1), "min-snr", t_min, t_max)
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)

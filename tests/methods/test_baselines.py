"""The baselines against their equations."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from dtta.core.sampling import Sampling
from dtta.methods.diffusion_classifier import DiffusionClassifier
from dtta.methods.ensemble import Ensemble
from dtta.methods.none import NoAdaptation
from dtta.methods.registry import build


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def naive_losses(diffusion, image, t, noise) -> np.ndarray:
    """One evaluation at a time, with integer labels, through the library's forward alone."""
    alphas = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    losses = np.zeros((len(image), tiny.CLASSES, t.shape[1]))
    for n, j, b in np.ndindex(losses.shape):
        a = alphas[t[n, b]]
        z_t = np.sqrt(a) * (2 * image[n] - 1) + np.sqrt(1 - a) * noise[n, b]
        with torch.no_grad():
            prediction = diffusion.network(z_t[None].float(), t[n, b][None], class_labels=torch.tensor([j])).sample[0]
        losses[n, j, b] = (prediction - noise[n, b]).square().mean().item()
    return losses


@pytest.mark.parametrize("micro_batch", [1, 7, 512])
def test_losses_are_a_double_loop_over_classes_and_pairs(diffusion, micro_batch):
    image = tiny.images(2)
    method = DiffusionClassifier(diffusion, samples=4, micro_batch=micro_batch)
    t, noise = Sampling("stratified").draw(2 * image - 1, 4, 1000, seeded())
    expected = naive_losses(diffusion, image, t, noise)
    losses = method.losses(image, seeded())
    assert losses.shape == (2, tiny.CLASSES, 4)
    np.testing.assert_allclose(losses.numpy(), expected, rtol=1e-4)
    logits = method(image, seeded())
    np.testing.assert_allclose(logits.numpy(), -64 * expected.mean(2), rtol=1e-4)
    assert (logits.argmax(1).numpy() == expected.mean(2).argmin(1)).all()
    assert not logits.requires_grad


def test_passes_are_halved_until_they_fit_in_memory(phi):
    image, sizes = tiny.images(2), []
    expected = DiffusionClassifier(phi, samples=3).losses(image, seeded())
    method = build(tiny.problem(), "diffusion-classifier", samples=3, micro_batch=25)
    original = method.diffusion.loss

    def loss(z0, *rest):
        sizes.append(len(z0))
        if len(z0) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(z0, *rest)

    method.diffusion.loss = loss
    torch.testing.assert_close(method.losses(image, seeded()), expected, rtol=1e-4, atol=1e-6)
    assert sizes == [25, 10, *[5] * 6]  # parts of 30, so that all passes have one size
    assert method.micro_batch == 5 and method.evaluations == 30


def test_all_classes_see_the_same_pairs(phi, image):
    """With one embedding for all classes, all losses are equal: nothing else differs between them."""
    row = phi.class_embeddings[:1].detach()
    losses = DiffusionClassifier(phi, samples=6, embeddings=row.expand(3, -1)).losses(image, seeded())
    torch.testing.assert_close(losses, losses[:, :1].expand(-1, 3, -1), rtol=1e-5, atol=1e-6)
    assert losses.shape == (1, 3, 6)
    assert len(losses[0, 0].unique()) == 6


def test_temperature_sharpens_and_leaves_the_answer_alone(phi, image):
    cold, one, warm = (DiffusionClassifier(phi, samples=6, temperature=T)(image, seeded()) for T in (0.5, 1, 4))
    torch.testing.assert_close(cold, 2 * one)
    torch.testing.assert_close(warm, one / 4)
    assert warm.softmax(1).max() < one.softmax(1).max() < cold.softmax(1).max()


def test_a_batch_is_its_images_one_by_one(diffusion):
    """Given each image's own draws."""
    image = tiny.images(3)
    t, noise = Sampling("stratified").draw(image, 5, 1000, seeded())

    class Given(Sampling):
        def draw(self, z0, samples, T, generator):
            rows = [next(n for n in range(3) if torch.equal(z, 2 * image[n] - 1)) for z in z0]
            return t[rows], noise[rows]

    method = DiffusionClassifier(diffusion, samples=5, sampling=Given())
    together = method(image)
    for n in range(3):
        torch.testing.assert_close(method(image[n : n + 1]), together[n : n + 1], rtol=1e-4, atol=1e-4)


def test_the_generator_decides(phi, image):
    method = DiffusionClassifier(phi, samples=4)
    assert torch.equal(method(image, seeded(1)), method(image, seeded(1)))
    assert not torch.equal(method(image, seeded(1)), method(image, seeded(2)))
    a, b = (DiffusionClassifier(phi, samples=4, seed=3)(image) for _ in range(2))
    assert torch.equal(a, b)


def test_ensemble_is_the_log_of_the_mean_belief(model, phi, image):
    second = DiffusionClassifier(phi, samples=4)
    logits = Ensemble(NoAdaptation(model), second)(image, seeded())
    with torch.no_grad():
        p = [model(image).double(), second(image, seeded()).double()]
    p = [torch.exp(x - x.logsumexp(1, keepdim=True)) for x in p]
    torch.testing.assert_close(logits.double().exp(), (p[0] + p[1]) / 2, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(1))


def test_no_adaptation_is_the_network_in_eval_mode(model, image):
    model.train()
    method = NoAdaptation(model)
    assert not model.training
    assert torch.equal(method(image), model(image).detach())
    assert not method(image).requires_grad
    assert torch.equal(method(image, seeded()), method(image))


@pytest.mark.parametrize("options", [dict(samples=0), dict(temperature=0), dict(temperature=-1), dict(micro_batch=0)])
def test_settings_out_of_range(phi, options):
    with pytest.raises(ValueError, match="must be"):
        DiffusionClassifier(phi, **options)


# --- the staged schedule ------------------------------------------------------------------------------


def test_stages_are_a_race(phi):
    """Against the schedule written out: who is dropped, on how many pairs, at what cost."""
    image = tiny.images(3)
    staged = DiffusionClassifier(phi, samples=(2, 5, 9), keep=(3, 2))
    logits = staged(image, seeded())
    generator = seeded()
    t, noise = Sampling("stratified").draw(phi.encode(image), 9, 1000, generator)
    order = torch.randperm(9, generator=generator)
    full = torch.from_numpy(naive_losses(phi, image, t[:, order], noise[:, order])).float()
    evaluations = 0
    for n in range(3):
        left = list(range(tiny.CLASSES))
        for begin, end, keep in ((0, 2, 3), (2, 5, 2), (5, 9, 2)):
            evaluations += len(left) * (end - begin)
            mean = {j: full[n, j, :end].mean() for j in left}
            left = sorted(left, key=mean.__getitem__)[:keep]
        assert torch.isneginf(logits[n]).tolist() == [j not in left for j in range(tiny.CLASSES)]
        for j in left:
            torch.testing.assert_close(logits[n, j], -64 * full[n, j].mean(), rtol=1e-4, atol=1e-5)
    assert staged.evaluations == evaluations < DiffusionClassifier(phi, samples=9).losses(image).numel()


def test_a_schedule_that_drops_nobody_is_the_plain_one(phi, image):
    plain = DiffusionClassifier(phi, samples=6)
    staged = DiffusionClassifier(phi, samples=(2, 6), keep=(tiny.CLASSES,))
    torch.testing.assert_close(staged(image, seeded()), plain(image, seeded()), rtol=1e-5, atol=1e-6)
    assert plain.evaluations == staged.evaluations == 6 * tiny.CLASSES


@pytest.mark.parametrize(
    ("samples", "keep", "words"),
    [((5, 2), (3,), "must grow"), ((2, 5), (), "2 stages need 1"), (5, (2,), "1 stages need 0"),
     ((2, 4, 8), (2, 3), "must shrink"), ((2, 4), (0,), "must shrink"), ((), (), "at least 1")],
)  # fmt: skip
def test_stages_that_make_no_sense_are_refused(phi, samples, keep, words):
    with pytest.raises(ValueError, match=words):
        DiffusionClassifier(phi, samples=samples, keep=keep)


# --- only the network's likeliest classes ---------------------------------------------------------------


def test_a_shortlist_is_the_networks_likeliest_classes(model, phi):
    """The logits of these classes are as without a shortlist; all others have no chance and cost nothing."""
    image = tiny.images(3)
    method = DiffusionClassifier(phi, samples=4, network=model, top=2)
    logits, every = method(image, seeded()), DiffusionClassifier(phi, samples=4)(image, seeded())
    with torch.no_grad():
        best = model(image).topk(2, dim=1).indices
    expected = torch.full_like(every, -torch.inf).scatter(1, best, every.gather(1, best))
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-6)
    assert method.evaluations == 3 * 2 * 4
    staged = DiffusionClassifier(phi, samples=(2, 4), keep=(1,), network=model, top=2)
    assert staged(image, seeded()).isfinite().sum(1).tolist() == [1, 1, 1]
    assert staged.evaluations == 3 * (2 * 2 + 2)


@pytest.mark.parametrize(("top", "words"), [(0, "whole number of at least 1"), (2.5, "whole number of at least 1")])
def test_a_shortlist_of_no_class_is_refused(model, phi, top, words):
    with pytest.raises(ValueError, match=words):
        DiffusionClassifier(phi, network=model, top=top)
    with pytest.raises(ValueError, match="needs a network"):
        DiffusionClassifier(phi, top=2)


def test_the_ensemble_of_a_shortlist(image):
    """The Diffusion Classifier's half of the belief is shared by the network's likeliest classes only."""
    problem = tiny.problem()
    belief = build(problem, "ensemble", samples=4, top=2)(image, seeded()).exp()
    with torch.no_grad():
        p = problem.model(image).softmax(1)
    best = p.topk(2, dim=1).indices
    gained = belief - p / 2
    torch.testing.assert_close(gained.gather(1, best).sum(1), torch.full((1,), 0.5))
    assert gained.scatter(1, best, 0.0).abs().max() < 1e-6

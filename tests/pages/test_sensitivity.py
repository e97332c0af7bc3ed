"""The probe: gaps against a naive loop, its sentences on models that do and do not use their condition, intervals."""

from __future__ import annotations

import json
from dataclasses import replace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import tiny
import torch

import dtta
from dtta.cli import main
from dtta.core.diffusion import ClassUNet
from dtta.core.sampling import Sampling
from dtta.evaluation.statistics import simultaneous_band
from dtta.pages.probe import compare_with_gains, preference_for_truth

matplotlib.use("Agg")


class Deaf(ClassUNet):
    """A diffusion model that ignores its condition."""

    def output(self, z_t, t, condition):
        return super().output(z_t, t, torch.zeros_like(condition))


def deaf():
    phi = Deaf(tiny.unet_network(), tiny.scheduler())
    return replace(tiny.problem(), diffusion=phi, condition=tiny.mixture(phi))


def unlabelled(problem):
    """The problem with class labels of -1, and maps' labels without pixels."""
    return replace(problem, draw=lambda *args: (problem.draw(*args)[0], torch.tensor(-1)), labelled=False)


def test_the_gaps_are_those_of_a_loop_over_images_classes_and_pairs():
    problem = tiny.problem()
    phi, l = problem.diffusion, problem.diffusion.class_embeddings.detach()
    result = dtta.probe(problem, 8, parts=3, samples=2, others=4, seed=5, progress=False)
    x, labels = problem.images(8, split="validation", seed=5)
    edges = np.linspace(0, 1, 4).round(6)
    for part in range(3):
        sampling = Sampling("stratified", t_min=edges[part], t_max=edges[part + 1])
        t, noise = sampling.draw(phi.encode(x), 2, 1000, torch.Generator().manual_seed(5))
        losses = np.zeros((8, 5))
        with torch.no_grad():
            for n in range(8):
                for j in range(5):  # four others are all of them
                    pairs = [
                        phi.loss(phi.encode(x[n, None]), t[n, b, None], noise[n, b, None], l[j, None]) for b in (0, 1)
                    ]
                    losses[n, j] = torch.cat(pairs).double().mean()
        right = losses[range(8), labels.tolist()]
        wrong = (losses.sum(1) - right) / 4
        row = result.frame[result.frame.condition == "other classes"].iloc[part]
        assert row.loss == pytest.approx(right.mean(), rel=1e-4)
        assert row.gap == pytest.approx(100 * (wrong - right).mean() / right.mean(), rel=1e-2, abs=1e-4)
        assert row.accuracy == (losses.argmin(1) == labels.numpy()).mean()
    assert result.frame.t_from.tolist() == [0, 333, 667] * 2 and result.frame.t_to.tolist() == [333, 667, 1000] * 2


def test_a_model_that_ignores_its_condition_is_called_insensitive():
    result = dtta.probe(deaf(), 8, parts=4, progress=False)
    assert result.sentence.startswith("No sensitivity to the condition is established in 8 validation images")
    assert "by at most 0% of the loss" in result.sentence and "Adapting is unlikely to help" in result.sentence
    assert (result.t_min, result.t_max) == (None, None)
    assert (result.frame[["gap", "low", "high"]] == 0).all(axis=None)
    assert result.accuracy == 0  # no loss is lower than the others


def test_the_digits_model_uses_its_condition():
    problem = dtta.load("digits")
    result = dtta.probe(problem, 16, parts=5, samples=2, progress=False)
    assert result.sentence.startswith("The diffusion model is sensitive to the condition at t = ")
    assert result.t_min < 0.8 <= result.t_max
    assert f"try --set t_min={result.t_min:g} --set t_max={result.t_max:g}" in result.sentence
    assert result.accuracy > 0.7 and "simultaneous over 5 ranges of t; 16 validation images" in result.sentence
    assert set(result.frame.condition) == {"other classes", "the network's probabilities"}
    labels = [text.get_text() for text in result.figure().axes[0].get_legend().get_texts()]
    assert labels == ["other classes", "the network's probabilities"]


def test_labels_are_not_needed():
    problem = unlabelled(dtta.load("digits"))
    result = dtta.probe(problem, 16, parts=5, samples=2, progress=False)
    assert "higher loss than the predicted class" in result.sentence and result.accuracy is None
    assert set(result.frame.condition) == {"other classes"} and result.frame.accuracy.isna().all()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_maps_are_compared_with_other_images_maps(task, labelled):
    problem = replace(tiny.dense_problem(task), sizes=dict(test=9))
    draw = problem.draw
    problem = replace(problem, draw=lambda split, index, *rest: draw(split, index % 6, *rest))
    problem = problem if labelled else unlabelled(problem)
    result = dtta.probe(problem, parts=2, samples=1, progress=False)
    assert result.title == f"tiny-{task}, no added shift, 9 test images"
    assert result.frame.condition[0] == "other images' maps"
    assert result.frame.reference[0] == ("the true map" if labelled else "the predicted map")


def test_an_empty_sentence_is_one_of_the_conditions():
    open_problem = tiny.open_problem()
    reader = type("Reader", (), {"__call__": lambda self, sentences: tiny.normal(len(sentences), tiny.LENGTH, 16)})()
    result = dtta.probe(replace(open_problem, reader=reader), 8, parts=2, samples=1, progress=False)
    assert list(dict.fromkeys(result.frame.condition)) == ["other names", "the network's probabilities", "no text"]


@pytest.mark.parametrize(("options", "message"), [
    (dict(images=7), "images must be 8 to 12, all of validation; not 7"),
    (dict(images=13, split="test"), "images must be 8 to 12, all of test; not 13"),
    (dict(split="dreams"), "unknown split 'dreams'"),
    (dict(parts=0), "parts must be at least 1"),
    (dict(precision="half"), "precision must be one of"),
    (dict(shift="rain"), "rain"),
])  # fmt: skip
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        dtta.probe(tiny.problem(), **options, progress=False)


# --- preference for the truth -------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_the_preference_is_the_difference_of_two_noise_errors(task):
    """Against ε and the network of the diffusion model, image by image, with the truth unknown at some pixels."""
    problem = tiny.dense_problem(task)
    unknown = -1 if task == "segmentation" else 0
    draw = problem.draw

    def without_corner(*args):
        image, label = draw(*args)
        label[..., :3, :3] = unknown
        return image, label

    problem = replace(problem, draw=without_corner)
    sampling = Sampling("stratified", t_min=0.2, t_max=0.6)
    result = preference_for_truth(problem, 5, "contrast", 2, "test", 4, sampling=sampling, samples=3)
    unet, table = problem.diffusion.network, problem.diffusion.class_embeddings if task == "segmentation" else None
    kept = tiny.scheduler().alphas_cumprod
    x, labels = problem.images(5, "contrast", 2, "test", 4)
    t, noise = sampling.draw(x, 3, 1000, torch.Generator().manual_seed(4))
    differences = []
    with torch.no_grad():
        for n in range(5):
            y = problem.model(x[n, None])[0]
            if task == "segmentation":
                truth = torch.where(labels[n] >= 0, labels[n], y.argmax(0))
                maps = [table[truth].permute(2, 0, 1), torch.tensordot(table.T, y.softmax(0), 1)]
            else:
                depths = torch.where(labels[n] > 0, labels[n], y), y
                maps = [2 * (d / tiny.NEAR).log() / np.log(tiny.FAR / tiny.NEAR) - 1 for d in depths]
            errors = np.zeros((2, 3))
            for k, c in enumerate(maps):
                for b in range(3):
                    z_t = kept[t[n, b]] ** 0.5 * (2 * x[n] - 1) + (1 - kept[t[n, b]]) ** 0.5 * noise[n, b]
                    inputs = torch.nn.functional.pixel_unshuffle(torch.cat([z_t, c])[None], 2)
                    output = torch.nn.functional.pixel_shuffle(unet(inputs, t[n, b]).sample, 2)[0]
                    errors[k, b] = (output - noise[n, b]).square().mean()
            differences.append(1000 * (errors[1] - errors[0]).mean())
    assert np.abs(differences).max() > 0.1
    assert result["gain"] == pytest.approx(np.mean(differences), rel=1e-3, abs=1e-3)
    draws = np.random.default_rng(1).integers(5, size=(20_000, 5))
    low, high = np.percentile(np.array(differences)[draws].mean(1), [2.5, 97.5])
    assert [result["low"], result["high"]] == pytest.approx([low, high], abs=0.1 * np.std(differences))


@pytest.mark.parametrize(("images", "shift", "error", "message"), [
    (0, "clean", ValueError, "images must be a whole number of at least 1, not 0"),
    (7, "clean", IndexError, "images 0 to 5, not 6"),
    (2, "rain", ValueError, "rain"),
])  # fmt: skip
def test_a_preference_on_wrong_images_is_refused(images, shift, error, message):
    with pytest.raises(error, match=message):
        preference_for_truth(tiny.dense_problem("depth"), images, shift)


def test_a_preference_needs_labels():
    with pytest.raises(ValueError, match="tiny-depth has no labels to compare"):
        preference_for_truth(unlabelled(tiny.dense_problem("depth")), 2)


def test_shifts_are_counted_by_preference_and_by_gain():
    above, below, neither = ({"low": low, "high": low + 2} for low in (1, -3, -1))
    touching = {"low": 0, "high": 2}
    preferences = {"a": above, "b": below, "c": neither, "d": above, "e": touching}
    gains = {"a": above, "b": above, "c": below, "d": neither, "e": touching, "not measured": above}
    assert compare_with_gains(preferences, gains) == [
        "prefers the truth: 2 of 5; gain established under 1, drop under 0",
        "prefers the network's map: 1 of 5; gain established under 1, drop under 0",
        "too small to tell: 2 of 5; gain established under 0, drop under 1",
    ]


# --- intervals ----------------------------------------------------------------------------------------


def test_the_band_holds_all_means_at_once():
    """Of 200 samples without any difference, about 5% have an interval without zero somewhere; without the
    correction for ten ranges of t it would be about 40%."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        levels = rng.gamma(5, size=(24, 10))
        _, low, high = simultaneous_band(rng.normal(size=(24, 10)) * levels, levels, resamples=400)
        wrong += bool(((low > 0) | (high < 0)).any())
    assert wrong <= 20


def test_the_band_is_about_the_ratio_of_means():
    rng = np.random.default_rng(1)
    levels = rng.gamma(5, size=(200, 3))
    gaps = np.array([0.0, 0.1, 0.3]) * levels + 0.2 * rng.normal(size=(200, 3))
    ratio, low, high = simultaneous_band(gaps, levels)
    assert np.allclose(ratio, gaps.sum(0) / levels.sum(0)) and np.allclose(ratio - low, high - ratio)
    error = (gaps - ratio * levels).std(0, ddof=1) / levels.mean(0) / 200**0.5
    c = (high - ratio) / error
    assert np.allclose(c, c[0], rtol=0.01) and 2.2 < c[0] < 2.7  # of the normal distribution: 2.39 for three at once
    same = simultaneous_band(np.zeros((8, 2)), np.ones((8, 2)))
    assert all((part == 0).all() for part in same)


# --- the command --------------------------------------------------------------------------------------


def test_the_command_writes_figure_and_numbers(tmp_path, capsys):
    line = "probe --problem tiny_problems:classification --images 8 --parts 2 --samples 1"
    for name in ("n.csv", "n.json"):
        assert main([*line.split(), "--out", str(tmp_path / "new" / "p.png"), "--numbers", str(tmp_path / name)]) == 0
    assert f"figure in {tmp_path / 'new' / 'p.png'}" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "n.csv")
    records = json.loads((tmp_path / "n.json").read_text(encoding="utf-8"))
    assert len(table) == len(records) == 4 and table.gap[0] == pytest.approx(records[0]["gap"])
    assert (tmp_path / "new" / "p.png").read_bytes()[1:4] == b"PNG"

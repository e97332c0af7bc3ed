"""The live page's engine in headless Chromium, opened from a folder: it computes what PyTorch computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import dtta
from dtta.evaluation.evaluate import image_generator
from dtta.experiments import stored
from dtta.methods.registry import build
from dtta.problems.digits.shifts import SHIFTS
from tools.live.pack import pack

ROOT = Path(__file__).parents[2]
FOUR = ("gaussian_noise", "fog", "pixelate", "rotation")
IMAGES, PAIRS, STEPS = 10, 4, 5  # for each shift; pairs of each step

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("live")
    shutil.copytree(ROOT / "book" / "_static" / "live", out, dirs_exist_ok=True)
    pack(out)
    (out / "page.html").write_text("<!doctype html><script src=engine.js></script>", encoding="utf-8")
    return out


@pytest.fixture(scope="module")
def page(folder, browser):
    page = browser.new_page()
    page.set_default_timeout(300_000)
    page.goto((folder / "page.html").as_uri())
    page.evaluate("async () => { window.progress = []; window.engine = await dttaLive.start({"
                  "progress: (fraction, text) => progress.push([fraction, text]) }); }")  # fmt: skip
    yield page
    page.close()


@pytest.fixture(scope="module")
def problem():
    return dtta.load("digits")


ADAPT = """jobs => { window.found = Promise.all(jobs.map(async ({ pixels, t, noise, ...options }) =>
    (await engine.adapt({ pixels, draws: { t, noise }, ...options })).steps.map((step) => ({
        loss: step.loss, belief: step.belief,
        losses: step.losses && [...step.losses], gradient: step.gradient && [...step.gradient] })))); }"""


def test_losses_gradients_and_beliefs_are_pytorchs(page, problem):
    settings = problem.settings["diffusion-tta"]
    sampling = dtta.Sampling(settings["timesteps"], t_min=settings["t_min"], t_max=settings["t_max"])
    cases = [(*problem.image(index, shift), index) for shift in FOUR for index in range(IMAGES)]
    jobs = []
    for image, _, index in cases:
        g = image_generator(1, index)
        pairs = [sampling.draw(image, PAIRS, problem.diffusion.timesteps, g) for _ in range(STEPS)]
        t, noise = (torch.cat(part).flatten().tolist() for part in zip(*pairs, strict=True))
        options = {"pairs": PAIRS, "steps": STEPS, "rate": settings["lr"]}
        jobs.append({"pixels": image.flatten().tolist(), "t": t, "noise": noise} | options)
    page.evaluate(ADAPT, jobs)  # runs while PyTorch does
    tta = build(problem, "diffusion-tta", **settings | {"samples": PAIRS, "steps": STEPS})
    gradients = []
    feedback = tta.feedback
    tta.feedback = lambda *args: gradients.append(feedback(*args)) or gradients[-1]
    expected = []
    for image, _, index in cases:
        gradients.clear()
        answer = tta(image, image_generator(1, index)).softmax(1)
        beliefs = torch.cat([step.output.softmax(1) for step in tta.history] + [answer])
        expected.append((list(gradients), beliefs))
    for (steps, beliefs), found in zip(expected, page.evaluate("found"), strict=True):
        np.testing.assert_allclose([step["belief"] for step in found], beliefs, atol=1e-3)
        for (loss, gradient), step in zip(steps, found[:-1], strict=True):
            assert step["loss"] == pytest.approx(loss.item(), rel=1e-3)
            assert (torch.tensor(step["gradient"]) - gradient[0]).norm() <= 1e-3 * gradient.norm()
        assert found[-1]["loss"] is None
    moved = [(beliefs[-1] - beliefs[0]).abs().max().item() for _, beliefs in expected]
    assert max(moved) > 0.2  # adaptation did something


def test_presets_end_as_their_stored_rows_say(page):
    answers = page.evaluate("""async () => { const answers = {};
        for (const [kind, preset] of Object.entries(engine.presets)) {
            const { steps } = await engine.adapt(preset);
            answers[kind] = [preset.label, ...[0, 5].map((k) => steps[k].belief.indexOf(Math.max(...steps[k].belief)))];
        }
        return answers; }""")
    rows = stored.outcomes("digits-test", "diffusion-tta", set(SHIFTS))
    assert answers.keys() == rows.keys() == {"success", "no change", "harm"}
    for kind, (label, before, after) in answers.items():
        assert (after == label) == bool(rows[kind].score)
        assert (before == label) == (kind == "harm" or (kind == "no change" and bool(rows[kind].score)))


def test_diffusion_classifier_and_ensemble_are_pytorchs(page, problem):
    options = {name: problem.settings[name] | {"samples": 6} for name in ("diffusion-classifier", "ensemble")}
    image, _ = problem.image(3, "fog")
    classifier = build(problem, "diffusion-classifier", **options["diffusion-classifier"])
    t, noise = classifier.sampling.draw(image, 6, problem.diffusion.timesteps, image_generator(0, 3))
    draws = {"t": t.flatten().tolist(), "noise": noise.flatten().tolist()}
    found = page.evaluate(
        """async ([pixels, { t, noise }]) => {
        const options = { pixels, pairs: 6, draws: { t, noise } };
        return [await engine.classify(options), await engine.ensemble(options)]; }""",
        [image.flatten().tolist(), draws],
    )
    expected = classifier(image, image_generator(0, 3)).softmax(1)
    mean = build(problem, "ensemble", **options["ensemble"])(image, image_generator(0, 3)).softmax(1)
    np.testing.assert_allclose([found[0]["belief"], found[1]["belief"]], torch.cat([expected, mean]), atol=1e-3)
    assert found[0]["evaluations"] == found[1]["evaluations"] == classifier.evaluations == 60


def test_shifts_follow_the_packages_formulas(page, problem):
    image, _ = problem.image(5)
    found = page.evaluate(
        """async (pixels) => { const found = {};
        for (const { name } of engine.shifts) found[name] = await Promise.all(
            [1, 2, 3, 4, 5].map(async (severity) => [...await engine.corrupt(pixels, name, severity, severity)]));
        return found; }""",
        image.flatten().tolist(),
    )
    assert list(found) == list(problem.shifts)
    for name in ("blur", "contrast", "brightness", "pixelate", "jpeg", "rotation", "shear"):
        for severity, pixels in enumerate(found[name], start=1):
            several = [problem.image(5, name, severity, seed=seed)[0].flatten().numpy() for seed in range(8)]
            nearest = min(np.abs(pixels - one).max() for one in several)  # rotation and shear draw a direction
            assert nearest < (1.5 / 255 if name == "jpeg" else 1e-5), (name, severity)
    for rows in found.values():
        assert np.shape(rows) == (5, 64) and 0 <= np.min(rows) <= np.max(rows) <= 1
        assert not np.allclose(rows[0], image.flatten())


def test_random_shifts_have_their_constants(page):
    noise, shot, impulse = page.evaluate("""async () => {
        const many = async (name) => (await Promise.all(Array.from({ length: 200 }, (_, seed) =>
            engine.corrupt(new Float32Array(64).fill(0.5), name, 1, seed)))).flatMap((pixels) => [...pixels]);
        return Promise.all(["gaussian_noise", "shot_noise", "impulse_noise"].map(many)); }""")
    values = {name: {k: v[0] for k, v in SHIFTS[name].constants.items()} for name in SHIFTS}
    assert np.std(noise) == pytest.approx(values["gaussian_noise"]["deviation"], rel=0.05)
    assert np.std(shot) == pytest.approx((0.5 / values["shot_noise"]["photons"]) ** 0.5, rel=0.05)
    assert np.mean(np.array(impulse) != 0.5) == pytest.approx(values["impulse_noise"]["share"], rel=0.2)


def test_the_same_seed_gives_the_same_steps_and_the_pairs_keep_to_their_range(page):
    first, second, other = page.evaluate("""async () => { const run = async (seed) => {
        const options = { pixels: engine.images[1].pixels, pairs: 3, steps: 1, seed };
        const { steps, evaluations } = await engine.adapt(options);
        return [steps.map(({ loss, belief }) => [loss, belief]), evaluations]; };
        return [await run(1), await run(1), await run(2)]; }""")
    assert first == second != other
    assert first[1] == 3


def test_the_files_are_small_and_progress_is_reported(page, folder):
    assert sum(file.stat().st_size for file in folder.iterdir()) < 16 * 2**20
    progress = page.evaluate("progress")
    fractions = [fraction for fraction, _ in progress]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1

"""ADE20K, NYU Depth v2 and data of your own, on tiny random checkpoints and generated data in the published layouts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import stand_ins
import tiny
import torch
from diffusers import DDPMScheduler, StableDiffusionControlNetPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    GLPNForDepthEstimation,
    GLPNImageProcessor,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
)

import dtta
from dtta.cli import main
from dtta.cli.adapt import read_image
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.methods.registry import build
from dtta.problems import recipes_of
from dtta.problems.data import dense as dense_data
from dtta.problems.full import ade20k, latent_maps, nyuv2
from dtta.problems.full.stable_diffusion import load_controlled
from dtta.problems.metrics import depth_errors, scaled_depth_errors
from dtta.problems.training.weights import WeightsError

LITTLE = dict(samples=4, micro_batch=2, steps=2, lr=0.01)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("the hub")
    stand_ins.controlled(root / "sd"), stand_ins.glpn(root / "glpn"), stand_ins.densenet(root / "densenet")
    stand_ins.segformer(root / "segformer"), stand_ins.segformer(root / "three", 3)
    stand_ins.vae().save_pretrained(root / "vae")
    return root


@pytest.fixture
def data(tmp_path, monkeypatch, hub) -> Path:
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "my data"))
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path / "weights"))
    for make in (stand_ins.ade20k, stand_ins.nyuv2, stand_ins.own_segmentation, stand_ins.own_depth):
        make(tmp_path / "my data")
    small = dict(
        vae=str(hub / "vae"), encoder=str(hub / "densenet"), size=32, widths=[8, 16], blocks=1, groups=4, batch=2
    )
    for name in dense_data.SOURCES:
        (dense_data.folder(name) / "settings.json").write_text(json.dumps(small | dict(embedding=3)), encoding="utf-8")
    return tmp_path / "my data"


def load(name: str, hub: Path, network: str, diffusion: str | None = "sd"):
    return dtta.load(name, str(hub / network), diffusion and str(hub / diffusion))


# --- the problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "network"), [("ade20k", "segformer"), ("nyuv2", "glpn")])
def test_controlnet_problems_are_read_adapted_and_scored(name, network, hub, data):
    problem = load(name, hub, network)
    image, target = problem.image(1, "fog", 2)
    assert image.shape == (1, 3, 32, 32) and problem.size("test") == problem.size("validation") == 4
    assert torch.equal(read_image(dense_data.read(name)["test"].images[1], problem), problem.image(1)[0])
    before, kept = problem.model(image), [p.detach().clone() for p in problem.diffusion.parameters()]
    assert before.shape == (1, 6 if name == "ade20k" else 1, 32, 32)
    assert not torch.allclose(build(problem, "diffusion-tta", **LITTLE)(image), before, atol=1e-4)
    assert torch.equal(problem.model(image), before)
    assert all(torch.equal(a, b) for a, b in zip(kept, problem.diffusion.parameters(), strict=True))
    assert 0 <= problem.score(before, target) <= 1
    run = Run("diffusion-tta", name, str(hub / network), str(hub / "sd"), dict(samples=2, steps=1))
    rows = evaluate(run, [("clean", 3)], range(2), progress=False)
    sums = {key: rows[0].sums[key] + rows[1].sums[key] for key in rows[0].sums} | {"images": 2}
    assert all(np.isfinite(metric(sums)) or key.startswith("IoU") for key, metric in problem.metrics.items())


def test_label_maps_contain_class_numbers(hub, data):
    problem = load("ade20k", hub, "segformer")
    path = dense_data.read("ade20k")["test"].maps[2]
    numbers = torch.from_numpy(np.asarray(Image.open(path)).astype(np.float32))[None, None]
    expected = F.interpolate(numbers, (32, 35), mode="nearest-exact")[0, 0, :, 2:34].long() - 1  # the middle square
    _, target = problem.image(2)
    assert set(target.unique().tolist()) <= set(range(-1, 6)) and torch.equal(target, expected)
    assert problem.classes == tuple(f"thing {k}" for k in range(6))
    all_unknown = torch.full_like(target, -1)
    assert sum(problem.sums(problem.model(problem.image(2)[0]), all_unknown).values()) == 0


def test_depths_are_in_metres_for_8_and_16_bits(hub, data):
    problem = load("nyuv2", hub, "glpn")
    for split, unit in (("test", 1 / 1000), ("validation", 10 / 255)):
        values = np.asarray(Image.open(dense_data.read("nyuv2")[split].maps[1])) * unit
        _, depth = problem.image(1, split=split)
        assert depth.shape == (1, 32, 32) and set(depth.unique().tolist()) <= set(
            values.astype(np.float32).ravel().tolist()
        )
    assert 0 < depth.max() <= 10


# --- what the models compute --------------------------------------------------------------------------


def test_the_loss_is_the_controlnet_pipelines(hub):
    """VAE, scheduler, text encoder, ControlNet and UNet of the library's own pipeline, put together by hand."""
    phi = load_controlled(str(hub / "sd"), ade20k.DIFFUSIONS, "a photo")
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(hub / "sd", safety_checker=None)
    x, t, noise = tiny.images(2, channels=3, size=32), torch.tensor([50, 700]), tiny.normal(2, 4, 4, 4)
    c = tiny.images(2, seed=5, channels=3, size=32)
    with torch.no_grad():
        z0 = (
            pipeline.vae.encode(pipeline.image_processor.preprocess(x)).latent_dist.mean
            * pipeline.vae.config.scaling_factor
        )
        text, _ = pipeline.encode_prompt("a photo", "cpu", 2, do_classifier_free_guidance=False)
        control = pipeline.prepare_image(c, 32, 32, 2, 1, "cpu", torch.float32)
        z_t = DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(z0, noise, t)
        down, middle = pipeline.controlnet(z_t, t, text, controlnet_cond=control, return_dict=False)
        predicted = pipeline.unet(
            z_t, t, text, down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample
        expected = (predicted - noise).square().mean((1, 2, 3))
        torch.testing.assert_close(phi.loss(phi.encode(x), t, noise, c), expected, atol=1e-5, rtol=1e-5)
        without = (pipeline.unet(z_t, t, text).sample - noise).square().mean((1, 2, 3))
        assert not torch.allclose(expected, without, atol=1e-3)
    leaf = c.requires_grad_()
    phi.loss(z0, t, noise, leaf).sum().backward()
    assert (leaf.grad.abs().sum((1, 2, 3)) > 0).all()


def test_a_one_hot_belief_gives_the_class_colour(hub, data):
    problem = load("ade20k", hub, "segformer")
    classes = torch.arange(6).repeat(1, 4, 4)
    c = problem.condition(200 * F.one_hot(classes, 6).movedim(-1, 1).float())
    assert torch.allclose((255 * c).round(), (255 * ade20k.colours()[classes]).round().movedim(-1, 1))
    assert ade20k.colours().shape == (150, 3) and (255 * ade20k.colours()[2]).tolist() == [6, 230, 230]  # sky


def test_segformer_preprocesses_as_its_library(hub):
    model = ade20k.load_segformer(str(hub / "segformer"))
    x = (tiny.images(1, channels=3, size=32) * 255).round() / 255
    processor = SegformerImageProcessor(size=dict(height=32, width=32))
    given = processor(Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy()), return_tensors="pt")
    logits = SegformerForSemanticSegmentation.from_pretrained(hub / "segformer")(**given).logits
    expected = F.interpolate(logits, (32, 32), mode="bilinear")
    torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-5)


def test_glpn_preprocesses_as_its_library_and_predicts_metres(hub, data):
    model = nyuv2.load_network(str(hub / "glpn"))
    x = (tiny.images(1, channels=3, size=32) * 255).round() / 255
    given = GLPNImageProcessor()(Image.fromarray((x[0] * 255).byte().permute(1, 2, 0).numpy()), return_tensors="pt")
    expected = GLPNForDepthEstimation.from_pretrained(hub / "glpn")(**given).predicted_depth
    torch.testing.assert_close(model(x)[:, 0], expected.clamp(min=0.5), atol=1e-5, rtol=1e-5)


def test_densedepth_uses_the_features_of_the_original(hub):
    """The five maps of torchvision's DenseNet at the layers that the paper's code uses."""
    from torchvision.models import densenet169

    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = densenet169().eval()
    ours = nyuv2.timm.create_model("densenet169")
    ours.load_state_dict(whole.state_dict())
    stages, x = nyuv2.DenseNetStages(ours.eval()), tiny.normal(1, 3, 64, 64)
    assert stages.channels() == [64, 64, 128, 256, 1664]
    with torch.no_grad():
        y, expected = x, []
        for name, layer in whole.features.named_children():
            y = layer(y)
            y = y.relu() if name in ("norm0", "norm5") else y
            expected += [y] if name in ("norm0", "pool0", "transition1", "transition2", "norm5") else []
        for a, b in zip(stages(x), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_scaled_errors_do_not_know_the_scale():
    depth, truth = 1 + 5 * tiny.images(1, size=16), 1 + 5 * tiny.images(1, seed=1, size=16)
    a, b = (scaled_depth_errors(depth * k, truth[0], 0.5, 10) for k in (1, 0.4))
    for name in ("AbsRel", "RMSE", "δ < 1.25"):
        assert a[f"{name}, scaled"] == pytest.approx(b[f"{name}, scaled"], rel=1e-4)
        assert a[name] != pytest.approx(b[name], rel=1e-2)
    ratio = (truth / depth).median()
    assert a["AbsRel, scaled"] == pytest.approx(((depth * ratio - truth).abs() / truth).mean().item(), rel=1e-5)
    holes = truth[0].clone()
    holes[0, :4] = 0  # unknown
    kept = (depth[..., 4:, :] - truth[..., 4:, :]).abs() / truth[..., 4:, :]
    assert depth_errors(depth, holes, 0.5, 10)["AbsRel"] == pytest.approx(kept.mean().item(), rel=1e-5)


# --- latent diffusion models trained here --------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "network"),
    [("ade20k", "segformer"), ("own-segmentation", "three"), ("nyuv2", "glpn"), ("own-depth", "glpn")],
)
def test_a_latent_model_is_trained_and_used(name, network, hub, data, tmp_path, capsys):
    if name == "ade20k":  # the data have 6 classes, ADE20K's recipe trains 150
        shutil.copytree(stand_ins.segformer(tmp_path / "many", 150), hub / "many", dirs_exist_ok=True)
        network = "many"
    with pytest.raises(WeightsError, match=f"make it with: dtta train {name} --only latent"):
        dtta.load(name, str(hub / network), "latent")
    assert main(["train", name, "--only", "latent", "--steps", "2", "--to", str(tmp_path / "weights")]) == 0
    card = json.loads((tmp_path / "weights" / name / "latent.json").read_text(encoding="utf-8"))
    assert set(card["validation"]) == {"loss under the true map", "loss under the other's map"}
    problem = dtta.load(name, str(hub / network), "latent")
    if name.startswith("own"):
        assert dtta.load(name, str(hub / network)).diffusion.vae is not None  # the default
    kept = load_file(tmp_path / "weights" / name / "latent.safetensors")
    assert not any("vae" in key for key in kept)  # it is frozen and public
    image, _ = problem.image(0)
    z0 = problem.diffusion.encode(image)
    vae = latent_maps.load_vae(name)
    assert torch.equal(z0, vae.encode(2 * image - 1).latent_dist.mean * vae.config.scaling_factor)
    before = problem.model(image)
    moving = problem.diffusion.network.conv_in.weight.detach().clone()
    method = build(problem, "diffusion-tta", **LITTLE)
    assert any(p is problem.diffusion.network.conv_in.weight for p in method.adapted)  # the paper adapts φ too
    assert not torch.allclose(method(image), before, atol=1e-4)
    assert torch.equal(problem.diffusion.network.conv_in.weight, moving)


def test_a_densedepth_is_trained_and_used(hub, data, tmp_path):
    assert main(["train", "own-depth", "--only", "densedepth", "--steps", "2", "--to", str(tmp_path / "weights")]) == 0
    problem = dtta.load("own-depth", "densedepth", str(hub / "sd"))
    image, depth = problem.image(0)
    answer = problem.model(image)
    assert answer.shape == (1, 1, 32, 32) and answer.min() >= 0.5 and answer.max() <= 10
    assert "SSIM" in problem.sums(answer, depth)


def test_training_conditions_on_the_map(hub, data):
    """The condition in training is the one that a one-hot belief gives in use."""
    name = "own-segmentation"
    phi = latent_maps.build(name, 3)
    maps = dense_data.read(name)["train"].load(0, 32)[1][None]
    certain = 200 * F.one_hot(maps, 3).movedim(-1, 1).float()
    torch.testing.assert_close(ade20k.map_condition(phi, maps), ade20k.PixelMixture(phi.class_embeddings)(certain))
    unknown = torch.full_like(maps, -1)
    assert ade20k.map_condition(phi, unknown).abs().sum() == 0
    loss = recipes_of(name)["latent"].loss(phi, torch.Generator().manual_seed(0))
    loss.backward()
    assert phi.class_embeddings.grad.abs().sum() > 0


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", dense_data.SOURCES)
def test_missing_data_says_where_to_get_it(name, hub, monkeypatch, tmp_path):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in .*nothing.* is missing.*to get it: "):
        load(name, hub, "glpn" if name in ("nyuv2", "own-depth") else "segformer")


def test_damaged_data(hub, data):
    problem = load("own-segmentation", hub, "three")
    pairs = dense_data.read("own-segmentation")["test"]
    Image.fromarray(np.full((36, 40), 7, dtype=np.uint8)).save(pairs.maps[0])
    with pytest.raises(ValueError, match="has the class number 7; there are 3 classes"):
        problem.image(0)
    stand_ins.picture(0).save(pairs.maps[0])
    with pytest.raises(ValueError, match="must have one whole number a pixel, not 3 channels"):
        problem.image(0)
    stand_ins.numbers(0, 2, (20, 20)).save(pairs.maps[0])
    with pytest.raises(ValueError, match="differs in size from its image, 40 x 36"):
        problem.image(0)
    pairs.maps[0].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 4 images have no map in annotations/validation"):
        load("own-segmentation", hub, "three")
    depth = dense_data.read("own-depth")["test"].maps[0]
    for eight_bits in (stand_ins.numbers(0, 200), stand_ins.numbers(0, 200).convert("P")):
        eight_bits.save(depth)
        with pytest.raises(ValueError, match="must have 16 bits a pixel"):
            load("own-depth", hub, "glpn").image(0)
    depth.rename(depth.with_suffix(".tif"))
    Image.fromarray(np.full((36, 40), 0.5, dtype=np.float32)).save(depth.with_suffix(".tif"))
    with pytest.raises(ValueError, match="must have one whole number a pixel, not fractions"):
        load("own-depth", hub, "glpn").image(0)


def test_settings_and_classes_are_checked(hub, data):
    with pytest.raises(ValueError, match="predicts 6 classes, the data have 3"):
        load("own-segmentation", hub, "segformer")
    with pytest.raises(ValueError, match="needs a network: give the path"):
        dtta.load("own-segmentation")
    (data / "own-depth" / "settings.json").write_text('{"width": 3}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"settings.json: unknown width; choose from vae, size, widths"):
        load("own-depth", hub, "glpn")
    names = data / "own-segmentation" / "classes.txt"
    names.write_text("one\none\n", encoding="utf-8")
    with pytest.raises(ValueError, match="at least two different names"):
        load("own-segmentation", hub, "three")
    names.write_text("Mädchen\nFuß\n", encoding="utf-8-sig")
    assert dense_data.own_classes() == ("Mädchen", "Fuß")
    names.write_text("Mädchen\nFuß\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"classes.txt is not UTF-8 .*; save it in that encoding"):
        dense_data.own_classes()


def test_missing_checkpoints(hub, data, tmp_path):
    with pytest.raises(WeightsError, match=r"nvidia/segformer-b0-finetuned-ade-512-512 cannot be read"):
        dtta.load("ade20k")
    with pytest.raises(ValueError, match="no model 'dpt'; choose from glpn, densedepth"):
        dtta.load("nyuv2", "dpt")
    shutil.copytree(hub / "sd", tmp_path / "sd")
    path = tmp_path / "sd/controlnet/diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))
    with pytest.raises(WeightsError, match=r"sd/controlnet cannot be read .it has only pickled weights"):
        dtta.load("nyuv2", str(hub / "glpn"), str(tmp_path / "sd"))

"""Open vocabulary on tiny random checkpoints in the hub's layout and generated data in torchvision's."""

from __future__ import annotations

from pathlib import Path

import pytest
import stand_ins
import tiny
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from stand_ins import SIZE, clip, picture, stable_diffusion
from timm.data import ImageNetInfo
from torchvision.transforms.v2 import functional as T

import dtta
from dtta.cli.adapt import read_image
from dtta.evaluation.evaluate import evaluate
from dtta.evaluation.run import Run
from dtta.methods.registry import build
from dtta.problems import PROBLEMS
from dtta.problems.data import images
from dtta.problems.full import open_vocabulary
from dtta.problems.networks.clip import text_features, tokens
from dtta.problems.training.weights import WeightsError

NAMES = [name for name in PROBLEMS if name.startswith("open-vocabulary")]


@pytest.fixture(scope="session")
def hub(tmp_path_factory) -> Path:
    """clip/ and sd/ as downloaded from the hub: configurations, safetensors, tokenizers."""
    root = tmp_path_factory.mktemp("hub")
    clip(root / "clip"), stable_diffusion(root / "sd")
    return root


# --- data in the published layouts ------------------------------------------------------


def imagenet(root: Path, monkeypatch) -> list[str]:
    stand_ins.imagenet(root, ["imagenet"])
    return ["tench", "goldfish", "great white shark"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Generate a data set in $DTTA_DATA: name -> class names."""
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))

    def make(name: str) -> list[str]:
        name = name.removeprefix("open-vocabulary-")
        make = imagenet if name == "imagenet" else getattr(stand_ins, name)
        return make(tmp_path, monkeypatch) if name in ("imagenet", "cifar100", "flowers102") else make(tmp_path)

    return make


def load(name: str, hub: Path, classes: int | None = 3):
    return dtta.load(name, str(hub / "clip"), str(hub / "sd"), classes)


# --- the problems -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_is_read_adapted_and_scored(name, hub, data, tmp_path):
    expected = data(name)
    problem = load(name, hub)
    assert list(problem.classes) == expected[:3]
    assert problem.shape == (3, SIZE, SIZE)
    image, _ = problem.image(1, "fog", 2)
    assert image.shape == (1, 3, SIZE, SIZE) and image.min() >= 0 and image.max() <= 1
    assert sorted(problem.image(k)[1].item() for k in range(3)) == [0, 1, 2]  # one of each class
    files = [path for path in tmp_path.rglob("*.jpg") if "trimaps" not in path.parts]
    assert name.endswith(("cifar100", "imagenet")) or any(
        torch.equal(read_image(path, problem), problem.image(1)[0]) for path in files
    )
    assert problem.size("validation") >= 3
    settings = dict(samples=4, micro_batch=2, rank=2, steps=2, optimizer="adam", lr=0.05)
    method = build(problem, "diffusion-tta", **settings)
    before = problem.model(image)
    assert not torch.allclose(method(image), before, atol=1e-4)
    assert torch.equal(problem.model(image), before)


def test_class_names_of_your_own_need_no_data(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "nothing"))
    problem = dtta.load(NAMES[0], str(hub / "clip"), str(hub / "sd"), ["red ball", "blue box"])
    x = tiny.images(1, channels=3, size=SIZE)
    assert build(problem, "diffusion-tta", samples=2, rank=1, steps=1)(x).shape == (1, 2)
    with pytest.raises(ValueError, match="no labelled images"):
        problem.image(0)


@pytest.mark.slow
def test_all_thousand_names_of_imagenet_differ_and_the_training_part_is_not_needed(hub, data, tmp_path):
    """Two synsets are "crane", with no other word in WordNet; two names differ only in case, which CLIP ignores."""
    data("open-vocabulary-imagenet")
    (tmp_path / "train").unlink()
    problem = load("open-vocabulary-imagenet", hub, None)
    assert len({name.lower() for name in problem.classes}) == len(problem.classes) == 1000
    info = ImageNetInfo()  # which reads its files each time
    words = [info.index_to_description(i) for i in range(1000)]  # WordNet's
    pairs = zip(problem.classes, words, strict=True)
    assert {name: others for name, others in pairs if name != others.partition(",")[0]} == {
        "crane bird": "crane",
        "maillot tank suit": "maillot, tank suit",
        "Cardigan, Cardigan Welsh corgi": "Cardigan, Cardigan Welsh corgi",
    }
    assert problem.classes.index("crane bird") == 134 and problem.classes.index("crane") == 517
    assert problem.size("test") == 1000
    with pytest.raises(ValueError, match="choose from test"):
        problem.size("validation")


def test_evaluation_runs_on_it(hub, data):
    data("open-vocabulary-food101")
    settings = dict(trainable="lora", rank=2, samples=2, steps=1)
    run = Run("diffusion-tta", "open-vocabulary-food101", str(hub / "clip"), str(hub / "sd"), settings)
    rows = evaluate(run, [("clean", 3), ("jpeg", 3)], range(3), progress=False)
    assert len(rows) == 6 and {r.score for r in rows} <= {0.0, 1.0}


def test_the_loss_is_the_pipelines(hub):
    """VAE, text encoder, scheduler and UNet of the library's own pipeline, put together by hand."""
    names = ["red ball", "blue box"]
    model, read = open_vocabulary.load_stable_diffusion(str(hub / "sd"))
    pipeline = StableDiffusionPipeline.from_pretrained(hub / "sd")
    x, t, noise = tiny.images(2, channels=3, size=SIZE), torch.tensor([50, 700]), tiny.normal(2, 4, 16, 16)
    with torch.no_grad():
        latent = pipeline.vae.encode(pipeline.image_processor.preprocess(x)).latent_dist.mean
        z0 = latent * pipeline.vae.config.scaling_factor
        sentences = [f"a photo of a {name}" for name in names]
        text, nothing = pipeline.encode_prompt(sentences, "cpu", 1, do_classifier_free_guidance=True)
        embeddings = read(sentences)
        z_t = DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(z0, noise, t)
        predicted = pipeline.unet(z_t, t, encoder_hidden_states=text).sample
        expected = (predicted - noise).square().mean((1, 2, 3))
        torch.testing.assert_close(embeddings, text, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read([""] * 2), nothing, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model.encode(x), z0, atol=1e-5, rtol=1e-5)
        loss = model.loss(model.encode(x), t, noise, embeddings)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_the_condition_has_a_row_for_each_token(hub):
    problem = dtta.load(NAMES[0], str(hub / "clip"), str(hub / "sd"), ["red ball", "blue box"])
    sentences = [problem.model.template.format(name) for name in problem.classes]
    l = problem.reader(sentences)
    assert torch.equal(l, problem.condition.embeddings)
    words = problem.reader.words(sentences[0])
    assert words == ["‹start›", "a", "photo", "of", "a", "red", "ball", "‹end›"]  # the paper's prompt
    same = (l[0] - l[1]).abs().amax(1) < 1e-5
    assert same[:5].all() and not same[5:].any()  # the text encoder is causal
    assert len(build(problem, "tpt").model.context) == 4


@torch.no_grad()
def test_the_published_layout_and_the_librarys_layout_give_the_same(hub, tmp_path):
    """vocab.json and merges.txt, prefixes and position ids; or tokenizer.json and the library's present names."""
    written = clip(tmp_path / "clip", published=False), stable_diffusion(tmp_path / "sd", published=False)
    files = {path.name for path in (hub / "sd" / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt"} < files and "tokenizer.json" not in files
    assert (written[1] / "tokenizer" / "tokenizer.json").is_file()
    names = load_file(hub / "sd" / "text_encoder" / "model.safetensors")
    assert "text_model.embeddings.position_ids" in names and all(name.startswith("text_model.") for name in names)
    assert not names.keys() & load_file(written[1] / "text_encoder" / "model.safetensors").keys()
    things, x = ["red ball", "blue box"], tiny.images(1, channels=3, size=tiny.CLIP_SIZE)
    sentences = [*things, "a PHOTO of a red-ball 12", ""]
    first, second = (dtta.load(NAMES[0], str(a), str(b), things) for a, b in ((hub / "clip", hub / "sd"), written))
    assert [first.reader.words(s) for s in sentences] == [second.reader.words(s) for s in sentences]
    assert torch.equal(first.reader(sentences), second.reader(sentences))
    assert torch.equal(first.model(x), second.model(x))


def test_clip_from_a_folder_gives_the_librarys_logits(hub, data):
    data("open-vocabulary-aircraft")
    problem = load("open-vocabulary-aircraft", hub)
    model, words = open_vocabulary.load_clip(str(hub / "clip"))
    x = tiny.images(2, channels=3, size=tiny.CLIP_SIZE)
    pixels = problem.model.pixels(x)
    sentences = [f"a photo of a {name}" for name in problem.classes]
    with pytest.raises(ValueError, match="shorten the name"):
        tokens(words, sentences, 5)
    expected = model(
        tokens(words, sentences, model.config.text_config.max_position_embeddings), pixels
    ).logits_per_image
    torch.testing.assert_close(problem.model(x), expected, atol=1e-5, rtol=1e-5)


def test_the_released_code_has_other_prompts_pairs_and_logits(hub):
    """A full stop; ImageNet's mean and deviation; the product with the names' unit vectors times CLIP's scale."""
    names, x = ["red ball", "blue box"], tiny.images(2, channels=3, size=tiny.CLIP_SIZE)
    usual, released = (
        dtta.load(NAMES[0], str(hub / "clip"), str(hub / "sd"), names, as_released=as_released)
        for as_released in (False, True)
    )
    assert [p.settings["diffusion-tta"]["samples"] for p in (usual, released)] == [180, 192]
    usual, l, released = usual.model, released.condition.embeddings, released.model
    sentences = [f"a photo of a {name}." for name in names]
    assert torch.equal(l, open_vocabulary.load_stable_diffusion(str(hub / "sd"))[1](sentences))
    network, tokenizer = open_vocabulary.load_clip(str(hub / "clip"))
    assert torch.equal(released.text, text_features(network, tokenizer, names, ["a photo of a {}."]))
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    seen = network.get_image_features(pixel_values=(x - mean) / std).pooler_output
    torch.testing.assert_close(released(x), network.logit_scale.exp() * seen @ released.text.T, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(released(x), usual(x), atol=1e-3)


def test_in_the_released_code_stable_diffusion_sees_clips_crop(hub, data, monkeypatch):
    """By hand: Pillow's bilinear resize for CLIP, enlarged from there."""
    data("open-vocabulary-food101")
    problem = dtta.load("open-vocabulary-food101", str(hub / "clip"), str(hub / "sd"), as_released=True)
    smooth, side = picture(0, (6, 5)).resize((80, 60), Image.Resampling.BILINEAR), tiny.CLIP_SIZE
    monkeypatch.setattr("dtta.problems.full.open_vocabulary.open_image", lambda path: smooth)
    crop = smooth.resize((int(side * 80 / 60), side), Image.Resampling.BILINEAR)
    left = round((crop.width - side) / 2)
    crop = T.to_dtype(T.pil_to_tensor(crop.crop((left, 0, left + side, side))), torch.float32, scale=True)
    image, _ = problem.image(0)
    assert image.shape == (1, 3, side, side) and (image[0] - crop).abs().mean() < 0.02
    seen = []
    monkeypatch.setattr(problem.diffusion.vae, "encode", lambda x: seen.append(x) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        problem.diffusion.encode(image)
    assert torch.allclose(seen[0], T.resize(2 * image - 1, [SIZE, SIZE], antialias=False), atol=1e-5)


def test_images_are_interleaved_by_class():
    labels = [0] * 5 + [1] * 2 + [2] * 4 + [3] * 9
    order = images.interleave_classes(labels, 3)
    assert [sorted(labels[i] for i in order[k : k + 3]) for k in (0, 3)] == [[0, 1, 2]] * 2
    assert sorted(order) == list(range(11))
    assert order == images.interleave_classes(labels, 3)
    batch = images.interleave_classes(list(range(1000)), 1000)[:64]
    assert 400 < sum(batch) / 64 < 600  # not of neighbouring classes


@pytest.mark.parametrize("size", [(40, 36), (36, 40), (20, 90)])
def test_the_centre_square_is_resized(size):
    whole = picture(0, (5, 5)).resize(size, Image.Resampling.BILINEAR)  # smooth: the edges of the square may be rounded
    square = images.center_square(whole, 32)
    assert square.shape == (3, 32, 32)
    short = min(size)
    left, top = (size[0] - short) / 2, (size[1] - short) / 2
    expected = whole.resize((32, 32), Image.Resampling.BICUBIC, box=(left, top, left + short, top + short))
    assert (square - T.to_dtype(T.pil_to_tensor(expected), torch.float32, scale=True)).abs().mean() < 0.05


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_says_where_to_put_it(name, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"is not in .*nothing.*to get it: "):
        load(name, hub)


def test_unknown_names_and_missing_checkpoints(hub, data):
    data("open-vocabulary-food101")
    with pytest.raises(ValueError, match="no folder and no model 'clip-b32'; choose from clip-vit-base-patch32"):
        dtta.load("open-vocabulary-food101", "clip-b32")
    with pytest.raises(WeightsError, match=r"openai/clip-vit-base-patch32 cannot be read .*give the path"):
        dtta.load("open-vocabulary-food101")
    with pytest.raises(ValueError, match="classes must lie between 2 and 3"):
        load("open-vocabulary-food101", hub, 4)

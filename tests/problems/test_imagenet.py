"""ImageNet's problems on tiny random checkpoints in the hub's layout and generated data in the published layouts."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import stand_ins
import tiny
import torch
import torchvision
from diffusers import DDPMScheduler, DiTPipeline
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.transforms.v2 import functional as T

import dtta
from dtta.cli.adapt import read_image
from dtta.methods.registry import build
from dtta.problems import PROBLEMS
from dtta.problems.data.imagenet import CORRUPTIONS, VALIDATION_ARCHIVES, synsets
from dtta.problems.full import imagenet
from dtta.problems.training.weights import WeightsError

NAMES = [name for name, module in PROBLEMS.items() if module == "dtta.problems.full.imagenet:problem"]
LITTLE = dict(samples=4, micro_batch=2, steps=2, lr=0.05)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("the hub")
    stand_ins.classifier(root / "resnet"), stand_ins.dit(root / "dit")
    return root


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    return stand_ins.objectnet(stand_ins.imagenet(tmp_path_factory.mktemp("my data")))


@pytest.fixture(autouse=True)
def data(published, monkeypatch) -> Path:
    monkeypatch.setenv("DTTA_DATA", str(published))
    return published


def pixels(image: Image.Image) -> torch.Tensor:
    return T.to_dtype(T.pil_to_tensor(image), torch.float32, scale=True)


def load(name: str, hub: Path, network: str = "resnet", diffusion: str = "dit"):
    return dtta.load(name, str(hub / network), str(hub / diffusion))


@pytest.mark.parametrize("name", NAMES)
def test_every_data_set_is_read_adapted_and_scored(name, hub):
    problem = load(name, hub)
    classes = {"imagenet-a": 200, "imagenet-r": 200, "objectnet": 4}.get(name, 1000)
    assert len(problem.classes) == len(set(problem.classes)) == classes
    assert problem.condition.embeddings.shape == (classes, 16)
    shift = {"imagenet-c": "gaussian_noise"}.get(name, "fog")
    image, label = problem.image(1, shift, 5)
    assert image.shape == (1, 3, 32, 32) and image.min() >= 0 and image.max() <= 1
    assert label.item() == problem.image(1, split="test")[1].item() < classes
    file = imagenet.read(name, imagenet.root(name)).paths[1]
    assert torch.equal(read_image(file, problem), problem.image(1)[0])
    before = problem.model(image)
    assert before.shape == (1, classes)
    kept = [p.detach().clone() for p in problem.diffusion.network.parameters()]
    method = build(problem, "diffusion-tta", **LITTLE)
    assert not torch.allclose(method(image), before, atol=1e-4)
    assert torch.equal(problem.model(image), before)
    assert all(torch.equal(a, b) for a, b in zip(kept, problem.diffusion.network.parameters(), strict=True))
    assert problem.score(F.one_hot(label, classes)[None].float(), label) == 1


def test_predictions_are_restricted_to_the_classes_of_the_data_set(hub):
    whole, part = load("imagenet", hub), load("imagenet-r", hub)
    paths = imagenet.read("imagenet-r", imagenet.root("imagenet-r")).paths
    for index in (0, 7, 150):
        number = synsets().index(paths[index].parent.name)
        x, label = part.image(index)
        assert torch.equal(part.model(x)[0, label], whole.model(x)[0, number])
        assert torch.equal(part.condition.embeddings[label], whole.condition.embeddings[number])
        assert part.classes[label] == whole.classes[number]
    labels = imagenet.read("imagenet", imagenet.root("imagenet")).labels
    assert sorted(labels[:1000]) == list(range(1000))  # one of each class before the second of any


def test_imagenet_v2_has_numbered_folders(hub):
    problem = load("imagenet-v2", hub)
    paths = imagenet.read("imagenet-v2", imagenet.root("imagenet-v2")).paths
    assert [int(path.parent.name) for path in paths[:50]] == [problem.image(i)[1].item() for i in range(50)]


def test_corruptions_are_the_published_files(hub, data, tmp_path, monkeypatch):
    for link in ("val", "imagenet-c/noise/gaussian_noise/5"):
        (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / link).symlink_to(data / "val")
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    problem = load("imagenet-c", hub)
    assert problem.shifts == CORRUPTIONS and len(CORRUPTIONS) == 15
    path = imagenet.read("imagenet-c", imagenet.root("imagenet-c")).paths[3]
    published = tmp_path / "imagenet-c/contrast/5" / path.parent.name / path.name
    published.parent.mkdir(parents=True)
    picture = stand_ins.picture(5, (32, 32))
    picture.save(published)
    image, _ = problem.image(3, "contrast", 5)
    expected = picture.resize((33, 33), Image.Resampling.BILINEAR).crop((0, 0, 32, 32))  # appendix A.5, 232 / 224 of 32
    assert (image[0] - pixels(expected)).abs().max() < 0.005 and image.std() < pixels(picture).std() - 0.03
    kept = dtta.load("imagenet-c", str(hub / "resnet"), str(hub / "dit"), keep_size=True).image(3, "contrast", 5)[0]
    assert torch.equal(kept[0], pixels(picture))
    assert torch.equal(problem.image(3, "clean")[0], load("imagenet", hub).image(3)[0])
    with pytest.raises(FileNotFoundError, match=r"it contains no frost/5, which is in weather\.tar.*zenodo"):
        problem.image(0, "frost", 5)
    with pytest.raises(ValueError, match="unknown shift 'jpeg'; choose from clean, gaussian_noise"):
        problem.image(0, "jpeg", 5)


def test_an_object_may_correspond_to_several_classes(hub):
    problem = load("objectnet", hub)
    files = imagenet.read("objectnet", imagenet.root("objectnet"))
    assert len(files) == 6 and list(files.classes) == [409, 504, 530, 659]  # ImageNet has no nail of this kind
    clock = next(i for i, path in enumerate(files.paths) if path.parent.name == "alarm_clock")
    label = problem.image(clock)[1]
    scores = [problem.score(F.one_hot(torch.tensor([j]), 4).float(), label) for j in range(4)]
    assert scores == [1, 0, 1, 0]
    assert problem.image(clock)[0][0, 0].min() < 0.9  # the red frame is cut off


def test_validation_images_are_imagenets_training_images(hub, data, tmp_path, monkeypatch):
    assert load("imagenet-a", hub).size("validation") == 200
    for name in ("val", "imagenet-a"):
        (tmp_path / name).symlink_to(data / name)
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="choose from test"):
        load("imagenet-a", hub).image(0, split="validation")


# --- what the models compute --------------------------------------------------------------------------


def test_the_loss_is_the_pipelines(hub):
    """VAE, scheduler and transformer of the library's own pipeline, put together by hand, with DiT's own numbers."""
    phi = imagenet.load_dit(str(hub / "dit"))
    pipeline = DiTPipeline.from_pretrained(hub / "dit")
    for block in pipeline.transformer.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift, block.norm3.eps = 0, 1e-6
    x, t, noise = tiny.images(2, channels=3, size=32), torch.tensor([50, 700]), tiny.normal(2, 4, 16, 16)
    labels = torch.tensor([3, 998])
    with torch.no_grad():
        z0 = pipeline.vae.encode(2 * x - 1).latent_dist.mean * pipeline.vae.config.scaling_factor
        z_t = DDPMScheduler.from_config(pipeline.scheduler.config).add_noise(z0, noise, t)
        predicted = pipeline.transformer(z_t, t, class_labels=labels).sample[:, :4]
        expected = (predicted - noise).square().mean((1, 2, 3))
        torch.testing.assert_close(phi.encode(x), z0, atol=1e-5, rtol=1e-5)
        for c in (labels, F.one_hot(labels, 1000).float() @ phi.class_embeddings):
            torch.testing.assert_close(phi.loss(phi.encode(x), t, noise, c), expected, atol=1e-5, rtol=1e-5)


def test_images_are_preprocessed_as_each_network_was_trained(hub, tmp_path):
    """By hand: Pillow's own resampling of the shorter side, and the middle square."""
    view = imagenet.load_classifier(str(hub / "resnet"), list(range(1000)))[1]
    assert view == imagenet.View(33, 32)  # from torchvision: 232 / 224 of 32
    smooth = stand_ins.picture(0, (6, 5)).resize((80, 60), Image.Resampling.BILINEAR)
    expected = smooth.resize((44, 33), Image.Resampling.BILINEAR).crop((6, 0, 38, 32))
    assert (view(smooth) - pixels(expected)).abs().mean() < 0.02
    path = tmp_path / "other" / "config.json"
    shutil.copytree(hub / "resnet", path.parent)
    path.write_text(
        path.read_text(encoding="utf-8").replace("tv_in1k", "fb_in1k").replace("bilinear", "bicubic"), encoding="utf-8"
    )
    assert imagenet.load_classifier(str(path.parent), list(range(1000)))[1] == imagenet.View(36, 32, "bicubic")
    image = load("imagenet", hub).image(0)[0]
    for as_released in (False, True):
        problem = dtta.load("imagenet", str(path.parent), str(hub / "dit"), as_released=as_released)
        assert torch.equal(problem.image(0)[0], image) == as_released  # as the networks from torchvision


@pytest.mark.parametrize("as_released", [False, True])
def test_the_released_code_mixes_a_copy_of_the_class_embeddings(hub, as_released):
    problem = dtta.load("imagenet-a", str(hub / "resnet"), str(hub / "dit"), as_released=as_released)
    before = problem.condition.embeddings.detach().clone()
    with torch.no_grad():
        problem.diffusion.class_embeddings.add_(1)
    assert torch.equal(problem.condition.embeddings, before) == as_released


def test_torchvisions_vit_from_a_folder(hub, tmp_path):
    model, view, settings = imagenet.load_classifier(str(stand_ins.vision_transformer(tmp_path / "vit")), [3, 5])
    x = tiny.images(2, channels=3, size=32)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (imagenet.IMAGENET_MEAN, imagenet.IMAGENET_STD))
    torch.testing.assert_close(model(x), model.network((x - mean) / std)[:, [3, 5]], atol=1e-6, rtol=1e-5)
    assert view.crop == 32 and settings["optimizer"] == "sgd"
    with pytest.raises(WeightsError, match="not published as safetensors; convert it once with: mkdir -p vit-b-32"):
        imagenet.load_classifier("vit-b-32", [3])


def test_torchvisions_convnext_from_its_weights_alone(hub, tmp_path, monkeypatch):
    """Converted by the printed command, in the folder where a preset then finds it under the name of its network."""
    network = ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 2), CNBlockConfig(16, None, 1)]).eval()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="convert it once with: mkdir -p convnext-tiny ") as raised:
        imagenet.load_classifier("convnext-tiny", [3])
    _, code, _ = str(raised.value).split('"')
    monkeypatch.setattr(torchvision.models, "convnext_tiny", lambda weights: network)
    (tmp_path / "convnext-tiny").mkdir()
    exec(code)
    model, view, settings = imagenet.load_classifier("convnext-tiny", [3, 5])
    x = tiny.images(2, channels=3, size=64)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (imagenet.IMAGENET_MEAN, imagenet.IMAGENET_STD))
    assert torch.equal(model(x), network((x - mean) / std)[:, [3, 5]])
    assert model.network.state_dict().keys() == network.state_dict().keys()
    assert view == imagenet.View(232, 224, "bilinear") and settings == imagenet.ADAM
    damaged = tmp_path / "convnext-tiny" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(WeightsError, match="convnext-tiny cannot be read"):
        imagenet.load_classifier("convnext-tiny", [3])


# --- errors ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_says_where_to_get_it(name, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=rf"{name} is not in .*nothing.*to get it: .*(http|https)://"):
        load(name, hub)


def test_one_process_unpacks_the_validation_archive(tmp_path, monkeypatch):
    """And the folder appears when it is complete. torchvision, which unpacks, is replaced: its checksums are fixed."""

    def unpack(root: str, split: str) -> None:
        assert (Path(root) / VALIDATION_ARCHIVES[0]).read_text(encoding="utf-8") == "archive"
        with (tmp_path / "times").open("a", encoding="utf-8") as file:
            file.write("x")
        for name in ("n1", "n2"):
            (Path(root) / split / name).mkdir(parents=True)
            time.sleep(0.2)

    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    monkeypatch.setattr("torchvision.datasets.ImageNet", unpack)
    for archive in VALIDATION_ARCHIVES:
        (tmp_path / archive).write_text("archive", encoding="utf-8")
    with ThreadPoolExecutor() as pool:  # a lock excludes threads as it excludes processes
        folders = list(pool.map(lambda _: imagenet.root("imagenet"), range(2)))
        seen = [len(list(folder.iterdir())) for folder in folders]
    assert (tmp_path / "times").read_text(encoding="utf-8") == "x" and seen == [2, 2]


def test_a_missing_class_folder_is_named(hub, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    shutil.copytree(data / "imagenet-a", tmp_path / "imagenet-a")
    shutil.rmtree(tmp_path / "imagenet-a" / "n01498041")
    with pytest.raises(FileNotFoundError, match=r"1 of 200 class folders are missing, such as n01498041\); to get it"):
        load("imagenet-a", hub)


def test_a_damaged_picture_is_named(hub, data, tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_DATA", str(tmp_path))
    shutil.copytree(data / "imagenet-a", tmp_path / "imagenet-a")
    problem = load("imagenet-a", hub)
    path = imagenet.read("imagenet-a", tmp_path / "imagenet-a").paths[0]
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=f"{path.name} is not a readable image"):
        problem.image(0)


def test_unknown_names_and_missing_checkpoints(hub):
    with pytest.raises(ValueError, match="no folder and no model 'resnet-18'; choose from resnet18, resnet50"):
        dtta.load("imagenet", "resnet-18")
    with pytest.raises(WeightsError, match=r"timm/resnet18.tv_in1k cannot be read .*connect to the network"):
        dtta.load("imagenet")
    with pytest.raises(WeightsError, match=r"facebook/DiT-XL-2-512/transformer cannot .*DiTPipeline"):
        dtta.load("imagenet", str(hub / "resnet"), "dit-xl-2-512")
    with pytest.raises(ValueError, match="the classes of imagenet are fixed"):
        dtta.load("imagenet", classes=3)


@pytest.mark.parametrize(
    "part", ["resnet/model.safetensors", "dit/transformer/diffusion_pytorch_model.safetensors", "resnet/config.json"]
)
def test_damaged_checkpoints(part, hub, tmp_path):
    there = tmp_path / "copy"
    shutil.copytree(hub, there)
    (there / part).write_bytes((there / part).read_bytes()[:100])
    with pytest.raises(WeightsError, match=f"{part.split('/')[0]}.*(cannot be read|is damaged)"):
        load("imagenet", there)


@pytest.mark.parametrize(("folder", "file"), [("resnet", "model"), ("dit/transformer", "diffusion_pytorch_model")])
def test_pickled_weights_are_never_opened(folder, file, hub, tmp_path):
    there = tmp_path / "copy"
    shutil.copytree(hub, there)
    (there / folder / f"{file}.safetensors").unlink()
    (there / folder / f"{file}.bin").write_bytes(b"code")
    with pytest.raises(WeightsError, match=f"it has only pickled weights, {file}.bin, which are never opened"):
        load("imagenet", there)


def test_checkpoints_of_another_shape_are_refused(hub, tmp_path):
    stand_ins.classifier(tmp_path / "ten", 10), stand_ins.dit(tmp_path / "dit", 10)
    with pytest.raises(ValueError, match="predicts 10 classes, not ImageNet's thousand"):
        dtta.load("imagenet", str(tmp_path / "ten"), str(hub / "dit"))
    with pytest.raises(WeightsError, match="was trained on 10 classes"):
        load("imagenet", hub, diffusion=str(tmp_path / "dit"))
    shutil.copytree(hub / "dit", tmp_path / "less")
    path = tmp_path / "less/transformer/diffusion_pytorch_model.safetensors"
    tensors = dict(imagenet.load_dit(str(hub / "dit")).network.state_dict())
    save_file({k: v.clone() for k, v in tensors.items() if "proj_out_2" not in k and "norm1.emb" not in k}, path)
    with pytest.raises(WeightsError, match=r"it lacks \d+ tensors, such as"):
        load("imagenet", hub, diffusion=str(tmp_path / "less"))

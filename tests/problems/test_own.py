"""Problems of your own: what is inferred, what each layout of pictures means, and what is refused in one sentence."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import stand_ins
import timm
import tiny
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

import dtta
from dtta.core.adapter import take_logits
from dtta.core.conditions import DepthMap, RelativeDepth
from dtta.problems.data.imagenet import class_names, synsets
from dtta.problems.own.images import read
from dtta.problems.training.weights import WeightsError

NAMES = stand_ins.OWN_NAMES
SETTINGS = dict(steps=1, samples=2)


@pytest.fixture(scope="session")
def pieces(tmp_path_factory) -> Path:
    return stand_ins.own_pieces(tmp_path_factory.mktemp("own"))


def make(pieces, images="photos", network="net", diffusion="dit", classes=NAMES, **options):
    def of(piece):
        return pieces / piece if isinstance(piece, str) else piece

    return dtta.problem(of(network), of(diffusion), of(images), classes, **options)


def save_unet(folder: Path, **options) -> Path:
    """A UNet of pixels with its scheduler, as diffusers' DDPMPipeline writes them."""
    network = tiny.unet_network(sample_size=16, in_channels=3, out_channels=3, **options)
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder


class Flat(nn.Module):
    """A network in plain torch; `shape`: of its output for an image."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape, self.scale = shape, nn.Parameter(torch.linspace(0.5, 2, int(np.prod(shape))))

    def forward(self, x):
        return (x.mean((1, 2, 3), keepdim=True).flatten(1) * self.scale).view(len(x), *self.shape)


# --- classification -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_timms_preprocessing_is_exactly_its_own(pieces, mode):
    problem = make(pieces)
    network = timm.create_model(f"local-dir:{pieces / 'net'}", pretrained=False)
    transform = create_transform(**resolve_model_data_config(network), is_training=False)
    picture = stand_ins.picture(3, (90, 51)).convert(mode)
    picture.save(pieces / "one.png")
    inside = []
    handle = problem.model.network.register_forward_pre_hook(lambda module, args: inside.append(args[0]))
    problem.model(problem.view(picture.convert("RGB"))[None])
    handle.remove()
    assert torch.equal(inside[0][0], transform(picture.convert("RGB")))
    assert "bilinear, center crop of 0.875" in problem.inferred and "32 x 32" in problem.inferred
    assert problem.inferred.splitlines()[1].startswith("task: classification, ")


def test_seven_classes_are_adapted_to(pieces):
    problem = make(pieces)
    assert problem.task == "classification" and problem.classes == tuple(NAMES) and problem.shape == (3, 32, 32)
    assert problem.sizes == {"test": 14, "validation": 7} and problem.labelled
    labels = [problem.image(i)[1].item() for i in range(14)]
    assert sorted(labels[:7]) == list(range(7)) and sorted(labels) == sorted([*range(7)] * 2)
    image, label = problem.image(0, "fog", 3)
    name = NAMES[label].replace("red fox", "red_fox")
    with Image.open(next((pieces / "photos" / name).iterdir())) as file:
        assert file.size == (40, 36)
    tta = dtta.build(problem, "diffusion-tta", **SETTINGS, lr=1e-2)
    before = take_logits(problem.model, None, problem.model(image)).detach()
    assert not torch.equal(tta(image), before) and tta.history[0].condition.shape[1] == 16


def test_labels_follow_the_names_not_the_folders_order(pieces):
    problem = make(pieces)
    shown = {
        tuple(problem.view(stand_ins.picture(10 * k + i))[0, 0, :4].tolist()): k for k in range(7) for i in range(3)
    }
    for split, size in problem.sizes.items():
        for i in range(size):
            image, label = problem.image(i, split=split)
            assert shown[tuple(image[0, 0, 0, :4].tolist())] == label


def test_splits_share_no_picture_and_follow_the_seed(pieces):
    def shown(problem, split):
        return {problem.image(i, split=split)[0].sum().item() for i in range(problem.size(split))}

    one, same, other = make(pieces), make(pieces), make(pieces, split_seed=1)
    assert shown(one, "validation") == shown(same, "validation") != shown(other, "validation")
    assert not shown(one, "validation") & shown(one, "test")
    assert make(pieces, validation=0).sizes == {"test": 21}


def test_decomposed_names_and_names_from_the_folders(pieces, tmp_path):
    folders = tmp_path / "photos"
    for k, name in enumerate("abcdef"):
        (folders / name).mkdir(parents=True)
        stand_ins.picture(k).save(folders / name / "x.png")
    (folders / unicodedata.normalize("NFD", "ö z")).mkdir()
    stand_ins.picture(9).save(folders / unicodedata.normalize("NFD", "ö z") / "x.PNG")
    problem = make(pieces, folders, classes=None)
    assert problem.classes == ("a", "b", "c", "d", "e", "f", "ö z") and problem.sizes == {"test": 7}
    (tmp_path / "names.txt").write_text("ö z\na\nb\nc\nd\ne\nf\n", encoding="utf-8")
    assert make(pieces, folders, classes=tmp_path / "names.txt").classes[0] == "ö z"


def test_a_csv_file_of_names_numbers_and_splits(pieces, tmp_path):
    lines = ["file,label,split", "photos/hund/0.png,hund,test", '"photos/hund/1.png",1,validation', ",,", ""]
    file = pieces / "list.csv"
    file.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    problem = make(pieces, "list.csv")
    assert problem.sizes == {"test": 1, "validation": 1}
    assert problem.image(0)[1] == 1 == problem.image(0, split="validation")[1]


def test_split_folders_are_kept(pieces, tmp_path):
    for split, count in {"test": 2, "val": 1, "train": 1}.items():
        for name in NAMES[:2]:
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(count):
                stand_ins.picture(i).save(tmp_path / split / name / f"{i}.png")
    assert make(pieces, tmp_path).sizes == {"test": 4, "validation": 2}


def test_without_labels_there_is_only_adaptation(pieces):
    problem = make(pieces, "photos/hund")
    assert not problem.labelled and problem.sizes == {"test": 3} and "without labels" in problem.inferred
    image, label = problem.image(2)
    assert dtta.build(problem, "diffusion-tta", **SETTINGS)(image).shape == (1, 7) and label == -1
    with pytest.raises(ValueError, match="no labels, so that nothing can be evaluated"):
        dtta.evaluate(dtta.Run("none"), [("clean", 1)], [0], problem=problem)
    assert make(pieces, pieces / "photos/hund/0.png").sizes == {"test": 1}
    assert make(pieces, None).sizes == {}


def test_a_torch_module_and_a_diffusion_model_and_condition_of_your_own():
    phi = tiny.diffusion("unet")
    condition = tiny.mixture(phi)
    problem = dtta.problem(tiny.classifier(), phi, classes=tiny.NAMES, condition=condition)
    assert problem.condition is condition and problem.shape == (1, 8, 8)
    expected = dtta.build(tiny.problem("unet"), "diffusion-tta", **SETTINGS)(tiny.images(), tiny_generator())
    problem = replace(problem, settings={})
    assert torch.equal(dtta.build(problem, "diffusion-tta", **SETTINGS)(tiny.images(), tiny_generator()), expected)


def tiny_generator():
    return torch.Generator().manual_seed(0)


def test_a_timm_module_has_its_preprocessing(pieces):
    network = timm.create_model(f"local-dir:{pieces / 'net'}", pretrained=False)
    assert make(pieces, network=network).shape == (3, 32, 32)


def test_a_grey_network_and_a_unet_with_one_more_class(tmp_path):
    grey = timm.create_model("resnet10t", in_chans=1, num_classes=3, channels=(4, 4, 8, 8))
    unet = tiny.unet_network(num_class_embeds=4, sample_size=16)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    problem = dtta.problem(grey, tmp_path, classes=["a", "b", "c"])
    assert problem.shape == (1, 176, 176)
    torch.testing.assert_close(problem.model.mean.item(), (0.485 + 0.456 + 0.406) / 3)
    x = problem.view(stand_ins.picture(1))[None]
    table = problem.diffusion.class_embeddings[:3]
    belief = problem.model(x).softmax(1)
    torch.testing.assert_close(problem.condition(problem.model(x)), belief @ table)


def test_a_vision_transformer_of_another_size(pieces):
    shape = dict(img_size=48, patch_size=16, embed_dim=12, depth=1, num_heads=2)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=7, **shape)
    assert make(pieces, network=network).shape == (3, 48, 48)


def test_a_transformers_classifier_with_its_processor(pieces, tmp_path):
    names = dict(enumerate(NAMES))
    shape = dict(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic")
    with tiny.seeded(0):
        network = ResNetForImageClassification(ResNetConfig(**shape, id2label=names)).eval()
    network.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size=dict(height=24, width=24), image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    processor.save_pretrained(tmp_path)
    problem = make(pieces, network=tmp_path, classes=None)
    assert problem.shape == (3, 24, 24) and problem.classes == tuple(NAMES)
    picture = stand_ins.picture(4)
    expected = network(**processor(images=picture, return_tensors="pt")).logits
    torch.testing.assert_close(problem.model(problem.view(picture)[None]), expected)


def test_stable_diffusion_reads_the_class_names(pieces, tmp_path):
    stand_ins.stable_diffusion(tmp_path / "sd")
    problem = make(pieces, diffusion=tmp_path / "sd", prompt="a sketch of a {}")
    expected = problem.reader(["a sketch of a hund"])
    logits = torch.full((1, 7), -1e4)
    logits[0, 1] = 0
    torch.testing.assert_close(problem.condition(logits), expected)


def test_clip_chooses_among_the_names_of_the_folders(pieces, tmp_path):
    stand_ins.clip(tmp_path / "clip"), stand_ins.stable_diffusion(tmp_path / "sd")
    problem = make(pieces, network=tmp_path / "clip", diffusion=tmp_path / "sd", classes=None)
    assert problem.classes == tuple(sorted(NAMES)) and problem.image(0)[1] < 7
    assert problem.settings["diffusion-tta"]["trainable"] == "lora"
    image, _ = problem.image(0)
    assert dtta.build(problem, "diffusion-tta", **SETTINGS)(image).shape == (1, 7)


# --- maps ---------------------------------------------------------------------------------------------


def with_maps(folder: Path, kind: str, most: int, dtype=np.uint8) -> Path:
    for name in ("images", kind):
        (folder / name).mkdir(parents=True)
    for k in range(5):
        stand_ins.picture(k).save(folder / "images" / f"{k}.jpg")
        stand_ins.numbers(k, most, kind=dtype).save(folder / kind / f"{k}.png")
    return folder


def test_masks_with_a_segformer_and_a_controlnet(tmp_path):
    folder = with_maps(tmp_path / "data", "masks", 5)
    stand_ins.segformer(tmp_path / "net"), stand_ins.controlled(tmp_path / "phi")
    with pytest.raises(ValueError, match="colours of the classes in the ControlNet's training maps are not known"):
        dtta.problem(tmp_path / "net", tmp_path / "phi", folder)
    (tmp_path / "phi/colours.txt").write_text("000000\nff0000\n00ff00\n0000ff\nffffff\n787878\n", encoding="utf-8")
    problem = dtta.problem(tmp_path / "net", tmp_path / "phi", folder)
    assert problem.task == "segmentation" and problem.classes[2] == "thing 2"
    assert problem.sizes == {"test": 4, "validation": 1}
    image, label = problem.image(0)
    assert image.shape == (1, 3, 32, 32) and label.shape == (32, 32) and 0 <= label.min() <= label.max() <= 5
    logits = torch.zeros(1, 6, 4, 4)
    logits[:, 1] = 1e4
    assert problem.condition(logits)[0, :, 0, 0].tolist() == [1, 0, 0]
    assert 0 <= problem.score(dtta.build(problem, "diffusion-tta", **SETTINGS)(image), label) <= 1


def test_masks_with_channels_for_the_classes(tmp_path):
    """A module that returns logits, and a UNet that takes one channel for each of three classes."""
    folder = with_maps(tmp_path / "data", "annotations", 2)
    save_unet(tmp_path / "phi", num_class_embeds=None)
    unet = tiny.unet_network(sample_size=16, in_channels=6, out_channels=3, num_class_embeds=None)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "phi")
    problem = dtta.problem(Flat(3, 4, 4), tmp_path / "phi", folder, ["a", "b", "c"])
    assert problem.task == "segmentation" and problem.shape == (3, 16, 16)
    y = problem.model(problem.image(0)[0])
    assert torch.equal(problem.condition(y), y.softmax(1))


@pytest.mark.parametrize("listed", [False, True])
def test_depth_maps_with_a_glpn_and_a_controlnet(tmp_path, listed):
    source = with_maps(tmp_path / "data", "depths", 9000, np.uint16)
    stand_ins.glpn(tmp_path / "net"), stand_ins.controlled(tmp_path / "phi")
    if listed:
        lines = ["file,depth", *(f"data/images/{k}.jpg,data/depths/{k}.png" for k in range(5))]
        source = tmp_path / "list.csv"
        source.write_text("\n".join(lines), encoding="utf-8")
    problem = dtta.problem(tmp_path / "net", tmp_path / "phi", source, far=8)
    assert problem.task == "depth" and type(problem.condition) is RelativeDepth
    assert (problem.condition.near, problem.condition.far) == (0.5, 8)
    image, label = problem.image(0)
    assert label.shape == (1, 32, 32) and label.max() <= 9
    assert problem.model(image).shape == (1, 1, 32, 32)
    assert {"SSIM", "AbsRel, scaled"} <= problem.sums(problem.model(image), label).keys()


def test_depth_maps_with_a_channel_for_the_depth(tmp_path):
    unet = tiny.unet_network(sample_size=16, in_channels=4, out_channels=3, num_class_embeds=None)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    problem = dtta.problem(Flat(16, 16), tmp_path, near=1, far=20)
    assert problem.task == "depth" and type(problem.condition) is DepthMap
    assert problem.model(torch.rand(1, 3, 16, 16)).shape == (1, 1, 16, 16)


# --- refused ------------------------------------------------------------------------------------------


def write(folder: Path, text: str) -> Path:
    (folder / "list.csv").write_text(text, encoding="utf-8")
    return folder / "list.csv"


def test_what_does_not_fit_is_refused_in_one_sentence(pieces, tmp_path):
    stand_ins.dit(tmp_path / "dit5", 5), stand_ins.segformer(tmp_path / "segformer"), stand_ins.clip(tmp_path / "clip")
    save_unet(tmp_path / "no-classes", num_class_embeds=None)
    bare = timm.create_model("resnet10t", num_classes=0)
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed" / "hund").mkdir(parents=True)
    for path in ("mixed/0.png", "mixed/hund/0.png"):
        stand_ins.picture(0).save(tmp_path / path)
    cases = {
        "needs a network: give network": lambda: dtta.problem(None, pieces / "dit"),
        "needs a diffusion model: give diffusion": lambda: dtta.problem(pieces / "net"),
        r"network has 7 classes, and the diffusion model dit5 has 5": lambda: make(pieces, diffusion=tmp_path / "dit5"),
        r"predicts 7 classes, and there are 2 class names \(given\)": lambda: make(pieces, None, classes=["a", "b"]),
        "names of the network's 7 classes are not known": lambda: make(pieces, None, classes=None),
        "not the number 3": lambda: make(pieces, classes=3),
        "class names must differ; repeated: a": lambda: make(pieces, classes=["a", "a", *"bcdef"]),
        "nowhere.txt cannot be read": lambda: make(pieces, classes=tmp_path / "nowhere.txt"),
        "class folder 'e' in .* is not among the 7": lambda: make(pieces, classes=[*NAMES[:3], *"wxyz"]),
        "empty holds no images": lambda: make(pieces, tmp_path / "empty"),
        "there is no folder or file .*nowhere": lambda: make(pieces, tmp_path / "nowhere"),
        "pictures, such as 0.png, next to its class folders": lambda: make(pieces, tmp_path / "mixed"),
        "timm has no network .* similar names: convnext_tiny": lambda: make(pieces, network=Path("convnext_tinyy")),
        r"no classifier \(num_classes=0\)": lambda: make(pieces, network=bare),
        "there is no folder 'nowhere' with a diffusion model": lambda: make(pieces, diffusion=Path("nowhere")),
        "has no scheduler": lambda: make(pieces, diffusion="net"),
        "is a CLIP, which needs class names": lambda: make(pieces, None, network=tmp_path / "clip", classes=None),
        "segmentation needs a diffusion model conditioned on maps": lambda: make(
            pieces, None, network=tmp_path / "segformer", classes=None
        ),
        "no class embedding; build it with num_class_embeds": lambda: make(pieces, diffusion=tmp_path / "no-classes"),
        "takes 1 channels, and the diffusion model dit 3": lambda: make(
            pieces, network=timm.create_model("resnet10t", in_chans=1, num_classes=7)
        ),
        "predicts one class": lambda: dtta.problem(Flat(1), pieces / "dit", classes=["a", "b"]),
        "returns the shape": lambda: dtta.problem(Flat(2, 2, 2, 2), pieces / "dit", classes=["a", "b"]),
        "does not take an image of 3 x 32 x 32": lambda: dtta.problem(nn.Linear(5, 7), pieces / "dit"),
        "validation must be a share": lambda: make(pieces, validation=1.0),
        "not those that this run began with": lambda: make(pieces, fingerprint="0" * 12),
        "near < far": lambda: make(pieces, near=3, far=2),
        r"line 2: there is no file .*x\.png": lambda: make(pieces, write(pieces, "photos/hund/0.png,hund\nx.png,hund")),
        "line 2: write file,label": lambda: make(pieces, write(pieces, "photos/hund/0.png,hund\nphotos/hund/1.png")),
        r"'wolf' \(.*line 1\) is not among": lambda: make(pieces, write(pieces, "photos/hund/0.png,wolf")),
        "line 1: the second column": lambda: make(pieces, write(pieces, "file,sound\nphotos/hund/0.png,hund")),
        "line 1: the split": lambda: make(pieces, write(pieces, "photos/hund/0.png,hund,dev")),
        'line 1, is no line of a CSV file': lambda: make(pieces, write(pieces, '"photos"x,hund')),
        "contains no pictures": lambda: make(pieces, write(pieces, "file,label\n")),
        "has a map for each picture, which classification cannot": lambda: make(
            pieces, write(pieces, "photos/hund/0.png,photos/hund/1.png")
        ),
    }  # fmt: skip
    for message, build in cases.items():
        with pytest.raises(ValueError, match=message) as raised:
            build()
        assert "\n" not in str(raised.value), message


def test_masks_of_another_size_and_without_one_are_refused(tmp_path):
    folder = with_maps(tmp_path / "data", "masks", 2)
    unet = tiny.unet_network(sample_size=16, in_channels=6, out_channels=3, num_class_embeds=None)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "phi")
    stand_ins.numbers(1, 2, (20, 36)).save(folder / "masks/3.png")
    with pytest.raises(ValueError, match=r"3\.png has 20 x 36, and its picture 3\.jpg 40 x 36"):
        dtta.problem(Flat(3, 4, 4), tmp_path / "phi", folder, ["a", "b", "c"])
    (folder / "masks/3.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 5 pictures have no map in .*masks, such as 3\.jpg"):
        dtta.problem(Flat(3, 4, 4), tmp_path / "phi", folder, ["a", "b", "c"])
    stand_ins.numbers(1, 7).save(folder / "masks/3.png")
    problem = dtta.problem(Flat(3, 4, 4), tmp_path / "phi", folder, ["a", "b", "c"], validation=0)
    with pytest.raises(ValueError, match=r"3\.png has the class number 7; there are 3 classes"):
        problem.images(5)


def test_relative_depths_and_flow_matching_are_refused(pieces, tmp_path):
    config = dict(architectures=["DepthAnythingForDepthEstimation"], depth_estimation_type="relative")
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ValueError, match="relative inverse depths, not depths"):
        make(pieces, network=tmp_path)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler/scheduler_config.json").write_text(
        '{"_class_name": "FlowMatchEulerDiscreteScheduler"}', encoding="utf-8"
    )
    with pytest.raises(ValueError, match="flow-matching"):
        make(pieces, diffusion=tmp_path)


def test_weights_of_half_precision_only_and_pickles_are_refused(pieces, tmp_path):
    folder = stand_ins.dit(tmp_path, 7)
    weights = folder / "transformer/diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    with pytest.raises(WeightsError, match=r"save the model as safetensors, .* without a variant"):
        make(pieces, diffusion=folder)


def test_the_fingerprint_follows_names_labels_and_sizes(pieces, tmp_path):
    before = read(pieces / "photos").fingerprint
    assert read(pieces / "photos").fingerprint == before
    (tmp_path / "a").mkdir()
    stand_ins.picture(1).save(tmp_path / "a/x.png")
    one = read(tmp_path).fingerprint
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({before, one, read(tmp_path).fingerprint}) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_pictures_of_more_than_eight_bits(pieces, tmp_path, dtype):
    values = np.linspace(0, 1, 40 * 36).reshape(36, 40)
    name = "x.tif" if dtype is np.float32 else "x.png"
    Image.fromarray((values if dtype is np.float32 else values * 65535).astype(dtype)).save(tmp_path / name)
    image, _ = make(pieces, tmp_path).image(0)
    assert image.shape == (1, 3, 32, 32) and 0.4 < image.mean() < 0.6


def test_weights_of_half_precision_are_used_in_float32(pieces, tmp_path):
    network = stand_ins.dit(tmp_path / "dit", 7)
    for part in ("transformer", "vae"):
        file = network / part / "diffusion_pytorch_model.safetensors"
        save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    problem = make(pieces, diffusion=tmp_path / "dit")
    assert {p.dtype for p in problem.diffusion.parameters()} == {torch.float32}
    assert dtta.build(problem, "diffusion-tta", **SETTINGS)(problem.image(0)[0]).isfinite().all()


def test_paths_may_be_relative_or_start_at_the_home_folder(pieces, monkeypatch):
    monkeypatch.setenv("HOME", str(pieces))
    problem = dtta.problem("~/net", "~/dit", "~/photos", "~/classes.txt")
    monkeypatch.chdir(pieces)
    assert dtta.problem("net", "dit", "photos", "classes.txt").sizes == problem.sizes
    loaded = dtta.load("photos", "net", "dit", NAMES, options={"validation": 0})
    assert loaded.sizes == {"test": 21} and loaded.name == "photos"


def test_folders_named_by_wordnet_ids(pieces, tmp_path):
    (tmp_path / synsets()[207]).mkdir()
    stand_ins.picture(1).save(tmp_path / synsets()[207] / "x.png")
    assert read(tmp_path).labels(class_names(range(1000)), synsets()) == [207]
    with pytest.raises(ValueError, match="not among the 7 class names"):
        make(pieces, tmp_path)


def test_a_name_of_timm_is_looked_for_on_the_hub(pieces):
    with pytest.raises(WeightsError, match=r"timm/convnext_tiny\.fb_in1k cannot be read .* connect to the network"):
        make(pieces, network=Path("convnext_tiny.fb_in1k"))


def test_a_network_that_returns_an_object(pieces):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Wrapping(Flat):
        def forward(self, x):
            return Output(super().forward(x))

    problem = make(pieces, network=Wrapping(7))
    assert problem.model(problem.image(0)[0]).shape == (1, 7)

"""Stand-ins for public files: tiny random checkpoints in the hub's layout, generated data in the published layouts.

Each function writes into a folder and returns it, unless its docstring says otherwise.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import tomllib
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import timm
import tiny
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    DiTPipeline,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from scipy.io import savemat
from timm.data import ImageNetInfo
from torch import nn
from torchvision import datasets
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    GLPNConfig,
    GLPNForDepthEstimation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from dtta.problems.data.hub import Checkpoint
from dtta.problems.data.imagenet import LAYOUTS, classes_of, synsets

SIZE = 32  # of the tiny diffusion models' images
VIT = dict(image_size=SIZE, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=24)


def picture(number: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """An image of random pixels, the same for the same number."""
    rng = np.random.default_rng(number)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


# --- checkpoints --------------------------------------------------------------------------------------


def vae(levels: int = 2, scaling: float = 0.18215) -> AutoencoderKL:
    """A VAE that reduces the side of an image by 2^(levels - 1)."""
    with tiny.seeded(0):
        return AutoencoderKL(
            block_out_channels=(8, 16, 16, 16)[:levels], norm_num_groups=4, latent_channels=4, sample_size=SIZE,
            scaling_factor=scaling, down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
        )  # fmt: skip


def old_tokenizer(folder: Path) -> None:
    """Replace a folder's tokenizer.json by vocab.json and merges.txt, as published with CLIP and Stable Diffusion."""
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    ends = dict(bos_token="<|startoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    about = dict(model_max_length=77, tokenizer_class="CLIPTokenizer", do_lower_case=True, add_prefix_space=False)
    written = {name: dict(content=token, lstrip=False, rstrip=False, normalized=True) for name, token in ends.items()}
    (folder / "tokenizer_config.json").write_text(
        json.dumps(about | written | {"pad_token": "<|endoftext|>"}), encoding="utf-8"
    )
    (folder / "special_tokens_map.json").write_text(
        json.dumps(written | {"pad_token": "<|endoftext|>"}), encoding="utf-8"
    )


def old_keys(path: Path, prefix: str, parts: Collection[str]) -> None:
    """Rewrite a file of weights as older libraries did: a prefix before each name, and position ids."""
    tensors = {prefix + name: tensor for name, tensor in load_file(path).items()}
    for name in parts:
        count = len(tensors[f"{name}.embeddings.position_embedding.weight"])
        tensors[f"{name}.embeddings.position_ids"] = torch.arange(count)[None]
    save_file(tensors, path, {"format": "pt"})


def old_reader(folder: Path) -> None:
    """Rewrite a pipeline's tokenizer and text encoder in the layout of the published Stable Diffusion 1.5."""
    old_tokenizer(folder / "tokenizer")
    old_keys(folder / "text_encoder" / "model.safetensors", "text_model.", ("text_model",))


def clip(folder: Path, published: bool = True) -> Path:
    """A CLIP and its tokenizer, in the published layout or in the library's present one."""
    words = copy.deepcopy(tiny.tokenizer())
    words.model_max_length = 77
    tiny.clip_model(length=77).save_pretrained(folder)
    words.save_pretrained(folder)
    if published:
        old_tokenizer(folder)
        old_keys(folder / "model.safetensors", "", ("text_model", "vision_model"))
    return folder


def stable_diffusion(folder: Path, levels: int = 2, published: bool = True) -> Path:
    """A Stable Diffusion pipeline in either layout; `levels`: of its VAE."""
    words = copy.deepcopy(tiny.tokenizer())
    words.model_max_length = 77
    schedule = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    side = SIZE // 2 ** (levels - 1)
    StableDiffusionPipeline(
        vae=vae(levels), text_encoder=tiny.clip_model(1, 77).text_model, tokenizer=words,
        unet=tiny.text_unet(sample_size=side, in_channels=4, out_channels=4).network,
        scheduler=PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **schedule),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    if published:
        old_reader(folder)
    return folder


def sd3_transformer(seed: int = 0, **options) -> SD3Transformer2DModel:
    """A transformer of 16 latent channels, for tokens of 40 and pooled vectors of 18 numbers."""
    shape = dict(
        sample_size=SIZE // 2, patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=18,
        pos_embed_max_size=24,
    )  # fmt: skip
    with tiny.seeded(seed):
        network = SD3Transformer2DModel(**shape | options)
        for p in network.parameters():  # larger than the library's start, so that sentences differ
            p.data.add_(0.2 * torch.randn(p.shape)) if p.ndim > 1 else None
    return network


def text_encoder(width: int, pooled: int, seed: int) -> CLIPTextModelWithProjection:
    """A CLIP text encoder with a projection."""
    words = tiny.tokenizer()
    ends = dict(bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.eos_token_id)
    shape = dict(hidden_size=width, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2)
    config = CLIPTextConfig(**shape, **ends, vocab_size=len(words), projection_dim=pooled, max_position_embeddings=77)
    with tiny.seeded(seed):
        return CLIPTextModelWithProjection(config).eval()


def t5(width: int = 40) -> tuple[T5EncoderModel, T5Tokenizer]:
    """T5's encoder, and a tokenizer of the words of ``tiny``."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{word}", -2.0) for word in tiny.WORDS)]
    words = T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    shape = dict(d_model=width, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu")
    with tiny.seeded(3):
        return T5EncoderModel(T5Config(vocab_size=len(words), **shape)).eval(), words


def stable_diffusion_3(folder: Path, with_t5: bool = True) -> Path:
    """A Stable Diffusion 3 pipeline in the published layout; T5 may be left out."""
    words = copy.deepcopy(tiny.tokenizer())
    words.model_max_length = 77
    with tiny.seeded(0):
        autoencoder = AutoencoderKL(
            block_out_channels=(8, 16), norm_num_groups=4, latent_channels=16, sample_size=SIZE,
            scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        )  # fmt: skip
    encoder, pieces = t5() if with_t5 else (None, None)
    StableDiffusion3Pipeline(
        transformer=sd3_transformer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=autoencoder,
        text_encoder=text_encoder(16, 8, 1), tokenizer=words, text_encoder_2=text_encoder(20, 10, 2),
        tokenizer_2=words, text_encoder_3=encoder, tokenizer_3=pieces,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def controlled(folder: Path) -> Path:
    """A Stable Diffusion pipeline with a ControlNet; the VAE reduces the side by 8, as the ControlNet does."""
    base = StableDiffusionPipeline.from_pretrained(stable_diffusion(folder, levels=4, published=False))
    with tiny.seeded(3):
        controlnet = ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(8, 8, 8, 8))
        for p in controlnet.parameters():  # its output layers start at zero
            p.data.add_(0.1 * torch.randn(p.shape))
    parts = {name: part for name, part in base.components.items() if name != "image_encoder"}
    StableDiffusionControlNetPipeline(**parts, controlnet=controlnet, requires_safety_checker=False).save_pretrained(
        folder
    )
    old_reader(folder)
    return folder


def segformer(folder: Path, classes: int = 6) -> Path:
    """A SegFormer with classes called thing 0, thing 1, ..."""
    shape = dict(
        depths=[1, 1], num_encoder_blocks=2, hidden_sizes=[8, 16], patch_sizes=[7, 3], strides=[4, 2],
        sr_ratios=[2, 1], num_attention_heads=[1, 2], mlp_ratios=[2, 2], decoder_hidden_size=16,
    )  # fmt: skip
    names = {k: f"thing {k}" for k in range(classes)}
    with tiny.seeded(0):
        config = SegformerConfig(**shape, id2label=names, label2id={v: k for k, v in names.items()})
        network = SegformerForSemanticSegmentation(config)
        network.decode_head.classifier.weight.data.normal_()
    network.save_pretrained(folder)
    return folder


def glpn(folder: Path) -> Path:
    """A GLPN that predicts metres."""
    shape = dict(
        num_encoder_blocks=4, depths=[1] * 4, hidden_sizes=[8] * 4, sr_ratios=[2, 1, 1, 1], decoder_hidden_size=8,
        patch_sizes=[7, 3, 3, 3], strides=[4, 2, 2, 2], num_attention_heads=[1] * 4, mlp_ratios=[2] * 4, max_depth=10,
    )  # fmt: skip
    with tiny.seeded(0):
        GLPNForDepthEstimation(GLPNConfig(**shape)).save_pretrained(folder)
    return folder


def write_network(folder: Path, network: nn.Module, about: dict) -> Path:
    """Write config.json and model.safetensors."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
    save_file(network.state_dict(), folder / "model.safetensors")
    return folder


def densenet(folder: Path) -> Path:
    """A small DenseNet in timm's layout."""
    arguments = dict(growth_rate=4, block_config=[1, 1, 1, 1], num_classes=10)
    about = dict(architecture="densenet169", num_classes=10, model_args=arguments, pretrained_cfg={})
    with tiny.seeded(0):
        return write_network(folder, timm.create_model("densenet169", **arguments), about)


def dit(folder: Path, classes: int = 1000) -> Path:
    """A DiT pipeline with a learned variance and a VAE."""
    network = tiny.dit_network(sample_size=SIZE // 2, in_channels=4, out_channels=8, num_embeds_ada_norm=classes)
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, clip_sample=False)
    DiTPipeline(network, vae(), scheduler).save_pretrained(folder)
    return folder


def classifier(folder: Path, classes: int = 1000) -> Path:
    """A ResNet of ImageNet's classes in timm's layout, for images of 32 pixels."""
    arguments = dict(channels=[8, 8, 16, 16])
    with tiny.seeded(0):
        network = timm.create_model("resnet18", num_classes=classes, **arguments)
        network.fc.weight.data.normal_(std=0.5)
    config = dict(tag="tv_in1k", input_size=[3, 32, 32], crop_pct=0.875, interpolation="bilinear", first_conv="conv1")
    config |= dict(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225], classifier="fc", num_classes=classes)
    about = dict(architecture="resnet18", num_classes=classes, model_args=arguments, pretrained_cfg=config)
    return write_network(folder, network, about)


def vision_transformer(folder: Path) -> Path:
    """A torchvision ViT of ImageNet's classes, for images of 32 pixels."""
    with tiny.seeded(0):
        network = VisionTransformer(**VIT)
        network.heads.head.weight.data.normal_(std=0.5)
    return write_network(folder, network, VIT)


def convnext(folder: Path) -> Path:
    """A torchvision ConvNeXt of ImageNet's classes: its weights alone."""
    with tiny.seeded(0):
        network = ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, 16, 2), CNBlockConfig(16, None, 1)])
        network.classifier[2].weight.data.normal_(std=0.5)
    write_network(folder, network, {})
    (folder / "config.json").unlink()
    return folder


def cached(cache: Path, checkpoint: Checkpoint, make: Callable[[Path], object]) -> None:
    """Write a stand-in into a cache of the hub, at the revision of a checkpoint."""
    folder, revision = cache / f"models--{checkpoint.repository.replace('/', '--')}", checkpoint.revision or "main"
    commit = revision if len(revision) == 40 else 40 * "0"
    make(folder / "snapshots" / commit)
    (folder / "refs" / revision).parent.mkdir(parents=True)
    (folder / "refs" / revision).write_text(commit, encoding="utf-8")


# --- data ---------------------------------------------------------------------------------------------


def imagenet(root: Path, names: Collection[str] = tuple(LAYOUTS)) -> Path:
    """ImageNet's validation part and data sets with its classes (default: all), one image of each class."""
    for name in names:
        layout = LAYOUTS[name]
        folder = root / layout.folders[0]
        if name in ("imagenet-c", "objectnet"):
            continue
        if name in ("imagenet-s", "imagenet-sketch"):  # the same files under another name
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.symlink_to(root / "val")
            continue
        folder.mkdir(parents=True)
        for i in classes_of(name):
            class_folder = folder / (str(i) if layout.numbered else synsets()[i])
            if folder != root / "val" and (root / "val").is_dir():
                class_folder.symlink_to(root / "val" / synsets()[i])
                continue
            class_folder.mkdir()
            picture(i, (12, 10)).save(class_folder / f"{i}.png")
    (root / "train").symlink_to(root / "val")
    for corruption in ("noise/gaussian_noise", "fog", "snow", "pixelate", "contrast") if "imagenet-c" in names else ():
        (root / "imagenet-c" / corruption).mkdir(parents=True)
        (root / "imagenet-c" / corruption / "5").symlink_to(root / "val")
    return root


def devkit(root: Path) -> None:
    """ImageNet's names as torchvision keeps them: the true words of each synset."""
    info = ImageNetInfo()
    words = {synset: tuple(info.index_to_description(i).split(", ")) for i, synset in enumerate(synsets())}
    torch.save((words, []), root / "meta.bin")


def objectnet(root: Path) -> Path:
    """Four classes, three of which ImageNet has too; one of these corresponds to two of ImageNet's."""
    folder = root / "objectnet-1.0"
    (folder / "mappings").mkdir(parents=True)
    lines = [f"name {k}" for k in range(1000)]  # in the order of the devkit
    line_of = {str(index): (index * 7) % 1000 for index in range(1000)}  # class number -> line

    def named(index: int) -> str:
        return lines[line_of[str(index)]]

    things = {"alarm_clock": "Alarm clock", "bowl": "Bowl", "mug": "Mug", "nail": "Nail"}
    to = {"Alarm clock": f"{named(409)}; {named(530)}", "Bowl": named(659), "Mug": named(504)}
    for name, content in {
        "folder_to_objectnet_label.json": things,
        "objectnet_to_imagenet_1k.json": to,
        "pytorch_to_imagenet_2012_id.json": line_of,
    }.items():
        (folder / "mappings" / name).write_text(json.dumps(content), encoding="utf-8")
    (folder / "mappings" / "imagenet_to_label_2012_v2").write_text("\n".join(lines), encoding="utf-8")
    for k, thing in enumerate(things):
        (folder / "images" / thing).mkdir(parents=True)
        for n in range(2):
            framed = Image.new("RGB", (44, 40), (255, 0, 0))
            framed.paste(picture(10 * k + n), (2, 2))
            framed.save(folder / "images" / thing / f"{n}.png")
    return root


NAMES = {
    name: " ".join(text.split()).split(", ")
    for name, text in tomllib.loads(Path(__file__).with_name("class_names.toml").read_text(encoding="utf-8")).items()
}


def food101(root: Path, names: Sequence[str] = ("apple_pie", "ice_cream", "pad_thai"), each: int = 2) -> list[str]:
    """Foods in torchvision's layout, `each` images of a class in each split. Returns their names."""
    meta = {"train": {}, "test": {}}
    for j, name in enumerate(names):
        for k in range(2 * each):
            path = root / "food-101" / "images" / name / f"{k}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(10 * j + k).save(path)
            meta["train" if k < each else "test"].setdefault(name, []).append(f"{name}/{k}")
    (root / "food-101" / "meta").mkdir()
    for split, files in meta.items():
        (root / "food-101" / "meta" / f"{split}.json").write_text(json.dumps(files), encoding="utf-8")
    return [name.replace("_", " ") for name in names]


def cifar100(
    root: Path, monkeypatch, names: Sequence[str] = ("aquarium_fish", "bear", "can"), each: int = 2
) -> list[str]:
    """Pickles, as published; torchvision's checksums are replaced by theirs. Returns the names."""
    folder = root / "cifar-100-python"
    folder.mkdir()
    rng, count = np.random.default_rng(0), each * len(names)
    labels = [*range(len(names))] * each
    parts = {
        part: {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "fine_labels": labels}
        for part in ("train", "test")
    } | {"meta": {"fine_label_names": list(names)}}
    sums = {}
    for part, content in parts.items():
        (folder / part).write_bytes(pickle.dumps(content))
        sums[part] = hashlib.md5((folder / part).read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]})
    return [name.replace("_", " ") for name in names]


def aircraft(root: Path, names: Sequence[str] = ("707-320", "A380", "F-16A/B"), each: int = 2) -> list[str]:
    """Aircraft in torchvision's layout. Returns their names."""
    folder = root / "fgvc-aircraft-2013b" / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("\n".join(names), encoding="utf-8")
    for s, split in enumerate(("train", "test")):
        lines = []
        for k in range(each * len(names)):
            picture(100 * s + k).save(folder / "images" / f"{s}{k}.jpg")
            lines.append(f"{s}{k} {names[k % len(names)]}")
        (folder / f"images_variant_{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return list(names)


def pets(root: Path, names: Sequence[str] = ("Abyssinian", "great_pyrenees", "pug"), each: int = 2) -> list[str]:
    """Pets in torchvision's layout. Returns their names."""
    folder = root / "oxford-iiit-pet"
    (folder / "images").mkdir(parents=True)
    (folder / "annotations" / "trimaps").mkdir(parents=True)
    for s, split in enumerate(("trainval", "test")):
        lines = []
        for k in range(each * len(names)):
            name = f"{names[k % len(names)]}_{s}{k}"
            picture(100 * s + k).save(folder / "images" / f"{name}.jpg")
            lines.append(f"{name} {k % len(names) + 1} 1 1")
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(lines), encoding="utf-8")
    return [name.replace("_", " ").title() for name in names]


def flowers102(root: Path, monkeypatch, classes: int = 3, each: int = 2) -> list[str]:
    """Flowers in torchvision's layout, whose checksums are replaced by theirs. Returns all names."""
    folder, count = root / "flowers-102", each * classes
    (folder / "jpg").mkdir(parents=True)
    for k in range(1, 2 * count + 1):
        picture(k).save(folder / "jpg" / f"image_{k:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.array([[1 + k % classes for k in range(2 * count)]])})
    train, test = np.arange(1, count + 1)[None], np.arange(count + 1, 2 * count + 1)[None]
    savemat(folder / "setid.mat", {"trnid": train, "valid": np.array([[1]]), "tstid": test})
    sums = {
        kind: (name, hashlib.md5((folder / name).read_bytes()).hexdigest())
        for kind, (name, _) in datasets.Flowers102._file_dict.items()
        if kind != "image"
    }
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", datasets.Flowers102._file_dict | sums)
    return [name.replace("_", " ") for name in datasets.Flowers102.classes]


def numbers(seed: int, most: int, size: tuple[int, int] = (40, 36), kind: type = np.uint8) -> Image.Image:
    """A map of constant blocks with numbers from 0 to `most`."""
    coarse = np.random.default_rng(seed).integers(0, most + 1, (size[1] // 4, size[0] // 4))
    return Image.fromarray(coarse.repeat(4, 0).repeat(4, 1).astype(kind))


def _map_folders(folder: Path, kind: str, value: Callable[[int], Image.Image], suffix: str = ".jpg") -> None:
    for p, part in enumerate(("training", "validation")):
        for place in ("images", kind):
            (folder / place / part).mkdir(parents=True)
        for k in range(4):
            picture(10 * p + k).save(folder / "images" / part / f"ADE_{part}_{k}{suffix}")
            value(10 * p + k).save(folder / kind / part / f"ADE_{part}_{k}.png")


def ade20k(root: Path, classes: int = 6) -> Path:
    """Images and label maps; some pixels have no label."""
    _map_folders(root / "ADEChallengeData2016", "annotations", lambda k: numbers(k, classes))
    return root


def own_segmentation(root: Path, classes: int = 3) -> Path:
    """Images, label maps and classes.txt of your own."""
    _map_folders(root / "own-segmentation", "annotations", lambda k: numbers(k, classes - 1), ".png")
    (root / "own-segmentation" / "classes.txt").write_text(
        "".join(f"sort {k}\n" for k in range(classes)), encoding="utf-8"
    )
    return root


def own_depth(root: Path) -> Path:
    """Images and depths of your own, up to five metres."""
    _map_folders(root / "own-depth", "depths", lambda k: numbers(k, 5000, kind=np.uint16))
    return root


OWN_NAMES = ["Äpfel und Birnen", "hund", "katze", "red fox", "e", "f", "g"]  # in the network's order, not sorted


def own_pieces(root: Path) -> Path:
    """net/ and dit/ of seven classes, classes.txt with their names, and photos/ with three pictures of each."""
    classifier(root / "net", 7)
    dit(root / "dit", 7)
    (root / "classes.txt").write_text("\n".join(OWN_NAMES), encoding="utf-8")
    for k, name in enumerate(OWN_NAMES):
        folder = root / "photos" / name.replace("red fox", "red_fox")
        folder.mkdir(parents=True)
        for i in range(3):
            picture(10 * k + i).save(folder / f"{i}.png")
    return root


def nyuv2(root: Path) -> Path:
    """NYU Depth v2 as DenseDepth's authors packed it."""
    data = root / "nyu_data" / "data"
    for part, ends, value in (
        ("train", ("{}.jpg", "{}.png"), lambda k: numbers(k, 255)),
        ("test", ("{:05d}_colors.png", "{:05d}_depth.png"), lambda k: numbers(k, 9000, kind=np.uint16)),
    ):
        folder = data / f"nyu2_{part}" / ("living_room_0038_out" if part == "train" else "")
        folder.mkdir(parents=True)
        lines = []
        for k in range(4):
            names = [folder / end.format(k) for end in ends]
            picture(k).save(names[0]), value(k).save(names[1])
            lines.append(",".join(str(name.relative_to(root / "nyu_data")) for name in names))
        (data / f"nyu2_{part}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root

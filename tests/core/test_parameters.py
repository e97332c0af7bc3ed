"""Which weights move: the parts of the networks used here, named one by one."""

from __future__ import annotations

import pytest
import timm
import tiny
import torch
from torch import nn
from torchvision import models

from dtta.core.diffusion import DiT
from dtta.core.parameters import TRAINABLE, select
from dtta.methods.settings import Logits, reinitialize


def names(module: nn.Module, part: str) -> list[str]:
    known = {id(p): name for name, p in module.named_parameters()}
    return [known[id(p)] for p in select(module, part)]


def resnet() -> nn.Module:
    return timm.create_model("resnet10t", in_chans=1, num_classes=4, channels=(4, 8, 8, 8), stem_width=4)


def vit() -> nn.Module:
    shape = dict(img_size=8, patch_size=4, embed_dim=8, depth=2, num_heads=2)
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, num_classes=4, **shape)


@pytest.mark.parametrize("make", [resnet, vit, tiny.unet_network, tiny.dit_network, tiny.classifier])
def test_all_is_every_weight_once(make):
    module = make()
    assert [id(p) for p in select(module)] == [id(p) for p in module.parameters()]


def test_norm_of_a_resnet_is_its_batch_norms():
    module = resnet()
    expected = []
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm2d):
            expected += [f"{name}.weight", f"{name}.bias"]
    assert names(module, "norm") == expected


def test_norm_of_a_vit_is_its_layer_norms():
    expected = [f"blocks.{i}.norm{j}.{w}" for i in (0, 1) for j in (1, 2) for w in ("weight", "bias")]
    assert names(vit(), "norm") == [*expected, "norm.weight", "norm.bias"]


def test_norm_of_a_unet_is_its_group_norms():
    module = tiny.unet_network()
    groups = sum(isinstance(m, nn.GroupNorm) for m in module.modules())
    found = names(module, "norm")
    assert len(found) == 2 * groups
    assert all("norm" in name for name in found)


@pytest.mark.parametrize(("make", "expected"), [
    (resnet, ["fc.weight", "fc.bias"]),
    (vit, ["head.weight", "head.bias"]),
    (tiny.unet_network, ["conv_out.weight", "conv_out.bias"]),
    (tiny.dit_network, ["proj_out_2.weight", "proj_out_2.bias"]),
])  # fmt: skip
def test_head_is_the_last_layer(make, expected):
    assert names(make(), "head") == expected


def test_lora_is_what_peft_added():
    from peft import LoraConfig

    module = tiny.text_unet().network
    before = {name for name, _ in module.named_parameters()}
    module.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    layers = sum("lora_A" in name for name, _ in module.named_parameters())
    found = names(module, "lora")
    assert layers > 0
    assert len(found) == 2 * layers
    assert not before & set(found)
    assert all(".lora_A." in name or ".lora_B." in name for name in found)


def test_shared_weights_are_given_once():
    """The DiT adapter ties one embedder into every block; an optimizer must not step it three times."""
    network = DiT(tiny.dit_network(), tiny.scheduler()).network
    found = select(network)
    assert len({id(p) for p in found}) == len(found) == len(list(network.parameters()))
    linear = nn.Linear(3, 3)
    assert len(select(nn.Sequential(linear, nn.ReLU(), linear))) == 2
    norm = nn.LayerNorm(3)
    assert len(select(nn.Sequential(norm, linear, norm), "norm")) == 2


@pytest.mark.parametrize(("part", "module", "message"), [
    ("bias", nn.Linear(2, 2), "unknown choice 'bias' of parameters; choose from all, norm, head, lora"),
    ("norm", nn.Linear(2, 2), "Linear has no parameters of the kind 'norm'"),
    ("lora", nn.Linear(2, 2), "Linear has no parameters of the kind 'lora'"),
    ("head", nn.LayerNorm(2), "LayerNorm has no parameters of the kind 'head'"),
    ("all", nn.ReLU(), "ReLU has no parameters of the kind 'all'"),
    ("norm", tiny.dit_network(), "no parameters of the kind 'norm'"),  # its norms have no scale of their own
])  # fmt: skip
def test_errors(part, module, message):
    with pytest.raises(ValueError, match=message):
        select(module, part)


def test_parts_are_documented():
    assert all(f'"{part}"' in select.__doc__ for part in TRAINABLE)


def test_logits_start_at_the_networks_answer(model, image):
    logits = Logits(tiny.CLASSES, model)
    with torch.no_grad():
        assert torch.equal(logits(image), model(image))
        logits.delta += torch.arange(5.0)
        torch.testing.assert_close(logits(image), model(image) + torch.arange(5.0))
    logits(image).sum().backward()
    assert torch.equal(logits.delta.grad, torch.ones(1, 5))
    assert all(p.grad is None for p in model.parameters())


def test_logits_from_nothing(image):
    logits = Logits(3)
    assert torch.equal(logits(image), torch.zeros(1, 3))
    logits(image)[0, 1].backward()
    assert torch.equal(logits.delta.grad, torch.tensor([[0.0, 1.0, 0.0]]))


def test_logits_belong_to_one_image(model):
    with pytest.raises(ValueError, match="belong to one image; got a batch of 2"):
        Logits(tiny.CLASSES, model)(tiny.images(2))


@pytest.mark.parametrize("make", [resnet, vit])
def test_drawn_anew_all_weights_are_others_and_the_same_for_a_seed(make):
    network = make()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    state = torch.get_rng_state()
    reinitialize(network, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's numbers change
    for name, p in network.named_parameters():
        constant = p.min() == p.max()  # scales, shifts and biases start at one or zero
        assert constant or not torch.equal(p, before[name]), name
    first = [p.detach().clone() for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(first, reinitialize(network, seed=1).parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, reinitialize(network, seed=2).parameters(), strict=True))


def test_drawn_anew_statistics_start_again():
    network = resnet()
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_mean.fill_(3.0)
    reinitialize(network)
    assert (norm.running_mean == 0).all() and (norm.running_var == 1).all()


@pytest.mark.parametrize(
    ("build", "left_out"), [("resnet18", 4.4), ("resnet50", 8.0), ("vit_b_32", 25.0), ("convnext_tiny", 2.7)]
)
def test_leaf_modules_are_what_the_released_code_moves(build, left_out):
    """All layers that hold none but the last one; the share of the weights that this leaves out is known."""
    with torch.device("meta"):
        network = getattr(models, build)()
    moved = sum(p.numel() for p in select(network, "leaf_modules"))
    whole = sum(p.numel() for p in network.parameters())
    assert 100 * (1 - moved / whole) == pytest.approx(left_out, abs=0.06)
    last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    assert not {id(p) for p in last.parameters()} & {id(p) for p in select(network, "leaf_modules")}

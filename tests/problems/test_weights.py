"""Weights on disk: saved and loaded, and a clear error for every kind of damage."""

from __future__ import annotations

import hashlib
import json
from functools import partial

import pytest
import tiny
import torch
from safetensors.torch import load_file
from torch import nn

import dtta
from dtta.problems.training import weights
from dtta.problems.training.weights import WeightsError

COMMAND = "dtta train digits --only resnet"


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "digits" / "tiny.safetensors"
    weights.save(tiny.classifier(seed=1), {"data": "noise", "seed": 1}, file)
    return file


def test_weights_are_stored_in_half_precision(path):
    model = weights.load(tiny.classifier(seed=2).train(), path, COMMAND)
    original = tiny.classifier(seed=1).state_dict()
    for name, value in model.state_dict().items():
        assert value.dtype == original[name].dtype
        rounded = original[name].half().to(value.dtype) if value.is_floating_point() else original[name]
        assert torch.equal(value, rounded)
    assert not model.training
    stored = load_file(path)
    assert {v.dtype for v in stored.values() if v.is_floating_point()} == {torch.float16}


@pytest.mark.parametrize("family", ["unet", "dit"])
def test_a_loaded_diffusion_model_predicts_the_same(tmp_path, family):
    """As the original with rounded weights; also with tied embeddings."""
    original = tiny.diffusion(family, seed=1)
    weights.save(original, {}, tmp_path / "d.safetensors")
    loaded = weights.load(tiny.diffusion(family, seed=2), tmp_path / "d.safetensors", COMMAND)
    with torch.no_grad():
        for p in original.parameters():
            p.copy_(p.half())
    z, t, labels = tiny.normal(3, 1, 8, 8), torch.tensor([1, 500, 999]), torch.tensor([0, 1, 4])
    with torch.no_grad():
        assert torch.equal(loaded.predict(z, t, labels), original.predict(z, t, labels))


def test_the_card(path):
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["data"] == "noise"
    assert card["seed"] == 1
    assert card["parameters"] == sum(p.numel() for p in tiny.classifier().parameters())
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def flip(file):
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def rehash(file):
    """Update the checksum on the card."""
    card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    file.with_suffix(".json").write_text(
        json.dumps(card | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}), encoding="utf-8"
    )


def garbage(file):
    file.write_bytes(b"not safetensors")
    rehash(file)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda f: f.unlink(), "or its card is missing"),
    (lambda f: f.with_suffix(".json").unlink(), "or its card is missing"),
    (flip, "is damaged: its checksum differs from its card"),
    (lambda f: f.write_bytes(f.read_bytes()[:-100]), "is damaged: its checksum"),
    (lambda f: f.write_bytes(b""), "is damaged: its checksum"),
    (garbage, "or its card is damaged"),
    (lambda f: f.with_suffix(".json").write_text("{", encoding="utf-8"), "or its card is damaged"),
    (lambda f: f.with_suffix(".json").write_text("{}", encoding="utf-8"), "or its card is damaged"),
    (lambda f: f.with_suffix(".json").write_text("[]", encoding="utf-8"), "or its card is damaged"),
    (lambda f: f.with_suffix(".json").write_bytes(b"\xff\xfe"), "or its card is damaged"),
], ids=["no file", "no card", "bit flip", "cut", "nothing", "garbage", "half", "empty", "list", "bytes"])  # fmt: skip
def test_the_error_names_the_damaged_file_and_the_command_that_makes_it(path, damage, message):
    damage(path)
    model = tiny.classifier(seed=2)
    with pytest.raises(WeightsError, match=message) as error:
        weights.load(model, path, COMMAND)
    assert str(error.value).endswith(f"make it with: {COMMAND}")
    assert str(path) in str(error.value)
    for a, b in zip(model.parameters(), tiny.classifier(seed=2).parameters(), strict=True):
        assert torch.equal(a, b)  # the network is unchanged


@pytest.mark.parametrize("other", [nn.Linear(2, 2), tiny.Classifier(classes=6)], ids=["names", "shapes"])
def test_another_network_is_refused(path, other):
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(WeightsError, match=f"belongs to another network; make it with: {COMMAND}"):
        weights.load(other, path, COMMAND)
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_the_folder_of_the_weights(monkeypatch, tmp_path):
    monkeypatch.delenv("DTTA_WEIGHTS", raising=False)
    path = weights.path_of("digits", "unet")
    assert path.parts[-3:] == ("weights", "digits", "unet.safetensors")
    assert path.parent.parent.parent.samefile(dtta.__path__[0])
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    assert weights.path_of("digits", "unet") == tmp_path / "digits" / "unet.safetensors"
    assert weights.path_of("digits", "unet", tmp_path / "x") == tmp_path / "x" / "digits" / "unet.safetensors"


def test_missing_weights_of_a_problem(monkeypatch, tmp_path):
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match="missing; make it with: dtta train digits --only resnet"):
        dtta.load("digits")


@pytest.fixture
def table():
    return {"first": partial(tiny.classifier, seed=5), "second": partial(tiny.classifier, seed=6)}


def test_ready_loads_the_weights(monkeypatch, tmp_path, table):
    """Of the first of the table unless one is named, in eval mode, without a change of the global random state."""
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    for seed, name in enumerate(table, 1):
        weights.save(tiny.classifier(seed), {}, weights.path_of("toys", name))
    before = torch.get_rng_state()
    for name, seed in ((None, 1), ("first", 1), ("second", 2)):
        model = weights.ready("toys", table, name)
        assert torch.equal(model.head.weight, tiny.classifier(seed).head.weight.half().float())
        assert not model.training
    assert torch.equal(torch.get_rng_state(), before)


def test_ready_with_an_unknown_model_or_missing_weights(monkeypatch, tmp_path, table):
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path))
    with pytest.raises(ValueError, match="the toys problem has first, second, not 'third'"):
        weights.ready("toys", table, "third")
    with pytest.raises(WeightsError, match="missing; make it with: dtta train toys --only second"):
        weights.ready("toys", table, "second")


def test_unknown_problems_and_models():
    with pytest.raises(ValueError, match="unknown problem 'cats'; choose from digits, scenes-segmentation, scenes-d"):
        dtta.load("cats")
    with pytest.raises(ValueError, match=r"resnet.*vit.*not 'vgg'"):
        dtta.load("digits", network="vgg")


@pytest.mark.parametrize(("variable", "threads"), [(None, 1), ("2", 2)])
def test_shipped_models_compute_with_one_thread_unless_the_user_chose(variable, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        dtta.load("digits")
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)

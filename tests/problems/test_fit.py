"""The training loop: the same bytes after an interruption, checkpoints that survive, files written atomically."""

from __future__ import annotations

import math
import os

import pytest
import safetensors.torch
import tiny
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from dtta.problems.training.fit import fit, unique_tensors, write_tensors


class Stop(Exception):
    pass


def noisy_loss(stop_at: int | None = None, bad_at: int | None = None):
    """Cross-entropy on random images; raises or returns NaN at a given call."""
    calls = []

    def batch_loss(network, generator):
        calls.append(1)
        if len(calls) == stop_at:
            raise Stop
        images = torch.rand(8, 1, 8, 8, generator=generator)
        labels = torch.randint(tiny.CLASSES, (8,), generator=generator)
        loss = F.cross_entropy(network(images), labels)
        return loss * float("nan") if len(calls) == bad_at else loss

    return batch_loss


def network() -> nn.Module:
    model = tiny.classifier()
    model.dropout = nn.Identity()  # it uses the global random state, which is not in a checkpoint
    return model


def train(path, loss=None, steps=12, **options) -> nn.Module:
    return fit(network(), loss or noisy_loss(), steps=steps, lr=1e-2, checkpoint=path, save_every=4, **options)


def bytes_of(model) -> bytes:
    return safetensors.torch.save({k: v.contiguous() for k, v in model.state_dict().items()})


@pytest.mark.parametrize("stop", [2, 5, 6, 9, 12])
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, stop):
    """At whatever step: weights, averages, moments, statistics and the random state are restored."""
    whole = train(tmp_path / "whole.safetensors")
    path = tmp_path / "parts.safetensors"
    with pytest.raises(Stop):
        train(path, noisy_loss(stop_at=stop))
    assert path.exists() is (stop > 4)
    torch.manual_seed(99)  # the global random state does not matter
    resumed = train(path)
    assert bytes_of(resumed) == bytes_of(whole)
    assert path.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert bytes_of(resumed) != bytes_of(network())


def test_resuming_does_not_repeat_steps(tmp_path):
    path, calls = tmp_path / "c.safetensors", []
    with pytest.raises(Stop):
        train(path, noisy_loss(stop_at=10))  # saved at 4 and 8

    loss = noisy_loss()

    def counted(model, generator):
        calls.append(1)
        return loss(model, generator)

    train(path, counted)
    assert len(calls) == 12 - 8
    train(path, counted)  # a finished run takes no further step
    assert len(calls) == 12 - 8


def test_the_recipe_against_plain_adamw(tmp_path):
    """Warm-up, cosine decay, clipping at 1 and the moving average, against an independent implementation."""
    got = train(tmp_path / "c.safetensors", steps=5, seed=3)
    model, generator, loss = network().train(), torch.Generator().manual_seed(3), noisy_loss()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
    average = {k: v.clone().double() for k, v in model.state_dict().items()}
    for step in range(5):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (step + 1) / 100 * (1 + math.cos(math.pi * step / 5)) / 2
        optimizer.zero_grad()
        loss(model, generator).backward()
        norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
        for p in model.parameters():
            p.grad *= min(1.0, 1 / (norm + 1e-6))
        optimizer.step()
        decay = min(0.999, (step + 1) / (step + 10))
        average = {k: decay * average[k] + (1 - decay) * v.double() for k, v in model.state_dict().items()}
    for name, value in got.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
    assert got.norm.num_batches_tracked == 5
    assert not got.training


def test_training_reduces_the_loss(tmp_path):
    images, labels = tiny.images(20), torch.arange(20) % tiny.CLASSES
    before = F.cross_entropy(network()(images), labels)
    model = fit(
        network(), lambda m, g: F.cross_entropy(m(images), labels), steps=150, lr=1e-2,
        checkpoint=tmp_path / "c.safetensors", ema_decay=0.9,
    )  # fmt: skip
    with torch.no_grad():
        assert F.cross_entropy(model(images), labels) < before / 2


def test_a_loss_that_is_not_finite_leaves_the_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    with pytest.raises(Stop):
        train(path, noisy_loss(stop_at=6))
    saved = path.read_bytes()
    with pytest.raises(FloatingPointError, match="training: the loss is nan at step 6; lower the learning rate"):
        train(path, noisy_loss(bad_at=3))
    assert path.read_bytes() == saved
    train(path)  # the run can be resumed


def test_shared_tensors_are_stored_once(tmp_path):
    linear = nn.Linear(2, 2)
    shared = nn.Sequential(linear, nn.ReLU(), linear)
    assert list(unique_tensors(shared)) == ["0.weight", "0.bias"]
    assert len(shared.state_dict()) == 4
    tied = tiny.diffusion("dit")
    tensors = unique_tensors(tied)
    assert len({v.data_ptr() for v in tensors.values()}) == len(tensors) < len(tied.state_dict())
    assert {v.data_ptr() for v in tensors.values()} >= {p.data_ptr() for p in tied.parameters()}
    write_tensors(tmp_path / "t.safetensors", tensors)  # safetensors refuses shared memory
    assert load_file(tmp_path / "t.safetensors").keys() == tensors.keys()


def test_files_are_written_atomically(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "w.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    old = path.read_bytes()

    def half(tensors, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("dtta.problems.training.fit.save_file", half)
        with pytest.raises(OSError, match="disk full"):
            write_tensors(path, {"a": torch.zeros(3)})
    assert path.read_bytes() == old

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            write_tensors(path, {"a": torch.zeros(3)})
    assert torch.equal(load_file(path)["a"], torch.ones(3))
    write_tensors(path, {"a": torch.zeros(3).expand(3)})
    assert torch.equal(load_file(path)["a"], torch.zeros(3))
    assert [p.name for p in path.parent.iterdir()] == ["w.safetensors"]

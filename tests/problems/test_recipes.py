"""Recipes: what training writes, what it skips, and reproducible bytes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny
import torch
from torch.nn import functional as F

from dtta.problems.training import recipes, weights
from dtta.problems.training.recipes import Recipe, train


def network() -> tiny.Classifier:
    """A classifier
    of two lines."""
    model = tiny.Classifier()
    model.dropout = torch.nn.Identity()
    return model


def loss(model, generator):
    images = torch.rand(4, 1, 8, 8, generator=generator)
    return F.cross_entropy(model(images), torch.randint(tiny.CLASSES, (4,), generator=generator))


RECIPE = Recipe(
    network, loss, lambda model: {"size": len(model.head.bias)}, "noise", "none", steps=3, lr=0.01, weight_decay=0.5
)
TABLE = {"a": RECIPE, "b": replace(RECIPE, steps=2)}


def test_it_writes_weights_and_a_card(tmp_path, capsys):
    train("toys", TABLE, tmp_path, ["a"])
    path = weights.path_of("toys", "a", tmp_path)
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    expected = {
        "model": "toys/a", "what": "A classifier of two lines.", "data": "noise", "licence": "none",
        "command": "dtta train toys --only a", "seed": 0, "steps": 3, "lr": 0.01, "weight_decay": 0.5,
        "torch": torch.__version__, "validation": {"size": tiny.CLASSES},
    }  # fmt: skip
    assert {name: card[name] for name in expected} == expected
    assert card["seconds"] >= 0
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json", "a.safetensors"]  # and no checkpoint
    weights.load(network(), path, "")
    assert f"{path}: {expected['validation']}" in capsys.readouterr().out


def test_existing_models_are_skipped(tmp_path, capsys, monkeypatch):
    train("toys", TABLE, tmp_path, ["a"])
    trained = []
    fit = recipes.fit
    monkeypatch.setattr(recipes, "fit", lambda *a, **b: trained.append(b["description"]) or fit(*a, **b))
    train("toys", TABLE, tmp_path)
    assert trained == ["b"]
    assert "a.safetensors already exists; delete it to train the model again" in capsys.readouterr().out


def test_the_bytes_do_not_depend_on_the_global_random_state(tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        train("toys", TABLE, tmp_path / str(seed))
        assert torch.equal(torch.get_rng_state(), before)
    for name in TABLE:
        first, second = (weights.path_of("toys", name, tmp_path / s).read_bytes() for s in "12")
        assert first == second
    train("toys", TABLE, tmp_path / "3", ["a"], seed=5)
    assert weights.path_of("toys", "a", tmp_path / "3").read_bytes() != first


def test_an_interrupted_training_ends_with_the_same_bytes(tmp_path, monkeypatch):
    train("toys", TABLE, tmp_path / "whole", ["a"])
    calls = []

    def stopping(model, generator):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return loss(model, generator)

    fit = recipes.fit
    monkeypatch.setattr(recipes, "fit", lambda *a, **b: fit(*a, **b, save_every=1))
    with pytest.raises(KeyboardInterrupt):
        train("toys", {"a": replace(RECIPE, loss=stopping)}, tmp_path / "parts", ["a"])
    assert not weights.path_of("toys", "a", tmp_path / "parts").exists()
    train("toys", TABLE, tmp_path / "parts", ["a"])
    whole, parts = (weights.path_of("toys", "a", tmp_path / p).read_bytes() for p in ("whole", "parts"))
    assert whole == parts


def test_fewer_steps_for_a_trial(tmp_path):
    train("toys", TABLE, tmp_path, ["a"], steps=1)
    assert (
        json.loads(weights.path_of("toys", "a", tmp_path).with_suffix(".json").read_text(encoding="utf-8"))["steps"]
        == 1
    )


def test_unknown_models(tmp_path):
    with pytest.raises(ValueError, match="unknown model 'c'; choose from a, b"):
        train("toys", TABLE, tmp_path, ["c"])
    assert not list(tmp_path.iterdir())


def test_training_that_diverges_leaves_no_weights(tmp_path):
    with pytest.raises(FloatingPointError, match="a: the loss is nan"):
        train("toys", {"a": replace(RECIPE, loss=lambda m, g: loss(m, g) * float("nan"))}, tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_that_depends_on_another_reads_it_from_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DTTA_WEIGHTS", str(tmp_path / "elsewhere"))

    def loss_with_a(model, generator):
        below = weights.ready("toys", {"a": network}, "a")
        return loss(model, generator) + 0 * sum(p.sum() for p in below.parameters())

    table = {"a": RECIPE, "b": replace(RECIPE, loss=loss_with_a)}
    train("toys", table, tmp_path / "here")
    assert weights.path_of("toys", "b", tmp_path / "here").exists()
    assert weights.folder() == tmp_path / "elsewhere"
    with pytest.raises(weights.WeightsError, match=r"a\.safetensors or its card is missing"):
        train("toys", table, tmp_path / "there", ["b"])
    assert weights.folder() == tmp_path / "elsewhere"


def test_a_problem_of_public_checkpoints_trains_nothing(tmp_path):
    with pytest.raises(ValueError, match="nothing to train for big: its checkpoints are public"):
        train("big", {}, tmp_path)

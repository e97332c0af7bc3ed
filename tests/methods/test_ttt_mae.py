"""TTT-MAE: the reconstruction written out, what moves, and what the masked autoencoder sees."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from dtta.methods.registry import build
from dtta.problems.networks.mae import MaskedAutoencoder


def network(**options) -> MaskedAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MaskedAutoencoder(**dict(classes=tiny.CLASSES, width=16, depth=2, heads=2) | options).eval()


@torch.no_grad()
def test_the_reconstruction_error_written_out():
    model, x = network(), tiny.images(3)
    found = model.reconstruction_loss(x, 0.75, torch.Generator().manual_seed(4))
    order = torch.rand(3, 16, generator=torch.Generator().manual_seed(4)).argsort(1)
    for n in range(3):
        pieces = torch.stack(
            [x[n, 0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].flatten() for r in range(4) for c in range(4)]
        )
        pieces = 2 * pieces - 1
        shown, hidden = order[n, :4], order[n, 4:]
        known = model.between(model.encoder((model.embed(pieces[shown]) + model.place[shown])[None]))[0]
        full = model.hole.repeat(16, 1)
        for k, place in enumerate(shown):
            full[place] = known[k]
        painted = model.paint(model.decoder((full + model.decoder_place)[None]))[0]
        expected = (painted[hidden] - pieces[hidden]).square().mean()
        assert found[n].item() == pytest.approx(expected.item(), rel=1e-4)


def test_what_is_masked_is_not_seen():
    model, x = network(), tiny.images(1)
    order = torch.rand(1, 16, generator=torch.Generator().manual_seed(4)).argsort(1)
    leaf = x.clone().requires_grad_()
    pieces = model.patches(leaf)
    seen = model.encoder((model.embed(pieces) + model.place)[:, order[0, :4]])
    (g,) = torch.autograd.grad(seen.square().sum(), leaf)
    assert (model.patches((g != 0).float())[0] > 0).any(1).sum() == 4


def test_the_head_stays_and_the_rest_moves_downhill():
    model = network()
    wrapped = build(
        replace(tiny.problem(), model=model), "ttt-mae", steps=30, masks=16, lr=0.02, weight_decay=0.0, episodic=False
    )
    head = [w.detach().clone() for w in model.head.parameters()]
    wrapped(tiny.images(1), torch.Generator().manual_seed(0))
    assert sum(wrapped.losses[-5:]) < 0.8 * sum(wrapped.losses[:5])
    assert all(torch.equal(a, b) for a, b in zip(head, model.head.parameters(), strict=True))


def test_a_network_that_reconstructs_nothing_is_refused():
    with pytest.raises(ValueError, match="has no reconstruction_loss"):
        build(tiny.problem(), "ttt-mae")

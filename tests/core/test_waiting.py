"""A step does not wait for the device: nothing is read from it but one flag, after all passes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import tiny
import torch
from adapting import seeded, tta
from torch.utils._python_dispatch import TorchDispatchMode

from dtta.core.adapter import Adapter, gradients_only_for
from dtta.core.parameters import select
from dtta.core.sampling import Sampling
from dtta.core.stopping import Stopping
from dtta.core.tta import DiffusionTTA

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")


class Reads(TorchDispatchMode):
    """Count the operations whose result the host needs; each waits for the device."""

    def __init__(self):
        super().__init__()
        self.events: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name.startswith(READS) or "backward" in name:
            self.events.append("read" if name.startswith(READS) else "backward")
        return function(*args, **kwargs or {})


def events_of_a_step(method) -> list[str]:
    x = tiny.images(1)
    with gradients_only_for(method.adapted, *method.networks):
        method.begin(x)
        method.taken = 0
        with Reads() as reads:
            method.step(x, seeded())
    return reads.events


@pytest.mark.parametrize("sampling", [Sampling(), Sampling("stratified", "shared"), Sampling(t_density=(1.0, 3.0))])
@pytest.mark.parametrize("weighting", ["none", "min-snr"])
@pytest.mark.parametrize("joint", [False, True])
def test_a_step_reads_from_the_device_once_and_after_all_passes(family, joint, weighting, sampling):
    events = events_of_a_step(tta(family, joint, micro_batch=2, sampling=sampling, weighting=weighting))
    assert events.count("read") == 1 and events[-1] == "read" and events.count("backward") > 3


def test_float16_reads_once_more_however_many_gradients_and_passes_there_are():
    few = events_of_a_step(tta("dit", autocast=torch.float16))
    many = events_of_a_step(tta("dit", True, autocast=torch.float16, micro_batch=1))
    assert few.count("read") == many.count("read") == 2


@pytest.mark.parametrize("joint", [False, True])
def test_a_step_runs_on_a_device_that_cannot_be_read(family, joint, monkeypatch):
    """Tensors of the device "meta" have no content: whatever asks for a value raises."""
    problem, checked = tiny.problem(family), []
    parts = problem.model.to("meta"), problem.diffusion.to("meta"), problem.condition
    adapted = [*select(problem.model), *(select(problem.diffusion.network) if joint else [])]
    method = DiffusionTTA(*parts, torch.optim.SGD(adapted, lr=0.1), steps=3, samples=6, micro_batch=2)
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # does not know this device
    monkeypatch.setattr(Adapter, "check_finite", lambda self, value, what: checked.append(value.device.type))
    x = tiny.images(1).to("meta")
    with gradients_only_for(method.adapted, *method.networks):
        method.take_steps(x, seeded())
    assert checked == ["meta"] * 3
    with pytest.raises(RuntimeError, match="meta"):
        bool(x.isfinite().all())


def test_pairs_drawn_ahead_are_those_drawn_step_by_step(family):
    """The next step's pairs are drawn before the device is waited for; a step that may not come draws none."""
    method, generator = tta(family, steps=4), seeded()
    z0 = method.diffusion.encode(tiny.images(1))
    expected = [method.sampling.draw(z0, 6, 1000, generator) for _ in range(4)]
    state = generator.get_state()
    for stopping in (None, Stopping(confidence=1.0)):
        method, used, generator = tta(family, steps=4, stopping=stopping), [], seeded()
        original = method.feedback
        method.feedback = lambda z0, t, noise, c: (used.append((t, noise)), original(z0, t, noise, c))[1]  # noqa: B023
        method(tiny.images(1), generator)
        for (t, noise), (t_expected, noise_expected) in zip(used, expected, strict=True):
            assert torch.equal(t, t_expected) and torch.equal(noise, noise_expected)
        assert torch.equal(generator.get_state(), state)


def test_an_online_method_is_not_changed_by_a_loss_that_is_not_finite():
    method = tta(episodic=False)
    before = [p.clone() for p in method.adapted]
    original = method.diffusion.loss
    method.diffusion.loss = lambda *args: original(*args) * torch.nan
    with pytest.raises(FloatingPointError, match="the diffusion loss is not finite"):
        method(tiny.images(1), seeded())
    assert all(map(torch.equal, before, method.adapted)) and not method.optimizer.state

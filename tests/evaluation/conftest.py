"""Fixtures that count what is computed, and that start processes fast."""

from __future__ import annotations

import multiprocessing

import pytest
from tiny_runs import Stop

from dtta.evaluation import evaluate as module
from dtta.evaluation.scorer import Scorer


@pytest.fixture
def counted(monkeypatch):
    """Counts scored cells; raises Stop at cell number `stop`."""
    state = {"calls": [], "stop": None}
    original = Scorer.rows

    def score(self, cells):
        if len(state["calls"]) == state["stop"]:
            raise Stop
        state["calls"] += cells
        return original(self, cells)

    monkeypatch.setattr(Scorer, "rows", score)
    return state


@pytest.fixture
def forked(monkeypatch):
    """Forked processes, which inherit all imports; fresh ones import for half a minute. Returns the kinds requested."""
    kinds = []

    def get_context(kind):
        kinds.append(kind)
        return fork

    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(module.multiprocessing, "get_context", get_context)
    return kinds

"""Fixtures for tests of figures."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pytest

from dtta.pages import figures


@pytest.fixture
def closed():
    """The book's style, and no figure left open."""
    figures.style()
    yield
    plt.close("all")


@pytest.fixture
def displayed(monkeypatch) -> list:
    """Outputs that reach the notebook: their data and metadata."""
    outputs = []
    monkeypatch.setattr("IPython.display.display", lambda data, metadata, raw: outputs.append((data, metadata)))
    return outputs

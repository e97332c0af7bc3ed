"""Settings and fixtures of all tests: one thread, hypothesis without chance or deadline, tiny random models.

Fixtures import torch and tiny models, which takes seconds: the process that only starts the others needs neither.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for `tools`, which is not installed
os.environ["HF_HUB_OFFLINE"] = "1"  # libraries read it when they are imported: no test waits for the hub

import hypothesis
import pytest

pytest_plugins = ["browsers"]
hypothesis.settings.register_profile("dtta", deadline=None, derandomize=True, max_examples=40, database=None)
hypothesis.settings.load_profile("dtta")


def pytest_report_header() -> str:
    """Name the sandboxes that work here; the tests of the course use no others."""
    from dtta.course.staff import sandbox  # slow to import

    return f"sandboxes that work here: {', '.join(filter(sandbox.works, sandbox.KINDS)) or 'none'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first in both halves of the list: two processes take a half each, and end at the same time.

    The longest, those of the pages, are collected last and come first. Tests in the browser go into one half: the other
    process need not wait until the book is built. What is left of that half when the other ends is short.
    """
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if not item.get_closest_marker("slow")]
    browser = [item for item in slow if item.get_closest_marker("browser")]
    others = [item for item in reversed(slow) if not item.get_closest_marker("browser")]
    first = [*others[::2], *browser]
    left = max(0, len(items) // 2 - len(first))
    items[:] = [*first, *rest[:left], *others[1::2], *rest[left:]]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Give torch one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded(one_thread):
    """Start every test from the same global random state."""
    import torch

    torch.manual_seed(0)


@pytest.fixture(params=["unet", "dit"])
def family(request) -> str:
    return request.param


@pytest.fixture
def diffusion(family):
    import tiny

    return tiny.diffusion(family)


@pytest.fixture
def phi():
    """A diffusion model for tests in which its family does not matter."""
    import tiny

    return tiny.diffusion("unet")


@pytest.fixture
def model():
    import tiny

    return tiny.classifier()


@pytest.fixture
def image():
    import tiny

    return tiny.images(1)


@pytest.fixture
def problem():
    import tiny

    return tiny.problem()

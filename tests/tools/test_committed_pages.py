"""The committed pages keep the rules, and a fresh run of each at mini scale gives their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.pages.commands import execute
from tools.pages.project import Project
from tools.pages.run import run_and_compare

PROJECT = Project(Path(__file__).parents[2])


def test_they_keep_the_rules():
    execute(["check"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PROJECT.pages())
def test_a_fresh_run_gives_the_committed_outputs(name):
    assert run_and_compare([PROJECT.notebooks / f"{name}.ipynb"], 1)

"""Runs compiled_blocks.py in a process of its own.

Once blocks were compiled in a process, processes forked from it cannot run a backward pass, and other tests fork.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_compiled_blocks():
    file = Path(__file__).with_name("compiled_blocks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", str(file)]
    ran = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stdout + ran.stderr

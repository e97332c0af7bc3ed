"""The package as others get it: a wheel, and a folder that holds one unpacked and hides the checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Python runs it as it starts. The checkout is installed as an editable package: a finder that knows where dtta is, or a
# path. Each process that imports dtta records which one, at once: a kernel may be killed before its exit handlers run.
SITECUSTOMIZE = f"""\
import importlib.machinery, os, sys

sys.meta_path = [f for f in sys.meta_path if not getattr(f, "__module__", "").startswith("__editable__")]
sys.path = [p for p in sys.path if p != {str(ROOT)!r}]


class Recorder:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == "dtta" and "DTTA_TEST_ORIGINS" in os.environ:
            spec = importlib.machinery.PathFinder.find_spec(name)
            with open(os.environ["DTTA_TEST_ORIGINS"], "a") as file:
                file.write((spec.origin if spec else "nowhere") + "\\n")


sys.meta_path.insert(0, Recorder)
"""


def build(folder: Path) -> Path:
    """Build the wheel in a folder of its own, without a network; its path."""
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "dtta", folder / "dtta", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "out").mkdir()
    script = "from setuptools.build_meta import build_wheel; build_wheel('out')"
    subprocess.run([sys.executable, "-c", script], cwd=folder, check=True, capture_output=True)
    (wheel,) = (folder / "out").glob("dtta-*.whl")
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """Put a wheel into an empty folder, which goes into PYTHONPATH; the folder."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    return folder

"""Checkouts, locales, folders and devices unlike this one's."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from dtta.cli import doctor
from dtta.evaluation import summary
from dtta.problems.data import hub

ROOT = Path(__file__).resolve().parents[2]


# --- checkouts --------------------------------------------------------------------------------------------------------


def exported(folder: Path, *settings: str) -> dict[str, bytes]:
    """Return the files that git writes into a checkout with these settings, and leave them in the folder."""
    command = ["git", *settings, "checkout-index", "--all", f"--prefix={folder}/"]
    subprocess.run(command, cwd=ROOT, check=True)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout, but an unpacked sdist")
def test_a_checkout_has_the_same_bytes_under_autocrlf(tmp_path):
    files = exported(tmp_path / "plain", "-c", "core.autocrlf=false", "-c", "core.eol=lf")
    converted = exported(tmp_path / "with CRLF", "-c", "core.autocrlf=true")
    assert len(files) > 400
    assert [name for name in files if files[name] != converted[name]] == []
    cards = [name for name in converted if name.startswith("dtta/weights/") and name.endswith(".json")]
    for card in cards:
        weights = converted[card.replace(".json", ".safetensors")]
        assert sha256(weights).hexdigest() == json.loads(converted[card])["sha256"]
    assert len(cards) > 10


# --- locales ----------------------------------------------------------------------------------------------------------


def without_encoding(call: ast.Call) -> bool:
    """Return whether a call reads or writes text in the encoding of the locale."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if "encoding" in options:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) == (name == "write_text")
    if name in ("open", "fdopen") and not ast.unparse(call.func).startswith(
        ("Image.", "tarfile.", "archive.", "os.open")
    ):
        modes = [
            node.value for part in (*call.args, *call.keywords) for node in ast.walk(part) if hasattr(node, "value")
        ]
        return not any(mode in ("rb", "wb", "ab", "xb", "r+b", "w+b") for mode in modes)
    return options.get("text") == "True"


@pytest.mark.parametrize("folder", ["dtta", "tools", "tests"])
def test_every_text_file_and_process_has_its_encoding_named(folder):
    found = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
        found += [f"{path.relative_to(ROOT)}:{call.lineno}" for call in calls if without_encoding(call)]
    assert found == []


GREEK = """
from dataclasses import replace
import dtta
def problem():
    return replace(dtta.load("digits"), name="greek:problem", classes=tuple("αβγδεζηθικ"))
"""


def test_the_command_line_works_in_a_locale_without_greek(tmp_path):
    """What its encoding lacks, a class's name or a byte of a file's name, is printed as Python writes it."""
    folder, out = tmp_path / "folder with spaces", tmp_path / "new folder"
    folder.mkdir()
    (tmp_path / "greek.py").write_text(GREEK, encoding="utf-8")
    Image.new("RGB", (9, 8)).save(folder / "a.png")
    os.rename(folder / "a.png", os.fsencode(folder) + b"/\xe9.png")
    command = ["adapt", folder, "--problem", "greek:problem", "--method", "none", "--out", out]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "dtta", *command],
        cwd=tmp_path, env=os.environ | ascii_only, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert rb"\u03b" in done.stdout and rb"\udce9: figure in" in done.stdout
    assert len(list(out.iterdir())) == 1


# --- devices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")]
)
def test_the_device_is_cuda_then_mps_then_the_cpu(cuda, mps, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "cuda")
    assert hub.device().type == expected
    assert expected == "cuda" or ("MPS" in doctor.gpu().text) == mps
    assert summary.about_here.__wrapped__()["device"].lower() == expected

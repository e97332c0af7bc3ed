"""Wrong command lines, and machines that lack something: one sentence that names the cause, exit 2, nothing is lost."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
from argparse import ArgumentTypeError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
import torch

from dtta.cli import explanation, main
from dtta.problems.data.folders import data_folder, output_folder

CHECKOUT = Path(__file__).parents[2]
FILES = {
    "a.txt": b"a file\n",
    "bad.toml": b"about = = 3\n",
    "binary.toml": b"\xff\xfe\x00",
    "typed.toml": b'about = "x"\nproblem = "digits"\ntest_images = "many"\n[runs.none]\n',
    "shifts.toml": b'about = "x"\nproblem = "digits"\ntest_images = 1\nshifts = ["rain"]\n[runs.none]\n',
    "noise.png": b"not a picture",
    "own_syntax.py": b"def build(:\n",
    "own_import.py": b"import a_library_that_is_not_installed\n",
    "own_functions.py": b"def text():\n    return 'x'\n\n\ndef nothing(problem):\n    return None\n",
    "course/submitted/ada/a1/a1.ipynb": b"{}",
    "rows/a.summary.json": b"{",
}
LINES = {  # command line, with variables of the environment in front -> what the sentence names
    "": "command",
    "evalute": "'evalute'",
    "probe --images 7": "images must be 8 to",
    "probe --images 9999": "images must be 8 to",
    "probe --split dreams": "'dreams'",
    "probe --shift rain": "'rain'",
    "probe --parts 0": "--parts",
    "probe --samples 0": "--samples",
    "probe --network vgg": "'vgg'",
    "probe --out figure.txt": "--out",
    "probe --numbers numbers.txt": "--numbers",
    "probe --numbers course": "course is a folder",
    "adapt --speed 3 --index 0": "--speed",
    "adapt": "--index",
    "adapt noise.png --index 1": "--index",
    "adapt missing.png": "missing.png",
    "adapt noise.png": "noise.png",
    "adapt course": "course holds no images",
    "adapt noise.png --shift fog": "--shift",
    "adapt noise.png --severity 1": "--severity",
    "adapt --index 5000": "0 to 499, not 5000",
    "adapt --index -1": "--index",
    "adapt --index one": "--index",
    "adapt --index 0 --problem numbers": "'numbers'",
    "adapt --index 0 --network vgg": "'vgg'",
    "adapt --index 0 --diffusion gan": "'gan'",
    "adapt --index 0 --method magic": "'magic'",
    "adapt --index 0 --shift rain": "'rain'",
    "adapt --index 0 --severity 9": "--severity",
    "adapt --index 0 --severity mild": "--severity",
    "adapt --index 0 --seed -1": "--seed",
    "adapt --index 0 --seed 99999999999999999999": "--seed",
    "adapt --index 0 --classes 3": "classes of digits are fixed",
    "adapt --index 0 --as-released": "as_released",
    "adapt --index 0 --problem scenes-clip --classes -3": "classes",
    "adapt --index 0 --problem scenes-clip --classes a,,b": "name",
    "adapt --index 0 --set lr": "--set",
    "adapt --index 0 --set lr=": "--set",
    "adapt --index 0 --set =3": "--set",
    "adapt --index 0 --set speed=3": "'speed'",
    "adapt --index 0 --set lr=abc": "the setting lr of diffusion-tta must be a number, not 'abc'",
    "adapt --index 0 --set lr=nan": "lr",
    "adapt --index 0 --set lr=none": "lr",
    "adapt --index 0 --set lr=true": "lr",
    "adapt --index 0 --set lr=-1": "lr",
    "adapt --index 0 --set momentum=-1": "momentum",
    "adapt --index 0 --set episodic=maybe": "the setting episodic of diffusion-tta must be true or false, not 'maybe'",
    "adapt --index 0 --set episodic=1": "episodic",
    "adapt --index 0 --set steps=2.5": "steps",
    "adapt --index 0 --set steps=0": "steps",
    "adapt --index 0 --set layers=x,y": "layers",
    "adapt --index 0 --set optimizer=5": "optimizer",
    "adapt --index 0 --set optimizer=rmsprop": "'rmsprop'",
    "adapt --index 0 --set adapt_diffusion=perhaps": "adapt_diffusion",
    "adapt --index 0 --set temperature=0": "temperature",
    "adapt --index 0 --set t_min=2": "t_min",
    "adapt --index 0 --method memo --set prior=-1": "prior",
    "adapt --index 0 --method none --set lr=1": "'lr'",
    "adapt --index 0 --method cotta --set views=-1": "views",
    "adapt --index 0 --method consistency": "consistency",
    "adapt --index 0 --problem nothing:here": "'nothing'",
    "adapt --index 0 --problem own_functions:": "'own_functions:'",
    "adapt --index 0 --problem own_functions:other": "'other'",
    "adapt --index 0 --problem own_functions:text": "own_functions:text",
    "adapt --index 0 --problem own_syntax:f": "own_syntax",
    "adapt --index 0 --problem own_import:f": "a_library_that_is_not_installed",
    "adapt --index 0 --problem ..up:f": "..up",
    "adapt --index 0 --problem builtins:dict": "builtins:dict",
    "adapt --index 0 --method own_functions:nothing": "own_functions:nothing",
    "adapt --index 0 --method ./own_functions.py:nothing": "./own_functions.py",
    "adapt --index 0 --out a.txt": "a.txt",
    "adapt --index 0 --out a.txt/deeper": "a.txt",
    "adapt --index 0 --out ''": "--out",
    "DTTA_WEIGHTS=nowhere adapt --index 0": "nowhere",
    "DTTA_WEIGHTS=~nobody-here/x adapt --index 0": "DTTA_WEIGHTS",
    "evaluate --workers 0": "--workers",
    "evaluate --workers two": "--workers",
    "evaluate --images 0": "--images",
    "evaluate --images -5": "--images",
    "evaluate --images 100000": "--images",
    "evaluate --batch 0": "--batch",
    "evaluate --severity 0": "--severity",
    "evaluate --shift rain": "'rain'",
    "evaluate --split holdout": "'holdout'",
    "evaluate --metric F1": "'F1'",
    "evaluate --precision float8": "--precision",
    "evaluate --set episodic=maybe --shift all": "episodic",
    "evaluate --only none": "--only",
    "evaluate --store here": "--store",
    "evaluate --preset table9": "table9",
    "evaluate --table nothing": "nothing",
    "evaluate --table bad.toml": "bad.toml",
    "evaluate --table binary.toml": "binary.toml",
    "evaluate --table typed.toml": "typed.toml: test_images must be a whole number, not 'many'",
    "evaluate --table shifts.toml": "shifts.toml: shifts: unknown rain",
    "evaluate --table course": "course",
    "evaluate --table all --only none": "--only",
    "evaluate --table loss --method tent": "--method",
    "evaluate --table loss --images 3": "--images",
    "evaluate --table loss --set lr=1": "--set",
    "evaluate --table loss --store a.txt": "a.txt",
    "evaluate --out a.txt": "a.txt",
    "evaluate more": "more",
    "report": "FOLDER",
    "report missing": "missing",
    "report course": "course holds no summaries",
    "report a.txt": "a.txt",
    "report rows": "rows/a.summary.json",
    "report rows --format html": "--format",
    "train": "problem",
    "train numbers": "'numbers'",
    "train digits --only vit --only vgg": "'vgg'",
    "train digits --steps 0": "--steps",
    "train digits --to a.txt": "a.txt",
    "train imagenet": "imagenet",
    "bench --samples 0": "--samples",
    "bench --micro-batch -1": "--micro-batch",
    "bench --case vgg": "'vgg'",
    "bench --case dit-toy --network vit": "--network",
    "bench --out x.json": "--out",
    "bench --case dit-toy --out course": "course",
    "doctor numbers": "'numbers'",
    "doctor digits --network vgg": "'vgg'",
    "doctor imagenet --network nowhere": "'nowhere'",
    "fetch nothing": "'nothing'",
    "fetch imagenet-a nothing": "'nothing'",
    "DTTA_DATA=~nobody-here/x fetch imagenet-a": "DTTA_DATA",
    "course": "command",
    "course build --root course": "course",
    f"course build a9 --root {CHECKOUT}": "'a9'",
    f"course build a1 --root {CHECKOUT} --to a.txt": "a.txt",
    "course doctor missing": "missing",
    "course doctor course a9": "a9",
    "course grade course a9": "a9",
    "course grade course --sandbox box": "'box'",
    "course report missing": "missing",
    "course report course": "nothing is graded for a1",
    "pages": "command",
    "pages run 99": "'99'",
    "pages run --jobs 0": "--jobs",
    "pages run 01 -p n": "-p",
    "pages --root course run": "course/pyproject.toml",
    "pages compare missing": "missing",
    "pages check missing": "missing",
}


@pytest.mark.parametrize("line", LINES)
def test_a_wrong_command_line_gets_one_sentence_and_changes_nothing(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(content)
    before = contents(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    words = shlex.split(line)
    while words and "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("=", 1))
    assert run(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (sentence,) = captured.err.splitlines()
    assert LINES[line] in sentence
    assert contents(tmp_path) == before


def run(words: list[str]) -> int:
    """Run ``dtta``, or ``python tools/pages`` if the first word is "pages"; return the exit status."""
    if words[:1] != ["pages"]:
        return main(words)
    from tools.pages import commands

    with pytest.raises(SystemExit) as stop:
        commands.main(words[1:])
    return stop.value.code


def contents(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# --- what is wrong with the machine -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "x.png"), "x.png cannot .*: make room on the disk"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "rows"), "rows cannot .*: change its permissions"),
        (OSError(errno.ENOENT, "cannot write rows: no. Go on", None), "^cannot write rows: no. Go on$"),
        (MemoryError(), "memory ran out .*--workers 1"),
        (BrokenProcessPool("a process was terminated"), "worker was killed.*finished rows are kept.*--workers 1"),
        (ImportError("Found an incompatible version of torchao. Found 0.10.0"), "0.10.0.*pip uninstall torchao"),
    ],
)
def test_errors_of_the_machine_name_the_cause_and_a_remedy(error, words):
    assert re.search(words, explanation(error))


def test_too_large_a_tensor_is_no_bug():
    with pytest.raises(RuntimeError) as stop:
        torch.empty(2**55)
    assert "memory ran out" in explanation(stop.value)
    assert explanation(RuntimeError("anything else")) is None


def test_a_figure_for_which_the_disk_has_no_room_is_named(tmp_path, capsys):
    (tmp_path / "digits-0-clean-adapted.png").symlink_to("/dev/full")
    assert main(["adapt", "--index", "0", "--method", "none", "--out", str(tmp_path)]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert "digits-0-clean-adapted.png cannot" in sentence and "make room on the disk" in sentence


def test_a_folder_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *arguments: False)  # root may write everywhere
    with pytest.raises(ArgumentTypeError, match=f"{tmp_path} cannot be written"):
        output_folder(tmp_path / "a" / "b")


def test_a_user_without_a_home(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    for folder in (None, "~/data"):
        monkeypatch.setenv("DTTA_DATA", folder or "")
        with pytest.raises(FileNotFoundError, match="set DTTA_DATA"):
            data_folder()

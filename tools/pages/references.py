"""Compare the numbers of executed pages with those of an earlier run on the same kind of device.

A reference, notebooks/references/<device>.json, holds for each page the outputs that have a tolerance
(see dtta.pages.report):

    {"device": "NVIDIA A10G", "factor": 1.0,
     "pages": {"01_diffusion_loss": {"commit": "...", "outputs": [{"text": "...", "tolerance": 0.5, "whole": 0}]}}}

`factor` multiplies all tolerances of a device. It is 1 when the reference is first collected; edit it by hand if a
device needs more. A device without a reference does not fail: collect its numbers, look at them and commit them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat

from tools.pages import record
from tools.pages.project import PageError
from tools.pages.tolerance import agree, tolerance_of


def numbers_of(notebook: Path) -> list[dict]:
    """Return the outputs of an executed page that have a tolerance, in order: {"text", "tolerance", "whole"}."""
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [
        {"text": output.data["text/plain"], **tolerance_of(output)}
        for output in outputs
        if tolerance_of(output) is not None
    ]


def run_numbers(folder: Path) -> dict[str, dict[str, dict]]:
    """Return device -> page -> its commit and outputs, for all pages in a folder that ran to their end.

    Raises:
        PageError: there are none.
    """
    devices: dict[str, dict[str, dict]] = {}
    for about in record.read(folder):
        notebook = folder / f"{about['page']}.ipynb"
        if notebook.exists() and not about["failed"]:
            page = {"commit": about["commit"], "outputs": numbers_of(notebook)}
            devices.setdefault(about["device"] or "unknown", {})[about["page"]] = page
    if not devices:
        raise PageError(f"{folder} holds no page that ran to its end with a record; first: python tools/pages run")
    return devices


def path_of(device: str, references: Path) -> Path:
    return references / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def read(device: str, references: Path) -> dict | None:
    """Return the reference of a device; None: there is none.

    Raises:
        PageError: the file does not have the form that this module's docstring shows.
    """
    path = path_of(device, references)
    if not path.exists():
        return None
    try:
        reference = json.loads(path.read_text(encoding="utf-8"))
        float(reference["factor"])
        for page in reference["pages"].values():
            for output in page["outputs"]:
                agree(output["text"], output["text"], output["tolerance"], output["whole"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PageError(f"{path} is not a reference; write it again with: python tools/pages collect") from error
    return reference


def collect(folder: Path, references: Path) -> list[Path]:
    """Write the numbers of a folder into the references of their devices and return the files.

    Numbers of other pages, and the factor, are kept.
    """
    paths = []
    for device, pages in run_numbers(folder).items():
        old = read(device, references) or {"device": device, "factor": 1.0, "pages": {}}
        path = path_of(device, references)
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = dict(sorted((old["pages"] | pages).items()))
        path.write_text(json.dumps(old | {"pages": pages}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        paths.append(path)
    return paths


def compare(folder: Path, references: Path) -> list[str]:
    """Return what differs from the references, a sentence each."""
    problems = []
    for device, pages in run_numbers(folder).items():
        reference = read(device, references)
        for name, page in pages.items():
            if reference is None or name not in reference["pages"]:
                print(f"{name}: no reference for {device} yet")
                continue
            where = f"{name} on {device}"
            old = reference["pages"][name]["outputs"]
            problems += _differences(where, page["outputs"], old, float(reference["factor"]))
    return problems


def _differences(where: str, fresh: list[dict], old: list[dict], factor: float) -> list[str]:
    if len(fresh) != len(old):
        return [f"{where}: {len(fresh)} outputs with numbers, the reference has {len(old)}"]
    return [
        f"{where}: output {k} is outside its tolerance\n  now: {new['text']}\n  was: {before['text']}"
        for k, (new, before) in enumerate(zip(fresh, old, strict=True), 1)
        if not agree(new["text"], before["text"], factor * new["tolerance"], int(factor * new["whole"]))
    ]

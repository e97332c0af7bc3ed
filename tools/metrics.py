"""The numbers of executed pages, compared with those of an earlier run on the same kind of device.

    python tools/metrics.py compare _build/executed/full       exit status 1 where numbers left their tolerance
    python tools/metrics.py collect _build/executed/full       write them as the reference, to be committed

A reference, notebooks/references/<device>.json, holds for each page the outputs that state a tolerance (dtta.pages.report):

    {"device": "NVIDIA A10G", "factor": 1.0, "pages": {"01_diffusion_loss": {"commit": "...", "outputs": ["..."]}}}

`factor` multiplies all tolerances of a device; 1 when it is first collected, edited by hand where a device needs more.
A device without a reference fails nothing: its numbers are written, so that they can be looked at and committed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import _record
import nbformat
from _agree import agree, report

ROOT = Path(__file__).parents[1]


def numbers_of(notebook: Path) -> list[str]:
    """The outputs of an executed page that state a tolerance, in order."""
    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain", "")
            if any(limit is not None for limit in report.tolerances(text)):
                found.append(text.rstrip())
    return found


def collected(folder: Path) -> dict[str, dict[str, dict]]:
    """Device -> page -> its commit and outputs, of all pages in a folder that ran to their end.

    Raises:
        ValueError: there are none.
    """
    found: dict[str, dict[str, dict]] = {}
    for record in _record.read(folder):
        notebook = folder / f"{record['page']}.ipynb"
        if notebook.exists() and not record["failed"]:
            page = {"commit": record["commit"], "outputs": numbers_of(notebook)}
            found.setdefault(record["device"] or "unknown", {})[record["page"]] = page
    if not found:
        raise ValueError(f"{folder} holds no page that ran to its end with a record; run tools/pages.py run first")
    return found


def file_of(device: str, references: Path) -> Path:
    return references / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"


def reference(device: str, references: Path) -> dict | None:
    """The reference of a device; None: there is none.

    Raises:
        ValueError: its file is not what this module's docstring says.
    """
    path = file_of(device, references)
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text())
        float(found["factor"])
        for page in found["pages"].values():
            assert all(isinstance(text, str) for text in page["outputs"])
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a reference; make it again with: python tools/metrics.py collect") from error
    return found


def collect(folder: Path, references: Path) -> list[Path]:
    """Write the numbers of a folder into the references of their devices; other pages' numbers and the factor stay."""
    written = []
    for device, pages in collected(folder).items():
        old = reference(device, references) or {"device": device, "factor": 1.0, "pages": {}}
        path = file_of(device, references)
        path.parent.mkdir(parents=True, exist_ok=True)
        pages = dict(sorted((old["pages"] | pages).items()))
        path.write_text(json.dumps(old | {"pages": pages}, indent=1, ensure_ascii=False) + "\n")
        written.append(path)
    return written


def compare(folder: Path, references: Path) -> list[str]:
    """What differs from the references, a sentence each."""
    wrong = []
    for device, pages in collected(folder).items():
        known = reference(device, references)
        for name, page in pages.items():
            if known is None or name not in known["pages"]:
                print(f"{name}: no reference for {device} yet")
                continue
            old, new = known["pages"][name]["outputs"], page["outputs"]
            if len(old) != len(new):
                wrong.append(f"{name} on {device}: {len(new)} outputs with numbers, the reference has {len(old)}")
                continue
            for k, (fresh, before) in enumerate(zip(new, old, strict=True), 1):
                if not agree(fresh, before, float(known["factor"])):
                    wrong.append(f"{name} on {device}: output {k} left its tolerance\n  now: {fresh}\n  was: {before}")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("compare", "collect"))
    parser.add_argument("folder", type=Path, help="where tools/pages.py run put the pages")
    parser.add_argument("--references", type=Path, default=ROOT / "notebooks" / "references")
    options = parser.parse_args(arguments)
    try:
        if options.command == "collect":
            print(*collect(options.folder, options.references), sep="\n")
            return 0
        wrong = compare(options.folder, options.references)
    except ValueError as error:
        wrong = [str(error)]
    print("\n".join(wrong) or "the numbers agree", file=sys.stderr if wrong else sys.stdout)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

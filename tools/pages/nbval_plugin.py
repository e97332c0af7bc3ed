"""A pytest plugin (-p tools.pages.nbval_plugin) with which nbval compares numbers within the tolerance of an output.

nbval compares text exactly and ignores metadata. If the metadata of a fresh output states a tolerance and its text
agrees with the committed text within it, the fresh text is replaced by the committed one, so that the comparison of
nbval passes; likewise if only images, styles or scripts within HTML differ. Outputs that differ in their number, kinds
or tolerance fail: nbval alone would not notice a lost figure. The `factor` of a reference multiplies its tolerances.

With DTTA_EXECUTED, a folder of executed pages, the fresh outputs are theirs and nothing runs.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbval.plugin import IPyNbCell, IPyNbFile, coalesce_streams

from tools.pages.tolerance import agree, compared, tolerance_of

_compare = IPyNbCell.compare_outputs


def _kinds(outputs: list) -> list[tuple]:
    return [
        (output["output_type"], output.get("name"), sorted(output.get("data", {})), tolerance_of(output))
        for output in outputs
    ]


def compare_outputs(self: IPyNbCell, test: list, ref: list, skip_compare: tuple | None = None) -> bool:
    test, ref = coalesce_streams(test), coalesce_streams(ref)
    if _kinds(test) != _kinds(ref):
        self.comparison_traceback = [f"the outputs are {_kinds(test)}; the committed ones are {_kinds(ref)}"]
        return False
    factor = self.parent.nb.metadata.get("dtta", {}).get("factor", 1)
    for fresh, committed in zip(test, ref, strict=True):
        limits = tolerance_of(fresh)
        if limits:
            limits = {"tolerance": factor * limits["tolerance"], "whole": int(factor * limits["whole"])}
        for mime, text in committed.get("data", {}).items():
            if mime.startswith("text/"):
                new, old = compared(fresh["data"][mime]), compared(text)
                if new == old or (limits and agree(new, old, **limits)):
                    fresh["data"][mime] = text
    return _compare(self, test, ref, skip_compare)


def compare_with_executed(self: IPyNbCell) -> None:
    """Compare a cell of a reference with the same cell of an executed page."""
    page = nbformat.read(Path(os.environ["DTTA_EXECUTED"], self.parent.path.name), as_version=4)
    outputs = [cell.outputs for cell in page.cells if cell.cell_type == "code"][self.cell_num]
    if self.options["check"] and not self.compare_outputs(outputs, self.cell.outputs):
        self.raise_cell_error("Cell outputs differ", "\n".join(self.comparison_traceback))


IPyNbCell.compare_outputs = compare_outputs
if "DTTA_EXECUTED" in os.environ:
    IPyNbFile.setup = lambda self: None  # no kernel
    IPyNbCell.runtest = compare_with_executed

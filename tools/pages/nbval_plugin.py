"""A pytest plugin (-p tools.pages.nbval_plugin) with which nbval compares numbers within the tolerance of an output.

nbval compares text exactly and ignores metadata. If the metadata of a fresh output states a tolerance and its text
agrees with the committed text within it, the fresh text is replaced by the committed one, so that the comparison of
nbval passes; likewise if only images, styles or scripts within HTML differ. Outputs that differ in their number, kinds
or tolerance fail: nbval alone would not notice a lost figure.
"""

from __future__ import annotations

from nbval.plugin import IPyNbCell, coalesce_streams

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
    for fresh, committed in zip(test, ref, strict=True):
        limits = tolerance_of(fresh)
        for mime, text in committed.get("data", {}).items():
            if mime.startswith("text/"):
                new, old = compared(fresh["data"][mime]), compared(text)
                if new == old or (limits and agree(new, old, **limits)):
                    fresh["data"][mime] = text
    return _compare(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = compare_outputs

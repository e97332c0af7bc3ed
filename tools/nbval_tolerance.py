"""A pytest plugin (-p nbval_tolerance) that lets nbval compare numbers within the tolerance an output states.

nbval compares text exactly. Where the fresh output states a tolerance (dtta.pages.report), its numbers are
compared with the committed ones within it; if all agree, the committed text takes the fresh text's
place and nbval's exact comparison passes. It judges everything else itself, except two things that it
misses: the number and kinds of the outputs (it skips images, so it would not miss a lost figure), and
the words of the opt-out, which `pages.py check` looks after.
"""

from __future__ import annotations

from _agree import agree
from nbval.plugin import IPyNbCell, coalesce_streams


def _texts(output: dict) -> dict:
    """Where an output keeps its texts: its data, or itself under "text" for a stream."""
    return output.get("data", output)


def _kinds(outputs: list) -> list[tuple]:
    return [(o["output_type"], o.get("name"), tuple(sorted(o["data"])) if "data" in o else None) for o in outputs]


_compare = IPyNbCell.compare_outputs


def compare_outputs(self: IPyNbCell, test: list, ref: list, skip_compare: tuple | None = None) -> bool:
    test, ref = coalesce_streams(test), coalesce_streams(ref)
    if _kinds(test) != _kinds(ref):
        self.comparison_traceback = [f"other outputs than committed: {_kinds(test)} against {_kinds(ref)}"]
        return False
    for fresh, committed in zip(test, ref, strict=True):
        new, old = _texts(fresh), _texts(committed)
        for key in ("text", "text/plain", "text/html", "text/markdown"):
            if isinstance(new.get(key), str) and isinstance(old.get(key), str) and agree(new[key], old[key]):
                new[key] = old[key]
    return _compare(self, test, ref, skip_compare)


IPyNbCell.compare_outputs = compare_outputs

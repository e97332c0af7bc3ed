"""Compare pages that ran as on Colab with the committed ones: python -m tools.pages.colab EXECUTED COMMITTED.

`.ci/colab` calls it in Colab's environment, and so it needs no package beyond those of Colab.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from tools.pages.tolerance import agree, compared, tolerance_of


def differences(fresh: NotebookNode, committed: NotebookNode) -> Iterator[str]:
    """Yield a sentence for each code cell whose outputs differ by more than their tolerance.

    Left out: what is written to stderr and the output of installing dtta.
    """
    cells = [[cell for cell in page.cells if cell.cell_type == "code"] for page in (fresh, committed)]
    for number, (new, old) in enumerate(zip(*cells, strict=True), 1):
        if new.source != old.source:
            yield f"cell {number} has other code"
        elif "remove-cell" not in old.metadata.get("tags", []):
            texts = [list(_texts(cell)) for cell in (new, old)]
            if [kind for kind, *_ in texts[0]] != [kind for kind, *_ in texts[1]]:
                yield f"cell {number} shows {[kind for kind, *_ in texts[0]]}, not {[kind for kind, *_ in texts[1]]}"
                continue
            for (_, one, limits), (_, other, _) in zip(*texts, strict=True):
                if one != other and not (limits and agree(one, other, **limits)):
                    yield f"cell {number} shows\n{one}\nnot\n{other}"


def _texts(cell: NotebookNode) -> Iterator[tuple[str, str, dict | None]]:
    """Yield kind, text and tolerance of each output; an image has no text.

    A stream counts as one output: the kernel splits it at random places.
    """
    outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    for stream, pieces in groupby(outputs, key=lambda output: output.output_type == "stream"):
        if stream:
            yield "stream", "".join(output.text for output in pieces), None
            continue
        for output in pieces:
            for kind, data in sorted(output.get("data", {}).items()):
                yield kind, compared(data) if kind.startswith("text/") else "", tolerance_of(output)


def seconds_to_first_figure(page: NotebookNode) -> float | None:
    """Return the seconds from the end of the install cell to the end of the first cell that shows a figure."""
    installed = None
    for cell in page.cells:
        if cell.cell_type == "code":
            end = datetime.fromisoformat(cell.metadata.papermill.end_time)
            installed = installed or end
            if any("image/" in str(output.get("data", "")) for output in cell.outputs):
                return (end - installed).total_seconds()
    return None


def main(executed: str, committed: str) -> int:
    failures = 0
    for path in sorted(Path(executed).glob("*.ipynb")):
        page = nbformat.read(path, as_version=4)
        sentences = list(differences(page, nbformat.read(Path(committed, path.name), as_version=4)))
        seconds = seconds_to_first_figure(page)
        figure = "no figure" if seconds is None else f"first figure {seconds:.0f} s after the install"
        print(f"{path.stem}: {figure}; {len(sentences)} cells differ", *sentences, sep="\n  ")
        failures += bool(sentences)
    return failures


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

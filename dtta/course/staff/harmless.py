"""Take scripts out of a notebook before a page is made of it: they would run in the browser of whoever grades it.

The Formgrader's pages come from the grader's own Jupyter server, so that a script in them may do what the grader may.
"""

from __future__ import annotations

import re

from nbformat import NotebookNode

TAGS = "b|br|code|details|div|em|h[1-6]|hr|i|kbd|li|ol|p|pre|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul"
PICTURES = ("image/png", "image/jpeg")
_TAG = re.compile(rf"<(?=[A-Za-z/!?])(?!/?(?:{TAGS})\s*/?>)(?!https?://[^\s<>\"']*>)", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")


def text(source: str) -> str:
    """Words in Markdown in which no HTML tag works but plain ones without attributes."""
    return _TAG.sub("< ", source)


def clean(notebook: NotebookNode) -> None:
    """Change a notebook in place: its words, what its cells show, and what belongs to it as a whole."""
    for key in set(notebook.metadata) - {"kernelspec", "language_info"}:
        del notebook.metadata[key]
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            cell.source = text(cell.source)
            files = {name: _pictures(data) for name, data in cell.pop("attachments", {}).items()}
            if kept := {name: data for name, data in files.items() if data and re.fullmatch(r"[\w. -]+", name)}:
                cell["attachments"] = kept
            continue
        for output in cell.outputs:
            if "data" in output:
                plain = {"text/plain": output.data["text/plain"]} if "text/plain" in output.data else {}
                output["data"], output["metadata"] = plain | _pictures(output.data), {}


def _pictures(data: dict) -> dict:
    return {k: v for k, v in data.items() if k in PICTURES and isinstance(v, str) and _BASE64.fullmatch(v)}

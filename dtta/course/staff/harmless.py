"""Take scripts out of a notebook before a page is made of it: they would run in the browser of whoever grades it.

The Formgrader's pages come from the grader's own Jupyter server, so that a script in them may do what the grader may.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from nbformat import NotebookNode

TAGS = "b|br|code|details|div|em|h[1-6]|hr|i|kbd|li|ol|p|pre|strong|sub|summary|sup|table|tbody|td|th|thead|tr|u|ul"
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TAG = re.compile(rf"<(?=[A-Za-z/!?])(?!/?(?:{TAGS})\s*/?>)(?!https?://[^\s<>\"']*>)", re.IGNORECASE)
# The end of a link's text before an address, or of a label before one, unless the address is harmless: a browser runs
# "javascript:" in many spellings.
_LINK = re.compile(
    r"\](?=\((?!\s*<?(?:https?://|#|attachment:picture-\d+\b))|:(?!\s*<?(?:https?://|#)))", re.IGNORECASE
)
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")


def text(source: str) -> str:
    """Disable links that may lead to a script, and HTML tags but plain ones without attributes, in Markdown."""
    return _LINK.sub("] ", _TAG.sub("< ", source))


def clean(notebook: NotebookNode) -> None:
    """Change a notebook in place: its words, what its cells show, and what belongs to it as a whole."""
    for key in set(notebook.metadata) - {"kernelspec"}:
        del notebook.metadata[key]
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        if cell.cell_type != "code":
            files = cell.pop("attachments", {})
            pictures = {name: kept for name, data in files.items() if (kept := _pictures(data))}
            for number, name in enumerate(pictures):
                written = "|".join(re.escape(form) for form in {name, quote(name), quote(name, safe="()!*'~")})
                address = rf"<attachment:(?:{written})>|attachment:(?:{written})(?=[)\s])"
                cell.source = re.sub(address, f"attachment:picture-{number}", cell.source)
            cell.source = text(cell.source)
            if pictures:
                cell["attachments"] = {f"picture-{i}": data for i, data in enumerate(pictures.values())}
            continue
        for output in cell.outputs:
            if "data" in output:
                plain = {"text/plain": output.data["text/plain"]} if "text/plain" in output.data else {}
                output["data"], output["metadata"] = plain | _pictures(output.data), {}


def _pictures(data: dict) -> dict:
    return {k: v for k, v in data.items() if k in PICTURES and isinstance(v, str) and _BASE64.fullmatch(v)}

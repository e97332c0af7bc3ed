"""Notebooks as Colab, JupyterLab and VS Code write them, made from one of ours."""

from __future__ import annotations

import json
import random

import nbformat
from nbformat import NotebookNode


def colab(notebook: NotebookNode) -> str:
    """Format 4.0: no cell ids but its own in the metadata, ids of outputs, sources as lists of lines."""
    text = _plain(notebook)
    text["nbformat_minor"] = 0
    chance = random.Random(0)
    for cell in text["cells"]:
        cell.pop("id", None)
        cell["metadata"]["id"] = "".join(chance.choices("abcdefghijklmnop0123456789", k=12))
        if cell["cell_type"] == "code":
            cell["metadata"]["colab"] = {"base_uri": "https://localhost:8080/"}
            cell["metadata"]["outputId"] = "8f0b3a4e-9a51-4c37-f5d4-" + cell["metadata"]["id"]
    text["metadata"] |= {"colab": {"provenance": [], "toc_visible": True}, "accelerator": "GPU"}
    text["metadata"]["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    return json.dumps(text, indent=2)


def jupyterlab(notebook: NotebookNode) -> str:
    """Format 4.5 with a kernel of the student's own, trusted outputs, and folded headings."""
    text = _plain(notebook)
    for cell in text["cells"]:
        cell["metadata"]["trusted"] = True
        if cell["cell_type"] == "markdown":
            cell["metadata"]["jp-MarkdownHeadingCollapsed"] = True
    text["metadata"]["kernelspec"] = {"display_name": "dl (conda)", "language": "python", "name": "conda-env-dl-py"}
    text["metadata"]["language_info"] = {"name": "python", "version": "3.12.4", "file_extension": ".py"}
    return json.dumps(text, indent=1, ensure_ascii=False) + "\n"


def vscode(notebook: NotebookNode) -> str:
    """Format 4.2: no cell ids, a kernel named after a folder, language ids, a byte-order mark from a Windows disk."""
    text = _plain(notebook)
    text["nbformat_minor"] = 2
    for cell in text["cells"]:
        cell.pop("id", None)
        if cell["cell_type"] == "code":
            cell["metadata"]["vscode"] = {"languageId": "python"}
    text["metadata"]["kernelspec"] = {"display_name": ".venv", "language": "python", "name": ".venv"}
    return "\ufeff" + json.dumps(text, indent=1)


def _plain(notebook: NotebookNode) -> dict:
    text = json.loads(nbformat.writes(notebook))
    for cell in text["cells"]:
        cell["source"] = "".join(cell["source"]).splitlines(keepends=True)
    return text


EDITORS = {"colab": colab, "jupyterlab": jupyterlab, "vscode": vscode}

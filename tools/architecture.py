"""Draw which room of the package imports which, from the imports in the code: book/_static/architecture.svg.

python tools/architecture.py
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT, CELL, TOP, WIDTH = 118, 25, 92, 360  # pixels: where columns begin, row and column, where rows begin, the drawing


def layers(root: Path) -> list[list[str]]:
    """Return the rooms from the top, those of one layer together, as the import contract in pyproject.toml has them."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    contract = next(contract for contract in contracts if "layers" in contract)
    return [[name.strip().removeprefix("dtta.") for name in layer.split("|")] for layer in contract["layers"]]


def imported(path: Path) -> set[str]:
    """Return the full names that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def rooms_imported(root: Path) -> dict[str, set[str]]:
    """Return the other rooms that each room imports."""
    rooms = [room for layer in layers(root) for room in layer]
    edges = {}
    for room in rooms:
        names = set().union(*map(imported, (root / "dtta" / room).rglob("*.py")))
        used = {name.split(".")[1] for name in names if name.startswith("dtta.")}
        edges[room] = used & set(rooms) - {room}
    return edges


def drawing(root: Path) -> str:
    """Return the SVG: a row for each room, with a dot in the column of each room that it imports."""
    edges = rooms_imported(root)
    rooms = list(edges)
    column = {room: LEFT + CELL * (i + 0.5) for i, room in enumerate(rooms)}
    text = "; ".join(f"{room}: {', '.join(r for r in rooms if r in used) or 'none'}" for room, used in edges.items())
    y, parts = TOP, []
    for layer in layers(root):
        height = CELL * len(layer)
        parts.append(f'<rect x="6" y="{y + 2}" width="{WIDTH - 12}" height="{height - 4}" rx="6" fill="#e8eef6"/>')
        for room in layer:
            parts.append(f'<text x="14" y="{y + 17}" font-weight="bold">{room}</text>')
            parts += [f'<circle cx="{column[r]}" cy="{y + 12.5}" r="5.5"/>' for r in rooms if r in edges[room]]
            parts.append(f'<path d="M{column[room] - 5} {y + 12.5}h10" stroke="#8a97a8" stroke-width="2"/>')
            y += CELL
    for room, x in column.items():
        parts.append(f'<text transform="translate({x + 4} {TOP - 6}) rotate(-60)">{room}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 8}" width="{WIDTH}" height="{y + 8}" '
            'role="img" aria-labelledby="title desc" font-family="system-ui, sans-serif" font-size="14" '
            'fill="#16324f">',
            '<title id="title">Which room of dtta imports which</title>',
            f'<desc id="desc">The rooms from the top to the bottom, and what each imports. {text}.</desc>',
            f'<rect width="{WIDTH}" height="{y + 8}" rx="8" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    (ROOT / "book/_static/architecture.svg").write_text(drawing(ROOT), encoding="utf-8")

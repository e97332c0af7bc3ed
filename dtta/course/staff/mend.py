"""Mend one notebook by the one that students got: every graded cell back in its place, under its name, unedited."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

import nbformat
from nbformat import NotebookNode

from dtta.course.staff.symptoms import symptoms

ALIKE = 0.6  # of two texts, from which an edited cell is taken for the original
ELSEWHERE = "# The answer is in another cell."


def mend(notebook: NotebookNode, release: NotebookNode) -> Iterator[tuple[str, bool]]:
    """Mend a notebook in place. Yields what was found, and whether it is mended now."""
    kernel = notebook.metadata.get("kernelspec", {}).get("name")
    if kernel != "python3":
        yield f"asked for the kernel {kernel!r}, which no other machine has; now python3", True
    notebook.metadata["kernelspec"] = dict(release.metadata.kernelspec)
    notebook.nbformat_minor = 5
    originals = {cell.metadata.nbgrader.grade_id: cell for cell in release.cells if "nbgrader" in cell.metadata}
    yield from _doubles(notebook, originals)
    yield from _strangers(notebook, originals)
    given = {cell.source.strip() for cell in release.cells if "nbgrader" not in cell.metadata}
    yield from _lost(notebook, originals, given)
    yield from _edited(notebook, originals)
    yield from _missing(notebook, originals)
    yield from _order(notebook, originals)
    yield from _words(notebook, originals, given)
    _identify(notebook)
    ours = {cell.source.strip() for cell in originals.values()}
    yield from ((sentence, False) for sentence in symptoms(notebook, ours))


def grade_id(cell: NotebookNode) -> str | None:
    """The name that nbgrader knows a cell by."""
    about = cell.metadata.get("nbgrader")
    return about.get("grade_id") if isinstance(about, dict) else None


def _doubles(notebook: NotebookNode, originals: dict) -> Iterator[tuple[str, bool]]:
    """A copied cell has a copied name, which nbgrader refuses: one keeps it."""
    for name, original in originals.items():
        copies = [cell for cell in notebook.cells if grade_id(cell) == name]
        if len(copies) < 2:
            continue
        changed = [cell for cell in copies if cell.source.strip() != original.source.strip()]
        texts = {cell.source.strip() for cell in changed}
        keep = copies[0] if _locked(original) or not changed else changed[-1]
        for cell in copies:
            if cell is not keep:
                _forget(cell)
        if original.metadata.nbgrader.grade and len(texts) > 1 and not _locked(original):
            yield f"{name} stands {len(copies)} times with different answers; the last is graded: look at it", True
        else:
            yield f"{name} stood {len(copies)} times; one keeps the name, all of them still run", True


def _strangers(notebook: NotebookNode, originals: dict) -> Iterator[tuple[str, bool]]:
    for cell in notebook.cells:
        if "nbgrader" in cell.metadata and grade_id(cell) not in originals:
            name = grade_id(cell)
            _forget(cell)
            yield f"a cell has the name {name!r}, which this assignment does not; it is an ordinary cell now", True


def _lost(notebook: NotebookNode, originals: dict, given: set[str]) -> Iterator[tuple[str, bool]]:
    """Cells without a name: find each again by its id, its text, the function in it, its place, or its likeness."""
    there = {grade_id(cell) for cell in notebook.cells}
    found = []
    for match in (_by_id, _by_text, _by_function, _by_place, _by_likeness):
        for name in [name for name in originals if name not in there]:
            free = [cell for cell in notebook.cells if grade_id(cell) is None and cell.source.strip() not in given]
            cell = match(name, originals, free, notebook.cells)
            if cell is not None:
                cell.metadata["nbgrader"] = nbformat.from_dict(dict(originals[name].metadata.nbgrader))
                there.add(name)
                found.append(name)
    if found:
        yield f"lost the metadata of {len(found)} cells, given back: {', '.join(found)}", True


def _by_id(name, originals, free, cells) -> NotebookNode | None:
    return next((cell for cell in free if cell.get("id") == name and cell.cell_type == originals[name].cell_type), None)


def _by_text(name, originals, free, cells) -> NotebookNode | None:
    same = [cell for cell in free if cell.source.strip() == originals[name].source.strip()]
    # Two answers in words have the same text as long as they are blank: those their place must tell.
    twins = [other for other in originals.values() if other.source.strip() == originals[name].source.strip()]
    return same[0] if same and len(twins) == 1 else None


def _by_function(name, originals, free, cells) -> NotebookNode | None:
    names_needed = _defines(originals[name].source)
    if not names_needed or _locked(originals[name]):
        return None
    same = [cell for cell in free if cell.cell_type == "code" and names_needed <= _defines(cell.source)]
    return same[-1] if same else None  # of several, the last is what runs


def _by_place(name, originals, free, cells) -> NotebookNode | None:
    """The only cell of its kind between the neighbours that it has in the original."""
    names = list(originals)
    i = names.index(name)
    places = {grade_id(cell): k for k, cell in enumerate(cells) if grade_id(cell)}
    before = max((places[n] for n in names[:i] if n in places), default=-1)
    after = min((places[n] for n in names[i + 1 :] if n in places), default=len(cells))
    if _locked(originals[name]) or after - before < 2:
        return None
    kind = originals[name].cell_type
    between = [cell for cell in cells[before + 1 : after] if cell.cell_type == kind and any(cell is f for f in free)]
    return between[0] if len(between) == 1 else None


def _by_likeness(name, originals, free, cells) -> NotebookNode | None:
    kind, text = originals[name].cell_type, originals[name].source
    likes = [
        (difflib.SequenceMatcher(None, c.source, text).ratio(), i) for i, c in enumerate(free) if c.cell_type == kind
    ]
    best = max(likes, default=(0, 0))
    return free[best[1]] if best[0] >= ALIKE else None


def _edited(notebook: NotebookNode, originals: dict) -> Iterator[tuple[str, bool]]:
    for cell in notebook.cells:
        name = grade_id(cell)
        if not name:
            continue
        original = originals[name]
        if _locked(original) and cell.source.strip() != original.source.strip():
            yield f"{name} was edited; it is the original again", True
        if cell.cell_type != original.cell_type:
            yield f"{name} was turned into a {cell.cell_type} cell; it is a {original.cell_type} cell again", True
            _turn(cell, original.cell_type)
        if _locked(original):
            cell.source = original.source
        want = dict(original.metadata.nbgrader)
        if dict(cell.metadata.nbgrader) != want:
            yield f"{name} had other metadata than it was given; restored", True
            cell.metadata["nbgrader"] = nbformat.from_dict(want)


def _missing(notebook: NotebookNode, originals: dict) -> Iterator[tuple[str, bool]]:
    """Cells that are nowhere: put back behind the one that they follow."""
    names = list(originals)
    for i, name in enumerate(names):
        if any(grade_id(cell) == name for cell in notebook.cells):
            continue
        behind = [k for k, cell in enumerate(notebook.cells) if grade_id(cell) in names[:i]]
        cell = nbformat.from_dict(originals[name])
        notebook.cells.insert(max(behind, default=-1) + 1, cell)
        names_needed = _defines(cell.source)
        there = {
            function
            for c in notebook.cells
            if c is not cell and c.cell_type == "code"
            for function in _defines(c.source)
        }
        if not _locked(cell) and names_needed and names_needed <= there:  # the empty answer must not replace it
            cell.source = ELSEWHERE
            yield f"{name}, an answer, was missing; {', '.join(sorted(names_needed))} is in another cell", True
            continue
        kind = "a check" if _locked(cell) else "an answer"
        yield f"{name}, {kind}, was missing; it is there again, as students got it", True


def _order(notebook: NotebookNode, originals: dict) -> Iterator[tuple[str, bool]]:
    """A check that stands before its answer fails, and so may a test before those of its task that come first."""
    names = list(originals)
    for i, name in enumerate(names):
        if not _locked(originals[name]) or i == 0:
            continue
        task = name.rpartition("-")[0]
        first = [other for other in names[:i] if other.rpartition("-")[0] == task]
        places = {grade_id(cell): k for k, cell in enumerate(notebook.cells) if grade_id(cell)}
        last = max((places[other] for other in first if other in places), default=-1)
        if places[name] < last:
            cell = notebook.cells.pop(places[name])
            notebook.cells.insert(last, cell)  # the pop moved what was there up by one
            yield f"{name} stood before {grade_id(notebook.cells[last - 1])}; it stands behind it now", True


def _words(notebook: NotebookNode, originals: dict, given: set[str]) -> Iterator[tuple[str, bool]]:
    """An answer in words that was written into a new cell next to the one for it: it goes into that one."""
    for name, original in originals.items():
        place = next((k for k, cell in enumerate(notebook.cells) if grade_id(cell) == name), None)
        about = original.metadata.nbgrader
        if place is None or original.cell_type != "markdown" or not (about.grade and about.solution):
            continue
        cell = notebook.cells[place]
        if cell.source.strip() != original.source.strip():
            continue
        texts = []
        for step in (-1, 1):
            k = place + step
            while 0 <= k < len(notebook.cells) and not grade_id(notebook.cells[k]):
                source = notebook.cells[k].source.strip()
                if source in given:
                    break
                if notebook.cells[k].cell_type == "markdown" and source:
                    texts.insert(0 if step < 0 else len(texts), source)
                k += step
        if texts:
            cell.source = "\n\n".join(texts)
            yield f"{name} was left empty, with words in a new cell next to it; they are copied into it", True


def _identify(notebook: NotebookNode) -> None:
    """Every cell an id that no other has; graded ones theirs."""
    used = {grade_id(cell) for cell in notebook.cells} - {None}
    for i, cell in enumerate(notebook.cells):
        name = grade_id(cell)
        old = cell.get("id")
        if name:
            cell["id"] = name
        elif not (isinstance(old, str) and re.fullmatch(r"[\w-]{1,64}", old)) or old in used:
            cell["id"] = f"cell-{i}" if f"cell-{i}" not in used else f"cell-{i}-{len(used)}"
        used.add(cell["id"])


def _locked(cell: NotebookNode) -> bool:
    return bool(cell.metadata.nbgrader.locked)


def _forget(cell: NotebookNode) -> None:
    for key in ("nbgrader", "deletable", "editable"):
        cell.metadata.pop(key, None)


def _turn(cell: NotebookNode, kind: str) -> None:
    cell.cell_type = kind
    if kind == "code":
        cell.outputs, cell.execution_count = [], None
    else:
        cell.pop("outputs", None)
        cell.pop("execution_count", None)


def _defines(text: str) -> set[str]:
    """The functions, classes and other names that a cell makes, as far as lines tell."""
    return set(re.findall(r"^(?:(?:def|class) (?=\w)|(?=\w+ *=[^=]))(\w+)", text, re.MULTILINE))

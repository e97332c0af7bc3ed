"""Find what went wrong with notebooks on their way through classrooms, and mend what can be mended safely.

nbgrader finds a graded cell by its metadata. Editors lose them, copies double them, and students edit tests: nbgrader
then gives zero without a word, or refuses. The doctor compares a submission with the notebook that students got.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dtta.course.staff import variants
from dtta.course.staff.archive import LARGEST
from dtta.course.staff.mend import mend
from dtta.course.staff.source import LEFT_BY_MACOS, CourseError, submissions

LARGE = 1_000_000  # bytes of a file whose outputs are thrown away; grading makes them anew


@dataclass
class Finding:
    """One thing found in one submission, and whether it was mended."""

    student: str
    assignment: str
    sentence: str
    mended: bool


def visit(folder: Path, keys: list[str] | None = None, dry: bool = False) -> list[Finding]:
    """Look through all that was handed in: submitted/NAME/a1/*.ipynb. Originals of mended ones go to before_doctor/.

    Args:
        folder: a course folder, with release/ beside submitted/.
        keys: which assignments; None: all.
        dry: find only.

    Raises:
        CourseError: the folder is no course folder, or an assignment was never built in it.
    """
    if not (folder / "submitted").is_dir():
        raise CourseError(f"{folder} has no folder submitted/ with submitted/NAME/a1/a1_NAME.ipynb in it")
    submissions(folder, keys or ())  # a wrong name is reported
    found: list[Finding] = []
    for home in sorted(path for path in (folder / "submitted").glob("*/*") if path.is_dir()):
        student, key = home.parent.name, home.name
        if (keys and key not in keys) or {student, key} & LEFT_BY_MACOS:
            continue
        originals = sorted((folder / "release" / key).glob("*.ipynb"))
        if len(originals) != 1:
            raise CourseError(
                f"{folder}/release has no notebook for {key}; call: dtta course build {key} --to {folder}"
            )
        found += [Finding(student, key, *one) for one in _examine(folder, home, originals[0], dry)]
    return found


def treat(folder: Path, key: str, student: str) -> tuple[list[Finding], str]:
    """Repair one submission before it is graded; return the findings, and why there is nothing to grade, or ""."""
    home, originals = folder / "submitted" / student / key, list((folder / "release" / key).glob("*.ipynb"))
    if len(originals) != 1:  # it was built elsewhere: nothing to compare with
        return [], "" if list(home.glob("*.ipynb")) else "no notebook was handed in"
    findings = [Finding(student, key, *one) for one in _examine(folder, home, originals[0], dry=False)]
    path = home / originals[0].name
    try:
        if path.exists() and path.stat().st_size <= LARGEST:
            _open(path.read_bytes())
            return findings, ""
        return findings, findings[-1].sentence
    except CourseError as error:
        return findings, f"{path.name} {error}"


def _examine(folder: Path, home: Path, original: Path, dry: bool) -> Iterator[tuple[str, bool]]:
    seed = variants.read(folder).get(home.parent.name)
    release = variants.personalize(nbformat.read(original, as_version=4), seed)
    yield from _unpack(folder, home, dry)
    path, words = _choose(home, original.name, release)
    if path is None:
        yield words, False
        return
    before = path.read_bytes()
    if len(before) > LARGEST:
        yield f"{path.name} has {len(before) / 1e6:.0f} MB; clear its outputs in an editor", False
        return
    try:
        notebook = _open(before)
    except CourseError as error:
        yield f"{path.name} {error}", False
        return
    findings = [(f"was named {path.name}; now {original.name}", True)] if path.name != original.name else []
    encoding = json.detect_encoding(before)
    if encoding != "utf-8":
        findings.append((f"was written in {encoding}, which nbgrader does not read; now in UTF-8", True))
    findings += list(_clean(notebook))
    findings += list(mend(notebook, release))
    if len(before) > LARGE:
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = []
        findings.append((f"had {len(before) / 1e6:.1f} MB; its outputs are left out, grading makes them anew", True))
    if any(mended for _, mended in findings) and not dry:
        keep = folder / "before_doctor" / home.parent.name / home.name / path.name
        if not keep.exists():  # a second visit must not replace the true original
            keep.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, keep)
        path.unlink()
        (home / original.name).write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    yield from findings


def _unpack(folder: Path, home: Path, dry: bool) -> Iterator[tuple[str, bool]]:
    """Take the notebooks out of archives, whatever their names end in. Other files stay in them."""
    for path in sorted(path for path in home.glob("*") if path.is_file() and zipfile.is_zipfile(path)):
        try:
            with zipfile.ZipFile(path) as archive:
                inside = [i for i in archive.infolist() if i.filename.endswith(".ipynb") and i.file_size <= LARGEST]
                inside = [i for i in inside if not re.search(r"(^|/)(__MACOSX/|\.)", i.filename)]
                papers = {Path(i.filename).name: archive.read(i) for i in inside}
        except (zipfile.BadZipFile, RuntimeError, NotImplementedError, OSError) as error:
            yield f"{path.name} is an archive that cannot be opened ({error})", False
            continue
        papers = {name: data for name, data in papers.items() if name == path.name or not (home / name).exists()}
        if not papers:
            continue
        yield f"{path.name} is an archive; taken out of it: {', '.join(sorted(papers))}", True
        if not dry:
            keep = folder / "before_doctor" / home.parent.name / home.name / path.name
            keep.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, keep)
            for name, data in papers.items():
                (home / name).write_bytes(data)


def _clean(notebook: NotebookNode) -> Iterator[tuple[str, bool]]:
    """What editors leave or leave out that stops nbgrader: outputs, widgets without a state, halves of characters."""
    bare = [
        cell for cell in notebook.cells if cell.cell_type == "code" and not {"outputs", "execution_count"} <= {*cell}
    ]
    for cell in bare:
        cell.setdefault("outputs", [])
        cell.setdefault("execution_count", None)
    if bare:
        yield f"had {len(bare)} code cells without the field of their outputs; it is there again", True
    widgets = notebook.metadata.get("widgets")
    if widgets is not None and not all(isinstance(w, dict) and "state" in w for w in dict(widgets).values()):
        del notebook.metadata["widgets"]
        yield "had widgets without their state, as Colab saves them; they are left out", True
    text = json.dumps(notebook, ensure_ascii=False)
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if whole != text:
        notebook.update(nbformat.from_dict(json.loads(whole)))
        yield "had half a character, which no file takes; it is replaced by a mark", True


def _choose(home: Path, name: str, release: NotebookNode) -> tuple[Path | None, str]:
    """The notebook that was meant, or why none can be told."""
    if (home / name).exists():
        return home / name, ""
    papers = sorted(path for path in home.glob("*") if path.suffix == ".ipynb" or ".ipynb" in path.name)
    papers = [
        path for path in papers if path.is_file() and path.stat().st_size <= LARGEST and _resembles(path, release)
    ]
    if len(papers) == 1:
        return papers[0], ""
    if papers:
        return (
            None,
            f"has no {name} but several that could be it: {', '.join(p.name for p in papers)}; keep one of them",
        )
    return None, f"has no notebook {name}, and no other that looks like it"


def _resembles(path: Path, release: NotebookNode) -> bool:
    try:
        notebook = _open(path.read_bytes())
    except CourseError:
        return False
    known = {cell.source.strip() for cell in release.cells if len(cell.source) > 40}
    return sum(cell.source.strip() in known for cell in notebook.cells) >= len(known) // 3


def _open(data: bytes) -> NotebookNode:
    """A notebook of any version and editor, as the format has it today."""
    try:
        text = json.loads(data)  # in UTF-8 or UTF-16, with a mark or without
        notebook = nbformat.convert(nbformat.from_dict(text), 4)
        for cell in notebook.cells:  # before validation: some editors write a list of lines, or null
            cell["source"] = (
                "".join(cell["source"]) if isinstance(cell.get("source"), list) else cell.get("source") or ""
            )
            cell["metadata"] = cell.get("metadata") or nbformat.from_dict({})
        return notebook
    except Exception as error:
        raise CourseError(f"is not a notebook ({type(error).__name__}); ask for it again") from error

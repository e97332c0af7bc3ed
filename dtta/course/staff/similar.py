"""Which submissions resemble each other more than the task explains: pairs, scores, and the passages that they share.

Code is compared as tokens without comments, with every name of the student's replaced by one mark, so that renaming
and reformatting hide nothing; answers in words are compared as words. What the assignment gave, what its solution
holds, and what many students wrote does not count. A high score is a reason to read both, and proves nothing.
"""

from __future__ import annotations

import builtins
import io
import itertools
import keyword
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from dtta.course.staff import roster
from dtta.course.staff.source import CourseError, submissions

GRAM = {"code": 10, "markdown": 6}  # tokens of code, or words, that must agree in a row
COMMON = 0.4  # a passage of more than this share of the class (and of more than two students) is nobody's own
FEWEST = 8  # passages of one's own below which nothing can be said
_LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
_KNOWN = {*keyword.kwlist, *dir(builtins)}
_MARKER = re.compile(r"^[ \t]*### (BEGIN|END) .*\n?", re.MULTILINE)


@dataclass
class Work:
    """What one student wrote: lines of text, and the lines at which each passage of tokens begins and ends."""

    student: str
    lines: list[str] = field(default_factory=list)
    grams: dict[tuple, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Pair:
    """Two submissions: the share of the shorter one's own passages that the other has too, and those lines of both."""

    one: str
    other: str
    score: float
    shared: int
    passages: list[tuple[str, str]]


def compare(folder: Path, key: str) -> list[Pair]:
    """All pairs of submissions of an assignment that share a passage, the most similar first.

    Raises:
        CourseError: fewer than two submissions, or the assignment was not built here.
    """
    students = [student for _, student in submissions(folder, [key])]
    given = [*(folder / "release" / key).glob("*.ipynb"), *(folder / "source" / key).glob("*.ipynb")]
    if not given:
        raise CourseError(f"{folder}/release has no notebook for {key}; call: dtta course build {key} --to {folder}")
    if len(students) < 2:
        raise CourseError(f"{key} has one submission, and nothing to compare it with")
    base = [nbformat.read(path, as_version=4) for path in given]
    cells = {_squeezed(cell.source) for notebook in base for cell in notebook.cells}
    given_grams = {gram for notebook in base for gram in _work("", notebook.cells).grams}
    works = []
    for student in students:
        paths = sorted((folder / "submitted" / student / key).glob("*.ipynb"))
        written = [cell for path in paths for cell in _cells(path) if _squeezed(cell.source) not in cells]
        works.append(_work(student, written))
    count = Counter(gram for work in works for gram in work.grams)
    most = max(2, COMMON * len(works))
    for work in works:
        work.grams = {gram: at for gram, at in work.grams.items() if gram not in given_grams and count[gram] <= most}
    pairs = [_pair(one, other) for one, other in itertools.combinations(works, 2)]
    return sorted((pair for pair in pairs if pair), key=lambda pair: (-pair.score, -pair.shared))


def _cells(path: Path) -> Iterable[NotebookNode]:
    try:
        return nbformat.read(path, as_version=4).cells
    except Exception:  # the doctor says what is wrong with it
        return []


def _squeezed(text: str) -> str:
    return "".join(text.split())


def _work(student: str, cells: Iterable[NotebookNode]) -> Work:
    work = Work(student)
    for cell in cells:
        if cell.cell_type not in GRAM:
            continue
        source = _MARKER.sub("", cell.source)
        tokens = _code(source) if cell.cell_type == "code" else _words(source)
        start, size = len(work.lines), GRAM[cell.cell_type]
        work.lines += source.splitlines()
        for n in range(len(tokens) - size + 1):
            run = tokens[n : n + size]
            work.grams.setdefault(tuple(text for text, _ in run), (start + run[0][1], start + run[-1][1]))
    return work


def _code(source: str) -> list[tuple[str, int]]:
    """The tokens of a cell and their lines; names that are not Python's become one mark, texts another."""
    tokens = []
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            text = token.string
            if token.type in _LAYOUT or not text:
                continue
            if token.type == tokenize.NAME and text not in _KNOWN:
                text = "name"
            elif token.type == tokenize.STRING:
                text = "text"
            tokens.append((text, token.start[0] - 1))
    except (tokenize.TokenError, SyntaxError):  # as far as it can be read
        pass
    return tokens


def _words(source: str) -> list[tuple[str, int]]:
    return [(word, n) for n, line in enumerate(source.splitlines()) for word in re.findall(r"[^\W_]+", line.casefold())]


def _pair(one: Work, other: Work) -> Pair | None:
    shared = one.grams.keys() & other.grams.keys()
    fewest = min(len(one.grams), len(other.grams))
    if not shared or fewest < FEWEST:
        return None
    both = sorted((one.grams[gram], other.grams[gram]) for gram in shared)
    runs: dict[int, list] = defaultdict(list)  # passages that touch in both are one
    number = 0
    for n, (a, b) in enumerate(both):
        if n and not (a[0] <= both[n - 1][0][1] + 1 and abs(b[0] - both[n - 1][1][1]) <= 2):
            number += 1
        runs[number].append((a, b))
    passages = []
    for run in runs.values():
        left = one.lines[min(a[0] for a, _ in run) : max(a[1] for a, _ in run) + 1]
        right = other.lines[min(b[0] for _, b in run) : max(b[1] for _, b in run) + 1]
        passages.append(("\n".join(left), "\n".join(right)))
    return Pair(one.student, other.student, len(shared) / fewest, len(shared), passages)


def write(folder: Path, key: str, least: float) -> tuple[list[Path], list[Pair]]:
    """Write report/similar_a1.csv, all pairs, and report/similar_a1.md, the passages of those from `least` on."""
    pairs = compare(folder, key)
    out = folder / "report"
    rows = [[key, pair.one, pair.other, round(pair.score, 3), pair.shared] for pair in pairs]
    header = ["assignment", "student", "other", "score", "shared passages"]
    roster.write_table(out / f"similar_{key}.csv", header, rows)
    high = [pair for pair in pairs if pair.score >= least]
    lines = [f"# Similar submissions of {key}", "", *__doc__.split("\n\n")[1].splitlines(), ""]
    for pair in high:
        lines += [f"## {pair.one} and {pair.other}: {pair.score:.2f}", ""]
        for left, right in pair.passages:
            lines += [f"{pair.one}:", "", *_fenced(left), "", f"{pair.other}:", "", *_fenced(right), ""]
    (out / f"similar_{key}.md").write_text("\n".join(lines), encoding="utf-8")
    return [out / f"similar_{key}.csv", out / f"similar_{key}.md"], high


def _fenced(text: str) -> list[str]:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, text, fence]

"""What the reference solution of each experiment prints under five variants, stored in reference/KEY.json.

    python tests/course/references.py a1 a2

makes them again. The keys for graders are checked against them in test_course_keys.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import sys
from pathlib import Path

from breaking import cells
from trip import ROOT

from dtta.course.staff import source

STORED = Path(__file__).parent / "reference"
SEEDS = range(5)


def code(key: str, seed: int = 0) -> str:
    """All code that the experiment of an assignment runs: the setup and the answers."""
    parts = cells(source.read(ROOT, key, seed))
    return "\n".join(text for name, text in parts.items() if name == "setup" or name.endswith("-answer"))


def digest(key: str) -> str:
    """A checksum of that code, by which an old stored output is noticed."""
    return hashlib.sha256(code(key).encode()).hexdigest()[:16]


def run(text: str) -> list[str]:
    """Run code and return the lines that it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "<reference>", "exec"), {"__name__": "reference"})
    return out.getvalue().splitlines()


def stored(key: str) -> dict:
    """The stored checksum and lines by seed."""
    return json.loads((STORED / f"{key}.json").read_text(encoding="utf-8"))


def report_code(name: str) -> str:
    """The code of a sample report: the project's reference with more images, or the block of code in the poor one."""
    if name == "poor":
        page = (ROOT / "book" / "project_reports.md").read_text(encoding="utf-8")
        return re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    small, large = '8, {"steps": 3, "samples": 6}', '48, {"samples": 24}'
    assert small in code("project")
    return code("project").replace(small, large)


def reports_digest() -> str:
    """A checksum of the code of both sample reports."""
    return hashlib.sha256((report_code("good") + report_code("poor")).encode()).hexdigest()[:16]


if __name__ == "__main__":
    for key in sys.argv[1:] or [*source.keys(ROOT), "reports"]:
        if key == "reports":
            made = {"code": reports_digest()} | {name: run(report_code(name)) for name in ("good", "poor")}
        else:
            made = {"code": digest(key)} | {str(seed): run(code(key, seed)) for seed in SEEDS}
        text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
        (STORED / f"{key}.json").write_text(text, encoding="utf-8")
        print(STORED / f"{key}.json")

"""Compare the files that name a version, and print the notes of a release: ``python tools/release.py v0.2.0``.

The tag, dtta/__init__.py, the tag from which the pages install dtta on Colab, CITATION.cff and CHANGELOG.md must agree,
and the last two in the date.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]


def check(root: Path, tag: str) -> tuple[str, list[str]]:
    """Return the notes of a release, from the changelog, and what is not in step with its tag, a sentence each."""

    def find(pattern: str, name: str) -> str:
        match = re.search(pattern, (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        return match[1] if match else "none"

    version = tag.removeprefix("v")
    colab = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["dtta"]["colab-ref"]
    date = find(r'^date-released: "?(\d{4}-\d\d-\d\d)"?$', "CITATION.cff")
    notes = find(rf"^## {re.escape(version)} - {date}\n((?:(?!## ).*\n?)*)", "CHANGELOG.md")
    facts = [
        (f"v{find(r'^__version__ = .(.*).$', 'dtta/__init__.py')}", "the version in dtta/__init__.py"),
        (f"v{find('^version: (.*)$', 'CITATION.cff')}", "the version in CITATION.cff"),
        (colab, "colab-ref in pyproject.toml (python tools/pages ref)"),
    ]
    problems = [f"{where} is {fact}, the tag is {tag}" for fact, where in facts if fact != tag]
    if date == "none":
        problems.append("CITATION.cff has no date-released: YYYY-MM-DD")
    elif notes == "none":
        problems.append(f"CHANGELOG.md has no heading '## {version} - {date}', with the date of CITATION.cff")
    return notes.strip(), problems


def main(arguments: list[str]) -> None:
    if len(arguments) != 1:
        sys.exit("usage: python tools/release.py v1.2.3")
    notes, problems = check(CHECKOUT, arguments[0])
    if problems:
        print("\n".join(problems), file=sys.stderr)
        sys.exit(2)
    print(notes)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Carry the repository's address and release tag from pyproject.toml into every file that names them.

    python tools/repository.py            after a change of [project.urls] Repository or [tool.dtta] colab-tag
    python tools/repository.py --check    only name the files that are out of step; exit status 1 if there are any

The former address is the one that _config.yml and CITATION.cff still hold.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MUST_NAME_IT = ["README.md", "CITATION.cff", "_config.yml"]
MAY_NAME_IT = ["book/**/*.md", "notebooks/src/**/*.py", "notebooks/**/*.ipynb"]
GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+)")


def settings(root: Path = ROOT) -> tuple[str, str]:
    """The repository's address and the release tag that Colab installs, from pyproject.toml."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    url, tag = project["project"]["urls"]["Repository"], project["tool"]["dtta"]["colab-tag"]
    if not GITHUB.fullmatch(url):  # Colab opens notebooks from nowhere else
        raise ValueError(f"Repository in pyproject.toml must read https://github.com/OWNER/NAME, not {url}")
    return url, tag


def former_addresses(root: Path) -> set[str]:
    """The addresses in the two files that must hold one under a known key."""
    found = set()
    for name, key in [("_config.yml", "url"), ("CITATION.cff", "repository-code")]:
        if (root / name).is_file():
            text = (root / name).read_text(encoding="utf-8")
            found.update(re.findall(rf"^\s*{key}:\s*[\"']?({GITHUB.pattern})", text, re.MULTILINE))
    return {match[0] for match in found}


def in_step(text: str, old: str, url: str, tag: str) -> str:
    """The text with the new address in place of the old one, in all its forms, and the new tag behind it."""
    (owner, name), (new_owner, new_name) = GITHUB.fullmatch(old).groups(), GITHUB.fullmatch(url).groups()
    end = r"(?![\w-])"  # owner/name is not owner/name-2
    for pattern, new in [
        (rf"github\.com/{re.escape(owner)}/{re.escape(name)}{end}", f"github.com/{new_owner}/{new_name}"),
        (rf"/github/{re.escape(owner)}/{re.escape(name)}/", f"/github/{new_owner}/{new_name}/"),  # in Colab's links
        (rf"{re.escape(owner)}\.github\.io/{re.escape(name)}{end}", f"{new_owner}.github.io/{new_name}"),
    ]:
        text = re.sub(pattern, new, text)
    return re.sub(rf"({re.escape(url)}(?:\.git)?)@v[\w.]+", rf"\1@{tag}", text)  # pip install git+URL@TAG


def out_of_step(root: Path = ROOT) -> dict[Path, str]:
    """Each file that must change -> its text as it should be."""
    url, tag = settings(root)
    changes = {}
    files = [root / name for name in MUST_NAME_IT if (root / name).is_file()]
    files += [path for pattern in MAY_NAME_IT for path in sorted(root.glob(pattern))]
    for path in files:
        text = new = path.read_text(encoding="utf-8")
        for old in former_addresses(root) | {url}:
            new = in_step(new, old, url, tag)
        if new != text:
            changes[path] = new
        if path.name in MUST_NAME_IT and url not in new:
            raise ValueError(f"{path.name} names no repository that could be brought into step; it should name {url}")
    return changes


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    check = parser.parse_args(arguments).check
    try:
        changes = out_of_step(root)
    except (ValueError, KeyError) as error:
        print(f"repository.py: {error}", file=sys.stderr)
        return 1
    for path, text in changes.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        print(f"{'out of step' if check else 'written'}: {path.relative_to(root)}")
    return int(check and bool(changes))


if __name__ == "__main__":
    sys.exit(main())

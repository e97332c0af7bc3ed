"""The drawing of the rooms and the reference of the interface: in step with the code."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"
# The course's and the commands' interface is the notebooks and the shell.
LEFT_OUT = ("dtta.course.", "dtta.cli.", "dtta.__main__")


def architecture():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "tools/architecture.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_drawing_shows_the_imports_of_the_code():
    committed = (ROOT / "book/_static/architecture.svg").read_text(encoding="utf-8")
    assert committed == architecture().drawing(ROOT), "call: python tools/architecture.py"


def test_every_import_is_a_dot_and_is_named_for_screen_readers(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        '[[tool.importlinter.contracts]]\nforbidden_modules = ["dtta.top"]\n'
        '[[tool.importlinter.contracts]]\nlayers = ["dtta.top", "dtta.left | dtta.right", "dtta.low"]\n',
        encoding="utf-8",
    )
    code = {
        "top": "def f():\n    from dtta.left import x\n    import dtta.low.a\n",
        "left": "from dtta import low\nimport dtta.left.b\n",
        "right": "import torch\n",
        "low": "",
    }
    for room, text in code.items():
        (tmp_path / "dtta" / room).mkdir(parents=True)
        (tmp_path / "dtta" / room / "a.py").write_text(text, encoding="utf-8")
    module = architecture()
    assert module.rooms_imported(tmp_path) == {"top": {"left", "low"}, "left": {"low"}, "right": set(), "low": set()}
    svg = ElementTree.fromstring(module.drawing(tmp_path))
    assert len(svg.findall(f"{SVG}circle")) == 3
    assert "top: left, low; left: low; right: none; low: none" in svg.find(f"{SVG}desc").text
    assert svg.find(f"{SVG}title").text


def test_every_public_module_is_in_the_reference():
    pages = {path: path.read_text(encoding="utf-8") for path in (ROOT / "book/api").glob("*.md")}
    by_page = {path: re.findall(r"^\.\. automodule:: (\S+)$", text, re.MULTILINE) for path, text in pages.items()}
    named = [name for names in by_page.values() for name in names]
    for path, names in by_page.items():  # a page has the modules of its room
        room = f"dtta.{path.stem.replace('_', '.')}."
        assert [name for name in names if not f"{name}.".startswith(room)] == [], path.name
    assert len(named) == len(set(named)), "a module is documented twice"
    modules = set()
    for path in (ROOT / "dtta").rglob("*.py"):
        modules.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    packages = {".".join(path.relative_to(ROOT).parent.parts) for path in (ROOT / "dtta").rglob("__init__.py")}
    public = {name for name in modules - packages if not name.startswith(LEFT_OUT) and "._" not in name}
    assert public - set(named) == set(), "missing in book/api/"
    assert set(named) <= modules, "gone from the package"


def test_files_stay_short():
    """The core can be read aloud in half an hour, and its central file shows Algorithm 1 at once."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in (ROOT / "dtta").rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > 320} == {}
    assert lines[ROOT / "dtta/core/tta.py"] <= 150
    assert sum(count for path, count in lines.items() if path.parent.name == "core") <= 1500

"""Record the run of a page: time, memory, device, versions and commit, in a JSON file next to the notebook."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "diffusers", "transformers", "timm")
ENDING = ".record.json"

# The kernel runs every file in IPython's startup folder when it starts; this one writes the record when it ends.
STARTUP = """\
def _write_record():
    import json, os, platform, sys
    usage = {"memory": None, "gpu_memory": None}
    if sys.platform != "win32":
        import resource
        kilo = 1 if sys.platform == "darwin" else 1024
        usage["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 2**30
    usage["device"] = f"CPU ({platform.machine()})"
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        usage["device"] = torch.cuda.get_device_name()
        usage["gpu_memory"] = torch.cuda.max_memory_allocated() / 2**30
    with open(os.environ["DTTA_PAGE_RECORD"], "w", encoding="utf-8") as file:
        json.dump(usage, file)
    os._exit(0)  # what is left is IPython's history, in memory; freeing what was imported takes seconds


import atexit as _atexit
_atexit.register(_write_record)
del _write_record, _atexit
"""


def variables(folder: Path) -> dict[str, str]:
    """Return environment variables under which a kernel records its memory and device in `folder`."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "record.py").write_text(STARTUP, encoding="utf-8")
    return {"IPYTHONDIR": str(folder / "ipython"), "DTTA_PAGE_RECORD": str(folder / "record.json")}


def write(notebook: Path, folder: Path, root: Path, profile: str, seconds: float, failed: bool) -> None:
    """Write the record of a page next to its notebook; values that a killed kernel did not write are null."""
    kernel_record = folder / "record.json"
    usage = {"device": None, "memory": None, "gpu_memory": None}
    if kernel_record.exists():
        usage |= json.loads(kernel_record.read_text(encoding="utf-8"))
    about = {"page": notebook.stem, "profile": profile, "failed": failed, "seconds": round(seconds, 1)}
    about |= {key: round(value, 2) if isinstance(value, float) else value for key, value in usage.items()}
    about |= {"versions": versions(), "commit": commit(root), "date": datetime.now(UTC).date().isoformat()}
    notebook.with_name(notebook.stem + ENDING).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries that decide the numbers of a page."""
    installed = {}
    for name in LIBRARIES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def commit(root: Path) -> str:
    """Return the commit of a checkout, with "-dirty" if files were changed since."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, check=False, encoding="utf-8").stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def read(folder: Path) -> list[dict]:
    """Return the records of a folder, sorted by page."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"*{ENDING}"))]


def table(records: list[dict]) -> str:
    """Return the records as Markdown: a table for each profile, device and commit, or a sentence if there are none."""
    if not records:
        return "No run is recorded here: this book was built from the committed notebooks."
    groups: dict[str, list[str]] = {}
    for r in records:
        libraries = ", ".join(f"{name} {number}" for name, number in r["versions"].items())
        title = f"**{r['profile']}**, on {r['device'] or 'unknown'}: commit `{r['commit']}`, {r['date']}; {libraries}"
        sizes = ["–" if r[key] is None else f"{r[key]:.2f} GiB" for key in ("memory", "gpu_memory")]
        line = [r["page"] + (" (failed)" if r["failed"] else ""), f"{r['seconds']:.0f} s", *sizes]
        groups.setdefault(title, []).append(f"| {' | '.join(line)} |")
    head = ["| page | time | memory | GPU memory |", "|:--|--:|--:|--:|"]
    note = "*Memory* is the most that the page's process held; *GPU memory* what torch held there."
    return "\n\n".join([note, *("\n".join([title, "", *head, *lines]) for title, lines in groups.items())])

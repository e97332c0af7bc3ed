"""What a page's run took: time, memory, device, versions and commit, in a file beside its notebook."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "diffusers", "transformers", "timm")
ENDING = ".record.json"

# Run by the kernel as it starts, as any file in IPython's startup folder; it writes when the kernel ends.
STARTUP = """\
def _tell():
    import json, os, platform, resource, sys
    kilo = 1 if sys.platform == "darwin" else 1024
    found = {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * kilo / 2**30, "gpu_memory": None}
    found["device"] = f"CPU ({platform.machine()})"
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        found["device"] = torch.cuda.get_device_name()
        found["gpu_memory"] = torch.cuda.max_memory_allocated() / 2**30
    with open(os.environ["DTTA_PAGE_RECORD"], "w") as file:
        json.dump(found, file)


import atexit as _atexit
_atexit.register(_tell)
del _tell, _atexit
"""


def watched(folder: Path) -> dict[str, str]:
    """Environment variables under which a kernel tells, at its end, what it took; `folder` is for this alone."""
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "record.py").write_text(STARTUP)
    return {"IPYTHONDIR": str(folder / "ipython"), "DTTA_PAGE_RECORD": str(folder / "record.json")}


def write(notebook: Path, folder: Path, root: Path, profile: str, seconds: float, failed: bool) -> None:
    """Put a page's record beside its notebook; what the kernel did not tell (it was killed, say) is null."""
    told = folder / "record.json"
    found = {"device": None, "memory": None, "gpu_memory": None}
    if told.exists():
        found |= json.loads(told.read_text())
    about = {"page": notebook.stem, "profile": profile, "failed": failed, "seconds": round(seconds, 1)}
    about |= {key: round(value, 2) if isinstance(value, float) else value for key, value in found.items()}
    about |= {"versions": versions(), "commit": commit(root), "date": datetime.now(UTC).date().isoformat()}
    notebook.with_name(notebook.stem + ENDING).write_text(json.dumps(about, indent=1) + "\n")


def versions() -> dict[str, str]:
    """Of the libraries that decide a page's numbers, as far as they are installed."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit(root: Path) -> str:
    """Of a checkout, with "-dirty" where files were changed since."""
    git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def read(folder: Path) -> list[dict]:
    """The records of a folder, by page."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"*{ENDING}"))]


def table(records: list[dict]) -> str:
    """Records as tables in Markdown, one for all that ran alike; a sentence where there are none."""
    if not records:
        return "No run is recorded here: this book was built from the committed notebooks."
    parts: dict[str, list[str]] = {}
    for r in records:
        libraries = ", ".join(f"{name} {number}" for name, number in r["versions"].items())
        alike = f"**{r['profile']}**, on {r['device'] or 'unknown'}: commit `{r['commit']}`, {r['date']}; {libraries}"
        sizes = ["–" if r[key] is None else f"{r[key]:.2f} GiB" for key in ("memory", "gpu_memory")]
        line = [r["page"] + (" (failed)" if r["failed"] else ""), f"{r['seconds']:.0f} s", *sizes]
        parts.setdefault(alike, []).append(f"| {' | '.join(line)} |")
    head = ["| page | time | memory | GPU memory |", "|:--|--:|--:|--:|"]
    return "\n\n".join("\n".join([alike, "", *head, *lines]) for alike, lines in parts.items())

"""Run, publish, check and build the pages.

python tools/pages.py run 01 --profile mini     source -> _build/executed/mini/01_*.ipynb
python tools/pages.py publish                   executed mini pages -> notebooks/*.ipynb, with outputs
python tools/pages.py build                     strict book build -> _build/html
python tools/pages.py check                     our own rules on notebooks/*.ipynb
python tools/pages.py verify                    check, then a fresh run compared with the outputs
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _book
import _record
import nbformat
import yaml
from _check import check_folder, check_page
from _pages import PROFILES, PageError, Project, clean, write

THREADS = "1"  # a page: a sum's last digits depend on it, and two pages run side by side on two cores
CELL_TIMEOUT = {"mini": 600, "full": 6 * 3600}  # seconds


def environment() -> dict[str, str]:
    """The same for every run of a page, whoever starts it."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), THREADS)
    fixed = {"TQDM_DISABLE": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    fixed["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers draws bars of its own, as widgets where it can
    # Libraries that show progress bars complain on stderr where ipywidgets is missing; there are no bars here.
    quiet = {"PYTHONWARNINGS": "ignore:IProgress not found", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**os.environ, **threads, **fixed, **quiet}


def build_font_cache() -> None:
    """On a new machine matplotlib does this once and says so on stderr: here, and not in the first page."""
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], capture_output=True, check=False)


def run_page(project: Project, name: str, profile: str, values: dict[str, object], out: Path) -> str | None:
    """Run one page in an empty folder; what went wrong, or None. The notebook is kept either way."""
    target = out / f"{name}.ipynb"
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source, empty = Path(folder, f"{name}.ipynb"), Path(folder, "empty")
        empty.mkdir()
        write(project.generate(name), source)
        command = [sys.executable, "-m", "papermill", str(source), str(target), "--cwd", str(empty)]
        command += ["-k", "python3", "--no-progress-bar", "--execution-timeout", str(CELL_TIMEOUT[profile])]
        if values:
            command += ["-y", yaml.safe_dump(values)]
        watched = environment() | _record.watched(Path(folder))
        done = subprocess.run(command, env=watched, capture_output=True, text=True, check=False)
        seconds = time.perf_counter() - started
        _record.write(target, Path(folder), project.root, profile, seconds, bool(done.returncode))
    failed = _failure(target, name, done.stderr) if done.returncode else None
    print(f"{name:<28} {seconds:6.1f} s{'  FAILED' if failed else ''}", flush=True)
    return failed


def _failure(target: Path, name: str, stderr: str) -> str:
    if target.exists():
        code = [c for c in nbformat.read(target, as_version=4).cells if c.cell_type == "code"]
        for i, cell in enumerate(code, 1):
            for output in cell.outputs:
                if output.output_type == "error":
                    first = cell.source.strip().splitlines()[0]
                    return f"{name}: code cell {i} ({first!r}) failed: {output.ename}: {output.evalue}; see {target}"
    last = stderr.strip().splitlines()[-1] if stderr.strip() else "no message"
    return f"{name}: {last}" + (f"; see {target}" if target.exists() else "")


def run(project: Project, args: argparse.Namespace) -> None:
    extra = dict(_pair(text) for text in args.parameter)
    out = (args.out or project.build / "executed" / args.profile).resolve()
    if out in (project.notebooks, project.sources):
        raise PageError("a page never runs in place: choose another --out, then publish")
    names = project.pages(args.names)
    values = {name: project.settings(name, args.profile, extra) for name in names}  # all wrong settings first
    out.mkdir(parents=True, exist_ok=True)
    build_font_cache()
    with ThreadPoolExecutor(args.jobs) as pool:
        failed = list(pool.map(lambda n: run_page(project, n, args.profile, values[n], out), names))
    if any(failed):
        raise PageError("\n".join(filter(None, failed)))


def _pair(text: str) -> tuple[str, object]:
    key, equals, value = text.partition("=")
    if not equals:
        raise PageError(f"-p takes key=value, got {text!r}")
    return key, yaml.safe_load(value)


def publish(project: Project, args: argparse.Namespace) -> None:
    names = project.pages(args.names)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            executed = project.build / "executed" / "mini" / f"{name}.ipynb"
            if not executed.exists():
                raise PageError(f"{name}: no executed notebook; first: pages.py run {name}")
            write(clean(nbformat.read(executed, as_version=4)), Path(folder, f"{name}.ipynb"))
        if wrong := [s for name in names for s in check_page(project, Path(folder, f"{name}.ipynb"), committed=True)]:
            raise PageError("\n".join(wrong))
        for name in names:
            shutil.copyfile(Path(folder, f"{name}.ipynb"), project.notebooks / f"{name}.ipynb")
            print(f"notebooks/{name}.ipynb")


def build(project: Project, args: argparse.Namespace) -> None:
    notebooks = project.notebooks if args.committed else project.build / "executed" / "mini"
    html = _book.build(project, notebooks, (args.out or project.build).resolve())
    print(f"the book: {html / 'index.html'}")


def check(project: Project, args: argparse.Namespace) -> None:
    if wrong := check_folder(project, args.folder or project.notebooks):
        raise PageError("\n".join(wrong))
    print("check: nothing wrong")


def verify(project: Project, args: argparse.Namespace) -> None:
    """Our rules, then nbval: run each committed page again and compare the outputs of every code cell."""
    if wrong := check_folder(project, project.notebooks):
        raise PageError("\n".join(wrong))
    with tempfile.TemporaryDirectory() as folder:
        names = project.pages(args.names)
        for name in names:
            shutil.copy(project.notebooks / f"{name}.ipynb", folder)
        build_font_cache()
        Path(folder, "pytest.ini").write_text("[pytest]\n")  # nothing of the project's own settings
        command = [sys.executable, "-m", "pytest", "--nbval", "-p", "nbval_tolerance", "-p", "no:cacheprovider", "-q"]
        command += ["-n", str(min(args.jobs, len(names))), "--dist", "loadscope", "--rootdir", folder, "--durations=5"]
        command += ["--nbval-cell-timeout", str(CELL_TIMEOUT["mini"]), folder]
        env = {**environment(), "PYTHONPATH": str(Path(__file__).parent)}
        if subprocess.run(command, env=env, cwd=folder, check=False).returncode:
            raise PageError("a fresh run does not give the committed outputs (see above)")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="the checkout (default: this one)")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(function, help: str, names: bool = False, jobs: bool = False) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=help)
        sub.set_defaults(function=function)
        if names:
            sub.add_argument("names", nargs="*", metavar="PAGE", help="01 or 01_name; none: all pages")
        if jobs:
            sub.add_argument("--jobs", type=int, default=2, help="pages at a time (default: 2)")
        return sub

    sub = command(run, "run pages from their sources", names=True, jobs=True)
    sub.add_argument("--profile", choices=PROFILES, default="mini")
    sub.add_argument("-p", dest="parameter", action="append", default=[], metavar="KEY=VALUE", help="set a parameter")
    sub.add_argument("--out", type=Path, help="folder for the notebooks (default: _build/executed/PROFILE)")
    command(publish, "put executed mini pages into notebooks/", names=True)
    sub = command(build, "build the book strictly into _build/html")
    sub.add_argument("--committed", action="store_true", help="with notebooks/*.ipynb, not the last run")
    sub.add_argument("--out", type=Path, help="folder for site/ and html/ (default: _build)")
    sub = command(check, "check notebooks that ran")
    sub.add_argument("folder", type=Path, nargs="?", help="default: notebooks")
    command(verify, "check, then run again and compare with the committed outputs", names=True, jobs=True)

    args = parser.parse_args(arguments)
    try:
        args.function(Project(args.root), args)
    except PageError as error:
        sys.exit(f"{error}")


if __name__ == "__main__":
    main()

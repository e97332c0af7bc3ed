"""Run a page, and compare the committed pages with a fresh run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import yaml

from tools.pages import record
from tools.pages.project import Project, write

THREADS = "1"  # for each page: the last digits of a sum depend on it, and two pages run at the same time on two cores
CELL_TIMEOUT = {"mini": 600, "smoke": 1800, "full": 6 * 3600}  # seconds
CHECKOUT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """Return the environment variables of every run of a page; they do not depend on the caller's settings."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), THREADS)
    fixed = {"TQDM_DISABLE": "1", "PYTHONHASHSEED": "0", "MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    fixed["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # transformers draws its own bars, as widgets where it can
    # Libraries that show progress bars warn on stderr if ipywidgets is missing; no bars are shown here.
    unused = "ignore:The `local_dir_use_symlinks` argument"  # diffusers passes it to the hub's library
    quiet = {"PYTHONWARNINGS": f"ignore:IProgress not found,{unused}", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    return {**os.environ, **threads, **fixed, **quiet}


def build_font_cache() -> None:
    """Build matplotlib's font cache, so that on a new machine the first page does not report it on stderr."""
    subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], capture_output=True, check=False)


def run_page(project: Project, name: str, profile: str, values: dict[str, object], out: Path) -> str | None:
    """Run one page in an empty folder and return what went wrong, or None. The notebook is kept in both cases."""
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
        variables = environment() | record.variables(Path(folder))
        done = subprocess.run(command, env=variables, capture_output=True, check=False, encoding="utf-8")
        seconds = time.perf_counter() - started
        record.write(target, Path(folder), project.root, profile, seconds, bool(done.returncode))
    failure = _failure(target, name, done.stderr) if done.returncode else None
    print(f"{name:<28} {seconds:6.1f} s{'  FAILED' if failure else ''}", flush=True)
    return failure


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


def run_and_compare(notebooks: list[Path], jobs: int, **variables: str) -> bool:
    """Run notebooks again with nbval and return whether every output agrees with the stored one.

    The project's own pytest settings do not apply. With DTTA_EXECUTED nothing runs; see nbval_plugin.
    """
    with tempfile.TemporaryDirectory() as folder:
        for path in notebooks:
            Path(folder, path.name).write_bytes(path.read_bytes())
        Path(folder, "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
        plugins = ["--nbval", "-p", "nbval.plugin", "-p", "tools.pages.nbval_plugin", "-p", "no:cacheprovider"]
        parallel = ["-p", "xdist.plugin", "-n", str(min(jobs, len(notebooks))), "--dist", "loadscope"]
        workers = parallel if len(notebooks) > 1 else []
        limits = ["--nbval-cell-timeout", str(CELL_TIMEOUT["mini"]), "--durations=5"]
        command = [sys.executable, "-m", "pytest", *plugins, *workers, *limits, "-q", "--rootdir", folder, folder]
        variables = environment() | {"PYTHONPATH": str(CHECKOUT)} | variables
        variables["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # loading the plugins of the tests takes seconds
        return subprocess.run(command, env=variables, cwd=folder, check=False).returncode == 0

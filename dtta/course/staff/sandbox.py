"""Where a submission runs: a stranger's code, kept from the network, from files and from taking all of the machine.

In order of preference:

* ``docker``, ``podman``  a container of the image ``dtta-course`` (made from the Containerfile beside this file);
* ``bubblewrap``          a process that sees the file system read-only, without homes, sockets and the course folder;
* ``unshare``             the same with what util-linux has.

All have no network, and a limit on memory, time, output, processes and what is written. Where none of them works
nothing runs, unless it is asked for by name: ``none`` keeps these limits alone, for submissions that you trust.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Int, List, Unicode

import dtta
from dtta.course.staff.source import CourseError

IMAGE = "dtta-course"
PROCESSES, DISK = 256, 1000  # that one submission may have at a time, and megabytes that it may write
# People's files, and sockets of services: a file system that is read-only does not keep anyone from calling Docker.
HIDDEN = ("/home", "/root", "/run", "/var", "/srv", "/media")
KINDS = ("docker", "podman", "bubblewrap", "unshare")
_PROCESS = "a process without network, which sees the file system read-only and neither your home nor this course"
WORDS = {
    "docker": f"a Docker container of the image {IMAGE}, without network",
    "podman": f"a Podman container of the image {IMAGE}, without network",
    "bubblewrap": f"{_PROCESS} (bubblewrap)",
    "unshare": f"{_PROCESS} (unshare)",
    "none": "NO sandbox: memory and time are limited, files and network are open to the submissions",
}


@cache
def choose(wanted: str = "") -> str:
    """The kind that is used here: the one wanted, or the first that works.

    Raises:
        CourseError: the one wanted does not work here, or none does.
    """
    if wanted == "none" or (wanted in KINDS and works(wanted)):
        return wanted
    if wanted:
        raise CourseError(f"the sandbox {wanted!r} does not work here; those that could: {', '.join(KINDS)}, or none")
    for kind in KINDS:
        if works(kind):
            return kind
    raise CourseError(
        "there is no sandbox here for strangers' code: install Docker, Podman or bubblewrap; "
        "to run submissions that you trust without one, say --sandbox none"
    )


@cache
def works(kind: str) -> bool:
    """Whether a sandbox of this kind can run this Python."""
    program = {"bubblewrap": "bwrap"}.get(kind, kind)
    if not shutil.which(program):
        return False
    if kind in ("docker", "podman"):  # without the image nothing could run in it
        return _quiet([program, "image", "inspect", IMAGE])
    with tempfile.TemporaryDirectory(prefix="dtta-") as folder:
        return _quiet(command(kind, Path(folder), [], ["-c", "pass"]))


def _quiet(argv: list[str]) -> bool:
    try:
        return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def command(kind: str, work: Path, hide: list[Path], python: list[str], megabytes: int = 4096) -> list[str]:
    """The command that runs Python with some arguments in a sandbox.

    Args:
        work: the one folder that it may write; it starts there.
        hide: folders that it must not see, besides home and the temporary folder.
    """
    work = work.resolve()
    if kind in ("docker", "podman"):
        limits = ["--memory", f"{megabytes}m", "--memory-swap", f"{megabytes}m", "--cpus", "1", "--pids-limit", "256"]
        locked = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        user = ["--user", f"{os.getuid()}:{os.getgid()}"] + (["--userns", "keep-id"] if kind == "podman" else [])
        where = ["--tmpfs", "/tmp", "--volume", f"{work}:{work}", "--workdir", str(work)]
        return [
            kind,
            "run",
            "--rm",
            *limits,
            *locked,
            *user,
            *where,
            *_variables(work, "--env"),
            IMAGE,
            "python",
            *python,
        ]
    run = [sys.executable, *python]
    if kind == "none":
        return run
    hidden = _outermost([Path.home(), Path(tempfile.gettempdir()), *map(Path, HIDDEN), *hide])
    shown = [path for path in _needed() if any(path.is_relative_to(h) for h in hidden)]
    if kind == "bubblewrap":
        argv = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--ro-bind", "/", "/"]
        argv += ["--dev", "/dev", "--proc", "/proc"]
        argv += [word for path in hidden for word in ("--tmpfs", str(path))]
        argv += [word for path in shown for word in ("--ro-bind", str(path), str(path))]
        argv += [word for path in _inner(hide, shown) for word in ("--tmpfs", str(path))]
        argv += ["--bind", str(work), str(work)]
        # Read-only as well: a file system in memory that it may write would pass its limits.
        still = ["/dev", "/proc", *hidden, *_inner(hide, shown)]
        argv += [word for path in still for word in ("--remount-ro", str(path))]
        argv += ["--chdir", str(work), "--clearenv", *_variables(work, "--setenv")]
        return [*argv, *run]
    argv = ["unshare", "--user", "--map-root-user", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
    return [*argv, "--mount", "--mount-proc", "sh", "-c", _mounts(work, hidden, shown, _inner(hide, shown)), "sh", *run]


def _mounts(work: Path, hidden: list[Path], shown: list[Path], inner: list[Path]) -> str:
    """A script for a private mount namespace: what bubblewrap does, by hand. Then it gives all rights up."""
    q = shlex.quote
    keep = [*shown, work]
    # -n: no record of it in /run.
    lines = ["set -e", "mount -n --make-rprivate /", "mount -n -t tmpfs tmpfs /mnt"]
    for i, path in enumerate(keep):
        lines += [f"mkdir /mnt/{i}", f"mount -n --rbind {q(str(path))} /mnt/{i}"]
    lines += [f"mount -n -t tmpfs tmpfs {q(str(path))}" for path in hidden]
    for i, path in enumerate(keep):
        lines += [f"mkdir -p {q(str(path))}", f"mount -n --rbind /mnt/{i} {q(str(path))}", f"umount -n -l /mnt/{i}"]
    lines += [f"mount -n -t tmpfs tmpfs {q(str(path))}" for path in inner]
    # Read-only everywhere but in the work folder. In /proc and /sys, too: outside, its user may be root.
    lines += [
        f'while read -r _ place _; do [ "$place" = {q(str(work))} ] || '
        'mount -n -o remount,bind,ro "$place" 2>/dev/null || true; done < /proc/self/mounts',
        "for place in /usr /dev /proc/sys /sys; do ! test -w $place; done",
        f"cd {q(str(work))}",
        f'set -- env -i {shlex.join(_variables(work))} "$@"',
        'exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"',
    ]
    return "\n".join(lines)


def _needed() -> list[Path]:
    """What Python needs to import: the environment, what it was made from, and this package."""
    links = {Path(sys.prefix), Path(sys.base_prefix), Path(dtta.__file__).parent, Path(sys.executable).parent}
    return sorted(links | {path.resolve() for path in links})


def _outermost(paths: list[Path]) -> list[Path]:
    paths = sorted({path.resolve() for path in paths if path.exists()})
    return [path for path in paths if not any(path != p and path.is_relative_to(p) for p in paths)]


def _inner(hide: list[Path], shown: list[Path]) -> list[Path]:
    """What would come into sight again with something that is shown."""
    hide = [path.resolve() for path in hide if path.exists()]
    return [path for path in hide if any(path.is_relative_to(s) for s in shown)]


def _variables(work: Path, flag: str = "") -> list[str]:
    """The whole environment of a submission. One thread: several may be graded side by side."""
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    values = {"PATH": path, "HOME": work, "TMPDIR": work, "JUPYTER_RUNTIME_DIR": work, "IPYTHONDIR": work}
    values |= {"MPLCONFIGDIR": work, "OMP_NUM_THREADS": 1, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": 1}
    values |= {"NBGRADER_EXECUTION": "autograde", "PYDEVD_DISABLE_FILE_VALIDATION": 1, "HF_HUB_OFFLINE": 1}
    if flag == "--setenv":
        return [word for name, value in values.items() for word in (flag, name, str(value))]
    pairs = [f"{name}={value}" for name, value in values.items() if flag != "--env" or name != "PATH"]
    return [word for pair in pairs for word in ([flag, pair] if flag else [pair])]


def _watched(argv: list[str], work: Path, environment: dict | None, seconds: float, megabytes: int) -> str:
    """Run a command, and kill it with all that it has started when it takes too much. Returns its last words.

    The system's own limits hold for each process alone: together, many small ones could take all of the machine.
    """
    until, trouble = time.monotonic() + seconds, ""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(argv, cwd=work, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        while process.poll() is None and not trouble:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
            trouble = _too_much(_started_by(process), work, megabytes)
            if time.monotonic() > until:
                trouble = f"stopped after {seconds:g} s"
        for child in _started_by(process):
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.kill()
        process.wait()
        said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
        lines = said.read().decode(errors="replace").strip().splitlines()
    return trouble or (lines[-1] if lines else "it ended without a word")


def _started_by(process: subprocess.Popen) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.Error:  # it has ended
        return []


def _too_much(processes: list[psutil.Process], work: Path, megabytes: int) -> str:
    """What a submission takes too much of, or nothing."""
    if len(processes) > PROCESSES:
        return f"stopped: more than {PROCESSES} processes"
    memory = disk = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):  # gone, or not to be looked into
            memory += process.memory_full_info().pss
    if memory > megabytes * 2**20:
        return f"stopped: more than {megabytes} MB of memory"
    for folder, _, names in os.walk(work):
        for name in names:
            with contextlib.suppress(OSError):
                disk += os.lstat(os.path.join(folder, name)).st_size
    return f"stopped: more than {DISK} MB on disk" if disk > DISK * 2**20 else ""


class LockedExecute(NbGraderPreprocessor):
    """nbgrader's step that runs a submission, in a sandbox."""

    kind = Unicode("", help="docker, podman, bubblewrap, unshare or none; empty: the first that works").tag(config=True)
    seconds = Int(600, help="for the whole notebook").tag(config=True)
    cell_seconds = Int(120, help="for one cell").tag(config=True)
    megabytes = Int(4096, help="of memory").tag(config=True)
    hide = List(Unicode(), help="folders that a submission must not see").tag(config=True)

    def preprocess(self, nb: NotebookNode, resources: dict) -> tuple[NotebookNode, dict]:
        """Run the notebook. If nothing comes back, all code cells have failed: one without outputs would get points."""
        kind = choose(self.kind)
        with tempfile.TemporaryDirectory(prefix="dtta-", ignore_cleanup_errors=True) as folder:
            work = Path(folder)
            (work / "in.ipynb").write_text(nbformat.writes(nb), encoding="utf-8")
            limits = {"seconds": self.seconds, "cell-seconds": self.cell_seconds, "megabytes": self.megabytes}
            python = ["-m", "dtta.course.staff.execute", "in.ipynb", "out.ipynb"]
            python += [word for name, value in limits.items() for word in (f"--{name}", str(value))]
            argv = command(kind, work, [Path(path) for path in self.hide], python, self.megabytes)
            environment = dict(v.split("=", 1) for v in _variables(work)) if kind == "none" else None
            trouble = _watched(argv, work, environment, self.seconds + 120, self.megabytes)
            out = work / "out.ipynb"
            try:
                if out.is_symlink():  # it could lead to what the submission itself cannot read
                    raise OSError
                ran = nbformat.read(out, as_version=4)
                same = [c.source for c in ran.cells] == [c.source for c in nb.cells]
            except Exception:  # whatever a submission left there
                same = False
            if same:
                for cell, after in zip(nb.cells, ran.cells, strict=True):
                    if cell.cell_type == "code":
                        cell.outputs, cell.execution_count = after.outputs, after.execution_count
                nb.metadata["cpu_seconds"] = ran.metadata.get("cpu_seconds")
                return nb, resources
        self.log.error("The submission did not run: %s", trouble)
        for cell in nb.cells:
            if cell.cell_type == "code":
                words = f"the submission did not run: {trouble}"
                cell.outputs = [new_output("error", ename="NotRun", evalue=words, traceback=[words])]
        return nb, resources

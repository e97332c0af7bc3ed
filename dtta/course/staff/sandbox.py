"""Where a submission runs: a stranger's code, kept from the network, from files and from taking all of the machine.

In order of preference:

* ``docker``, ``podman``  a container of the image ``dtta-course`` (made from the Containerfile beside this file);
* ``bubblewrap``          a process that sees system folders read-only: no homes, no sockets, no course folder;
* ``unshare``             the same with what util-linux has.

All have no network, and a limit on memory, time, output, processes and what is written; root becomes nobody. Where none
of them works nothing runs, unless it is asked for by name: ``none`` keeps only these limits, for submissions that you
trust.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import dtta
from dtta.course.runner import SHARED
from dtta.course.staff.source import CourseError

IMAGE = "dtta-course"
NOBODY = 65534  # the user that root becomes
# What stays visible in /. The rest is people's files, such as another checkout with the solutions, and sockets of
# services: a file system that is read-only does not keep anyone from calling Docker.
SYSTEM = ("bin", "dev", "etc", "lib", "lib32", "lib64", "mnt", "nix", "opt", "proc", "sbin", "sys", "usr")
KINDS = ("docker", "podman", "bubblewrap", "unshare")
_PROCESS = "a process without network, which sees system folders read-only and neither your home nor this course"
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
        Path(folder, SHARED).mkdir()
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
        limits = ["--memory", f"{megabytes}m", "--memory-swap", f"{megabytes}m", "--cpus", "1", "--pids-limit", "1024"]
        locked = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        ids = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.getuid(), os.getgid())
        user = ["--user", f"{ids[0]}:{ids[1]}"] + (
            ["--userns", "keep-id"] if kind == "podman" and ids[0] != NOBODY else []
        )
        where = ["--tmpfs", "/tmp", "--volume", f"{work}:{work}", "--workdir", str(work)]
        start = [kind, "run", "--rm", "--interactive", "--name", work.name]
        return [*start, *limits, *locked, *user, *where, *variables(work, "--env"), IMAGE, "python", *python]
    run = [sys.executable, *python]
    if kind == "none":
        return run
    others = [path for path in Path("/").iterdir() if path.is_dir() and path.name not in SYSTEM]
    hidden = _outermost([Path.home(), Path(tempfile.gettempdir()), *others, *hide])
    shown = [path for path in _needed() if any(path.is_relative_to(h) for h in hidden)]
    if kind == "bubblewrap":
        apart = ["--unshare-all"]
        if os.geteuid() == 0:  # no namespace of users: in it root would still own root's files
            apart = [f"--unshare-{what}" for what in ("ipc", "pid", "net", "uts")]
            apart += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
            run = [*_dropped(), *run]
        argv = ["bwrap", *apart, "--die-with-parent", "--new-session", "--ro-bind", "/", "/"]
        argv += ["--dev", "/dev", "--proc", "/proc"]
        argv += [word for path in hidden for word in ("--tmpfs", str(path))]
        # Their parents, too: bubblewrap would make them accessible to root only.
        leads = {lead for path in [*shown, work] for lead in path.parents if any(map(lead.is_relative_to, hidden))}
        argv += [word for path in sorted(leads - set(hidden)) for word in ("--dir", str(path))]
        argv += [word for path in shown for word in ("--ro-bind", str(path), str(path))]
        argv += [word for path in _inner(hide, shown) for word in ("--tmpfs", str(path))]
        argv += ["--bind", str(work), str(work)]
        argv += ["--bind", str(work / SHARED), "/dev/shm"] if (work / SHARED).is_dir() else []
        # Read-only as well: a file system in memory that it may write would pass its limits.
        still = ["/dev", "/proc", *hidden, *_inner(hide, shown)]
        argv += [word for path in still for word in ("--remount-ro", str(path))]
        argv += ["--chdir", str(work), "--clearenv", *variables(work, "--setenv")]
        return [*argv, *run]
    argv = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
    argv += [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
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
    if (work / SHARED).is_dir():  # a part of the work folder, so that what is written there counts
        lines += [f"mount -n --bind {q(str(work / SHARED))} /dev/shm"]
    # Read-only everywhere but in the work folder. In /proc and /sys, too: outside, its user may be root.
    lines += [
        f'while read -r _ place _; do [ "$place" = {q(str(work))} ] || [ "$place" = /dev/shm ] || '
        'mount -n -o remount,bind,ro "$place" 2>/dev/null || true; done < /proc/self/mounts',
        "for place in /usr /dev /proc/sys /sys; do if test -w $place; then exit 1; fi; done",
        f"cd {q(str(work))}",
        f'set -- env -i {shlex.join(variables(work))} "$@"',
        f'exec {shlex.join(_dropped())} "$@"',
    ]
    return "\n".join(lines)


def _dropped() -> list[str]:
    """Run what follows without any rights, and as nobody in place of root."""
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
    return ["setpriv", *user, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]


def _needed() -> list[Path]:
    """What Python needs to import: the environment, what it was made from, and this package."""
    links = {Path(sys.prefix), Path(sys.base_prefix), Path(dtta.__file__).parent, Path(sys.executable).parent}
    links |= set(_packages())
    return sorted(links | {path.resolve() for path in links})


def _packages() -> list[Path]:
    """The folders that libraries are imported from: in an environment, at home, or anywhere by PYTHONPATH or .pth."""
    specs = [importlib.util.find_spec(name) for name in ("torch", "numpy", "IPython", "psutil")]
    return list(dict.fromkeys(Path(spec.origin).parents[1] for spec in specs if spec and spec.origin))


def _python_path() -> list[str]:
    """What a Python must be told to find this package and its libraries; .pth files it reads by itself."""
    package, users = Path(dtta.__file__).parents[1], site.getusersitepackages()
    stdlib = sysconfig.get_path("stdlib")
    before = sys.path[: sys.path.index(stdlib)] if stdlib in sys.path else []
    paths = [] if package.is_relative_to(sys.prefix) else [str(package)]
    return list(dict.fromkeys([*paths, *(str(p) for p in _packages() if str(p) in (*before, users))]))


def _outermost(paths: list[Path]) -> list[Path]:
    paths = sorted({path.resolve() for path in paths if path.exists()})
    return [path for path in paths if not any(path != p and path.is_relative_to(p) for p in paths)]


def _inner(hide: list[Path], shown: list[Path]) -> list[Path]:
    """What would be visible again in something that is shown, under each name by which it is shown."""
    hide = [path.resolve() for path in hide if path.exists()]
    places = {s: s.resolve() for s in shown}
    return sorted(
        {s / path.relative_to(real) for s, real in places.items() for path in hide if path.is_relative_to(real)}
    )


def variables(work: Path, flag: str = "") -> list[str]:
    """The whole environment of a submission. One thread: several may be graded at the same time."""
    path = os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])
    values = {"PATH": path, "HOME": work, "TMPDIR": work, "JUPYTER_RUNTIME_DIR": work, "IPYTHONDIR": work}
    values |= {"MPLCONFIGDIR": work, "OMP_NUM_THREADS": 1, "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": 1}
    values |= {"NBGRADER_EXECUTION": "autograde", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": 1}
    values |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
    if flag != "--env" and (paths := _python_path()):
        values["PYTHONPATH"] = os.pathsep.join(paths)
    if flag == "--setenv":
        return [word for name, value in values.items() for word in (flag, name, str(value))]
    pairs = [f"{name}={value}" for name, value in values.items() if flag != "--env" or name != "PATH"]
    return [word for pair in pairs for word in ([flag, pair] if flag else [pair])]

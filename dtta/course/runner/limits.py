"""What the processes of a submission may use, and as whom they run."""

from __future__ import annotations

import os
import resource

import psutil


def limit(megabytes: int) -> None:
    """Limits that this process and all that it starts have to keep."""
    for kind, most in (
        (resource.RLIMIT_DATA, megabytes * 2**20),
        (resource.RLIMIT_FSIZE, 100 * 2**20),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard < 0 else min(most, hard),) * 2)


def drop_root(user: int = 65534) -> None:
    """Become nobody, where the files of Python can still be read as nobody."""
    if os.geteuid() != 0:
        return

    def become() -> None:
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)

    if (child := os.fork()) == 0:
        try:
            become()
            for file in (os.__file__, psutil.__file__, "runner/__main__.py"):
                open(file, "rb").close()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1] == 0:
        become()

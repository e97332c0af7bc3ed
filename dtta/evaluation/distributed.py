"""The processes that one command was started as, on one machine or several, and how they share its work.

    accelerate launch --num_processes 8 -m dtta evaluate ... --out rows     one process for each GPU
    torchrun --nproc-per-node 2 -m dtta evaluate ... --out rows             the same without GPUs

Each process takes a fixed share of what is left to do and writes a file of its own; the first merges them at the end.
If one fails, the launcher stops the others, and the same command with any number of processes shares what is then left.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable
from datetime import timedelta

TIMEOUT = timedelta(days=20)  # how long processes wait for the slowest; a stream can take days


class StoppedError(RuntimeError):
    """Another process has stopped. That process reports the reason."""


class Single:
    """The only process of a command; the interface of ``Processes``."""

    rank = 0
    count = 1
    first = True

    def broadcast(self, make: Callable[[], object]) -> object:
        """Return what `make` returns."""
        return make()

    def in_turn(self, make: Callable[[], object]) -> object:
        """Call `make` in the first process, then (its downloads are there, its error is raised once) in the others."""
        results = []
        self.broadcast(lambda: results.append(make()))
        return results[0] if results else make()

    def wait(self) -> None:
        """Return at once."""


class Processes(Single):
    """All processes of one command, as Accelerate sees them; see ``join``. The `first` one reads, merges and prints."""

    def __init__(self):
        from accelerate import PartialState  # imports torch
        from accelerate.utils.environment import parse_flag_from_env
        from torch.cuda import is_available

        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not is_available()
        self._state = PartialState(cpu=cpu, timeout=TIMEOUT)
        self.rank = self._state.process_index
        self.count = self._state.num_processes
        self.first = self.rank == 0

    def broadcast(self, make: Callable[[], object]) -> object:
        """Call `make` in the first process; return its result, which must be picklable, in all of them.

        Raises StoppedError: another process has stopped, or `make` failed in the first process, which raises its error.
        """
        from accelerate.utils import broadcast_object_list

        result, error = None, None
        if self.first:
            try:
                result = make()
            except Exception as raised:
                error = raised
        message = [result, error is not None]
        self._together(lambda: broadcast_object_list(message))
        if error:
            raise error
        result, failed = message
        if failed:
            raise StoppedError("the first process has stopped")
        return result

    def wait(self) -> None:
        """Return when all processes have come here. Raises StoppedError: one of them has stopped."""
        self._together(self._state.wait_for_everyone)

    def shutdown(self) -> None:
        """Take leave of the other processes, at the end of a command that succeeded."""
        self._state.destroy_process_group()

    def _together(self, operation: Callable[[], object]) -> None:
        try:
            operation()
        except RuntimeError as error:  # a lost connection
            text = "another process has stopped; all rows are kept: give the same command again to continue"
            raise StoppedError(text) from error


def join() -> Processes | None:
    """Return the processes that ``accelerate launch`` or ``torchrun`` started with this one; None if it is single."""
    return Processes() if int(os.environ.get("WORLD_SIZE", 1)) > 1 else None


def end_with_parent() -> None:
    """End this worker process when the process that started it ends, even by SIGKILL, which no `finally` survives."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    if parent is not None:
        threading.Thread(target=watch, daemon=True).start()


def is_first() -> bool:
    """Return whether this is the process that prints, without joining the others."""
    return int(os.environ.get("RANK", 0)) == 0

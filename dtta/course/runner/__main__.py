"""The supervisor: python -m runner --megabytes 4096. It forks the processes of a submission and ends them.

It takes commands from standard input and answers on standard output, and runs nothing of the submission itself. So a
loop without an end, or 300 processes, take the cell or the call that started them and nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import struct
import sys
import time

import psutil

from . import SHARED
from .limits import drop_root, limit

PROCESSES, DISK = 100, 1000  # that a cell may have at a time, and megabytes that it may write
GRACE = 2.0  # seconds from the interrupt, which leaves what was defined, to the end


class Process:
    """A process of the submission, as the supervisor sees it."""

    def __init__(self, end: socket.socket, pid: int):
        self.end, self.pid, self.buffer = end, pid, b""

    def send(self, data: bytes) -> None:
        """Send a frame: the length, then the data."""
        self.end.settimeout(20)
        self.end.sendall(struct.pack(">I", len(data)) + data)

    def frame(self) -> bytes | None:
        """The next whole frame, if it is there."""
        if len(self.buffer) >= 4:
            (length,) = struct.unpack(">I", self.buffer[:4])
            if length > 2**28:
                raise ConnectionError("a message of more than 256 MB")
            if len(self.buffer) >= 4 + length:
                data, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
                return data
        return None


class Supervisor:
    """Keeps the state of the notebook, which is a process, and what runs now."""

    def __init__(self, megabytes: int, warm: bool):
        self.megabytes, self.warm = megabytes, warm
        self.source, self.target = os.dup(0), os.dup(1)
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(quiet, number)
        self.first = self.state = self._first()
        self.call: Process | None = None

    def _first(self) -> Process:
        from . import cells

        drop_root()
        here, there = socket.socketpair()
        made = cells.shell()
        cells.torch.set_num_threads(1)
        cells.torch.set_num_threads = lambda number: None  # after a fork, it would wait for threads that are gone
        if self.warm:
            cells.warm()
        if (pid := os.fork()) == 0:
            for number in (here.fileno(), self.source, self.target):
                os.close(number)
            os.setpgid(0, 0)
            cells.live(cells.Link(there), made)
        there.close()
        return Process(here, pid)

    def main(self) -> None:
        """Answer commands until there are no more."""
        self.answer({"ready": True})
        while True:
            kind, data = self.read()
            if kind == b"D":
                (seconds,) = struct.unpack(">d", data[:8])
                reply = self.forward(data[8:], seconds)
            else:
                command = json.loads(data)
                reply = getattr(self, f"do_{command.pop('do')}")(**command)
            if isinstance(reply, bytes):
                self._write(b"D" + reply)
            else:
                self.answer(reply)

    def do_reset(self) -> dict:
        """Back to the state before the first cell."""
        self.state = self.first
        self.end_all()
        return {}

    def do_cell(self, source: str, seconds: float, copy: bool) -> dict:
        """Run a cell in a copy of the state, and go on from there if it comes to an end.

        Without a copy what goes wrong is lost: it is for cells that only define functions.
        """
        process, trouble = self.fork() if copy or self.state is self.first else (self.state, "")
        if process is None:
            return {"trouble": trouble}
        data, trouble = self.exchange(process, json.dumps({"do": "cell", "source": source}).encode(), seconds)
        late = ""
        if trouble == "time":
            trouble = late = f"stopped after {seconds:g} s"
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGINT)
            data, again = self.exchange(process, None, GRACE)
            trouble = late if again else ""
        if not trouble:
            self.state = process
        if copy or trouble:
            self.end_all()
        return {"trouble": trouble} if trouble else {"outputs": data.decode(), "late": late}

    def do_open(self) -> dict:
        """Make a copy of the state that answers calls."""
        self.call, trouble = self.fork()
        if self.call:
            self.call.send(json.dumps({"do": "serve"}).encode())
        return {"trouble": trouble}

    def do_close(self) -> dict:
        """End the copy that answers calls."""
        self.call = None
        self.end_all()
        return {}

    def forward(self, data: bytes, seconds: float) -> bytes | dict:
        """Pass a message on to what answers calls, and return what comes back."""
        if self.call is None:
            return {"trouble": "it has ended"}
        reply, trouble = self.exchange(self.call, data, seconds)
        if trouble:
            self.do_close()
        return {"trouble": trouble} if trouble else reply

    def fork(self) -> tuple[Process | None, str]:
        """A copy of the state."""
        here, there = socket.socketpair()
        try:
            self.state.send(json.dumps({"do": "fork"}).encode())
            socket.send_fds(self.state.end, [b"."], [there.fileno()])
        except OSError:
            return None, "the process that holds the notebook's state has ended"
        finally:
            there.close()
        process = Process(here, 0)
        pid, trouble = self.exchange(process, None, 30)
        if trouble or not pid.isdigit():
            return None, trouble or "an odd answer"
        process.pid = int(pid)
        return process, ""

    def exchange(self, process: Process, data: bytes | None, seconds: float) -> tuple[bytes, str]:
        """Send to a process and wait for its answer; or why there is none: "time", or a sentence."""
        until, looked = time.monotonic() + seconds, 0.0
        try:
            if data is not None:
                process.send(data)
            while (reply := process.frame()) is None:
                now = time.monotonic()
                if now > until:
                    return b"", "time"
                if now - looked > 0.5:
                    if looked and (trouble := self.too_much()):
                        return b"", trouble
                    looked = time.monotonic()
                ready, _, _ = select.select([process.end, self.source], [], [], min(0.2, max(until - now, 0)))
                if self.source in ready:  # nothing is due from there: it has ended
                    self.leave()
                if process.end in ready:
                    part = process.end.recv(2**20)
                    if not part:
                        raise ConnectionError("its process ended")
                    process.buffer += part
            return reply, ""
        except OSError as error:
            return b"", str(error) if type(error) is ConnectionError else "its process ended"

    def others(self) -> list[int]:
        """All that was started and still runs, but for the states that are kept."""
        keep = {self.first.pid, self.state.pid, self.call.pid if self.call else 0}
        parts: dict[int, list[int]] = {}
        for process in psutil.process_iter(["ppid", "status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                parts.setdefault(process.info["ppid"], []).append(process.pid)
        pids, left = [], [os.getpid()]
        while left:
            children = parts.get(left.pop(), [])
            pids += children
            left += children
        return [pid for pid in pids if pid not in keep]

    def too_much(self) -> str:
        """What runs now takes too much of, or nothing."""
        processes = [*self.others(), self.call.pid if self.call else 0]
        if len(processes) > PROCESSES:
            return f"stopped: more than {PROCESSES} processes"
        memory = disk = 0
        for pid in processes if len(processes) > 2 else []:  # of one, the system sees to it
            with contextlib.suppress(psutil.Error):  # gone, or not to be looked into
                memory += psutil.Process(pid).memory_full_info().pss
        if memory > self.megabytes * 2**20:
            return f"stopped: more than {self.megabytes} MB of memory"
        for folder, _, names in os.walk("."):
            for name in names:
                with contextlib.suppress(OSError):
                    disk += os.lstat(os.path.join(folder, name)).st_size
        if disk > DISK * 2**20:
            shared = os.listdir(SHARED) if os.path.isdir(SHARED) else []  # a submission may have moved it
            for name in {*os.listdir("."), *(f"{SHARED}/{name}" for name in shared)} - {"runner", SHARED}:
                shutil.rmtree(name, ignore_errors=True) if os.path.isdir(name) else os.unlink(name)
            return f"stopped: more than {DISK} MB on disk"
        return ""

    def end_all(self) -> None:
        """End what was started, but for the state; what starts new processes all the time is stopped first."""
        for round_ in range(100):
            rest = self.others()
            for pid in rest:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGSTOP if round_ == 0 and len(rest) > 8 else signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                while True:
                    pid, _ = os.waitpid(-1, os.WNOHANG)
                    if not pid:
                        break
            if not rest:
                return
            time.sleep(0.002)

    def leave(self) -> None:
        """End all that was started, then this process."""
        self.state = self.call = Process(self.first.end, 0)
        self.first = self.state
        self.end_all()
        os._exit(0)

    def read(self) -> tuple[bytes, bytes]:
        """Wait for the next message and return its kind and content."""
        (length,) = struct.unpack(">I", self._read(4))
        data = self._read(length)
        return data[:1], data[1:]

    def answer(self, message: dict) -> None:
        """Send a message as JSON."""
        self._write(b"J" + json.dumps(message).encode())

    def _read(self, count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = os.read(self.source, count - len(parts))
            if not part:
                self.leave()
            parts += part
        return parts

    def _write(self, data: bytes) -> None:
        data = struct.pack(">I", len(data)) + data
        while data:
            data = data[os.write(self.target, data) :]


def main() -> None:
    """Read the options, set the limits and answer commands until there are no more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=4096)
    parser.add_argument("--warm", action="store_true", help="be ready for optimizers")
    options = parser.parse_args()
    limit(options.megabytes)
    with contextlib.suppress(AttributeError, OSError):  # Linux: those that lose their parent become our children
        ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    supervisor = Supervisor(options.megabytes, options.warm)
    supervisor.main()


if __name__ == "__main__":
    sys.path[0:0] = [] if "" in sys.path else [""]
    main()

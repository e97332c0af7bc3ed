"""A submission's process, as the grader sees it: it runs cells, and its functions are called from here."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import select
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
from nbformat import NotebookNode
from nbformat.v4 import new_output

import dtta.course.runner
from dtta.course.judge import SECONDS, Elsewhere, TooSlow, Wrong
from dtta.course.runner import SHARED, wire
from dtta.course.staff import sandbox

START, SLACK = 180.0, 60.0  # seconds to import PyTorch on a busy machine, and that an answer may come late
LARGEST = 2**28  # bytes of one message


KNOWN = {"torch", "numpy", "math", "dtta"}  # to import one of these cannot go wrong


class NotGraded(Exception):
    """A submission could not be run, for a reason that is not the student's."""


class Remote(Elsewhere):
    """A function of the submission."""

    def __init__(self, runner: Runner, name: str):
        self.runner, self.__name__ = runner, name

    def call(self, arguments: tuple, seconds: float = SECONDS) -> object:
        """Call it. An error of its own comes as an exception with the error's name."""
        self.runner.until = time.monotonic() + seconds
        return self.runner.peer().call(self.__name__, arguments)


class Grader(wire.Peer):
    """The grader's end: a test's own complaint in a function that it has handed in comes out of the call as it is."""

    complaint: Wrong | None = None

    def failed(self, error: BaseException) -> tuple[str, str, str]:
        self.complaint = error if isinstance(error, Wrong) else None
        return super().failed(error)

    def call(self, target, arguments, named=None) -> object:
        self.complaint = None
        try:
            return super().call(target, arguments, named)
        except wire.Stopped:
            if self.complaint:
                raise self.complaint from None
            raise


class Runner:
    """A sandbox with a submission's process in it.

    Args:
        kind, hide, megabytes: of the sandbox.
        warm: whether functions that use optimizers will be called.
    """

    def __init__(self, kind: str, hide: list[str] = (), megabytes: int = 4096, warm: bool = False):
        self.work = Path(tempfile.mkdtemp(prefix="dtta-"))
        shutil.copytree(
            Path(dtta.course.runner.__file__).parent, self.work / "runner", ignore=shutil.ignore_patterns("__pycache__")
        )
        (self.work / SHARED).mkdir()
        if os.geteuid() == 0:  # it will run as nobody
            for path in (self.work, *self.work.rglob("*")):
                os.chown(path, sandbox.NOBODY, sandbox.NOBODY)
        python = ["-m", "runner", "--megabytes", str(megabytes), *(["--warm"] if warm else [])]
        self.kind, self.open, self.until, self.buffer, self.ended = kind, None, 0.0, b"", ""
        self.stderr = (self.work.parent / f"{self.work.name}.stderr").open("w+b")
        self.process = subprocess.Popen(
            sandbox.command(kind, self.work, [Path(path) for path in hide], python, megabytes),
            cwd=self.work,
            env=dict(v.split("=", 1) for v in sandbox.variables(self.work)) if kind == "none" else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
        )
        os.set_blocking(self.process.stdout.fileno(), False)
        try:
            ready = json.loads(self._receive(START)[1])
        except (ConnectionError, ValueError) as error:
            self.close()
            raise NotGraded(f"the sandbox does not start: {self.ended or error}") from None
        assert ready == {"ready": True}

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything that runs in it."""
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    child.kill()
        self.process.kill()
        self.process.wait()
        if self.kind in ("docker", "podman"):
            subprocess.run([self.kind, "rm", "--force", self.work.name], capture_output=True, check=False)
        for stream in (self.process.stdin, self.process.stdout, self.stderr):
            with contextlib.suppress(OSError):
                stream.close()
        Path(self.stderr.name).unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)

    # Cells

    def reset(self) -> None:
        """Forget all cells."""
        self.shut()
        self.command("reset")

    def cell(self, source: str, seconds: float) -> tuple[list[NotebookNode], str]:
        """Run a cell: its outputs, and why it did not come to its end, or nothing."""
        self.shut()
        answer = self.command("cell", seconds, source=source, seconds=seconds, copy=not only_defines(source))
        trouble = answer.get("trouble") or answer.get("late") or ""
        try:
            return [new_output(**output) for output in json.loads(answer.get("outputs", "[]"))], str(trouble)
        except Exception:  # it did not come from a cell that ended by itself
            return [], trouble or "the cell gave no outputs"

    # Calls

    def peer(self) -> Grader:
        """The wire to a process that answers calls."""
        if self.open is None:
            if trouble := self.command("open", 60).get("trouble"):
                raise type("Ended", (wire.Stopped,), {})(trouble)
            self.open = Grader(self, trusted=False)
        return self.open

    def value(self, name: str) -> object:
        """What the submission calls by this name: plain values as they are, functions to be called; else NameError."""
        self.until = time.monotonic() + SECONDS
        value = self.peer().fetch(name)
        return Remote(self, name) if isinstance(value, wire.Function) else value

    def shut(self) -> None:
        """End the process that answers calls, if there is one."""
        if self.open is not None:
            self.open = None
            self.command("close")

    def send(self, data: bytes) -> None:
        """A message to the process that answers calls."""
        self._send(b"D" + struct.pack(">d", max(self.until - time.monotonic(), 0.0)) + data)

    def receive(self) -> bytes:
        """A message from the process that answers calls.

        Raises:
            TooSlow: it took longer than it may.
            wire.Stopped: it has ended.
        """
        try:
            kind, data = self._receive(max(self.until - time.monotonic(), 0.0) + SLACK)
        except ConnectionError as error:
            self.open = None
            raise type("Ended", (wire.Stopped,), {})(str(error)) from None
        if kind == b"D":
            return data
        self.open = None
        trouble = str(json.loads(data).get("trouble"))
        if trouble == "time":
            raise TooSlow
        raise type("Ended", (wire.Stopped,), {})(trouble)

    # Frames

    def command(self, do: str, wait: float = 0.0, **about: object) -> dict:
        """Have the supervisor do something; if it is gone, say so as it would."""
        try:
            self._send(b"J" + json.dumps({"do": do, **about}).encode())
            kind, data = self._receive(wait + SLACK)
            answer = json.loads(data) if kind == b"J" else None
            if not isinstance(answer, dict):
                raise ConnectionError("the sandbox gives odd answers")
            return answer
        except ConnectionError as error:
            return {"trouble": f"the submission's processes ended: {error}"}

    def _send(self, data: bytes) -> None:
        if self.ended:
            raise ConnectionError(self.ended)
        try:
            self.process.stdin.write(struct.pack(">I", len(data)) + data)
            self.process.stdin.flush()
        except OSError:
            self._end(self._last_line())

    def _receive(self, seconds: float) -> tuple[bytes, bytes]:
        if self.ended:
            raise ConnectionError(self.ended)
        until = time.monotonic() + seconds
        while True:
            if len(self.buffer) >= 4:
                (length,) = struct.unpack(">I", self.buffer[:4])
                if length > LARGEST:
                    self._end("a message of more than 256 MB")
                if len(self.buffer) >= 4 + length:
                    data, self.buffer = self.buffer[4 : 4 + length], self.buffer[4 + length :]
                    return data[:1], data[1:]
            left = until - time.monotonic()
            if left <= 0:
                self._end("no answer in time")
            if select.select([self.process.stdout], [], [], left)[0]:
                part = self.process.stdout.read(2**20)
                if not part:
                    self._end(self._last_line())
                self.buffer += part

    def _end(self, why: str) -> None:
        self.ended = why
        self.process.kill()
        raise ConnectionError(why)

    def _last_line(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        size = self.stderr.seek(0, os.SEEK_END)
        self.stderr.seek(max(0, size - 2000))
        lines = self.stderr.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it ended without a message"


def only_defines(source: str) -> bool:
    """Whether a cell only imports what is known and defines plain functions: nothing in it can run for long."""
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(map(_defines, body))


def _defines(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return all(name.name.partition(".")[0] in KNOWN for name in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").partition(".")[0] in KNOWN and not node.level
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if not isinstance(node, ast.FunctionDef) or node.decorator_list:
        return False
    outside = [*ast.walk(node.args), *(ast.walk(node.returns) if node.returns else [])]
    return not any(isinstance(part, ast.Call | ast.Subscript | ast.BinOp | ast.Attribute) for part in outside)

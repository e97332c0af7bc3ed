"""A process of the submission: it runs one cell, or answers the calls of one graded cell, and forks on demand.

The state of a notebook after a cell is a process. What a later cell does to it (a loop without an end, an exit, a lack
of memory) ends a copy of it, and the next cell starts from the same state again.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import struct
import sys
import traceback
import types
import warnings

import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from . import stub, values, variants, wire

OUTPUT = 100_000  # characters of one cell that are kept; a loop that prints would fill the memory
PRINTED = 2_000  # of one call
SHOWN = 5_000_000  # of pictures and other things that a cell shows


class Limited(io.TextIOBase):
    """A text stream that keeps the first characters."""

    def __init__(self, most: int):
        self.parts, self.left = [], most

    def write(self, text: str) -> int:
        if self.left > 0:
            self.parts.append(text[: self.left])
            self.left -= len(text)
            if self.left <= 0:
                self.parts.append("\n[more output was dropped]\n")
        return len(text)

    def text(self) -> str:
        """Return what was kept."""
        return clean("".join(self.parts))


class Checks(types.ModuleType):
    """What a student's cells find as dtta.course.check: the checks themselves are where these cells cannot reach."""

    class Wrong(AssertionError):
        pass

    class Student:
        def __init__(self, *_):
            self.gives = self.fail = lambda *_, **__: None

    variant, generator = staticmethod(variants.variant), staticmethod(variants.generator)
    normal, numbers = staticmethod(variants.normal), staticmethod(variants.numbers)

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: print(f"check.{name} is called when the work is graded.")


def shell() -> InteractiveShell:
    """An IPython that leaves nothing behind, with the checks' names."""
    course, checks = types.ModuleType("dtta.course"), Checks("dtta.course.check")
    course.check, course.__path__ = checks, []
    sys.modules |= {"dtta.course": course, "dtta.course.check": checks}
    config = Config()
    config.HistoryManager.enabled = False
    config.InteractiveShell.colors = "nocolor"
    made = InteractiveShell.instance(config=config)
    made._showtraceback = lambda *_: None  # errors are shown as outputs
    made.ask_exit = lambda: None
    return made


def run_cell(made: InteractiveShell, source: str) -> list[dict]:
    """Run one cell as a kernel does, and return its outputs in the notebook's format."""
    out, err, outputs = Limited(OUTPUT), Limited(OUTPUT), []
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with capture_output(stdout=False, stderr=False) as shown, quiet[0], quiet[1]:
        result = made.run_cell(source, store_history=True)
    for name, stream in (("stdout", out), ("stderr", err)):
        if text := stream.text():
            outputs.append({"output_type": "stream", "name": name, "text": text})
    left = SHOWN
    for rich in shown.outputs:
        data = {kind: clean(value) for kind, value in (rich.data or {}).items() if isinstance(value, str)}
        left -= sum(map(len, data.values()))
        if data and left > 0:
            outputs.append({"output_type": "display_data", "data": data, "metadata": {}})
    if (error := result.error_before_exec or result.error_in_exec) is not None:
        try:
            lines = made.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
        except Exception:
            lines = []
        name, text = type(error).__name__, clean(values.text_of(error))[:PRINTED]
        lines = [clean(line)[:PRINTED] for line in lines[:60]] or [f"{name}: {text}"]
        outputs.append({"output_type": "error", "ename": name, "evalue": text, "traceback": lines})
    return outputs


def clean(text: str) -> str:
    """The text without halves of characters, which no file takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


class Link:
    """Frames over a socket."""

    def __init__(self, end: socket.socket):
        self.end = end

    def send(self, data: bytes) -> None:
        """Send one frame."""
        self.end.sendall(struct.pack(">I", len(data)) + data)

    def receive(self) -> bytes:
        """Wait for one frame and return it."""
        (length,) = struct.unpack(">I", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            part = self.end.recv(min(count, 2**20))
            if not part:
                os._exit(0)  # whoever asks is gone
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


class Submission(wire.Peer):
    """The end of the wire at which the student's functions are."""

    caught = BaseException

    def run(self, function, arguments: list, named: dict) -> object:
        """Call a student's function under PyTorch's usual settings, whatever cells before have made of them."""
        if stub.is_stub(function):
            raise NotImplementedError
        out = Limited(PRINTED)
        with warnings.catch_warnings(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            warnings.simplefilter("ignore")
            return function(*arguments, **named)

    def failed(self, error: BaseException) -> tuple[str, str, str]:
        """With the student's own line in which the error arose."""
        name, text, _ = super().failed(error)
        frames = [
            f for f in traceback.extract_tb(error.__traceback__) if f.name != "run" and "runner" not in f.filename
        ]
        lines = [f for f in frames if f.filename.startswith("<ipython") or "ipykernel" in f.filename]
        return name, text, (lines[-1].line or "") if lines else ""


def warm() -> None:
    """Take one step with an optimizer: the first imports much, which a call would not have the time for."""
    weight = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.0)
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()


def usual() -> None:
    """PyTorch's own defaults."""
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_autocast_enabled("cpu", False)
    torch._C._set_deterministic_algorithms(False)


def live(link: Link, made: InteractiveShell) -> None:
    """Do what the supervisor asks for: fork, run a cell, or answer calls."""
    while True:
        command = json.loads(link.receive())
        if command["do"] == "fork":
            _, (end, *_), *_ = socket.recv_fds(link.end, 1, 1)
            with contextlib.suppress(ChildProcessError):  # those that have ended
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if os.fork() == 0:
                link.end.close()
                link = Link(socket.socket(fileno=end))
                link.send(str(os.getpid()).encode())
            else:
                os.close(end)
        elif command["do"] == "cell":
            outputs = run_cell(made, command["source"])
            link.send(json.dumps(outputs).encode())
        else:
            usual()
            Submission(link, trusted=True, named=made.user_ns).serve()

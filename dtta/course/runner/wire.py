"""Calls between the process of a submission and the one that grades it: values cross as JSON and plain arrays.

Each end has copies of the tensors, modules, optimizers and generators that were arguments, and each message carries
what has changed in them. A function stays where it is: the other end gets a stand-in that calls back, with gradients.
Nothing is unpickled, and only the end that trusts the other one builds modules and optimizers from what comes.
"""

from __future__ import annotations

import builtins
import json
import struct
from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import transforms
from .values import Reader, Writer, text_of, word


class Stopped(Exception):
    """An error at the other end; its class has the name of the error there."""

    where = ""


class Function:
    """A function at the other end."""

    def __init__(self, peer: Peer, target: int | str):
        self.peer, self.target = peer, target
        self.__name__ = target if isinstance(target, str) else "given"

    def __call__(self, *arguments: object, **named: object) -> object:
        if transforms.transformed((*arguments, *named.values())):
            return transforms.call(self, arguments, named)
        return self.peer.call(self.target, arguments, named)

    def __deepcopy__(self, memo: dict) -> Function:
        return self  # as functions are


class Across(torch.autograd.Function):
    """Tensors computed at the other end from some of this end: the gradient goes there and comes back."""

    @staticmethod
    def forward(ctx, peer, handle, values, anchor, *inputs):
        ctx.peer, ctx.handle = peer, handle
        return tuple(value.clone() for value in values)

    @staticmethod
    @once_differentiable
    def backward(ctx, *gradients):
        return None, None, None, None, *ctx.peer.gradients(ctx.handle, gradients)


class Peer:
    """One end.

    Args:
        link: has send(bytes) and receive() -> bytes.
        trusted: whether the other end may have this one make objects: so it is in the sandbox, and not in the grader.
        named: what the other end may call by name.
    """

    function = Function
    caught = Exception  # what an answer turns into an error at the other end

    def __init__(self, link, trusted: bool, named: dict[str, object] | None = None):
        self.link, self.trusted, self.named = link, trusted, {} if named is None else named
        self.objects: dict[int, object] = {}
        self.sent: dict[int, bytes] = {}  # what the other end has of each tensor
        self.numbers: dict[int, int] = {}
        self.next = 1 if trusted else 0  # odd numbers from one end, even from the other
        self.graphs: dict[int, tuple[list[Tensor], list[Tensor]]] = {}

    def number(self, value: object, number: int | None = None) -> int:
        """The number of a shared object, which it gets if it has none."""
        if id(value) not in self.numbers:
            if number is None:
                number, self.next = self.next, self.next + 2
            self.numbers[id(value)], self.objects[number] = number, value
        return self.numbers[id(value)]

    def has(self, value: object) -> bool:
        """Return whether the other side has this object."""
        return id(value) in self.numbers

    def learning(self) -> list[Tensor]:
        """The shared tensors that ask for a gradient."""
        shared = [self.objects[number] for number in sorted(self.objects)]
        return [value for value in shared if isinstance(value, Tensor) and value.requires_grad]

    # Requests

    def call(self, target: int | str, arguments: Iterable, named: dict | None = None) -> object:
        """Call a function of the other end, by its number or name."""
        out = Writer(self, share=not self.trusted)
        tree = [target, out.tree(list(arguments)), out.tree(dict(named or {}))]
        inputs = [*out.inputs, *self.learning()]
        reply, reader = self._request("call", tree, out)
        if reply["kind"] == "error":
            raise self._raised(*reply["body"])
        tree, values, handle = reply["body"]
        reader.outputs = [reader.value(value) for value in values]
        if values:
            anchor = torch.zeros((), requires_grad=True)  # they ask for a gradient even if no input does
            reader.outputs = list(Across.apply(self, handle, reader.outputs, anchor, *inputs))
        return reader.tree(tree)

    def fetch(self, name: str) -> object:
        """The value of a name at the other end; NameError if it has none."""
        out = Writer(self)
        reply, reader = self._request("fetch", name, out)
        if reply["kind"] == "error":
            raise NameError(f"name {name!r} is not defined")
        return reader.tree(reply["body"])

    def gradients(self, handle: int, gradients: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        """The gradients at what the other end computed from, from those at what it gave."""
        out = Writer(self)
        reply, reader = self._request(
            "gradients", [handle, [None if g is None else out.value(g) for g in gradients]], out
        )
        if reply["kind"] == "error":
            raise RuntimeError(str(reply["body"][1]))
        return [None if value is None else reader.value(value) for value in reply["body"]]

    def serve(self) -> None:
        """Answer requests until the link ends."""
        while True:
            self._answer(*self._receive())

    def _request(self, kind: str, body: object, out: Writer) -> tuple[dict, Reader]:
        self._send(kind, body, out)
        while True:
            message, reader = self._receive()
            if message["kind"] in ("result", "error"):
                return message, reader
            self._answer(message, reader)

    def _send(self, kind: str, body: object, out: Writer) -> None:
        message = {"kind": kind, "body": body, "state": out.state(), "new": out.new}
        message["modes"] = [torch.is_grad_enabled(), torch.is_inference_mode_enabled()]
        message["blobs"] = [len(blob) for blob in out.blobs]
        text = json.dumps(message).encode()
        self.link.send(b"".join([struct.pack(">I", len(text)), text, *out.blobs]))

    def _receive(self) -> tuple[dict, Reader]:
        data = self.link.receive()
        (length,) = struct.unpack(">I", data[:4])
        message, blobs, place = json.loads(data[4 : 4 + length]), [], 4 + length
        for size in message["blobs"]:
            blobs.append(data[place : place + size])
            place += size
        reader = Reader(self, blobs, message["new"])
        with torch.no_grad():
            reader.update(message["state"])
        return message, reader

    def _answer(self, message: dict, reader: Reader) -> None:
        kind, body, out = message["kind"], message["body"], Writer(self)
        try:
            if kind == "call":
                with modes(*message["modes"]):
                    self._run(*body, reader, out)
                return
            if kind == "fetch":
                self._send("result", out.tree(self.named[body]), out)
                return
            handle, gradients = body
            values, inputs = self.graphs[handle]
            gradients = [None if g is None else reader.value(g) for g in gradients]
            with modes(True, False):
                results = torch.autograd.grad(values, inputs, gradients, retain_graph=True, allow_unused=True)
            self._send("result", [None if g is None else out.value(g) for g in results], out)
        except self.caught as error:
            self._send("error", list(self.failed(error)), Writer(self))

    def _run(self, target, arguments, named, reader: Reader, out: Writer) -> None:
        function = self.named[target] if isinstance(target, str) else self.objects[target]
        if not callable(function):
            raise TypeError(f"{target} is no function")
        arguments, named = reader.tree(arguments), reader.tree(named)
        inputs = reader.inputs + self.learning()
        result = self.run(function, arguments, named)
        out.outputs = []
        tree = out.tree(result)
        if out.outputs:
            self.graphs[len(self.graphs)] = out.outputs, inputs
        self._send("result", [tree, [out.value(value) for value in out.outputs], len(self.graphs) - 1], out)

    def run(self, function, arguments: list, named: dict) -> object:
        """Call a function of this end for the other."""
        return function(*arguments, **named)

    def failed(self, error: BaseException) -> tuple[str, str, str]:
        """The name of an error, its text, and where it arose."""
        return type(error).__name__, text_of(error), getattr(error, "where", "")

    def _raised(self, name: object, text: object, where: object) -> Exception:
        """The error that the other end tells of, as an exception here."""
        if self.trusted:  # in a student's code it is to look as if the function had been called directly
            error_type = getattr(builtins, str(name), None)
            if isinstance(error_type, type) and issubclass(error_type, Exception):
                return error_type(text)
        error = type(word(name), (Stopped,), {})(str(text)[:2000])
        error.where = str(where)[:500]
        return error


@contextmanager
def modes(grad: bool, inference: bool):
    """The other end's settings of autograd, and this end's own defaults."""
    with torch.inference_mode(bool(inference)), torch.set_grad_enabled(bool(grad)):
        yield

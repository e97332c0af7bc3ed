"""Values as JSON and plain arrays, written at one end of the wire and read at the other."""

from __future__ import annotations

import collections
import importlib
import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .wire import Peer

ITEMS = 100_000  # of one list or iterator that crosses
KINDS = ("float32", "float64", "float16", "bfloat16", "complex64", "complex128")
KINDS += ("int64", "int32", "int16", "int8", "uint8", "bool")
DTYPES = {name: getattr(torch, name) for name in KINDS}
SHARED = (Tensor, nn.Module, torch.optim.Optimizer, torch.Generator)


class Unsendable(BaseException):
    """A test passes something that cannot cross: the lecturer's mistake, for which no student loses points."""


class Opaque:
    """Something that stays at the other end and cannot be called: only its type's name and its text come."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


class Writer:
    """Writes one message."""

    def __init__(self, peer: Peer, share: bool = False):
        self.peer, self.share = peer, share
        self.blobs: list[bytes] = []
        self.inputs: list[Tensor] = []  # that are no shared ones and ask for a gradient
        self.outputs: list[Tensor] | None = None  # the same of a result
        self.new: list = []  # the shared objects that the other end does not have yet

    def tree(self, x: object, depth: int = 0) -> object:
        """A value as JSON."""
        if depth > 50:
            raise ValueError("too many lists in each other")
        if x is None or isinstance(x, bool | str | int | float):
            return plain_number(x)
        if isinstance(x, Tensor):
            return self._tensor(x)
        if isinstance(x, SHARED) and self.peer.has(x):
            return ["shared", self.peer.number(x)]
        if x is ...:
            return ["..."]
        if isinstance(x, torch.dtype):
            return ["dtype", str(x).removeprefix("torch.")]
        if isinstance(x, self.peer.function) and x.peer is self.peer:
            return ["yours", x.target]
        if isinstance(x, dict):
            pairs = list(x.items())[:ITEMS]
            return ["dict", [[self.tree(k, depth + 1), self.tree(v, depth + 1)] for k, v in pairs]]
        for kind, name in ((list, "list"), (tuple, "tuple"), (set | frozenset, "set")):
            if isinstance(x, kind):
                return [name, [self.tree(v, depth + 1) for v in list(x)[:ITEMS]]]
        if not self.peer.trusted and isinstance(x, SHARED):
            return ["shared", self._introduce(x)]
        if callable(x):
            owner = getattr(x, "__module__", None) or ""
            if not self.peer.trusted and owner.partition(".")[0] in ("torch", "builtins", "_operator", "math"):
                return ["library", owner, getattr(x, "__qualname__", "")]
            return ["function", self.peer.number(x)]
        if hasattr(x, "__next__") or isinstance(x, collections.abc.KeysView | collections.abc.ValuesView):
            return ["iterator", [self.tree(v, depth + 1) for _, v in zip(range(ITEMS), x, strict=False)]]
        if not self.peer.trusted:
            raise Unsendable(f"a test passes a {type(x).__name__}, which cannot cross to the submission's process")
        return ["other", type(x).__name__, text_of(x)[:200]]

    def _tensor(self, x: Tensor) -> object:
        if self.peer.has(x):
            return ["shared", self.peer.number(x)]
        if self.share:
            return ["shared", self._introduce(x)]
        if self.outputs is not None and x.requires_grad and not x.is_leaf:
            self.outputs.append(x)
            return ["output", len(self.outputs) - 1]
        if self.outputs is None and x.requires_grad:
            self.inputs.append(x)
            return ["input", self.value(x)]
        return ["value", self.value(x), bool(x.requires_grad)]

    def value(self, x: Tensor) -> list:
        """Dtype, shape and bytes of a tensor, whatever class it is of."""
        plain = flat(x)
        self.blobs.append(octets(plain).numpy().tobytes())
        return [str(plain.dtype).removeprefix("torch."), list(plain.shape), len(self.blobs) - 1]

    def _introduce(self, x: object) -> int:
        """Describe an object to the other end, which makes one like it."""
        number = self.peer.number(x)
        if isinstance(x, Tensor):
            self.new.append([number, "tensor", isinstance(x, nn.Parameter), x.requires_grad, self.value(x)])
        elif isinstance(x, nn.Module):
            path = [type(x).__module__, type(x).__qualname__]
            if path[0].partition(".")[0] != "torch":
                raise Unsendable(f"a test passes a {path[1]}; of modules only those of torch can cross")
            inside = {k: v for k, v in vars(x).items() if "hook" not in k}
            self.new.append([number, "module", path, self.tree(inside)])
        elif isinstance(x, torch.optim.Optimizer):
            defaults = {k: v for k, v in x.defaults.items() if k in inspect.signature(type(x)).parameters}
            self.new.append([number, "optimizer", type(x).__name__, self.tree(x.param_groups), self.tree(defaults)])
        else:
            self.new.append([number, "generator"])
        return number

    def state(self) -> list:
        """What the shared objects hold, as far as the other end may not know it."""
        self.share, rows = True, []
        for number, x in list(self.peer.objects.items()):
            if isinstance(x, Tensor):
                kept = len(self.blobs)
                value = self.value(x)
                data = repr(value[:2]).encode() + self.blobs[kept]
                if self.peer.sent.get(number) == data:
                    value = self.blobs.pop() and None
                self.peer.sent[number] = data
                grad = self.value(x.grad) if x.is_leaf and isinstance(x.grad, Tensor) else None
                rows.append([number, value, bool(x.requires_grad), grad])
            elif isinstance(x, nn.Module):
                places = [[[k, None if v is None else self._tensor(v)] for k, v in d.items()] for d in tables(x)]
                rows.append([number, bool(x.training), *places])
            elif isinstance(x, torch.optim.Optimizer):
                state = [[self._tensor(p), self._loose(s)] for p, s in list(x.state.items()) if isinstance(p, Tensor)]
                rows.append([number, self.tree(x.param_groups), state])
            elif isinstance(x, torch.Generator):
                rows.append([number, self.value(x.get_state())])
        return rows

    def _loose(self, state: dict) -> object:
        """An optimizer's memory of one tensor; the tensors in it are not shared."""
        pairs = [(k, v) for k, v in state.items() if not isinstance(v, Tensor)]
        return [self.tree(dict(pairs)), [[k, self.value(v)] for k, v in state.items() if isinstance(v, Tensor)]]


class Reader:
    """Reads one message."""

    def __init__(self, peer: Peer, blobs: list[bytes], new: list):
        self.peer, self.blobs = peer, blobs
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        with torch.inference_mode(False):
            for number, kind, *about in new:
                self._make(number, kind, *about)

    def value(self, node: list) -> Tensor:
        """A tensor from its dtype, shape and bytes."""
        name, shape, blob = node
        dtype, data = DTYPES[name], self.blobs[blob]
        if not data:
            return torch.empty([int(n) for n in shape], dtype=dtype)
        # not a view: torch names views in its messages, and the argument of a check in a notebook is none
        return torch.frombuffer(bytearray(data), dtype=dtype).reshape([int(n) for n in shape]).clone()

    def tree(self, node: object) -> object:
        """The value that a JSON tree describes."""
        if not isinstance(node, list):
            if isinstance(node, dict):
                raise ValueError("no value")
            return node
        kind, *rest = node
        if kind in ("list", "tuple", "set"):
            items = [self.tree(n) for n in rest[0]]
            return {"list": list, "tuple": tuple, "set": set}[kind](items)
        if kind == "dict":
            return {self.tree(k): self.tree(v) for k, v in rest[0]}
        if kind == "iterator":
            return iter([self.tree(n) for n in rest[0]])
        if kind in ("shared", "yours"):
            return self.peer.objects[rest[0]] if not isinstance(rest[0], str) else self.peer.named[rest[0]]
        if kind == "function":
            return self.peer.function(self.peer, rest[0])
        if kind == "output":
            return self.outputs[rest[0]]
        if kind == "input":
            self.inputs.append(self.value(rest[0]).requires_grad_())
            return self.inputs[-1]
        if kind == "value":
            value = self.value(rest[0])
            return value.requires_grad_() if rest[1] else value
        if kind == "dtype":
            return DTYPES[rest[0]]
        if kind == "...":
            return ...
        if kind == "library" and self.peer.trusted:
            return imported(*rest)
        if kind == "other":
            return type(word(rest[0]), (Opaque,), {})(str(rest[1])[:200])
        raise ValueError(f"no value: {kind}")

    def _make(self, number: int, kind: str, *about) -> None:
        if number in self.peer.objects or not isinstance(number, int) or number % 2 == self.peer.next % 2:
            raise ValueError("this number is taken")
        if kind == "tensor":
            is_parameter, learns, value = about
            value = self.value(value)
            made = nn.Parameter(value, bool(learns)) if is_parameter else value.requires_grad_(bool(learns))
        elif not self.peer.trusted:
            raise ValueError(f"a {kind} is not taken from the submission")
        elif kind == "module":
            made = (cls := imported(*about[0])).__new__(cls)
            nn.Module.__init__(made)
            vars(made).update(self.tree(about[1]))
        elif kind == "optimizer":
            made = getattr(torch.optim, about[0])(self.tree(about[1]), **self.tree(about[2]))
        else:
            made = torch.Generator()
        self.peer.number(made, number)

    def update(self, rows: list) -> None:
        """Bring the shared objects to what they hold at the other end."""
        for number, *held in rows:
            x = self.peer.objects[number]
            if isinstance(x, Tensor):
                self._update_tensor(number, x, *held)
            elif isinstance(x, nn.Module):
                x.training = bool(held[0])
                for places, names in zip(tables(x), held[1:], strict=True):
                    for name, node in names:
                        if places.get(name) is not (value := self.tree(node)):
                            places[name] = value
            elif isinstance(x, torch.optim.Optimizer):
                for group, old in zip(self.tree(held[0]), x.param_groups, strict=False):
                    old.update(group)
                x.state.clear()
                for node, (plain, tensors) in held[1]:
                    x.state[self.tree(node)] = self.tree(plain) | {k: self.value(v) for k, v in tensors}
            else:
                x.set_state(self.value(held[0]))

    def _update_tensor(self, number: int, x: Tensor, node: list | None, learns: bool, grad: list | None) -> None:
        if node is not None:
            value = self.value(node)
            self.peer.sent[number] = repr(node[:2]).encode() + self.blobs[node[2]]
            if x.shape != value.shape or x.dtype != value.dtype:
                x.data = value
            elif not same(x, value):
                try:
                    x.data.copy_(value)
                except RuntimeError:  # parts of an expanded tensor share their memory
                    x.data = value
        if not x.is_leaf:
            return
        if x.requires_grad != bool(learns):
            x.requires_grad_(bool(learns))
        came = None if grad is None else self.value(grad)
        if came is None or x.grad is None or x.grad.shape != came.shape or not same(x.grad, came):
            x.grad = came


def flat(x: Tensor) -> Tensor:
    """The numbers of a tensor of any class, place and layout."""
    with torch._C.DisableTorchFunctionSubclass():
        plain = torch.Tensor.detach(x)
        plain = plain if type(plain) is Tensor else plain.as_subclass(Tensor)
        plain = plain.to_dense() if plain.layout != torch.strided else plain
        return plain.cpu().resolve_conj().resolve_neg()


def octets(x: Tensor) -> Tensor:
    """The bytes of a plain tensor."""
    return torch.empty(x.shape, dtype=x.dtype).copy_(x).view(-1).view(torch.uint8)


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape and dtype hold the same bytes."""
    a, b = octets(flat(a)), octets(flat(b))
    return torch.equal(a, b)


def plain_number(x: object) -> object:
    """A number, text or None as JSON has it, also from classes of their own."""
    if x is None or isinstance(x, bool):
        return x
    if isinstance(x, str):
        return str(x)
    if isinstance(x, float):
        return float(x)
    return int(x) if abs(int(x)) < 10**30 else ["other", "int", "a very large number"]


def tables(module: nn.Module) -> tuple[dict, dict]:
    """Return the dictionaries in which a module keeps its parameters and buffers."""
    return module._parameters, module._buffers


def imported(module: str, name: str) -> object:
    """Import what a library has under this name."""
    value = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def word(name: object) -> str:
    """A name for a class."""
    return name[:60] if isinstance(name, str) and name.isidentifier() else "object"


def text_of(value: object) -> str:
    """The text of an object whose own methods may fail."""
    try:
        return str(value) if isinstance(value, BaseException) else repr(value)
    except Exception as error:
        return f"(its text fails with {type(error).__name__})"

"""Export the digit models as ONNX graphs, from the functions that the package adapts with.

Four graphs, without weights (these stay in the shipped safetensors files, see `pack`):

    network   (θ, x, l) -> (y, c): logits and condition
    step      (θ, v, x, l, ∂L/∂c, rate) -> (θ', v'): one step of SGD with momentum 0.9
    gradient  (z0, t, ε, c, w) -> (losses, ∂L/∂c), L = Σ_b w_b loss_b
    losses    (z0, t, ε, c) -> losses, one condition for each pair

θ holds all numbers of the network's file in the file's order, running statistics included. l are the class embeddings.
ONNX has no derivatives: each graph is traced with its backward pass written out, a convolution's as a transposed one.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call, functionalize, grad_and_value, vjp
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import dtta
from dtta.problems.training.weights import folder
from tools.live.pack import BATCH, DIFFUSION, GRAPHS, NETWORK
from tools.pages.project import PageError

aten = torch.ops.aten


def layout(file: Path) -> list[tuple[str, tuple[int, ...], int]]:
    """Return name, shape and place (in numbers, from the first) of the float16 tensors of a safetensors file."""
    with file.open("rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
    halves = [(name, one) for name, one in header.items() if one.get("dtype") == "F16"]
    halves.sort(key=lambda pair: pair[1]["data_offsets"])
    start = halves[0][1]["data_offsets"][0]
    return [(name, tuple(one["shape"]), (one["data_offsets"][0] - start) // 2) for name, one in halves]


def functions() -> dict[str, tuple[Callable, dict[str, Tensor]]]:
    """Return each graph's function and example inputs by name."""
    problem = dtta.load("digits", network=NETWORK, diffusion=DIFFUSION)
    model, diffusion = problem.model.requires_grad_(False), problem.diffusion.requires_grad_(False)
    parts = layout(folder() / "digits" / f"{NETWORK}.safetensors")
    statistics = {name for name, _ in model.named_buffers()} & {name for name, _, _ in parts}  # not adapted
    sizes = [math.prod(shape) for _, shape, _ in parts]

    def condition(theta: Tensor, x: Tensor, l: Tensor) -> tuple[Tensor, Tensor]:
        values = {name: v.view(shape) for (name, shape, _), v in zip(parts, theta.split(sizes), strict=True)}
        values |= {name: values[name].detach() for name in statistics}
        y = functional_call(model, values, (x,))
        return y, y.softmax(1) @ l

    def step(theta: Tensor, velocity: Tensor, x: Tensor, l: Tensor, c_grad: Tensor, rate: Tensor):
        _, pull_back = vjp(lambda theta: condition(theta, x, l)[1], theta)
        velocity = 0.9 * velocity + pull_back(c_grad)[0]
        return theta - rate * velocity, velocity

    def losses(z0: Tensor, t: Tensor, noise: Tensor, c: Tensor) -> Tensor:
        return diffusion.loss(z0.expand(BATCH, -1, -1, -1), t, noise, c)

    def gradient(z0: Tensor, t: Tensor, noise: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        def loss(c: Tensor) -> tuple[Tensor, Tensor]:
            each = losses(z0, t, noise, c.expand(BATCH, -1))
            return (weight * each).sum(), each

        c_grad, (_, each) = grad_and_value(loss, has_aux=True)(c)
        return each, c_grad

    state = model.state_dict()
    theta = torch.cat([state[name].flatten() for name, _, _ in parts])
    l = diffusion.class_embeddings
    x, _ = problem.image(0)
    g = torch.Generator().manual_seed(0)
    shape = (BATCH, *diffusion.encode(x).shape[1:])
    pair = {"z0": diffusion.encode(x), "t": torch.randint(1000, (BATCH,), generator=g)}
    pair["noise"] = torch.randn(shape, generator=g)
    c, weight = l[:1].clone(), torch.full((BATCH,), 1 / BATCH)
    start = {"theta": theta, "x": x, "l": l}
    moved = {"theta": theta, "velocity": torch.zeros_like(theta), "x": x, "l": l}
    return {
        "network": (condition, start),
        "step": (step, moved | {"c_grad": torch.zeros_like(c), "rate": torch.tensor(0.02)}),
        "gradient": (gradient, pair | {"c": c, "weight": weight}),
        "losses": (losses, pair | {"c": l[torch.arange(BATCH) % len(l)]}),
    }


OUTPUTS = {
    "network": ["y", "c"],
    "step": ["theta_", "velocity_"],
    "gradient": ["losses", "c_grad"],
    "losses": ["losses"],
}


def _convolution(grad, x, w, bias, stride, padding, dilation, transposed, output_padding, groups, mask):
    """The backward pass of a convolution, as convolutions: ∂L/∂x transposed, ∂L/∂w with x and ∂L/∂y in their places."""
    if transposed or groups != 1 or list(dilation) != [1, 1] or (mask[1] and len(x) != 1):
        raise NotImplementedError("the backward pass of this convolution")
    x_grad = w_grad = None
    if mask[0]:
        sides = zip(x.shape[2:], grad.shape[2:], w.shape[2:], stride, padding, strict=True)
        rest = [side - ((out - 1) * s - 2 * p + k) for side, out, k, s, p in sides]
        x_grad = aten.convolution(grad, w, None, stride, padding, dilation, True, rest, 1)
    if mask[1]:
        kernel = grad.transpose(0, 1)
        w_grad = aten.convolution(x.transpose(0, 1), kernel, None, dilation, padding, stride, False, [0, 0], 1)
        w_grad = w_grad.transpose(0, 1)[:, :, : w.shape[2], : w.shape[3]]
    return x_grad, w_grad, grad.sum((0, 2, 3)) if mask[2] else None


def _max_pool(grad, x, kernel, stride, padding, dilation, ceil_mode, indices):
    return torch.zeros_like(x).flatten(2).scatter_add(2, indices.flatten(2), grad.flatten(2)).view(x.shape)


def _avg_pool(grad, x, kernel, stride, padding, ceil_mode, count_include_pad, divisor):
    if list(kernel) != list(stride) or any(padding) or divisor:
        raise NotImplementedError("the backward pass of this average pooling")
    a, b = kernel
    return (grad / (a * b))[:, :, :, None, :, None].expand(-1, -1, -1, a, -1, b).reshape(x.shape)


def _nearest(grad, output_size, input_size, scales_h=None, scales_w=None):
    n, c, h, w = input_size
    return grad.view(n, c, h, output_size[0] // h, w, output_size[1] // w).sum((3, 5))


def _zeros(size, *_, **__):
    return torch.zeros(size)


def trace(function: Callable, inputs: dict[str, Tensor]) -> torch.fx.GraphModule:
    """Return a function as a graph of operators that ONNX has."""
    table = dict(torch._decomp.core_aten_decompositions())
    table |= {
        aten.convolution_backward.default: _convolution,
        aten.max_pool2d_with_indices_backward.default: _max_pool,
        aten.avg_pool2d_backward.default: _avg_pool,
        aten.upsample_nearest2d_backward.default: _nearest,
        aten.empty_permuted.default: _zeros,
        aten.empty.memory_format: _zeros,
        aten.empty_like.default: lambda x, **_: torch.zeros_like(x),
    }
    with sdpa_kernel(SDPBackend.MATH):
        graph = make_fx(functionalize(function), decomposition_table=table)(*inputs.values())
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph.eval()


def export(out: Path = GRAPHS) -> list[Path]:
    """Write the graphs. Weights of the diffusion model refer to its file's numbers, as float32, in "diffusion".

    Raises PageError: a package is missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, which torch.onnx needs
    except ImportError as error:
        raise PageError("the export needs onnx and onnxscript: make setup, or pip install 'dtta[live]'") from error

    file = folder() / "digits" / f"{DIFFUSION}.safetensors"
    diffusion = dtta.load("digits", network=NETWORK, diffusion=DIFFUSION).diffusion.state_dict()
    places = {diffusion[name].numpy().tobytes(): 4 * place for name, _, place in layout(file)}
    out.mkdir(exist_ok=True)
    paths = []
    for name, (function, inputs) in functions().items():
        names = dict(input_names=list(inputs), output_names=OUTPUTS[name])
        program = torch.onnx.export(
            trace(function, inputs), tuple(inputs.values()), dynamo=True, opset_version=20, optimize=False,
            verbose=False, **names,
        )  # fmt: skip
        model = program.model_proto
        del model.graph.value_info[:], model.metadata_props[:]
        model.graph.ClearField("metadata_props")
        for part in itertools.chain(model.graph.node, *(f.node for f in model.functions)):
            part.ClearField("metadata_props")
            part.ClearField("doc_string")
        for tensor in model.graph.initializer:
            value = onnx.numpy_helper.to_array(tensor).tobytes()
            if value in places:
                tensor.ClearField("raw_data")
                tensor.data_location = onnx.TensorProto.EXTERNAL
                place = {"location": "diffusion", "offset": places[value], "length": len(value)}
                for key, one in place.items():
                    tensor.external_data.add(key=key, value=str(one))
        paths.append(out / f"{name}.onnx")
        paths[-1].write_bytes(model.SerializeToString(deterministic=True))
    return paths

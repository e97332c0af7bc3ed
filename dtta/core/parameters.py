"""Which parameters to adapt.

    optimizer = torch.optim.SGD(select(model, "norm"), lr=5e-3, momentum=0.9)             # as TENT
    optimizer = torch.optim.Adam([*select(model), *select(diffusion.network)], lr=1e-5)   # θ and φ together

`select` returns each parameter once.
"""

from __future__ import annotations

from torch import nn

TRAINABLE = ("all", "norm", "head", "lora", "leaf_modules")


def select(module: nn.Module, trainable: str = "all") -> list[nn.Parameter]:
    """Return the parameters of a network to adapt, each once, even if layers share it.

    Args:
        trainable: "all": every parameter; "norm": scales and shifts of the normalisation layers (as TENT); "head":
            the last linear or convolution layer; "lora": the parameters that peft added; "leaf_modules": what the
            authors' released code adapts, the layers without sublayers except the last one in the order in which
            they were registered (an Identity counts). This leaves out parameters that a block holds directly (a
            quarter of torchvision's ViT-B/32).

    Raises ValueError: an unknown choice, or a network without such parameters.
    """
    if trainable not in TRAINABLE:
        raise ValueError(f"unknown choice {trainable!r} of parameters; choose from {', '.join(TRAINABLE)}")
    if trainable == "all":
        parameters = list(module.parameters())
    elif trainable == "norm":
        norms = [m for m in module.modules() if "norm" in type(m).__name__.lower()]
        parameters = [p for m in norms for p in m.parameters(recurse=False)]
    elif trainable == "head":
        linear = [m for m in module.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        parameters = list(linear[-1].parameters()) if linear else []
    elif trainable == "leaf_modules":
        leaves = [m for m in module.modules() if not list(m.children())]
        parameters = [p for m in leaves[:-1] for p in m.parameters(recurse=False)]
    else:
        parameters = [p for name, p in module.named_parameters() if "lora_" in name]
    parameters = list(dict.fromkeys(parameters))
    if not parameters:
        raise ValueError(f"{type(module).__name__} has no parameters of the kind {trainable!r}")
    return parameters

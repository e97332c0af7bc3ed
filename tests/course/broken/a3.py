# Broken solutions of assignment 3: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "step": [
        ("old gradients are not cleared", "optimizer.zero_grad()", "pass", "both"),
        (
            "gradients are cleared after the backward pass",
            "optimizer.zero_grad()\n    mean.backward()",
            "mean.backward()\n    optimizer.zero_grad()",
            "both",
        ),
        ("missing detach: the loss comes with its graph", "mean.detach()", "mean", "check"),
        ("logits mix the embeddings, without softmax", "network(x).softmax(1)", "network(x)", "both"),
        (
            "a sum over the pairs, not a mean",
            "condition.expand(B, -1)).mean()",
            "condition.expand(B, -1)).sum()",
            "both",
        ),
        ("timesteps off by one", "-1), t, noise", "-1), t - 1, noise", "both"),
    ],
    "restore": [
        ("weights are kept without a copy", "p.detach().clone()", "p.detach()", "both"),
        ("one step too few", "range(steps)", "range(steps - 1)", "both"),
        (
            "the logits carry a gradient",
            "        with torch.no_grad():\n            return network(x)",
            "        return network(x)",
            "check",
        ),
        (
            "weights stay moved after an error",
            "finally:",
            "except ZeroDivisionError:\n        raise\n    finally:\n        pass\n    if True:",
            "both",
        ),
        (
            "an error of a step is swallowed",
            "            step()",
            "            try:\n                step()\n            except Exception:\n                break",
            "hidden",
        ),
    ],
    "tent": [
        ("the mean runs over classes too", ".sum(1).mean()", ".mean()", "both"),
        ("uphill", "p -= lr * grad", "p += lr * grad", "both"),
        ("missing detach: the entropy comes with its graph", "return entropy.detach()", "return entropy", "check"),
        ("GroupNorm is forgotten", "torch.nn.GroupNorm, ", "", "hidden"),
        (
            "shifts stay where they are",
            "in layer.parameters()]",
            "in layer.parameters() if p is not layer.bias]",
            "both",
        ),
        (
            "all weights move",
            "if isinstance(layer, norms) for p in layer.parameters()]",
            "for p in layer.parameters(recurse=False)]",
            "both",
        ),
        ("the logarithm of a belief that may be 0", "log_softmax(1)", "softmax(1).log()", "hidden"),
        (
            "old gradients count",
            "torch.autograd.grad(entropy, weights)",
            "(entropy.backward(), [p.grad for p in weights])[1]",
            "hidden",
        ),
    ],
    "entropy": [
        ("minus the entropy", "log_y + H", "log_y - H", "both"),
        (
            "the logarithm of a belief that may be 0",
            "log_y = logits.log_softmax(1)",
            "log_y = logits.softmax(1).log()",
            "hidden",
        ),
        ("the entropy of the whole batch", "sum(1, keepdim=True)", "sum()", "both"),
        ("softmax over the images", "log_softmax(1)", "log_softmax(0)", "both"),
    ],
    "interval": [
        (
            "before and after are drawn separately",
            "(after.float() - before.float())[draws].mean(1)",
            "after.float()[draws].mean(1) - before.float()[draws.flip(0)].mean(1)",
            "both",
        ),
        ("the whole rest is left out at each side", "(1 - level) / 2, (1 + level) / 2", "1 - level, level", "both"),
        ("the mean runs over the resamples", "mean(1)", "mean(0)", "both"),
        ("before minus after", "after.float() - before.float()", "before.float() - after.float()", "both"),
        (
            "subtracted before it is made a float",
            "after.float() - before.float()",
            "(after - before).float()",
            "hidden",
        ),
    ],
    "bug": [
        ("a copy of the dictionary only", "value.clone()", "value", "both"),
        ("before is computed after adaptation", "torch.stack([before, after])", "torch.stack([after, after])", "both"),
        ("reset at the very end only", "        network.load_state_dict(start)\n", "", "both"),
    ],
}

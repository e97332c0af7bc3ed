# Broken solutions of assignment 8: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "select": [
        ("the first Linear layer, not the last", "[-1].parameters()", "[0].parameters()", "both"),
        ("GroupNorm is forgotten", "nn.GroupNorm, ", "", "hidden"),
        (
            "only layers at the top are looked at for norms",
            "for m in network.modules() if isinstance(m, norms)",
            "for m in network.children() if isinstance(m, norms)",
            "both",
        ),
        (
            "a shared layer's parameters occur twice",
            "selected = list(network.parameters())",
            "selected = [p for _, p in network.named_parameters(remove_duplicate=False)]\n        return selected",
            "hidden",
        ),
        ("the head's bias is forgotten", "[-1].parameters())", "[-1].parameters())[:1]", "check"),
        ("a set, which no optimizer takes", "list(dict.fromkeys(selected))", "set(selected)", "check"),
    ],
    "episode": [
        ("weights are kept without a copy", "p.detach().clone()", "p.detach()", "both"),
        ("the optimizer remembers", "optimizer.state.clear()", "pass", "both"),
        (
            "the answer carries a gradient",
            "        with torch.no_grad():\n            return network(image)",
            "        return network(image)",
            "check",
        ),
        (
            "only weights are put back that ask for a gradient",
            "p.copy_(old)",
            "p.copy_(old if p.requires_grad else p)",
            "hidden",
        ),
        ("put back by subtracting what was added: not to the last bit", "p.copy_(old)", "p.sub_(p - old)", "both"),
    ],
    "momentum": [
        (
            "the velocity survives the reset",
            "w, v = start, torch.zeros_like(start)",
            "w, v = start, v if k else torch.zeros_like(start)",
            "both",
        ),
        (
            "the weights survive the reset",
            "w, v = start, torch.zeros_like(start)",
            "w, v = w if k else start, torch.zeros_like(start)",
            "both",
        ),
        ("reset one step too late", "if k % period == 0:", "if k == 0 or k % period == 1 % period and k > 1:", "both"),
        ("a running mean of gradients", "momentum * v + g", "momentum * v + (1 - momentum) * g", "both"),
        ("the weights are stepped in place", "w = w - lr * v", "w -= lr * v", "both"),
        ("Nesterov's look ahead", "w = w - lr * v", "w = w - lr * (g + momentum * v)", "both"),
    ],
    "descend": [
        ("one step too many", "range(steps)", "range(steps + 1)", "both"),
        ("missing detach", ", y)[0]).detach()", ", y)[0])", "both"),
        ("uphill", "y - lr *", "y + lr *", "both"),
        (
            "always the gradient at the start",
            "torch.autograd.grad(loss(y), y)[0]",
            "torch.autograd.grad(loss(z := torch.zeros(1, classes, requires_grad=True)), z)[0]",
            "both",
        ),
        ("starts from an even belief", "torch.zeros(1, classes)", "torch.full((1, classes), 1 / classes)", "both"),
        ("float64 comes back", "torch.zeros(1, classes)", "torch.zeros(1, classes, dtype=torch.float64)", "both"),
    ],
    "ensemble": [
        (
            "the logarithm of beliefs that may be 0",
            "torch.logaddexp(a.log_softmax(1), b.log_softmax(1)) - half",
            "((a.softmax(1) + b.softmax(1)) / 2).log()",
            "hidden",
        ),
        (
            "the mean of the logits",
            "torch.logaddexp(a.log_softmax(1), b.log_softmax(1)) - half",
            "((a + b) / 2).log_softmax(1)",
            "both",
        ),
        ("the half is forgotten", " - half", "", "both"),
        ("logits are taken for log beliefs", "a.log_softmax(1), b.log_softmax(1)", "a, b", "both"),
        ("softmax over the images", "b.log_softmax(1)", "b.log_softmax(0)", "both"),
        ("one belief in single precision", "a.log_softmax(1)", "a.float().log_softmax(1)", "hidden"),
    ],
    "pull": [
        ("pushed away", "rho * (start - w)", "rho * (w - start)", "both"),
        (
            "the share that stays, not the share that goes back",
            "w + rho * (start - w)",
            "start + rho * (w - start)",
            "both",
        ),
        (
            "recorded before the pull",
            "        w = w + rho * (start - w)\n        history.append(w)",
            "        history.append(w)\n        w = w + rho * (start - w)",
            "both",
        ),
        (
            "shrunk towards the image before",
            "        w = w + u\n        w = w + rho * (start - w)",
            "        w, start = w + u + rho * (start - w - u), w",
            "both",
        ),
        ("the start moves along", "w = w + u", "w += u", "both"),
    ],
}

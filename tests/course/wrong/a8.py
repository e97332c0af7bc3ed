# Plausible wrong answers to assignment 8. The format: book/authoring.md.

# %% only the outermost layers task="select-answer" loses=["select-check", "select-hidden", "select-edge"] says="leaves out 0.1.weight"
def select_parameters(network, kind):
    nn = torch.nn
    layers = list(network.children())
    if kind == "norm":
        norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
        return [p for m in layers if isinstance(m, norms) for p in m.parameters()]
    if kind == "head":
        return list(layers[-1].parameters())
    if kind == "all":
        return list(network.parameters())
    raise ValueError(kind)


# %% the first linear layer task="select-answer" loses=["select-check", "select-edge"] says="leaves out 2.weight, 2.bias"
def select_parameters(network, kind):
    nn = torch.nn
    if kind == "norm":
        norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
        return [p for m in network.modules() if isinstance(m, norms) for p in m.parameters()]
    if kind == "head":
        return list(next(m for m in network.modules() if isinstance(m, nn.Linear)).parameters())
    if kind == "all":
        return list(network.parameters())
    raise ValueError(kind)


# %% names with the weights task="select-answer" loses=["select-check", "select-hidden", "select-edge"] says="named_parameters() gives pairs"
def select_parameters(network, kind):
    if kind == "norm":
        return [p for p in network.named_parameters() if "norm" in p[0]] or list(network.named_parameters())
    return list(network.named_parameters())


# %% whatever comes last task="select-answer" loses=["select-edge"] says="head: 2 parameters came"
def select_parameters(network, kind):
    nn = torch.nn
    if kind == "norm":
        norms = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)
        found = [p for m in network.modules() if isinstance(m, norms) for p in m.parameters()]
    elif kind == "head":
        found = list(network.parameters())[-2:]
    elif kind == "all":
        found = list(network.parameters())
    else:
        raise ValueError(kind)
    return list(dict.fromkeys(found))


# %% a copy that moves along task="episode-answer" loses=["episode-check", "episode-hidden", "episode-edge"] says="p.detach() is no copy"
def episode(network, optimizer, adapt, image):
    start = [p.detach() for p in network.parameters()]
    adapt()
    with torch.no_grad():
        answer = network(image)
        for p, old in zip(network.parameters(), start, strict=True):
            p.copy_(old)
    optimizer.state.clear()
    return answer


# %% momentum stays task="episode-answer" loses=["episode-check", "episode-hidden", "episode-edge"] says="leaves the optimizer's state"
def episode(network, optimizer, adapt, image):
    start = [p.detach().clone() for p in network.parameters()]
    try:
        adapt()
        with torch.no_grad():
            return network(image)
    finally:
        with torch.no_grad():
            for p, old in zip(network.parameters(), start, strict=True):
                p.copy_(old)


# %% new objects task="episode-answer" loses=["episode-check", "episode-hidden", "episode-edge"] says="replaces the parameters by new objects"
def episode(network, optimizer, adapt, image):
    start = {name: p.detach().clone() for name, p in network.named_parameters()}
    adapt()
    with torch.no_grad():
        answer = network(image)
    for name, old in start.items():
        owner, _, own = name.rpartition(".")
        setattr(network.get_submodule(owner), own, torch.nn.Parameter(old))
    optimizer.state.clear()
    return answer


# %% answers after the reset task="episode-answer" loses=["episode-check", "episode-hidden", "episode-edge"] says="the network was evaluated"
def episode(network, optimizer, adapt, image):
    start = [p.detach().clone() for p in network.parameters()]
    adapt()
    with torch.no_grad():
        for p, old in zip(network.parameters(), start, strict=True):
            p.copy_(old)
        optimizer.state.clear()
        return network(image)


# %% an error leaves all as it is task="episode-answer" loses=["episode-edge"] says="not restored to the last bit"
def episode(network, optimizer, adapt, image):
    start = [p.detach().clone() for p in network.parameters()]
    adapt()
    with torch.no_grad():
        answer = network(image)
        for p, old in zip(network.parameters(), start, strict=True):
            p.copy_(old)
    optimizer.state.clear()
    return answer


# %% velocity is kept task="momentum-answer" loses=["momentum-check", "momentum-hidden"] says="the velocity is not reset"
def sgd_with_resets(start, gradients, lr, momentum, period):
    v, found = torch.zeros_like(start), []
    for k, g in enumerate(gradients):
        if k % period == 0:
            w = start
        v = momentum * v + g
        w = w - lr * v
        found.append(w)
    return torch.stack(found)


# %% a running mean task="momentum-answer" loses=["momentum-check", "momentum-hidden"] says="multiplied by 1 - μ"
def sgd_with_resets(start, gradients, lr, momentum, period):
    found = []
    for k, g in enumerate(gradients):
        if k % period == 0:
            w, v = start, torch.zeros_like(start)
        v = momentum * v + (1 - momentum) * g
        w = w - lr * v
        found.append(w)
    return torch.stack(found)


# %% off by one task="momentum-answer" loses=["momentum-check", "momentum-hidden"] says="too early"
def sgd_with_resets(start, gradients, lr, momentum, period):
    w, v, found = start, torch.zeros_like(start), []
    for k, g in enumerate(gradients):
        if (k + 1) % period == 0:
            w, v = start, torch.zeros_like(start)
        v = momentum * v + g
        w = w - lr * v
        found.append(w)
    return torch.stack(found)


# %% single precision task="momentum-answer" loses=["momentum-hidden"] says="should return the weights as torch.float64"
def sgd_with_resets(start, gradients, lr, momentum, period):
    found = torch.zeros(gradients.shape)
    for k, g in enumerate(gradients):
        if k % period == 0:
            w, v = start, torch.zeros_like(start)
        v = momentum * v + g
        w = w - lr * v
        found[k] = w
    return found


# %% uphill task="descend-answer" loses=["descend-check", "descend-hidden"] says="uphill"
def descend_logits(loss, classes, steps, lr):
    y = torch.zeros(1, classes)
    for _ in range(steps):
        y.requires_grad_()
        y = (y + lr * torch.autograd.grad(loss(y), y)[0]).detach()
    return y


# %% gradients that add up task="descend-answer" loses=["descend-check", "descend-hidden"] says="gradients add up"
def descend_logits(loss, classes, steps, lr):
    y = torch.zeros(1, classes, requires_grad=True)
    for _ in range(steps):
        loss(y).backward()
        with torch.no_grad():
            y -= lr * y.grad
    return y.detach()


# %% one step too few task="descend-answer" loses=["descend-check", "descend-hidden"] says="one step too few"
def descend_logits(loss, classes, steps, lr):
    y = torch.zeros(1, classes)
    for _ in range(1, steps):
        y.requires_grad_()
        y = (y - lr * torch.autograd.grad(loss(y), y)[0]).detach()
    return y


# %% asks for the loss once more to report it task="descend-answer" loses=["descend-hidden"] says="called once in each step"
def descend_logits(loss, classes, steps, lr):
    y = torch.zeros(1, classes)
    for _ in range(steps):
        y.requires_grad_()
        y = (y - lr * torch.autograd.grad(loss(y), y)[0]).detach()
    loss(y)
    return y


# %% mean of the logits task="ensemble-answer" loses=["ensemble-check", "ensemble-hidden"] says="the logits were averaged"
def ensemble_logits(a, b):
    return ((a + b) / 2).log_softmax(1)


# %% no logarithm task="ensemble-answer" loses=["ensemble-check", "ensemble-hidden"] says="this is p"
def ensemble_logits(a, b):
    return (a.softmax(1) + b.softmax(1)) / 2


# %% the half forgotten task="ensemble-answer" loses=["ensemble-check", "ensemble-hidden"] says="the ½ is missing"
def ensemble_logits(a, b):
    return torch.logaddexp(a.log_softmax(1), b.log_softmax(1))


# %% a logarithm of zero task="ensemble-answer" loses=["ensemble-hidden"] says="-inf"
def ensemble_logits(a, b):
    return ((a.softmax(1) + b.softmax(1)) / 2).log()


# %% the shares exchanged task="pull-answer" loses=["pull-check", "pull-hidden"] says="ρ and 1 - ρ are swapped"
def shrink_to_start(start, updates, rho):
    w, found = start, []
    for u in updates:
        w = rho * (w + u) + (1 - rho) * start
        found.append(w)
    return torch.stack(found)


# %% towards zero task="pull-answer" loses=["pull-check", "pull-hidden"] says="shrunk towards zero"
def shrink_to_start(start, updates, rho):
    w, found = start, []
    for u in updates:
        w = (1 - rho) * (w + u)
        found.append(w)
    return torch.stack(found)


# %% in place task="pull-answer" loses=["pull-check", "pull-hidden"] says="in place"
def shrink_to_start(start, updates, rho):
    w, found = start, []
    for u in updates:
        w += u
        w += rho * (start - w)
        found.append(w.clone())
    return torch.stack(found)


# %% a formula that divides by the share task="pull-answer" loses=["pull-hidden"] says="nan results from 0/0"
def shrink_to_start(start, updates, rho):
    keep = 1 - rho
    powers = keep ** torch.arange(len(updates) + 1, dtype=start.dtype)
    total = torch.stack([u / p for u, p in zip(updates, powers[:-1], strict=True)]).cumsum(0)
    return start + torch.stack([p * t for p, t in zip(powers[1:], total, strict=True)])

# Plausible wrong answers to assignment 3. The format: book/authoring.md.

# %% old gradients count task="step-answer" loses=["step-check", "step-hidden", "step-edge"] says="zero_grad before backward"
def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):
    B = len(t)
    condition = network(x).softmax(1) @ embeddings
    mean = loss(z0.expand(B, -1, -1, -1), t, noise, condition.expand(B, -1)).mean()
    mean.backward()
    optimizer.step()
    return mean.detach()


# %% mixes the logits task="step-answer" loses=["step-check", "step-hidden", "step-edge"] says="their softmax is the belief"
def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):
    B = len(t)
    condition = network(x) @ embeddings
    mean = loss(z0.expand(B, -1, -1, -1), t, noise, condition.expand(B, -1)).mean()
    optimizer.zero_grad()
    mean.backward()
    optimizer.step()
    return mean.detach()


# %% never steps task="step-answer" loses=["step-check", "step-hidden", "step-edge"] says="not changed at all"
def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):
    B = len(t)
    condition = network(x).softmax(1) @ embeddings
    mean = loss(z0.expand(B, -1, -1, -1), t, noise, condition.expand(B, -1)).mean()
    optimizer.zero_grad()
    mean.backward()
    return mean.detach()


# %% a step of its own, not the optimizer's task="step-answer" loses=["step-hidden"] says="otherwise than one step"
def adapt_step(network, loss, embeddings, optimizer, x, z0, t, noise):
    B = len(t)
    condition = network(x).softmax(1) @ embeddings
    mean = loss(z0.expand(B, -1, -1, -1), t, noise, condition.expand(B, -1)).mean()
    weights = list(network.parameters())
    for p, g in zip(weights, torch.autograd.grad(mean, weights), strict=True):
        p.data -= optimizer.param_groups[0]["lr"] * g
    return mean.detach()


# %% kept without clone task="restore-answer" loses=["restore-check", "restore-hidden"] says="kept without `clone`"
def adapt_and_restore(network, step, steps, x):
    kept = [p.detach() for p in network.parameters()]
    try:
        for _ in range(steps):
            step()
        with torch.no_grad():
            return network(x)
    finally:
        with torch.no_grad():
            for p, old in zip(network.parameters(), kept, strict=True):
                p.copy_(old)


# %% restores before it asks task="restore-answer" loses=["restore-check", "restore-hidden"] says="before the network was evaluated"
def adapt_and_restore(network, step, steps, x):
    kept = {name: p.clone() for name, p in network.state_dict().items()}
    try:
        for _ in range(steps):
            step()
    finally:
        network.load_state_dict(kept)
    with torch.no_grad():
        return network(x)


# %% restores only if all goes well task="restore-answer" loses=["restore-hidden"] says="when a step raises an error"
def adapt_and_restore(network, step, steps, x):
    kept = {name: p.clone() for name, p in network.state_dict().items()}
    for _ in range(steps):
        step()
    with torch.no_grad():
        answer = network(x)
    network.load_state_dict(kept)
    return answer


# %% moves all weights task="tent-answer" loses=["tent-check", "tent-hidden", "tent-edge"] says="all parameters changed"
def tent_step(network, x, lr):
    weights = list(network.parameters())
    log_y = network(x).log_softmax(1)
    entropy = -(log_y.exp() * log_y).sum(1).mean()
    for p, g in zip(weights, torch.autograd.grad(entropy, weights), strict=True):
        p.data -= lr * g
    return entropy.detach()


# %% softmax over the images task="tent-answer" loses=["tent-check", "tent-hidden", "tent-edge"] says="runs over the images"
def tent_step(network, x, lr):
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    weights = [p for layer in network.modules() if isinstance(layer, norms) for p in layer.parameters()]
    log_y = network(x).log_softmax(0)
    entropy = -(log_y.exp() * log_y).sum(0).mean()
    for p, g in zip(weights, torch.autograd.grad(entropy, weights), strict=True):
        p.data -= lr * g
    return entropy.detach()


# %% only layer norms task="tent-answer" loses=["tent-hidden", "tent-edge"] says="stopped with"
def tent_step(network, x, lr):
    weights = [p for layer in network.modules() if isinstance(layer, torch.nn.LayerNorm)
               for p in (layer.weight, layer.bias)]  # fmt: skip
    log_y = network(x).log_softmax(1)
    entropy = -(log_y.exp() * log_y).sum(1).mean()
    for p, g in zip(weights, torch.autograd.grad(entropy, weights), strict=True):
        p.data -= lr * g
    return entropy.detach()


# %% the sign task="entropy-answer" loses=["entropy-check", "entropy-hidden"] says="the sign is the wrong way round"
def entropy_gradient(logits):
    log_y = logits.log_softmax(1)
    H = -(log_y.exp() * log_y).sum(1, keepdim=True)
    return log_y.exp() * (log_y + H)


# %% forgot H task="entropy-answer" loses=["entropy-check", "entropy-hidden"] says="H is missing"
def entropy_gradient(logits):
    log_y = logits.log_softmax(1)
    return -log_y.exp() * log_y


# %% zero times minus infinity task="entropy-answer" loses=["entropy-hidden"] says="nan results from 0/0"
def entropy_gradient(logits):
    y = logits.softmax(1)
    H = -(y * y.log()).sum(1, keepdim=True)
    return -y * (y.log() + H)


# %% not paired task="interval-answer" loses=["interval-check", "interval-hidden"] says="not paired"
def paired_interval(before, after, draws, level):
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2])
    b, a = (scores.float()[draws].mean(1).quantile(ends) for scores in (before, after))
    return torch.stack([a[0] - b[1], a[1] - b[0]])


# %% all of the rest at each side task="interval-answer" loses=["interval-check", "interval-hidden"] says="it must be half of that"
def paired_interval(before, after, draws, level):
    gains = (after.float() - before.float())[draws].mean(1)
    return gains.quantile(torch.tensor([1 - level, level]))


# %% scores must be floating numbers task="interval-answer" loses=["interval-hidden"] says="two bool tensors"
def paired_interval(before, after, draws, level):
    gains = (after - before)[draws].mean(1)
    return gains.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]))


# %% the bug as it was task="bug-answer" loses=["bug-check", "bug-hidden"] says="not reset between images"
def evaluate_episodic(network, adapt, images, labels):
    start = network.state_dict()
    rows = []
    for x, label in zip(images, labels, strict=True):
        before = network(x[None]).argmax() == label
        adapt(network, x[None])
        after = network(x[None]).argmax() == label
        network.load_state_dict(start)
        rows.append(torch.stack([before, after]))
    return torch.stack(rows)


# %% keeps parameters but no buffers task="bug-answer" loses=["bug-hidden"] says="leaves the network adapted"
def evaluate_episodic(network, adapt, images, labels):
    start = [p.detach().clone() for p in network.parameters()]
    rows = []
    for x, label in zip(images, labels, strict=True):
        before = network(x[None]).argmax() == label
        adapt(network, x[None])
        after = network(x[None]).argmax() == label
        with torch.no_grad():
            for p, old in zip(network.parameters(), start, strict=True):
                p.copy_(old)
        rows.append(torch.stack([before, after]))
    return torch.stack(rows)


# %% evaluated after the reset task="bug-answer" loses=["bug-check", "bug-hidden"] says="evaluated after the reset"
def evaluate_episodic(network, adapt, images, labels):
    start = copy.deepcopy(network.state_dict())
    rows = []
    for x, label in zip(images, labels, strict=True):
        before = network(x[None]).argmax() == label
        adapt(network, x[None])
        network.load_state_dict(start)
        after = network(x[None]).argmax() == label
        rows.append(torch.stack([before, after]))
    return torch.stack(rows)

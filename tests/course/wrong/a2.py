# Plausible wrong answers to assignment 2. The format: book/authoring.md.

# %% mixes the logits task="mix-answer" loses=["mix-check", "mix-hidden"] says="their softmax is the belief"
def mix_classes(logits, embeddings):
    return torch.tensordot(logits.float(), embeddings.float(), dims=1)


# %% softmax over the images task="mix-answer" loses=["mix-check", "mix-hidden"] says="runs over the images"
def mix_classes(logits, embeddings):
    return torch.tensordot(logits.float().softmax(0), embeddings.float(), dims=1)


# %% exponentials that overflow task="mix-answer" loses=["mix-hidden"] says="nan results from 0/0"
def mix_classes(logits, embeddings):
    e = logits.float().exp()
    return torch.tensordot(e / e.sum(1, keepdim=True), embeddings.float(), dims=1)


# %% only vectors task="mix-answer" loses=["mix-hidden"] says="stopped with RuntimeError"
def mix_classes(logits, embeddings):
    return torch.einsum("nl,ld->nd", logits.float().softmax(1), embeddings.float())


# %% slope of one class alone task="gradient-answer" loses=["gradient-check", "gradient-hidden", "gradient-edge"] says="the softmax couples all classes"
def mixture_gradient(logits, embeddings, c_grad):
    y = logits.softmax(1)
    return y * (1 - y) * (c_grad @ embeddings.T)


# %% forgot the mean task="gradient-answer" loses=["gradient-check", "gradient-hidden", "gradient-edge"] says="the sum over k is missing"
def mixture_gradient(logits, embeddings, c_grad):
    return logits.softmax(1) * (c_grad @ embeddings.T)


# %% by autograd task="gradient-answer" loses=["gradient-check", "gradient-hidden", "gradient-edge"] says="stopped with RuntimeError"
def mixture_gradient(logits, embeddings, c_grad):
    leaf = logits.detach().clone().requires_grad_()
    return torch.autograd.grad((leaf.softmax(1) @ embeddings * c_grad).sum(), leaf)[0]


# %% softmax by hand task="gradient-answer" loses=["gradient-edge"] says="nan results from 0/0"
def mixture_gradient(logits, embeddings, c_grad):
    y = logits.exp() / logits.exp().sum(1, keepdim=True)
    score = c_grad @ embeddings.T
    return y * (score - (y * score).sum(1, keepdim=True))


# %% softmax over the columns task="pixels-answer" loses=["pixels-check", "pixels-hidden"] says="runs over the columns"
def mix_pixels(logits, embeddings):
    return torch.einsum("nlhw,ld->ndhw", logits.float().softmax(-1), embeddings.float())


# %% reshapes the map task="pixels-answer" loses=["pixels-check", "pixels-hidden"] says="reshape does not move an axis"
def mix_pixels(logits, embeddings):
    N, _, H, W = logits.shape
    mixed = logits.float().softmax(1).permute(0, 2, 3, 1) @ embeddings.float()
    return mixed.reshape(N, -1, H, W)


# %% leaves the channels last task="pixels-answer" loses=["pixels-check", "pixels-hidden"] says="two axes are swapped"
def mix_pixels(logits, embeddings):
    return logits.float().softmax(1).permute(0, 2, 3, 1) @ embeddings.float()


# %% stays in half precision task="pixels-answer" loses=["pixels-hidden"] says="as torch.float32"
def mix_pixels(logits, embeddings):
    return (logits.softmax(1).movedim(1, -1) @ embeddings).movedim(-1, 1)


# %% no clamp task="depth-answer" loses=["depth-check", "depth-hidden"] says="not clamped"
def depth_condition(depth, near, far):
    if depth.ndim == 3:
        depth = depth.unsqueeze(1)
    return 2 * (depth - near) / (far - near) - 1


# %% from 0 to 1 task="depth-answer" loses=["depth-check", "depth-hidden"] says="from 0 to 1"
def depth_condition(depth, near, far):
    if depth.ndim == 3:
        depth = depth.unsqueeze(1)
    return (depth.clamp(near, far) - near) / (far - near)


# %% always one more axis task="depth-answer" loses=["depth-hidden"] says="an axis of length 1 too many"
def depth_condition(depth, near, far):
    return 2 * (depth.clamp(near, far).unsqueeze(1) - near) / (far - near) - 1


# %% all at once task="parts-answer" loses=["parts-check", "parts-hidden", "parts-edge"] says="at most size"
def gradient_in_parts(loss, c, t, noise, size):
    leaf = c.detach().requires_grad_()
    loss(t, noise, leaf.expand(len(t), *c.shape[1:])).mean().backward()
    return leaf.grad


# %% adds the means of the parts task="parts-answer" loses=["parts-check", "parts-hidden", "parts-edge"] says="divide by B"
def gradient_in_parts(loss, c, t, noise, size):
    leaf = c.detach().requires_grad_()
    for k in range(0, len(t), size):
        part = slice(k, k + size)
        loss(t[part], noise[part], leaf.expand(len(t[part]), *c.shape[1:])).mean().backward()
    return leaf.grad


# %% mean of means task="parts-answer" loses=["parts-hidden"] says="gives other numbers"
def gradient_in_parts(loss, c, t, noise, size):
    leaf = c.detach().requires_grad_()
    parts = list(zip(t.split(size), noise.split(size), strict=True))
    for t_part, noise_part in parts:
        losses = loss(t_part, noise_part, leaf.expand(len(t_part), *c.shape[1:]))
        (losses.mean() / len(parts)).backward()
    return leaf.grad


# %% drops the last part task="parts-answer" loses=["parts-hidden", "parts-edge"] says="gives other numbers"
def gradient_in_parts(loss, c, t, noise, size):
    leaf = c.detach().requires_grad_()
    for k in range(0, len(t) - size + 1, size):
        losses = loss(t[k : k + size], noise[k : k + size], leaf.expand(size, *c.shape[1:]))
        (losses.sum() / len(t)).backward()
    return leaf.grad


# %% not rescaled task="top-answer" loses=["top-check", "top-hidden", "top-edge"] says="do not add up to 1"
def mix_top_classes(logits, embeddings, k):
    y, chosen = logits.float().softmax(1).topk(min(k, logits.shape[1]), dim=1)
    return torch.einsum("nk,nkd->nd", y, embeddings[chosen])


# %% k above the number of classes task="top-answer" loses=["top-edge"] says="RuntimeError"
def mix_top_classes(logits, embeddings, k):
    largest, chosen = logits.float().topk(k, dim=1)
    return torch.einsum("nk,nkd->nd", largest.softmax(1), embeddings[chosen])


# %% cut off from the gradient task="top-answer" loses=["top-check", "top-hidden", "top-edge"] says="without a gradient"
def mix_top_classes(logits, embeddings, k):
    largest, chosen = logits.detach().float().topk(min(k, logits.shape[1]), dim=1)
    return torch.einsum("nk,nkd->nd", largest.softmax(1), embeddings[chosen])

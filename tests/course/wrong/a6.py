# Plausible wrong answers to assignment 6. The format: book/authoring.md.

# %% forgot the exponential task="logits-answer" loses=["logits-check", "logits-hidden"] says="multiply by e^τ"
def clip_logits(image, text, tau):
    image = image / image.norm(dim=1, keepdim=True)
    text = text / text.norm(dim=1, keepdim=True)
    return tau * image @ text.T


# %% no unit vectors task="logits-answer" loses=["logits-check", "logits-hidden"] says="neither of the two"
def clip_logits(image, text, tau):
    return tau.exp() * image @ text.T


# %% one norm for the whole matrix task="logits-answer" loses=["logits-check", "logits-hidden"] says="the norm of the whole matrix"
def clip_logits(image, text, tau):
    return tau.exp() * (image / image.norm()) @ (text / text.norm()).T


# %% a single image loses its axis task="logits-answer" loses=["logits-hidden"] says="returned shape (4,)"
def clip_logits(image, text, tau):
    image = image / image.norm(dim=1, keepdim=True)
    text = text / text.norm(dim=1, keepdim=True)
    return (tau.exp() * image @ text.T).squeeze()


# %% mean of vectors of any length task="templates-answer" loses=["templates-check", "templates-hidden"] says="the long ones count more"
def name_vectors(vectors):
    return torch.nn.functional.normalize(vectors.mean(0), dim=1)


# %% not a unit vector again task="templates-answer" loses=["templates-check", "templates-hidden"] says="make it a unit vector again"
def name_vectors(vectors):
    return (vectors / vectors.norm(dim=2, keepdim=True)).mean(0)


# %% the default axis of normalize task="templates-answer" loses=["templates-check", "templates-hidden"] says="along the names"
def name_vectors(vectors):
    unit = torch.nn.functional.normalize(vectors)
    return torch.nn.functional.normalize(unit.mean(0), dim=1)


# %% a mean over everything but the last axis where there is one template task="templates-answer" loses=["templates-hidden"] says="IndexError"
def name_vectors(vectors):
    unit = torch.nn.functional.normalize(vectors.squeeze(), dim=-1)
    return torch.nn.functional.normalize(unit.mean(0), dim=1)


# %% softmax over the batch task="tokens-answer" loses=["tokens-check", "tokens-hidden", "tokens-edge"] says="softmax over the images"
def token_mixture(logits, embeddings):
    return torch.einsum("nl,ltd->ntd", logits.float().softmax(0), embeddings.float())


# %% the likeliest name alone task="tokens-answer" loses=["tokens-check", "tokens-hidden", "tokens-edge"] says="only the likeliest name"
def token_mixture(logits, embeddings):
    return embeddings.float()[logits.argmax(1)]


# %% cut off from the gradient task="tokens-answer" loses=["tokens-check", "tokens-hidden"] says="without a gradient"
def token_mixture(logits, embeddings):
    y = logits.detach().float().softmax(1)
    return torch.einsum("nl,ltd->ntd", y, embeddings.float())


# %% exponentials that overflow task="tokens-answer" loses=["tokens-edge"] says="nan results from 0/0"
def token_mixture(logits, embeddings):
    e = logits.float().exp()
    return torch.einsum("nl,ltd->ntd", e / e.sum(1, keepdim=True), embeddings.float())


# %% without its factor task="forward-answer" loses=["forward-check", "forward-hidden"] says="factor α/r is missing"
def lora_output(x, W, A, B, alpha):
    return x @ W.detach().T + x @ A.T @ B.T


# %% W learns too task="forward-answer" loses=["forward-check", "forward-hidden"] says="lets a gradient reach W"
def lora_output(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) * (x @ A.T @ B.T)


# %% alpha over the wrong side task="forward-answer" loses=["forward-check", "forward-hidden"] says="another side than the rank"
def lora_output(x, W, A, B, alpha):
    return x @ W.detach().T + alpha / A.shape[1] * (x @ A.T @ B.T)


# %% only for three axes task="forward-answer" loses=["forward-hidden"] says="RuntimeError"
def lora_output(x, W, A, B, alpha):
    BA = alpha / len(A) * B @ A
    return torch.einsum("oi,nti->nto", W.detach() + BA, x)


# %% both random task="start-answer" loses=["start-check", "start-hidden"] says="does not start from B = 0"
def initial_lora(in_features, out_features, rank, generator):
    if not isinstance(rank, int) or not 1 <= rank <= min(in_features, out_features):
        raise ValueError("another rank")
    A = torch.randn(rank, in_features, generator=generator) / in_features**0.5
    B = torch.randn(out_features, rank, generator=generator)
    return A.requires_grad_(), B.requires_grad_()


# %% no leaf task="start-answer" loses=["start-check", "start-hidden"] says="as the result of a computation"
def initial_lora(in_features, out_features, rank, generator):
    if not isinstance(rank, int) or not 1 <= rank <= min(in_features, out_features):
        raise ValueError("another rank")
    A = torch.randn(rank, in_features, generator=generator, requires_grad=True) / in_features**0.5
    return A, torch.zeros(out_features, rank, requires_grad=True)


# %% divided without the root task="start-answer" loses=["start-check", "start-hidden"] says="square root of in_features"
def initial_lora(in_features, out_features, rank, generator):
    if not isinstance(rank, int) or not 1 <= rank <= min(in_features, out_features):
        raise ValueError("another rank")
    A = torch.randn(rank, in_features, generator=generator) / in_features
    return A.requires_grad_(), torch.zeros(out_features, rank, requires_grad=True)


# %% any rank from one on task="start-answer" loses=["start-hidden"] says="rank 5 for 9 in and 4 out"
def initial_lora(in_features, out_features, rank, generator):
    if rank < 1:
        raise ValueError("a rank below 1")
    A = torch.randn(rank, in_features, generator=generator) / in_features**0.5
    return A.requires_grad_(), torch.zeros(out_features, rank, requires_grad=True)


# %% without its factor task="merge-answer" loses=["merge-check", "merge-hidden"] says="factor α/r is missing"
def merged_weight(W, A, B, alpha):
    return (W + B @ A).detach().to(W.dtype)


# %% added to the caller's weight task="merge-answer" loses=["merge-check", "merge-hidden"] says="in place"
def merged_weight(W, A, B, alpha):
    W = W.detach()
    W += (alpha / len(A) * B @ A).detach()
    return W


# %% goes on learning task="merge-answer" loses=["merge-check"] says="returns W' with a gradient"
def merged_weight(W, A, B, alpha):
    return (W + alpha / len(A) * B @ A).to(W.dtype)


# %% the update is rounded before it is added task="merge-answer" loses=["merge-hidden"] says="gives other numbers than expected for W'"
def merged_weight(W, A, B, alpha):
    BA = (alpha / len(A) * B @ A).detach()
    return W.detach() + BA.to(W.dtype)

# Plausible wrong answers to assignment 1. The format: book/authoring.md.

# %% forgot both square roots task="forward-answer" loses=["forward-check", "forward-hidden"] says="square root of ᾱ_t is missing"
def forward_process(z0, alpha_bar_t, noise):
    a = alpha_bar_t.view(-1, *[1] * (z0.ndim - 1))
    return a * z0 + (1 - a) * noise


# %% one minus the root, not the root of one minus task="forward-answer" loses=["forward-check", "forward-hidden"] says="in the wrong order"
def forward_process(z0, alpha_bar_t, noise):
    a = alpha_bar_t.sqrt().view(-1, *[1] * (z0.ndim - 1))
    return a * z0 + (1 - a) * noise


# %% only for images of four axes task="forward-answer" loses=["forward-hidden"] says="returned shape (4, 1, 1, 4)"
def forward_process(z0, alpha_bar_t, noise):
    a = alpha_bar_t[:, None, None, None]
    return a.sqrt() * z0 + (1 - a).sqrt() * noise


# %% changes the image of the caller task="forward-answer" loses=["forward-check", "forward-hidden"] says="in place"
def forward_process(z0, alpha_bar_t, noise):
    a = alpha_bar_t.view(-1, *[1] * (z0.ndim - 1))
    z0 *= a.sqrt()
    z0 += (1 - a).sqrt() * noise
    return z0


# %% product of the betas task="schedule-answer" loses=["schedule-check", "schedule-hidden"] says="product of the β"
def linear_schedule(T, first, last):
    return torch.linspace(first, last, T).cumprod(0)


# %% product that ends one earlier task="schedule-answer" loses=["schedule-check", "schedule-hidden"] says="ends one earlier"
def linear_schedule(T, first, last):
    kept = [1.0]
    for beta in torch.linspace(first, last, T)[:-1]:
        kept.append(kept[-1] * (1 - beta.item()))
    return torch.tensor(kept)


# %% steps by hand which fail for one step task="schedule-answer" loses=["schedule-hidden"] says="ZeroDivisionError"
def linear_schedule(T, first, last):
    beta = first + (last - first) / (T - 1) * torch.arange(T)
    return (1 - beta).cumprod(0)


# %% one loss for the whole batch task="loss-answer" loses=["loss-check", "loss-hidden"] says="mean or sum over everything"
def loss_per_sample(guess, noise):
    return (guess - noise).square().mean()


# %% cut off from the gradient task="loss-answer" loses=["loss-check", "loss-hidden"] says="without a gradient"
def loss_per_sample(guess, noise):
    return (guess.float() - noise.float()).detach().square().flatten(1).mean(1)


# %% squares in half precision task="loss-answer" loses=["loss-hidden"] says="should return the loss of each sample as torch.float32"
def loss_per_sample(guess, noise):
    return (guess - noise).square().flatten(1).mean(1)


# %% off by one timestep task="timestep-answer" loses=["timestep-check", "timestep-hidden", "timestep-edge"] says="off by one"
def loss_by_timestep(predict, z0, alpha_bar, timesteps, noise):
    losses = []
    for t in timesteps:
        a = alpha_bar[t - 1]
        guess = predict(a.sqrt() * z0 + (1 - a).sqrt() * noise, torch.full((len(noise),), t))
        losses.append((guess - noise).square().mean())
    return torch.stack(losses)


# %% only the first draw task="timestep-answer" loses=["timestep-check", "timestep-hidden"] says="first draw"
def loss_by_timestep(predict, z0, alpha_bar, timesteps, noise):
    losses = []
    for t in timesteps:
        a = alpha_bar[t]
        guess = predict(a.sqrt() * z0 + (1 - a).sqrt() * noise, torch.full((len(noise),), t))
        losses.append((guess[0] - noise[0]).square().mean())
    return torch.stack(losses)


# %% timesteps sorted and each only once task="timestep-answer" loses=["timestep-hidden", "timestep-edge"] says="gives other numbers than expected"
def loss_by_timestep(predict, z0, alpha_bar, timesteps, noise):
    losses = []
    for t in sorted(set(timesteps)):
        a = alpha_bar[t]
        guess = predict(a.sqrt() * z0 + (1 - a).sqrt() * noise, torch.full((len(noise),), t))
        losses.append((guess - noise).square().mean())
    return torch.stack(losses)


# %% the worst class first task="rank-answer" loses=["rank-check", "rank-hidden", "rank-edge"] says="largest loss comes first"
def rank_classes(loss, z0, embeddings, t, noise):
    B = len(t)
    means = [loss(z0.expand(B, -1, -1, -1), t, noise, e.expand(B, *e.shape)).mean() for e in embeddings]
    return torch.stack(means).argsort(descending=True)


# %% fresh noise for each class task="rank-answer" loses=["rank-check", "rank-hidden", "rank-edge"] says="other pairs"
def rank_classes(loss, z0, embeddings, t, noise):
    B, g = len(t), torch.Generator().manual_seed(0)
    means = []
    for e in embeddings:
        fresh = torch.randn(noise.shape, generator=g)
        means.append(loss(z0.expand(B, -1, -1, -1), t, fresh, e.expand(B, *e.shape)).mean())
    return torch.stack(means).argsort()


# %% embeddings that must be vectors task="rank-answer" loses=["rank-edge"] says="ValueError"
def rank_classes(loss, z0, embeddings, t, noise):
    B, (L, D) = len(t), embeddings.shape
    means = [loss(z0.expand(B, -1, -1, -1), t, noise, embeddings[j].expand(B, D)).mean() for j in range(L)]
    return torch.stack(means).argsort()

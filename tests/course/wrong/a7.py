# Plausible wrong answers to assignment 7. The format: book/authoring.md.

# %% uniform after all task="stratified-answer" loses=["stratified-check", "stratified-hidden"] says="this is uniform sampling"
def stratified_times(u, T):
    return (u * T).long()


# %% parts that overlap task="stratified-answer" loses=["stratified-check", "stratified-hidden"] says="the parts overlap"
def stratified_times(u, T):
    B = u.shape[1]
    return ((torch.arange(B) / B + u) * T).long().clamp(max=T - 1)


# %% not whole task="stratified-answer" loses=["stratified-check", "stratified-hidden"] says="whole numbers"
def stratified_times(u, T):
    B = u.shape[1]
    return ((torch.arange(B) + u) / B * T).floor().clamp(max=T - 1)


# %% leaves the range by rounding task="stratified-answer" loses=["stratified-hidden"] says="a timestep leaves 0 to T - 1"
def stratified_times(u, T):
    B = u.shape[1]
    return ((torch.arange(B) + u) / B * T).long()


# %% mirror off by one task="antithetic-answer" loses=["antithetic-check", "antithetic-hidden"] says="the mirror is off by one"
def antithetic_times(u, T):
    B = u.shape[1]
    t = (u[:, : (B + 1) // 2] * T).long()
    return torch.cat([t, T - t], dim=1)[:, :B]


# %% partners side by side task="antithetic-answer" loses=["antithetic-check", "antithetic-hidden"] says="each partner follows its t"
def antithetic_times(u, T):
    B = u.shape[1]
    t = (u[:, : (B + 1) // 2] * T).long()
    return torch.stack([t, T - 1 - t], dim=2).flatten(1)[:, :B]


# %% cut along the images task="antithetic-answer" loses=["antithetic-check", "antithetic-hidden"] says="should return t of shape (2, 4)"
def antithetic_times(u, T):
    B = len(u)
    t = (u[: (B + 1) // 2] * T).long()
    return torch.cat([t, T - 1 - t], dim=1)


# %% only even numbers of pairs task="antithetic-answer" loses=["antithetic-hidden"] says="should return t of shape (2, 5)"
def antithetic_times(u, T):
    t = (u[:, : u.shape[1] // 2] * T).long()
    return torch.cat([t, T - 1 - t], dim=1)


# %% upside down task="importance-answer" loses=["importance-check", "importance-hidden", "importance-edge"] says="upside down"
def importance_weights(q, t, T):
    part = ((t + 0.5) / T * len(q)).long()
    return (q / q.mean())[part]


# %% without the mean task="importance-answer" loses=["importance-check", "importance-hidden", "importance-edge"] says="the mean of q is missing"
def importance_weights(q, t, T):
    part = ((t + 0.5) / T * len(q)).long()
    return 1 / q[part]


# %% weights that add up to one task="importance-answer" loses=["importance-check", "importance-hidden", "importance-edge"] says="weights that add up to 1"
def importance_weights(q, t, T):
    w = 1 / q[((t + 0.5) / T * len(q)).long()]
    return w / w.sum()


# %% parts of whole length task="importance-answer" loses=["importance-hidden", "importance-edge"] says="IndexError"
def importance_weights(q, t, T):
    return (q.mean() / q)[t // (T // len(q))]


# %% without the root task="noise-answer" loses=["noise-check", "noise-hidden"] says="the square root is missing"
def gradient_noise(g):
    g = g.double()
    mean = g.mean(0)
    return (g - mean).square().sum(1).mean() / mean.square().sum()


# %% the library's standard deviation task="noise-answer" loses=["noise-check", "noise-hidden"] says="divided by S - 1"
def gradient_noise(g):
    g = g.double()
    return (g.var(0).sum() / g.mean(0).square().sum()).sqrt()


# %% over the mean square task="noise-answer" loses=["noise-check", "noise-hidden"] says="not by the square of their mean"
def gradient_noise(g):
    g = g.double()
    return ((g - g.mean(0)).square().sum(1).mean() / g.square().sum(1).mean()).sqrt()


# %% doubles too late task="noise-answer" loses=["noise-hidden"] says="nan results from 0/0"
def gradient_noise(g):
    mean = g.mean(0)  # tiny gradients come first: in float32 their squares are 0 on every processor
    return ((g - mean).square().sum(1).mean() / mean.square().sum()).sqrt().double()


# %% sums of blocks task="blocks-answer" loses=["blocks-check", "blocks-hidden"] says="the sum of each block"
def block_means(g, n):
    M, L = g.shape
    return g[: M // n * n].reshape(-1, n, L).sum(1)


# %% every second row task="blocks-answer" loses=["blocks-check", "blocks-hidden"] says="every second row"
def block_means(g, n):
    M, L = g.shape
    return g[: M // n * n].reshape(n, -1, L).mean(0)


# %% the rest makes a block task="blocks-answer" loses=["blocks-check", "blocks-hidden"] says="returned shape (3, 4)"
def block_means(g, n):
    return torch.stack([block.mean(0) for block in g.split(n)])


# %% a rest of nothing cuts everything task="blocks-answer" loses=["blocks-hidden"] says="returned shape (0, 2)"
def block_means(g, n):
    M, L = g.shape
    return g[: -(M % n)].reshape(-1, n, L).mean(1)


# %% multiplied by the ratio task="snr-answer" loses=["snr-check", "snr-hidden"] says="divide it by SNR"
def snr_weights(alpha_bar, t, m):
    ratio = (alpha_bar / (1 - alpha_bar)).clamp(max=m)
    return (ratio / ratio.mean())[t]


# %% without its cut-off task="snr-answer" loses=["snr-check", "snr-hidden"] says="the cut-off at m is missing"
def snr_weights(alpha_bar, t, m):
    weight = (1 - alpha_bar) / alpha_bar
    return (weight / weight.mean())[t]


# %% mean over what was drawn task="snr-answer" loses=["snr-check", "snr-hidden"] says="not over all T"
def snr_weights(alpha_bar, t, m):
    weight = (m * (1 - alpha_bar[t]) / alpha_bar[t]).clamp(max=1)
    return weight / weight.mean()


# %% the mean before the cut task="snr-answer" loses=["snr-check", "snr-hidden"] says="before the cut-off"
def snr_weights(alpha_bar, t, m):
    weight = m * (1 - alpha_bar) / alpha_bar
    return weight[t].clamp(max=1) / weight.mean()


# %% 0 over 0 without a signal task="snr-answer" loses=["snr-hidden"] says="nan results from 0/0"
def snr_weights(alpha_bar, t, m):
    ratio = alpha_bar / (1 - alpha_bar)
    weight = ratio.clamp(max=m) / ratio
    return (weight / weight.mean())[t]


# %% a guard that changes the ratio task="snr-answer" loses=["snr-hidden"] says="gives other numbers"
def snr_weights(alpha_bar, t, m):
    weight = (m * (1 - alpha_bar) / (alpha_bar + 1e-7)).clamp(max=1)
    return (weight / weight.mean())[t]

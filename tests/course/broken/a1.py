# Broken solutions of assignment 1: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "forward": [
        ("the noise's factor has no square root", "(1 - a).sqrt() * noise", "(1 - a) * noise", "both"),
        (
            "one noise level, the first image's, for all images",
            "alpha_bar_t.view(-1, *[1] * (z0.ndim - 1))",
            "alpha_bar_t[0]",
            "both",
        ),
        ("ᾱ lies along the last axis", "view(-1, *[1] * (z0.ndim - 1))", "view(*[1] * (z0.ndim - 1), -1)", "both"),
        (
            "double precision comes back as single",
            "return a.sqrt() * z0 +",
            "return a.float().sqrt() * z0.float() +",
            "hidden",
        ),
    ],
    "schedule": [
        (
            "β never reaches its last value",
            "torch.linspace(first, last, T)",
            "torch.linspace(first, last, T + 1)[:-1]",
            "both",
        ),
        ("β skips its first value", "torch.linspace(first, last, T)", "torch.linspace(first, last, T + 1)[1:]", "both"),
        ("1 minus the sum of β, not the product of 1 - β", "(1 - beta).cumprod(0)", "1 - beta.cumsum(0)", "both"),
        ("the square root of ᾱ", "(1 - beta).cumprod(0)", "(1 - beta).sqrt().cumprod(0)", "both"),
        (
            "β rises in equal steps of its root",
            "torch.linspace(first, last, T)",
            "torch.linspace(first**0.5, last**0.5, T) ** 2",
            "both",
        ),
    ],
    "loss": [
        ("a sum inside each sample, not a mean", "flatten(1).mean(1)", "flatten(1).sum(1)", "both"),
        ("the mean runs over samples, not inside them", "flatten(1).mean(1)", "flatten(1).mean(0)", "both"),
        ("sizes of errors, not squares", "square()", "abs()", "both"),
        (
            "the difference is taken in half precision",
            "(guess.float() - noise.float())",
            "(guess - noise).float()",
            "hidden",
        ),
        ("float64 comes back", "guess.float() - noise.float()", "guess.double() - noise.double()", "both"),
    ],
    "timestep": [
        (
            "the network is given the timestep before",
            "torch.full((len(noise),), t)",
            "torch.full((len(noise),), t - 1)",
            "both",
        ),
        (
            "ᾱ is read at the place in the list, not at the timestep",
            "alpha_bar[t].sqrt() * z0 + (1 - alpha_bar[t]).sqrt()",
            "alpha_bar[len(losses)].sqrt() * z0 + (1 - alpha_bar[len(losses)]).sqrt()",
            "both",
        ),
        ("the image was to be guessed, not the noise", "guess - noise", "guess - z0", "both"),
        (
            "one timestep for the batch, not one for each draw",
            "torch.full((len(noise),), t)",
            "torch.tensor([t])",
            "check",
        ),
        (
            "the timesteps are no whole numbers",
            "torch.full((len(noise),), t)",
            "torch.full((len(noise),), float(t))",
            "check",
        ),
    ],
    "rank": [
        ("the rank of each class, not the classes by rank", "argsort()", "argsort().argsort()", "both"),
        ("only the first pair counts", ".mean())", "[0])", "both"),
        ("the median over the pairs, not the mean", ".mean())", ".median())", "both"),
        ("noise and timesteps are paired in reverse", "t, noise, condition", "t.flip(0), noise, condition", "check"),
        ("the image is not repeated for each pair", "z0.expand(B, -1, -1, -1)", "z0", "check"),
    ],
}

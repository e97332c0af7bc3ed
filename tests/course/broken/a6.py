# Broken solutions of assignment 6: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "logits": [
        (
            "lengths are taken along the batch",
            "image.norm(dim=1, keepdim=True)",
            "image.norm(dim=0, keepdim=True)",
            "both",
        ),
        ("squared lengths", "text.norm(dim=1, keepdim=True)", "text.square().sum(1, keepdim=True)", "both"),
        ("the exponential of τ is missing", "tau.exp()", "tau", "both"),
        ("only the images become unit vectors", "text = text / text.norm(dim=1, keepdim=True)", "pass", "both"),
        ("double precision comes back as single", "image @ text.T", "image.float() @ text.float().T", "hidden"),
        ("the images are changed in place", "image = image / ", "image /= ", "both"),
    ],
    "templates": [
        ("unit vectors along the names", "normalize(vectors, dim=2)", "normalize(vectors, dim=1)", "both"),
        ("the mean is no unit vector", "torch.nn.functional.normalize(unit.mean(0), dim=1)", "unit.mean(0)", "both"),
        ("long vectors speak louder", "unit = torch.nn.functional.normalize(vectors, dim=2)", "unit = vectors", "both"),
        ("the median over the templates", "unit.mean(0)", "unit.median(0).values", "both"),
    ],
    "tokens": [
        ("softmax over the images", "softmax(1)", "softmax(0)", "both"),
        ("softmax in half precision", "logits.float().softmax(1)", "logits.softmax(1).float()", "hidden"),
        (
            "one vector for all tokens",
            "embeddings.float())",
            "embeddings.float().mean(1, keepdim=True).expand_as(embeddings))",
            "both",
        ),
        ("the belief is cut off from the gradient", "softmax(1)", "softmax(1).detach()", "both"),
    ],
    "forward": [
        ("α over the root of r", "alpha / len(A)", "alpha / len(A) ** 0.5", "both"),
        ("α over the number of outputs", "alpha / len(A)", "alpha / len(B)", "both"),
        ("missing detach: W gets a gradient", "W.detach()", "W", "both"),
        ("A gets no gradient", "A.T @", "A.detach().T @", "both"),
        ("W is frozen for whoever called", "W.detach().T", "W.requires_grad_(False).T", "both"),
    ],
    "start": [
        ("divided by the number of inputs, not by its root", "/ in_features**0.5", "/ in_features", "both"),
        ("divided by the root of the rank", "/ in_features**0.5", "/ rank**0.5", "both"),
        (
            "A requires its gradient before it is divided: no leaf",
            "generator=generator) / in_features**0.5\n    return A.requires_grad_()",
            "generator=generator, requires_grad=True) / in_features**0.5\n    return A",
            "both",
        ),
        ("a rank of 0 is let through", "not 1 <= rank", "not 0 <= rank", "both"),
        (
            "the rank may reach the larger side",
            "<= rank <= min(in_features, out_features):",
            "<= rank <= max(in_features, out_features):",
            "hidden",
        ),
        ("the generator is not used", "generator=generator", "generator=None", "both"),
        ("a rank of 1.5 is no ValueError", "not isinstance(rank, int) or ", "", "hidden"),
    ],
    "merge": [
        ("α over the root of r", "alpha / len(A)", "alpha / len(A) ** 0.5", "both"),
        ("α over the number of outputs", "alpha / len(A)", "alpha / len(B)", "both"),
        ("missing detach", ".detach()", "", "check"),
        (
            "the update is rounded before it is added",
            "alpha / len(A) * B @ A)",
            "(alpha / len(A) * B @ A).to(W.dtype))",
            "hidden",
        ),
        ("A and B are rounded before they are multiplied", "B @ A", "B.to(W.dtype) @ A.to(W.dtype)", "hidden"),
        ("float32 comes back", ".to(W.dtype)", "", "hidden"),
        ("double precision is added as single", "(W + alpha", "(W.float() + alpha", "hidden"),
        ("added to the caller's weight", "W + alpha / len(A) * B @ A", "W.data.add_(alpha / len(A) * B @ A)", "both"),
    ],
}

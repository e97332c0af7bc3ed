# Broken solutions of assignment 2: what is wrong, a piece of the solution, what takes its place, and who
# catches it. The format: tests/course/breaking.py.

BROKEN = {
    "mix": [
        ("softmax over the images", "softmax(1)", "softmax(0)", "both"),
        ("softmax in the logits' own dtype", "logits.float().softmax(1)", "logits.softmax(1).float()", "hidden"),
        (
            "exponentials that overflow",
            "logits.float().softmax(1)",
            "logits.float().exp() / logits.float().exp().sum(1, keepdim=True)",
            "hidden",
        ),
        ("the belief is cut off from the gradient", "softmax(1)", "softmax(1).detach()", "check"),
    ],
    "gradient": [
        (
            "the plain mean of the scores, not the mean under the belief",
            "(y * score).sum(1, keepdim=True)",
            "score.mean(1, keepdim=True)",
            "both",
        ),
        ("the belief in front is forgotten", "return y * (", "return (", "both"),
        ("the mean runs over images", "sum(1, keepdim=True)", "sum(0, keepdim=True)", "both"),
        ("softmax over the images", "softmax(1)", "softmax(0)", "both"),
        ("the belief in single precision", "logits.softmax(1)", "logits.float().softmax(1)", "hidden"),
    ],
    "pixels": [
        ("softmax along a row of pixels", "softmax(1)", "softmax(-1)", "both"),
        ("height and width are swapped", "->ndhw", "->ndwh", "both"),
        (
            "half precision: softmax first, float32 after",
            "logits.float().softmax(1)",
            "logits.softmax(1).float()",
            "hidden",
        ),
        ("embeddings are read by columns", "nlhw,ld", "nlhw,dl", "both"),
    ],
    "depth": [
        ("depths outside the range go beyond ±1", "depth.clamp(near, far) - near", "depth - near", "both"),
        ("nothing holds what is farther than far", "clamp(near, far)", "clamp(min=near)", "both"),
        ("the new axis is in front of the batch", "unsqueeze(1)", "unsqueeze(0)", "both"),
        ("the depth is clamped in place", "depth.clamp(", "depth.clamp_(", "both"),
        ("cut off from the gradient", "depth.clamp(near", "depth.detach().clamp(near", "check"),
    ],
    "parts": [
        ("each part's mean: parts add up to too much", "losses.sum() / len(t)", "losses.mean()", "both"),
        (
            "each part's mean over the number of parts: wrong if the last is smaller",
            "losses.sum() / len(t)",
            "losses.mean() / len(t.split(size))",
            "hidden",
        ),
        (
            "missing detach: the gradient goes into the caller's tensor",
            "c.detach().requires_grad_()",
            "c.requires_grad_()",
            "both",
        ),
        ("noise of the parts in reverse order", "noise.split(size)", "noise.flip(0).split(size)", "both"),
        (
            "each part begins anew",
            "(losses.sum() / len(t)).backward()",
            "leaf.grad = torch.autograd.grad(losses.sum() / len(t), leaf)[0]",
            "both",
        ),
        (
            "so many parts, not parts of that size",
            "t.split(size), noise.split(size)",
            "t.chunk(size), noise.chunk(size)",
            "both",
        ),
    ],
    "top": [
        ("every image takes the classes of the first", "[chosen]", "[chosen[:1].expand_as(chosen)]", "both"),
        ("one class too many", "topk(min(k, logits.shape[1])", "topk(min(k + 1, logits.shape[1])", "both"),
        ("the chosen classes count alike", "largest.softmax(1)", "(0 * largest).softmax(1)", "both"),
        ("probabilities of the batch", "largest.softmax(1)", "largest.softmax(0)", "both"),
    ],
}

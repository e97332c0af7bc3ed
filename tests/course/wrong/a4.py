# Plausible wrong answers to assignment 4. The format: book/authoring.md.

# %% no doubt task="doubt-answer" loses=["doubt-check", "doubt-hidden", "doubt-edge"] says="the uncertainty is missing"
def uncertain_map(labels, embeddings, doubt):
    return torch.cat([embeddings, embeddings.mean(0)[None]])[labels].movedim(-1, 1)


# %% the last class for -1 task="doubt-answer" loses=["doubt-check", "doubt-hidden"] says="looked up the last class"
def uncertain_map(labels, embeddings, doubt):
    return ((1 - doubt) * embeddings[labels] + doubt * embeddings.mean(0)).movedim(-1, 1)


# %% reshapes the map task="doubt-answer" loses=["doubt-check", "doubt-hidden", "doubt-edge"] says="reshape does not move an axis"
def uncertain_map(labels, embeddings, doubt):
    N, H, W = labels.shape
    mean = embeddings.mean(0)
    sure = torch.cat([embeddings, mean[None]])[labels]
    return ((1 - doubt) * sure + doubt * mean).reshape(N, -1, H, W)


# %% beliefs by a logarithm, which fails without doubt task="doubt-answer" loses=["doubt-edge"] says="nan results from 0/0"
def uncertain_map(labels, embeddings, doubt):
    L = len(embeddings)
    sureness = torch.tensor(1 - doubt + doubt / L).log() - torch.tensor(doubt / L).log()
    belief = torch.cat([sureness * torch.eye(L), torch.zeros(1, L)]).softmax(1)
    return (belief @ embeddings)[labels].movedim(-1, 1)


# %% rows for columns task="confusion-answer" loses=["confusion-check", "confusion-hidden"] says="rows and columns are swapped"
def confusion_matrix(predicted, true, L):
    there = true >= 0
    return torch.bincount(L * predicted[there] + true[there], minlength=L * L).view(L, L)


# %% counts each place once task="confusion-answer" loses=["confusion-check", "confusion-hidden"] says="counts a repeated place once"
def confusion_matrix(predicted, true, L):
    table = torch.zeros(L, L, dtype=torch.int64)
    there = true >= 0
    table[true[there], predicted[there]] += 1
    return table


# %% as many classes as it sees task="confusion-answer" loses=["confusion-hidden"] says="stopped with RuntimeError"
def confusion_matrix(predicted, true, L):
    there = true >= 0
    return torch.bincount(L * true[there] + predicted[there]).view(L, L)


# %% the mean over images task="iou-answer" loses=["iou-check", "iou-hidden", "iou-edge"] says="add the counts up first"
def mean_iou(tables):
    tables = tables.float()
    both, true, predicted = tables.diagonal(dim1=1, dim2=2), tables.sum(2), tables.sum(1)
    return 100 * (both / (true + predicted - both)).mean()


# %% the absent class counts as 0 task="iou-answer" loses=["iou-check", "iou-hidden", "iou-edge"] says="counted with an IoU of 0"
def mean_iou(tables):
    table = tables.sum(0).float()
    both, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    return 100 * (both / (true + predicted - both).clamp(min=1)).mean()


# %% counts classes that are only predicted task="iou-answer" loses=["iou-edge"] says="gives other numbers"
def mean_iou(tables):
    table = tables.sum(0).float()
    both, true, predicted = table.diagonal(), table.sum(1), table.sum(0)
    return 100 * (both / (true + predicted - both)).nanmean()


# %% divides by what is predicted task="accuracy-answer" loses=["accuracy-check", "accuracy-hidden"] says="divided by the predicted pixels"
def mean_class_accuracy(table):
    return 100 * (table.diagonal() / table.sum(0)).nanmean()


# %% pixel accuracy task="accuracy-answer" loses=["accuracy-check", "accuracy-hidden"] says="this is pixel accuracy"
def mean_class_accuracy(table):
    return 100 * table.diagonal().sum() / table.sum()


# %% 0/0 for an absent class task="accuracy-answer" loses=["accuracy-hidden"] says="nan results from 0/0"
def mean_class_accuracy(table):
    return 100 * (table.diagonal() / table.sum(1)).mean()


# %% the sign task="feedback-answer" loses=["feedback-check", "feedback-hidden"] says="against the gradient"
def agreement(logits, gradient, truth):
    raised = (gradient.gather(1, truth[:, None])[:, 0] > 0).float()
    right = logits.argmax(1) == truth
    return torch.stack([raised[~right].mean(), raised[right].mean()])


# %% the class that was named task="feedback-answer" loses=["feedback-check", "feedback-hidden"] says="this uses the predicted class"
def agreement(logits, gradient, truth):
    named = logits.argmax(1)
    raised = (gradient.gather(1, named[:, None])[:, 0] < 0).float()
    return torch.stack([raised[named != truth].mean(), raised[named == truth].mean()])


# %% zero where there is no pixel task="feedback-answer" loses=["feedback-hidden"] says="gives other numbers"
def agreement(logits, gradient, truth):
    raised = gradient.gather(1, truth[:, None])[:, 0] < 0
    right = logits.argmax(1) == truth
    both = [(raised & part).sum() / part.sum().clamp(min=1) for part in (~right, right)]
    return torch.stack(both)


# %% the bug as it was task="bug-answer" loses=["bug-check", "bug-hidden"] says="mean of the batches' scores"
def evaluate_iou(batches, L):
    scores = []
    for predicted, true in batches:
        pairs = torch.bincount(L * true.flatten() + predicted.flatten(), minlength=L * L).view(L, L)
        intersection = pairs.diagonal()
        union = pairs.sum(0) + pairs.sum(1) - intersection
        scores.append((intersection / union).nanmean())
    return 100 * torch.stack(scores).mean()


# %% weighted by the size of the batch task="bug-answer" loses=["bug-check", "bug-hidden"] says="weighted by their size"
def evaluate_iou(batches, L):
    total, n = 0, 0
    for predicted, true in batches:
        pairs = torch.bincount(L * true.flatten() + predicted.flatten(), minlength=L * L).view(L, L)
        both = pairs.diagonal()
        total = total + len(true) * (both / (pairs.sum(0) + pairs.sum(1) - both)).nanmean()
        n += len(true)
    return 100 * total / n


# %% absent classes count as 0 task="bug-answer" loses=["bug-hidden"] says="gives other numbers"
def evaluate_iou(batches, L):
    predicted, true = torch.cat([p for p, _ in batches]), torch.cat([t for _, t in batches])
    pairs = torch.bincount(L * true.flatten() + predicted.flatten(), minlength=L * L).view(L, L)
    both = pairs.diagonal()
    return 100 * (both / (pairs.sum(0) + pairs.sum(1) - both).clamp(min=1)).mean()

"""Embedders of the condition that take mixtures of classes as well as labels."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class SoftLabel(nn.Module):
    """An embedding table that looks up integer labels (N,) and passes mixtures of its rows (N, D) unchanged."""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.embedding_table = table

    def forward(self, label: Tensor) -> Tensor:
        return label if label.is_floating_point() else self.embedding_table(label)


class SharedEmbedder(nn.Module):
    """The embedder of t and c that all blocks of a DiT share: (t, c) -> e (N, D); (None, e) -> e, computed earlier."""

    def __init__(self, embedder: Any):
        super().__init__()
        self.time_proj, self.timestep_embedder = embedder.time_proj, embedder.timestep_embedder
        self.class_embedder = SoftLabel(embedder.class_embedder.embedding_table)

    def forward(self, timestep: Tensor | None, class_labels: Tensor, hidden_dtype: Any = None) -> Tensor:
        if timestep is None:
            return class_labels
        return self.timestep_embedder(self.time_proj(timestep).to(hidden_dtype)) + self.class_embedder(class_labels)

"""Checkpoints and data sets: from the hub, from folders in their published layout, and downloads.

May import ``dtta.core`` and ``dtta.problems.training``; ``folders`` and ``download`` import nothing heavy. To add a
data set that can be downloaded, add it to ``archives.toml``.
"""

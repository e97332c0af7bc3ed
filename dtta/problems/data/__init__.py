"""Checkpoints and data sets: from the hub, from folders in their published layout, and downloads.

May import ``dtta.core`` and ``dtta.problems.training``. To add a data set that can be downloaded, add it to
``download.ARCHIVES``; ``folders`` and ``download`` import nothing heavy.
"""

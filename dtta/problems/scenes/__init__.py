"""Rendered RGB-D scenes: a small world with true geometry, for segmentation, depth and open vocabulary.

``world`` describes scenes, ``render`` draws them, ``data`` and ``portraits`` are the data sets, and ``segmentation``,
``depth`` and ``clip`` the problems. May import ``dtta.core``, the networks, corruptions, metrics and training.
"""

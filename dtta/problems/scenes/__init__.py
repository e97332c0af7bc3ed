"""Rendered RGB-D scenes: a small world with true geometry, for segmentation, depth and open vocabulary.

May import ``dtta.core``, the networks, corruptions, metrics and training.
"""

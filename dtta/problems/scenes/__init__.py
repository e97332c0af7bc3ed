"""Rendered RGB-D scenes: a small world with true geometry, for segmentation and depth."""

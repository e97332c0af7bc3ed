"""Task networks that several problems use: CLIP, wrappers of public networks, a masked autoencoder.

May import ``dtta.core``. A network takes images in [0, 1] and does its own preprocessing.
"""

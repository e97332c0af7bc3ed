"""Task networks that several problems use: CLIP, depth and segmentation wrappers, a masked autoencoder."""

"""Where checkpoints and data sets come from: the hub, folders in their published layout, downloads."""

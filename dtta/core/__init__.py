"""The method: losses, conditions, Algorithm 1. Start with ``tta.py``; ``adapter.py`` has the life cycle around it.

May import torch, diffusers, numpy and peft, but no other room of dtta: no data, no file, no plot.
A new family of diffusion models goes into ``diffusion.py``, a new condition into ``conditions.py``.
"""

"""Run any method over any problem, image by image: rows on disk, resumable, shared between processes, and statistics.

May import core, methods and problems. A new statistic goes into ``statistics.py``.
"""

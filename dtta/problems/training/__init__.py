"""Training of the shipped models, and their weights with model cards.

May import ``dtta.core``. A problem that trains models defines ``RECIPES``, a ``Recipe`` for each.
"""

"""Training of the shipped models (a problem's ``RECIPES``), and their weights and cards. May import ``dtta.core``."""

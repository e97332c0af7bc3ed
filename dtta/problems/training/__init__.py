"""How the shipped models are trained, and how their weights are stored and read."""

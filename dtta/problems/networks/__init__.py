"""Task networks of several problems: image in [0, 1], which they preprocess, -> output. May import ``dtta.core``."""

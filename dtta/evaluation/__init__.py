"""Run any method over any problem, image by image, and compare. May import core, methods and problems."""

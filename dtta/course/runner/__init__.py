"""What runs next to a submission, in the sandbox: this folder is copied there, and nothing else of the course.

``__main__`` supervises, ``cells`` runs a notebook's cells and answers calls, ``wire`` carries values to the grader and
back. It imports torch and IPython, and of this package only itself.
"""

SHARED = "shm"  # the folder that stands for /dev/shm

"""The paper's problems at full scale: public checkpoints and data sets, run on a GPU.

Checkpoints come from the Hugging Face hub, or from a folder in its layout: give the folder's path instead of a name.
Data sets are read from $DTTA_DATA or ~/.cache/dtta/data; ``dtta doctor`` says what is missing.
May import ``dtta.core`` and the other rooms of ``dtta.problems``. To add a problem, write a function that returns a
``Problem``, ``requirements`` for ``dtta doctor``, and a line in ``dtta.problems.registry``.
"""

"""The paper's problems at full scale: public checkpoints and data sets, run on a GPU.

May import ``dtta.core`` and the other rooms of ``dtta.problems``. To add a problem, write a function that returns a
``Problem``, ``requirements`` for ``dtta doctor``, and a line in ``dtta.problems.registry``.
"""

"""What adaptation costs: seconds, floating-point operations, and networks of published size with random weights.

May import ``dtta.core`` only. A new published size goes into ``networks.py``.
"""

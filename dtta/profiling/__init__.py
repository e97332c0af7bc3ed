"""What adaptation costs: seconds, operations, and networks of published size. May import ``dtta.core`` only."""

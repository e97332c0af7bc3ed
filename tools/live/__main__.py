"""Start the commands: ``python tools/live`` from any folder, or ``python -m tools.live`` in the checkout."""

import sys
from pathlib import Path

if not __package__:  # started by its path: Python then looks for modules in this folder, not in the checkout
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from tools.live.commands import main

main()

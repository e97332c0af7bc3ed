"""python -m dtta"""

import sys

from dtta.cli import main

sys.exit(main())

"""All figures of the book, under one name: ``display.py`` and ``frames.py`` show them, the others draw them.

Each plot returns its figure or draws into given axes; none of them computes a result.
"""

from dtta.pages.display import *  # noqa: F403
from dtta.pages.frames import *  # noqa: F403
from dtta.pages.maps import *  # noqa: F403
from dtta.pages.outcomes import *  # noqa: F403
from dtta.pages.plots import *  # noqa: F403

"""All figures of the book, under one name: ``display.py`` shows them, ``plots.py`` and ``maps.py`` draw them.

    figures.style()
    fig, ax = plt.subplots()
    ...
    figures.show(fig, alt="Loss against timestep; the true class has the lowest loss between t = 200 and 600.")

Each plot returns its figure or draws into given axes; none of them computes a result.
"""

from dtta.pages.display import *  # noqa: F403
from dtta.pages.maps import *  # noqa: F403
from dtta.pages.plots import *  # noqa: F403

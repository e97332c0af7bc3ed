"""What notebooks call: figures, tables with tolerances, the setting of a page, and ``probe.py``, ``dtta.probe``.

May import experiments and the rooms below it. A new plot goes into ``plots.py`` or ``maps.py``.
"""

from dtta.pages.setting import Setting as Setting

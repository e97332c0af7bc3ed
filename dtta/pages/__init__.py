"""What notebooks call: figures, tables with tolerances, and the setting of a page.

May import experiments and the rooms below it. A new plot goes into ``plots.py`` or ``maps.py``.
"""

from dtta.pages.setting import Setting as Setting

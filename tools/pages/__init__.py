"""Run, check, publish and compare the pages, and build the book from them: ``python tools/pages --help``.

May import dtta; dtta imports nothing from here. A new command goes into ``commands.py``, a new rule for notebooks into
``check.py``.
"""

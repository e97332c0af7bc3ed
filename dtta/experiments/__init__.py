"""The book's tables: their files (tables/*.toml), how they are run, their stored results, and the paper's numbers.

May import evaluation and the rooms below it. To add a table, write its TOML file (see ``spec.py``).
"""

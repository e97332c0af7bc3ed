"""The book's live page: ``python tools/live --help``. The digit models as graphs, and all that a browser needs of them.

May import dtta. ``graphs`` exports the models, ``pack`` makes the files that the page loads.
"""

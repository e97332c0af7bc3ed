"""Docstrings of modules here are plain text: an indented block is code. Tell reStructuredText so."""


def mark_code(app, what, name, obj, options, lines):
    """Put `::` before each indented block of a module's docstring."""
    if what != "module" or not obj.__doc__:
        return
    marked = []
    # From the source: Sphinx has taken the indentation away where all but the first line has it.
    for line in obj.__doc__.splitlines():
        if line.startswith("    ") and len(marked) > 1 and not marked[-1] and not marked[-2].startswith("    "):
            marked += ["::", ""]
        marked.append(line)
    lines[:] = [*marked, ""]


def setup(app):
    app.connect("autodoc-process-docstring", mark_code)
    return {"parallel_read_safe": True}

"""The list of references, as a screen reader takes it: docutils gives its items a role that ARIA 1.2 has given up."""


def use_list_items(app, pagename, templatename, context, doctree):
    """An item of a list is a list item."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app):
    app.connect("html-page-context", use_list_items)
    return {"parallel_read_safe": True}

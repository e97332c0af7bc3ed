"""Words of code in a text: Sphinx keeps each on one line; those longer than a line of a phone may break (dtta.css)."""

import html
import re

LONGEST = 30  # characters
WORD = re.compile(r'<span class="pre">([^<]*)</span>')


def mark_long(match):
    """Return a word's element, with a class if the word is long."""
    long = len(html.unescape(match[1])) > LONGEST
    return match[0].replace('"pre"', '"pre dtta-breaks"') if long else match[0]


def mark_words(app, pagename, templatename, context, doctree):
    """Mark the long words of a page."""
    if "body" in context:
        context["body"] = WORD.sub(mark_long, context["body"])


def setup(app):
    app.connect("html-page-context", mark_words)
    return {"parallel_read_safe": True}

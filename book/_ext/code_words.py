"""Words of code in a text: Sphinx keeps each on one line; those longer than a line of a phone may break (dtta.css),
if possible after a slash or an underscore."""

import html
import re

LONGEST = 30  # characters
WORD = re.compile(r'<span class="pre">([^<]*)</span>')


def mark_long(match):
    """Return a word's element, with a class and places for breaks if the word is long."""
    if len(html.unescape(match[1])) <= LONGEST:
        return match[0]
    word = re.sub("[/_]", r"\g<0><wbr>", match[1])
    return f'<span class="pre dtta-breaks">{word}</span>'


def mark_words(app, pagename, templatename, context, doctree):
    """Mark the long words of a page."""
    if "body" in context:
        context["body"] = WORD.sub(mark_long, context["body"])


def setup(app):
    app.connect("html-page-context", mark_words)
    return {"parallel_read_safe": True}

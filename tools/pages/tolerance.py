"""Compare two outputs of a page within the tolerance that dtta.pages.report stores in the display metadata."""

from __future__ import annotations

import re
from collections.abc import Mapping

from dtta.pages.report import METADATA, NUMBER

# Like other figures, images within HTML are not compared; nor is how their controls are made (dtta/pages/frames.html).
_NOT_COMPARED = re.compile(
    r"(?<=;base64,)[A-Za-z0-9+/=]+|(?<=<style>).*?(?=</style>)|(?<=<script>).*?(?=</script>)", re.DOTALL
)


def compared(text: str) -> str:
    """Return an output's text without the bytes of images, styles and scripts in it."""
    return _NOT_COMPARED.sub("", text)


def tolerance_of(output: Mapping) -> dict | None:
    """Return the tolerance of an output, {"tolerance": 0.5, "whole": 0}; None: it must be reproduced exactly."""
    return output.get("metadata", {}).get(METADATA)


def agree(fresh: str, committed: str, tolerance: float, whole: float = 0) -> bool:
    """Return whether two texts have the same words, and numbers within a tolerance.

    Args:
        tolerance: for numbers with a decimal point.
        whole: for whole numbers. A number with an exponent is a setting and must be equal.
    """
    numbers, old_numbers = NUMBER.findall(fresh), NUMBER.findall(committed)
    return _words(fresh) == _words(committed) and all(
        _near(new, old, tolerance, whole) for new, old in zip(numbers, old_numbers, strict=True)
    )


def _words(text: str) -> list[list[str]]:
    """Return the words of each line, without spaces: one more digit in a number shifts the columns of a table.

    It may also wrap a line elsewhere (``dtta.pages.report.line``): an indented line continues the one before.
    """
    lines = re.sub(r"\n {2,}", " ", text).splitlines()
    return [NUMBER.sub(" # ", line).split() for line in lines]


def _near(new: str, old: str, tolerance: float, whole: float) -> bool:
    if new == old:
        return True
    decimals = len(new.partition(".")[2])
    if decimals != len(old.partition(".")[2]) or "e" in (new + old).lower():
        return False  # another number of digits is another text
    first, second = (float(number.replace("−", "-").replace(",", "")) for number in (new, old))
    return abs(first - second) <= (tolerance if decimals else whole) + 1e-9

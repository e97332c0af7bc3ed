"""Whether values from the command line and from files have the types that the signatures of the code name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a word", dict: "a table",
         NoneType: "none"}  # fmt: skip


def check_type(what: str, value: object, annotation: Any) -> None:
    """Raise ValueError unless a value has one of the types in an annotation. Types that are not in WORDS fit all."""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    words = [_words(kind) for kind in kinds]
    if all(words) and not any(_fits(value, kind) for kind in kinds):
        raise ValueError(f"{what} must be {' or '.join(words)}, not {value!r}")


def _words(kind: Any) -> str:
    elements = _elements(kind)
    if elements is None:
        return WORDS.get(get_origin(kind) or kind, "")
    return f"a list of {' or '.join(WORDS[e].removeprefix('a ') + 's' for e in elements)}" if elements else "a list"


def _elements(kind: Any) -> list | None:
    """Return the types of a list's elements, those that are known; None: it is no list."""
    is_list = (get_origin(kind) or kind) in (Sequence, list, tuple)
    return [element for element in get_args(kind) if element in WORDS] if is_list else None


def _fits(value: Any, kind: Any) -> bool:
    elements = _elements(kind)
    if elements is not None:
        ok = isinstance(value, list | tuple)
        return ok and all(not elements or any(_fits(v, element) for element in elements) for v in value)
    if isinstance(value, bool):
        return kind is bool
    if kind is float:
        return isinstance(value, Real) and math.isfinite(value)
    return isinstance(value, Integral if kind is int else get_origin(kind) or kind)

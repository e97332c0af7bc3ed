"""The scale of a page, and what depends on it."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Setting:
    """Choose between the values of a page's two scales.

        setting = Setting(scale)
        columns = setting(mini=10, full=5)
        if setting.mini: ...

    Args:
        scale: "mini" or "full", the page's parameter.
    """

    def __init__(self, scale: str) -> None:
        if scale not in ("mini", "full"):
            raise ValueError(f'scale must be "mini" or "full", not {scale!r}')
        self.scale = scale

    def __call__(self, *, mini: T, full: T) -> T:
        """Return the value for this scale. Both are evaluated."""
        return mini if self.mini else full

    @property
    def mini(self) -> bool:
        """Whether the page runs at mini scale, on the models and results that ship with the package."""
        return self.scale == "mini"

    def __repr__(self) -> str:
        return f"Setting({self.scale!r})"

"""Settings with upper limits, for a shorter run of a table on a large problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dtta.core.problem import Problem
from dtta.methods.registry import methods_for, settings_of


def with_settings(problem: Problem, limits: Mapping[str, int] | None = None, **settings) -> Problem:
    """Return a problem whose methods start within `limits` (see `lower`), Diffusion-TTA from `settings`."""
    if not limits and not settings:
        return problem
    changed = {}
    for method in methods_for(problem.task):
        new = settings if method == "diffusion-tta" else {}
        lowered = lower_defaults(method, problem.settings.get(method, {}) | new, limits or {})
        if lowered:
            changed[method] = lowered
    return replace(problem, settings=problem.settings | changed)


def lower_defaults(method: str, settings: Mapping[str, object], limits: Mapping[str, int]) -> dict:
    """Return the settings as `lower` does, with those that exceed a limit by the method's default."""
    defaults = {key: settings_of(method).get(key) for key in limits if key not in settings}
    exceeding = {key: limits[key] for key, value in defaults.items() if type(value) is int and value > limits[key]}
    return exceeding | lower(settings, limits)


def lower(settings: Mapping[str, object], limits: Mapping[str, int]) -> dict:
    """Return the settings, lowered to their limits (name -> highest value); lists, of stages, stay in proportion."""
    return {key: _lower(value, limits[key]) if key in limits else value for key, value in settings.items()}


def _lower(value, limit: int):
    if not isinstance(value, list):
        return min(value, limit)
    highest = max(value)
    return [max(1, v * limit // highest) for v in value] if highest > limit else value

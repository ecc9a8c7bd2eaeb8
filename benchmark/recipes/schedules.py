"""Schedules with a name, which stages refer to instead of writing them out."""

from functools import cache
from typing import Any

from benchmark.recipes.loading import RecipeError, read_yaml, unknown
from benchmark.recipes.project import project_root, shown


@cache
def named_schedules() -> dict[str, dict[str, Any]]:
    """The settings in ``workflows/schedules.yaml`` by name; raises ``RecipeError`` where one is none."""
    path = project_root() / "workflows" / "schedules.yaml"
    content = read_yaml(path)
    for name, settings in content.items():
        if not isinstance(settings, dict):
            raise RecipeError("a schedule is a mapping", where=f"{shown(path)}, {name}", found=settings)
    return content


def expanded(schedule: Any) -> Any:
    """The settings that a name, or a mapping with the key ``like``, stands for; anything else as it is.

    A mapping that gives a length replaces length and steps.

    Raises ``ValueError`` for an unknown name.
    """
    if isinstance(schedule, str):
        schedule = {"like": schedule}
    if not isinstance(schedule, dict) or "like" not in schedule:
        return schedule
    changes = {key: value for key, value in schedule.items() if key != "like"}
    known = named_schedules()
    if schedule["like"] not in known:
        raise ValueError(str(unknown("schedule", str(schedule["like"]), known)))
    settings = dict(known[schedule["like"]])
    if "iterations" in changes or "epochs" in changes:  # another length, so the steps go with it
        for key in ("iterations", "epochs", "steps"):
            settings.pop(key, None)
    return settings | changes

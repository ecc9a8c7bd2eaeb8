"""Named schedules, which stages can refer to."""

from collections.abc import Mapping
from functools import cache
from typing import Any

from benchmark.recipes.loading import RecipeError, read_yaml, unknown
from benchmark.recipes.project import project_root, shown


@cache
def named_schedules() -> dict[str, dict[str, Any]]:
    """The settings in ``workflows/schedules.yaml`` by name; raises ``RecipeError`` for an invalid one."""
    path = project_root() / "workflows" / "schedules.yaml"
    content = read_yaml(path)
    for name, settings in content.items():
        if not isinstance(settings, dict):
            raise RecipeError("a schedule is a mapping", where=f"{shown(path)}, {name}", found=settings)
    return content


def expanded(schedule: Any) -> Any:
    """The settings for a name or for a mapping with the key ``like``; anything else is returned unchanged.

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
    return changed(known[schedule["like"]], changes)


def changed(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a schedule with changes; a new length replaces length and steps."""
    return kept(settings, changes) | dict(changes)


def kept(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a schedule that stay with changes: a new length replaces length and steps."""
    new_length = "iterations" in changes or "epochs" in changes
    gone = ("iterations", "epochs", "steps") if new_length else ()
    return {key: value for key, value in settings.items() if key not in gone}

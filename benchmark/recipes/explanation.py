"""A resolved recipe as text: every value with its source."""

from typing import Any

from benchmark.recipes.deviations import deviation_text
from benchmark.recipes.experiments import find_run, lineage, locate, located_row
from benchmark.recipes.models import Run
from benchmark.recipes.resolution import DEFAULT

_COLUMN = 52


def explain(recipe: str) -> str:
    """Every resolved value of a recipe with its source, nested by section, and the deviations from its
    published row; raises as ``find_run``."""
    recorded = recipe.endswith(".json")
    if recorded:
        run, sources = find_run(recipe), {}
    else:
        resolved = locate(recipe)
        run, sources = resolved.run, resolved.sources
    content = _content(run)
    if run.base is not None:
        content["base"] = {
            "method": run.base.method,
            "variant": run.base.variant,
            "stage": run.base.stages[-1].name,
        }
    lines: list[str] = []
    chosen = {"dataset", "base", "options", "row_options", "row_schedule"}

    def write(path: str, key: str, value: Any, depth: int) -> None:
        indent = "  " * depth
        if isinstance(value, dict) and value:
            lines.append(f"{indent}{key}:")
            for inner, item in value.items():
                write(f"{path}.{inner}", inner, item, depth + 1)
            return
        source = sources.get(path, DEFAULT)
        known = (not recorded and depth > 0 and path.partition(".")[0] not in chosen) or path in sources
        text = f"{indent}{key}: {_text(value)}"
        lines.append(f"{text:<{_COLUMN}}  # {source}" if known else text)

    for key, value in content.items():
        write(key, key, value, 0)
    return "\n".join([*lines, *([] if recorded else _answer(recipe))])


def differences_of(recipe: str, other: str) -> dict[str, tuple[Any, Any]]:
    """The differences between two recipes: for every path both values, ``absent`` if there is none.

    Also compares the bases, from the runs themselves back to the first. Raises as ``find_run``.
    """
    before, after = _chain(find_run(recipe)), _chain(find_run(other))
    paths = dict.fromkeys([*before, *after])
    pairs = {path: (before.get(path, _ABSENT), after.get(path, _ABSENT)) for path in paths}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def explain_against(recipe: str, other: str) -> str:
    """What ``differences_of`` finds, a line for each value: the first's, then the other's."""
    lines = [
        f"{path}: {_text(before)} | {_text(after)}"
        for path, (before, after) in differences_of(recipe, other).items()
    ]
    return "\n".join([f"{recipe} | {other}", *(f"  {line}" for line in lines or ["nothing differs"])])


_ABSENT = "absent"
_NAMES = {"row", "title", "plugin_path", "row_options", "row_schedule"}
"""Fields of a run that do not affect the computation."""


def _chain(run: Run) -> dict[str, Any]:
    """Every value of a run and of the runs that it starts from, by path, e.g. ``base.detector.init``."""
    found: dict[str, Any] = {}

    def add(path: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                add(f"{path}.{key}" if path else key, item)
        else:
            found[path] = value

    prefix = ""
    for item in reversed(lineage(run)):
        content = {key: value for key, value in _content(item).items() if key not in _NAMES}
        add(prefix, {**content, "dataset": item.dataset_name})
        prefix = f"{prefix}.base" if prefix else "base"
    return found


def _content(run: Run) -> dict[str, Any]:
    """The values of a run without its base, with stages by name."""
    content = run.model_dump(mode="json", by_alias=True, exclude={"base", "dataset"})
    content["dataset"] = run.dataset.model_dump(mode="json", exclude_none=True, exclude={"files"})
    content["stages"] = {
        stage["name"]: {
            key: value for key, value in stage.items() if key != "name" and value not in (None, {})
        }
        for stage in content["stages"]
    }
    return content


def _answer(recipe: str) -> list[str]:
    """The published row of a recipe, and the deviations from it."""
    row, deviations = located_row(recipe)
    if row.reported is None:
        return []
    head = f"reproduces {row.reported}, {_counted(len(deviations))}"
    return ["", head, *(f"  {deviation_text(item)}" for item in deviations)]


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(_text(item) for item in value)}]"
    return str(value)


def _counted(deviations: int) -> str:
    return f"with {deviations} deviation{'s' * (deviations != 1)}:" if deviations else "exactly"

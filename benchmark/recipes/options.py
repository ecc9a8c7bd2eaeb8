"""Options of methods in rows: their validation, and how names spell their values."""

import math
import re
from collections.abc import Mapping
from typing import Any

from benchmark.recipes.loading import RecipeError, unknown
from benchmark.recipes.models import Method


def checked_options(method: Method, options: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """Options of a row in the types of the method's manifest: 8 becomes 8.0 if the manifest has a number with
    a decimal point, so that equal values give equal keys.

    ``places`` has the location of each option for messages. Raises ``RecipeError`` for an option that the
    manifest does not have, a value of another type, or a number that is not finite.
    """
    known: dict[str, list[Any]] = {key: [value] for key, value in method.options.items()}
    for variant in method.variants.values():
        for key, value in variant.options.items():
            known.setdefault(key, []).append(value)
    found = {}
    for key, value in options.items():
        if key not in known:
            raise unknown(f"option of {method.name}", key, known, places[key])
        kinds = {_kind(item) for item in known[key]}
        if _kind(value) not in kinds:
            raise RecipeError(
                f"option '{key}' is of another kind than in the method's manifest",
                where=f"{places[key]}.{key}",
                found=f"{value!r} ({_kind(value)})",
                expected=f"{' or '.join(sorted(kinds))}, as {known[key][0]!r}",
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(
                f"option '{key}' is not a finite number",
                where=f"{places[key]}.{key}",
                found=value,
                expected=f"a finite number, as {known[key][0]!r}",
            )
        found[key] = _written_like(value, known[key])
    return found


def value_text(value: Any) -> str:
    """A value as in titles: 4 for 4.0, true for True."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return str(value)


def value_name(value: Any) -> str:
    """A value as in the names of rows and folders: ASCII letters and digits, ``.``, ``-``, ``_``."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", value_text(value)).strip("_")


def _written_like(value: Any, known: list[Any]) -> Any:
    """A number in the type of the manifest, if that is the same number."""
    if _kind(value) != "a number":
        return value
    like = next(type(item) for item in known if _kind(item) == "a number")
    return like(value) if like(value) == value else value


def _kind(value: Any) -> str:
    """The type of an option's value; the classifier checks the elements of lists."""
    kinds = {bool: "true/false", int: "a number", float: "a number", str: "text", list: "a list"}
    return "none" if value is None else kinds.get(type(value), "a mapping")

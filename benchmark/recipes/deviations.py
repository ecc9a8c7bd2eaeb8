"""Differences of a row from the training behind the published number."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmark.recipes.catalog import Catalog, Preset
from benchmark.recipes.detector_settings import DetectorSettings, ModelSettings
from benchmark.recipes.models import Deviation, Row


def row_deviations(catalog: Catalog, row: Row, where: str | None = None) -> list[Deviation]:
    """The deviations of a row: its own, its method's and those of the methods that it starts from, each once.

    A row without a published number has none. Raises ``RecipeError`` for an unknown method.
    """
    if row.reported is None:
        return []
    found = list(row.deviations)
    key: str | None = row.method
    seen = set()
    while key is not None and key not in seen:  # resolving the row refuses circles
        seen.add(key)
        _, method, _, variant = catalog.method(key, where)
        found += method.deviations if variant.deviations is None else variant.deviations
        key = (variant.stages or method.stages)[0].from_
    return [item for number, item in enumerate(found) if item not in found[:number]]


_INPUT = {"pixels", "stride_in_1x1", "framework"}
"""Settings that follow from the initial weights or stand for other settings; they are not part of an
architecture."""


def same_architecture(first: Preset, second: Preset) -> bool:
    """Whether two presets, without the settings of methods, build the same layers."""
    names = ModelSettings.model_fields.keys() - _INPUT
    return _settings(first, names) == _settings(second, names)


def change_of_preset(before: Preset, after: Preset) -> Deviation:
    """The deviation of a row that uses another preset of the same architecture."""
    names = DetectorSettings.model_fields.keys()
    old, new = _settings(before, names), _settings(after, names)
    differing = [name for name in names if old[name] != new[name]]
    return Deviation(
        what="Detector",
        upstream=", ".join([f"as {before.name}", *(f"{name} {old[name]}" for name in differing)]),
        here=", ".join([after.name, *(f"{name} {new[name]}" for name in differing)]),
        effect=None if differing else [0.0, 0.0],
        source="not measured" if differing else "back ends agree up to float32 (make agreement)",
    )


def _settings(preset: Preset, names: Iterable[str]) -> dict[str, Any]:
    settings = DetectorSettings.model_validate(preset.settings)
    return {name: getattr(settings, name) for name in names}


def effect_text(effect: Sequence[float] | None) -> str:
    """``-0.3 to +0.3 AP``, or that the effect is unknown."""
    if effect is None:
        return "effect unknown"
    low, high = (f"{end:+g}" if end else "0" for end in effect)
    return "no effect" if low == high == "0" else f"{low} AP" if low == high else f"{low} to {high} AP"


def deviation_text(item: Deviation) -> str:
    """A deviation on one line."""
    effect = f"{effect_text(item.effect)} ({item.source})"
    return f"{item.what}: upstream {item.upstream}; here {item.here}; {effect}"


def summed_effect(deviations: Iterable[Deviation]) -> tuple[float, float, int]:
    """Lowest and highest sum of the known effects, and how many are unknown."""
    effects = [item.effect for item in deviations]
    known = [effect for effect in effects if effect is not None]
    return sum(low for low, _ in known), sum(high for _, high in known), len(effects) - len(known)

"""In what a row still differs from what made the published number that it answers to."""

from collections.abc import Iterable, Sequence

from benchmark.recipes.catalog import Catalog
from benchmark.recipes.models import Deviation, Row


def row_deviations(catalog: Catalog, row: Row, where: str | None = None) -> list[Deviation]:
    """Those of a row: its own, its method's and those of the methods that this one starts from, each once.

    A row that answers to no published number has none. Raises ``RecipeError`` for an unknown method.
    """
    if row.reported is None:
        return []
    found = list(row.deviations)
    key: str | None = row.method
    seen = set()
    while key is not None and key not in seen:  # a circle is refused where the row is resolved
        seen.add(key)
        _, method, _, variant = catalog.method(key, where)
        found += method.deviations if variant.deviations is None else variant.deviations
        key = (variant.stages or method.stages)[0].from_
    return [item for number, item in enumerate(found) if item not in found[:number]]


def effect_text(effect: Sequence[float] | None) -> str:
    """``-0.3 to +0.3 AP``, or that nobody knows."""
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

"""Decides which measured values have changed, and which versions must be raised."""

import json
import math
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmark import numerics
from benchmark.files import read_json, write_json
from benchmark.numerics import AREAS, area_digests, code_digest
from benchmark.recipes.plugins import find_plugins
from tests.canary.measure import Values, measure

TOLERANCE = 1e-6  # relative; of sums of thousands of float32 numbers
MAKING_WEIGHTS = {"data", "images", "detectors", "classifiers", "training"}
MAKING_DETECTIONS = {*MAKING_WEIGHTS, "inference"}
SHOWN = 12
THEN = " > "  # between the parts of a path


def moved(expected: Values, found: Values) -> list[str]:
    """The paths of values that have changed.

    New values do not count, nor do those of back ends that are not installed, or of a removed method, variant
    or default.
    """
    return [
        path
        for path, (before, after) in _pairs(expected, found)
        if not (path.startswith(f"defaults{THEN}") and after is None) and not _same(before, after)
    ]


def areas_of(path: str) -> set[str]:
    """The areas of which at least one must have been changed on purpose if a value has changed."""
    if path.startswith("evaluation"):
        return {"data", "evaluation"}
    return MAKING_DETECTIONS if path.startswith("defaults") or f"{THEN}detections" in path else MAKING_WEIGHTS


def method_of(path: str) -> str | None:
    """The method that a value belongs to."""
    section = path.partition(THEN)[0]
    return section.removeprefix("method ") if section.startswith("method ") else None


def confirm(raised: list[str], *, write: bool, expected: Path) -> int:
    """Compare, update versions and stored values, and return the exit status."""
    stated: dict[str, dict[str, dict[str, Any]]] = json.loads(json.dumps(numerics.stated()))
    methods = {name: code_digest(plugin.folder) for name, plugin in find_plugins([]).items()}
    now = {"areas": area_digests(), "methods": methods}
    unknown = set(raised) - AREAS.keys() - methods.keys()
    if unknown:
        print(f"error: neither an area nor a method: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    changed = [
        name
        for kind, digests in now.items()
        for name, code in digests.items()
        if stated[kind].get(name, {}).get("code") != code
    ]
    print(f"code changed since the last look: {', '.join(changed) or 'none'}")
    before: Values = read_json(expected) if expected.is_file() else {}
    found = measure()
    paths = moved(before, found)
    unanswered = [path for path in paths if not (areas_of(path) | {method_of(path)}) & set(raised)]
    if unanswered:
        print(f"{len(paths)} of {len(list(_leaves(found)))} numbers have moved:", file=sys.stderr)
        for path in unanswered[:SHOWN]:
            print(f"  {path}: {_at(before, path)} before, {_at(found, path)} now", file=sys.stderr)
        print(
            "raise the version of what was changed on purpose (python -m tests.canary --raise NAME ...), "
            "or mend what was changed by mistake",
            file=sys.stderr,
        )
        return 1
    for kind, digests in now.items():
        for name in [name for name in stated[kind] if name not in digests]:
            del stated[kind][name]
        for name, code in digests.items():
            known = stated[kind].get(name)
            version = 1 if known is None else known["version"] + (name in raised)
            stated[kind][name] = {"version": version, "code": code}
    here = {kind: dict(sorted(entries.items())) for kind, entries in stated.items()}
    elsewhere = {name: values for name, values in before.items() if _elsewhere(name)}
    values = {**elsewhere, **_without_rounding(found, before)}
    if here != numerics.stated() or values != before:
        if not write:
            print("numbers unchanged, but not written down: run `make canary`", file=sys.stderr)
            return 1
        write_json(numerics.FILE, here)
        write_json(expected, dict(sorted(values.items())))
    print(f"{len(list(_leaves(found)))} numbers are what the versions stand for")
    return 0


def _elsewhere(section: str) -> bool:
    """Whether stored values belong to a back end, which may not be installed here."""
    return section.startswith("detector ")


def _removed(key: str) -> bool:
    """Whether stored values without measured ones belonged to a method or a variant."""
    return key.startswith("method ") or "+" in key


def _pairs(expected: Any, found: Any, path: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Every stored value with the measured one (None if missing); back ends, methods and variants only if
    both exist."""
    for key, before in expected.items():
        here = f"{path}{THEN}{key}" if path else key
        after = found.get(key) if isinstance(found, Mapping) else None
        if after is None and isinstance(before, Mapping) and (_elsewhere(key) or _removed(key)):
            continue
        if isinstance(before, Mapping):
            yield from _pairs(before, after or {}, here)
        else:
            yield here, (before, after)


def _without_rounding(found: Any, before: Any) -> Any:
    """The measured values, with the stored ones where both agree up to rounding, which depends on the
    processor."""
    if isinstance(found, Mapping):
        known = before if isinstance(before, Mapping) else {}
        return {name: _without_rounding(value, known.get(name)) for name, value in found.items()}
    return before if _same(before, found) else found


def _leaves(values: Mapping[str, Any]) -> Iterator[Any]:
    for value in values.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value


def _at(values: Any, path: str) -> Any:
    for part in path.split(THEN):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, list):
        return isinstance(after, list) and len(before) == len(after) and all(map(_same, before, after))
    if isinstance(before, float) and isinstance(after, (int, float)):
        return math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=1e-9)
    return bool(before == after)

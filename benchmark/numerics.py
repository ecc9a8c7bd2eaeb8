"""Versions of the code that affects numbers, which two results must share to be comparable.

``numerics.json`` has, for every area of the project and every method in it, a version and the digest of the
code for which a canary (``tests/canary``) has confirmed the numbers of that version. Code with another digest
has not been checked by the canary yet: its version shows this, and its results are kept separate from all
others until ``make canary`` finds the numbers unchanged, or the version is raised.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

AREAS: Mapping[str, tuple[str, ...]] = {
    "data": ("annotations", "statistics"),
    "images": ("images",),
    "detectors": ("detectors",),
    "classifiers": ("classifiers",),
    "training": ("training", "sampling", "processes.py", "seeds.py"),
    "inference": ("inference",),
    "evaluation": ("evaluation",),
}
"""Packages and modules of ``benchmark`` by area. Recipes, records and reports do not affect numbers."""

PACKAGE = Path(__file__).resolve().parent
FILE = PACKAGE / "numerics.json"
UNCHECKED = "+"
"""In the version of unchecked code, stands between the last confirmed version and the digest of the code."""


def code_digest(folder: Path, parts: Iterable[str] = ("",)) -> str:
    """12 hexadecimal digits of a hash over the Python files of ``parts`` (files and folders in ``folder``),
    without tests."""
    files: list[Path] = []
    for part in parts:
        path = folder / part
        files += [path] if path.is_file() else path.rglob("*.py")
    content = hashlib.sha256()
    for path in sorted(files):
        if not path.name.startswith("test_"):
            content.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            content.update(hashlib.sha256(path.read_bytes()).digest())
    return content.hexdigest()[:12]


def area_digests() -> dict[str, str]:
    """The digest of every area's present code."""
    return {area: code_digest(PACKAGE, parts) for area, parts in AREAS.items()}


@cache
def stated() -> dict[str, dict[str, dict[str, Any]]]:
    """The content of ``numerics.json``: ``version`` and ``code`` of every entry in ``areas`` and
    ``methods``."""
    content: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text())
    return content


@cache
def area_versions() -> dict[str, str]:
    """The version of every area: ``"3"``, or ``"3+1f0c9a2b7d4e"`` if its code has been edited since."""
    return {area: _version(stated()["areas"].get(area), code) for area, code in area_digests().items()}


@cache
def method_version(folder: Path) -> str:
    """The version of the method in ``folder``; for a method that the canary does not know, only its
    digest."""
    return _version(stated()["methods"].get(folder.name), code_digest(folder))


def is_unchecked(version: str) -> bool:
    """Whether a version is of code that the canary has not checked."""
    return UNCHECKED in version


def _version(known: Mapping[str, Any] | None, code: str) -> str:
    if known is None:
        return f"0{UNCHECKED}{code}"
    return str(known["version"]) if known["code"] == code else f"{known['version']}{UNCHECKED}{code}"

"""Strict reading of YAML: errors state file, location, found and expected value."""

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from benchmark.errors import BenchmarkError
from benchmark.files import read_bytes
from benchmark.recipes.project import shown

Model = TypeVar("Model", bound=BaseModel)


class RecipeError(BenchmarkError):
    """An experiment, dataset, detector, budget or method is invalid or does not exist."""


class _Loader(yaml.CSafeLoader):
    """YAML's safe subset, with duplicate keys refused and ``1e-4`` read as a number."""

    def __init__(self, stream: bytes) -> None:
        super().__init__(stream)
        self._expanded: set[int] = set()  # nodes, which exist while their document is read

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Expand merge keys, after a check for duplicate keys.

        Checks a mapping only once, because an expanded mapping contains both merged and replacing values.
        """
        if id(node) in self._expanded:
            return
        self._expanded.add(id(node))
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                name = self.construct_object(key, deep=True)
                if not isinstance(name, str | int | float):
                    raise yaml.MarkedYAMLError(
                        problem="a key must be a word or number", problem_mark=key.start_mark
                    )
                if name in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key '{name}' stands twice", problem_mark=key.start_mark
                    )
                seen.add(name)
        super().flatten_mapping(node)


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in _Loader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises ``FileError`` if it cannot be read, ``RecipeError`` with line and column if it is not YAML, has a
    duplicate key, or contains something other than a mapping.
    """
    text = read_bytes(path)
    try:
        content = yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{shown(path)}, line {mark.line + 1}, column {mark.column + 1}" if mark else shown(path)
        raise RecipeError(
            "not valid YAML", where=where, found=error.problem, remedy="correct the file there"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise RecipeError(
            "not valid YAML", where=shown(path), found=error, remedy="correct the file"
        ) from None
    if not isinstance(content, dict):
        raise RecipeError(
            "not a YAML mapping", where=shown(path), found=_kind(content), expected="key: value lines"
        )
    return content


def parse(model: type[Model], content: Mapping[str, Any], where: str) -> Model:
    """``content`` as a ``model``; ``where`` (a file, or a location in one) is the beginning of every
    location.

    Raises ``RecipeError`` naming every unknown, missing or wrong key at once.
    """
    try:
        return model.model_validate(content, strict=True)
    except ValidationError as error:
        problems = [_problem(model, problem) for problem in error.errors(include_url=False)]
    if len(problems) > 1:
        lines = [f"{place}: {text}" if place else text for place, text in problems]
        raise RecipeError(f"{where}: {len(lines)} problems\n  " + "\n  ".join(lines))
    place, text = problems[0]
    raise RecipeError(text, where=f"{where}, {place}" if place else where)


def parse_settings(model: type[BaseModel], content: Mapping[str, Any], where: str, **required: Any) -> None:
    """Check settings that are merged into others later: known keys, values of the right type.

    ``required`` supplies the required keys of the model that the settings may omit.
    """
    parse(model, {**required, **content}, where)


def unknown(kind: str, name: str, known: Iterable[str], where: str | None = None) -> RecipeError:
    """The error for an unknown name, with the most similar known names."""
    names = sorted(known)
    nearest = difflib.get_close_matches(name, names, n=3)
    remedy = f"did you mean {' or '.join(repr(item) for item in nearest)}?" if nearest else None
    listing = ", ".join(names) or "none"
    return RecipeError(f"unknown {kind} '{name}'", where=where, expected=f"one of: {listing}", remedy=remedy)


def _problem(model: type[BaseModel], problem: Any) -> tuple[str, str]:
    """Location and message of one validation problem."""
    location, kind, found = problem["loc"], problem["type"], problem["input"]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if kind == "extra_forbidden":
        known = _keys(model, location[:-1])
        nearest = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"known keys: {', '.join(known)}"
        return place, f"unknown key '{location[-1]}'; {hint}"
    if kind == "missing":
        return place, f"the key '{location[-1]}' is missing"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error":
        return place, message
    return place, f"found {reprlib.repr(found)} ({_kind(found)}), it {message}"


def _keys(model: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The known keys at ``location`` of a model."""
    current: Any = model
    for part in location:
        current = _without_none(current)
        if get_args(current):  # list[X], dict[str, X]
            current = get_args(current)[-1]
        else:
            fields = {field.alias or name: field for name, field in current.model_fields.items()}
            current = fields[str(part)].annotation
    return [field.alias or name for name, field in _without_none(current).model_fields.items()]


def _without_none(annotation: Any) -> Any:
    """X of ``X | None``."""
    inner = [item for item in get_args(annotation) if item is not type(None)]
    return inner[0] if len(inner) == 1 and type(None) in get_args(annotation) else annotation


def _kind(value: Any) -> str:
    names = {
        dict: "mapping",
        list: "list",
        str: "text",
        bool: "true/false",
        int: "whole number",
        float: "number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)

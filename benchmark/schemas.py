"""JSON schemas of the YAML files, and a page about every key: ``python -m benchmark.schemas``."""

import json
import re
from typing import Any

from pydantic import BaseModel

from benchmark.files import write_text
from benchmark.recipes.detector_settings import DetectorSettings
from benchmark.recipes.models import Budget, Dataset, Experiment, Method
from benchmark.recipes.project import project_root
from benchmark.records import Record

MODELS: dict[str, type[BaseModel]] = {
    "experiment": Experiment,
    "dataset": Dataset,
    "method": Method,
    "budget": Budget,
}
PAGE = "README.md"
SCHEMAS: dict[str, type[BaseModel]] = {**MODELS, "record": Record}
"""All schemas, including that of records, which are not on the page."""
_PLACES = {
    "experiment": "`workflows/experiments/NAME.yaml`, or any file given by its path",
    "dataset": "`workflows/datasets/NAME.yaml`",
    "method": "`methods/NAME/method.yaml`",
    "budget": "`workflows/budgets/NAME.yaml`",
    "detector": "`workflows/detectors/BACKEND.yaml`, one mapping of these keys for each preset",
}


def schema_text(name: str) -> str:
    """The schema of a kind of file (``experiment``, ``record``...) as the text of its file."""
    schema = SCHEMAS[name].model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


def page_text() -> str:
    """Markdown with every key of every file: type, default, meaning."""
    parts = [
        "# Every key of the YAML files",
        "Made by `python -m benchmark.schemas` from the models in `benchmark/recipes/models.py`, like the\n"
        "JSON schemas beside it, which editors use. Keys that are not listed here are refused. `longtail\n"
        "show RECIPE` prints the source of each value of a run.",
    ]
    written: set[str] = set()
    models: dict[str, type[BaseModel]] = {**MODELS, "detector": DetectorSettings}
    for name, model in models.items():
        schema = model.model_json_schema(by_alias=True)
        parts.append(f"## {name.capitalize()}\n\nIn {_PLACES[name]}.")
        parts.append(_table(schema))
        written.add(model.__name__)
        for part, definition in schema.get("$defs", {}).items():
            if part not in written:
                written.add(part)
                parts.append(f"### {part}\n\n{_plain(definition.get('description', ''))}")
                parts.append(_table(definition))
    return "\n\n".join(parts) + "\n"


def _table(schema: dict[str, Any]) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = schema.get("required", [])
    for key, field in schema["properties"].items():
        default = "required" if key in required else _default(field.get("default"))
        cells = [f"`{key}`", _type(field), default, _plain(field.get("description", ""))]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _plain(text: str) -> str:
    """A docstring or description on one line."""
    return re.sub(r"``", "`", " ".join(text.split()))


def _default(value: Any) -> str:
    if value is None or value == {} or value == []:
        return ""
    if isinstance(value, dict):
        return "those of its keys"
    return f"`{json.dumps(value)}`"


def _type(field: dict[str, Any]) -> str:
    """The type of a key in words, with its bounds."""
    options = [option for option in field.get("anyOf", [field]) if option.get("type") != "null"]
    return " or ".join(_one_type(option) for option in options)


def _one_type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in field or "const" in field:
        return ", ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_one_type(field.get('items', {}))}"
    if field.get("type") == "object":
        inner = field.get("additionalProperties")
        return f"mapping to {_one_type(inner)}" if isinstance(inner, dict) and inner else "mapping"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]:g}" for key, sign in bounds.items() if key in field]
    return " ".join([str(field.get("type", "any")), ", ".join(limits)]).strip()


if __name__ == "__main__":
    folder = project_root() / "workflows" / "schemas"
    for model in SCHEMAS:
        write_text(folder / f"{model}.schema.json", schema_text(model))
    write_text(folder / PAGE, page_text())

"""JSON schemas of the YAML files, for editors and the workflow: ``python -m benchmark.recipes.schemas``."""

import json

from pydantic import BaseModel

from benchmark.files import write_text
from benchmark.recipes.models import Budget, Dataset, Experiment, Method
from benchmark.recipes.project import project_root

MODELS: dict[str, type[BaseModel]] = {
    "experiment": Experiment,
    "dataset": Dataset,
    "method": Method,
    "budget": Budget,
}


def schema_text(name: str) -> str:
    """The schema of ``experiment``, ``dataset``, ``method`` or ``budget`` as the text of its file."""
    schema = MODELS[name].model_json_schema(by_alias=True)
    return json.dumps({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}, indent=2) + "\n"


if __name__ == "__main__":
    for model in MODELS:
        write_text(project_root() / "workflows" / "schemas" / f"{model}.schema.json", schema_text(model))

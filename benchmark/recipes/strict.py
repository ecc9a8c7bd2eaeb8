"""The base of all models of YAML files."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """An immutable model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

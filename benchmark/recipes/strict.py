"""The base of all models of YAML files."""

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A model that refuses unknown keys and does not change after it was made."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

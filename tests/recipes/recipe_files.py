"""Writes plug-ins and experiments for tests."""

from pathlib import Path
from typing import Any

import yaml

SCHEDULE = {"iterations": 10, "learning_rate": 0.1}
STAGE = {"name": "train", "schedule": SCHEDULE}
ROW = {"id": "a", "method": "softmax", "detector": "torchvision/tiny_mask_rcnn", "dataset": "synthetic"}


def write_method(folder: Path, name: str, /, **settings: Any) -> Path:
    """Write a method ``name`` into ``folder``; ``settings`` replace keys of a default manifest."""
    content = {
        "name": name,
        "title": name.title(),
        "classifier": "classifier:Head",
        "stages": [STAGE],
        **settings,
    }
    path = folder / name
    path.mkdir(parents=True)
    (path / "method.yaml").write_text(yaml.safe_dump(content))
    return path


def write_experiment(folder: Path, *rows: dict[str, Any], **settings: Any) -> str:
    """Write an experiment ``e.yaml``; ``ROW`` supplies missing keys of rows. Returns its path."""
    path = folder / "e.yaml"
    content = {"name": "e", "title": "E", "rows": [{**ROW, **row} for row in rows or ({},)], **settings}
    path.write_text(yaml.safe_dump(content))
    return str(path)

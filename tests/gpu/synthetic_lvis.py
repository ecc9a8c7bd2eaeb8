"""The experiment ``synthetic_lvis``, shortened: base, classifiers in a shared pass, predictions, table."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmark.recipes import find_run, load_experiment
from benchmark.recipes.catalog import read_dataset, yaml_file
from benchmark.records import read_record
from benchmark.steps import Step, made_files, steps_of, steps_of_experiment
from benchmark.steps.sharing import shared_passes
from tests.gpu.common import say, table_of

FILE = "short.yaml"
ROWS = ("softmax", "bags", "focal_cls", "inverse_count", "tau_norm")
TEXT = """\
## Synthetic LVIS

The experiment `synthetic_lvis` with {train} training and {val} validation images of its dataset, {base}
iterations of {batch} images for the base and {head} for the classifiers. They end long before anything
converges: read it as a check of the path at full width and as its cost. `make experiment
EXPERIMENT=synthetic_lvis` is the whole.
"""


def prepare(dry: bool) -> None:
    """Generate the dataset, while others use the GPU."""
    _write(dry)
    made_files(find_run(f"{FILE}:bags"))


def report(dry: bool) -> None:
    """A row for each method."""
    schedule, sizes = _write(dry)
    numbers = {"base": schedule["all"]["iterations"], "head": schedule["classifier"]["iterations"]}
    numbers |= {"train": sizes["train_images"], "val": sizes["val_images"]}
    say(TEXT.format(**numbers, batch=schedule["all"]["batch_size"]))
    devices = ["--devices", "0" if dry else "1", "--workers", "0" if dry else "12"]
    experiment = load_experiment(FILE)
    made_files(find_run(f"{FILE}:bags"))
    _make(f"{FILE}:softmax", "train", *devices)
    for shared in shared_passes(item.step for item in steps_of_experiment(experiment).values()):
        if shared.is_needed:
            _make(FILE, shared.name, *devices)
    rows = [(row.id, partial(_row, row.id, steps_of(row.runs[0]), devices)) for row in experiment.rows]
    columns = ["", "AP", "APr", "APc", "APf", "training", "prediction"]
    if not table_of(columns, rows[: 1 if dry else None]):
        sys.exit(1)


def _row(name: str, steps: list[Step], devices: list[str]) -> list[str]:
    _make(f"{FILE}:{name}", "", *devices)
    *_, predict, evaluate = steps
    found = json.loads(evaluate.output().read_text())
    metrics = found.get("metrics", found)["segm"]
    trained = sum(_seconds(step) for step in steps if step.kind.trains)
    return [
        *(
            f"{100 * metrics[key]:.1f}" if metrics[key] is not None else "-"
            for key in ("AP", "APr", "APc", "APf")
        ),
        f"{trained:.0f} s",
        f"{_seconds(predict):.0f} s",
    ]


def _seconds(step: Step) -> float:
    record = read_record(step.folder / "record.json")
    return record.duration_s or 0.0 if record is not None else 0.0


def _make(recipe: str, step: str, *options: str) -> None:
    command = [sys.executable, "-m", "benchmark.cli", "make", recipe, *([step] if step else []), *options]
    subprocess.run(command, check=True, stdout=sys.stderr)


def _write(dry: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shortened experiment in the working directory; returns its budget and the dataset's sizes."""
    content = yaml.safe_load(yaml_file("experiments", "synthetic_lvis").read_text())
    budget = yaml.safe_load(yaml_file("budgets", content["budget"]).read_text())
    dataset = read_dataset(yaml_file("datasets", "synthetic_lvis"))
    assert dataset.synthetic is not None
    sizes = dataset.synthetic.model_dump(mode="json")
    short = {"checkpoint_every": 100, "warmup_iterations": 30, "batch_size": 16}
    lengths = {"all": 160, "classifier": 60}
    sizes |= {"train_images": 2000, "val_images": 210}
    if dry:
        short |= {"batch_size": 2, "reference_batch_size": 2, "warmup_iterations": 1, "precision": "fp32"}
        lengths = {"all": 2, "classifier": 2}
        # the code is that of a thousand categories, which dozens of images do not hold
        sizes = {"train_images": 24, "val_images": 2, "image_size": 96, "categories": 12, "seed": 0}
    for part, iterations in lengths.items():
        budget[part] |= short | {"iterations": iterations}
    names = ROWS[:3] if dry else ROWS
    rows = [row | {"dataset": "short"} for row in content["rows"] if row["id"] in names]
    if dry:
        rows = [row | {"detector": "torchvision/tiny_mask_rcnn"} for row in rows]
    described = {"name": "short", "title": "Synthetic LVIS", "categories": sizes["categories"]}
    files = {
        "budgets/short.yaml": budget | {"name": "short"},
        "datasets/short.yaml": described | {"synthetic": sizes},
        FILE: content
        | {"name": "short", "budget": "budgets/short.yaml", "dataset_paths": ["datasets"], "rows": rows},
    }
    for file, value in files.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(yaml.safe_dump(value))
    return budget, sizes
